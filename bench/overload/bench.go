package overload

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/cost"
	"github.com/pilotfish-epp/pilotfish/bench/enginesim"
	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

// Options of a run. Zero values stand for the defaults that are named.
type Options struct {
	Duration time.Duration // of sending in each phase; 60 s, or 6 s with Quick
	RunIn    time.Duration // of sending before it, of which times don't count; 5 s, or 1 s with Quick
	Rounds   int           // of all phases; 3, or 1 with Quick
	Quick    bool          // to see that it runs, not to quote

	Engines  int    // DefaultEngines
	Profile  string // of an engine; rtx4090-llama8b
	MaxSeqs  int    // places of an engine; 16
	KVTokens int    // 20480
	Shape    Shape  // DefaultShape

	Under    float64 // the load below capacity, of it; 0.5
	Over     float64 // the load above; 3
	Capacity float64 // requests a second; 0: it is measured
	Seed     uint64  // of the first round's requests; 1

	QueueBytes int64         // TOTAL_QUEUE_CAPACITY; 6 MiB, so that it is reached, or 512 KiB with Quick
	TTL        time.Duration // QUEUE_TTL; 30 s, or 3 s with Quick
	Env        []string      // more settings of the picker, KEY=value; the later one counts
	Binary     string        // the picker; empty means to build ./cmd/epp

	// Progress, if set, is told what happens, a line at a time.
	Progress io.Writer
}

func (o Options) withDefaults() Options {
	orElse(&o.Duration, 60*time.Second)
	orElse(&o.RunIn, 5*time.Second)
	orElse(&o.Rounds, 3)
	orElse(&o.Engines, DefaultEngines)
	orElse(&o.Profile, defaultProfile)
	orElse(&o.MaxSeqs, defaultSeqs)
	orElse(&o.KVTokens, defaultKVTokens)
	orElse(&o.Shape, DefaultShape())
	orElse(&o.Under, 0.5)
	orElse(&o.Over, 3)
	orElse(&o.Seed, 1)
	orElse(&o.QueueBytes, 6<<20)
	orElse(&o.TTL, 30*time.Second)
	return o
}

func (o Options) quick() Options {
	if o.Quick {
		orElse(&o.Duration, 6*time.Second)
		orElse(&o.RunIn, time.Second)
		orElse(&o.Rounds, 1)
		orElse(&o.QueueBytes, 512<<10)
		orElse(&o.TTL, 3*time.Second)
	}
	return o
}

func orElse[V comparable](v *V, otherwise V) {
	var zero V
	if *v == zero {
		*v = otherwise
	}
}

func (o *Options) validate() error {
	switch {
	case o.Duration < time.Second:
		return fmt.Errorf("duration: expected at least 1s, got %v", o.Duration)
	case o.Rounds < 1:
		return fmt.Errorf("rounds: expected at least 1, got %d", o.Rounds)
	case o.Engines < 1:
		return fmt.Errorf("engines: expected at least 1, got %d", o.Engines)
	case o.Under <= 0 || o.Over <= 0 || o.Capacity < 0:
		return fmt.Errorf("loads and capacity: expected more than 0, got %g, %g and %g", o.Under, o.Over, o.Capacity)
	case o.Shape.Prompt.Max+o.Shape.Answer.Max+enginesim.BlockTokens*2 > o.KVTokens:
		return fmt.Errorf("KV cache: expected room for the longest request (%d tokens), got %d", o.Shape.Prompt.Max+o.Shape.Answer.Max, o.KVTokens)
	}
	return o.Shape.validate()
}

// engine is the profile that the options describe.
func (o *Options) engine() (enginesim.Profile, error) {
	p, err := enginesim.ProfileNamed(o.Profile)
	p.MaxSeqs, p.KVTokens = o.MaxSeqs, o.KVTokens
	p.MaxBatchedTokens = max(p.MaxBatchedTokens, p.MaxSeqs)
	return p, err
}

// bench is one measurement.
type bench struct {
	Options
	profile enginesim.Profile
	model   float64 // capacity by the engines' model, requests a second
	rate    float64 // the capacity that loads refer to, requests a second
}

// Run measures. It takes rounds × (three times the duration and what it takes to answer the rest).
func Run(ctx context.Context, o Options) (*Report, error) {
	start := time.Now()
	machine := thisMachine(ctx)
	b, clean, err := newBench(ctx, o)
	if err != nil {
		return nil, err
	}
	defer clean()
	if err := b.findCapacity(ctx); err != nil {
		return nil, err
	}
	rounds := make([][]*run, 0, b.Rounds)
	for i := range b.Rounds {
		runs, err := b.round(ctx, i)
		if err != nil {
			return nil, err
		}
		rounds = append(rounds, runs)
	}
	r := b.report(rounds)
	r.Machine = machine
	r.Machine.LoadEnd = loadAverage()
	r.Seconds = time.Since(start).Seconds()
	return r, nil
}

func newBench(ctx context.Context, o Options) (b *bench, clean func(), err error) {
	o = o.quick().withDefaults()
	if err := o.validate(); err != nil {
		return nil, nil, err
	}
	b = &bench{Options: o}
	if b.profile, err = o.engine(); err != nil {
		return nil, nil, err
	}
	if b.model, err = modelCapacity(b.profile, o.Engines, o.Shape); err != nil {
		return nil, nil, err
	}
	if b.Binary != "" {
		b.Binary, err = filepath.Abs(b.Binary)
		return b, func() {}, err
	}
	dir, err := os.MkdirTemp("", "pilotfish-overload-")
	if err != nil {
		return nil, nil, err
	}
	clean = func() { _ = os.RemoveAll(dir) } // a temporary folder
	b.progress("building the picker ...")
	if b.Binary, err = stack.Build(ctx, dir, "./cmd/epp"); err != nil {
		clean()
		return nil, nil, err
	}
	return b, clean, nil
}

func (b *bench) progress(format string, args ...any) {
	if b.Progress != nil {
		fmt.Fprintf(b.Progress, format+"\n", args...)
	}
}

func (b *bench) startPath(ctx context.Context, env ...string) (*path, error) {
	env = append(env, fmt.Sprintf("TOTAL_QUEUE_CAPACITY=%d", b.QueueBytes), fmt.Sprintf("QUEUE_TTL=%v", b.TTL))
	return startPath(ctx, b.Binary, b.Engines, b.profile, append(env, b.Env...)...)
}

// findCapacity measures, on the whole path, how many requests a second are finished while the engines are always full.
func (b *bench) findCapacity(ctx context.Context) (err error) {
	if b.rate = b.Capacity; b.rate > 0 {
		return nil
	}
	warm, length := min(5*time.Second, b.Duration/2), min(15*time.Second, b.Duration)
	b.progress("measuring the capacity for %v ...", warm+length)
	p, err := b.startPath(ctx, "QUEUEING=disabled")
	if err != nil {
		return err
	}
	defer p.close() //nolint:errcheck // everything is measured
	c := &client{gateway: p.envoy.Gateway.String()}
	defer c.close()
	if err := warmUp(ctx, c, b.Engines); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, warm+length)
	defer cancel()
	var t Tally
	var served atomic.Int64
	start := time.Now()
	saturate(limited, c, b.Engines*(b.MaxSeqs+spare), newDraws(b.Shape, b.Seed), func(a Answer) {
		t.add(a)
		if at := time.Since(start); at >= warm && at < warm+length && a.Outcome == Served {
			served.Add(1)
		}
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	b.rate = float64(served.Load()) / length.Seconds()
	if n := t.sum(); n.ended[Served] != n.offered || b.rate == 0 {
		return fmt.Errorf("capacity: %d of %d requests were not served: %v", n.offered-n.ended[Served], n.offered, t.faults)
	}
	b.progress("capacity %.1f requests/s; %.1f by the engines' model", b.rate, b.model)
	return nil
}

// round runs all phases.
func (b *bench) round(ctx context.Context, round int) ([]*run, error) {
	var runs []*run
	for _, ph := range b.phases() {
		seed := b.Seed + uint64(round)
		requests := arrivals(b.Shape, seed, ph.load*b.rate, b.RunIn+b.Duration)
		b.progress("round %d, %s: %d requests in %v ...", round+1, ph.name, len(requests), b.RunIn+b.Duration)
		r, err := b.run(ctx, ph, requests)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", ph.name, err)
		}
		n, critical := r.sum(), r.of(Critical)
		b.progress("  %d served, %d within %v, %d × 429, %d × 503, %d others; Critical's p99 TTFT %.0f ms; at most %d waiting at an engine; drained in %v",
			n.ended[Served], n.inTime, goal, n.ended[TooMany], n.ended[Unavailable], n.offered-n.ended[Served]-n.ended[TooMany]-n.ended[Unavailable],
			quantile(critical.first, 0.99), r.mostWaiting, r.drained.Round(time.Second))
		runs = append(runs, r)
	}
	return runs, nil
}

// Report is what a run found: the figures, and what they were counted from.
type Report struct {
	cost.Report
	Phases []Phase `json:"phases"`
}
