// Package metrics reads the metrics pages of all pods, over and over, and hands what they say to the pool.
//
// It promises that a slow, broken or endless page costs its own pod a report and nobody else anything, that a pod that
// left is let go at once, and that scraping stays within SCRAPE_BUDGET and doesn't load the model servers: a page is
// asked for at most once in 50 times of what it takes to answer (until an interval of a second).
// A page of 54 KB costs about 80 µs of CPU, HTTP and the kernel included (BenchmarkScrape); only the few lines
// that matter are parsed.
package metrics

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/pool"
	"github.com/pilotfish-epp/pilotfish/pkg/runtime"
	"github.com/pilotfish-epp/pilotfish/pkg/settings"
)

// Observer is told what becomes of each attempt. Its methods are called concurrently and must be quick.
type Observer interface {
	// Scraped says that a page was read, and how long that took.
	Scraped(took time.Duration)
	// ScrapeFailed says that pod's page couldn't be read. reason is the text of one of the Reasons.
	ScrapeFailed(pod, reason string)
}

// Options are what a Scraper needs. Observer and Dial may be nil.
type Options struct {
	Pool     *pool.Pool
	Settings *settings.Store
	Logger   *slog.Logger
	Observer Observer
	Dial     func(ctx context.Context, network, address string) (net.Conn, error) // nil: the network
}

// Scraper reads the pages of the pods of one pool.
type Scraper struct {
	pool     *pool.Pool
	settings *settings.Store
	logger   *slog.Logger
	observer Observer
	dial     dialer

	runtimes   map[string]*readable
	workspaces sync.Pool
	changed    chan struct{} // the pool's members changed; holds at most one
	total      atomic.Int64  // CPU time of one page of each pod, ns
}

// readable is a runtime with the filter for its pages.
type readable struct {
	*runtime.Server
	filter *filter
}

// NewScraper gives a scraper of o.Pool. A pool needs one only.
func NewScraper(o Options) *Scraper {
	s := &Scraper{
		pool: o.Pool, settings: o.Settings, logger: o.Logger, observer: o.Observer, dial: o.Dial,
		runtimes: map[string]*readable{},
		changed:  make(chan struct{}, 1),
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	if s.observer == nil {
		s.observer = nobody{}
	}
	if s.dial == nil {
		s.dial = (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext
	}
	for _, name := range runtime.Names() {
		if server, err := runtime.Lookup(name); err == nil {
			s.runtimes[name] = &readable{server, newFilter(server)}
		}
	}
	s.workspaces.New = func() any { return newWorkspace() }
	s.pool.OnChange(func([]*pool.Pod, []*pool.Pod) {
		select {
		case s.changed <- struct{}{}:
		default:
		}
	})
	return s
}

type nobody struct{}

func (nobody) Scraped(time.Duration)       {}
func (nobody) ScrapeFailed(string, string) {}

// Run scrapes until ctx ends, and returns when all that it started has ended.
func (s *Scraper) Run(ctx context.Context) {
	var loops sync.WaitGroup
	defer loops.Wait()
	stops := map[*pool.Load]context.CancelFunc{} // by incarnation: a restarted pod is another one
	for {
		s.reconcile(ctx, &loops, stops)
		select {
		case <-ctx.Done():
			for _, stop := range stops {
				stop()
			}
			return
		case <-s.changed:
		}
	}
}

// reconcile starts a loop for each pod that joined, and stops those of the pods that left.
func (s *Scraper) reconcile(ctx context.Context, loops *sync.WaitGroup, stops map[*pool.Load]context.CancelFunc) {
	members := make(map[*pool.Load]bool, len(stops))
	for _, pod := range s.pool.Snapshot().Pods {
		members[pod.Load] = true
		if stops[pod.Load] == nil {
			podContext, stop := context.WithCancel(ctx)
			stops[pod.Load] = stop
			loops.Go(func() { s.newTarget(pod).loop(podContext) })
		}
	}
	for load, stop := range stops {
		if !members[load] {
			stop()
			delete(stops, load)
		}
	}
}

// target is one incarnation of a pod while it is being scraped. One goroutine owns it.
type target struct {
	*Scraper
	address netip.AddrPort
	load    *pool.Load
	client  *client
	memory  memory
	pace    pace
	random  *rand.Rand
	clock   clock
	timer   *time.Timer // only sleep uses it
	tries   int
	path    int  // which of the runtime's paths has the page
	told    bool // missing metrics have been logged

	began   time.Time     // of the last attempt
	due     time.Duration // after began: the next attempt
	planned time.Duration // the wait on which due rests
}

func (s *Scraper) newTarget(pod *pool.Pod) *target {
	t := &target{
		Scraper: s, address: pod.Address, load: pod.Load,
		pace:   pace{total: &s.total},
		random: rand.New(rand.NewPCG(rand.Uint64(), uint64(pod.ID))),
	}
	t.client = newClient(s.dial, &t.clock)
	t.timer = time.NewTimer(longestSleep)
	return t
}

func (t *target) loop(ctx context.Context) {
	defer t.client.close()
	defer t.timer.Stop()
	defer t.pace.leave()
	t.began = time.Now()
	// Not at once: requests that wait for a pod go there when it was looked at, and the proxy must know it by then.
	t.due = time.Duration((0.1 + 0.9*t.random.Float64()) * float64(min(t.settings.Current().RefreshMetricsInterval, longest)))
	for t.sleep(ctx) {
		pod := t.pool.Snapshot().At(t.address) // its port or runtime may have changed
		if pod == nil || pod.Load != t.load {
			return
		}
		t.start()
		t.scrape(ctx, pod)
		t.plan(time.Since(t.began))
	}
}

// start begins an attempt. One that begins a little late, because the machine was busy, doesn't make the next ones late.
func (t *target) start() {
	now := time.Now()
	t.began = t.began.Add(t.due)
	if now.Sub(t.began) > t.planned/2 {
		t.began = now
	}
}

// plan sets when the next attempt is due, if this one took so long: never right after it.
func (t *target) plan(took time.Duration) {
	v := t.settings.Current()
	t.planned = t.pace.wait(v)
	t.due = max(t.pace.around(t.planned, t.random), took+t.planned/2)
}

// sleep waits until the next attempt is due, and plans anew when the settings shorten the interval meanwhile. It says
// whether there is to be one.
func (t *target) sleep(ctx context.Context) bool {
	for {
		if t.pace.wait(t.settings.Current()) < t.planned/2 {
			t.plan(0)
		}
		rest := t.due - time.Since(t.began)
		if rest <= 0 {
			return ctx.Err() == nil
		}
		t.timer.Reset(min(rest, longestSleep))
		select {
		case <-ctx.Done():
			return false
		case <-t.timer.C:
		}
	}
}

// scrape makes one attempt at the pod's page and tells the pool.
func (t *target) scrape(ctx context.Context, pod *pool.Pod) {
	asked := time.Now()
	inFlight, uncached := t.pool.InFlight(pod)
	t.clock.restart(t.tries%clockEvery == 0)
	t.tries++
	reading, err := t.page(ctx, pod)
	now := time.Now()
	if ctx.Err() != nil { // the pod left, or we do
		return
	}
	if cpu, on := t.clock.time(); on {
		t.pace.spent(cpu)
	}
	if err != nil {
		t.pace.failed()
		t.failed(now, pod, err)
		return
	}
	recovered := t.pace.failures > 0
	t.pace.read(now.Sub(asked))
	t.observer.Scraped(now.Sub(asked))
	t.log(pod, reading, recovered)
	t.pool.Report(now, pod, report(reading, asked, inFlight, uncached, t.pace.interval(t.settings.Current())))
}

func (t *target) failed(now time.Time, pod *pool.Pod, err error) {
	reason := reasonOf(err)
	t.observer.ScrapeFailed(pod.Name, string(reason))
	if t.pace.failures == 1 {
		t.logger.Warn("metrics page can't be read; the pod's load is what was sent to it", "pod", pod.Name, "reason", reason, "error", err)
	}
	t.pool.ReportFailed(pod, now, err)
}

func (t *target) log(pod *pool.Pod, r runtime.Reading, recovered bool) {
	if recovered {
		t.logger.Info("metrics page can be read again", "pod", pod.Name)
	}
	if len(r.Missing) > 0 && !t.told {
		t.told = true
		t.logger.Info("metrics page lacks what servers of this kind have; routing goes on without it", "pod", pod.Name, "missing", strings.Join(r.Missing, ", "))
	}
}

// page reads the pod's page, at whichever of its runtime's paths it is.
func (t *target) page(ctx context.Context, pod *pool.Pod) (runtime.Reading, error) {
	v := t.settings.Current()
	name := pod.Runtime
	if name == "" {
		name = v.ModelServerRuntime
	}
	server := t.runtimes[name]
	if server == nil {
		_, err := runtime.Lookup(name)
		return runtime.Reading{}, failure(NoRuntime, err)
	}
	port := pod.MetricsPort
	if port == 0 {
		port = server.MetricsPort(pod.Address.Port())
	}
	host := netip.AddrPortFrom(pod.Address.Addr(), port)
	deadline := time.Now().Add(v.ScrapeTimeout)

	var first error
	for range server.Paths {
		path := server.Paths[t.path%len(server.Paths)]
		reading, err := t.pageAt(ctx, deadline, server, host, path)
		if err == nil {
			return reading, nil
		}
		err = fmt.Errorf("http://%s%s: %w", host, path, explain(err, v.ScrapeTimeout))
		if first == nil {
			first = err
		}
		if !answered(err) {
			break
		}
		t.path++
	}
	return runtime.Reading{}, first
}

func (t *target) pageAt(ctx context.Context, deadline time.Time, server *readable, host netip.AddrPort, path string) (runtime.Reading, error) {
	body, err := t.client.get(ctx, deadline, host, path)
	if err != nil {
		return runtime.Reading{}, err
	}
	defer body.Close() //nolint:errcheck // read to its end, or given up
	w := t.workspaces.Get().(*workspace)
	defer t.workspaces.Put(w)
	defer w.tidy()
	return w.read(body, server.Server, server.filter, &t.memory, &t.clock)
}

// explain adds what was expected to errors of the network, which tell only what came.
func explain(err error, limit time.Duration) error {
	switch reasonOf(err) {
	case Timeout:
		return fmt.Errorf("expected a whole page within %v (SCRAPE_TIMEOUT), got: %w", limit, err)
	case Unreachable:
		return fmt.Errorf("expected an answer, got: %w", err)
	}
	return err
}

func report(r runtime.Reading, asked time.Time, inFlight, uncached int, interval time.Duration) pool.Report {
	return pool.Report{
		Taken: pool.At(asked), Interval: interval, InFlight: inFlight, Uncached: uncached,
		Waiting: r.Waiting, Running: r.Running, KVUsage: r.KVUsage,
		BlockSize: r.BlockSize, KVTokens: r.KVTokens,
		MaxAdapters: r.MaxAdapters, Adapters: r.Adapters,
		Asleep: r.Asleep, Started: r.Started,
		Missing: append(r.Missing, r.Absent...),
	}
}
