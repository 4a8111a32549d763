// Package scheduling decides which pod a request goes to: what it would cost there, which pods may take it at all, and
// the order of the best.
//
// It is pure: the same pods, request, parameters and draw give the same pick; it does no I/O and reads no clock. Costs
// are estimated milliseconds of delay that the request meets and causes. A pick among n pods for k destinations
// takes O(n·k) and allocates nothing once its scratch space has grown.
package scheduling

import (
	"net/netip"
	"slices"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/pool"
)

// Request is what the cost of a request depends on.
type Request struct {
	Tokens    int     // estimated prompt tokens
	Depth     []int32 // by pod ID: leading blocks of the prompt that the pod is thought to have cached
	PerBlock  float64 // tokens in one block
	Window    int32   // blocks that were hashed of a prompt that goes on behind them; 0: it was hashed to its end
	Adapter   string  // model name when some pod lists it as a LoRA adapter; empty: none does
	Subset    []netip.AddrPort
	HasSubset bool   // only addresses in Subset may be picked
	Room      *Room  // only a pod that has it may be the primary; nil: any may
	Draw      uint64 // randomness that breaks ties
}

// Cached is the estimated number of prompt tokens that pod has cached. Of a prompt that is longer than what was hashed
// of it, and all of that matches, the share beyond of the rest is taken as cached too. The last token is always computed.
func (r *Request) Cached(pod *pool.Pod, beyond float64) float64 {
	if int(pod.ID) >= len(r.Depth) {
		return 0
	}
	depth := r.Depth[pod.ID]
	cached := float64(depth) * r.PerBlock
	if depth > 0 && depth == r.Window {
		cached += beyond * (float64(r.Tokens) - cached)
	}
	return max(0, min(cached, float64(r.Tokens-1)))
}

// Reason says why a pod was picked: the one word that explains it best.
type Reason uint8

// The reasons, from the usual to the rare.
const (
	ByLoad    Reason = iota // it had the lowest cost by its load
	ByPrefix                // its cached prefix decided: by load alone another would have won
	ByAdapter               // it has the LoRA adapter and others don't
	OnlyOne                 // no other pod was allowed
	OnTrial                 // a suspect pod got one request to prove itself
	LastHope                // every pod is set aside; the least bad
	Steered                 // the request named the pod
)

func (r Reason) String() string {
	return [...]string{"load", "prefix", "adapter", "only", "trial", "last-hope", "steered"}[r]
}

// Pick is the outcome of a choice.
type Pick struct {
	Pods       []*pool.Pod // best first: the primary, then fallbacks; a view of the Picker's scratch space
	Reason     Reason
	Cost       Cost // of the primary
	Candidates int  // pods that were compared
}

// Picker holds scratch space for picks. Not safe for concurrent use; the zero value is ready.
type Picker struct {
	best  []candidate
	order []*pool.Pod
}

type candidate struct {
	pod   *pool.Pod
	class class
	total float64
	tie   uint64 // order among equals
}

// before orders candidates: class, then cost, then an order of the pods that each draw shuffles anew.
func (c *candidate) before(d *candidate) bool {
	if c.class != d.class {
		return c.class < d.class
	}
	if c.total != d.total {
		return c.total < d.total
	}
	return c.tie < d.tie
}

// Choose picks up to 1+fallbacks pods out of pods, in order. It says false when no pod is allowed, or
// none has the room asked for.
func (p *Picker) Choose(now time.Time, pods []*pool.Pod, r *Request, params *Params, fallbacks int) (Pick, bool) {
	p.best = p.best[:0]
	q := params.ask(now, r)
	compared := 0
	var cost Cost
	var onTrial, loadOnly candidate // loadOnly: the winner if nothing were cached
	for _, pod := range pods {
		if r.HasSubset && !slices.Contains(r.Subset, pod.Address) {
			continue
		}
		compared++
		q.cost(pod, &cost)
		c := candidate{pod: pod, class: classify(q.now, pod.Load), total: cost.Total(), tie: mix(r.Draw, pod.ID)}
		if r.Room != nil {
			c.class = q.roomy(c.class, pod, pods)
		}
		p.insert(c, 1+fallbacks)
		if c.class == trial && (onTrial.pod == nil || c.before(&onTrial)) {
			onTrial = c
		}
		c.total += cost.Saved
		if loadOnly.pod == nil || c.before(&loadOnly) {
			loadOnly = c
		}
	}
	if len(p.best) == 0 || r.Room != nil && p.best[0].class > trial && p.best[0].class != hopeful {
		return Pick{}, false
	}
	if onTrial.pod != nil {
		p.lead(onTrial, 1+fallbacks)
	}
	p.order = p.order[:0]
	for i := range p.best {
		p.order = append(p.order, p.best[i].pod)
	}
	first := &p.best[0]
	q.cost(first.pod, &cost)
	return Pick{Pods: p.order, Cost: cost, Candidates: compared, Reason: explain(first, &cost, loadOnly.pod, compared, r)}, true
}

// insert keeps the best keep candidates in order.
func (p *Picker) insert(c candidate, keep int) {
	if len(p.best) == keep {
		if !c.before(&p.best[keep-1]) {
			return
		}
		p.best = p.best[:keep-1]
	}
	i := len(p.best)
	p.best = append(p.best, c)
	for ; i > 0 && c.before(&p.best[i-1]); i-- {
		p.best[i] = p.best[i-1]
	}
	p.best[i] = c
}

// lead puts c first, and out of the place that it had.
func (p *Picker) lead(c candidate, keep int) {
	p.best = slices.DeleteFunc(p.best, func(b candidate) bool { return b.pod == c.pod })
	p.best = slices.Insert(p.best, 0, c)
	p.best = p.best[:min(len(p.best), keep)]
}

func explain(first *candidate, cost *Cost, loadOnly *pool.Pod, compared int, r *Request) Reason {
	switch {
	case compared == 1:
		return OnlyOne
	case first.class == trial:
		return OnTrial
	case first.class >= hopeful:
		return LastHope
	case first.pod != loadOnly && cost.Saved > 0:
		return ByPrefix
	case r.Adapter != "" && cost.Adapter == 0:
		return ByAdapter
	default:
		return ByLoad
	}
}

// mix spreads ties over pods: a different order for every draw (the finaliser of SplitMix64).
func mix(draw uint64, id uint32) uint64 {
	z := draw + (uint64(id)+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
