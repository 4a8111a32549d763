package main

import (
	"encoding/json"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/structpb"

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

// Whoever refuses a request, the picker's server or its router, it is counted once and told in one line.
func TestEveryRefusalIsToldOnce(t *testing.T) {
	p := start(t, newEngine(t), "DECISION_LOG=json", "MAX_REQUEST_BODY=1024", "SECURE_SERVING=false")
	conn := p.dial(t, p.extproc, insecure.NewCredentials())
	for _, tc := range []struct {
		id, body, subset string
		status           int
	}{
		{"malformed", `{"model":"chat","prompt":}`, "", 400},
		{"too-large", `{"model":"chat","prompt":"` + strings.Repeat("x", 1024) + `"}`, "", 413},
		{"no-endpoint", `{"model":"chat","prompt":"x"}`, "10.9.9.9:1", 503},
	} {
		if got := refusedWith(t, open(t, conn), tc.id, tc.body, tc.subset); got != tc.status {
			t.Errorf("%s: answered %d, want %d", tc.id, got, tc.status)
		}
	}

	page := p.get(t, "/metrics")
	for _, line := range []string{
		`inference_model_request_error_total{error_code="BadRequest",model_name="other",target_model_name="other"} 2`,
		`inference_model_request_error_total{error_code="ServiceUnavailable",model_name="other",target_model_name="other"} 1`,
		`inference_model_request_total{model_name="other",target_model_name="other"} 3`,
		`pilotfish_refusals_total{reason="invalid_json"} 1`,
	} {
		if !strings.Contains(page, "\n"+line+"\n") {
			t.Errorf("not on the metrics page: %s", line)
		}
	}
	type line struct {
		RequestID, Model, Reason string
		Status                   int
	}
	want := []line{
		{"malformed", "", "invalid_json", 400}, {"too-large", "", "request_too_large", 413}, {"no-endpoint", "chat", "no_endpoints", 503},
	}
	p.eventually(t, "a line for each", func() bool { return strings.Count(p.out.String(), "\n") >= len(want) })
	var got []line
	for text := range strings.Lines(p.out.String()) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatal(err)
		}
		got = append(got, l)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// refusedWith sends a request in full duplex whose gateway allows the subset alone, if there is one, and returns the
// status that it is refused with.
func refusedWith(t *testing.T, stream extprocv3.ExternalProcessor_ProcessClient, id, body, subset string) int {
	t.Helper()
	head := &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestHeaders{
		RequestHeaders: headers(":method", "POST", ":path", "/v1/completions", "x-request-id", id),
	}}
	if subset != "" {
		hint, err := structpb.NewStruct(map[string]any{"x-gateway-destination-endpoint-subset": subset})
		if err != nil {
			t.Fatal(err)
		}
		head.MetadataContext = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"envoy.lb.subset_hint": hint}}
	}
	if err := stream.Send(head); err != nil {
		t.Fatal(err)
	}
	answer := exchange(t, stream, &extprocv3.ProcessingRequest{
		Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{Body: []byte(body), EndOfStream: true}},
	})
	return int(answer.GetImmediateResponse().GetStatus().GetCode())
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
