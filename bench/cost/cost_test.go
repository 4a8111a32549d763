package cost

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

// TestMain lets the test binary be the helper processes that Run starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "child" {
		if err := Child(context.Background(), os.Stdout, os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestBodiesAreChatsOfTheSizeThatShareTheirBeginnings(t *testing.T) {
	type message struct{ Role, Content string }
	for _, size := range []int{1 << 10, 8 << 10, 64 << 10} {
		c := newChats(1, size, 32, true)
		total := 0
		systems := map[string]int{}
		questions := map[string]bool{}
		n := len(c.bodies)
		for range n {
			body := c.take()
			var chat struct {
				Model    string
				Stream   bool
				Messages []message
			}
			if err := json.Unmarshal(body, &chat); err != nil {
				t.Fatalf("%d bytes: %v\n%s", size, err, body)
			}
			if !chat.Stream || chat.Messages[0].Role != "system" || chat.Messages[len(chat.Messages)-1].Role != "user" {
				t.Fatalf("%d bytes: not a streamed chat from a system prompt to a question: %.200s", size, body)
			}
			total += len(body)
			systems[chat.Messages[0].Content]++
			questions[chat.Messages[len(chat.Messages)-1].Content] = true
		}
		if mean := total / n; mean < size*97/100 || mean > size*103/100 {
			t.Errorf("bodies have %d bytes in the mean, want %d", mean, size)
		}
		if len(systems) != applications {
			t.Errorf("%d bytes: %d system prompts, want %d", size, len(systems), applications)
		}
		if len(questions) != n {
			t.Errorf("%d bytes: %d of %d questions were new", size, len(questions), n)
		}
	}
}

func TestTheDriverTalksToTheEchoServerAsEnvoyDoes(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- serveEcho(ctx, l, []string{"127.0.0.1:8000"}) }()
	for _, size := range []int{1 << 10, 64 << 10} {
		d, err := newDriver(l.Addr().String(), newChats(1, size, 16, false))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.run(ctx, 100); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		if _, ok := d.responseHeaders.Load("127.0.0.1:8000"); !ok {
			t.Errorf("%d bytes: the destination was not read back", size)
		}
		d.Close()
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("echo server: %v", err)
	}
}

// A server that loses a byte, answers out of order or refuses must not be measured as if it had done the work.
func TestTheDriverTellsWhatIsWrongWithAnAnswer(t *testing.T) {
	headers := marshal(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{}})
	body := func(text string, end bool) []byte {
		return marshal(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestBody{
			RequestBody: back(&extprocv3.HttpBody{Body: []byte(text), EndOfStream: end}),
		}})
	}
	refusal := marshal(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ImmediateResponse{
		ImmediateResponse: &extprocv3.ImmediateResponse{Body: []byte("no endpoint")},
	}})
	for _, c := range []struct {
		name, want string
		replies    [][]byte
	}{
		{"whole", "", [][]byte{headers, body("abc", false), body("", true)}},
		{"other chunks", "", [][]byte{headers, body("a", false), body("bc", true)}},
		{"short", "2 bytes of body came back, 3 were sent", [][]byte{headers, body("ab", true)}},
		{"out of order", "expected an answer to request headers, got an answer to a request body", [][]byte{body("abc", true), headers}},
		{"refused", `got an immediate response: ":\r\x1a\vno endpoint"`, [][]byte{refusal}},
		{"cut", "EOF", [][]byte{headers, body("abc", false)}},
		{"malformed", "malformed", [][]byte{{0xff}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var l lanewise
			_, err := l.receive(&script{replies: c.replies}, replyRequestHeaders, replyRequestBody, len("abc"))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// script is a stream that replies what is written.
type script struct {
	grpc.ClientStream
	replies [][]byte
}

func (s *script) RecvMsg(m any) error {
	if len(s.replies) == 0 {
		return io.EOF
	}
	next := s.replies[0]
	s.replies = s.replies[1:]
	return rawCodec{}.Unmarshal(mem.BufferSlice{mem.SliceBuffer(next)}, m)
}

func TestPodsAnswerMetricsCompletionsAndStreams(t *testing.T) {
	p, err := newPods(2, 40<<10)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	addr := p.Addrs()[1].String()
	for range 3 {
		page, err := get(t.Context(), "http://"+addr+"/metrics")
		if err != nil {
			t.Fatal(err)
		}
		if n := len(page); n < 40<<10 || n > 43<<10 {
			t.Errorf("the page has %d bytes, want 40 KB and at most a histogram more", n)
		}
	}
	if n, err := get(t.Context(), "http://"+addr+servedPath); err != nil || string(n) != "3" {
		t.Errorf("%s pages were counted (%v), want 3", n, err)
	}
	for _, e := range errands {
		if _, err := load(t.Context(), addr, newChats(1, e.kb<<10, 16, e.stream), e, 2); err != nil {
			t.Errorf("%s: %v", e.name, err)
		}
	}
}

func TestMetricsPagesHaveEachFamilyOnce(t *testing.T) {
	seen := map[string]bool{}
	for line := range strings.Lines(string(metricsPage(50 << 10))) {
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, _, _ = strings.Cut(name, " ")
			if seen[name] {
				t.Errorf("%s stands twice on the page", name)
			}
			seen[name] = true
		}
	}
	if !seen["vllm:num_requests_waiting"] || !seen["vllm:kv_cache_usage_perc"] {
		t.Error("the page has not what a picker looks for")
	}
}

func TestHelpersRunAsProcesses(t *testing.T) {
	b := &bench{self: []string{os.Args[0], "child"}}
	err := onStack(func(s *stack.Stack) error {
		pods, err := b.startChild(t.Context(), s, "pods", "pods", "2", "2048")
		if err != nil {
			return err
		}
		if _, err := get(t.Context(), "http://"+pods.addrs[0].String()+"/metrics"); err != nil {
			return err
		}
		if n, err := served(t.Context(), pods); err != nil || n != 1 {
			t.Errorf("%d pages were counted (%v), want 1", n, err)
		}
		used, err := spent(func() error { return nil }, pods.Process)
		if err == nil && (used[0] < 0 || used[0] > 5*time.Second) {
			t.Errorf("an idle process took %v of CPU", used[0])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestEveryVariantTakesEachPlaceInTheRounds(t *testing.T) {
	var order strings.Builder
	_ = inTurn(3, []string{"a", "b", "c"}, func(_ int, v string) error {
		order.WriteString(v)
		return nil
	})
	if got, want := order.String(), "abcbcacab"; got != want {
		t.Errorf("order %s, want %s", got, want)
	}
}

func TestBenchmarksAreReadAndAddedUp(t *testing.T) {
	r := results{}
	r.read([]byte(`goos: linux
BenchmarkMatch/pods=256/blocks=128-2         	  100	      4000 ns/op	       0 B/op	       0 allocs/op
BenchmarkMatch/pods=256/blocks=128-2         	  100	      6000 ns/op	       0 B/op	       0 allocs/op
BenchmarkChoose/pods=256-2                   	  100	      9000 ns/op	       0 B/op	       0 allocs/op
BenchmarkChoose/pods=256-2                   	  100	      7000 ns/op	       0 B/op	       0 allocs/op
PASS
`))
	p := part{name: "pick", unit: "µs", terms: []term{{"Match/pods=256/blocks=128", "ns/op"}, {"Choose/pods=256", "ns/op"}}, scale: 1e-3, limit: 12}
	f, err := p.figure(r)
	if err != nil {
		t.Fatal(err)
	}
	if f.Value.Min != 13 || f.Value.Max != 13 || f.Budget.Met {
		t.Errorf("got %v, budget %v; want 13 and missed", f.Value, f.Budget)
	}
	p.terms = append(p.terms, term{"Gone", "ns/op"})
	if _, err := p.figure(r); err == nil || !strings.Contains(err.Error(), "BenchmarkGone") {
		t.Errorf("a benchmark that is gone gave %v", err)
	}
}

// A budget that is lost on the way to the table would be neither met nor missed, and the run would pass.
func TestNoBudgetIsLost(t *testing.T) {
	one := func() []float64 { return []float64{1} }
	routes := routesThrough(new(stack.Process), new(stack.Process), new(stack.Process))
	for _, r := range routes {
		for i := range errands {
			r.whole[i], r.proxy[i], r.behind[i] = one(), one(), one()
		}
	}
	servers := []*streamServer{{}}
	for _, n := range streamPods {
		servers = append(servers, &streamServer{pods: n})
	}
	for _, s := range servers {
		for range streamSizes {
			s.samples = append(s.samples, one())
		}
	}
	for _, c := range []struct {
		name    string
		figures []Figure
		want    []string
	}{
		{"path", pathFigures(routes), []string{
			"1 KB, 128-event SSE answer: lean, picker ≤ 1.10 met",
			"8 KB, short JSON answer: lean, picker ≤ 1.20 met",
		}},
		{"stream", streamFigures(servers), []string{
			"picker, 1 KB, 64 pods ≤ 1.00 met", "picker, 1 KB, growth from 8 to 256 pods ≤ 1.15 met",
			"picker, 8 KB, 64 pods ≤ 1.00 met", "picker, 8 KB, growth from 8 to 256 pods ≤ 1.15 met",
			"picker, 64 KB, 64 pods ≤ 1.00 met", "picker, 64 KB, growth from 8 to 256 pods ≤ 1.15 met",
		}},
	} {
		var got []string
		for _, f := range c.figures {
			if f.Budget != nil {
				got = append(got, f.Case+" "+f.Budget.String())
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: budgets %q, want %q", c.name, got, c.want)
		}
	}
}

func TestReportsReadLikeTables(t *testing.T) {
	f := Figure{Case: "picker, 8 KB", Unit: "CPU-µs/stream", Value: spread([]float64{90, 110, 100})}
	f.against("naive, 8 KB", []float64{90, 110, 100}, []float64{100, 100, 100})
	f.limitRatio(1)
	over := Figure{Case: "idle", Unit: "MB", Value: spread([]float64{41.25})}
	over.limit(40)
	r := Report{Sections: []Section{
		{Name: "stream", Title: "streams", Figures: []Figure{f}},
		{Name: "memory", Title: "memory", Figures: []Figure{over}, Err: "no picker"},
	}, Seconds: 61}
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	tables := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{
		"picker, 8 KB CPU-µs/stream 100 (90.0–110) 1.00 (0.90–1.10) naive, 8 KB ≤ 1.00 met",
		"idle MB 41.2 ≤ 40.0 missed",
		"could not be measured: no picker",
		"1 of 2 budgets met, in 1m1s. missed: memory: idle not measured: memory",
	} {
		if !strings.Contains(tables, want) {
			t.Errorf("the report lacks %q:\n%s", want, b.String())
		}
	}
	b.Reset()
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var again Report
	if err := json.Unmarshal([]byte(b.String()), &again); err != nil || again.Sections[0].Figures[0].Ratio.Median != 1 {
		t.Errorf("JSON does not read back (%v):\n%s", err, b.String())
	}
}
