package scheduling

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/pool"
)

var now = time.Unix(1_700_000_000, 0)

// fleet makes pods named a, b, c… with the given loads.
func fleet(loads ...pool.Load) []*pool.Pod {
	pods := make([]*pool.Pod, len(loads))
	for i := range loads {
		pods[i] = &pool.Pod{
			ID: uint32(i), Load: &loads[i],
			Endpoint: pool.Endpoint{Name: string(rune('a' + i)), Address: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(1+i))},
		}
	}
	return pods
}

// reported is a pod that was read a moment ago.
func reported(waiting, running int, kv float64) pool.Load {
	return pool.Load{HasReport: true, Report: pool.Report{
		Taken: pool.At(now.Add(-10 * time.Millisecond)), Waiting: waiting, Running: running, KVUsage: kv, KVTokens: 400_000,
	}}
}

func with(l pool.Load, changes ...func(*pool.Load)) pool.Load {
	for _, change := range changes {
		change(&l)
	}
	return l
}

// queued gives a pod prefill to do for so long.
func queued(d time.Duration) func(*pool.Load) {
	return func(l *pool.Load) { l.PrefillUntil, l.PrefillPending = pool.At(now.Add(d)), d }
}

func strategy(prefix bool) *Params {
	return &Params{
		Prefix: prefix, Staleness: 200 * time.Millisecond,
		QueueWeight: 1, KVWeight: 1, PrefixWeight: 1, Beyond: 0.8, Engine: DefaultEngine(),
	}
}

func names(p Pick) string {
	var s []string
	for _, pod := range p.Pods {
		s = append(s, pod.Name)
	}
	return strings.Join(s, " ")
}

func TestPicks(t *testing.T) {
	down := func(l *pool.Load) { l.PageFailures, l.PageFailingSince = pageTries, pool.At(now.Add(-time.Second)) }
	for _, c := range []struct {
		name      string
		pods      []*pool.Pod
		request   Request
		prefix    bool
		fallbacks int
		want      string // picked pods, then the reason
	}{
		{name: "the least loaded wins", pods: fleet(reported(0, 9, .3), reported(0, 2, .1), reported(0, 5, .2)), fallbacks: 2, want: "b c a: load"},
		{name: "waiting requests weigh more than running ones", pods: fleet(reported(5, 5, .3), reported(0, 11, .3)), want: "b: load"},
		{
			name: "what was sent since the report counts", want: "b: load",
			pods: fleet(with(reported(0, 0, 0), func(l *pool.Load) { l.InFlight = 8 }), reported(0, 4, 0)),
		},
		{
			name: "what ended since the report counts no more, in the cache neither", want: "a: load",
			pods: fleet(with(reported(0, 2, .2), func(l *pool.Load) { l.Report.InFlight = 2 }), reported(0, 1, .1)),
		},
		{
			name: "a queue of prefill repels", request: Request{Tokens: 500}, want: "b: load",
			pods: fleet(with(reported(0, 1, 0), queued(time.Second)), reported(0, 3, 0)),
		},
		{
			name: "a cached prefix attracts", prefix: true, want: "c: prefix",
			pods:    fleet(reported(0, 2, .1), reported(0, 2, .1), reported(0, 4, .11)),
			request: Request{Tokens: 8000, PerBlock: 16, Depth: []int32{0, 0, 400}},
		},
		{
			name: "a window that matches whole tells of more", prefix: true, want: "b: prefix",
			pods:    fleet(reported(0, 2, .1), reported(0, 4, .11)),
			request: Request{Tokens: 20_000, PerBlock: 16, Depth: []int32{0, 16}, Window: 16},
		},
		{
			name: "one that matches in part tells of itself alone", prefix: true, want: "a: load",
			pods:    fleet(reported(0, 2, .1), reported(0, 4, .11)),
			request: Request{Tokens: 20_000, PerBlock: 16, Depth: []int32{0, 15}, Window: 16},
		},
		{
			name: "DEFAULT knows no prefixes", want: "a: load",
			pods:    fleet(reported(0, 2, .1), reported(0, 4, .2)),
			request: Request{Tokens: 8000, PerBlock: 16, Depth: []int32{0, 400}},
		},
		{
			name: "but not at any price", prefix: true, want: "a: load",
			pods:    fleet(reported(0, 2, .1), with(reported(0, 4, .2), queued(10*time.Second))),
			request: Request{Tokens: 8000, PerBlock: 16, Depth: []int32{0, 400}},
		},
		{
			name: "a full cache repels", request: Request{Tokens: 20_000}, want: "b: load",
			pods: fleet(reported(0, 4, .99), reported(0, 5, .5)),
		},
		{
			name: "a subset is obeyed", want: "c: only",
			pods:    fleet(reported(0, 0, 0), reported(0, 0, 0), reported(9, 9, .9)),
			request: Request{HasSubset: true, Subset: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:3")}},
		},
		{
			name: "a subset goes by address and port", want: "none",
			pods:    fleet(reported(0, 0, 0)),
			request: Request{HasSubset: true, Subset: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:99")}},
		},
		{name: "an empty subset allows none", pods: fleet(reported(0, 0, 0)), request: Request{HasSubset: true}, want: "none"},
		{name: "no pods", want: "none"},
		{
			name: "a loaded adapter attracts, room for it comes next", request: Request{Adapter: "sql"}, fallbacks: 2, want: "b c a: adapter",
			pods: fleet(
				with(reported(0, 1, .1), func(l *pool.Load) { l.Report.MaxAdapters, l.Report.Adapters = 1, []string{"x"} }),
				with(reported(0, 3, .1), func(l *pool.Load) { l.Report.MaxAdapters, l.Report.Adapters = 1, []string{"sql"} }),
				with(reported(0, 1, .1), func(l *pool.Load) { l.Report.MaxAdapters, l.Report.Adapters = 2, []string{"x"} }),
			),
		},
		{
			name: "a dead pod is passed over however idle it looks", fallbacks: 1, want: "b c: load",
			pods: fleet(pool.Load{Refused: true, PageFailures: 1}, reported(0, 5, .5), reported(1, 9, .9)),
		},
		{
			name: "an engine that sleeps gets nothing", want: "b: load",
			pods: fleet(with(reported(0, 0, 0), func(l *pool.Load) { l.Report.Asleep = true }), reported(0, 5, .5)),
		},
		{
			name: "a page that fails puts a pod on trial, with healthy fallbacks", fallbacks: 2, want: "a c d: trial",
			pods: fleet(with(pool.Load{}, down), with(pool.Load{Tokens: 9}, down), reported(0, 5, .5), reported(0, 6, .5)),
		},
		{
			name: "a pod gets one trial at a time", want: "b: load",
			pods: fleet(with(pool.Load{InFlight: 1}, down), reported(0, 5, .5)),
		},
		{
			name: "answers under way don't keep it from one", want: "a: trial",
			pods: fleet(with(pool.Load{InFlight: 9, Begun: 9}, down), reported(0, 5, .5)),
		},
		{
			name: "a pod that answers needs no page", want: "a: load",
			pods: fleet(with(pool.Load{InFlight: 1, LastAnswer: pool.At(now)}, down), reported(0, 5, .5)),
		},
		{
			name: "without any page the counted load decides", want: "b: load",
			pods: fleet(
				with(pool.Load{InFlight: 3, LastAnswer: pool.At(now)}, down),
				with(pool.Load{InFlight: 1, LastAnswer: pool.At(now)}, down),
			),
		},
		{
			name: "a stale report is not used", want: "a: load",
			pods: fleet(
				with(reported(9, 9, .9), func(l *pool.Load) { l.Report.Taken = pool.At(now.Add(-time.Minute)) }),
				reported(0, 2, .1),
			),
		},
		{
			name: "requests that go unanswered set a pod aside", want: "b: load",
			pods: fleet(
				with(reported(0, 0, 0), func(l *pool.Load) { l.RequestFailures, l.LastFailure = requestTries, pool.At(now.Add(-time.Second)) }),
				reported(0, 5, .5),
			),
		},
		{
			name: "and after a while it is tried again", want: "a: trial",
			pods: fleet(
				with(reported(0, 0, 0), func(l *pool.Load) { l.RequestFailures, l.LastFailure = requestTries, pool.At(now.Add(-time.Minute)) }),
				reported(0, 5, .5),
			),
		},
		{
			name: "however many answers are under way there", want: "a: trial",
			pods: fleet(
				with(reported(0, 5, 0), func(l *pool.Load) {
					l.RequestFailures, l.LastFailure, l.InFlight, l.Begun = requestTries, pool.At(now.Add(-time.Minute)), 5, 5
				}),
				reported(0, 5, .5),
			),
		},
		{
			name: "one failure is forgiven by the next page", want: "a: load",
			pods: fleet(
				with(reported(0, 0, 0), func(l *pool.Load) { l.RequestFailures, l.LastFailure = 1, pool.At(now.Add(-time.Second)) }),
				reported(0, 5, .5),
			),
		},
		{
			name: "when all are set aside one is picked all the same", want: "b: last-hope",
			pods: fleet(pool.Load{Refused: true, InFlight: 2}, pool.Load{Refused: true}),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p Picker
			got := "none"
			if pick, ok := p.Choose(now, c.pods, &c.request, strategy(c.prefix), c.fallbacks); ok {
				got = fmt.Sprintf("%s: %s", names(pick), pick.Reason)
			}
			if got != c.want {
				t.Errorf("picked %q, want %q", got, c.want)
			}
		})
	}
}

func TestTiesSpreadByTheDrawAlone(t *testing.T) {
	pods := fleet(reported(0, 1, .1), reported(0, 1, .1), reported(0, 1, .1), reported(0, 1, .1))
	var p Picker
	count := map[string]int{}
	for draw := range uint64(4000) {
		first, _ := p.Choose(now, pods, &Request{Draw: draw}, strategy(false), 0)
		name := names(first)
		if again, _ := p.Choose(now, pods, &Request{Draw: draw}, strategy(false), 0); names(again) != name {
			t.Fatalf("draw %d: %s, then %s", draw, name, names(again))
		}
		count[name]++
	}
	for _, name := range []string{"a", "b", "c", "d"} {
		if count[name] < 900 || count[name] > 1100 {
			t.Errorf("%s was picked %d times of 4000, want about 1000", name, count[name])
		}
	}
}

func TestWeightsScaleTheirTerms(t *testing.T) {
	load := with(reported(3, 4, .999), queued(100*time.Millisecond))
	r := Request{Tokens: 4000, PerBlock: 16, Depth: []int32{100}}
	full := strategy(true).Cost(now, fleet(load)[0], &r)
	for _, c := range []struct {
		name   string
		change func(*Params)
		term   func(*Cost) float64
	}{
		{"queue", func(p *Params) { p.QueueWeight = .5 }, func(c *Cost) float64 { return c.Queue }},
		{"kv", func(p *Params) { p.KVWeight = .5 }, func(c *Cost) float64 { return c.KV }},
		{"prefix", func(p *Params) { p.PrefixWeight = .5 }, func(c *Cost) float64 { return c.Saved }},
	} {
		p := strategy(true)
		c.change(p)
		half := p.Cost(now, fleet(load)[0], &r)
		if want := c.term(&full) / 2; want == 0 || c.term(&half) < want*.999 || c.term(&half) > want*1.001 {
			t.Errorf("%s: weight 0.5 gives %.3f ms, want half of %.3f", c.name, c.term(&half), c.term(&full))
		}
	}
}

// A weight above 1 makes a cached prefix more than free. That must not draw requests to the busiest of its pods.
func TestPrefixWeightAboveOneDoesNotHerd(t *testing.T) {
	params := strategy(true)
	params.PrefixWeight = 3
	pods := fleet(reported(0, 30, .1), reported(0, 0, .1), reported(0, 0, .1))
	r := Request{Tokens: 8000, PerBlock: 16, Depth: []int32{450, 450, 0}}
	var p Picker
	if pick, _ := p.Choose(now, pods, &r, params, 2); names(pick) != "b a c" || pick.Reason != ByPrefix {
		t.Errorf("order %s by %v; want b a c by prefix: of two pods with the prefix the idle one", names(pick), pick.Reason)
	}
}

// BenchmarkChoose measures one decision: costs of all pods, the best three in order. The budget for 256 pods with their
// prefix match is 20 µs.
func BenchmarkChoose(b *testing.B) {
	for _, n := range []int{8, 64, 256} {
		b.Run(fmt.Sprintf("pods=%d", n), func(b *testing.B) {
			loads := make([]pool.Load, n)
			depth := make([]int32, n)
			for i := range loads {
				loads[i] = reported(i%3, i%17, float64(i%10)/10)
				depth[i] = int32(i % 128)
			}
			pods := fleet(loads...)
			r := Request{Tokens: 8000, PerBlock: 16, Depth: depth}
			var p Picker
			params := strategy(true)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				r.Draw = uint64(i)
				p.Choose(now, pods, &r, params, 2)
			}
		})
	}
}
