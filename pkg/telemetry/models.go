package telemetry

import (
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxModels bounds the pairs of model and target that have series of their own.
	maxModels = 100
	// maxLabel bounds a label's value in bytes.
	maxLabel = 128
	// otherModels is the label of all models that have no series of their own.
	otherModels = "other"
)

// Error codes of the family.
const (
	errBadRequest  = "BadRequest"
	errExhausted   = "InferencePoolResourceExhausted"
	errUnavailable = "ServiceUnavailable"
	errInternal    = "Internal"
	errModelServer = "ModelServerError"
)

// pair is what the family labels requests with.
type pair struct{ model, target string }

// series are the metrics of one pair, resolved once.
type series struct {
	running  atomic.Int64
	proven   atomic.Bool // an engine answered 2xx under this name
	requests prometheus.Counter
	errors   [5]prometheus.Counter // by place in errorCodes

	duration, ttft, perToken                prometheus.Observer
	requestSize, responseSize               prometheus.Observer
	inputTokens, outputTokens, cachedTokens prometheus.Observer
}

var errorCodes = [5]string{errBadRequest, errExhausted, errUnavailable, errInternal, errModelServer}

// models keeps the series of requests by model. A name gets its own series when an engine has answered to it with
// success, so that made-up names can't fill the table; until then, and when the table is full, it counts as "other".
// While there is room names that met only engine failures are shown too, for an engine that is broken from the start
// must not hide; they make way for proven ones.
type models struct {
	requests    *prometheus.CounterVec
	errors      *prometheus.CounterVec
	histograms  [8]*prometheus.HistogramVec
	descRunning *prometheus.Desc

	mu    sync.RWMutex
	known map[pair]*series
	other *series
}

func (m *models) init() {
	labels := []string{"model_name", "target_model_name"}
	m.requests = counters("inference_model_request_total", "Requests by model, counted when they end.", labels...)
	m.errors = counters("inference_model_request_error_total",
		"Requests that were refused or that the model server answered with an error, by model and kind of error.",
		append(labels, "error_code")...)
	bytes := prometheus.ExponentialBuckets(64, 4, 13)                                 // to 1 GiB
	tokens := append([]float64{0, 1, 4}, prometheus.ExponentialBuckets(16, 2, 17)...) // to 1 Mi
	for i, h := range [8]struct {
		name, help string
		buckets    []float64
	}{
		{"request_duration_seconds", "Time from a request's arrival to the end of its answer.", steps(0.005, 5000)},
		{"request_ttft_seconds", "Time from a request's arrival to the first token of its streamed answer.", steps(0.005, 1000)},
		{"normalized_time_per_output_token_seconds", "Duration of a request divided by its output tokens.", steps(0.0005, 10)},
		{"request_sizes", "Size of request bodies in bytes.", bytes},
		{"response_sizes", "Size of response bodies in bytes, of those that passed through the picker.", bytes},
		{"input_tokens", "Prompt tokens as engines told; where responses are sampled, of the sample.", tokens},
		{"output_tokens", "Completion tokens as engines told; where responses are sampled, of the sample.", tokens},
		{"prompt_cached_tokens", "Prompt tokens found in the engine's cache, as engines told; where responses are sampled, of the sample.", tokens},
	} {
		m.histograms[i] = prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "inference_model_" + h.name, Help: h.help, Buckets: h.buckets,
		}, labels)
	}
	m.descRunning = prometheus.NewDesc("inference_model_running_requests", "Requests that are at a pod now, by model.",
		[]string{"model_name"}, nil)
	m.known = make(map[pair]*series)
	m.other = m.make(others)
}

// others is the pair of all names without series of their own, and of whoever calls a model so.
var others = pair{otherModels, otherModels}

// pairOf makes two names fit for labels. It allocates only for names that aren't.
func pairOf(model, target string) pair { return pair{label(model), label(target)} }

// make resolves the series of a pair.
func (m *models) make(p pair) *series {
	model, target := p.model, p.target
	s := &series{requests: m.requests.WithLabelValues(model, target)}
	for i, code := range errorCodes {
		s.errors[i] = m.errors.WithLabelValues(model, target, code)
	}
	for i, at := range []*prometheus.Observer{
		&s.duration, &s.ttft, &s.perToken, &s.requestSize, &s.responseSize, &s.inputTokens, &s.outputTokens, &s.cachedTokens,
	} {
		*at = m.histograms[i].WithLabelValues(model, target)
	}
	return s
}

// unmake removes the series of a pair from the page.
func (m *models) unmake(p pair) {
	model, target := p.model, p.target
	m.requests.DeleteLabelValues(model, target)
	for _, code := range errorCodes {
		m.errors.DeleteLabelValues(model, target, code)
	}
	for _, h := range m.histograms {
		h.DeleteLabelValues(model, target)
	}
}

func (m *models) lookup(p pair) *series {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.at(p)
}

// at is lookup for those who hold the lock.
func (m *models) at(p pair) *series {
	if s := m.known[p]; s != nil {
		return s
	}
	return m.other
}

func (m *models) begin(model, target string) {
	p := pairOf(model, target)
	m.mu.RLock() // held while counting, so that series in use are never evicted
	m.at(p).running.Add(1)
	m.mu.RUnlock()
}

func (m *models) refused(model, target, code string) {
	s := m.lookup(pairOf(model, target))
	s.requests.Inc()
	s.fail(code)
}

func (m *models) end(d *Done) {
	p := pairOf(d.Model, d.Target)
	m.mu.RLock()
	s := m.at(p)
	if !s.leave() {
		// The name got its series while this request was under way: it began among the others.
		m.other.leave()
	}
	room := len(m.known) < maxModels
	m.mu.RUnlock()
	if proves := d.Status/100 == 2; s == m.other && p != others && (proves || room && d.worthShowing()) {
		s = m.admit(p, proves)
	} else if proves && !s.proven.Load() {
		s.proven.Store(true)
	}
	s.observe(d)
}

// worthShowing reports whether the model of a request that did not succeed may well exist: its engine failed, or nobody
// told how it went. An engine that doesn't know a model says 404.
func (d *Done) worthShowing() bool {
	return d.Status >= 500 || d.Status == 429 || d.Status == 0 && d.End != EndClientGone
}

// admit gives a pair its own series if there is room, or room can be made for a proven one.
func (m *models) admit(p pair, proven bool) *series {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.known[p]
	if s == nil {
		full := len(m.known) >= maxModels
		if full && (!proven || !m.evict()) {
			return m.other
		}
		p = pair{strings.Clone(p.model), strings.Clone(p.target)} // the caller's names are views
		s = m.make(p)
		m.known[p] = s
	}
	if proven {
		s.proven.Store(true)
	}
	return s
}

// evict removes a pair that never met success and has nothing under way, and reports whether there was one.
func (m *models) evict() bool {
	for p, s := range m.known {
		if !s.proven.Load() && s.running.Load() == 0 {
			m.unmake(p)
			delete(m.known, p)
			return true
		}
	}
	return false
}

// leave takes one off the running requests, unless there is none.
func (s *series) leave() bool {
	for {
		n := s.running.Load()
		if n == 0 {
			return false
		}
		if s.running.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

func (s *series) fail(code string) {
	for i := range errorCodes {
		if errorCodes[i] == code {
			s.errors[i].Inc()
		}
	}
}

func (s *series) observe(d *Done) {
	s.requests.Inc()
	if d.Status >= 400 {
		s.fail(errModelServer)
	}
	s.duration.Observe(d.Duration.Seconds())
	s.requestSize.Observe(float64(d.RequestBytes))
	if d.ResponseBytes > 0 {
		s.responseSize.Observe(float64(d.ResponseBytes))
	}
	if d.FirstToken > 0 {
		s.ttft.Observe(d.FirstToken.Seconds())
	}
	if !d.HasUsage {
		return
	}
	s.inputTokens.Observe(float64(d.Prompt))
	s.cachedTokens.Observe(float64(d.Cached))
	s.outputTokens.Observe(float64(d.Completion))
	if d.Completion > 0 {
		s.perToken.Observe(d.Duration.Seconds() / float64(d.Completion))
	}
}

// Describe implements prometheus.Collector.
func (m *models) Describe(ch chan<- *prometheus.Desc) {
	m.requests.Describe(ch)
	m.errors.Describe(ch)
	for _, h := range m.histograms {
		h.Describe(ch)
	}
	ch <- m.descRunning
}

// Collect implements prometheus.Collector.
func (m *models) Collect(ch chan<- prometheus.Metric) {
	m.requests.Collect(ch)
	m.errors.Collect(ch)
	for _, h := range m.histograms {
		h.Collect(ch)
	}
	running := map[string]int64{otherModels: m.other.running.Load()}
	m.mu.RLock()
	for p, s := range m.known {
		running[p.model] += s.running.Load()
	}
	m.mu.RUnlock()
	for model, n := range running {
		ch <- prometheus.MustNewConstMetric(m.descRunning, prometheus.GaugeValue, float64(n), model)
	}
}

// label makes any text fit for a label's value.
func label(text string) string {
	switch {
	case text == "":
		return "unknown"
	case len(text) > maxLabel:
		return otherModels
	case !utf8.ValidString(text):
		return strings.ToValidUTF8(text, "\uFFFD")
	}
	return text
}

// errorCodeOfRefusal is the family's word for a refusal with an HTTP status.
func errorCodeOfRefusal(status int) string {
	switch {
	case status == 429:
		return errExhausted
	case status == 503:
		return errUnavailable
	case status >= 400 && status < 500:
		return errBadRequest
	}
	return errInternal
}
