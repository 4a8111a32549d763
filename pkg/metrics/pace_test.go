package metrics

import (
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
	var total atomic.Int64
	p := pace{total: &total}
	random := rand.New(rand.NewPCG(1, 2))
	v := &settings.Values{RefreshMetricsInterval: 200 * time.Millisecond, ScrapeBudget: 0.25}
	for failures, want := range []time.Duration{0, 200, 400, 800, 1600, 2000, 2000} {
		if want == 0 {
			continue
		}
		p.failed()
		want *= time.Millisecond
		for range 100 {
			if got := p.next(v, random); got < want*3/4 || got > want*5/4 {
				t.Fatalf("after %d failures: %v, want %v ± 25 %%", failures, got, want)
			}
		}
	}
	for range 100 {
		p.failed()
	}
	if got := p.next(v, random); got > 2500*time.Millisecond {
		t.Errorf("after many failures: %v", got)
	}
	v.RefreshMetricsInterval = time.Minute
	if got := p.next(v, random); got < 45*time.Second {
		t.Errorf("a longer interval is kept: %v", got)
	}
	p.read(time.Millisecond)
	v.RefreshMetricsInterval = 200 * time.Millisecond
	if got := p.next(v, random); got > 220*time.Millisecond {
		t.Errorf("after a page that could be read: %v", got)
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
