package pool

import (
	"slices"
	"time"
)

// Report is one reading of a pod's metrics page. Slices are never changed after the report was handed in.
type Report struct {
	Taken    Instant       // when the page was asked for
	Interval time.Duration // time to the next reading, as planned; 0: not said
	InFlight int           // requests of this process counted at the pod at that moment
	Uncached int           // and their prompt tokens that were not cached there
	Counted  int           // InFlight as it was handed in; what had not reached the pod by then is taken off InFlight

	Waiting, Running int     // requests, summed over the engines of the page
	KVUsage          float64 // share of the KV cache in use, 0..1, mean over the engines
	BlockSize        int     // tokens in a KV block; 0: not said
	KVTokens         int     // tokens that the KV cache holds, summed over the engines; 0: not said
	Asleep           bool    // the server says that its engines sleep: it can't serve now
	MaxAdapters      int     // LoRA adapters that fit at once; 0: not said
	Adapters         []string
	Started          float64  // start of the server process, Unix seconds; 0: not said
	Missing          []string // metrics that the runtime is known for and the page had not
}

// Load is what is known of one pod's work: as reported (up to a scrape interval old) and as counted here (exact, now).
type Load struct {
	// What every pick reads of every pod stands together, in three cache lines with the first fields of the report.
	InFlight        int           // requests sent and not ended
	Tokens          int           // prompt tokens of those, cached ones included
	Uncached        int           // of them, those not cached at the pod
	PrefillUntil    Instant       // when the prefill sent so far is estimated to be done
	PrefillPending  time.Duration // estimated prefill of the requests in flight: more can't be queued
	PageFailures    int           // consecutive
	RequestFailures int           // consecutive requests without an answer
	Refused         bool          // the last page failed since nobody listens on the port of requests
	HasReport       bool
	Report          Report

	Places           int     // requests that are known to run there at once
	FullAt           Instant // when a report last showed that no more run there; 0: none ever did
	FullFor          time.Duration
	Begun            int // requests in flight whose answer has begun
	PageFailingSince Instant
	PageError        error
	LastAnswer       Instant
	LastFailure      Instant

	windowFrom Instant // since when windowMost counts
	windowMost int     // the most that ran in a report since

	prefillTotal time.Duration // all prefill ever sent
	sent         uint64        // requests ever sent
	asked        [4]uint64     // of them, those sent before the page was asked for, the last times; the latest first
}

// Fresh says whether the report is at most limit or three intervals old, whichever is longer.
func (l *Load) Fresh(now Instant, limit time.Duration) bool {
	return l.HasReport && now.Since(l.Report.Taken) <= max(limit, 3*l.Report.Interval)
}

// Requests is the number of requests at the pod: those of a fresh report plus those sent since minus those ended since,
// and never fewer than this process knows to be there. With a stale report the counted ones alone.
func (l *Load) Requests(fresh bool) int {
	if !fresh {
		return l.InFlight
	}
	return max(l.InFlight, l.Report.Waiting+l.Report.Running+l.InFlight-l.Report.InFlight)
}

// Waiting is the number of requests that wait at the pod: those of the report, which must be fresh, and those sent since
// for which no place is known to be free.
func (l *Load) Waiting() int {
	waiting := l.Report.Waiting + l.Sent()
	if l.Report.Waiting == 0 {
		waiting -= max(0, l.Places-l.Report.Running)
	}
	return max(0, waiting)
}

// Free is the number of places that are known to be free at the pod, whose report must be fresh.
func (l *Load) Free() int {
	if l.Report.Waiting > 0 {
		return 0
	}
	return max(0, max(1, l.Places)-l.Report.Running-l.Sent())
}

// Full says whether the pod is taken to run as many requests as it can.
func (l *Load) Full(now Instant) bool { return now.Since(l.FullAt) < l.FullFor }

// Sent is the number of requests sent since the report less those that ended since.
func (l *Load) Sent() int { return l.InFlight - l.Report.InFlight }

// Unanswered is the number of requests in flight of which nothing has come back.
func (l *Load) Unanswered() int { return l.InFlight - l.Begun }

// HasAdapter says whether the pod reported adapter as loaded or about to be.
func (l *Load) HasAdapter(adapter string) bool { return slices.Contains(l.Report.Adapters, adapter) }

// PrefillQueue is the estimated time until the prefill sent so far is done.
func (l *Load) PrefillQueue(now Instant) time.Duration {
	return max(0, min(l.PrefillUntil.Since(now), l.PrefillPending))
}

func (l *Load) join(now Instant, c Charge) time.Duration {
	l.InFlight++
	l.sent++
	l.Tokens += c.Tokens
	l.Uncached += c.Uncached
	l.PrefillUntil = now.Add(l.PrefillQueue(now) + c.Prefill)
	l.prefillTotal += c.Prefill
	l.PrefillPending += c.Prefill
	return l.prefillTotal
}

func (l *Load) leave(c Charge, begun bool) {
	l.InFlight--
	if begun {
		l.Begun--
	}
	l.Tokens -= c.Tokens
	l.Uncached -= c.Uncached
	l.PrefillPending -= c.Prefill
}

// prefilled corrects the estimate: what was sent up to mark is done, so at most the rest is still to do.
func (l *Load) prefilled(now Instant, mark time.Duration) {
	if rest := now.Add(l.prefillTotal - mark); rest < l.PrefillUntil {
		l.PrefillUntil = rest
	}
}

// onTheirWay is how many of the requests counted when the page was asked for had not reached the pod by then, and so come
// on top of what it shows: those that it doesn't show, as far as they were sent within three pages. A busy proxy may take
// as long. Any others have ended there, or are of a kind that it doesn't count.
func (l *Load) onTheirWay(r *Report) int {
	return min(max(0, r.InFlight-r.Running-r.Waiting), int(l.asked[0]-l.asked[len(l.asked)-1]))
}

const (
	placesWindow = 5 * time.Second        // for how long a number of running requests proves that as many find a place
	fullFirst    = 250 * time.Millisecond // for how long a pod counts as full that was found so once
	fullLongest  = 5 * time.Second        // and at most, when it is found so again and again
	nearlyAll    = 16                     // a full pod runs all of its places, save one of so many
)

// learnPlaces takes in how many run. A pod where others wait runs as many as it can, save for the moments between one that
// ends and the next, so the most within the last windows is what it can. While nobody waits it tells only of more.
//
// It is full when there are more than it is known to run, and it doesn't run more. Requests that wait for the next step of
// an engine with places left look the same at first, but run in the next report. So the pod counts as full for a moment,
// and for longer each time, until it runs more.
func (l *Load) learnPlaces(r *Report) {
	if r.Taken.Since(l.windowFrom) >= placesWindow {
		if l.FullAt < l.windowFrom {
			l.windowMost = max(l.windowMost, l.Places)
		}
		l.Places, l.windowMost, l.windowFrom = l.windowMost, 0, r.Taken
	}
	l.windowMost = max(l.windowMost, r.Running)
	switch {
	case r.Running > l.Places:
		l.Places, l.FullFor = r.Running, 0
	case r.Running+r.Waiting > l.Places && r.Running >= l.Places-l.Places/nearlyAll && r.Waiting > min(int(l.asked[0]-l.asked[1]), l.Places/nearlyAll):
		l.FullAt, l.FullFor = r.Taken, min(max(fullFirst, 2*l.FullFor), fullLongest)
	}
}

// report takes in a reading. One that ends an outage of the page forgives the requests that failed meanwhile.
func (l *Load) report(r Report) {
	if l.PageFailures > 0 {
		l.RequestFailures = 0
	}
	l.learnPlaces(&r)
	r.Counted = r.InFlight
	if n := l.onTheirWay(&r); n > 0 {
		r.Uncached -= r.Uncached * n / r.InFlight
		r.InFlight -= n
	}
	l.Report, l.HasReport = r, true
	l.PageFailures, l.PageError, l.PageFailingSince, l.Refused = 0, nil, 0, false
}
