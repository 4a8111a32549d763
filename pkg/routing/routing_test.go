package routing

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/pool"
	"github.com/pilotfish-epp/pilotfish/pkg/request"
	"github.com/pilotfish-epp/pilotfish/pkg/scheduling"
	"github.com/pilotfish-epp/pilotfish/pkg/settings"
)

// bench is a pool of n pods, p0, p1, …, with a router before it whose clock the test holds.
type bench struct {
	*Router
	pool     *pool.Pool
	settings *settings.Store
	now      time.Time
	seen     seen
}

// seen keeps what the observer was told.
type seen struct {
	mu       sync.Mutex
	reasons  []scheduling.Reason
	matched  []int
	refused  []*Refusal
	outcomes []Outcome
	waits    []Wait
}

func (s *seen) Picked(d *Decision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reasons = append(s.reasons, d.Pick.Reason)
	s.matched = append(s.matched, d.Matched)
}

func (s *seen) Refused(_ *Arrival, r *Refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = append(s.refused, r)
}

func (s *seen) Finished(o *Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outcomes = append(s.outcomes, *o)
}

func (s *seen) Waited(w *Wait) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waits = append(s.waits, *w)
}

func newBench(t testing.TB, n int, env map[string]string) *bench {
	t.Helper()
	store, err := settings.New(env, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{pool: pool.New(), settings: store, now: time.Unix(1_700_000_000, 0)}
	b.Router = New(Options{
		Pool: b.pool, Settings: store, Observer: &b.seen,
		Clock: func() time.Time { return b.now }, Draw: func() uint64 { return 1 },
	})
	b.setPods(n)
	return b
}

func (b *bench) setPods(n int) {
	var es []pool.Endpoint
	for i := range n {
		es = append(es, pool.Endpoint{Name: fmt.Sprint("p", i), Address: address(i), MetricsPort: address(i).Port()})
	}
	b.pool.Set(b.now, es)
}

func address(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, byte(i >> 8), byte(i)}), 8000)
}

func (b *bench) inFlight() int {
	n := 0
	for _, l := range b.pool.Loads(b.pool.Snapshot(), nil) {
		n += l.InFlight
	}
	return n
}

func chat(t testing.TB, model, text string) *Arrival {
	t.Helper()
	body := fmt.Appendf(nil, `{"model":%q,"messages":[{"role":"user","content":%q}]}`, model, text)
	r := new(request.Request)
	if err := r.Parse(request.Chat, "/v1/chat/completions", body, false); err != nil {
		t.Fatal(err)
	}
	return &Arrival{Body: r, BodyBytes: len(body)}
}

// route picks and fails the test when there is no pod.
func (b *bench) route(t testing.TB, a *Arrival) *Ticket {
	t.Helper()
	ticket := new(Ticket)
	if no := b.Route(context.Background(), a, ticket); no != nil {
		t.Fatalf("refused: %+v", no)
	}
	return ticket
}

var prefixCache = map[string]string{"ROUTING_STRATEGY": "PREFIX_CACHE"}

func TestSharedPrefixGoesToTheSamePod(t *testing.T) {
	b := newBench(t, 8, prefixCache)
	story := strings.Repeat("Once upon a time there was a block of text. ", 100)
	first := b.route(t, chat(t, "m", story+"What happened?"))
	first.Finish(Completed)
	again := b.route(t, chat(t, "m", story+"And then?"))
	if again.lease.Pod() != b.pool.Snapshot().At(netip.MustParseAddrPort(again.Destination())) {
		t.Error("the destination is not the pod that holds the request")
	}
	if b.seen.matched[0] != 0 || b.seen.matched[1] < 60 {
		t.Errorf("matched blocks %v, want 0 and nearly the 68 of the story", b.seen.matched)
	}
	other := b.route(t, chat(t, "another-model", story))
	if b.seen.matched[2] != 0 {
		t.Errorf("another model matched %d blocks", b.seen.matched[2])
	}
	for _, ticket := range []*Ticket{again, other} {
		ticket.Finish(Completed)
	}
	if n := b.inFlight(); n != 0 {
		t.Errorf("%d in flight at the end", n)
	}
}

func TestStrategyAndBlockSizeChangeWhileRunning(t *testing.T) {
	b := newBench(t, 4, nil)
	ask := func() int {
		b.route(t, chat(t, "m", strings.Repeat("0123456789abcdef", 100))).Finish(Completed)
		return b.seen.matched[len(b.seen.matched)-1]
	}
	apply := func(values map[string]string) {
		t.Helper()
		if _, problems := b.settings.Apply(settings.File, values); len(problems) > 0 {
			t.Fatal(problems)
		}
	}
	ask()
	if got := ask(); got != 0 {
		t.Errorf("DEFAULT matched %d blocks", got)
	}
	apply(prefixCache)
	ask()
	if got := ask(); got != 25 {
		t.Errorf("PREFIX_CACHE matched %d blocks of 64, want 25", got)
	}
	apply(map[string]string{"ROUTING_STRATEGY": "PREFIX_CACHE", "PREFIX_CACHE_HASH_BLOCK_SIZE": "128"})
	if got := ask(); got != 0 {
		t.Errorf("right after the block size changed %d blocks matched", got)
	}
	if got := ask(); got != 12 {
		t.Errorf("%d blocks of 128 matched, want 12", got)
	}
}

func TestFallbackIsCountedAndRemembered(t *testing.T) {
	b := newBench(t, 3, map[string]string{"ROUTING_STRATEGY": "PREFIX_CACHE", "DESTINATION_FALLBACKS": "2"})
	story := strings.Repeat("A dead pod tells no tales, but the next one does. ", 50)
	ticket := b.route(t, chat(t, "m", story))
	list := strings.Split(ticket.Destination(), ",")
	if len(list) != 3 {
		t.Fatalf("destination %q, want three addresses", ticket.Destination())
	}
	primary := ticket.lease.Pod()
	second := netip.MustParseAddrPort(list[1])
	ticket.Responded(200, second, true)
	if ticket.lease.Pod().Address != second {
		t.Error("the request is not counted at the pod that served it")
	}
	ticket.Finish(Completed)
	if o := b.seen.outcomes[0]; o.Pod.Address != second || o.Status != 200 {
		t.Errorf("outcome at %v with status %d, want %v and 200", o.Pod.Address, o.Status, second)
	}
	next := b.route(t, chat(t, "m", story))
	defer next.Finish(Completed)
	if next.lease.Pod() == primary {
		t.Error("the pod that did not answer was picked again")
	}
	if next.lease.Pod().Address != second || b.seen.matched[1] == 0 {
		t.Errorf("picked %v with %d blocks matched, want %v, which has the prefix now", next.lease.Pod().Address, b.seen.matched[1], second)
	}
}

func TestUnansweredRequestsSetAPodAside(t *testing.T) {
	b := newBench(t, 2, nil)
	for range 4 {
		ticket := b.route(t, chat(t, "m", "hello"))
		status := 200
		if ticket.lease.Pod().Name == "p0" {
			status = 503
		}
		ticket.Responded(status, netip.AddrPort{}, false)
		ticket.Finish(Completed)
	}
	for range 20 {
		ticket := b.route(t, chat(t, "m", "hello"))
		if ticket.lease.Pod().Name == "p0" {
			t.Fatal("p0 was picked though it doesn't answer")
		}
		ticket.Finish(Completed)
	}
}

// When no page can be read any more while long answers stream everywhere, the load stays spread.
func TestPagesThatAllFailWhileAnswersStream(t *testing.T) {
	b := newBench(t, 8, nil)
	stream := func() string {
		ticket := b.route(t, chat(t, "m", "hello"))
		ticket.Responded(200, netip.AddrPort{}, true)
		return ticket.Destination()
	}
	for range 80 {
		stream()
	}
	b.now = b.now.Add(time.Second)
	for _, pod := range b.pool.Snapshot().Pods {
		for range 3 {
			b.pool.ReportFailed(pod, b.now, context.DeadlineExceeded)
		}
	}
	sent := map[string]int{}
	for range 80 {
		b.now = b.now.Add(50 * time.Millisecond)
		sent[stream()]++
	}
	for pod, n := range sent {
		if len(sent) != 8 || n > 12 {
			t.Fatalf("%d of 80 requests went to %s: %v", n, pod, sent)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name string
		pods int
		a    Arrival
		want string
	}{
		{"empty pool", 0, Arrival{}, "the pool has none"},
		{"empty subset", 2, Arrival{HasSubset: true}, "list of allowed endpoints is empty"},
		{"foreign subset", 2, Arrival{HasSubset: true, Subset: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:8000")}}, "none of the endpoints that the gateway allows"},
		{"right address, wrong port", 2, Arrival{HasSubset: true, Subset: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.0:9999")}}, "none of the endpoints that the gateway allows"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, c.pods, nil)
			var ticket Ticket
			no := b.Route(context.Background(), &c.a, &ticket)
			if no == nil {
				t.Fatal("not refused")
			}
			if no.Status != 503 || no.Reason != ReasonNoEndpoints || !strings.Contains(no.Message, c.want) {
				t.Errorf("refused with %+v, want 503, %s and %q", no, ReasonNoEndpoints, c.want)
			}
			ticket.Finish(Completed) // must be harmless
			if len(b.seen.refused) != 1 || len(b.seen.outcomes) != 0 {
				t.Errorf("%d refusals and %d outcomes were seen, want 1 and 0", len(b.seen.refused), len(b.seen.outcomes))
			}
		})
	}
}

func TestFinishReleasesOnce(t *testing.T) {
	b := newBench(t, 2, nil)
	kept, ticket := b.route(t, chat(t, "m", "x")), b.route(t, chat(t, "m", "x"))
	ticket.FirstToken()
	ticket.Finish(ClientGone)
	ticket.Finish(Completed)
	ticket.Responded(200, netip.AddrPort{}, false) // too late: says nothing
	ticket.FirstToken()
	if b.inFlight() != 1 || len(b.seen.outcomes) != 1 || b.seen.outcomes[0].End != ClientGone {
		t.Errorf("%d in flight, outcomes %+v; want 1 in flight and one outcome", b.inFlight(), b.seen.outcomes)
	}
	kept.Finish(Completed)
	if b.inFlight() != 0 {
		t.Errorf("%d in flight at the end", b.inFlight())
	}
}

func TestUnfollowedRequestIsReleasedByEstimate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1, nil)
		b.route(t, chat(t, "m", "x")).Finish(Unfollowed)
		if b.inFlight() != 1 {
			t.Fatalf("%d in flight, want 1 until the answer can have ended", b.inFlight())
		}
		time.Sleep(time.Minute) // of the bubble's clock
		synctest.Wait()
		if b.inFlight() != 0 {
			t.Errorf("%d in flight a minute later", b.inFlight())
		}
	})
}

func TestSteeringGoesInTheOrderAsked(t *testing.T) {
	b := newBench(t, 3, nil)
	a := chat(t, "m", "x")
	a.Steer = []netip.AddrPort{address(2), netip.MustParseAddrPort("10.0.0.1:1"), address(0)}
	ticket := b.route(t, a)
	defer ticket.Finish(Completed)
	if want := address(2).String() + "," + address(0).String(); ticket.Destination() != want {
		t.Errorf("destination %q, want %q", ticket.Destination(), want)
	}
}

func TestSteeringStaysWithinTheSubset(t *testing.T) {
	b := newBench(t, 3, nil)
	a := chat(t, "m", "x")
	a.Steer = []netip.AddrPort{address(2), address(0)}
	a.HasSubset, a.Subset = true, []netip.AddrPort{address(0), address(1)}
	ticket := b.route(t, a)
	defer ticket.Finish(Completed)
	if ticket.Destination() != address(0).String() {
		t.Errorf("destination %q, want the one that is asked for and allowed, %v", ticket.Destination(), address(0))
	}
}

// Blocks can be turned off, and then requests without a body come through all the same.
func TestNoBlocksAndNoBody(t *testing.T) {
	for _, strategy := range []string{"DEFAULT", "PREFIX_CACHE"} {
		b := newBench(t, 2, map[string]string{"ROUTING_STRATEGY": strategy, "PREFIX_CACHE_MAX_PREFIX_BLOCKS": "0"})
		b.route(t, &Arrival{}).Finish(Completed)
		b.route(t, chat(t, "m", "hello")).Finish(Completed)
	}
}

func TestSteeringToAnyPortOfAnAddress(t *testing.T) {
	b := newBench(t, 3, nil)
	a := chat(t, "m", "x")
	a.Steer = []netip.AddrPort{netip.AddrPortFrom(address(1).Addr(), 0)}
	ticket := b.route(t, a)
	defer ticket.Finish(Completed)
	if ticket.Destination() != address(1).String() {
		t.Errorf("destination %q, want %q", ticket.Destination(), address(1))
	}
}

func TestRewriteNamesTheTarget(t *testing.T) {
	b := newBench(t, 1, nil)
	a := chat(t, "asked", "x")
	a.Rewrite = "sent"
	ticket := b.route(t, a)
	if ticket.Model() != "sent" {
		t.Errorf("model %q, want sent", ticket.Model())
	}
	ticket.Finish(Completed)
	if o := b.seen.outcomes[0]; o.Model != "asked" || o.Target != "sent" {
		t.Errorf("outcome of %q → %q, want asked → sent", o.Model, o.Target)
	}
}

func TestPodThatLeftIsForgotten(t *testing.T) {
	b := newBench(t, 2, prefixCache)
	text := strings.Repeat("0123456789abcdef", 100)
	b.route(t, chat(t, "m", text)).Finish(Completed)
	b.setPods(0)
	if n := b.Index().Stats().Blocks; n != 0 {
		t.Errorf("%d blocks are remembered for pods that left", n)
	}
	b.setPods(2)
	b.route(t, chat(t, "m", text)).Finish(Completed)
	if got := b.seen.matched[1]; got != 0 {
		t.Errorf("a new pod at the old address matched %d blocks", got)
	}
}

// BenchmarkRoute measures a request's whole life in this package: hash, match, pick and account, remember, follow, end.
func BenchmarkRoute(b *testing.B) {
	for _, pods := range []int{8, 64, 256} {
		for _, size := range []int{1 << 10, 8 << 10, 64 << 10} {
			b.Run(fmt.Sprintf("pods=%d/prompt=%dKB", pods, size>>10), func(b *testing.B) {
				bench := newBench(b, pods, map[string]string{"ROUTING_STRATEGY": "PREFIX_CACHE", "DESTINATION_FALLBACKS": "2"})
				bench.observer = nil
				var chats []*Arrival
				for i := range 64 {
					text := strings.Repeat(fmt.Sprintf("session %d says again, ", i), size/20)
					chats = append(chats, chat(b, "m", "You are a helpful assistant. Answer in short sentences, please."+text[:size]))
				}
				var ticket Ticket
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if no := bench.Route(context.Background(), chats[i%len(chats)], &ticket); no != nil {
						b.Fatal(no)
					}
					ticket.Responded(200, netip.AddrPort{}, false)
					ticket.Finish(Completed)
				}
			})
		}
	}
}
