package telemetry

import (
	"cmp"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxPriorities bounds the priorities that have series of their own.
	maxPriorities = 32
	// otherPriorities is the label of all priorities that have no series of their own.
	otherPriorities = "other"
)

// How a request's time with the queue ended.
const (
	WaitDispatched = "dispatched" // a pod took it
	WaitDiscarded  = "discarded"  // made way for another one when the capacity was used up
	WaitExpired    = "expired"    // waited as long as the TTL allows
	WaitCancelled  = "cancelled"  // its client left
	WaitShutdown   = "shutdown"   // the picker ended
	WaitRefused    = "refused"    // never got in
)

// QueueLevel is what waits at one priority now.
type QueueLevel struct {
	Priority  int
	Length    int   // requests
	Bytes     int64 // of their bodies
	OldestAge time.Duration
	Flows     int // that these requests belong to; 0: not known
}

// QueueView is what waits, as the debug page shows it.
type QueueView struct {
	Waiting int              `json:"waiting"` // requests
	Bytes   int64            `json:"bytes"`
	Levels  []QueueLevelView `json:"levels"` // those with requests, in the order in which they are served
}

// QueueLevelView is one priority of a QueueView.
type QueueLevelView struct {
	Priority int     `json:"priority"`
	Waiting  int     `json:"waiting"` // requests
	Bytes    int64   `json:"bytes"`
	OldestMS float64 `json:"oldestMs"`        // how long the oldest has waited
	Flows    int     `json:"flows,omitempty"` // that these requests belong to, where known
}

// ViewQueue makes the debug page's view of levels, in whatever order they are.
func ViewQueue(levels []QueueLevel) QueueView {
	view := QueueView{Levels: []QueueLevelView{}}
	for _, l := range levels {
		if l.Length == 0 {
			continue
		}
		view.Waiting += l.Length
		view.Bytes += l.Bytes
		view.Levels = append(view.Levels, QueueLevelView{
			Priority: l.Priority, Waiting: l.Length, Bytes: l.Bytes, OldestMS: float64(l.OldestAge.Microseconds()) / 1000, Flows: l.Flows,
		})
	}
	slices.SortFunc(view.Levels, func(a, b QueueLevelView) int { return cmp.Compare(b.Priority, a.Priority) })
	return view
}

// Waited counts a request that the queue is done with: how long it waited, 0 if it went on at once or never got in, and
// which of the Wait words tells how that ended.
func (m *Metrics) Waited(priority int, outcome string, wait time.Duration) {
	m.waits.at(priority, outcome).observe(wait)
}

// waits keeps the series of waiting by priority and outcome. Priorities are numbers of the operator's choice: the first
// maxPriorities of them that are seen get series of their own, and keep them.
type waits struct {
	seconds    *prometheus.HistogramVec
	dispatches *prometheus.CounterVec

	mu     sync.RWMutex
	labels map[int]string // of the priorities that have series of their own
	known  map[ending]*waitSeries
}

// ending is what waits are labelled with.
type ending struct{ priority, outcome string }

// waitSeries are the metrics of one ending, resolved once.
type waitSeries struct {
	seconds        prometheus.Observer
	atOnce, waited prometheus.Counter // nil where nothing was dispatched
}

func (w *waits) init() {
	w.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "inference_extension_flow_control_request_queue_duration_seconds",
		Help: "Time that requests waited here for a pod with room, by priority and how that ended.",
		// Above the usual TTLs few bounds do; an hour is the longest that there is.
		Buckets: append(steps(0.001, 100), 300, 1000, 3600),
	}, []string{"priority", "outcome"})
	w.dispatches = counters("pilotfish_queue_dispatches_total",
		"Requests that the queue let go to a pod, by priority and whether they had to wait.", "priority", "waited")
	w.labels = map[int]string{0: "0"} // what requests have unless told otherwise is there from the start
	w.known = make(map[ending]*waitSeries)
}

// at gives the series of an ending. It allocates when they are new only.
func (w *waits) at(priority int, outcome string) *waitSeries {
	w.mu.RLock()
	label, ok := w.labels[priority]
	if !ok && len(w.labels) >= maxPriorities {
		label = otherPriorities
	}
	s := w.known[ending{label, outcome}]
	w.mu.RUnlock()
	if s != nil {
		return s
	}
	return w.admit(priority, outcome)
}

func (w *waits) admit(priority int, outcome string) *waitSeries {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := ending{w.label(priority), outcome}
	s := w.known[e]
	if s == nil {
		s = &waitSeries{seconds: w.seconds.WithLabelValues(e.priority, e.outcome)}
		if outcome == WaitDispatched {
			s.atOnce = w.dispatches.WithLabelValues(e.priority, "no")
			s.waited = w.dispatches.WithLabelValues(e.priority, "yes")
		}
		w.known[e] = s
	}
	return s
}

// label is the label of a priority, which takes a place if one is free. The lock must be held.
func (w *waits) label(priority int) string {
	label, ok := w.labels[priority]
	switch {
	case ok:
		return label
	case len(w.labels) >= maxPriorities:
		return otherPriorities
	}
	label = strconv.Itoa(priority)
	w.labels[priority] = label
	return label
}

func (s *waitSeries) observe(wait time.Duration) {
	s.seconds.Observe(max(wait, 0).Seconds()) // a clock that was set back is no wait
	switch {
	case s.atOnce == nil:
	case wait > 0:
		s.waited.Inc()
	default:
		s.atOnce.Inc()
	}
}

// byLabel sums levels as their priorities are labelled. A priority that was seen before and has nothing waiting is there
// with zeros, so that its lines don't break off on a graph.
func (w *waits) byLabel(levels []QueueLevel) map[string]QueueLevel {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range levels {
		w.label(l.Priority)
	}
	out := make(map[string]QueueLevel, len(w.labels)+1)
	for _, label := range w.labels {
		out[label] = QueueLevel{}
	}
	if len(w.labels) >= maxPriorities {
		out[otherPriorities] = QueueLevel{}
	}
	for _, l := range levels {
		label := w.label(l.Priority)
		sum := out[label]
		sum.Length += l.Length
		sum.Bytes += l.Bytes
		sum.OldestAge = max(sum.OldestAge, l.OldestAge)
		out[label] = sum
	}
	return out
}
