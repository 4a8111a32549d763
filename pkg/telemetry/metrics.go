// Package telemetry is what the picker tells of itself: Prometheus metrics and one record for each decision.
//
// Families bear the names that dashboards of the Gateway API inference extension know (inference_model_*,
// inference_pool_*, inference_extension_*); what has no name there is called pilotfish_*. Everything observed of one
// request takes less than a microsecond and no allocation, and clients can't add series: model names get series of
// their own only once an engine knew them, and at most 100 of them do; priorities, at most 32. Nothing here is global.
package telemetry

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Build says which build of the picker this is.
type Build struct {
	Version string // release or branch
	Commit  string // revision of the source
}

// Metrics are the picker's own metrics. All methods are safe for concurrent use.
type Metrics struct {
	models models
	waits  waits

	picks       words
	attempts    [2]prometheus.Counter // success, failure
	pickSeconds prometheus.Histogram
	hitRatio    prometheus.Histogram
	hitSize     prometheus.Histogram

	ends      words
	predicted prometheus.Counter
	reported  prometheus.Counter

	scrapes       prometheus.Histogram
	scrapeErrors  *prometheus.CounterVec
	endpointsRead *prometheus.CounterVec
	linesDropped  prometheus.Counter

	registry prometheus.Registerer
}

// New registers the picker's metrics on reg, which must not have them yet.
func New(reg prometheus.Registerer, build Build) *Metrics {
	m := &Metrics{
		registry: reg,
		picks: wordsOf(counters("pilotfish_picks_total",
			"Requests that were given a pod, by what decided for it.", "reason"),
			"load", "prefix", "adapter", "only"),
		pickSeconds: histogram("inference_extension_scheduler_e2e_duration_seconds",
			"Time from the complete request to the picked pod: hashing, matching and choosing.",
			steps(5e-6, 10)),
		hitRatio: histogram("inference_extension_prefix_indexer_hit_ratio",
			"Share of a prompt's blocks that the picked pod is thought to have cached.",
			prometheus.LinearBuckets(0, 0.1, 11)),
		hitSize: histogram("inference_extension_prefix_indexer_hit_bytes",
			"Length of the prompt's prefix that the picked pod is thought to have cached, as matched blocks times characters in a block.",
			append([]float64{0}, prometheus.ExponentialBuckets(64, 2, 13)...)),
		ends: wordsOf(counters("pilotfish_request_ends_total",
			"Requests that had a pod, by how they ended.", "end"),
			EndCompleted, EndClientGone, EndUnfollowed, EndShuttingDown),
		predicted: counter("pilotfish_predicted_cached_tokens_total",
			"Prompt tokens thought to be cached at the picked pod, of those requests whose engine told how many were."),
		reported: counter("pilotfish_reported_cached_tokens_total",
			"Prompt tokens that engines told to have found in their cache."),
		scrapes: histogram("pilotfish_scrape_duration_seconds",
			"Time to fetch and read one metrics page.", steps(1e-4, 5)),
		scrapeErrors: counters("pilotfish_scrape_errors_total",
			"Metrics pages that could not be read, by pod and reason.", podLabel, "reason"),
		endpointsRead: counters("pilotfish_endpoints_reloads_total",
			"Versions of the endpoints file that were read, by whether they came in force.", "result"),
		linesDropped: counter("pilotfish_decision_lines_dropped_total",
			"Lines of the decision log that were dropped since nobody read them."),
	}
	attempts := counters("inference_extension_scheduler_attempts_total",
		"Requests that asked for a pod, by whether they were given one.", "status")
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "inference_extension_info",
		Help:        "Build of the picker; the value is always 1.",
		ConstLabels: prometheus.Labels{"commit": build.Commit, "build_ref": build.Version},
	})
	info.Set(1)
	m.attempts = [2]prometheus.Counter{attempts.WithLabelValues("success"), attempts.WithLabelValues("failure")}
	m.models.init()
	m.waits.init()
	reg.MustRegister(m.picks.vec, attempts, m.pickSeconds, m.hitRatio, m.hitSize, m.ends.vec,
		m.predicted, m.reported, m.scrapes, m.scrapeErrors, m.endpointsRead, m.linesDropped, info, &m.models,
		m.waits.seconds, m.waits.dispatches)
	return m
}

// podLabel names a pod, as the family's metrics do.
const podLabel = "model_server_pod"

// words is a counter by one label whose usual values are resolved beforehand.
type words struct {
	vec    *prometheus.CounterVec
	usual  []string
	counts []prometheus.Counter
}

func wordsOf(vec *prometheus.CounterVec, usual ...string) words {
	w := words{vec: vec, usual: usual}
	for _, word := range usual {
		w.counts = append(w.counts, vec.WithLabelValues(word))
	}
	return w
}

func (w *words) count(word string) {
	for i := range w.usual {
		if w.usual[i] == word {
			w.counts[i].Inc()
			return
		}
	}
	w.vec.WithLabelValues(word).Inc()
}

// Pick tells how a request came to its pod.
type Pick struct {
	Model, Target string // as asked for, and as sent to the engine; views are fine, nothing of them is kept
	Reason        string // one of the few words of the scheduler
	Latency       time.Duration
	Blocks        int // of the prompt, hashed
	Matched       int // of them, thought to be cached at the pod
	BlockSize     int // characters
}

// Picked counts a request that was given a pod. Finished must follow, with the same names.
func (m *Metrics) Picked(p *Pick) {
	m.models.begin(p.Model, p.Target)
	m.attempts[0].Inc()
	m.picks.count(p.Reason)
	m.pickSeconds.Observe(p.Latency.Seconds())
	if p.Blocks > 0 {
		m.hitRatio.Observe(float64(p.Matched) / float64(p.Blocks))
		m.hitSize.Observe(float64(p.Matched) * float64(p.BlockSize))
	}
}

// Refused counts a request that asked for a pod and was answered with an HTTP status instead.
func (m *Metrics) Refused(model, target string, status int) {
	m.models.refused(model, target, errorCodeOfRefusal(status))
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
		m.attempts[1].Inc() // others were at fault themselves: nobody looked for a pod
	}
}

// How a request that had a pod ended.
const (
	EndCompleted    = "completed"
	EndClientGone   = "client gone"
	EndUnfollowed   = "unfollowed" // the picker left after the pick
	EndShuttingDown = "shutting down"
)

// Done tells how a request that had a pod went. A zero stands for what is not known.
type Done struct {
	Model, Target string
	Status        int    // HTTP status of the answer
	End           string // one of the End words
	RequestBytes  int
	ResponseBytes int
	Duration      time.Duration // from arrival to end
	FirstToken    time.Duration // from arrival

	HasUsage   bool // the engine told its usage
	Prompt     int  // tokens
	Cached     int  // tokens of the prompt that the engine had cached
	Completion int  // tokens
	Predicted  int  // tokens of the prompt that were thought to be cached
}

// Finished counts the end of a request that Picked has counted.
func (m *Metrics) Finished(d *Done) {
	m.models.end(d)
	m.ends.count(d.End)
	if d.HasUsage {
		m.predicted.Add(float64(max(d.Predicted, 0)))
		m.reported.Add(float64(max(d.Cached, 0)))
	}
}

// Scraped counts a metrics page that was read.
func (m *Metrics) Scraped(took time.Duration) { m.scrapes.Observe(took.Seconds()) }

// ScrapeFailed counts a metrics page that could not be read. reason is one of a few words.
func (m *Metrics) ScrapeFailed(pod, reason string) {
	m.scrapeErrors.WithLabelValues(label(pod), reason).Inc()
}

// PodLeft removes the series of a pod that is no longer in the pool.
func (m *Metrics) PodLeft(pod string) {
	m.scrapeErrors.DeletePartialMatch(prometheus.Labels{podLabel: label(pod)})
}

// EndpointsReloaded counts a version of the endpoints file that came in force, or that was refused.
func (m *Metrics) EndpointsReloaded(inForce bool) {
	result := "refused"
	if inForce {
		result = "in force"
	}
	m.endpointsRead.WithLabelValues(result).Inc()
}

// LinesDropped counts lines of the decision log that nobody read in time.
func (m *Metrics) LinesDropped(n int) { m.linesDropped.Add(float64(n)) }

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

func histogram(name, help string, buckets []float64) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
}

// steps are the bounds 1, 2, 5, 10, 20, 50 … times a power of ten, from one of them to at most another.
func steps(from, to float64) []float64 {
	var out []float64
	for i, bound := 0, from; bound <= to*1.0001; i++ {
		out = append(out, bound)
		factor := 2.0
		if leading(bound) == 2 {
			factor = 2.5
		}
		bound *= factor
	}
	return out
}

// leading is the first significant digit of a positive number.
func leading(f float64) int {
	for f < 0.9999 {
		f *= 10
	}
	for f >= 9.9999 {
		f /= 10
	}
	return int(f + 0.0001)
}
