package overload

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/enginesim"
)

// Target is a serving path that load can be put on.
type Target struct {
	Gateway string   // host:port where requests go
	Picker  string   // host:port of the picker's metrics page; empty: nothing is told of what waits
	Engines []string // host:port of simulated engines; what they say of themselves is shown
}

// LiveOptions say how to load a target.
type LiveOptions struct {
	PerSecond float64       // requests
	Shape     Shape         // DefaultShape
	Seed      uint64        // 1
	Duration  time.Duration // 0: until ctx ends
}

const (
	lineEvery   = time.Second
	headEvery   = 20               // lines
	recentFor   = 10 * time.Second // of the times to the first token
	pageTimeout = 500 * time.Millisecond
)

// Capacity is how many requests of the default shape a second so many engines with EngineArgs can answer, by their own
// model. Through a gateway on this machine it is a few per cent less.
func Capacity(engines int) float64 {
	o := Options{}.withDefaults()
	p, err := o.engine()
	if err != nil {
		panic(err) // the defaults name a profile that exists
	}
	perSecond, err := modelCapacity(p, engines, o.Shape)
	if err != nil {
		panic(err) // the default shape fits the default engine
	}
	return perSecond
}

// Drive sends open-loop load to a target and writes a line each second about what becomes of it, until the duration or
// ctx ends. The target must give the requests their priorities, see Objectives.
func Drive(ctx context.Context, w io.Writer, t Target, o LiveOptions) error {
	orElse(&o.Shape, DefaultShape())
	orElse(&o.Seed, 1)
	if err := o.Shape.validate(); err != nil {
		return err
	}
	if o.PerSecond <= 0 {
		return fmt.Errorf("load: expected more than 0 requests a second, got %g", o.PerSecond)
	}
	if o.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.Duration)
		defer cancel()
	}
	c := &client{gateway: t.Gateway}
	defer c.close()
	l := &live{target: t, client: c, http: http.Client{Timeout: pageTimeout}}
	defer l.http.CloseIdleConnections()
	var done sync.WaitGroup
	defer done.Wait()
	done.Go(func() { l.send(ctx, o) })
	return l.print(ctx, w)
}

// live is a load whose course is shown.
type live struct {
	target Target
	client *client
	http   http.Client

	mu     sync.Mutex
	sent   int
	ended  [outcomes]int
	recent []recentToken // in the order of their coming
}

// recentToken is the time to the first token of an answer that has ended.
type recentToken struct {
	at       time.Time
	priority Priority
	first    float64 // milliseconds
}

// send plays one stretch of arrivals after the other; those of one need not have ended when the next begins.
func (l *live) send(ctx context.Context, o LiveOptions) {
	const stretch = 10 * time.Second
	var under sync.WaitGroup
	defer under.Wait()
	start := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		requests := arrivals(o.Shape, o.Seed+uint64(n), o.PerSecond, stretch)
		for i := range requests {
			requests[i].At += time.Duration(n) * stretch
		}
		dispatch(ctx, start, requests, func(r *Request, _ time.Duration) {
			l.count(func() { l.sent++ })
			under.Go(func() { l.seen(l.client.ask(ctx, r)) })
		})
	}
}

func (l *live) count(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

func (l *live) seen(a Answer) {
	l.count(func() {
		l.ended[a.Outcome]++
		if a.Outcome == Served {
			l.recent = append(l.recent, recentToken{time.Now(), a.Priority, milliseconds(a.First)})
		}
	})
}

// print writes the lines.
func (l *live) print(ctx context.Context, w io.Writer) error {
	tick := time.NewTicker(lineEvery)
	defer tick.Stop()
	before := l.take(time.Now())
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if n%headEvery == 0 {
			if _, err := io.WriteString(w, liveHead); err != nil {
				return err
			}
		}
		now := l.take(time.Now())
		line := now.line(before, l.queue(ctx), l.engines(ctx))
		if ctx.Err() != nil {
			return nil // what was asked for was cut short
		}
		if _, err := io.WriteString(w, line); err != nil {
			return err
		}
		before = now
	}
}

const liveHead = `
      requests a second                 waiting at the picker                   at engines  p99 TTFT, ms, last 10 s
   sent    200    429    503  other   Critical  Standard  Sheddable      MB   waiting most   Critical  Standard  Sheddable
`

// moment is what was counted up to a time.
type moment struct {
	at    time.Time
	sent  int
	ended [outcomes]int
	p99   [3]float64 // milliseconds, by place; 0: none was served of late
}

func (l *live) take(now time.Time) moment {
	l.mu.Lock()
	defer l.mu.Unlock()
	gone := 0
	for gone < len(l.recent) && now.Sub(l.recent[gone].at) > recentFor {
		gone++
	}
	l.recent = append(l.recent[:0], l.recent[gone:]...)
	m := moment{at: now, sent: l.sent, ended: l.ended}
	for _, p := range Priorities() {
		var first []float64
		for _, r := range l.recent {
			if r.priority == p {
				first = append(first, r.first)
			}
		}
		m.p99[p.place()] = quantile(first, 0.99)
	}
	return m
}

// line is what happened since the moment before.
func (m moment) line(before moment, q queueView, e engineView) string {
	seconds := m.at.Sub(before.at).Seconds()
	rate := func(now, then int) float64 { return float64(now-then) / seconds }
	other := 0
	for o := OtherStatus; o < outcomes; o++ {
		other += m.ended[o] - before.ended[o]
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%7.0f%7.0f%7.0f%7.0f%7.0f", rate(m.sent, before.sent), rate(m.ended[Served], before.ended[Served]),
		rate(m.ended[TooMany], before.ended[TooMany]), rate(m.ended[Unavailable], before.ended[Unavailable]), float64(other)/seconds)
	if q.known {
		fmt.Fprintf(&b, "%11d%10d%11d%8.1f", q.waiting[0], q.waiting[1], q.waiting[2], q.bytes/megabyte)
	} else {
		fmt.Fprintf(&b, "%11s%10s%11s%8s", "–", "–", "–", "–")
	}
	if e.known {
		fmt.Fprintf(&b, "%10d%5d", e.waiting, e.most)
	} else {
		fmt.Fprintf(&b, "%10s%5s", "–", "–")
	}
	for i, width := range [...]int{11, 10, 11} {
		if m.p99[i] == 0 {
			fmt.Fprintf(&b, "%*s", width, "–")
		} else {
			fmt.Fprintf(&b, "%*.0f", width, m.p99[i])
		}
	}
	return b.String() + "\n"
}

// queueView is what the picker says of what waits. Priorities other than those of this load count for the nearest.
type queueView struct {
	known   bool
	waiting [3]int // by place
	bytes   float64
}

// queue reads the picker's metrics page; a picker that says nothing of a queue is no fault.
func (l *live) queue(ctx context.Context) queueView {
	if l.target.Picker == "" {
		return queueView{}
	}
	page, err := l.get(ctx, l.target.Picker, "/metrics")
	if err != nil {
		return queueView{}
	}
	return readQueue(page)
}

func readQueue(page []byte) queueView {
	const size, held = "inference_extension_flow_control_queue_size{", "inference_extension_flow_control_queue_bytes{"
	var q queueView
	for line := range bytes.Lines(page) {
		text := strings.TrimSpace(string(line))
		labels, value, found := strings.Cut(text, "} ")
		if !found || !strings.HasPrefix(text, size) && !strings.HasPrefix(text, held) {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			continue
		}
		q.known = true
		if strings.HasPrefix(text, held) {
			q.bytes += n
			continue
		}
		_, after, _ := strings.Cut(labels, `priority="`)
		name, _, _ := strings.Cut(after, `"`)
		priority, _ := strconv.Atoi(name) // "other" counts for Standard
		q.waiting[min(max(Priority(priority), Sheddable), Critical).place()] += int(n)
	}
	return q
}

// engineView is what waits at the engines: in all, and at the one with most.
type engineView struct {
	known         bool
	waiting, most int
}

func (l *live) engines(ctx context.Context) engineView {
	v := engineView{known: len(l.target.Engines) > 0}
	for _, addr := range l.target.Engines {
		var s enginesim.Stats
		page, err := l.get(ctx, addr, "/stats")
		if err != nil || json.Unmarshal(page, &s) != nil {
			return engineView{}
		}
		v.waiting += s.Waiting
		v.most = max(v.most, s.Waiting)
	}
	return v
}

func (l *live) get(ctx context.Context, addr, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := l.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end, or given up
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: status %s", path, resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// Live overfills engines of its own until ctx ends, or for the options' duration if one is given, and writes a line each
// second. The capacity is that of the engines' model if none is given.
func Live(ctx context.Context, w io.Writer, o Options) (err error) {
	length := o.Duration
	b, clean, err := newBench(ctx, o)
	if err != nil {
		return err
	}
	defer clean()
	if b.rate = b.Capacity; b.rate == 0 {
		b.rate = b.model
	}
	p, err := b.startPath(ctx, "QUEUEING=enabled")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	fmt.Fprintf(w, "%d engines that can answer %.0f requests/s get %g times that through http://%s; QUEUEING=enabled\n"+
		"metrics http://%s/metrics   what waits http://%[5]s/debug/queue   Ctrl-C stops everything\n", b.Engines, b.rate, b.Over, p.envoy.Gateway, p.picker.Metrics)
	t := Target{Gateway: p.envoy.Gateway.String(), Picker: p.picker.Metrics.String()}
	for _, e := range p.engines {
		t.Engines = append(t.Engines, e.Addr())
	}
	return Drive(ctx, w, t, LiveOptions{PerSecond: b.Over * b.rate, Shape: b.Shape, Seed: b.Seed, Duration: length})
}
