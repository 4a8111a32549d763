package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Sources are the functions that are asked when the metrics page is fetched. They must be safe for concurrent use and
// quick. A nil one leaves its families off the page.
type Sources struct {
	PoolName string               // label "name" of the pool's families, "inference_pool" of the queue's
	Pods     func() []PodLoad     // the pods now
	Index    func() IndexSize     // what the prefix index holds
	Buffered func() int64         // bytes of bodies held now
	Streams  func() StreamCounts  // ext_proc streams
	Queue    func() []QueueLevel  // what waits here, by priority; those without requests may be left out
	Refused  func() int           // setting values that are refused at present
	Interval func() time.Duration // scrape interval in force, after stretching
}

// PodLoad is one pod as the metrics page shows it.
type PodLoad struct {
	Name, Address string
	Ready         bool // requests are sent to it
	InFlight      int  // requests counted here
	Reported      bool // it has reported at least once; the fields below hold its last report
	Waiting       int  // requests
	Running       int  // requests
	KVUsage       float64
	ReportAge     time.Duration
}

// StreamCounts counts ext_proc streams; Open is of this moment, the others since the start.
type StreamCounts struct {
	Open      int64
	Malformed int64 // ended since a message could not be read
	Panics    int64 // ended by a fault of the picker
	Modes     []ModeCount
	Refused   map[string]int64 // requests answered here instead of by a pod, by reason
}

// ModeCount counts streams by what the gateway sends of bodies, in Envoy's words (FULL_DUPLEX_STREAMED, NONE).
type ModeCount struct {
	Request, Response string
	Streams           int64
}

// IndexSize is what the prefix index holds.
type IndexSize struct {
	Blocks    int // (pod, block) pairs
	Bytes     int64
	Evictions uint64
}

// Watch registers the families that are read from s when the page is fetched. It may be called once for a Metrics.
func (m *Metrics) Watch(s Sources) { m.registry.MustRegister(newGauges(s, &m.waits)) }

// gauges asks the sources at every scrape, so that nothing is kept up to date that nobody looks at.
type gauges struct {
	s     Sources
	waits *waits // which priorities have series of their own

	ready, averageQueue, averageRunning, averageKV *prometheus.Desc
	podQueue, podRunning, podInFlight, podKV       *prometheus.Desc
	podAge                                         *prometheus.Desc
	indexSize, indexBytes, indexEvictions          *prometheus.Desc
	streams, byMode, broken, refusals              *prometheus.Desc
	queueSize, queueBytes, queueAge                *prometheus.Desc
	buffered, problems, interval                   *prometheus.Desc
}

func newGauges(s Sources, w *waits) *gauges {
	describe := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &gauges{
		s:              s,
		waits:          w,
		ready:          describe("inference_pool_ready_pods", "Pods that requests are sent to.", "name"),
		averageQueue:   describe("inference_pool_average_queue_size", "Mean number of requests waiting at a pod, over the pods that reported.", "name"),
		averageRunning: describe("inference_pool_average_running_requests", "Mean number of requests running at a pod, over the pods that reported.", "name"),
		averageKV:      describe("inference_pool_average_kv_cache_utilization", "Mean share of the KV cache in use (0..1), over the pods that reported.", "name"),
		podQueue:       describe("inference_pool_per_pod_queue_size", "Requests waiting at the pod, as it reported.", "name", podLabel),
		podRunning:     describe("pilotfish_pod_running_requests", "Requests running at the pod, as it reported.", "name", podLabel),
		podInFlight:    describe("pilotfish_pod_in_flight_requests", "Requests that this picker sent to the pod and that have not ended.", "name", podLabel),
		podKV:          describe("pilotfish_pod_kv_cache_utilization", "Share of the pod's KV cache in use (0..1), as it reported.", "name", podLabel),
		podAge:         describe("pilotfish_scrape_age_seconds", "Age of the pod's last report.", "name", podLabel),
		indexSize:      describe("inference_extension_prefix_indexer_size", "Blocks remembered in the prefix index, summed over the pods."),
		indexBytes:     describe("pilotfish_prefix_index_bytes", "Memory of the prefix index."),
		indexEvictions: describe("pilotfish_prefix_index_evictions_total", "Blocks that left the prefix index since a pod was at its capacity; starts anew when the index is emptied."),
		queueSize:      describe("inference_extension_flow_control_queue_size", "Requests that wait here for a pod with room, by priority.", "inference_pool", "priority"),
		queueBytes:     describe("inference_extension_flow_control_queue_bytes", "Bytes of the bodies of requests that wait here, by priority.", "inference_pool", "priority"),
		queueAge:       describe("pilotfish_queue_oldest_age_seconds", "How long the oldest request that waits here has waited, by priority; 0 when none waits.", "inference_pool", "priority"),
		buffered:       describe("pilotfish_buffered_bytes", "Bytes of request bodies held now."),
		streams:        describe("pilotfish_streams", "ext_proc streams open now."),
		byMode:         describe("pilotfish_streams_total", "ext_proc streams by the body modes of the gateway: how much of requests and responses passes through the picker.", "request_body_mode", "response_body_mode"),
		broken:         describe("pilotfish_broken_streams_total", "ext_proc streams that ended in an error, by reason; each is a bug here or in the gateway.", "reason"),
		refusals:       describe("pilotfish_refusals_total", "Requests that the picker answered instead of giving them a pod, by reason.", "reason"),
		problems:       describe("pilotfish_settings_problems", "Setting values that are refused at present; the last good ones are in force."),
		interval:       describe("pilotfish_scrape_interval_seconds", "Time between two scrapes of one pod, after stretching."),
	}
}

// Describe implements prometheus.Collector.
func (g *gauges) Describe(ch chan<- *prometheus.Desc) {
	if g.s.Pods != nil {
		for _, d := range []*prometheus.Desc{
			g.ready, g.averageQueue, g.averageRunning, g.averageKV, g.podQueue, g.podRunning, g.podInFlight, g.podKV, g.podAge,
		} {
			ch <- d
		}
	}
	if g.s.Index != nil {
		ch <- g.indexSize
		ch <- g.indexBytes
		ch <- g.indexEvictions
	}
	if g.s.Streams != nil {
		ch <- g.streams
		ch <- g.byMode
		ch <- g.broken
		ch <- g.refusals
	}
	if g.s.Queue != nil {
		ch <- g.queueSize
		ch <- g.queueBytes
		ch <- g.queueAge
	}
	for _, source := range g.plain() {
		ch <- source.desc
	}
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(ch chan<- prometheus.Metric) {
	if g.s.Pods != nil {
		g.pods(ch, g.s.Pods())
	}
	if g.s.Index != nil {
		size := g.s.Index()
		gauge(ch, g.indexSize, float64(size.Blocks))
		gauge(ch, g.indexBytes, float64(size.Bytes))
		total(ch, g.indexEvictions, float64(size.Evictions))
	}
	if g.s.Streams != nil {
		g.streamCounts(ch, g.s.Streams())
	}
	if g.s.Queue != nil {
		g.queue(ch, g.s.Queue())
	}
	for _, source := range g.plain() {
		gauge(ch, source.desc, source.value())
	}
}

type plainGauge struct {
	desc  *prometheus.Desc
	value func() float64
}

// plain lists the sources that are one number.
func (g *gauges) plain() []plainGauge {
	var out []plainGauge
	if f := g.s.Buffered; f != nil {
		out = append(out, plainGauge{g.buffered, func() float64 { return float64(f()) }})
	}
	if f := g.s.Refused; f != nil {
		out = append(out, plainGauge{g.problems, func() float64 { return float64(f()) }})
	}
	if f := g.s.Interval; f != nil {
		out = append(out, plainGauge{g.interval, func() float64 { return f().Seconds() }})
	}
	return out
}

func (g *gauges) streamCounts(ch chan<- prometheus.Metric, c StreamCounts) {
	gauge(ch, g.streams, float64(c.Open))
	total(ch, g.broken, float64(c.Malformed), "malformed message")
	total(ch, g.broken, float64(c.Panics), "panic")
	for _, mode := range c.Modes {
		total(ch, g.byMode, float64(mode.Streams), mode.Request, mode.Response)
	}
	for reason, n := range c.Refused {
		total(ch, g.refusals, float64(n), reason)
	}
}

func (g *gauges) queue(ch chan<- prometheus.Metric, levels []QueueLevel) {
	pool := label(g.s.PoolName)
	for priority, l := range g.waits.byLabel(levels) {
		gauge(ch, g.queueSize, float64(l.Length), pool, priority)
		gauge(ch, g.queueBytes, float64(l.Bytes), pool, priority)
		gauge(ch, g.queueAge, l.OldestAge.Seconds(), pool, priority)
	}
}

func (g *gauges) pods(ch chan<- prometheus.Metric, pods []PodLoad) {
	pool := label(g.s.PoolName)
	var ready, reported, waiting, running, kv float64
	names := make(map[string]bool, len(pods))
	for i := range pods {
		p := &pods[i]
		name := label(p.Name)
		if names[name] { // two pods of one name would spoil the whole page
			name += " " + p.Address
		}
		names[name] = true
		if p.Ready {
			ready++
		}
		gauge(ch, g.podInFlight, float64(p.InFlight), pool, name)
		if !p.Reported {
			continue
		}
		reported++
		waiting, running, kv = waiting+float64(p.Waiting), running+float64(p.Running), kv+p.KVUsage
		gauge(ch, g.podQueue, float64(p.Waiting), pool, name)
		gauge(ch, g.podRunning, float64(p.Running), pool, name)
		gauge(ch, g.podKV, p.KVUsage, pool, name)
		gauge(ch, g.podAge, p.ReportAge.Seconds(), pool, name)
	}
	gauge(ch, g.ready, ready, pool)
	if reported > 0 { // no mean of nothing: a 0 would read as an idle pool
		gauge(ch, g.averageQueue, waiting/reported, pool)
		gauge(ch, g.averageRunning, running/reported, pool)
		gauge(ch, g.averageKV, kv/reported, pool)
	}
}

func gauge(ch chan<- prometheus.Metric, desc *prometheus.Desc, value float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
}

func total(ch chan<- prometheus.Metric, desc *prometheus.Desc, value float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, value, labels...)
}
