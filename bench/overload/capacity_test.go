package overload

import (
	"math"
	"testing"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/enginesim"
)

// One place, prompts and answers of one length, steps of a known time: the capacity can be worked out by hand.
func TestTheCapacityOfAnEngineWithOnePlace(t *testing.T) {
	p := enginesim.Profile{Steps: enginesim.StepModel{Base: 10, Token: 1}, KVTokens: 1024, MaxBatchedTokens: 256, MaxSeqs: 1, MaxModelLen: 512}
	shape := Shape{Prompt: Lengths{Median: 50, Min: 1, Max: 99}, Answer: Lengths{Median: 6, Min: 1, Max: 9}}
	// The prompt and the first token take 10 + 50 ms, five more tokens 10 ms each.
	got, err := modelCapacity(p, 3, shape)
	if want := 3 * 1000.0 / 110; err != nil || math.Abs(got/want-1) > 0.01 {
		t.Errorf("got %.2f requests/s, %v; want %.2f", got, err, want)
	}
}

func TestTheDefaultLoadFitsTwoCores(t *testing.T) {
	if c := Capacity(DefaultEngines); c < 50 || c > 75 {
		t.Errorf("%d engines answer %.1f requests/s; the figures were chosen for about 62", DefaultEngines, c)
	}
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	for name, o := range map[string]Options{
		"duration": {Duration: 1},
		"rounds":   {Rounds: -1},
		"engines":  {Engines: -1},
		"load":     {Over: -3},
		"kv":       {KVTokens: 4096},
		"capacity": {Capacity: -1},
		"shares":   {Shape: Shape{Prompt: DefaultShape().Prompt, Answer: DefaultShape().Answer, CriticalShare: 2}},
	} {
		o = o.withDefaults()
		if o.validate() == nil {
			t.Errorf("%s: %+v was taken", name, o)
		}
	}
	o := Options{Quick: true}.quick().withDefaults()
	if err := o.validate(); err != nil || o.Rounds != 1 || o.Duration >= 60*time.Second {
		t.Errorf("quick: %+v, %v", o, err)
	}
}
