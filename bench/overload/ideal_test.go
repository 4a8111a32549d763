package overload

import (
	"slices"
	"testing"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/enginesim"
)

// One place, and a step of 10 ms for each token: the order can be followed by hand.
func TestTheIdealQueueServesCriticalFirst(t *testing.T) {
	p := enginesim.Profile{Steps: enginesim.StepModel{Base: 10}, KVTokens: 1024, MaxBatchedTokens: 256, MaxSeqs: 1, MaxModelLen: 512}
	at := func(ms int, p Priority) Request {
		return Request{At: time.Duration(ms) * time.Millisecond, Priority: p, Prompt: 16, Answer: 3}
	}
	requests := []Request{
		at(0, Sheddable),   // has the place until 30
		at(1, Standard),    // waits behind both of Critical
		at(2, Critical),    // from 30 on, first token at 40
		at(5, Critical),    // from 60 on, first token at 70
		at(300, Sheddable), // lets time go on
	}
	got, err := idealFirstTokens(p, 1, requests, 0)
	if err != nil || !slices.Equal(got, []float64{38, 65}) {
		t.Errorf("got %v, %v; want 38 and 65 ms", got, err)
	}
	if got, _ = idealFirstTokens(p, 1, requests, 3*time.Millisecond); !slices.Equal(got, []float64{65}) {
		t.Errorf("got %v, want 65 ms alone: the other one came earlier", got)
	}
}

// The default load can be answered as asked: the figure is within reach of a queue, and not by a wide margin.
func TestWhatIsAskedOfCriticalIsPossible(t *testing.T) {
	o := Options{}.withDefaults()
	p, err := o.engine()
	if err != nil {
		t.Fatal(err)
	}
	p99 := func(load float64) float64 {
		first, err := idealFirstTokens(p, o.Engines, arrivals(o.Shape, 1, load*Capacity(o.Engines), 5*time.Minute), o.RunIn)
		if err != nil {
			t.Fatal(err)
		}
		return quantile(first, 0.99)
	}
	if ratio := p99(o.Over) / p99(o.Under); ratio < 1 || ratio > 1.4 {
		t.Errorf("Critical's p99 TTFT at %g × capacity is %.2f times that at %g, with an ideal queue", o.Over, ratio, o.Under)
	}
}
