package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/pilotfish-epp/pilotfish/pkg/discovery"
	"github.com/pilotfish-epp/pilotfish/pkg/extproc"
	"github.com/pilotfish-epp/pilotfish/pkg/metrics"
	"github.com/pilotfish-epp/pilotfish/pkg/pool"
	"github.com/pilotfish-epp/pilotfish/pkg/queue"
	"github.com/pilotfish-epp/pilotfish/pkg/routing"
	"github.com/pilotfish-epp/pilotfish/pkg/settings"
	"github.com/pilotfish-epp/pilotfish/pkg/telemetry"
)

// adminGrace is how long answers of the admin port, and the last lines of the decision log, may take at the end.
const adminGrace = 2 * time.Second

// serve runs the picker until ctx ends, and then until the streams under way have finished or the grace is over.
func serve(ctx context.Context, store *settings.Store, warnings []string, stdout, stderr io.Writer) error {
	v := store.Current()
	logger := newLogger(stderr, v)
	for _, warning := range warnings {
		logger.Warn(warning)
	}
	if err := servable(v); err != nil {
		return err
	}
	p, err := newPicker(store, logger, stdout)
	if err != nil {
		return err
	}
	defer p.close()
	return p.run(ctx)
}

// servable tells what is missing of the settings that say whom to serve.
func servable(v *settings.Values) error {
	switch {
	case v.Endpoints != "":
		return nil
	case v.PoolName != "":
		return fmt.Errorf("--pool-name %s: this build can't discover pods from Kubernetes; give --endpoints FILE (or the variable ENDPOINTS), a YAML file that lists the model servers", v.PoolName)
	}
	return errors.New("no endpoints: give --endpoints FILE (or the variable ENDPOINTS), a YAML file that lists the model servers")
}

// picker is everything that serves, wired together.
type picker struct {
	settings  *settings.Store
	logger    *slog.Logger
	decisions *telemetry.Decisions
	metrics   *telemetry.Metrics
	pool      *pool.Pool
	file      *discovery.File
	scraper   *metrics.Scraper
	router    *routing.Router
	extproc   *extproc.Server
	health    *extproc.Health
	admin     admin
	security  *tls.Config
	now       func() time.Time

	mu    sync.Mutex // orders changes of phase with those of health
	phase atomic.Uint32
}

// The phases of a picker.
const (
	starting = iota // the endpoints aren't known yet
	ready
	stopping
)

// becomeReady lets requests come, unless the picker is already told to stop.
func (p *picker) becomeReady() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase.CompareAndSwap(starting, ready) {
		p.health.SetReady(true)
	}
}

// becomeStopping tells everyone who asks that requests should go elsewhere.
func (p *picker) becomeStopping() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.phase.Store(stopping)
	p.health.SetReady(false)
}

func newPicker(store *settings.Store, logger *slog.Logger, stdout io.Writer) (*picker, error) {
	v := store.Current()
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m := telemetry.New(registry, thisBuild().Build)

	p := &picker{settings: store, logger: logger, metrics: m, pool: pool.New(), health: extproc.NewHealth(), now: time.Now}
	var err error
	if p.security, err = securityOf(v, logger); err != nil {
		return nil, err
	}
	p.decisions = telemetry.NewDecisions(stdout, isTerminal(stdout), m.LinesDropped)
	p.decisions.SetForm(formOf(v))
	store.Subscribe(func(now *settings.Values, changes []settings.Change) {
		p.decisions.SetForm(formOf(now))
		for _, c := range changes {
			logger.Info("setting changed", "setting", c.Name, "from", c.Old, "to", c.New, "layer", c.Layer.String())
		}
	})
	p.router = routing.New(routing.Options{
		Pool: p.pool, Settings: store,
		Observer: &observer{metrics: m, decisions: p.decisions, settings: store, now: p.now},
	})
	p.scraper = metrics.NewScraper(metrics.Options{Pool: p.pool, Settings: store, Logger: logger, Observer: m})
	p.extproc = extproc.NewServer(extproc.Options{Router: p.router, Settings: store, Logger: logger})
	p.admin = admin{
		settings: store, metrics: registry, pool: p.pool, router: p.router, now: p.now,
		status: p.status,
	}
	p.pool.OnChange(func(joined, left []*pool.Pod) { forget(m, p.pool, left) })
	m.Watch(p.sources(cmp.Or(v.PoolName, "default")))
	return p, nil
}

// status says how the picker is, in a word, and what is wrong with its endpoints.
func (p *picker) status() (word, problem string) {
	if err := p.file.Status().Problem; err != nil {
		problem = err.Error()
	}
	return [...]string{"starting", "ok", "stopping"}[p.phase.Load()], problem
}

// forget removes the series of pods that left, unless another incarnation of the pod is there.
func forget(m *telemetry.Metrics, pods *pool.Pool, left []*pool.Pod) {
	if len(left) == 0 {
		return
	}
	stays := make(map[string]bool)
	for _, pod := range pods.Snapshot().Pods {
		stays[pod.Name] = true
	}
	for _, pod := range left {
		if !stays[pod.Name] {
			m.PodLeft(pod.Name)
		}
	}
}

// sources are where the metrics page takes from what is not counted but looked at.
func (p *picker) sources(poolName string) telemetry.Sources {
	return telemetry.Sources{
		PoolName: poolName,
		Pods:     p.admin.podLoads,
		Index: func() telemetry.IndexSize {
			s := p.router.Index().Stats()
			return telemetry.IndexSize{Blocks: s.Blocks, Bytes: s.Bytes, Evictions: s.Evictions}
		},
		Streams:  func() telemetry.StreamCounts { return streamCounts(p.extproc.Stats()) },
		Queue:    func() []telemetry.QueueLevel { return queueLevels(p.router.Waiting(), p.now()) },
		Buffered: func() int64 { return p.extproc.Stats().BufferedBytes },
		Refused:  func() int { return len(p.settings.Problems()) },
		Interval: p.scrapeInterval,
	}
}

// scrapeInterval is the longest interval at which a pod is scraped at present.
func (p *picker) scrapeInterval() time.Duration {
	longest := p.settings.Current().RefreshMetricsInterval
	for _, l := range p.pool.Loads(p.pool.Snapshot(), nil) {
		longest = max(longest, l.Report.Interval)
	}
	return longest
}

func queueLevels(waiting []queue.PriorityStats, now time.Time) []telemetry.QueueLevel {
	levels := make([]telemetry.QueueLevel, len(waiting))
	for i, l := range waiting {
		levels[i] = telemetry.QueueLevel{Priority: l.Priority, Length: l.Len, Bytes: l.Bytes, OldestAge: now.Sub(l.Oldest), Flows: l.Flows}
	}
	return levels
}

func streamCounts(s extproc.Stats) telemetry.StreamCounts {
	out := telemetry.StreamCounts{Open: s.Streams, Malformed: s.Malformed, Panics: s.Panics, Refused: s.Refused}
	for modes, n := range s.Modes {
		out.Modes = append(out.Modes, telemetry.ModeCount{Request: modes.Request, Response: modes.Response, Streams: n})
	}
	return out
}

func securityOf(v *settings.Values, logger *slog.Logger) (*tls.Config, error) {
	switch {
	case !v.SecureServing:
		return nil, nil
	case v.CertPath == "":
		return extproc.SelfSigned(time.Now())
	}
	security, err := extproc.FromFiles(v.CertPath, nil, logger)
	if err != nil {
		return nil, fmt.Errorf("CERT_PATH: %w", err)
	}
	return security, nil
}

func (p *picker) close() { p.decisions.Close(adminGrace) }
