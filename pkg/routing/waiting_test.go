package routing

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/discovery"
	"github.com/pilotfish-epp/pilotfish/pkg/pool"
	"github.com/pilotfish-epp/pilotfish/pkg/settings"
)

// hall is a router with queueing on, before n pods that are saturated. Requests are sent by name, and the hall keeps who
// got through in which order, and who was refused how.
type hall struct {
	*bench
	t       *testing.T
	mu      sync.Mutex
	through []string
	refused map[string]*Refusal
	tickets map[string]*Ticket
	leave   map[string]context.CancelFunc
}

var someModels = discovery.NewPriorities(
	map[string]int{"critical": discovery.Critical, "sheddable": discovery.Sheddable}, map[string]int{"batch": -7},
)

func newHall(t *testing.T, n int, env map[string]string) *hall {
	t.Helper()
	all := map[string]string{"QUEUEING": "enabled"}
	for name, value := range env {
		all[name] = value
	}
	h := &hall{
		bench: newBench(t, n, all), t: t, refused: map[string]*Refusal{}, tickets: map[string]*Ticket{}, leave: map[string]context.CancelFunc{},
	}
	h.Router.now = time.Now
	h.SetPriorities(someModels)
	for i := range n {
		h.report(i, 5)
	}
	return h
}

// report makes pod i say how many wait there, when those who wait here have lost their patience. When none waits, the pod
// is idle, and is known to run 8 at once.
func (h *hall) report(i, waiting int) {
	time.Sleep(patience)
	h.tell(i, waiting)
}

// tell does so at once.
func (h *hall) tell(i, waiting int) {
	running := 8
	if waiting == 0 {
		running = 0
	}
	pod := h.pool.Snapshot().Pods[i]
	inFlight, uncached := h.pool.InFlight(pod)
	// An interval of an hour keeps the report fresh for as long as a test waits.
	h.pool.Report(time.Now(), pod, pool.Report{
		Taken: pool.At(time.Now()), Interval: time.Hour, InFlight: inFlight, Uncached: uncached, Waiting: waiting, Running: running, KVTokens: 400_000,
	})
	synctest.Wait()
}

// send sends a request for a model, and comes back when it has a pod, is refused, or waits.
func (h *hall) send(name, model string, change ...func(*Arrival)) {
	h.t.Helper()
	a, ticket := chat(h.t, model, "hello"), new(Ticket)
	a.HeldBytes = 100
	for _, f := range change {
		f(a)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.mu.Lock()
	h.tickets[name], h.leave[name] = ticket, cancel
	h.mu.Unlock()
	go func() {
		no := h.Route(ctx, a, ticket)
		h.mu.Lock()
		defer h.mu.Unlock()
		if no != nil {
			h.refused[name] = no
		} else {
			h.through = append(h.through, name)
		}
	}()
	synctest.Wait()
}

func (h *hall) end(name string) {
	h.t.Helper()
	if !slices.Contains(h.through, name) {
		h.t.Fatalf("%s has not come through: %v have", name, h.through)
	}
	h.tickets[name].Finish(Completed)
	synctest.Wait()
}

func (h *hall) wantThrough(names ...string) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Equal(h.through, names) {
		h.t.Errorf("through: %v, want %v", h.through, names)
	}
}

// wantDispatched checks the priorities of those who were let through, in order.
func (h *hall) wantDispatched(priorities ...int) {
	h.t.Helper()
	h.seen.mu.Lock()
	defer h.seen.mu.Unlock()
	var got []int
	for _, w := range h.seen.waits {
		if w.End == Dispatched {
			got = append(got, w.Priority)
		}
	}
	if !slices.Equal(got, priorities) {
		h.t.Errorf("dispatched %v, want %v", got, priorities)
	}
}

func (h *hall) wantRefused(name string, status int, code string) *Refusal {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	no := h.refused[name]
	if no == nil || no.Status != status || no.Code != code {
		h.t.Fatalf("%s: refused with %+v, want %d %s", name, no, status, code)
	}
	return no
}

func (h *hall) waitingNow() (n int, bytes int64) {
	for _, l := range h.Waiting() {
		n += l.Len
		bytes += l.Bytes
	}
	return n, bytes
}

// wantEmpty ends all that runs and checks that nothing is left of anything.
func (h *hall) wantEmpty() {
	h.t.Helper()
	for _, name := range h.through {
		h.tickets[name].Finish(Completed)
	}
	synctest.Wait()
	if n, bytes := h.waitingNow(); n != 0 || bytes != 0 {
		h.t.Errorf("%d requests of %d bytes wait at the end", n, bytes)
	}
	if n := h.inFlight(); n != 0 {
		h.t.Errorf("%d in flight at the end", n)
	}
	if n := h.waiting.count.Load(); n != 0 {
		h.t.Errorf("%d are in wait at the end", n)
	}
}

func inHall(t *testing.T, n int, env map[string]string, f func(t *testing.T, h *hall)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := newHall(t, n, env)
		f(t, h)
		h.wantEmpty()
		h.RefuseWaiting()
	})
}

func TestWaitsForRoomAndGoesAtOnce(t *testing.T) {
	inHall(t, 1, nil, func(t *testing.T, h *hall) {
		told := []time.Duration{}
		h.send("a", "m", func(a *Arrival) { a.Waits = func(d time.Duration) { told = append(told, d) } })
		h.wantThrough()
		if n, bytes := h.waitingNow(); n != 1 || bytes != 100 {
			t.Errorf("%d requests of %d bytes wait, want 1 of 100", n, bytes)
		}
		time.Sleep(3*time.Second - patience)
		h.report(0, 4)
		h.wantThrough("a")
		if len(told) != 1 || told[0] != 30*time.Second {
			t.Errorf("told of the wait: %v, want QUEUE_TTL once", told)
		}
		if w := h.seen.waits[0]; w.End != Dispatched || w.Took != 3*time.Second {
			t.Errorf("wait %+v, want 3 s until it was dispatched", w)
		}
		h.report(0, 0)
		h.send("b", "m", func(a *Arrival) { a.Waits = func(time.Duration) { t.Error("b need not wait") } })
		h.wantThrough("a", "b")
	})
}

func TestPlaceThatARequestLeavesIsTaken(t *testing.T) {
	inHall(t, 1, nil, func(_ *testing.T, h *hall) {
		for _, name := range []string{"a", "b", "c"} {
			h.send(name, "m")
		}
		h.report(0, 4)
		h.wantThrough("a")
		h.end("a")
		h.wantThrough("a", "b")
		h.end("b")
		h.wantThrough("a", "b", "c")
	})
}

func TestTheImportantGoFirst(t *testing.T) {
	inHall(t, 1, nil, func(_ *testing.T, h *hall) {
		h.send("sheddable", "sheddable")
		h.send("batch", "critical", func(a *Arrival) { a.Objective = "batch" })
		h.send("standard", "m", func(a *Arrival) { a.Objective = "no such" })
		h.send("critical", "critical")
		h.send("standard 2", "m")
		h.report(0, 4)
		h.wantThrough("critical")
		h.end("critical")
		h.wantThrough("critical") // others still wait at the pod, which are let through before the less important
		h.wantThrough("critical")
		h.report(0, 0)
		slices.Sort(h.through[1:]) // there is room for all of them, and their goroutines come in any order
		h.wantThrough("critical", "batch", "sheddable", "standard", "standard 2")
		h.wantDispatched(1, 0, 0, -1, -7)
	})
}

// Who is patient finds the next free place at any pod before who joined those that wait at one.
func TestAFullPodGetsNobodyInHaste(t *testing.T) {
	inHall(t, 2, nil, func(_ *testing.T, h *hall) {
		h.report(1, 4)
		h.send("a", "m")
		h.wantThrough() // four wait at the second pod, which is below the threshold: a would join them in the end
		time.Sleep(patience / 2)
		h.tell(0, 0)
		h.wantThrough("a")
		if at := h.tickets["a"].lease.Pod().Name; at != "p0" {
			h.t.Errorf("a is at %s, want p0, which became free first", at)
		}
	})
}

// A lower priority is one below others of late: what is alone is not low.
func TestLowIsRelative(t *testing.T) {
	inHall(t, 1, nil, func(_ *testing.T, h *hall) {
		h.send("alone", "sheddable")
		h.report(0, 4)
		h.wantThrough("alone")
		h.end("alone")
		h.send("critical", "critical")
		h.report(0, 4)
		h.end("critical")
		h.send("low", "sheddable")
		h.report(0, 4)
		h.wantThrough("alone", "critical")
		h.report(0, 0)
		h.wantThrough("alone", "critical", "low")
	})
}

func TestTenantsShare(t *testing.T) {
	tenant := func(name string) func(*Arrival) { return func(a *Arrival) { a.Fairness = name } }
	inHall(t, 1, nil, func(_ *testing.T, h *hall) {
		for i := range 4 {
			h.send(fmt.Sprint("flood ", i), "m", tenant("flood"))
		}
		h.send("quiet 0", "m", tenant("quiet"))
		h.send("quiet 1", "m", tenant("quiet"))
		h.report(0, 4)
		for len(h.through) < 6 {
			h.end(h.through[len(h.through)-1])
		}
		place := func(name string) int { return slices.Index(h.through, name) }
		if place("quiet 0") > 2 || place("quiet 1") > 4 {
			h.t.Errorf("order %v: the quiet tenant waited for the flood", h.through)
		}
	})
}

func TestCapacity(t *testing.T) {
	sized := func(n int) func(*Arrival) { return func(a *Arrival) { a.HeldBytes = n } }
	inHall(t, 1, map[string]string{"TOTAL_QUEUE_CAPACITY": "1000"}, func(t *testing.T, h *hall) {
		h.send("large", "m", sized(1001))
		if no := h.wantRefused("large", 429, "exceeds_queue"); no.RetryAfter != 0 || no.Reason != ReasonSaturated {
			t.Errorf("%+v, want no Retry-After: it will never fit", no)
		}
		h.send("old", "m", sized(600))
		h.send("new", "m", sized(600))
		no := h.wantRefused("old", 429, "queue_discarded")
		if no.RetryAfter < time.Second || no.RetryAfter > time.Minute || no.Reason != ReasonDiscarded {
			t.Errorf("%+v", no)
		}
		h.send("low", "sheddable", sized(600))
		if no := h.wantRefused("low", 429, "queue_full"); no.RetryAfter < time.Second || !strings.Contains(no.Message, "TOTAL_QUEUE_CAPACITY") {
			t.Errorf("%+v", no)
		}
		h.report(0, 4)
		h.wantThrough("new")
		h.end("new")
		h.report(0, 0)
		h.send("large again", "m", sized(1001)) // needn't wait
		h.wantThrough("new", "large again")
	})
}

func TestTimeToLive(t *testing.T) {
	inHall(t, 1, nil, func(t *testing.T, h *hall) {
		h.send("a", "m")
		time.Sleep(10 * time.Second)
		h.send("b", "m")
		time.Sleep(20*time.Second - 1)
		synctest.Wait()
		if n, _ := h.waitingNow(); n != 2 {
			t.Fatalf("%d wait a nanosecond before the first deadline, want 2", n)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if no := h.wantRefused("a", 503, "queue_timeout"); no.Reason != ReasonTTLExpired || !strings.Contains(no.Message, "30s") {
			t.Errorf("%+v", no)
		}
		if n, _ := h.waitingNow(); n != 1 {
			t.Errorf("%d wait, want b alone", n)
		}
		h.report(0, 0)
		h.wantThrough("b")
	})
}

func TestPodsThatAreAllGoneAndComeBack(t *testing.T) {
	inHall(t, 2, nil, func(_ *testing.T, h *hall) {
		h.setPods(0)
		h.send("early", "m")
		time.Sleep(20 * time.Second)
		h.send("late", "m")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		h.wantRefused("early", 503, "no_endpoints")
		h.setPods(2)
		synctest.Wait()
		h.wantThrough() // the proxy may not know them yet
		h.report(0, 0)
		h.wantThrough("late")
	})
}

func TestPodsThatDontAnswerGetNothingFromTheQueue(t *testing.T) {
	inHall(t, 1, nil, func(_ *testing.T, h *hall) {
		h.pool.ReportFailed(h.pool.Snapshot().Pods[0], time.Now(), syscall.ECONNREFUSED)
		h.send("a", "m")
		h.wantThrough()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		h.wantRefused("a", 503, "no_endpoints")
	})
}

func TestClientThatLeaves(t *testing.T) {
	inHall(t, 1, nil, func(_ *testing.T, h *hall) {
		h.send("a", "m")
		h.send("b", "m")
		h.leave["a"]()
		synctest.Wait()
		h.wantRefused("a", 503, "cancelled")
		if n, bytes := h.waitingNow(); n != 1 || bytes != 100 {
			h.t.Errorf("%d requests of %d bytes wait, want b alone", n, bytes)
		}
		h.report(0, 4)
		h.wantThrough("b")
	})
}

func TestSettingsChangeWhileRequestsWait(t *testing.T) {
	apply := func(h *hall, name, value string) {
		h.t.Helper()
		if _, problems := h.settings.Apply(settings.File, map[string]string{name: value}); len(problems) > 0 {
			h.t.Fatal(problems)
		}
		synctest.Wait()
	}
	t.Run("disabled", func(t *testing.T) {
		inHall(t, 1, nil, func(_ *testing.T, h *hall) {
			h.send("a", "sheddable")
			h.send("b", "critical")
			apply(h, "QUEUEING", "disabled")
			h.mu.Lock()
			slices.Sort(h.through) // they went together, and their goroutines in any order
			h.mu.Unlock()
			h.wantThrough("a", "b")
		})
	})
	t.Run("disabled, with less capacity", func(t *testing.T) {
		inHall(t, 1, nil, func(_ *testing.T, h *hall) {
			h.send("a", "m")
			h.send("b", "m")
			if _, problems := h.settings.Apply(settings.File, map[string]string{"QUEUEING": "disabled", "TOTAL_QUEUE_CAPACITY": "150"}); len(problems) > 0 {
				h.t.Fatal(problems)
			}
			synctest.Wait()
			slices.Sort(h.through)
			h.wantThrough("a", "b")
		})
	})
	t.Run("less capacity", func(t *testing.T) {
		inHall(t, 1, nil, func(_ *testing.T, h *hall) {
			h.send("a", "critical")
			h.send("b", "sheddable")
			h.send("c", "sheddable")
			apply(h, "TOTAL_QUEUE_CAPACITY", "250")
			h.wantRefused("b", 429, "queue_discarded")
			h.report(0, 4)
			h.end("a")
			h.report(0, 0)
			h.wantThrough("a", "c")
		})
	})
	t.Run("shorter", func(t *testing.T) {
		inHall(t, 1, nil, func(_ *testing.T, h *hall) {
			h.send("a", "m")
			time.Sleep(10 * time.Second)
			h.send("b", "m")
			apply(h, "QUEUE_TTL", "8s")
			h.wantRefused("a", 503, "queue_timeout")
			time.Sleep(8 * time.Second)
			synctest.Wait()
			h.wantRefused("b", 503, "queue_timeout")
		})
	})
	t.Run("longer", func(t *testing.T) {
		inHall(t, 1, nil, func(_ *testing.T, h *hall) {
			h.send("a", "m")
			apply(h, "QUEUE_TTL", "1h")
			h.send("b", "m")
			time.Sleep(30 * time.Second)
			synctest.Wait()
			h.wantRefused("a", 503, "queue_timeout")
			h.report(0, 0)
			h.wantThrough("b")
		})
	})
	t.Run("a higher threshold", func(t *testing.T) {
		inHall(t, 1, nil, func(_ *testing.T, h *hall) {
			h.send("a", "m")
			apply(h, "SD_QUEUE_DEPTH_THRESHOLD", "10")
			h.report(0, 5)
			h.wantThrough("a")
		})
	})
}

func TestShutdownAnswersAllWhoWait(t *testing.T) {
	inHall(t, 1, nil, func(_ *testing.T, h *hall) {
		h.send("a", "m")
		h.RefuseWaiting()
		synctest.Wait()
		h.wantRefused("a", 503, "shutting_down")
		h.send("b", "m")
		h.wantRefused("b", 503, "shutting_down")
	})
}

// A fault in the choice of one request hits that one, not whoever made the room, nor those behind it.
func TestPanicStaysWithItsRequest(t *testing.T) {
	inHall(t, 1, nil, func(t *testing.T, h *hall) {
		var faulty atomic.Bool // the next choice
		h.Router.draw = func() uint64 {
			if faulty.CompareAndSwap(true, false) {
				panic("no way")
			}
			return 1
		}
		bad := make(chan any, 1)
		ticket := new(Ticket)
		a := chat(t, "m", "hello")
		go func() {
			defer func() {
				bad <- recover()
				ticket.Finish(ClientGone)
			}()
			h.Route(context.Background(), a, ticket)
		}()
		synctest.Wait()
		h.send("next", "m")
		faulty.Store(true)
		h.report(0, 4)
		if cause := <-bad; cause == nil || !strings.Contains(fmt.Sprint(cause), "no way") {
			t.Errorf("the request panicked with %v", cause)
		}
		h.wantThrough("next")
	})
}

// A request that came before queueing was turned on is not told that there are no pods.
func TestTurnedOnDuringAChoice(t *testing.T) {
	inHall(t, 1, map[string]string{"QUEUEING": "disabled"}, func(t *testing.T, h *hall) {
		h.Router.draw = func() uint64 {
			if _, problems := h.settings.Apply(settings.File, map[string]string{"QUEUEING": "enabled"}); len(problems) > 0 {
				t.Error(problems)
			}
			return 1
		}
		h.send("a", "m")
		h.wantThrough("a")
	})
}

func TestSaturatedSubsetBlocksNobody(t *testing.T) {
	only := func(i ...int) func(*Arrival) {
		return func(a *Arrival) {
			a.HasSubset = true
			for _, i := range i {
				a.Subset = append(a.Subset, address(i))
			}
		}
	}
	inHall(t, 3, nil, func(t *testing.T, h *hall) {
		h.send("first", "m", only(0))
		h.send("both", "m", only(0, 1))
		h.send("any", "m")
		h.report(2, 4)
		h.wantThrough("any")
		h.report(1, 4)
		h.wantThrough("any", "both")
		h.report(0, 4)
		h.wantThrough("any", "both", "first")
		h.send("nowhere", "m", func(a *Arrival) {
			a.HasSubset, a.Subset = true, []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:1")}
		})
		h.wantRefused("nowhere", 503, "no_endpoints") // at once: no wait helps
	})
}

func TestSheddingWithoutAQueue(t *testing.T) {
	inHall(t, 2, map[string]string{"QUEUEING": "disabled"}, func(t *testing.T, h *hall) {
		h.send("sheddable", "sheddable")
		if no := h.wantRefused("sheddable", 429, "saturated"); no.RetryAfter == 0 || no.Reason != ReasonSaturated {
			t.Errorf("%+v", no)
		}
		h.send("standard", "m")
		h.send("critical", "critical")
		h.wantThrough("standard", "critical")
		h.report(1, 4)
		h.send("sheddable 2", "sheddable")
		h.wantThrough("standard", "critical", "sheddable 2")
	})
}

// Clients come and go, pods die and come back, reports and ends of answers make room, all at once: every request has one
// answer, and nothing of it stays.
func TestNothingIsLeft(t *testing.T) {
	goroutines := runtime.NumGoroutine()
	b := newBench(t, 4, map[string]string{"QUEUEING": "enabled", "QUEUE_TTL": "300ms", "TOTAL_QUEUE_CAPACITY": "100000"})
	b.Router.now, b.Router.observer = time.Now, nil
	b.Router.draw = rand.Uint64
	stop := make(chan struct{})
	var chaos sync.WaitGroup
	chaos.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if i%50 == 0 {
				b.setPods(i / 50 % 2 * 4) // all of them die
			}
			for _, pod := range b.pool.Snapshot().Pods {
				inFlight, uncached := b.pool.InFlight(pod)
				b.pool.Report(time.Now(), pod, pool.Report{Taken: pool.At(time.Now()), InFlight: inFlight, Uncached: uncached, Waiting: i % 8, KVTokens: 400_000})
			}
			runtime.Gosched()
		}
	})
	const clients, each = 300, 20
	var done sync.WaitGroup
	answers := make([]int, clients)
	a := chat(t, "m", "hello")
	for c := range clients {
		done.Go(func() {
			var ticket Ticket
			for i := range each {
				mine := *a
				mine.HeldBytes = 100 + 50*(i%40)
				ctx, cancel := context.WithCancel(context.Background())
				if i%3 == 0 {
					cancel() // has left already, or leaves while it waits
				} else if i%3 == 1 {
					go cancel()
				}
				if no := b.Route(ctx, &mine, &ticket); no == nil {
					ticket.Finish(End(i % 3))
				}
				answers[c]++
				cancel()
			}
		})
	}
	done.Wait()
	close(stop)
	chaos.Wait()
	b.setPods(0)
	for c, n := range answers {
		if n != each {
			t.Errorf("client %d got %d answers to %d requests", c, n, each)
		}
	}
	if n := b.waiting.count.Load(); n != 0 || b.waiting.queue.Len() != 0 || b.waiting.queue.Bytes() != 0 {
		t.Errorf("%d in wait, %d of %d bytes in the queue at the end", n, b.waiting.queue.Len(), b.waiting.queue.Bytes())
	}
	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > goroutines && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines, %d at the start", n, goroutines)
	}
}

// BenchmarkRefill measures how long a freed place stays free while 10,000 requests wait: from the release to the moment
// at which the next request's stream goes on. The budget is 1 ms at p99.
func BenchmarkRefill(b *testing.B) {
	for _, pods := range []int{8, 256} {
		b.Run(fmt.Sprintf("pods=%d/waiting=10000", pods), func(b *testing.B) {
			bench := newBench(b, pods, map[string]string{"QUEUEING": "enabled", "ROUTING_STRATEGY": "PREFIX_CACHE", "QUEUE_TTL": "1h"})
			bench.Router.now, bench.Router.observer = time.Now, nil
			for _, pod := range bench.pool.Snapshot().Pods {
				bench.pool.Report(time.Now(), pod, pool.Report{Taken: pool.At(time.Now()), Interval: time.Hour, Waiting: 4, Running: 8, KVTokens: 400_000})
			}
			ctx, cancel := context.WithCancel(context.Background())
			type arrival struct {
				ticket *Ticket
				at     time.Time
			}
			through := make(chan arrival, 1)
			var streams sync.WaitGroup
			wait := func(i int) {
				a := chat(b, "m", strings.Repeat(fmt.Sprintf("session %d says again, ", i%64), 400))
				streams.Go(func() {
					ticket := new(Ticket)
					if bench.Route(ctx, a, ticket) == nil {
						through <- arrival{ticket, time.Now()}
					}
				})
			}
			waiting := func() int {
				n := 0
				for _, l := range bench.Waiting() {
					n += l.Len
				}
				return n
			}
			running := make(chan *Ticket, pods)
			for i := range pods { // one more fits at each
				wait(i)
				running <- (<-through).ticket
			}
			for i := range 10_000 {
				wait(i)
			}
			for waiting() < 10_000 {
				runtime.Gosched()
			}
			var took []time.Duration
			for i := 0; b.Loop(); i++ {
				freed := time.Now()
				(<-running).Finish(Completed)
				next := <-through
				took = append(took, next.at.Sub(freed))
				running <- next.ticket
				wait(i)
				for waiting() < 10_000 {
					runtime.Gosched()
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			cancel()
			close(running)
			for ticket := range running {
				ticket.Finish(Completed)
			}
			go func() { streams.Wait(); close(through) }()
			for a := range through {
				a.ticket.Finish(Completed)
			}
		})
	}
}
