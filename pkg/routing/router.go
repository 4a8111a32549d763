package routing

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/discovery"
	"github.com/pilotfish-epp/pilotfish/pkg/pool"
	"github.com/pilotfish-epp/pilotfish/pkg/prefix"
	"github.com/pilotfish-epp/pilotfish/pkg/queue"
	"github.com/pilotfish-epp/pilotfish/pkg/request"
	"github.com/pilotfish-epp/pilotfish/pkg/scheduling"
	"github.com/pilotfish-epp/pilotfish/pkg/settings"
)

// bytesPerToken is how many bytes of prompt text make a token, as long as nothing better is known: the usual figure for
// English text with the byte-pair vocabularies of current models.
const bytesPerToken = 4

// Options is what a Router works with. Pool and Settings must be set.
type Options struct {
	Pool     *pool.Pool
	Settings *settings.Store
	Observer Observer         // nil: nobody watches
	Clock    func() time.Time // nil: time.Now
	Draw     func() uint64    // randomness for ties; nil: the runtime's
}

// Observer is told what happens to requests. Calls come from many goroutines.
type Observer interface {
	// Picked follows every pick; d is only valid during the call.
	Picked(d *Decision)
	// Refused follows every request that was refused: by Route, since there was no pod, or elsewhere. One that the server
	// failed on after its pick had been told as Picked, and is told as Finished too.
	Refused(a *Arrival, r *Refusal)
	// Finished follows the end of every request that had a pod.
	Finished(o *Outcome)
	// Waited follows the end of every wait for a pod, with QUEUEING also of those that took no time. It must be quick:
	// others wait.
	Waited(w *Wait)
}

// Decision tells how one pick came about.
type Decision struct {
	Arrival  *Arrival
	Pick     *scheduling.Pick
	Tokens   int // estimated prompt tokens
	Blocks   int // hashed blocks of the prompt
	Matched  int // of them, leading ones thought to be cached at the picked pod
	Strategy string
	Priority int
	Took     time.Duration // from Route's start to the pick, without the wait
	Waited   time.Duration // in the queue
}

// Outcome tells how a request that had a pod went.
type Outcome struct {
	Model, Target string // as asked for, and as sent to the engine
	Pod           *pool.Pod
	Status        int // HTTP status; 0: none was seen
	End           End
	BodyBytes     int
	ResponseBytes int
	Usage         request.Usage
	Predicted     int           // tokens thought to be cached at the pod
	FirstToken    time.Duration // from arrival; 0: not seen
	Duration      time.Duration // from arrival
}

// Router routes requests. All methods are safe for concurrent use.
type Router struct {
	pool     *pool.Pool
	settings *settings.Store
	index    *prefix.Index
	observer Observer
	now      func() time.Time
	draw     func() uint64

	waiting    *waitingRoom
	top        summit
	priorities atomic.Pointer[discovery.Priorities] // nil: all Standard

	following sync.Mutex
	followed  *settings.Values // by index and queue
}

// New makes a Router and lets it follow the pool, which must not be in use yet, and the settings: what a pod that left or
// restarted had cached is forgotten.
func New(o Options) *Router {
	v := o.Settings.Current()
	r := &Router{
		pool: o.Pool, settings: o.Settings, observer: o.Observer, now: o.Clock, draw: o.Draw,
		index: prefix.New(v.PrefixCacheLRUCapacity),
	}
	if r.now == nil {
		r.now = time.Now
	}
	if r.draw == nil {
		r.draw = rand.Uint64
	}
	r.waiting, r.followed = newWaitingRoom(r, v), v
	o.Pool.OnRoom(r.waiting.relieved)
	o.Settings.Subscribe(func(now *settings.Values, _ []settings.Change) { r.follow(now) })
	o.Pool.OnChange(func(joined, left []*pool.Pod) {
		for _, pod := range left {
			r.index.Forget(pod.ID)
		}
		for _, pod := range joined { // a straggler may have remembered something under a reused ID
			r.index.Forget(pod.ID)
		}
	})
	return r
}

// Index gives the prefix index, for its figures.
func (r *Router) Index() *prefix.Index { return r.index }

// Route picks a pod for a and counts the request there, or says why it can't be served. With nil t holds the pod until
// Ticket.Finish. With QUEUEING it blocks while no pod has room, until ctx ends.
func (r *Router) Route(ctx context.Context, a *Arrival, t *Ticket) *Refusal {
	v := r.settings.Current()
	t.begin(r, a, v)
	t.priority = r.priorities.Load().Of(a.Objective, t.outcome.Model)
	if v.RoutingStrategy == settings.StrategyPrefixCache {
		r.hash(a, t, v)
	}
	if no := r.place(ctx, a, t); no != nil {
		r.Refused(a, no)
		t.close()
		return no
	}
	if r.observer != nil {
		t.decision = Decision{
			Arrival: a, Pick: &t.pick, Tokens: t.tokens, Blocks: len(t.hashes), Matched: t.matched,
			Strategy: v.RoutingStrategy, Priority: t.priority, Took: t.took, Waited: t.waited,
		}
		r.observer.Picked(&t.decision)
	}
	return nil
}

// place finds a pod for t.
func (r *Router) place(ctx context.Context, a *Arrival, t *Ticket) *Refusal {
	r.lookUp(t)
	if !t.values.Queueing || len(a.Steer) > 0 {
		if r.assign(t.arrived, t) {
			return nil
		}
		return r.unplaced(a, t)
	}
	if no := r.hopeless(a); no != nil {
		return no
	}
	r.top.see(t.priority, t.arrived)
	if r.waiting.count.Load() == 0 && r.assign(t.arrived, t) {
		r.waitEnded(t, Dispatched)
		return nil
	}
	return r.waiting.enter(ctx, a, t)
}

// assign picks a pod for t and counts the request there, if one has what t needs.
func (r *Router) assign(now time.Time, t *Ticket) bool {
	t.now = now
	if !r.pool.Assign(now, t, &t.lease) {
		return false
	}
	if len(t.hashes) > 0 {
		r.index.Add(t.lease.Pod().ID, t.hashes)
	}
	t.took = r.now().Sub(t.arrived) - t.waited
	return true
}

// hash hashes the prompt.
func (r *Router) hash(a *Arrival, t *Ticket, v *settings.Values) {
	if a.Body == nil || a.Body.PromptBytes == 0 {
		return
	}
	t.identity = a.Body.Identity(t.identity[:0])
	t.hasher.Reset(v.PrefixCacheHashBlockSize, v.PrefixCacheMaxPrefixBlocks, t.hashes[:0], t.target, t.identity)
	a.Body.Prompt(&t.hasher)
	t.hashes = t.hasher.Sum()
}

// lookUp finds out which pods are thought to have how much of the prompt.
func (r *Router) lookUp(t *Ticket) {
	if len(t.hashes) == 0 {
		return
	}
	ids := r.pool.Snapshot().IDs
	if cap(t.depth) < ids {
		t.depth = make([]int32, ids, ids+ids/4)
	}
	t.depth = t.depth[:ids]
	clear(t.depth)
	r.index.Match(t.hashes, t.depth)
}

// follow brings the index and the queue to settings that have changed. Hashes of another block size match nothing, so the
// index starts afresh when the size changes; those of requests under way are forgotten as others come.
func (r *Router) follow(v *settings.Values) {
	r.following.Lock()
	defer r.following.Unlock()
	if had := r.followed; had.PrefixCacheHashBlockSize != v.PrefixCacheHashBlockSize {
		r.index.Reset()
	}
	if had := r.followed; had.PrefixCacheLRUCapacity != v.PrefixCacheLRUCapacity {
		r.index.SetCapacity(v.PrefixCacheLRUCapacity)
	}
	r.followed = v
	r.waiting.follow(v)
}

// SetPriorities says how important requests are from now on; nil makes all Standard. Those that wait keep their places.
func (r *Router) SetPriorities(p *discovery.Priorities) { r.priorities.Store(p) }

// RefuseWaiting answers the requests that wait for a pod, now or later, with 503: the process is about to end.
func (r *Router) RefuseWaiting() { r.waiting.close() }

// Waiting gives what waits now, by priority, the highest first.
func (r *Router) Waiting() []queue.PriorityStats { return r.waiting.levels() }

func (r *Router) waitEnded(t *Ticket, how WaitEnd) {
	if r.observer != nil {
		r.observer.Waited(&Wait{Priority: t.priority, End: how, Took: t.waited})
	}
}

// Refused tells the observer of a request that was refused without Route, which tells of its own refusals itself. Nothing
// is kept of a.
func (r *Router) Refused(a *Arrival, no *Refusal) {
	if r.observer != nil {
		r.observer.Refused(a, no)
	}
}

// hopeless refuses a request that no pod will ever be allowed for, however long it waits.
func (r *Router) hopeless(a *Arrival) *Refusal {
	switch {
	case !a.HasSubset:
		return nil
	case len(a.Subset) == 0:
		no := noEndpoints("no endpoint can serve this request: the gateway's list of allowed endpoints is empty")
		no.RetryAfter = 0
		return no
	}
	pods := r.pool.Snapshot()
	for _, address := range a.Subset {
		if pods.At(address) != nil {
			return nil
		}
	}
	return noEndpoints("no endpoint can serve this request: none of the endpoints that the gateway allows is in the pool")
}

// unplaced says why t got no pod.
func (r *Router) unplaced(a *Arrival, t *Ticket) *Refusal {
	if t.shed {
		return saturated(t.priority)
	}
	if len(r.pool.Snapshot().Pods) > 0 {
		if no := r.hopeless(a); no != nil {
			return no
		}
	}
	return noEndpoints("no endpoint can serve this request: the pool has none")
}
