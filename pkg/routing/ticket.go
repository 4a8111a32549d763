package routing

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/pool"
	"github.com/pilotfish-epp/pilotfish/pkg/prefix"
	"github.com/pilotfish-epp/pilotfish/pkg/queue"
	"github.com/pilotfish-epp/pilotfish/pkg/request"
	"github.com/pilotfish-epp/pilotfish/pkg/scheduling"
	"github.com/pilotfish-epp/pilotfish/pkg/settings"
)

// Ticket is one request under way: what was picked for it and what is counted for it. The zero Ticket is ready for
// Route, and so is a finished one, which keeps its buffers. Not safe for concurrent use: one stream owns it.
type Ticket struct {
	router  *Router
	open    bool
	arrived time.Time
	lease   pool.Lease
	picked  []*pool.Pod // in the order told to the proxy
	outcome Outcome

	// What the choice is made from, and what came of it.
	arrival  *Arrival // only while Route runs
	values   *settings.Values
	target   string
	tokens   int
	priority int
	now      time.Time // of the choice
	room     scheduling.Room
	shed     bool // refused, since every pod is saturated and its priority is low
	took     time.Duration
	params   scheduling.Params
	question scheduling.Request
	pick     scheduling.Pick
	matched  int
	decision Decision

	// Its wait for a pod. In the queue the ticket belongs to the waiting room; woken says that it doesn't any more.
	place   queue.Item[*Ticket]
	woken   chan struct{}
	refusal *Refusal
	failure any // what the choice panicked with, in the goroutine of whoever made room
	waited  time.Duration

	// Reused from request to request.
	picker   scheduling.Picker
	hasher   prefix.Hasher
	hashes   []uint64
	depth    []int32
	identity []byte
}

func (t *Ticket) begin(r *Router, a *Arrival, v *settings.Values) {
	t.router, t.open, t.arrived = r, true, r.now()
	t.arrival, t.values = a, v
	t.hashes, t.depth, t.matched, t.tokens, t.target = t.hashes[:0], t.depth[:0], 0, 0, ""
	t.shed, t.refusal, t.failure, t.waited = false, nil, nil, 0
	t.outcome = Outcome{BodyBytes: a.BodyBytes}
	if a.Body != nil {
		if t.tokens = a.Body.PromptTokens; t.tokens == 0 {
			t.tokens = a.Body.PromptBytes / bytesPerToken
		}
		t.outcome.Model, t.target = a.Body.Model, a.Body.Model
	}
	if a.Rewrite != "" {
		t.target = a.Rewrite
	}
	t.outcome.Target = t.target
}

// Choose implements pool.Chooser: it runs while the pool stands still.
func (t *Ticket) Choose(s *pool.Snapshot) (pool.Charge, bool) {
	a, v := t.arrival, t.values
	t.params = params(v)
	if len(a.Steer) > 0 {
		return t.steer(s, a)
	}
	t.question = scheduling.Request{
		Tokens: t.tokens, Depth: t.depth, PerBlock: float64(v.PrefixCacheHashBlockSize) / bytesPerToken, Window: t.window(),
		Adapter: t.adapter(s), Subset: a.Subset, HasSubset: a.HasSubset, Draw: t.router.draw(),
	}
	// Those who wait are let go when queueing is turned off; who came before it was turned on doesn't wait.
	if now := t.router.settings.Current(); now.Queueing && t.values.Queueing {
		t.room = t.router.room(t, now)
		t.question.Room = &t.room
	} else if t.priority < 0 && !t.values.Queueing {
		t.room = scheduling.Room{Depth: now.SDQueueDepthThreshold, Burst: now.SDQueueDepthThreshold, KV: now.SDKVCacheUtilThreshold}
		if t.shed = scheduling.Saturated(t.now, s.Pods, &t.question, &t.params, &t.room); t.shed {
			return pool.Charge{}, false
		}
	}
	pick, ok := t.picker.Choose(t.now, s.Pods, &t.question, &t.params, v.DestinationFallbacks)
	if !ok {
		return pool.Charge{}, false
	}
	t.take(pick)
	primary := pick.Pods[0]
	if int(primary.ID) < len(t.depth) {
		t.matched = int(t.depth[primary.ID])
	}
	own := t.params.Engine.Prefill(float64(t.tokens), pick.Cost.Cached)
	return pool.Charge{
		Pod: primary, Tokens: t.tokens, Uncached: t.tokens - int(pick.Cost.Cached), Prefill: time.Duration(own * float64(time.Millisecond)),
	}, true
}

// window is the number of blocks that were hashed of a prompt that goes on behind them, or 0.
func (t *Ticket) window() int32 {
	hashed := t.values.PrefixCacheMaxPrefixBlocks
	if len(t.hashes) == 0 || len(t.hashes) < hashed || t.arrival.Body.PromptBytes <= hashed*t.values.PrefixCacheHashBlockSize {
		return 0
	}
	return int32(hashed)
}

// steer obeys a request that names its pods; those that are not in the pool, or that the gateway doesn't allow, are
// passed over. Port 0 stands for every pod at the address.
func (t *Ticket) steer(s *pool.Snapshot, a *Arrival) (pool.Charge, bool) {
	t.picked = t.picked[:0]
	for _, address := range a.Steer {
		for _, pod := range s.Pods {
			if a.HasSubset && !slices.Contains(a.Subset, pod.Address) {
				continue
			}
			if pod.Address == address || address.Port() == 0 && pod.Address.Addr() == address.Addr() {
				t.picked = append(t.picked, pod)
			}
		}
	}
	if len(t.picked) == 0 {
		return pool.Charge{}, false
	}
	t.pick = scheduling.Pick{Pods: t.picked, Reason: scheduling.Steered, Candidates: len(t.picked)}
	return pool.Charge{Pod: t.picked[0], Tokens: t.tokens, Uncached: t.tokens}, true
}

func (t *Ticket) take(pick scheduling.Pick) {
	t.pick = pick
	t.picked = append(t.picked[:0], pick.Pods...)
}

// beyond is taken as cached of what lies behind the window of hashed blocks where all of those match: prompts that agree
// for so long mostly belong to one conversation. Recorded conversations replayed on simulated engines (bench) found twice
// as much in the caches with it, within the default window, and answers came sooner; 0.5 to 1 differ little.
const beyond = 0.8

// worth is how much more a cached prefix is worth than the time that it saves this request: a conversation that moves takes
// its later turns along, and fills a second cache with the same. Recorded conversations replayed on simulated engines
// found 6 % more in the caches with 2 than with 1 while answers came as soon; 4 brings little more.
const worth = 2

// params gives the policy that the settings ask for.
func params(v *settings.Values) scheduling.Params {
	return scheduling.Params{
		Prefix:    v.RoutingStrategy == settings.StrategyPrefixCache,
		Staleness: v.SDMetricsStalenessThreshold,

		QueueWeight: v.QueueScoreWeight, KVWeight: v.KVCacheScoreWeight, PrefixWeight: worth * v.PrefixCacheScoreWeight, Beyond: beyond,
		Engine: scheduling.DefaultEngine(),
	}
}

// adapter gives the target when a pod lists it as a LoRA adapter: only then does it matter who has it.
func (t *Ticket) adapter(s *pool.Snapshot) string {
	if t.target == "" || !t.router.pool.Adapters() {
		return ""
	}
	for _, pod := range s.Pods {
		if pod.Load.HasAdapter(t.target) {
			return t.target
		}
	}
	return ""
}

// Destination is the address of the picked pod, followed by those of the fallbacks: "ip:port[,ip:port...]".
func (t *Ticket) Destination() string {
	if len(t.picked) == 1 {
		return t.picked[0].Authority
	}
	var b strings.Builder
	for i, pod := range t.picked {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(pod.Authority)
	}
	return b.String()
}

// Model is the model name that the body must carry; empty: the one that it has.
func (t *Ticket) Model() string {
	if t.target == t.outcome.Model {
		return ""
	}
	return t.target
}

// Responded says that response headers came, with their status and, where the proxy tells, the address that served.
// Another address than the picked one means that the proxy had to take a fallback: those before it did not answer.
func (t *Ticket) Responded(status int, served netip.AddrPort, streaming bool) {
	if !t.open || t.outcome.Status != 0 {
		return
	}
	t.outcome.Status = status
	now, p := t.router.now(), t.router.pool
	pod := t.lease.Pod()
	if served.IsValid() && served != pod.Address {
		pod = t.fellBack(now, served)
	}
	p.Begun(&t.lease)
	switch {
	case pod == nil: // an address that the pool no longer has
	case unanswered(status):
		p.Failed(now, pod)
	default:
		p.Answered(now, pod)
		if !streaming {
			p.Started(now, &t.lease) // the whole answer is there
		}
	}
}

// fellBack moves the request to the pod that served it and gives that pod, or nil when it has left the pool.
func (t *Ticket) fellBack(now time.Time, served netip.AddrPort) *pool.Pod {
	p := t.router.pool
	to := slices.IndexFunc(t.picked, func(pod *pool.Pod) bool { return pod.Address == served })
	missed := t.picked
	if to >= 0 {
		missed = t.picked[:to]
	}
	for _, pod := range missed {
		p.Failed(now, pod)
	}
	pod := p.Snapshot().At(served)
	if pod == nil {
		return nil
	}
	p.Move(now, &t.lease, pod)
	if len(t.hashes) > 0 {
		t.router.index.Add(pod.ID, t.hashes)
	}
	return pod
}

// unanswered says whether status is one that the proxy makes up when a pod does not answer. Engines that are loading or
// shutting down say 503 too, and are as little use.
func unanswered(status int) bool { return status >= 502 && status <= 504 }

// FirstToken says that the first content of a streamed answer was seen.
func (t *Ticket) FirstToken() {
	if !t.open || t.outcome.FirstToken != 0 {
		return
	}
	now := t.router.now()
	t.outcome.FirstToken = now.Sub(t.arrived)
	t.router.pool.Started(now, &t.lease)
}

// Used takes in the usage that the engine told.
func (t *Ticket) Used(u request.Usage) { t.outcome.Usage = u }

// ResponseBytes counts n bytes of the response body.
func (t *Ticket) ResponseBytes(n int) { t.outcome.ResponseBytes += n }

// Finish takes the request off its pod and reports its outcome, once; further calls do nothing.
func (t *Ticket) Finish(e End) {
	if !t.open {
		return
	}
	now := t.router.now()
	pod := t.lease.Pod()
	if pod != nil {
		t.outcome.End, t.outcome.Pod = e, pod
		t.outcome.Predicted = int(t.pick.Cost.Cached)
		t.outcome.Duration = now.Sub(t.arrived)
		t.release(now, e)
		if t.router.observer != nil {
			t.router.observer.Finished(&t.outcome)
		}
	}
	t.close()
}

// goneAfter is how long a client must have waited in vain for its leaving to say something of the pod. A proxy that was
// told not to show responses leaves sooner, and says nothing.
const goneAfter = 2 * time.Second

func (t *Ticket) release(now time.Time, e End) {
	p := t.router.pool
	switch {
	case e == Unfollowed:
		t.releaseLater()
		return
	case e == Completed:
		p.Started(now, &t.lease) // whether or not its first token was seen
	case e == ClientGone && t.outcome.Status == 0:
		if now.Sub(t.arrived) >= goneAfter {
			p.GaveUp(now, t.lease.Pod())
		}
	}
	p.Release(&t.lease)
}

// queueLimit bounds the wait that releaseLater believes in: estimates that are never put right would feed on themselves.
const queueLimit = 10_000 // milliseconds

// releaseLater frees the pod when the answer is estimated to have ended, since nobody will tell.
func (t *Ticket) releaseLater() {
	e := &t.params.Engine
	cost := t.pick.Cost
	step := e.Base + e.PerSequence*float64(1+cost.Running) + e.PerContext*cost.Context
	after := time.Duration((min(cost.Queue, queueLimit) + cost.Prefill + e.Output*step) * float64(time.Millisecond))
	lease, p := t.lease, t.router.pool
	t.lease = pool.Lease{}
	time.AfterFunc(after, func() { p.Release(&lease) })
}

func (t *Ticket) close() {
	t.open, t.lease = false, pool.Lease{}
	t.arrival, t.values, t.router = nil, nil, nil
	t.place, t.refusal = queue.Item[*Ticket]{}, nil
	t.question, t.pick, t.decision = scheduling.Request{}, scheduling.Pick{}, Decision{}
	clear(t.picked)
	t.picked = t.picked[:0]
}
