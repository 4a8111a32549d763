package overload

import (
	"math"
	"slices"
	"sync"
	"time"
)

// goal is the time to the first token within which an answer counts for goodput.
const goal = 2 * time.Second

// Tally counts what became of requests: all of them, but times only of those from a moment on. Safe for concurrent use while they come in.
type Tally struct {
	from time.Duration // since the load began; set it before the first answer

	mu      sync.Mutex
	byPlace [3]counts
	faults  []string // some, for people
	late    []float64
}

// counts are those of one priority.
type counts struct {
	offered int
	ended   [outcomes]int
	first   []float64 // milliseconds to the first token, of those served whose times count
	inTime  int       // served with the first token within the goal
	reasons map[string]int
	faulty  int // refusals that aren't as they should be
}

// faultsKept bounds the examples of what went wrong.
const faultsKept = 5

func (t *Tally) add(a Answer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := &t.byPlace[a.Priority.place()]
	c.offered++
	c.ended[a.Outcome]++
	t.late = append(t.late, milliseconds(a.Late))
	if a.Outcome == Served && a.First <= goal {
		c.inTime++
	}
	if a.Outcome == Served && a.At >= t.from {
		c.first = append(c.first, milliseconds(a.First))
	}
	if a.Reason != "" {
		if c.reasons == nil {
			c.reasons = map[string]int{}
		}
		c.reasons[a.Outcome.String()+" "+a.Reason]++
	}
	if a.Fault == "" {
		return
	}
	if a.Outcome != Broken && a.Outcome != Unanswered {
		c.faulty++
	}
	if len(t.faults) < faultsKept {
		t.faults = append(t.faults, a.Priority.String()+", "+a.Outcome.String()+": "+a.Fault)
	}
}

// of is what was counted for a priority.
func (t *Tally) of(p Priority) *counts { return &t.byPlace[p.place()] }

// sum adds all priorities up.
func (t *Tally) sum() *counts {
	var all counts
	for i := range t.byPlace {
		all.merge(&t.byPlace[i])
	}
	return &all
}

func (c *counts) merge(o *counts) {
	c.offered += o.offered
	c.inTime += o.inTime
	c.faulty += o.faulty
	for i, n := range o.ended {
		c.ended[i] += n
	}
	c.first = append(c.first, o.first...)
	for reason, n := range o.reasons {
		if c.reasons == nil {
			c.reasons = map[string]int{}
		}
		c.reasons[reason] += n
	}
}

// lost is the share, 0 to 1, of requests that were not served.
func (c *counts) lost() float64 {
	if c.offered == 0 {
		return 0
	}
	return 1 - float64(c.ended[Served])/float64(c.offered)
}

// notOnce counts requests without exactly one whole answer.
func (c *counts) notOnce() int { return c.ended[Broken] + c.ended[Unanswered] }

// quantile is the least of the values that a share q of them doesn't exceed (nearest rank); 0 of none.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return s[max(0, int(math.Ceil(q*float64(len(s))))-1)]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
