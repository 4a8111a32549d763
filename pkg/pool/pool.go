// Package pool holds the pods that can serve requests now: where they are, what they last reported, and what this
// process has sent them.
//
// It promises that choosing a pod and counting the request there are one step under one short lock, that a lease is
// released exactly once however a stream ends, and that a pod that left or restarted keeps nothing of its past.
// Readers of the list take an immutable snapshot without a lock. It does no I/O and reads no clock: time is passed in.
package pool

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Endpoint is one address that serves requests, as discovery describes it. Two endpoints are the same pod when name
// and address are equal.
type Endpoint struct {
	Name        string            `json:"name"`
	Address     netip.AddrPort    `json:"address"`
	MetricsPort uint16            `json:"metricsPort"`       // port of the metrics page at the same address; 0: where the runtime usually has it
	Runtime     string            `json:"runtime,omitempty"` // vllm, sglang or trt-llm; empty: the pool's
	Labels      map[string]string `json:"labels,omitempty"`  // never changed after discovery
}

// Pod is one incarnation of an endpoint. All fields but Load never change; Load is guarded by the pool's lock and may
// be read only inside Chooser.Choose and by the methods of Pool.
type Pod struct {
	Endpoint
	ID        uint32 // small and dense; reused only some time after the pod has left
	Authority string // "ip:port", IPv6 in brackets: what the proxy is told
	Load      *Load
}

// Snapshot is the immutable list of pods at one moment, safe to share.
type Snapshot struct {
	Pods    []*Pod
	IDs     int // every ID in Pods is below it: the size of an array indexed by pod ID
	Version uint64

	byAddress map[netip.AddrPort]*Pod
}

// At gives the pod at address, or nil.
func (s *Snapshot) At(address netip.AddrPort) *Pod { return s.byAddress[address] }

// Chooser decides where a request goes while the pool stands still. Choose gets the pods of the current snapshot and
// gives the charge for the one it picked; it must be short, and must neither call the pool nor keep the slice.
type Chooser interface {
	Choose(s *Snapshot) (Charge, bool)
}

// Charge is what a picked request adds to its pod until it ends.
type Charge struct {
	Pod      *Pod
	Tokens   int           // prompt tokens that will lie in the pod's KV cache, cached ones included
	Uncached int           // of them, those that are not there yet
	Prefill  time.Duration // estimated time to compute these
}

// Lease is one request counted at one pod. The zero Lease holds nothing. Not safe for concurrent use.
type Lease struct {
	charge Charge
	mark   time.Duration // the pod's prefill total after this request joined
	begun  bool          // its answer has begun
}

// Pod gives the pod that holds the request, or nil.
func (l *Lease) Pod() *Pod { return l.charge.Pod }

// Pool is the set of pods. All methods are safe for concurrent use.
type Pool struct {
	current  atomic.Pointer[Snapshot]
	adapters atomic.Bool // some pod has listed LoRA adapters

	mu        sync.Mutex // guards Load of every pod, and the fields below
	ids       idSpace
	observers []func(joined, left []*Pod)
	onRoom    func() // nil: nobody waits for room

	changing sync.Mutex // one change of membership at a time, observers included
}

// New gives an empty pool.
func New() *Pool {
	p := &Pool{}
	p.current.Store(&Snapshot{byAddress: map[netip.AddrPort]*Pod{}})
	return p
}

// Snapshot gives the pods now.
func (p *Pool) Snapshot() *Snapshot { return p.current.Load() }

// Adapters says whether any pod ever listed a LoRA adapter. It takes no lock.
func (p *Pool) Adapters() bool { return p.adapters.Load() }

// OnChange registers f to be called after each change of membership, with the pods that joined and those that left; a
// restarted pod is in both. Calls come one after another; f must not change the pool.
func (p *Pool) OnChange(f func(joined, left []*Pod)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.observers = append(p.observers, f)
}

// OnRoom makes f be called after everything that may have made room at a pod: a request that ended, a report, a change of
// membership. Calls come from many goroutines, at once; f may call the pool. It must be set before the pool is used.
func (p *Pool) OnRoom(f func()) { p.onRoom = f }

func (p *Pool) relieved() {
	if p.onRoom != nil {
		p.onRoom()
	}
}

// Set makes endpoints the members of the pool. A pod that stays keeps its counts and its report, also when its labels,
// runtime or metrics port changed. Of several endpoints with one address the first counts.
func (p *Pool) Set(now time.Time, endpoints []Endpoint) {
	p.change(now, func(old *Snapshot) []*Pod {
		pods := make([]*Pod, 0, len(endpoints))
		seen := make(map[netip.AddrPort]bool, len(endpoints))
		for _, e := range endpoints {
			if seen[e.Address] {
				continue
			}
			seen[e.Address] = true
			if had := old.At(e.Address); had != nil && had.Name == e.Name {
				pods = append(pods, &Pod{Endpoint: e, ID: had.ID, Authority: had.Authority, Load: had.Load})
				continue
			}
			pods = append(pods, &Pod{Endpoint: e, ID: p.ids.take(now), Authority: e.Address.String(), Load: &Load{}})
		}
		return pods
	})
}

// Restart replaces pod by a fresh incarnation at the same place: no report, no counts, a new ID. A pod that is no
// longer a member is left alone.
func (p *Pool) Restart(now time.Time, pod *Pod) {
	p.change(now, func(old *Snapshot) []*Pod {
		pods := make([]*Pod, len(old.Pods))
		for i, had := range old.Pods {
			if had.ID == pod.ID && had.Load == pod.Load {
				had = &Pod{Endpoint: had.Endpoint, ID: p.ids.take(now), Authority: had.Authority, Load: &Load{}}
			}
			pods[i] = had
		}
		return pods
	})
}

// change swaps in the pods that next makes of the old snapshot, tells the observers, and frees the IDs of those that
// left. next runs under the lock.
func (p *Pool) change(now time.Time, next func(*Snapshot) []*Pod) {
	defer p.relieved()
	p.changing.Lock()
	defer p.changing.Unlock()

	p.mu.Lock()
	old := p.current.Load()
	s := &Snapshot{Pods: next(old), Version: old.Version + 1}
	s.byAddress = make(map[netip.AddrPort]*Pod, len(s.Pods))
	for _, pod := range s.Pods {
		s.byAddress[pod.Address] = pod
		s.IDs = max(s.IDs, int(pod.ID)+1)
	}
	p.current.Store(s)
	observers := p.observers
	p.mu.Unlock()

	joined, left := difference(old, s), difference(s, old)
	if len(joined) == 0 && len(left) == 0 {
		return
	}
	for _, f := range observers {
		f(joined, left)
	}
	p.mu.Lock()
	for _, pod := range left {
		p.ids.give(now, pod.ID)
	}
	p.mu.Unlock()
}

// difference gives the incarnations that are in b and not in a.
func difference(a, b *Snapshot) []*Pod {
	var only []*Pod
	for _, pod := range b.Pods {
		if had := a.At(pod.Address); had == nil || had.Load != pod.Load {
			only = append(only, pod)
		}
	}
	return only
}

// Assign lets c choose a pod and counts the request there, in one step: of two requests that come together the second
// sees the first. It fills l, which must hold nothing, and says whether a pod was chosen.
func (p *Pool) Assign(now time.Time, c Chooser, l *Lease) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	charge, ok := c.Choose(p.current.Load())
	if !ok {
		return false
	}
	l.charge = charge
	l.mark = charge.Pod.Load.join(At(now), charge)
	return true
}

// Look lets f see the pods while the pool stands still; the rules of Chooser hold for f.
func (p *Pool) Look(f func(*Snapshot)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(p.current.Load())
}

// Move counts the request at another pod from now on: the proxy had to take a fallback.
func (p *Pool) Move(now time.Time, l *Lease, to *Pod) {
	if l.charge.Pod == nil || l.charge.Pod.Load == to.Load {
		return
	}
	defer p.relieved()
	p.mu.Lock()
	defer p.mu.Unlock()
	l.charge.Pod.Load.leave(l.charge, l.begun)
	l.charge.Pod, l.begun = to, false
	l.mark = to.Load.join(At(now), l.charge)
}

// Begun says that the request's answer, of whatever status, has begun: it is no longer one that may wait in vain.
func (p *Pool) Begun(l *Lease) {
	if l.charge.Pod == nil || l.begun {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	l.begun = true
	l.charge.Pod.Load.Begun++
}

// Started says that the request's first token came: its prefill, and all that was sent to the pod before it, is done.
func (p *Pool) Started(now time.Time, l *Lease) {
	if l.charge.Pod == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	l.charge.Pod.Load.prefilled(At(now), l.mark)
}

// Release takes the request off its pod. Releasing twice does nothing more.
func (p *Pool) Release(l *Lease) {
	if l.charge.Pod == nil {
		return
	}
	defer p.relieved()
	p.mu.Lock()
	defer p.mu.Unlock()
	l.charge.Pod.Load.leave(l.charge, l.begun)
	*l = Lease{}
}

// Answered counts an answer of the pod: it is alive.
func (p *Pool) Answered(now time.Time, pod *Pod) {
	p.mu.Lock()
	doubted := pod.Load.RequestFailures > 0 || pod.Load.PageFailures > 0
	pod.Load.LastAnswer, pod.Load.RequestFailures = At(now), 0
	p.mu.Unlock()
	if doubted {
		p.relieved()
	}
}

// Failed counts a request that the pod did not answer.
func (p *Pool) Failed(now time.Time, pod *Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pod.Load.LastFailure = At(now)
	pod.Load.RequestFailures++
}

// GaveUp counts a client that left before any answer. That says nothing of a pod that looks well, but of one whose page
// can't be read either it is one more sign that it hangs.
func (p *Pool) GaveUp(now time.Time, pod *Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pod.Load.PageFailures > 0 {
		pod.Load.LastFailure = At(now)
		pod.Load.RequestFailures++
	}
}

// InFlight gives the requests counted at pod now, and those of their prompt tokens that it had not cached. A scraper
// asks before it asks the pod, and hands the answer in with the report, so that what was sent later is known not to be
// in it. The pool remembers that it was asked, for what may be on its way to the pod then.
func (p *Pool) InFlight(pod *Pod) (requests, uncached int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := pod.Load
	copy(l.asked[1:], l.asked[:])
	l.asked[0] = l.sent
	return l.InFlight, l.Uncached
}

// Report takes in what pod said of itself. A report that shows that the server process was started anew makes a fresh
// pod of it first.
func (p *Pool) Report(now time.Time, pod *Pod, r Report) {
	defer p.relieved()
	if len(r.Adapters) > 0 {
		p.adapters.Store(true)
	}
	p.mu.Lock()
	restarted := pod.Load.HasReport && r.Started != 0 && pod.Load.Report.Started != 0 && r.Started != pod.Load.Report.Started
	if !restarted {
		pod.Load.report(r)
	}
	p.mu.Unlock()
	if !restarted {
		return
	}
	p.Restart(now, pod)
	if fresh := p.Snapshot().At(pod.Address); fresh != nil {
		r.InFlight, r.Uncached = 0, 0
		p.mu.Lock()
		fresh.Load.report(r)
		p.mu.Unlock()
	}
}

// ReportFailed counts a metrics page that could not be read. The cause that err wraps matters: a refused connection is
// taken as a sign that the pod is gone.
func (p *Pool) ReportFailed(pod *Pod, now time.Time, err error) {
	defer p.relieved()
	p.mu.Lock()
	defer p.mu.Unlock()
	if pod.Load.PageFailures == 0 {
		pod.Load.PageFailingSince = At(now)
	}
	pod.Load.PageFailures++
	pod.Load.PageError = err
	// Where page and requests share a port, a refused connection says that nobody is there to answer either.
	pod.Load.Refused = errors.Is(err, syscall.ECONNREFUSED) && pagePort(pod, err) == pod.Address.Port()
}

// pagePort is the port at which pod's page was asked for: where none is set, err knows.
func pagePort(pod *Pod, err error) uint16 {
	var dial *net.OpError
	if pod.MetricsPort == 0 && errors.As(err, &dial) {
		if at, ok := dial.Addr.(*net.TCPAddr); ok {
			return at.AddrPort().Port()
		}
	}
	return pod.MetricsPort
}

// Loads copies the load of every pod of s into dst, in the order of s.Pods: for metrics and debug views.
func (p *Pool) Loads(s *Snapshot, dst []Load) []Load {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pod := range s.Pods {
		dst = append(dst, *pod.Load)
	}
	return dst
}
