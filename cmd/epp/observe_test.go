package main

import (
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pilotfish-epp/pilotfish/pkg/pool"
	"github.com/pilotfish-epp/pilotfish/pkg/request"
	"github.com/pilotfish-epp/pilotfish/pkg/routing"
	"github.com/pilotfish-epp/pilotfish/pkg/scheduling"
	"github.com/pilotfish-epp/pilotfish/pkg/settings"
	"github.com/pilotfish-epp/pilotfish/pkg/telemetry"
)

func TestEveryRequestGetsOneReadableLine(t *testing.T) {
	var out buffer
	o := observing(t, &out)
	o.decisions.SetForm(telemetry.Text)
	o.Picked(someDecision())
	o.Refused(&routing.Arrival{Body: &request.Request{Model: "chat", HasModel: true}, Rewrite: "llama"},
		&routing.Refusal{Status: 503, Code: "no_endpoints"})
	o.Refused(&routing.Arrival{}, &routing.Refusal{Status: 503, Code: "no_endpoints"}) // a request without a body
	o.decisions.Close(10 * time.Second)

	want := strings.Join([]string{
		"12:00:00.000  chat  1.2 KiB  15/20 blocks  → engine-0 10.0.0.1:8000  prefix  cost 12.5 ms of 4  30µs",
		"12:00:00.000  chat as llama  0 B      refused 503: no_endpoints",
		"12:00:00.000  -              0 B      refused 503: no_endpoints",
		"",
	}, "\n")
	if got := out.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// The observer stands in every request's way, so it must not allocate.
func TestObservingAllocatesNothing(t *testing.T) {
	o := observing(t, io.Discard)
	d, end := someDecision(), &routing.Outcome{Model: "chat", Target: "chat", Status: 200, Usage: request.Usage{Present: true, Prompt: 10}}
	o.Picked(d)
	o.Finished(end)
	if n := testing.AllocsPerRun(1000, func() { o.Picked(d); o.Finished(end) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func observing(t *testing.T, out io.Writer) *observer {
	t.Helper()
	store, err := settings.New(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	decisions := telemetry.NewDecisions(out, false, nil)
	t.Cleanup(func() { decisions.Close(time.Second) })
	return &observer{
		metrics: telemetry.New(prometheus.NewRegistry(), telemetry.Build{}), decisions: decisions, settings: store,
		now: func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) },
	}
}

func someDecision() *routing.Decision {
	pod := &pool.Pod{
		Endpoint:  pool.Endpoint{Name: "engine-0", Address: netip.MustParseAddrPort("10.0.0.1:8000")},
		Authority: "10.0.0.1:8000",
	}
	return &routing.Decision{
		Arrival: &routing.Arrival{Body: &request.Request{Model: "chat", HasModel: true, PromptBytes: 1280}},
		Pick: &scheduling.Pick{
			Pods: []*pool.Pod{pod}, Reason: scheduling.ByPrefix, Candidates: 4, Cost: scheduling.Cost{Prefill: 12.5},
		},
		Blocks: 20, Matched: 15, Took: 30 * time.Microsecond,
	}
}
