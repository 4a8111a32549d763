package metrics

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/settings"
)

func TestInterval(t *testing.T) {
	tests := []struct {
		name            string
		set             time.Duration
		budget          float64
		answer, allCost time.Duration
		want            time.Duration
	}{
		{"a quick page keeps the interval", 200 * time.Millisecond, 0.25, time.Millisecond, 0, 200 * time.Millisecond},
		{"at most once in 50 times of the answer", 200 * time.Millisecond, 0.25, 8 * time.Millisecond, 0, 400 * time.Millisecond},
		{"but until a second", 200 * time.Millisecond, 0.25, 100 * time.Millisecond, 0, time.Second},
		{"or what is set, when that is more", 5 * time.Second, 0.25, 500 * time.Millisecond, 0, 5 * time.Second},
		{"all pods together stay in the budget", 50 * time.Millisecond, 0.25, time.Millisecond, 100 * time.Millisecond, 400 * time.Millisecond},
		{"also beyond a second", 50 * time.Millisecond, 0.1, time.Millisecond, 300 * time.Millisecond, 3 * time.Second},
		{"no budget, no stretching", 50 * time.Millisecond, 0, 100 * time.Millisecond, time.Second, 50 * time.Millisecond},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var total atomic.Int64
			total.Store(int64(test.allCost))
			p := pace{total: &total, answer: test.answer}
			v := &settings.Values{RefreshMetricsInterval: test.set, ScrapeBudget: test.budget}
			if got := p.interval(v); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestBackOff(t *testing.T) {
	const ms = time.Millisecond
	tests := []struct {
		interval time.Duration
		waits    []time.Duration // after 0, 1, 2 … failures
	}{
		{200 * ms, []time.Duration{200 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 2000 * ms, 2000 * ms}},
		{1500 * ms, []time.Duration{1500 * ms, 1500 * ms, 2000 * ms}},
		{time.Minute, []time.Duration{time.Minute, 2000 * ms, 2000 * ms}}, // a long interval keeps no pod aside
	}
	for _, test := range tests {
		t.Run(test.interval.String(), func(t *testing.T) {
			var total atomic.Int64
			p := pace{total: &total}
			v := &settings.Values{RefreshMetricsInterval: test.interval, ScrapeBudget: 0.25}
			for failures, want := range test.waits {
				if got := p.wait(v); got != want {
					t.Errorf("after %d failures: %v, want %v", failures, got, want)
				}
				p.failed()
			}
			p.failures = 1000
			if got := p.wait(v); got != longestWait {
				t.Errorf("after many failures: %v, want %v", got, longestWait)
			}
			p.read(ms)
			if got := p.wait(v); got != test.interval {
				t.Errorf("after a page that could be read: %v, want %v", got, test.interval)
			}
		})
	}
}

func TestPodsDriftApart(t *testing.T) {
	p, random := pace{}, rand.New(rand.NewPCG(1, 2))
	for failures, share := range []float64{0.1, 0.25} {
		p.failures = failures
		seen := map[time.Duration]bool{}
		for range 100 {
			got := p.around(time.Second, random)
			if off := math.Abs(got.Seconds() - 1); off > share {
				t.Fatalf("after %d failures: %v, want 1 s ± %v", failures, got, share)
			}
			seen[got] = true
		}
		if len(seen) < 50 {
			t.Errorf("after %d failures: %d times in 100", failures, len(seen))
		}
	}
}

func TestCostOfAllPods(t *testing.T) {
	var total atomic.Int64
	a, b := pace{total: &total}, pace{total: &total}
	a.spent(100 * time.Microsecond)
	b.spent(300 * time.Microsecond)
	if got, want := time.Duration(total.Load()), 400*time.Microsecond+2*unmetered; got != want {
		t.Errorf("two pods: %v, want %v", got, want)
	}
	a.leave()
	if got, want := time.Duration(total.Load()), 300*time.Microsecond+unmetered; got != want {
		t.Errorf("one left: %v, want %v", got, want)
	}
}

func TestOnCPU(t *testing.T) {
	n := 0
	busy := onCPU(func() {
		for began := time.Now(); time.Since(began) < 5*time.Millisecond; {
			n++
		}
	})
	if busy <= 0 || busy > time.Second {
		t.Errorf("%d turns of a loop took %v of CPU", n, busy)
	}
}
