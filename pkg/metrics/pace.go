package metrics

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/settings"
)

const (
	stretch      = 50                    // a page is asked for at most once in so many times of what it takes to answer
	longest      = time.Second           // to which a slow page stretches the interval
	longestWait  = 2 * time.Second       // between two attempts at a page that can't be read
	longestSleep = 2 * time.Second       // after which a pod's goroutine looks whether the settings have changed
	clockEvery   = 8                     // attempts, of which one is clocked
	unmetered    = 40 * time.Microsecond // CPU of one page that no clock sees: see BenchmarkScrape
)

// pace decides when a pod's page is asked for next. It belongs to one pod; the total is shared by all.
type pace struct {
	total    *atomic.Int64 // CPU time of one page of each pod, ns
	cost     time.Duration // this pod's part of total, smoothed
	answer   time.Duration // the time that the page takes to come, smoothed
	failures int           // consecutive
}

// read takes in how long a page took to come.
func (p *pace) read(answer time.Duration) {
	p.failures = 0
	p.answer = smooth(p.answer, answer)
}

// failed takes in a page that couldn't be read.
func (p *pace) failed() { p.failures++ }

// spent takes in the CPU time that clocks saw of an attempt.
func (p *pace) spent(cpu time.Duration) {
	cost := smooth(p.cost, cpu+unmetered)
	p.total.Add(int64(cost - p.cost))
	p.cost = cost
}

// leave takes the pod out of the total.
func (p *pace) leave() {
	p.total.Add(-int64(p.cost))
	p.cost = 0
}

// interval is the time between two pages now in force. A budget of 0 means that the interval is kept as it is set.
func (p *pace) interval(v *settings.Values) time.Duration {
	set := v.RefreshMetricsInterval
	if v.ScrapeBudget == 0 {
		return set
	}
	slow := min(stretch*p.answer, max(longest, set))
	affordable := time.Duration(float64(p.total.Load()) / v.ScrapeBudget)
	return max(set, slow, affordable)
}

// wait is the time from the beginning of one attempt to the next: the interval, or after failures what they have grown
// to. It is short also where the interval is long: a pod that can't be read is kept aside, and may be back in a second.
func (p *pace) wait(v *settings.Values) time.Duration {
	interval := p.interval(v)
	if p.failures == 0 {
		return interval
	}
	return min(interval<<min(p.failures-1, 10), longestWait)
}

// around gives a time like wait, so that pods drift apart.
func (p *pace) around(wait time.Duration, random *rand.Rand) time.Duration {
	if p.failures == 0 {
		return jitter(wait, 0.1, random)
	}
	return jitter(wait, 0.25, random)
}

// jitter gives a time in d × (1 ± share).
func jitter(d time.Duration, share float64, random *rand.Rand) time.Duration {
	return time.Duration(float64(d) * (1 + share*(2*random.Float64()-1)))
}

// smooth gives a mean in which the last values count most; the first one is taken as it is.
func smooth(mean, value time.Duration) time.Duration {
	if mean == 0 {
		return value
	}
	return mean + (value-mean)/4
}
