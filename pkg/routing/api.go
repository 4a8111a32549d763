// Package routing is the life of one request: resolve the model, hash the prompt, pick a pod and count the request
// there in one step, follow its answer, and release what it holds exactly once.
//
// It promises that every request ends in a pod or in a Refusal with the right HTTP status, and that nothing of a
// request is still counted after Ticket.Finish. It knows no wire format: bodies come parsed, answers go as values.
package routing

import (
	"net/netip"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/request"
)

// Arrival is what is known of a request when it asks for a pod. Route keeps nothing of it after it has returned.
type Arrival struct {
	Body      *request.Request // parsed; nil for requests without a body or of no known kind
	BodyBytes int              // length of the body in bytes, as far as it is known; 0 when there is none
	HeldBytes int              // bytes of it that are held here while the request waits: what it takes of the queue
	RequestID string

	Objective string // name of an InferenceObjective; empty: none
	Fairness  string // flow that shares fairly; empty: none
	Rewrite   string // model name that replaces the body's; empty: as it came

	Subset    []netip.AddrPort // with HasSubset: the only addresses allowed
	HasSubset bool
	Steer     []netip.AddrPort // with conformance headers on: the addresses asked for, in order

	// Waits is called once, before Route blocks, when the request has to wait: for so long at most. nil: nobody asks.
	Waits func(longest time.Duration)
}

// Refusal is a request that got no pod.
type Refusal struct {
	Status     int           // HTTP status
	Code       string        // machine-readable, for the JSON error's "code"
	Message    string        // for people: what was missing and what helps
	Reason     string        // value of x-llm-d-request-dropped-reason; empty: none
	RetryAfter time.Duration // 0: a retry can't help or nothing is known
}

// Reasons of refusals, as clients of the family know them.
const (
	ReasonSaturated    = "rejected-saturated"
	ReasonNoEndpoints  = "rejected-no-endpoints"
	ReasonTTLExpired   = "rejected-ttl-expired"
	ReasonCancelled    = "rejected-context-cancelled"
	ReasonShuttingDown = "rejected-shutting-down"
	ReasonDiscarded    = "evicted-queue-pressure"
)

// Wait tells how a request's time with the queue ended.
type Wait struct {
	Priority int
	End      WaitEnd
	Took     time.Duration // 0: it went at once, or never got in
}

// WaitEnd is the end of a wait.
type WaitEnd uint8

// The ends of waits.
const (
	Dispatched WaitEnd = iota // a pod had room
	Discarded                 // it made way for another one at the queue's capacity
	Expired                   // it waited as long as it may
	Cancelled                 // its client left
	Closed                    // this process is going away
	TurnedAway                // it had to wait and didn't fit
)

// End says how a stream came to its end.
type End uint8

// The ends of a stream.
const (
	Completed    End = iota // the answer was seen to its end, or there was nothing more to see
	ClientGone              // the proxy cancelled before the answer had ended
	Unfollowed              // the stream was closed on purpose after the pick: the end is estimated
	ShuttingDown            // this process is going away
)
