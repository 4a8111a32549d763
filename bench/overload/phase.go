package overload

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/stack"
	"golang.org/x/sys/unix"
)

// phase is one load on one path, from its start to the last answer.
type phase struct {
	load     float64 // of the capacity
	queueing bool
	name     string
}

// phases are those of a round, in their order. The last two get the same requests.
func (o *Options) phases() [3]phase {
	return [...]phase{
		{o.Under, true, fmt.Sprintf("%g × capacity", o.Under)},
		{o.Over, true, fmt.Sprintf("%g × capacity", o.Over)},
		{o.Over, false, fmt.Sprintf("%g × capacity, queueing disabled", o.Over)},
	}
}

// run is what a phase gave.
type run struct {
	Tally
	phase
	limits
	observations
	ideal       float64 // p99 of Critical's TTFT with an ideal queue, ms
	mostWaiting int     // at an engine at any moment, between looks too
	seconds     float64 // of sending
	drained     time.Duration
	computed    uint64 // requests that engines took in
	bypassed    int64  // requests that Envoy sent on without the picker
	cpu         cpuUse
}

// cpuUse is processor time while requests were sent, in cores.
type cpuUse struct{ picker, envoy, self float64 }

// run plays requests on a new path. An answer that has not come long after it should is given up.
func (b *bench) run(ctx context.Context, ph phase, requests []Request) (r *run, err error) {
	queueing := "QUEUEING=disabled"
	if ph.queueing {
		queueing = "QUEUEING=enabled"
	}
	p, err := b.startPath(ctx, queueing)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	c := &client{gateway: p.envoy.Gateway.String()}
	defer c.close()
	if err := warmUp(ctx, c, len(p.engines)); err != nil {
		return nil, err
	}
	r = &run{Tally: Tally{from: b.RunIn}, phase: ph, limits: p.limits, seconds: (b.RunIn + b.Duration).Seconds()}
	if r.ideal, err = b.idealP99(requests); err != nil {
		return nil, err
	}
	before, err := p.cpu()
	if err != nil {
		return nil, err
	}
	submitted := p.submitted()

	watching, stop := context.WithCancel(ctx)
	defer stop()
	watched := make(chan observations, 1)
	go func() {
		watched <- observe(watching, p.engines, c, p.limits.threshold, func(ctx context.Context) ([]byte, error) {
			return p.picker.AdminPage(ctx, heapPath)
		})
	}()
	used := make(chan cpuResult, 1)
	sending := b.RunIn + b.Duration
	time.AfterFunc(sending, func() {
		after, err := p.cpu()
		used <- cpuResult{after.less(before, sending), err}
	})
	limited, cancel := context.WithTimeout(ctx, 3*sending+p.limits.ttl+30*time.Second)
	defer cancel()
	start := time.Now()
	play(limited, c, requests, r.add)
	r.drained = max(0, time.Since(start)-sending)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	stop()
	r.observations = <-watched
	cpu := <-used
	if cpu.err != nil {
		return nil, cpu.err
	}
	r.cpu = cpu.use
	r.computed = p.submitted() - submitted
	for _, s := range p.engines.stats() {
		r.mostWaiting = max(r.mostWaiting, s.MaxWaiting)
	}
	r.bypassed, err = p.bypassed(ctx)
	return r, err
}

// idealP99 is computed before the load begins, so that it takes nothing from it.
func (b *bench) idealP99(requests []Request) (float64, error) {
	first, err := idealFirstTokens(b.profile, b.Engines, requests, b.RunIn)
	return quantile(first, 0.99), err
}

// warmUp opens connections all the way and has every engine work, so that the first requests measured find that done.
func warmUp(ctx context.Context, c *client, engines int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var t Tally
	for range 3 {
		requests := make([]Request, engines)
		for i := range requests {
			requests[i] = Request{Priority: Standard, Prompt: 64, Answer: 4, text: uint64(i)}
		}
		play(ctx, c, requests, t.add)
	}
	if n := t.sum(); n.ended[Served] != n.offered {
		return fmt.Errorf("warm-up: %d of %d requests were served: %v", n.ended[Served], n.offered, t.faults)
	}
	return nil
}

// submitted is how many requests the engines have taken in.
func (p *path) submitted() uint64 {
	n := uint64(0)
	for _, s := range p.engines.stats() {
		n += s.Submitted
	}
	return n
}

// bypassed is how many requests Envoy let go on when the picker failed or said nothing in time.
func (p *path) bypassed(ctx context.Context) (int64, error) {
	const name = "http.gateway.ext_proc.failure_mode_allowed"
	stats, err := p.envoy.Stats(ctx, `failure_mode_allowed`)
	if err != nil {
		return 0, err
	}
	n, ok := stats[name]
	if !ok {
		return 0, fmt.Errorf("envoy has no counter %s", name)
	}
	return n, nil
}

type cpuTimes struct{ picker, envoy, self time.Duration }

type cpuResult struct {
	use cpuUse
	err error
}

func (p *path) cpu() (t cpuTimes, err error) {
	for process, used := range map[*stack.Process]*time.Duration{p.picker.Process: &t.picker, p.envoy.Process: &t.envoy} {
		if *used, err = process.CPU(); err != nil {
			return t, err
		}
	}
	var self unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &self); err != nil {
		return t, os.NewSyscallError("getrusage", err)
	}
	t.self = time.Duration(self.Utime.Nano() + self.Stime.Nano())
	return t, nil
}

func (t cpuTimes) less(o cpuTimes, over time.Duration) cpuUse {
	return cpuUse{
		picker: (t.picker - o.picker).Seconds() / over.Seconds(),
		envoy:  (t.envoy - o.envoy).Seconds() / over.Seconds(),
		self:   (t.self - o.self).Seconds() / over.Seconds(),
	}
}
