package scheduling

import (
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/pool"
)

// Params is the policy in force: a strategy, its weights, and what is known of the engines' speed.
type Params struct {
	Prefix    bool          // count what is cached as not to be computed (PREFIX_CACHE); otherwise load alone (DEFAULT)
	Staleness time.Duration // a report older than this is not used

	QueueWeight  float64 // scales the wait behind what is queued
	KVWeight     float64 // scales the delay by and of a full KV cache
	PrefixWeight float64 // scales what a cached prefix saves
	Beyond       float64 // share 0..1 of a prompt behind the hashed blocks that is taken as cached where all of those are

	Engine Engine
}

// Engine holds the constants of the step-time model of a model server (chunked prefill with continuous batching):
// milliseconds for a step itself, for each new token, for each pair of a new token with one before it, for each running sequence and for
// each token of running context, in one step.
type Engine struct {
	Base, PerToken, PerPair, PerSequence, PerContext float64

	Output      float64 // tokens that an answer is assumed to have
	Contention  float64 // share of a prefill that each running request suffers or adds
	KVTokens    float64 // size of a KV cache that was not reported
	AdapterLoad float64 // milliseconds to load a LoRA adapter that is not there
	AdapterSwap float64 // and with another to be evicted for it
}

// DefaultEngine is an 8B model on one 80 GB accelerator, from published measurements of the step-time model; only the
// proportions between its constants matter as long as nothing better is learnt.
func DefaultEngine() Engine {
	return Engine{
		Base: 6.5, PerToken: 0.0200, PerPair: 8.4e-7, PerSequence: 0.025, PerContext: 5.2e-5,
		Output: 100, Contention: 0.25, KVTokens: 400_000, AdapterLoad: 200, AdapterSwap: 1000,
	}
}

// Prefill is the time to compute the tokens of a prompt from cached on, in milliseconds.
func (e *Engine) Prefill(tokens, cached float64) float64 {
	n := max(0, tokens-cached)
	return e.PerToken*n + e.PerPair*n*(cached+n/2)
}

// saved is what cached tokens at the head of a prompt take off its prefill, whatever its length, in milliseconds.
func (e *Engine) saved(cached float64) float64 { return cached * (e.PerToken + e.PerPair*cached/2) }

// Cost is what a request would cost on a pod, each part in estimated milliseconds.
type Cost struct {
	Queue   float64 // until the prefill before it is done
	Prefill float64 // its own, with what is cached left out, and what that delays others
	Decode  float64 // its share in every later step of those who run there
	KV      float64 // recomputing what no longer fits in the cache
	Adapter float64 // loading its LoRA adapter
	Saved   float64 // what the cached prefix took off Prefill; not part of the total
	Cached  float64 // tokens counted as cached
	Running float64 // requests at the pod before this one
	Context float64 // tokens in its KV cache before this one
}

// Total is the sum that pods are compared by.
func (c *Cost) Total() float64 { return c.Queue + c.Prefill + c.Decode + c.KV + c.Adapter }

// Cost estimates what r would cost on pod. The shape is marginal delay: what the request waits for, its own uncached
// prefill (which also holds up everyone running there), and its weight in the steps of the whole batch from then on.
func (p *Params) Cost(now time.Time, pod *pool.Pod, r *Request) Cost {
	q := p.ask(now, r)
	var c Cost
	q.cost(pod, &c)
	return c
}

// question is what of the cost is the same for every pod.
type question struct {
	*Params
	now    pool.Instant
	r      *Request
	tokens float64
	full   float64 // prefill with nothing cached, milliseconds
	most   int     // see fullest; notLooked: not known yet
}

func (p *Params) ask(now time.Time, r *Request) question {
	tokens := float64(r.Tokens)
	return question{Params: p, now: pool.At(now), r: r, tokens: tokens, full: p.Engine.Prefill(tokens, 0), most: notLooked}
}

// cost fills c, which spares copying it for every pod.
func (q *question) cost(pod *pool.Pod, c *Cost) {
	e, l := &q.Engine, pod.Load
	fresh := l.Fresh(q.now, q.Staleness)

	// Plain variables, since a struct of this size would be kept in memory: this runs for every pod.
	running := float64(l.Requests(fresh))
	own, cached := q.full, 0.0
	if q.Prefix {
		if cached = q.r.Cached(pod, q.Beyond); cached > 0 {
			own -= q.PrefixWeight * e.saved(cached)
		}
	}
	crowd := 1 + e.Contention*running

	queue := float64(l.PrefillQueue(q.now)) / float64(time.Millisecond)
	if fresh && l.Report.Waiting > 0 {
		// Requests that the pod itself holds back, ours or others', wait for what this one would wait for.
		queue = max(queue, float64(l.Report.Waiting)*e.Prefill(meanTokens(l, q.tokens), 0))
	}

	capacity := e.KVTokens
	context := float64(l.Tokens)
	if fresh {
		if l.Report.KVTokens > 0 {
			capacity = float64(l.Report.KVTokens)
		}
		context = max(context, l.Report.KVUsage*capacity*stillThere(l, running))
	}
	kv := 0.0
	if over := context + q.tokens - cached + e.Output - capacity; over > 0 {
		kv = q.KVWeight * e.Prefill(over, 0) * crowd
	}
	adapter := 0.0
	if q.r.Adapter != "" {
		adapter = adapterCost(e, l, q.r.Adapter)
	}
	c.Queue = queue * q.QueueWeight
	c.Prefill = own
	if own > 0 { // a prefix weight above 1 may make it a bonus, which must not grow with the crowd
		c.Prefill *= crowd
	}
	c.Decode = e.Output * (e.PerSequence*running + e.PerContext*context)
	c.KV = kv
	c.Adapter = adapter
	c.Saved = q.full*crowd - c.Prefill
	c.Cached, c.Running, c.Context = cached, running, context
}

// stillThere is the share of what the report says to lie in the KV cache that is left now that as few as running requests
// are there: what ended since frees its part.
func stillThere(l *pool.Load, running float64) float64 {
	reported := float64(l.Report.Waiting + l.Report.Running)
	if running >= reported {
		return 1
	}
	return running / reported
}

// meanTokens guesses the prompt of a request that waits at the pod: the mean of those under way from here, or else one
// like this request, or else a usual one.
func meanTokens(l *pool.Load, tokens float64) float64 {
	const usual = 500
	if l.Tokens == 0 {
		return max(tokens, usual)
	}
	return float64(l.Tokens) / float64(l.InFlight)
}

func adapterCost(e *Engine, l *pool.Load, adapter string) float64 {
	switch {
	case l.HasAdapter(adapter):
		return 0
	case l.Report.MaxAdapters == 0 || len(l.Report.Adapters) < l.Report.MaxAdapters:
		return e.AdapterLoad
	default:
		return e.AdapterSwap
	}
}
