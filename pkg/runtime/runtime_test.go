package runtime

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

const started = "process_start_time_seconds"

// What each real or written page says. Fixtures tell their origin in their first lines; the two of vLLM 0.32 are as a
// real server gave them.
func TestPages(t *testing.T) {
	noAdapters := []string{"vllm:lora_requests_info"}
	tests := []struct {
		runtime, page string
		want          Reading
	}{
		{"vllm", "vllm_0.32_idle.txt", Reading{
			BlockSize: 128, KVTokens: 524288, Started: 1.79537887924e+09, Absent: noAdapters,
		}},
		{"vllm", "vllm_0.32_saturated.txt", Reading{
			Waiting: 20, Running: 4, KVUsage: 0.40734557595993326, BlockSize: 32, KVTokens: 19200,
			Started: 1.79537918043e+09, Absent: noAdapters,
		}},
		{"vllm", "vllm_0.6.4_v0.txt", Reading{
			Waiting: 3, Running: 7, KVUsage: 0.35, BlockSize: 16, KVTokens: 16 * 11560,
			MaxAdapters: 4, Adapters: []string{"sql", "chat", "code"},
			Absent: []string{"vllm:engine_sleep_state", started},
		}},
		{"vllm", "vllm_0.10_two_engines.txt", Reading{
			Waiting: 2, Running: 8, KVUsage: 0.375, BlockSize: 16, KVTokens: 16 * 1900,
			Absent: []string{"vllm:lora_requests_info", started},
		}},
		{"sglang", "sglang_0.3.6.txt", Reading{
			Waiting: 2826, Running: 162, KVUsage: 0.28,
			Missing: []string{"sglang:num_pages or sglang:cache_config_info"}, Absent: []string{started},
		}},
		{"sglang", "sglang_0.5.9_dp2.txt", Reading{
			Waiting: 9, Running: 7, KVUsage: 0.5, BlockSize: 16, KVTokens: 16 * 24900, Absent: []string{started},
		}},
		{"sglang", "sglang_0.5.16.txt", Reading{
			Waiting: 4, Running: 12, KVUsage: 0.91, BlockSize: 16, KVTokens: 1000000, Absent: []string{started},
		}},
		{"trt-llm", "triton_25.03.txt", Reading{
			Waiting: 3, Running: 4, KVUsage: 0.4875, BlockSize: 64, KVTokens: 64 * 6239, Absent: []string{started},
		}},
		{"trt-llm", "triton_older.txt", Reading{
			Waiting: 3, Running: 5, KVUsage: 0.25, BlockSize: 64, KVTokens: 64 * 2000, Absent: []string{started},
		}},
		{"trt-llm", "trtllm-serve_1.3.txt", Reading{
			Waiting: 1, Running: 3, KVUsage: 0.42, BlockSize: 32, KVTokens: 32 * 19960, Absent: []string{started},
		}},
	}
	for _, test := range tests {
		t.Run(test.page, func(t *testing.T) {
			text, err := os.ReadFile("testdata/" + test.page)
			if err != nil {
				t.Fatal(err)
			}
			got, err := lookup(t, test.runtime).Read(parse(t, string(text)))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestValuesThatCannotBeCountAsNotSaid(t *testing.T) {
	const sane = "vllm:num_requests_running 3\nvllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"10\"} 1\n"
	tests := []struct {
		name, page string
		want       Reading
	}{
		{"NaN", "vllm:num_requests_waiting NaN\nvllm:kv_cache_usage_perc 0.5\n", Reading{KVUsage: 0.5}},
		{"negative", "vllm:num_requests_waiting -3\nvllm:kv_cache_usage_perc -0.5\n", Reading{}},
		{"infinite", "vllm:num_requests_waiting +Inf\nvllm:kv_cache_usage_perc +Inf\n", Reading{}},
		{"huge", "vllm:num_requests_waiting 1e300\nvllm:kv_cache_usage_perc 1e300\n", Reading{}},
		{"one engine of two", "vllm:num_requests_waiting{engine=\"0\"} NaN\nvllm:num_requests_waiting{engine=\"1\"} 4\n", Reading{Waiting: 4}},
		{"a share above one is full", "vllm:num_requests_waiting 1\nvllm:kv_cache_usage_perc 1.04\n", Reading{Waiting: 1, KVUsage: 1}},
		{"a percentage is no share", "vllm:num_requests_waiting 1\nvllm:kv_cache_usage_perc 83\n", Reading{Waiting: 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.want.Running, test.want.BlockSize, test.want.KVTokens = 3, 16, 160
			got, err := lookup(t, "vllm").Read(parse(t, sane+test.page))
			if err != nil {
				t.Fatal(err)
			}
			got.Missing, got.Absent = nil, nil
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestOddLabels(t *testing.T) {
	tests := []struct {
		name, info string
		block, kv  int
	}{
		{"before the cache is sized", `block_size="16",num_gpu_blocks="None"`, 16, 0},
		{"size in tokens goes before the product", `block_size="16",num_gpu_blocks="10",kv_cache_size_tokens="155"`, 16, 155},
		{"not a number", `block_size="many",num_gpu_blocks="10"`, 0, 0},
		{"negative", `block_size="-16",num_gpu_blocks="10"`, 0, 0},
		{"larger than can be", `block_size="9007199254740992",num_gpu_blocks="9007199254740992"`, most, most},
		{"no labels", ``, 0, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := lookup(t, "vllm").Read(parse(t, "vllm:num_requests_running 0\nvllm:cache_config_info{"+test.info+"} 1\n"))
			if err != nil {
				t.Fatal(err)
			}
			if got.BlockSize != test.block || got.KVTokens != test.kv {
				t.Errorf("block size %d, KV tokens %d; want %d, %d", got.BlockSize, got.KVTokens, test.block, test.kv)
			}
		})
	}
}

func TestSleepingServer(t *testing.T) {
	got, err := lookup(t, "vllm").Read(parse(t, `vllm:num_requests_running 0
vllm:engine_sleep_state{engine="0",sleep_state="awake"} 0
vllm:engine_sleep_state{engine="0",sleep_state="weights_offloaded"} 1
`))
	if err != nil || !got.Asleep {
		t.Errorf("asleep %v, %v", got.Asleep, err)
	}
}

func TestPageOfAnotherServerIsAnError(t *testing.T) {
	_, err := lookup(t, "vllm").Read(parse(t, "sglang:num_queue_reqs 3\n"))
	want := "expected vllm:num_requests_waiting or vllm:num_requests_running of a vllm server, found only sglang:num_queue_reqs"
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	_, err = lookup(t, "trt-llm").Read(Page{})
	if err == nil || !strings.HasSuffix(err.Error(), "found none of its metrics") {
		t.Errorf("got %v", err)
	}
}

func TestLookup(t *testing.T) {
	if _, err := Lookup("vlm"); err == nil || err.Error() != `expected a model server runtime of vllm, sglang, trt-llm, got "vlm"` {
		t.Errorf("got %v", err)
	}
	for _, name := range Names() {
		s := lookup(t, name)
		if s.Name != name || len(s.Families) == 0 || len(s.Paths) == 0 || slices.Contains(s.Families, "") {
			t.Errorf("%s is incomplete: %+v", name, s)
		}
	}
	if port := lookup(t, "vllm").MetricsPort(8000); port != 8000 {
		t.Errorf("vllm's metrics port is %d", port)
	}
	if port := lookup(t, "trt-llm").MetricsPort(8000); port != 8002 {
		t.Errorf("trt-llm's metrics port is %d", port)
	}
}

func lookup(t *testing.T, name string) *Server {
	t.Helper()
	s, err := Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func parse(t *testing.T, text string) Page {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	page, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return page
}
