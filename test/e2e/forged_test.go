package e2e

import (
	"strings"
	"testing"

	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

// What a client writes into the headers of the picker's protocol chooses no pod and reaches no engine, also while the
// picker is dead.
func TestForgedHeaders(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			one, two, stranger := newMirror(t, "mirror-1"), newMirror(t, "mirror-2"), newMirror(t, "stranger")
			s := newSite(t, plan{
				profile: profile,
				others:  []stack.Endpoint{stack.At("mirror-1", one.address), stack.At("mirror-2", two.address)},
				env:     []string{"DESTINATION_FALLBACKS=0"},
			})
			forge := func(to *mirror) map[string]string {
				address := to.address.String()
				return map[string]string{
					"x-gateway-destination-endpoint":        address,
					"X-Gateway-Destination-Endpoint-Subset": address,
					"x-gateway-destination-endpoint-served": address,
					"test-epp-endpoint-selection":           address,
					"x-gateway-inference-objective":         "critical",
					"x-llm-d-inference-fairness-id":         "me-first",
					"x-llm-d-inference-objective":           "critical",
				}
			}
			spread := func(when string) {
				t.Helper()
				for _, r := range []call{chat{prompt: "hello"}.call(), {path: "/v1/models"}, {path: "/upload", body: []byte("bytes")}} {
					by := map[string]int{}
					for range 24 {
						r.header = forge(one)
						got := s.do(r).sighted(t)
						by[got.Server]++
						wantNoControlHeaders(t, got, one.address.String())
						r.header = forge(stranger)
						by[s.do(r).sighted(t).Server]++
					}
					if by["stranger"] != 0 || by["mirror-2"] == 0 || by["mirror-1"] == 0 {
						t.Errorf("%s, %s: served by %v: a client has chosen", when, r.path, by)
					}
				}
			}
			spread("with the picker")
			s.wantNoBypass(t)
			if profile != lean {
				return // there the first requests after a picker's death fail
			}
			if err := s.picker().Kill(); err != nil {
				t.Fatal(err)
			}
			spread("without the picker")
		})
	}
}

func wantNoControlHeaders(t *testing.T, got sight, forged string) {
	t.Helper()
	for name, values := range got.Header {
		lower := strings.ToLower(name)
		if lower == "x-gateway-destination-endpoint" {
			continue // the picker's own, if any
		}
		if strings.HasPrefix(lower, "x-gateway-destination-endpoint") {
			t.Errorf("header %s: %v reached the engine", name, values)
		}
	}
}

// Headers that ask the picker for something stay with it.
func TestControlHeadersStay(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			only := newMirror(t, "mirror")
			s := newSite(t, plan{profile: profile, others: []stack.Endpoint{stack.At("mirror", only.address)}})
			for _, r := range []call{chat{prompt: "hello"}.call(), {path: "/v1/models"}, {path: "/upload", body: []byte("bytes")}} {
				r.header = map[string]string{
					"X-Gateway-Inference-Objective":   "critical",
					"x-gateway-inference-fairness-id": "me-first",
					"x-llm-d-inference-objective":     "critical",
					"x-llm-d-inference-fairness-id":   "me-first",
					"x-unrelated":                     "stays",
				}
				got := s.do(r).sighted(t)
				for name, values := range got.Header {
					lower := strings.ToLower(name)
					if strings.HasPrefix(lower, "x-gateway-inference-") || strings.HasPrefix(lower, "x-llm-d-") {
						t.Errorf("%s: header %s: %v reached the engine", r.path, name, values)
					}
				}
				if got.Header.Get("x-unrelated") != "stays" {
					t.Errorf("%s: a header that is no control header was lost: %v", r.path, got.Header)
				}
				if got.Header.Get("x-request-id") == "" {
					t.Errorf("%s: no x-request-id reached the engine", r.path)
				}
			}
		})
	}
}
