package e2e

import (
	"fmt"
	"testing"

	"github.com/pilotfish-epp/pilotfish/bench/enginesim"
)

// What the picker tells of tokens is what the engines counted, in both profiles, of the share of answers that it is set
// to look at.
func TestUsageIsSampled(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		for _, sample := range []string{"1", "0"} {
			t.Run(fmt.Sprintf("%s, %s", profile, sample), func(t *testing.T) {
				t.Parallel()
				s := newSite(t, plan{
					profile: profile, engines: fastEngines(2),
					env: []string{"USAGE_SAMPLE=" + sample, "ROUTING_STRATEGY=PREFIX_CACHE"},
				})
				const requests = 40
				for i := range requests {
					a := s.do(chat{
						system: text(fmt.Sprint("family ", i%3), 3000), prompt: fmt.Sprint("question ", i),
						stream: i%2 == 0, usage: i%2 == 0, maxTokens: 3 + i%5,
					}.call())
					a.wantWhole(t, i%2 == 0)
				}
				s.wantIdle(t)
				s.wantNoBypass(t)
				s.wantTokens(t, sample == "1", requests)
			})
		}
	}
}

// wantTokens compares the picker's token counts with the engines': all of them, or none at all.
func (s *site) wantTokens(t *testing.T, all bool, requests uint64) {
	t.Helper()
	m := metricsOf(t, s.picker())
	for _, kind := range []struct {
		metric string
		engine func(enginesim.Stats) uint64
	}{
		{"inference_model_input_tokens", func(e enginesim.Stats) uint64 { return e.PromptTokens }},
		{"inference_model_prompt_cached_tokens", func(e enginesim.Stats) uint64 { return e.CachedTokens }},
		{"inference_model_output_tokens", func(e enginesim.Stats) uint64 { return e.GeneratedTokens }},
	} {
		sum, n, counted := m.sum(kind.metric), m.count(kind.metric), s.total(t, kind.engine)
		t.Logf("%s: %v in %d answers; engines: %d", kind.metric, sum, n, counted)
		if counted == 0 {
			t.Errorf("the engines counted no tokens for %s", kind.metric)
		}
		if all && (sum != float64(counted) || n != requests) {
			t.Errorf("%s: %v in %d answers, expected the engines' %d in %d", kind.metric, sum, n, counted, requests)
		}
		if !all && n != 0 {
			t.Errorf("%s: %v in %d answers, expected nothing", kind.metric, sum, n)
		}
	}
}

// A picker that leaves after the request takes nothing from the answer, and counts the request until it should be over.
func TestResponsesUnprocessed(t *testing.T) {
	t.Parallel()
	s := newSite(t, plan{profile: fullDuplex, engines: slowEngines(2), env: []string{"RESPONSE_PROCESSING=none"}})
	const requests = 60
	for i := range requests {
		stream := i%2 == 0
		c := chat{prompt: text(fmt.Sprint(i), 100+i*200), stream: stream, usage: stream, maxTokens: 6}
		a := s.do(c.call())
		a.wantWhole(t, stream)
		if stream && len(a.events()) != 1+6+1+1 {
			t.Errorf("expected 9 events, got %v", a)
		}
	}
	m := metricsOf(t, s.picker())
	if n := m.sum("pilotfish_request_ends_total", "end=unfollowed"); n != requests {
		t.Errorf("%v of %d requests are counted as unfollowed", n, requests)
	}
	if n := m.count("inference_model_input_tokens"); n != 0 {
		t.Errorf("tokens of %d answers were read", n)
	}
	s.wantIdle(t)
	s.wantNoBypass(t)
}
