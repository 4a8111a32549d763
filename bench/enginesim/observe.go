package enginesim

import (
	"slices"
	"strings"
	"time"
)

// histogram counts observations in buckets with upper bounds.
type histogram struct {
	bounds []float64
	counts []uint64 // one more than bounds
	sum    float64
}

func newHistogram(bounds ...float64) *histogram {
	return &histogram{bounds: bounds, counts: make([]uint64, len(bounds)+1)}
}

func (h *histogram) add(v float64) {
	v = max(v, 0)
	i, _ := slices.BinarySearch(h.bounds, v)
	h.counts[i]++
	h.sum += v
}

func (h *histogram) addTime(d time.Duration) { h.add(d.Seconds()) }

// observations are the distributions of a metrics page, in engine time. The server's mutex guards them.
type observations struct {
	firstToken, interToken, perToken     *histogram // seconds
	endToEnd, queue, inference           *histogram // seconds
	prefill, decode                      *histogram // seconds
	promptTokens, outputTokens, computed *histogram // tokens of a request
	stepTokens, preemptions, choices     *histogram
	stopped, lengthened                  uint64 // finished requests by reason
	batched                              uint64 // engine's counter at the last step
	adapterLists                         []adapterList
	runningAdapters, waitingAdapters     []string // scratch
}

// adapterList is what ran and waited from a time on. vLLM shows every combination that it has ever had as a series of
// its own, the latest with the largest value.
type adapterList struct {
	running, waiting string
	at               time.Time
}

// adapterListsKept bounds what would grow for ever in vLLM.
const adapterListsKept = 16

func newObservations() observations {
	tokens := func() *histogram {
		return newHistogram(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)
	}
	latency := func() *histogram {
		return newHistogram(0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
	}
	token := func() *histogram {
		return newHistogram(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
	}
	return observations{
		firstToken: newHistogram(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
		interToken: token(), perToken: token(),
		endToEnd: latency(), queue: latency(), inference: latency(), prefill: latency(), decode: latency(),
		promptTokens: tokens(), outputTokens: tokens(), computed: tokens(),
		stepTokens:  newHistogram(1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384),
		preemptions: newHistogram(1, 2, 3, 4, 5, 10, 20),
		choices:     newHistogram(1, 2, 5, 10, 20),
	}
}

func (o *observations) step(e *Engine) {
	n := e.Counters().BatchedTokens
	o.stepTokens.add(float64(n - o.batched))
	o.batched = n
}

func (o *observations) token(r *Request) {
	c := r.Data.(*call)
	if r.Generated == 1 {
		o.firstToken.addTime(r.FirstToken - r.Arrived)
	} else {
		o.interToken.addTime(r.LastToken - c.lastAt)
	}
	c.lastAt = r.LastToken
}

func (o *observations) finished(c *call) {
	r := &c.request
	o.endToEnd.addTime(r.LastToken - r.Arrived)
	o.queue.addTime(r.Scheduled - r.Arrived)
	o.inference.addTime(r.LastToken - r.Scheduled)
	o.prefill.addTime(r.FirstToken - r.Scheduled)
	o.decode.addTime(r.LastToken - r.FirstToken)
	if r.OutputTokens > 1 {
		o.perToken.addTime((r.LastToken - r.FirstToken) / time.Duration(r.OutputTokens-1))
	}
	o.promptTokens.add(float64(r.PromptTokens))
	o.outputTokens.add(float64(r.OutputTokens))
	o.computed.add(float64(r.PromptTokens - r.Cached))
	o.preemptions.add(float64(r.Preemptions))
	o.choices.add(1)
	if c.finish == "length" {
		o.lengthened++
	} else {
		o.stopped++
	}
}

// noteAdapters records which adapters run and wait now.
func (o *observations) noteAdapters(e *Engine) {
	o.runningAdapters, o.waitingAdapters = e.Adapters(o.runningAdapters[:0], o.waitingAdapters[:0])
	now := adapterList{
		running: strings.Join(o.runningAdapters, ","),
		waiting: strings.Join(o.waitingAdapters, ","),
		at:      time.Now(),
	}
	o.adapterLists = slices.DeleteFunc(o.adapterLists, func(l adapterList) bool {
		return l.running == now.running && l.waiting == now.waiting
	})
	if len(o.adapterLists) == adapterListsKept {
		o.adapterLists = slices.Delete(o.adapterLists, 0, 1)
	}
	o.adapterLists = append(o.adapterLists, now)
}
