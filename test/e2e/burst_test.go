package e2e

import (
	"fmt"
	"testing"

	"github.com/pilotfish-epp/pilotfish/bench/enginesim"
)

// 3,000 requests that are all under way at once are all seen, counted and answered.
func TestThreeThousandAtOnce(t *testing.T) {
	const clients = 3000
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			engines := fastEngines(4)
			for i := range engines {
				engines[i].Faults = enginesim.Faults{Hang: true}
			}
			s := newSite(t, plan{profile: profile, engines: engines, env: []string{"ROUTING_STRATEGY=PREFIX_CACHE"}})
			requests := make([]call, clients)
			for i := range requests {
				requests[i] = chat{prompt: fmt.Sprintf("%d: %s", i, text("short", 500)), stream: i%2 == 0, maxTokens: 3}.call()
			}
			var all []outcome
			done := make(chan struct{})
			go func() {
				defer close(done)
				all = burst(s.client, s.url(), requests)
			}()
			eventually(t, answerLimit, "all to be under way", func() error {
				if n, err := inFlight(s.picker()); err != nil || n != clients {
					return fmt.Errorf("the picker counts %d of %d under way (%s)", n, clients, fmt.Sprint(err))
				}
				return nil
			})
			for _, e := range s.engines {
				e.fault(t, enginesim.Faults{})
			}
			<-done
			wantNoFailure(t, all)
			s.wantIdle(t)
			s.wantNoBypass(t)

			m := metricsOf(t, s.picker())
			if n := m.sum("pilotfish_picks_total"); n != clients {
				t.Errorf("picks counted: %v, expected %d", n, clients)
			}
			if n := m.sum("pilotfish_request_ends_total", "end=completed"); n != clients {
				t.Errorf("ends counted as completed: %v of %d", n, clients)
			}
			if n := s.total(t, func(e enginesim.Stats) uint64 { return e.Requests }); n != clients {
				t.Errorf("the engines saw %d requests, expected %d", n, clients)
			}
			by := servedBy(all)
			t.Logf("served by %v", by)
			for name, n := range by {
				if n < clients/8 || n > clients/2 {
					t.Errorf("%s served %d of %d: expected about a quarter", name, n, clients)
				}
			}
		})
	}
}
