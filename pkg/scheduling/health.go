package scheduling

import (
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/pool"
)

const (
	// pageTries is how many metrics pages in a row may fail before a pod must prove by an answer that it is alive.
	pageTries = 3
	// requestTries is how many requests in a row may go unanswered before a pod is set aside although its page reads.
	requestTries = 3
	// retryAfter is how long after its last failed request a pod that is set aside may be tried again; it doubles with
	// every further failure, retryDoublings times at most.
	retryAfter     = 5 * time.Second
	retryDoublings = 6
)

// class ranks pods by trust: any pod of a lower class is preferred to all of a higher one, save that a pod on trial may
// be the primary (never a fallback) before healthy ones, since only a request can prove it.
type class uint8

const (
	healthy  class = iota
	trial          // may get one request to prove that it is alive
	full           // is well and has no room, where room is asked for
	suspect        // has that request under way, or has just failed one
	hopeful        // is set aside, though its page reads, and has nothing to answer: the best where all are, for who can't wait
	setAside       // doesn't answer
)

func (c class) String() string {
	return [...]string{"healthy", "trial", "full", "suspect", "hopeful", "set aside"}[c]
}

// classify ranks a pod. A page that can't be read doesn't stop traffic as long as requests are answered; requests that
// go unanswered set a pod aside, the first one already where its page fails too. Answers that have begun don't keep a pod
// from its trial: they may take minutes, and tell nothing until then.
func classify(now pool.Instant, l *pool.Load) class {
	pageDown := l.PageFailures >= pageTries
	switch {
	case l.Refused, l.Report.Asleep:
		return setAside
	case !pageDown && l.RequestFailures == 0:
		return healthy
	case !pageDown && l.RequestFailures < requestTries && l.Report.Taken > l.LastFailure:
		return healthy // its page was read since
	case !pageDown && l.RequestFailures < requestTries:
		return suspect
	case l.RequestFailures == 0 && l.LastAnswer > l.PageFailingSince:
		return healthy // only its page is away
	case l.RequestFailures == 0 && l.Unanswered() == 0:
		return trial
	case l.RequestFailures == 0:
		return suspect
	case l.Unanswered() == 0 && now.Since(l.LastFailure) >= retryAfter<<min(l.RequestFailures-1, retryDoublings):
		return trial
	default:
		return setAside
	}
}

// Health names how far a pod is trusted now, for people: healthy, trial, suspect or set aside.
func Health(now time.Time, l *pool.Load) string { return classify(pool.At(now), l).String() }
