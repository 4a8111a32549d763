package overload

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

func TestTheEndpointsFileGivesObjectivesTheirPriorities(t *testing.T) {
	b, err := endpointsFile([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:8000")})
	if err != nil {
		t.Fatal(err)
	}
	const want = `endpoints:
    - name: engine-0
      address: 127.0.0.1
      port: 8000
objectives:
    - name: critical
      priority: 1
    - name: standard
      priority: 0
    - name: sheddable
      priority: -1
`
	if string(b) != want {
		t.Errorf("got\n%s\nwant\n%s", b, want)
	}
}

// All of it once, small: two engines with two places, through a real Envoy. Whether the figures are met is not the
// question here; that every request is accounted for is.
func TestAShortRunThroughEnvoy(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: it starts Envoy, the picker and engines, and takes a quarter of a minute")
	}
	if _, err := stack.EnvoyBinary(t.Context()); err != nil {
		t.Skip("SKIPPED: there is no Envoy to send requests through: ", err)
	}
	small := DefaultShape()
	small.Prompt, small.Answer = Lengths{Median: 50, Sigma: 0.5, Min: 16, Max: 200}, Lengths{Median: 8, Sigma: 0.3, Min: 4, Max: 20}
	var said bytes.Buffer
	r, err := Run(t.Context(), Options{
		Quick: true, Duration: 2 * time.Second, TTL: time.Second, Engines: 2, MaxSeqs: 2, Shape: small, Progress: &said,
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, said.String())
	}
	if len(r.Phases) != 3 {
		t.Fatalf("%d phases", len(r.Phases))
	}
	for _, p := range r.Phases {
		total := p.Rows[len(p.Rows)-1]
		ended := 0
		for _, n := range total.Ended {
			ended += n
		}
		if total.Offered == 0 || ended != total.Offered || total.Ended["200"] == 0 {
			t.Errorf("%s: %+v", p.Name, total)
		}
		if n := total.Ended["broken"] + total.Ended["no answer"]; n > 0 {
			t.Errorf("%s: %d of %d have no whole answer: %v", p.Name, n, total.Offered, p.Faults)
		}
	}
	if enabled, disabled := r.Phases[1].Rows[3].Offered, r.Phases[2].Rows[3].Offered; enabled != disabled {
		t.Errorf("%d requests with queueing, %d without: they should be the same", enabled, disabled)
	}
	var text bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text.String(), "budgets met") || !strings.Contains(text.String(), "by the engines' model") {
		t.Error(text.String())
	}
}
