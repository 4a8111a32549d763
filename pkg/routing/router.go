package routing

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/pool"
	"github.com/pilotfish-epp/pilotfish/pkg/prefix"
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
}

// Decision tells how one pick came about.
type Decision struct {
	Arrival  *Arrival
	Pick     *scheduling.Pick
	Tokens   int // estimated prompt tokens
	Blocks   int // hashed blocks of the prompt
	Matched  int // of them, leading ones thought to be cached at the picked pod
	Strategy string
	Took     time.Duration // from Route's start to the pick
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

	blockSize atomic.Int64 // that the index was filled with
	capacity  atomic.Int64
}

// New makes a Router and lets it follow the pool: what a pod that left or restarted had cached is forgotten.
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
	r.blockSize.Store(int64(v.PrefixCacheHashBlockSize))
	r.capacity.Store(int64(v.PrefixCacheLRUCapacity))
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
// Ticket.Finish.
func (r *Router) Route(_ context.Context, a *Arrival, t *Ticket) *Refusal {
	v := r.settings.Current()
	t.begin(r, a, v)
	if v.RoutingStrategy == settings.StrategyPrefixCache {
		r.match(a, t, v)
	}
	if !r.pool.Assign(t.arrived, t, &t.lease) {
		return r.refuse(a, t)
	}
	if len(t.hashes) > 0 {
		r.index.Add(t.lease.Pod().ID, t.hashes)
	}
	if r.observer != nil {
		t.decision = Decision{
			Arrival: a, Pick: &t.pick, Tokens: t.tokens, Blocks: len(t.hashes), Matched: t.matched,
			Strategy: v.RoutingStrategy, Took: r.now().Sub(t.arrived),
		}
		r.observer.Picked(&t.decision)
	}
	return nil
}

// match hashes the prompt and looks up which pods are thought to have how much of it.
func (r *Router) match(a *Arrival, t *Ticket, v *settings.Values) {
	if a.Body == nil || a.Body.PromptBytes == 0 {
		return
	}
	r.follow(v)
	t.identity = a.Body.Identity(t.identity[:0])
	t.hasher.Reset(v.PrefixCacheHashBlockSize, v.PrefixCacheMaxPrefixBlocks, t.hashes[:0], t.target, t.identity)
	a.Body.Prompt(&t.hasher)
	t.hashes = t.hasher.Sum()
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

// follow brings the index to the settings in force. Hashes of another block size match nothing, so the index starts
// afresh when the size changes.
func (r *Router) follow(v *settings.Values) {
	if had := r.blockSize.Load(); had != int64(v.PrefixCacheHashBlockSize) && r.blockSize.CompareAndSwap(had, int64(v.PrefixCacheHashBlockSize)) {
		r.index.Reset()
	}
	if had := r.capacity.Load(); had != int64(v.PrefixCacheLRUCapacity) && r.capacity.CompareAndSwap(had, int64(v.PrefixCacheLRUCapacity)) {
		r.index.SetCapacity(v.PrefixCacheLRUCapacity)
	}
}

// Refused tells the observer of a request that was refused without Route, which tells of its own refusals itself. Nothing
// is kept of a.
func (r *Router) Refused(a *Arrival, no *Refusal) {
	if r.observer != nil {
		r.observer.Refused(a, no)
	}
}

// noPodRetry is the Retry-After of a request that found no pod: about the time in which a pool gets its first one.
const noPodRetry = 5 * time.Second

func (r *Router) refuse(a *Arrival, t *Ticket) *Refusal {
	no := &Refusal{
		Status: http.StatusServiceUnavailable, Code: "no_endpoints", Reason: ReasonNoEndpoints, RetryAfter: noPodRetry,
		Message: "no endpoint can serve this request: the pool has none",
	}
	switch {
	case len(r.pool.Snapshot().Pods) == 0:
	case a.HasSubset && len(a.Subset) == 0:
		no.Message, no.RetryAfter = "no endpoint can serve this request: the gateway's list of allowed endpoints is empty", 0
	case a.HasSubset:
		no.Message = "no endpoint can serve this request: none of the endpoints that the gateway allows is in the pool"
	}
	r.Refused(a, no)
	t.close()
	return no
}
