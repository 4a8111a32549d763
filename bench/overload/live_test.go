package overload

import (
	"bytes"
	"context"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestWhatWaitsIsReadFromThePickersPage(t *testing.T) {
	q := readQueue([]byte(`# TYPE inference_extension_flow_control_queue_size gauge
inference_extension_flow_control_queue_size{inference_pool="llama",priority="1"} 3
inference_extension_flow_control_queue_size{inference_pool="llama",priority="0"} 40
inference_extension_flow_control_queue_size{inference_pool="llama",priority="-1"} 500
inference_extension_flow_control_queue_size{inference_pool="llama",priority="-7"} 2
inference_extension_flow_control_queue_bytes{inference_pool="llama",priority="0"} 1.5e+06
inference_extension_flow_control_queue_bytes{inference_pool="llama",priority="-1"} 500000
inference_pool_average_queue_size{name="llama"} 9
`))
	if !q.known || q.waiting != [3]int{3, 40, 502} || q.bytes != 2e6 {
		t.Errorf("%+v", q)
	}
	if q := readQueue([]byte("go_goroutines 12\n")); q.known {
		t.Errorf("a page without a queue gave %+v", q)
	}
}

func TestALineTellsOneSecond(t *testing.T) {
	at := time.Unix(0, 0)
	before := moment{at: at, sent: 100, ended: [outcomes]int{50, 5, 1, 0, 0, 0}}
	now := moment{at: at.Add(2 * time.Second), sent: 460, ended: [outcomes]int{170, 45, 21, 2, 2, 0}, p99: [3]float64{412.4, 0, 30000}}
	line := now.line(before, queueView{known: true, waiting: [3]int{3, 40, 500}, bytes: 2 << 20}, engineView{known: true, waiting: 9, most: 5})
	if got, want := strings.Join(strings.Fields(line), " "), "180 60 20 10 2 3 40 500 2.0 9 5 412 – 30000"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := strings.Join(strings.Fields(now.line(before, queueView{}, engineView{})), " "), "180 60 20 10 2 – – – – – – 412 – 30000"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	heads := strings.Split(liveHead, "\n")
	if got, want := len([]rune(strings.TrimRight(line, "\n"))), len([]rune(heads[2])); got != want {
		t.Errorf("lines have %d characters, the head %d", got, want)
	}
}

func TestOnlyTheLastSecondsCountForTheP99(t *testing.T) {
	l := &live{}
	start := time.Unix(0, 0)
	l.recent = []recentToken{{start, Critical, 9000}, {start.Add(5 * time.Second), Critical, 100}, {start.Add(6 * time.Second), Sheddable, 700}}
	if m := l.take(start.Add(9 * time.Second)); m.p99 != [3]float64{9000, 0, 700} {
		t.Errorf("%v", m.p99)
	}
	if m := l.take(start.Add(12 * time.Second)); m.p99 != [3]float64{100, 0, 700} {
		t.Errorf("%v", m.p99)
	}
	if m := l.take(start.Add(time.Minute)); m.p99 != [3]float64{} || len(l.recent) != 0 {
		t.Errorf("%v, %d kept", m.p99, len(l.recent))
	}
}

// An engine alone can be a target: no picker, no gateway.
func TestDriveShowsWhatAnEngineGives(t *testing.T) {
	o := Options{}.withDefaults()
	profile, err := o.engine()
	if err != nil {
		t.Fatal(err)
	}
	es, err := startEngines(1, profile)
	if err != nil {
		t.Fatal(err)
	}
	defer es.close() //nolint:errcheck // what it had to say is said
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out := &until{cancel: cancel, line: regexp.MustCompile(`(?m)^ +[1-9]\d* +\d+ .*– +– +– +– +\d+ +\d+ `)}
	addr := es[0].Addr()
	if err := Drive(ctx, out, Target{Gateway: addr, Engines: []string{addr}}, LiveOptions{PerSecond: 20}); err != nil {
		t.Fatal(err)
	}
	if !out.seen {
		t.Errorf("no line tells of requests in\n%s", out.out.String())
	}
	if err := Drive(ctx, out, Target{Gateway: addr}, LiveOptions{}); err == nil || !strings.Contains(err.Error(), "more than 0 requests a second") {
		t.Errorf("no load: %v", err)
	}
}

// until cancels once a line has come.
type until struct {
	out    bytes.Buffer
	cancel func()
	line   *regexp.Regexp
	seen   bool
}

func (u *until) Write(p []byte) (int, error) {
	n, err := u.out.Write(p)
	if u.line.Match(u.out.Bytes()) {
		u.seen = true
		u.cancel()
	}
	return n, err
}
