package enginesim

import (
	"fmt"
	"time"
)

// BlockTokens is the number of tokens of one KV block, vLLM's default.
const BlockTokens = 16

// Config is what an Engine is built from. Zero limits take the profile's.
type Config struct {
	Profile     Profile
	MaxAdapters int           // LoRA adapters that may run in one batch; 0 = adapters cost and limit nothing
	AdapterLoad time.Duration // added to the step that first runs an adapter which is not resident
}

// Request is one generation. The caller fills the first group and keeps its hands off until the request has finished
// or was aborted; the engine fills the second.
type Request struct {
	PromptTokens int      // >= 1
	OutputTokens int      // >= 1; the answer is exactly this long
	Hashes       []uint64 // chained content hashes of the full blocks of the prompt, and of the answer if it may be reused
	Adapter      string   // LoRA adapter, empty for the base model
	Data         any      // the caller's own

	Arrived     time.Duration // time given to Submit
	Scheduled   time.Duration // start of the first step that worked on it
	FirstToken  time.Duration // end of the step that made the first token
	LastToken   time.Duration // end of the step that made the latest token
	Cached      int           // prompt tokens taken from the prefix cache at the first admission
	Generated   int           // tokens made so far
	Preemptions int

	phase    phase
	computed int     // tokens whose KV is there, counting the step under way only once it has ended
	chunk    int     // tokens that the step under way computes
	pages    []int32 // its blocks, in order
	known    int     // leading blocks whose content is findable
}

type phase uint8

const (
	idle phase = iota
	waiting
	running
	finished
	aborted
)

func (r *Request) tokens() int { return r.PromptTokens + r.Generated }

// Event says that a request made a token in the step that ended. Finished is true for its last one.
type Event struct {
	Request  *Request
	Finished bool
}

// Counters are running totals of an Engine.
type Counters struct {
	Submitted, Finished, Aborted uint64
	Steps, Preemptions           uint64
	Evictions                    uint64 // blocks of known content that were reused for other content
	PromptTokens                 uint64 // of requests admitted, counted once each
	CachedTokens                 uint64 // the part of PromptTokens found in the prefix cache
	GeneratedTokens              uint64
	BatchedTokens                uint64 // computed in all steps, prefill and decode
	MaxWaiting, MaxRunning       int    // the most seen at a step or submission
}

// Load is what an Engine would report now.
type Load struct {
	Running, Waiting int
	Deferred         int     // the part of Waiting that waits for an adapter's place in the batch
	KVUsage          float64 // 0..1, blocks held by running requests
}

// Engine is vLLM v1's scheduler over a paged KV cache, with step times from its profile's StepModel. Running requests
// come first, then waiting ones in order of arrival; a prompt is prefilled in chunks within the step's token budget
// and admitted only when all its blocks fit; when blocks run out the request that started last loses all of its own
// and is computed anew. At least the last token of a prompt is always computed.
//
// Time is the caller's: a Duration since any start, never decreasing. Not safe for concurrent use.
type Engine struct {
	cfg     Config
	kv      *blocks
	usable  int
	queue   queue
	running []*Request
	batch   []*Request
	events  []Event
	count   Counters
	slow    float64
	chunkMS float64 // a step's cost summed up while it is scheduled

	stepping bool
	due      time.Duration // end of the step under way, or the time from which an idle engine has work
	ready    bool          // idle with work since due

	refused      *Request // head of the queue that did not fit when kv.gains was refusedGains
	refusedGains uint64
	resident     []string // adapters in the accelerator, the latest used last
}

// NewEngine checks the configuration and returns an idle engine with an empty cache.
func NewEngine(cfg Config) (*Engine, error) {
	p := cfg.Profile
	switch {
	case p.KVTokens < 2*BlockTokens:
		return nil, fmt.Errorf("engine: KV cache of %d tokens, expected at least %d", p.KVTokens, 2*BlockTokens)
	case p.MaxBatchedTokens < 1:
		return nil, fmt.Errorf("engine: token budget of a step is %d, expected at least 1", p.MaxBatchedTokens)
	case p.MaxSeqs < 1:
		return nil, fmt.Errorf("engine: at most %d sequences, expected at least 1", p.MaxSeqs)
	case p.MaxBatchedTokens < p.MaxSeqs:
		return nil, fmt.Errorf("engine: token budget of a step (%d) is below the sequences that may run (%d)", p.MaxBatchedTokens, p.MaxSeqs)
	case p.Steps.Base <= 0:
		return nil, fmt.Errorf("engine: a step takes at least %g ms, expected more than 0", p.Steps.Base)
	case cfg.MaxAdapters < 0:
		return nil, fmt.Errorf("engine: at most %d adapters, expected 0 or more", cfg.MaxAdapters)
	}
	usable := p.KVTokens/BlockTokens - 1 // vLLM keeps one block as the null block
	return &Engine{
		cfg: cfg, kv: newBlocks(usable), usable: usable, slow: 1,
		running: make([]*Request, 0, p.MaxSeqs),
		batch:   make([]*Request, 0, p.MaxSeqs),
		events:  make([]Event, 0, p.MaxSeqs),
	}, nil
}

// Capacity is the most tokens, prompt and answer, that one request can have.
func (e *Engine) Capacity() int { return e.usable * BlockTokens }

// Submit queues a request at a time. It fails when the request could never run.
func (e *Engine) Submit(now time.Duration, r *Request) error {
	switch {
	case r.PromptTokens < 1 || r.OutputTokens < 1:
		return fmt.Errorf("engine: request of %d prompt and %d output tokens, expected at least 1 of each", r.PromptTokens, r.OutputTokens)
	case r.PromptTokens+r.OutputTokens > e.Capacity():
		return fmt.Errorf("engine: request of %d tokens, the KV cache holds %d", r.PromptTokens+r.OutputTokens, e.Capacity())
	case r.phase == waiting || r.phase == running:
		return fmt.Errorf("engine: request submitted while under way")
	}
	*r = Request{
		PromptTokens: r.PromptTokens, OutputTokens: r.OutputTokens, Hashes: r.Hashes,
		Adapter: r.Adapter, Data: r.Data, Arrived: now, phase: waiting, pages: r.pages[:0],
	}
	e.queue.pushBack(r)
	e.count.Submitted++
	e.count.MaxWaiting = max(e.count.MaxWaiting, e.queue.len())
	if !e.stepping && !e.ready {
		e.ready, e.due = true, now
	}
	return nil
}

// Abort ends a request early and frees its blocks at once; the step under way still takes its time.
func (e *Engine) Abort(r *Request) {
	switch r.phase {
	case waiting:
		e.queue.remove(e.queue.index(r))
		if r == e.refused {
			e.refused = nil
		}
	case running:
		e.drop(r)
		e.vacate(r)
	default:
		return
	}
	r.phase = aborted
	e.count.Aborted++
}

// Next returns when Step has something to do: the end of the step under way, or the arrival that woke an idle engine.
func (e *Engine) Next() (time.Duration, bool) { return e.due, e.stepping || e.ready }

// Step ends the step that is due, reports who made a token in it, and starts the next one. A call before Next changes
// nothing. The events are valid until the following Step.
func (e *Engine) Step(now time.Duration) []Event {
	e.events = e.events[:0]
	if !e.stepping && !e.ready || now < e.due {
		return e.events
	}
	if e.stepping {
		e.finish(now)
	}
	e.ready = false
	e.start(now)
	return e.events
}

// Load reports what runs and waits.
func (e *Engine) Load() Load {
	return Load{
		Running: len(e.running), Waiting: e.queue.len(), Deferred: e.deferred(),
		KVUsage: 1 - float64(e.kv.free)/float64(e.usable),
	}
}

// Counters returns the running totals.
func (e *Engine) Counters() Counters {
	c := e.count
	c.Evictions = e.kv.evictions
	return c
}

// SetSlowdown makes every step that starts from now on take factor times as long; factor must be positive.
func (e *Engine) SetSlowdown(factor float64) { e.slow = factor }

// Adapters appends the adapters of running and of waiting requests, each once, in order of appearance.
func (e *Engine) Adapters(running, waiting []string) (run, wait []string) {
	for _, r := range e.running {
		running = appendOnce(running, r.Adapter)
	}
	for i := range e.queue.len() {
		waiting = appendOnce(waiting, e.queue.at(i).Adapter)
	}
	return running, waiting
}

// start schedules a step and sets its end.
func (e *Engine) start(now time.Duration) {
	e.batch, e.chunkMS = e.batch[:0], 0
	budget, preempted := e.scheduleRunning(now, e.cfg.Profile.MaxBatchedTokens)
	if !preempted {
		// Admitting while others lose their blocks would only move the shortage.
		e.admit(now, budget)
	}
	e.stepping = len(e.batch) > 0
	if !e.stepping {
		return
	}
	e.count.Steps++
	e.count.MaxRunning = max(e.count.MaxRunning, len(e.running))
	e.due = now + time.Duration((e.cfg.Profile.Steps.Base+e.chunkMS)*e.slow*float64(time.Millisecond))
}

func (e *Engine) scheduleRunning(now time.Duration, budget int) (left int, preempted bool) {
	for i := 0; i < len(e.running) && budget > 0; i++ {
		r := e.running[i]
		n := min(r.tokens()-r.computed, budget)
		for !e.grow(r, n) {
			last := e.running[len(e.running)-1]
			e.preempt(last)
			preempted = true
			if last == r {
				return budget, true
			}
		}
		e.plan(r, n)
		budget -= n
	}
	return budget, preempted
}

func (e *Engine) admit(now time.Duration, budget int) {
	for i := 0; i < e.queue.len() && budget > 0 && len(e.running) < e.cfg.Profile.MaxSeqs; {
		r := e.queue.at(i)
		if e.mustDefer(r) {
			i++
			continue
		}
		if !e.place(r) {
			return
		}
		e.queue.remove(i)
		e.enter(r, now)
		n := min(r.tokens()-r.computed, budget)
		if !e.grow(r, n) {
			panic("enginesim: a request that fits has no blocks") // place has counted them
		}
		e.plan(r, n)
		budget -= n
	}
}

// place gives a waiting request the cached blocks of its prefix, if the rest of it fits too.
func (e *Engine) place(r *Request) bool {
	if r == e.refused && e.kv.gains == e.refusedGains {
		return false // nothing has come free since: spare the search
	}
	// The last token must be computed to have something to sample from.
	limit := min((r.tokens()-1)/BlockTokens, len(r.Hashes))
	revived := 0 // cached blocks that leave the free queue
	r.pages = r.pages[:0]
	for _, hash := range r.Hashes[:limit] {
		id := e.kv.find(hash)
		if id == none {
			break
		}
		if e.kv.pages[id].refs == 0 {
			revived++
		}
		r.pages = append(r.pages, id)
	}
	if blocksFor(r.tokens())-len(r.pages)+revived > e.kv.free {
		r.pages = r.pages[:0]
		e.refused, e.refusedGains = r, e.kv.gains
		return false
	}
	for _, id := range r.pages {
		e.kv.hold(id)
	}
	r.known = len(r.pages)
	r.computed = len(r.pages) * BlockTokens
	return true
}

// enter moves a placed request among the running.
func (e *Engine) enter(r *Request, now time.Duration) {
	r.phase = running
	e.running = append(e.running, r)
	if r.Adapter != "" && e.cfg.MaxAdapters > 0 {
		e.load(r.Adapter)
	}
	if r.Preemptions > 0 {
		return
	}
	r.Scheduled = now
	r.Cached = r.computed
	e.count.PromptTokens += uint64(r.PromptTokens)
	e.count.CachedTokens += uint64(r.Cached)
}

// grow takes the blocks that n more tokens need, all or none, and makes the ones that get full findable: a request
// that is scheduled later in the same step may already use them, as in vLLM.
func (e *Engine) grow(r *Request, n int) bool {
	after := r.computed + n
	need := blocksFor(after) - len(r.pages)
	if need > e.kv.free {
		return false
	}
	if need > 0 && cap(r.pages) == 0 {
		r.pages = make([]int32, 0, blocksFor(r.PromptTokens+r.OutputTokens))
	}
	for range need {
		r.pages = append(r.pages, e.kv.take())
	}
	for full := min(after/BlockTokens, len(r.Hashes)); r.known < full; r.known++ {
		e.kv.remember(r.pages[r.known], r.Hashes[r.known])
	}
	return true
}

// plan puts n tokens of a request into the step and adds what they cost.
func (e *Engine) plan(r *Request, n int) {
	r.chunk = n
	e.batch = append(e.batch, r)
	e.count.BatchedTokens += uint64(n)
	m := &e.cfg.Profile.Steps
	ctx := float64(r.computed)
	if n == 1 && r.Generated > 0 {
		e.chunkMS += m.Sequence + m.Context*ctx
		return
	}
	new := float64(n)
	e.chunkMS += m.Token*new + m.Pair*new*(ctx+new/2)
}

// preempt takes all blocks of the request that started last; it waits at the head of the queue and starts over.
func (e *Engine) preempt(r *Request) {
	e.vacate(r)
	e.drop(r)
	r.phase = waiting
	r.computed, r.known = 0, 0
	r.Preemptions++
	e.count.Preemptions++
	e.queue.pushFront(r)
	e.count.MaxWaiting = max(e.count.MaxWaiting, e.queue.len())
}

// finish ends the step under way: whoever has all tokens computed makes one more.
func (e *Engine) finish(now time.Duration) {
	done := false
	for _, r := range e.batch {
		if r.phase != running {
			continue
		}
		r.computed += r.chunk
		if r.computed < r.tokens() {
			continue
		}
		r.Generated++
		e.count.GeneratedTokens++
		if r.Generated == 1 {
			r.FirstToken = now
		}
		r.LastToken = now
		last := r.Generated == r.OutputTokens
		e.events = append(e.events, Event{Request: r, Finished: last})
		if last {
			r.phase, done = finished, true
			e.count.Finished++
			e.vacate(r)
		}
	}
	if done {
		e.sweep()
	}
}

func (e *Engine) vacate(r *Request) {
	e.kv.release(r.pages)
	r.pages = r.pages[:0]
}

// sweep drops finished requests from the running, keeping their order.
func (e *Engine) sweep() {
	kept := e.running[:0]
	for _, r := range e.running {
		if r.phase == running {
			kept = append(kept, r)
		}
	}
	clear(e.running[len(kept):])
	e.running = kept
}

func (e *Engine) drop(r *Request) {
	for i := len(e.running) - 1; i >= 0; i-- {
		if e.running[i] == r {
			e.running = append(e.running[:i], e.running[i+1:]...)
			return
		}
	}
}

// mustDefer says that the batch already runs as many other adapters as it may.
func (e *Engine) mustDefer(r *Request) bool {
	if r.Adapter == "" || e.cfg.MaxAdapters == 0 {
		return false
	}
	others := 0
	for i, o := range e.running {
		if o.Adapter == r.Adapter {
			return false
		}
		if o.Adapter != "" && !runsBefore(e.running[:i], o.Adapter) {
			others++
		}
	}
	return others >= e.cfg.MaxAdapters
}

func (e *Engine) deferred() int {
	n := 0
	for i := range e.queue.len() {
		if e.mustDefer(e.queue.at(i)) {
			n++
		}
	}
	return n
}

// load makes an adapter resident, at the cost of the one that was used longest ago.
func (e *Engine) load(adapter string) {
	for i, name := range e.resident {
		if name == adapter {
			e.resident = append(append(e.resident[:i], e.resident[i+1:]...), adapter)
			return
		}
	}
	if len(e.resident) == e.cfg.MaxAdapters {
		e.resident = append(e.resident[:0], e.resident[1:]...)
	}
	e.resident = append(e.resident, adapter)
	e.chunkMS += float64(e.cfg.AdapterLoad) / float64(time.Millisecond)
}

func runsBefore(rs []*Request, adapter string) bool {
	for _, r := range rs {
		if r.Adapter == adapter {
			return true
		}
	}
	return false
}

func appendOnce(names []string, name string) []string {
	if name == "" {
		return names
	}
	for _, n := range names {
		if n == name {
			return names
		}
	}
	return append(names, name)
}

func blocksFor(tokens int) int { return (tokens + BlockTokens - 1) / BlockTokens }
