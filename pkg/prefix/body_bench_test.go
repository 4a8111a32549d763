package prefix_test

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/prefix"
	"github.com/pilotfish-epp/pilotfish/pkg/request"
	"github.com/pilotfish-epp/pilotfish/pkg/request/requesttest"
)

// wholePrompt is a number of blocks that no body here exceeds, so that every byte is hashed.
const wholePrompt = 65535

func benchmarkBodies() map[string][]byte {
	bodies := map[string][]byte{}
	for _, kib := range []int{1, 8, 64} {
		bodies[fmt.Sprintf("%dKB", kib)] = requesttest.Chat(kib<<10, kib)
	}
	return bodies
}

var bodySizes = []string{"1KB", "8KB", "64KB"}

func BenchmarkParse(b *testing.B) {
	bodies := benchmarkBodies()
	for _, size := range bodySizes {
		b.Run(size, func(b *testing.B) { benchmarkParse(b, bodies[size]) })
	}
}

func benchmarkParse(b *testing.B, body []byte) {
	var r request.Request
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	defer measureCPU(b, len(body))()
	for b.Loop() {
		if err := r.Parse(request.Chat, "/v1/chat/completions", body, false); err != nil {
			b.Fatal(err)
		}
	}
}

// measureCPU starts to count the process's CPU time; the function it returns reports it as cpu-ns for each operation and, if bytes isn't
// 0, as bytes a second. On a machine with other work that says more than the time that passed.
func measureCPU(b *testing.B, bytes int) func() {
	b.Helper()
	start := cpuTime(b)
	return func() {
		each := float64((cpuTime(b) - start).Nanoseconds()) / float64(b.N)
		b.ReportMetric(each, "cpu-ns/op")
		if bytes > 0 {
			b.ReportMetric(float64(bytes)/each, "cpu-GB/s")
		}
	}
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

type textBytes struct{ text []byte }

func (t *textBytes) Text(p []byte) bool {
	t.text = append(t.text, p...)
	return true
}

func BenchmarkHash(b *testing.B) {
	bodies := benchmarkBodies()
	for _, size := range bodySizes {
		b.Run(size, func(b *testing.B) {
			var r request.Request
			if err := r.Parse(request.Chat, "/v1/chat/completions", bodies[size], false); err != nil {
				b.Fatal(err)
			}
			var text textBytes
			r.Prompt(&text)
			var h prefix.Hasher
			var sum []uint64
			b.ReportAllocs()
			b.SetBytes(int64(len(text.text)))
			defer measureCPU(b, len(text.text))()
			for b.Loop() {
				h.Reset(64, wholePrompt, sum, r.Model, nil)
				h.Text(text.text)
				sum = h.Sum()
			}
		})
	}
}

// BenchmarkParseHash does what each request costs: parse the body, hash its prompt. Every byte of the prompt is hashed; with the default of
// 128 blocks the hashing of a long prompt ends after 8 KB.
func BenchmarkParseHash(b *testing.B) {
	bodies := benchmarkBodies()
	for _, size := range bodySizes {
		b.Run(size, func(b *testing.B) { benchmarkParseHash(b, wholePrompt, bodies[size]) })
	}
	b.Run("64KB-prose", func(b *testing.B) {
		benchmarkParseHash(b, wholePrompt, prose(64<<10))
	})
	b.Run("64KB-128-blocks", func(b *testing.B) { benchmarkParseHash(b, 128, bodies["64KB"]) })
	b.Run("tau-bench", func(b *testing.B) {
		benchmarkParseHash(b, wholePrompt, tauBench(b)...)
	})
}

func benchmarkParseHash(b *testing.B, maxBlocks int, bodies ...[]byte) {
	var r request.Request
	var h prefix.Hasher
	var sum []uint64
	var identity []byte
	total := 0
	for _, body := range bodies {
		total += len(body)
	}
	b.ReportAllocs()
	b.SetBytes(int64(total))
	defer measureCPU(b, total)()
	for b.Loop() {
		for _, body := range bodies {
			if err := r.Parse(request.Chat, "/v1/chat/completions", body, false); err != nil {
				b.Fatal(err)
			}
			identity = r.Identity(identity[:0])
			h.Reset(64, maxBlocks, sum, r.Model, identity)
			r.Prompt(&h)
			sum = h.Sum()
		}
	}
}

// prose returns a body with few escapes: paragraphs of a long document and a question.
func prose(size int) []byte {
	const paragraph = "The committee met again in the spring, when the roads were open, and heard the reports of the three surveyors. None of them " +
		"agreed with the others about the height of the pass; all agreed that the old bridge would not carry the new engines. It was decided " +
		"to wait for the results of the summer, and to ask the neighbouring county whether it would share the expense of a second line.\\n\\n"
	text := strings.Repeat(paragraph, size/len(paragraph))
	return []byte(`{"model":"meta-llama/Llama-3.1-8B-Instruct","messages":[{"role":"user","content":"` + text + `What was decided?"}]}`)
}

// tauBench returns the last call of each of 50 real tool-calling conversations.
func tauBench(b testing.TB) [][]byte {
	b.Helper()
	f, err := os.Open("../../../shared/traces/taubench_airline_gpt4o.json.gz")
	if err != nil {
		b.Skip("the tau-bench trace isn't here: ", err)
	}
	defer func() { _ = f.Close() }()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		b.Fatal(err)
	}
	var conversations []struct {
		Traj []json.RawMessage `json:"traj"`
	}
	if err := json.NewDecoder(unzipped).Decode(&conversations); err != nil {
		b.Fatal(err)
	}
	var bodies [][]byte
	for _, c := range conversations[:50] {
		bodies = append(bodies, requesttest.ChatOf("gpt-4o", c.Traj))
	}
	return bodies
}
