package overload

import "time"

// Outcome is how a request ended.
type Outcome uint8

// The ends of a request. All but Broken and Unanswered are one whole answer.
const (
	Served      Outcome = iota // 200, with every token asked for
	TooMany                    // 429
	Unavailable                // 503
	OtherStatus                // any other status
	Broken                     // an answer that ended early, was not as long as asked for, or that more bytes followed
	Unanswered                 // none until the measurement gave up
	outcomes
)

var outcomeNames = [outcomes]string{"200", "429", "503", "other", "broken", "no answer"}

func (o Outcome) String() string { return outcomeNames[o] }

// Answer is what became of one request.
type Answer struct {
	Priority Priority
	Outcome  Outcome
	Status   int           // 0 when none came
	At       time.Duration // when it should have been sent, since the load began
	Late     time.Duration // from when the request should have been sent to when it was
	First    time.Duration // from sending to the first token; only of those served
	Total    time.Duration // from sending to the end
	Reason   string        // of a refusal, as its header says
	Fault    string        // what is wrong with it, for those that are not as they should be
}
