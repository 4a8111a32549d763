package enginesim

import (
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// TestPagesTellTheLoad: with one running and two waiting requests, each runtime says so by its own names.
func TestPagesTellTheLoad(t *testing.T) {
	for _, c := range []struct {
		runtime          string
		running, waiting string
		usage, blockSize string
	}{
		{VLLM, "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", `vllm:cache_config_info{block_size=16}`},
		{SGLang, "sglang:num_running_reqs", "sglang:num_queue_reqs", "sglang:token_usage", `sglang:cache_config_info{page_size=16}`},
		{TRTLLM, "nv_trt_llm_request_metrics{request_type=scheduled}", "nv_trt_llm_request_metrics{request_type=waiting}", "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=fraction}", "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=max}"},
	} {
		t.Run(c.runtime, func(t *testing.T) {
			// A step takes an hour, so the load stays as it is.
			s := start(t, Options{Runtime: c.runtime, Profile: Profile{
				Steps: StepModel{Base: 3_600_000}, KVTokens: 101 * BlockTokens, MaxBatchedTokens: 512, MaxSeqs: 1, MaxModelLen: 500,
			}})
			before := scrape(t, s)
			if value(t, before, c.running) != 0 || value(t, before, c.waiting) != 0 || value(t, before, c.usage) != 0 {
				t.Error("an idle engine has load")
			}
			for range 3 {
				occupy(t, s, strings.Repeat("abcd", 320)) // 20 of 100 blocks
			}
			eventually(t, "three requests are there", func() bool { n := s.Stats(); return n.Running == 1 && n.Waiting == 2 })
			page := scrape(t, s)
			if got := value(t, page, c.running); got != 1 {
				t.Errorf("%s is %g, want 1", c.running, got)
			}
			if got := value(t, page, c.waiting); got != 2 {
				t.Errorf("%s is %g, want 2", c.waiting, got)
			}
			if got := value(t, page, c.usage); got < 0.1999 || got > 0.2001 {
				t.Errorf("%s is %g, want 0.2", c.usage, got)
			}
			if got := value(t, page, c.blockSize); got < 1 {
				t.Errorf("%s is %g", c.blockSize, got)
			}
		})
	}
}

func TestVLLMCounters(t *testing.T) {
	s := start(t, Options{Speed: 1000})
	for range 3 {
		post(t, s, "/v1/completions", `{"prompt":"`+strings.Repeat("abcd", 100)+`","max_tokens":10}`)
	}
	page := scrape(t, s)
	for name, want := range map[string]float64{
		"vllm:prefix_cache_queries_total":                                  300,
		"vllm:prefix_cache_hits_total":                                     192,
		"vllm:prompt_tokens_by_source_total{source=local_compute}":         108,
		"vllm:prompt_tokens_by_source_total{source=local_cache_hit}":       192,
		"vllm:generation_tokens_total":                                     30,
		"vllm:request_success_total{finished_reason=length}":               3,
		"vllm:num_requests_waiting_by_reason{reason=capacity}":             0,
		"vllm:engine_sleep_state{sleep_state=awake}":                       1,
		"vllm:cache_config_info{num_gpu_blocks=29205}":                     1,
		"vllm:num_requests_running{engine=0,model_name=sim}":               0,
		"process_start_time_seconds":                                       float64(s.started.UnixMicro()) / 1e6,
		"vllm:prompt_tokens_cached_by_source_total{source=device}":         192,
		"vllm:request_success_total{finished_reason=abort,model_name=sim}": 0,
	} {
		if got := value(t, page, name); got != want {
			t.Errorf("%s is %f, want %f", name, got, want)
		}
	}
	for name, want := range map[string]uint64{
		"vllm:time_to_first_token_seconds": 3, "vllm:inter_token_latency_seconds": 27,
		"vllm:e2e_request_latency_seconds": 3, "vllm:request_prompt_tokens": 3,
	} {
		if got := page[name].GetMetric()[0].GetHistogram().GetSampleCount(); got != want {
			t.Errorf("%s has %d observations, want %d", name, got, want)
		}
	}
}

// TestVLLMPageHasTheRealShape compares with a page of vLLM 0.32: every vllm family of it is here, with the same type,
// label names and buckets, and nothing more.
func TestVLLMPageHasTheRealShape(t *testing.T) {
	f, err := os.Open("../../../shared/real-vllm/captured/metrics_idle.txt")
	if err != nil {
		t.Skip("the page of a real vLLM is not here: ", err)
	}
	defer f.Close()
	real := parse(t, f)
	s := start(t, Options{})
	page := scrape(t, s)
	for name, want := range real {
		if !strings.HasPrefix(name, "vllm:") {
			continue
		}
		got := page[name]
		if got == nil {
			t.Errorf("%s is missing", name)
			continue
		}
		if a, b := shape(got), shape(want); a != b {
			t.Errorf("%s\ngot  %s\nwant %s", name, a, b)
		}
	}
	for name := range page {
		if strings.HasPrefix(name, "vllm:") && real[name] == nil {
			t.Errorf("%s is not on a real page", name)
		}
	}
}

func TestAdapterSeries(t *testing.T) {
	s := start(t, Options{Adapters: []string{"a", "b"}, MaxAdapters: 1, Profile: Profile{
		Steps: StepModel{Base: 3_600_000}, KVTokens: 10_000, MaxBatchedTokens: 512, MaxSeqs: 8, MaxModelLen: 500,
	}})
	if got := value(t, scrape(t, s), "vllm:lora_requests_info{max_lora=1,running_lora_adapters=,waiting_lora_adapters=}"); got == 0 {
		t.Error("no series before the first request")
	}
	occupyModel(t, s, "a", "hello")
	eventually(t, "a runs", func() bool { return s.Stats().Running == 1 })
	occupyModel(t, s, "b", "hello")
	eventually(t, "b waits", func() bool { return s.Stats().Waiting == 1 })
	page := scrape(t, s)
	idle := value(t, page, "vllm:lora_requests_info{running_lora_adapters=,waiting_lora_adapters=}")
	busy := value(t, page, "vllm:lora_requests_info{running_lora_adapters=a,waiting_lora_adapters=b}")
	if busy <= idle {
		t.Errorf("the latest series has the value %f, an older one %f", busy, idle)
	}
	if got := value(t, page, "vllm:num_requests_waiting_by_reason{reason=deferred}"); got != 1 {
		t.Errorf("%g deferred requests, want 1", got)
	}
}

func TestMetricsOnTheirOwnPort(t *testing.T) {
	s := start(t, Options{Runtime: TRTLLM, MetricsAddress: "127.0.0.1:0"})
	if s.MetricsAddr() == s.Addr() {
		t.Fatal("one address for both")
	}
	r, err := http.Get("http://" + s.MetricsAddr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if page := parse(t, r.Body); value(t, page, "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=tokens_per}") != 16 {
		t.Error("no block size")
	}
	if status, _, _ := send(t, s, http.MethodGet, "/metrics", "", nil); status != http.StatusNotFound {
		t.Errorf("the API's port answers /metrics with %d", status)
	}
}

func TestPadding(t *testing.T) {
	for _, runtime := range []string{VLLM, SGLang, TRTLLM} {
		for _, size := range []int{100_000, 100_001, 1 << 20} {
			s := start(t, Options{Runtime: runtime, MetricsBytes: size})
			_, _, body := send(t, s, http.MethodGet, "/metrics", "", nil)
			if len(body) != size {
				t.Errorf("%s: page of %d bytes, want %d", runtime, len(body), size)
			}
			parse(t, strings.NewReader(body))
		}
	}
}

func TestLoadHeader(t *testing.T) {
	const ask, name = "endpoint-load-metrics-format", "endpoint-load-metrics"
	s := start(t, Options{Speed: 1000})
	for _, c := range []struct{ format, body, want string }{
		{"JSON", `{"prompt":"hello"}`, `JSON {"named_metrics": {"num_requests_waiting": 0.0, "kv_cache_usage_perc": 0.0}}`},
		{"TEXT", `{"prompt":"hello"}`, "TEXT named_metrics.num_requests_waiting=0.0, named_metrics.kv_cache_usage_perc=0.0"},
		{"JSON", `{"prompt":"hello","stream":true}`, ""},
		{"", `{"prompt":"hello"}`, ""},
	} {
		_, header, _ := send(t, s, http.MethodPost, "/v1/completions", c.body, http.Header{http.CanonicalHeaderKey(ask): {c.format}})
		if got := header.Get(name); got != c.want {
			t.Errorf("%s %s: header %q, want %q", c.format, c.body, got, c.want)
		}
	}
	for _, opt := range []Options{{Speed: 1000, DisableORCA: true}, {Speed: 1000, Runtime: SGLang}} {
		_, header, _ := send(t, start(t, opt), http.MethodPost, "/v1/completions", `{"prompt":"hello"}`, http.Header{http.CanonicalHeaderKey(ask): {"JSON"}})
		if got := header.Get(name); got != "" {
			t.Errorf("header %q from an engine that doesn't have it", got)
		}
	}
}

func BenchmarkVLLMPage(b *testing.B) {
	s, err := New(Options{})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		b.SetBytes(int64(len(s.metricsPage())))
	}
}

func scrape(t *testing.T, s *Server) map[string]*dto.MetricFamily {
	t.Helper()
	status, _, body := send(t, s, http.MethodGet, "/metrics", "", nil)
	if status != http.StatusOK {
		t.Fatalf("metrics: status %d", status)
	}
	return parse(t, strings.NewReader(body))
}

func parse(t *testing.T, r io.Reader) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(r)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// value is the one sample of name{label=value,…}, whatever other labels it has.
func value(t *testing.T, families map[string]*dto.MetricFamily, spec string) float64 {
	t.Helper()
	name, labels, _ := strings.Cut(strings.TrimSuffix(spec, "}"), "{")
	var found []*dto.Metric
	for _, m := range families[name].GetMetric() {
		has := map[string]string{}
		for _, l := range m.GetLabel() {
			has[l.GetName()] = l.GetValue()
		}
		fits := true
		for want := range strings.SplitSeq(labels, ",") {
			key, v, isLabel := strings.Cut(want, "=")
			fits = fits && (!isLabel || has[key] == v)
		}
		if fits {
			found = append(found, m)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d samples of %s", len(found), spec)
	}
	return found[0].GetGauge().GetValue() + found[0].GetCounter().GetValue()
}

// shape is what has to agree between two pages: type, label names, known label values, buckets.
func shape(f *dto.MetricFamily) string {
	parts := []string{f.GetType().String()}
	for _, m := range f.GetMetric() {
		labels := map[string]string{}
		for _, l := range m.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		delete(labels, "model_name")
		if f.GetName() == "vllm:cache_config_info" {
			// The real one lists the whole configuration; what routers read has to be there.
			labels = map[string]string{"block_size": "", "num_gpu_blocks": "", "engine": labels["engine"]}
		}
		for _, key := range slices.Sorted(maps.Keys(labels)) {
			parts = append(parts, key+"="+labels[key])
		}
		for _, b := range m.GetHistogram().GetBucket() {
			if b.GetUpperBound() <= 10_000 { // beyond, they depend on the longest request
				parts = append(parts, string(appendFloat(nil, b.GetUpperBound())))
			}
		}
	}
	return strings.Join(parts, " ")
}

// occupy sends a request that stays under way until the server closes.
func occupy(t *testing.T, s *Server, prompt string) {
	t.Helper()
	occupyModel(t, s, "sim", prompt)
}

func occupyModel(t *testing.T, s *Server, name, prompt string) {
	t.Helper()
	go func() {
		r, err := http.Post("http://"+s.Addr()+"/v1/completions", "application/json", strings.NewReader(`{"model":"`+name+`","prompt":"`+prompt+`","max_tokens":10}`))
		if err == nil {
			_ = r.Body.Close()
		}
	}()
}
