package metrics

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Whether a page's series are remembered or new, each page tells its own numbers.
func TestPagesOneAfterTheOther(t *testing.T) {
	const lora = `vllm:lora_requests_info{max_lora="8",running_lora_adapters="%",waiting_lora_adapters=""} `
	pages := []struct {
		text     string
		running  int
		usage    float64
		adapters string
		recalled bool
	}{
		{"vllm:num_requests_running 1\nvllm:kv_cache_usage_perc 0.25\n", 1, 0.25, "", false},
		{"vllm:num_requests_running 2\nvllm:kv_cache_usage_perc 5e-1\n", 2, 0.5, "", true},
		{"vllm:num_requests_running 3\nvllm:kv_cache_usage_perc NaN\n", 3, 0, "", false},
		{"vllm:num_requests_running 4\nvllm:kv_cache_usage_perc 0.75\n", 4, 0.75, "", true},
		{"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 5\n", 5, 0, "", false},
		{"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 6\n", 6, 0, "", true},
		{"# TYPE vllm:num_requests_running histogram\nvllm:num_requests_running 6\nvllm:num_requests_running_count 6\nvllm:num_requests_waiting 0\n", 0, 0, "", false},
		{"# TYPE vllm:num_requests_running histogram\nvllm:num_requests_running 7\nvllm:num_requests_running_count 7\nvllm:num_requests_waiting 0\n", 0, 0, "", false},
		{"vllm:num_requests_running 7\n" + strings.Replace(lora, "%", "} 9", 1) + "8\n", 7, 0, "} 9", false},
		{"vllm:num_requests_running 8\n" + strings.Replace(lora, "%", "} 9", 1) + "9\n", 8, 0, "} 9", true},
		{"vllm:num_requests_running 9\n" + strings.Replace(lora, "%", "a", 1) + "9\n", 9, 0, "a", false},
		{"vllm:num_requests_running{engine=\"0\"} 10\nvllm:num_requests_running{engine=\"1\"} 20\n", 30, 0, "", false},
		{"vllm:num_requests_running{engine=\"1\"} 10\nvllm:num_requests_running{engine=\"0\"} 20\n", 30, 0, "", false},
		{"vllm:num_requests_running{engine=\"1\"} 11 1700000000000\nvllm:num_requests_running{engine=\"0\"} 22\n", 33, 0, "", false},
		{"vllm:num_requests_running{engine=\"1\"}\t12\nvllm:num_requests_running{engine=\"0\"}  +22 \n", 34, 0, "", true},
		{"{\"vllm:num_requests_running\"} 35\n", 35, 0, "", false},
	}
	vllm, f := known(t, "vllm")
	w, m := newWorkspace(), &memory{}
	for _, page := range pages {
		var before *float64
		if len(m.values) > 0 {
			before = m.values[0]
		}
		got, err := w.read(strings.NewReader(page.text), vllm, f, m, &clock{})
		if err != nil {
			t.Fatalf("%v of\n%s", err, page.text)
		}
		if adapters := strings.Join(got.Adapters, ","); got.Running != page.running || got.KVUsage != page.usage || adapters != page.adapters {
			t.Errorf("%d running, usage %v, adapters %q of\n%s", got.Running, got.KVUsage, adapters, page.text)
		}
		recalled := w.shape.take(w.kept) && before != nil && len(m.values) > 0 && m.values[0] == before
		if recalled != page.recalled {
			t.Errorf("recalled: %v\n%s", recalled, page.text)
		}
	}
}

func TestLinesOfTheUsualForm(t *testing.T) {
	usual := []string{"m 1", "  m\t-1.5e+3 ", "m{} 0", "m+1", "m.5", "m{}-2", `m{a="}",b="\"} 2"} 3`, "# TYPE m gauge"}
	other := []string{"m{", `m{a="b"`, "m NaN", "m +Inf", "m 1 2", "m 0x1p-2", "m 1_0", "m 1\r", "m -", "m 1 # {} 1", `{"m"} 1`, "m many"}
	var s shape
	for _, line := range slices.Concat(usual, other) {
		if got, want := s.take([]byte(line+"\n")), slices.Contains(usual, line); got != want {
			t.Errorf("%s: usual %v, want %v", line, got, want)
		}
	}
}

// otherValues gives page with other numbers at the ends of its lines.
func otherValues(page []byte) []byte {
	return bytes.ReplaceAll(regexp.MustCompile(`(?m) [0-9.]+$`).ReplaceAll(page, []byte(" 3")), []byte(" 3\n"), []byte(" 3.5\n"))
}
