package overload

import (
	"fmt"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/enginesim"
)

// spare is how many requests wait at each full engine while capacity is measured, so that no place is ever empty.
const spare = 2

// modelCapacity is how many requests of a shape so many engines could finish in a second if each always had as many as
// it can run, by the engine's own model in virtual time: with no network, no proxy and no picker.
func modelCapacity(p enginesim.Profile, engines int, shape Shape) (perSecond float64, err error) {
	const warm, end = 20 * time.Second, 140 * time.Second
	e, err := enginesim.NewEngine(enginesim.Config{Profile: p})
	if err != nil {
		return 0, err
	}
	requests := newDraws(shape, 1)
	submit := func(now time.Duration) error {
		r := requests.next()
		return e.Submit(now, &enginesim.Request{PromptTokens: r.Prompt, OutputTokens: r.Answer})
	}
	for range p.MaxSeqs + spare {
		if err := submit(0); err != nil {
			return 0, err
		}
	}
	finished := 0
	for {
		now, busy := e.Next()
		switch {
		case !busy:
			return 0, fmt.Errorf("the engine's model stood still at %v", now)
		case now > end:
			return float64(engines*finished) / (end - warm).Seconds(), nil
		}
		for _, event := range e.Step(now) {
			if !event.Finished {
				continue
			}
			if now > warm {
				finished++
			}
			if err := submit(now); err != nil {
				return 0, err
			}
		}
	}
}
