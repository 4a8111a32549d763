package routing

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/pilotfish-epp/pilotfish/pkg/pool"
	"github.com/pilotfish-epp/pilotfish/pkg/queue"
	"github.com/pilotfish-epp/pilotfish/pkg/scheduling"
	"github.com/pilotfish-epp/pilotfish/pkg/settings"
)

// waitingRoom holds the requests that found no room at any pod. Each is bound to a pod only when one has room, by whoever
// made the room: the goroutine that ended another request, or brought a report or a new pod. So a free place is filled at
// once, and nobody polls.
type waitingRoom struct {
	router *Router
	count  atomic.Int64 // requests in wait; not yet or no longer in the queue, some of them

	mu     sync.Mutex // guards the following, and the tickets in the queue
	queue  *queue.Queue[*Ticket]
	now    time.Time // of the event under way
	left   []*Ticket // left the queue in the event under way: to be woken when it is over
	timer  *time.Timer
	due    time.Time // when the timer rings; zero: it doesn't
	closed bool

	// The methods that the queue calls, as values made once.
	offering             func(*queue.Item[*Ticket]) queue.Try
	expiring, discarding func(*queue.Item[*Ticket])
}

func newWaitingRoom(r *Router, v *settings.Values) *waitingRoom {
	w := &waitingRoom{router: r, queue: queue.New[*Ticket](v.TotalQueueCapacity, v.QueueTTL)}
	w.offering, w.expiring, w.discarding = w.offer, w.expire, w.discard
	return w
}

// enter finds a pod for t, at once or when it is t's turn, or says why there is none. ctx ends the wait.
func (w *waitingRoom) enter(ctx context.Context, a *Arrival, t *Ticket) *Refusal {
	w.count.Add(1) // before the pods are looked at: whoever makes room from here on waits for the lock
	defer w.count.Add(-1)
	if done := w.push(t); done {
		return t.refusal
	}
	woken := false
	defer func() {
		if !woken { // something panicked: the ticket must not stay in the queue
			w.remove(t)
		}
	}()
	if a.Waits != nil {
		a.Waits(t.values.QueueTTL)
	}
	select {
	case <-t.woken:
		woken = true
	case <-ctx.Done():
		woken = true
		w.remove(t)
	}
	if t.failure != nil {
		panic(t.failure) // here, where it concerns this request alone
	}
	return t.refusal
}

// push puts t into the queue unless it need not or can't wait: then it is done.
func (w *waitingRoom) push(t *Ticket) (done bool) {
	if t.woken == nil {
		t.woken = make(chan struct{}, 1)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begin()
	defer w.end()
	if w.closed {
		w.refuse(t, shuttingDown(), Closed)
		return true
	}
	w.queue.Expire(w.now, w.expiring) // who could go has gone by the last event
	t.place = queue.Item[*Ticket]{
		Value: t, Priority: t.priority, Flow: flow(t.arrival.Fairness), Lane: t.lane(), Bytes: int64(t.arrival.HeldBytes), Tokens: t.tokens,
	}
	if !w.queue.Ahead(t.place.Priority, t.place.Lane) && w.router.assign(w.now, t) {
		return true
	}
	switch w.queue.Push(w.now, &t.place, w.discarding) {
	case queue.TooLarge:
		w.refuse(t, w.tooLarge(t), TurnedAway)
		return true
	case queue.NoRoom:
		w.refuse(t, w.full(t), TurnedAway)
		return true
	}
	return false
}

// remove takes t out, whose client has left. If it is on its way already, its pod or its refusal stands.
func (w *waitingRoom) remove(t *Ticket) {
	w.mu.Lock()
	waited := w.queue.Remove(&t.place)
	w.mu.Unlock()
	if !waited {
		<-t.woken
		return
	}
	t.waited = w.router.now().Sub(t.arrived)
	w.refuse(t, cancelled(), Cancelled)
}

// relieved is called when some pod may have room again.
func (w *waitingRoom) relieved() {
	if w.count.Load() == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begin()
	defer w.end()
	w.drain()
}

// follow takes on changed settings: those who wait feel them at once.
func (w *waitingRoom) follow(v *settings.Values) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begin()
	defer w.end()
	w.queue.SetTTL(w.now, v.QueueTTL)
	w.drain() // before anyone is discarded
	w.queue.SetCapacity(w.now, v.TotalQueueCapacity, w.discarding)
}

// close refuses all who wait, and whoever would have to from now on.
func (w *waitingRoom) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begin()
	defer w.end()
	w.closed = true
	w.queue.SetTTL(w.now, 0)
	w.queue.Expire(w.now, func(i *queue.Item[*Ticket]) {
		w.drop(i.Value, Closed, func(*Ticket) *Refusal { return shuttingDown() })
	})
}

// begin and end enclose every event. A ticket that leaves the queue belongs to its stream again once it is woken, so that
// happens last.
func (w *waitingRoom) begin() { w.now = w.router.now() }

func (w *waitingRoom) end() {
	for _, t := range w.left {
		t.woken <- struct{}{}
	}
	clear(w.left)
	w.left = w.left[:0]
	w.arm()
}

// arm makes the timer ring at the next deadline, and before that when there may be room by the passing of time alone:
// patience ends, a report becomes stale, a pod may be tried again. It may ring too early, when whom it was set for has
// left: that is cheaper than setting it anew each time.
func (w *waitingRoom) arm() {
	next, ok := w.queue.Deadline()
	if later := w.now.Add(patience); later.Before(next) {
		next = later
	}
	if !ok || !w.due.IsZero() && !next.Before(w.due) {
		return
	}
	w.due = next
	after := next.Sub(w.now)
	if w.timer == nil {
		w.timer = time.AfterFunc(after, w.ring)
		return
	}
	w.timer.Reset(after)
}

func (w *waitingRoom) ring() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begin()
	defer w.end()
	w.due = time.Time{}
	w.drain()
}

// drain lets all go that can go now, and drops those whose time is over.
func (w *waitingRoom) drain() {
	if w.queue.Len() == 0 {
		return
	}
	w.queue.Expire(w.now, w.expiring)
	w.queue.Dispatch(w.now, w.offering)
}

// keep keeps a panic to the request that it is about, for it comes in the goroutine of another.
func (t *Ticket) keep(cause any) bool {
	if cause == nil {
		return false
	}
	t.failure = fmt.Sprintf("%v, in the goroutine of another request:\n%s", cause, debug.Stack())
	return true
}

// offer binds a request to a pod if one has room.
func (w *waitingRoom) offer(i *queue.Item[*Ticket]) (try queue.Try) {
	t := i.Value
	defer func() {
		if t.keep(recover()) {
			w.left = append(w.left, t)
			try = queue.Taken
		}
	}()
	t.waited = w.now.Sub(t.arrived)
	w.router.lookUp(t)
	if !w.router.assign(w.now, t) {
		return queue.LaneFull
	}
	w.router.waitEnded(t, Dispatched)
	w.left = append(w.left, t)
	return queue.Taken
}

func (w *waitingRoom) expire(i *queue.Item[*Ticket]) {
	w.drop(i.Value, Expired, func(t *Ticket) *Refusal {
		if w.router.alive(w.now, t) {
			return w.timedOut(t)
		}
		return noEndpoints("no endpoint could serve this request within its longest wait (QUEUE_TTL): the pool has none that answers")
	})
}

func (w *waitingRoom) discard(i *queue.Item[*Ticket]) { w.drop(i.Value, Discarded, w.discarded) }

// drop ends the wait of t, which has left the queue, without a pod.
func (w *waitingRoom) drop(t *Ticket, how WaitEnd, why func(*Ticket) *Refusal) {
	w.left = append(w.left, t)
	defer func() { t.keep(recover()) }()
	t.waited = w.now.Sub(t.arrived)
	w.refuse(t, why(t), how)
}

func (w *waitingRoom) refuse(t *Ticket, no *Refusal, how WaitEnd) {
	t.refusal = no
	w.router.waitEnded(t, how)
}

// levels gives what waits, by priority.
func (w *waitingRoom) levels() []queue.PriorityStats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.queue.Stats(nil)
}

// retry is the Retry-After of t: the time in which those who would be before it will have gone, at the rate of late.
func (w *waitingRoom) retry(t *Ticket) time.Duration {
	after, known := w.queue.DrainTime(w.now, w.queue.AtOrAbove(t.priority)+1)
	if !known {
		return shedRetry
	}
	return min(max(after, time.Second), retryLimit)
}

// retryLimit bounds the Retry-After that is estimated: what is further away nobody knows.
const retryLimit = time.Minute

func (w *waitingRoom) tooLarge(t *Ticket) *Refusal {
	return &Refusal{
		Status: http.StatusTooManyRequests, Code: "exceeds_queue", Reason: ReasonSaturated,
		Message: fmt.Sprintf("every server is saturated, and this request of %d bytes is larger than the whole queue (TOTAL_QUEUE_CAPACITY, %d bytes)",
			t.place.Bytes, t.values.TotalQueueCapacity),
	}
}

func (w *waitingRoom) full(t *Ticket) *Refusal {
	return &Refusal{
		Status: http.StatusTooManyRequests, Code: "queue_full", Reason: ReasonSaturated, RetryAfter: w.retry(t),
		Message: fmt.Sprintf("every server is saturated, and this request of %d bytes, priority %d, finds no place in the queue (TOTAL_QUEUE_CAPACITY, %d bytes); try again later",
			t.place.Bytes, t.priority, t.values.TotalQueueCapacity),
	}
}

func (w *waitingRoom) discarded(t *Ticket) *Refusal {
	return &Refusal{
		Status: http.StatusTooManyRequests, Code: "queue_discarded", Reason: ReasonDiscarded, RetryAfter: w.retry(t),
		Message: fmt.Sprintf("every server is saturated; this request waited %v and made way for others in the queue; try again later", rounded(t.waited)),
	}
}

func (w *waitingRoom) timedOut(t *Ticket) *Refusal {
	return &Refusal{
		Status: http.StatusServiceUnavailable, Code: "queue_timeout", Reason: ReasonTTLExpired, RetryAfter: w.retry(t),
		Message: fmt.Sprintf("every server is saturated; this request waited %v, the longest that it may (QUEUE_TTL); try again later", rounded(t.waited)),
	}
}

func rounded(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// longestFlow is the length from which the name of a flow is kept as its hash: names come from clients, and are remembered
// for some time.
const longestFlow = 64

func flow(fairness string) string {
	if len(fairness) <= longestFlow {
		return fairness
	}
	return strconv.FormatUint(xxhash.Sum64String(fairness), 16)
}

// lane names the set of pods that the request may go to: requests of one lane stand or go together. Any pod is lane 0.
func (t *Ticket) lane() uint64 {
	if !t.arrival.HasSubset {
		return 0
	}
	var sum uint64 // of hashes, so that the order doesn't matter
	for _, address := range t.arrival.Subset {
		sum += hashOf(address)
	}
	return sum | 1
}

func hashOf(address netip.AddrPort) uint64 {
	ip, port := address.Addr().As16(), address.Port()
	var b [18]byte
	copy(b[:], ip[:])
	b[16], b[17] = byte(port>>8), byte(port)
	return xxhash.Sum64(b[:])
}

// patience is for how long a request waits for a free place at any pod before it joins those who wait at one of them, as
// far as the thresholds let it.
const patience = 250 * time.Millisecond

// room gives what a pod must have for t to go there.
func (r *Router) room(t *Ticket, v *settings.Values) scheduling.Room {
	m := scheduling.Room{
		Depth: v.SDQueueDepthThreshold, Burst: v.SDQueueDepthThreshold, KV: v.SDKVCacheUtilThreshold,
		Patient: t.waited < patience,
	}
	if t.priority < r.top.priority(t.now) {
		m.Depth, m.Patient, m.Low = min(m.Depth, v.LowerPriorityQueueDepthThreshold), true, true
	}
	return m
}

// summit knows the highest priority that requests had of late. Safe for concurrent use.
type summit struct {
	known atomic.Pointer[sighting]
}

type sighting struct {
	priority int
	at       time.Time
}

const (
	ofLate       = time.Minute // for how long a priority counts after its last request
	sightingStep = time.Second // how exactly that is known
)

// see takes in a request's priority.
func (s *summit) see(priority int, now time.Time) {
	had := s.known.Load()
	if had != nil && now.Sub(had.at) < ofLate && (priority < had.priority || priority == had.priority && now.Sub(had.at) < sightingStep) {
		return
	}
	s.known.Store(&sighting{priority, now})
}

func (s *summit) priority(now time.Time) int {
	if had := s.known.Load(); had != nil && now.Sub(had.at) < ofLate {
		return had.priority
	}
	return math.MinInt
}

// alive says whether a pod that t may go to is trusted.
func (r *Router) alive(now time.Time, t *Ticket) (alive bool) {
	allowed := scheduling.Request{Subset: t.arrival.Subset, HasSubset: t.arrival.HasSubset}
	r.pool.Look(func(s *pool.Snapshot) { alive = scheduling.Alive(now, s.Pods, &allowed) })
	return alive
}
