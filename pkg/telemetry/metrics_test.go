package telemetry

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
)

func TestOneRequestFromPickToEnd(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := New(reg, Build{Version: "v1.2.3", Commit: "abc"})

	m.Picked(&Pick{Model: "chat", Target: "llama", Reason: "prefix", Latency: 30 * time.Microsecond, Blocks: 10, Matched: 5, BlockSize: 64})
	expect(t, reg, `inference_model_running_requests{model_name="other"} 1`) // no engine has answered to "chat" yet
	m.Finished(&Done{
		Model: "chat", Target: "llama", Status: 200, End: EndCompleted, RequestBytes: 2000, ResponseBytes: 500,
		Duration: 2 * time.Second, FirstToken: 100 * time.Millisecond,
		HasUsage: true, Prompt: 400, Cached: 320, Completion: 40, Predicted: 300,
	})

	expect(
		t, reg,
		`inference_model_request_total{model_name="chat",target_model_name="llama"} 1`,
		`inference_model_running_requests{model_name="chat"} 0`,
		`inference_model_running_requests{model_name="other"} 0`,
		`inference_model_request_duration_seconds_sum{model_name="chat",target_model_name="llama"} 2`,
		`inference_model_request_duration_seconds_bucket{model_name="chat",target_model_name="llama",le="2"} 1`,
		`inference_model_request_ttft_seconds_sum{model_name="chat",target_model_name="llama"} 0.1`,
		`inference_model_normalized_time_per_output_token_seconds_sum{model_name="chat",target_model_name="llama"} 0.05`,
		`inference_model_request_sizes_sum{model_name="chat",target_model_name="llama"} 2000`,
		`inference_model_response_sizes_sum{model_name="chat",target_model_name="llama"} 500`,
		`inference_model_input_tokens_sum{model_name="chat",target_model_name="llama"} 400`,
		`inference_model_output_tokens_sum{model_name="chat",target_model_name="llama"} 40`,
		`inference_model_prompt_cached_tokens_sum{model_name="chat",target_model_name="llama"} 320`,
		`inference_extension_scheduler_e2e_duration_seconds_count 1`,
		`inference_extension_scheduler_attempts_total{status="success"} 1`,
		`inference_extension_prefix_indexer_hit_ratio_sum 0.5`,
		`inference_extension_prefix_indexer_hit_bytes_sum 320`,
		`inference_extension_info{build_ref="v1.2.3",commit="abc"} 1`,
		`pilotfish_picks_total{reason="prefix"} 1`,
		`pilotfish_request_ends_total{end="completed"} 1`,
		`pilotfish_predicted_cached_tokens_total 300`,
		`pilotfish_reported_cached_tokens_total 320`,
	)
}

func TestErrorsByKind(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := New(reg, Build{})
	finish(m, "chat", 200)
	finish(m, "chat", 500)
	m.Refused("chat", "chat", 503)
	m.Refused("chat", "chat", 429)
	m.Refused("chat", "chat", 413)

	expect(
		t, reg,
		`inference_model_request_total{model_name="chat",target_model_name="chat"} 5`,
		`inference_model_request_error_total{error_code="ModelServerError",model_name="chat",target_model_name="chat"} 1`,
		`inference_model_request_error_total{error_code="ServiceUnavailable",model_name="chat",target_model_name="chat"} 1`,
		`inference_model_request_error_total{error_code="InferencePoolResourceExhausted",model_name="chat",target_model_name="chat"} 1`,
		`inference_model_request_error_total{error_code="BadRequest",model_name="chat",target_model_name="chat"} 1`,
		`inference_extension_scheduler_attempts_total{status="failure"} 2`,
	)
}

func TestClientsCannotAddSeries(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := New(reg, Build{})

	// Names that engines don't know, that no label can hold, and that pose as the rest.
	for i := range 1000 {
		finish(m, fmt.Sprintf("made-up-%d", i), 404)
	}
	finish(m, strings.Repeat("x", 10_000), 200)
	finish(m, "other", 200)
	finish(m, "a\xffb", 200)
	finish(m, "", 200)
	names := modelNames(t, reg)
	if diff := cmp.Diff([]string{"a�b", "other", "unknown"}, names); diff != "" {
		t.Error(diff)
	}

	// A pool that is down: names are shown while there is room, and make way for those that turn out to exist.
	for i := range 500 {
		finish(m, fmt.Sprintf("while-down-%d", i), 503)
	}
	for i := range 60 {
		finish(m, fmt.Sprintf("real-%d", i), 200)
	}
	names = modelNames(t, reg)
	reals := 0
	for _, name := range names {
		if strings.HasPrefix(name, "real-") {
			reals++
		}
	}
	if len(names) != maxModels+1 || reals != 60 {
		t.Errorf("%d names, %d of them of real models; want %d with the rest, and all 60", len(names), reals, maxModels+1)
	}

	// When all places are taken by proven ones, what is new counts with the rest.
	for i := range 200 {
		finish(m, fmt.Sprintf("late-%d", i), 200)
	}
	if n := len(modelNames(t, reg)); n != maxModels+1 {
		t.Errorf("%d names, want %d", n, maxModels+1)
	}
}

func TestRunningRequestsReturnToZero(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := New(reg, Build{})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 300 {
				name := fmt.Sprintf("m%d", (g*300+i)%150)
				m.Picked(&Pick{Model: name, Target: name, Reason: "load"})
				m.Finished(&Done{Model: name, Target: name, Status: []int{200, 404, 503, 0}[i%4], End: EndCompleted})
			}
		})
	}
	wg.Wait()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "inference_model_running_requests" {
			continue
		}
		for _, metric := range f.Metric {
			if n := metric.Gauge.GetValue(); n != 0 {
				t.Errorf("%v: %v still running", metric.Label, n)
			}
		}
	}
}

func TestPoolIsReadWhenThePageIsFetched(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := New(reg, Build{})
	pods := []PodLoad{
		{Name: "a", Address: "10.0.0.1:8000", Ready: true, InFlight: 3, Reported: true, Waiting: 4, Running: 2, KVUsage: 0.5, ReportAge: 100 * time.Millisecond},
		{Name: "b", Address: "10.0.0.2:8000", Ready: true, Reported: true, Waiting: 0, Running: 6, KVUsage: 0.1, ReportAge: time.Second},
		{Name: "b", Address: "10.0.0.3:8000", InFlight: 1}, // of the same name, and never heard of
	}
	m.Watch(Sources{
		PoolName: "llama",
		Pods:     func() []PodLoad { return pods },
		Index:    func() IndexSize { return IndexSize{Blocks: 7, Bytes: 300, Evictions: 2} },
		Buffered: func() int64 { return 42 },
		Streams: func() StreamCounts {
			return StreamCounts{
				Open: 5, Malformed: 1, Modes: []ModeCount{{"BUFFERED", "NONE", 9}}, Refused: map[string]int64{"no_endpoints": 3},
			}
		},
		Refused:  func() int { return 1 },
		Interval: func() time.Duration { return 250 * time.Millisecond },
	})
	expect(
		t, reg,
		`inference_pool_ready_pods{name="llama"} 2`,
		`inference_pool_average_queue_size{name="llama"} 2`,
		`inference_pool_average_running_requests{name="llama"} 4`,
		`inference_pool_average_kv_cache_utilization{name="llama"} 0.3`,
		`inference_pool_per_pod_queue_size{model_server_pod="a",name="llama"} 4`,
		`pilotfish_pod_in_flight_requests{model_server_pod="b 10.0.0.3:8000",name="llama"} 1`,
		`pilotfish_scrape_age_seconds{model_server_pod="b",name="llama"} 1`,
		`inference_extension_prefix_indexer_size 7`,
		`pilotfish_prefix_index_bytes 300`,
		`pilotfish_prefix_index_evictions_total 2`,
		`pilotfish_buffered_bytes 42`,
		`pilotfish_streams 5`,
		`pilotfish_streams_total{request_body_mode="BUFFERED",response_body_mode="NONE"} 9`,
		`pilotfish_broken_streams_total{reason="malformed message"} 1`,
		`pilotfish_refusals_total{reason="no_endpoints"} 3`,
		`pilotfish_settings_problems 1`,
		`pilotfish_scrape_interval_seconds 0.25`,
	)
	pods = nil
	if text := page(t, reg); strings.Contains(text, "inference_pool_average") || !strings.Contains(text, `inference_pool_ready_pods{name="llama"} 0`) {
		t.Error("an empty pool has 0 ready pods and no means")
	}
}

func TestPodsThatLeftTakeTheirSeriesAlong(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := New(reg, Build{})
	m.ScrapeFailed("a", "timeout")
	m.ScrapeFailed("a", "refused")
	m.ScrapeFailed("b", "timeout")
	m.PodLeft("a")
	text := page(t, reg)
	if strings.Contains(text, `model_server_pod="a"`) || !strings.Contains(text, `pilotfish_scrape_errors_total{model_server_pod="b",reason="timeout"} 1`) {
		t.Error(text)
	}
}

func TestRequestFamiliesAreShownInBothSpellings(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := New(reg, Build{})
	finish(m, "chat", 200)
	families, err := BothSpellings(reg).Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]int)
	last := ""
	for _, f := range families {
		names[f.GetName()]++
		if f.GetName() <= last {
			t.Errorf("%s after %s", f.GetName(), last)
		}
		last = f.GetName()
	}
	for _, name := range []string{"request_total", "request_duration_seconds", "running_requests", "input_tokens"} {
		if names["inference_model_"+name] != 1 || names["inference_objective_"+name] != 1 {
			t.Errorf("%s: %d and %d families", name, names["inference_model_"+name], names["inference_objective_"+name])
		}
	}
}

func TestBucketsAreRound(t *testing.T) {
	want := []float64{0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1}
	got := steps(0.005, 1)
	if len(got) != len(want) {
		t.Fatalf("%v, want %v", got, want)
	}
	for i := range want {
		if diff := got[i]/want[i] - 1; diff > 1e-12 || diff < -1e-12 {
			t.Errorf("bound %d is %v, want %v", i, got[i], want[i])
		}
	}
}

// One request's observations must take less than a microsecond and allocate nothing.
func BenchmarkOneRequest(b *testing.B) {
	m := New(prometheus.NewRegistry(), Build{})
	finish(m, "meta-llama/Llama-3.1-8B-Instruct", 200)
	pick := Pick{
		Model: "meta-llama/Llama-3.1-8B-Instruct", Target: "meta-llama/Llama-3.1-8B-Instruct", Reason: "prefix",
		Latency: 30 * time.Microsecond, Blocks: 100, Matched: 80, BlockSize: 64,
	}
	done := Done{
		Model: pick.Model, Target: pick.Target, Status: 200, End: EndCompleted, RequestBytes: 8000, ResponseBytes: 2000,
		Duration: 2 * time.Second, FirstToken: 100 * time.Millisecond, HasUsage: true, Prompt: 2000, Cached: 1600,
		Completion: 200, Predicted: 1500,
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		pick, done := pick, done
		for pb.Next() {
			m.Picked(&pick)
			m.Finished(&done)
		}
	})
}

func TestOneRequestAllocatesNothing(t *testing.T) {
	m := New(prometheus.NewRegistry(), Build{})
	finish(m, "chat", 200)
	pick, done := Pick{Model: "chat", Target: "chat", Reason: "load", Blocks: 1}, Done{Model: "chat", Target: "chat", Status: 200, End: EndCompleted, HasUsage: true}
	if n := testing.AllocsPerRun(1000, func() {
		m.Picked(&pick)
		m.Finished(&done)
		m.Refused("chat", "chat", 503)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func finish(m *Metrics, model string, status int) {
	m.Picked(&Pick{Model: model, Target: model, Reason: "load"})
	m.Finished(&Done{Model: model, Target: model, Status: status, End: EndCompleted})
}

// modelNames lists the model names that the page has for requests.
func modelNames(t *testing.T, g prometheus.Gatherer) []string {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range families {
		if f.GetName() != "inference_model_request_total" {
			continue
		}
		for _, metric := range f.Metric {
			names = append(names, metric.Label[0].GetValue())
		}
	}
	return names
}

func page(t *testing.T, g prometheus.Gatherer) string {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

func expect(t *testing.T, g prometheus.Gatherer, lines ...string) {
	t.Helper()
	text := "\n" + page(t, g)
	for _, line := range lines {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("not on the page: %s", line)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}
