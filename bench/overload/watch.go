package overload

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/enginesim"
)

const (
	lookEvery = 50 * time.Millisecond // at the engines
	heapEvery = 5 * time.Second       // at the picker's heap, which has it collect garbage
)

// heapSample is the picker's memory at a moment.
type heapSample struct {
	live    int64 // bytes in use after a collection
	waiting int64 // requests in the picker's hands: sent, not answered, and at no engine; the fewest around the sample
}

// observations are what was seen of engines and picker while a load ran.
type observations struct {
	looks       int   // at all engines
	above       int   // looks at which an engine had more waiting than the threshold
	mostWaiting int   // at one engine, at a look
	sumRunning  int64 // over engines and looks
	mostHeld    int64 // requests in the picker's hands
	heap        []heapSample
	heapErr     error // of the last sample that failed
}

// observe looks at engines and picker until ctx ends.
func observe(ctx context.Context, es engines, c *client, threshold int, heapPage func(context.Context) ([]byte, error)) observations {
	var o observations
	look, heap := time.NewTicker(lookEvery), time.NewTicker(heapEvery)
	defer look.Stop()
	defer heap.Stop()
	samples := make(chan heapResult, 1)
	before := int64(0)
	sampling := false
	for {
		select {
		case <-ctx.Done():
			if sampling {
				<-samples // the page's reader ends with ctx
			}
			return o
		case <-look.C:
			o.look(es.stats(), c.open.Load(), threshold)
		case <-heap.C:
			if sampling {
				continue
			}
			sampling, before = true, held(es.stats(), c.open.Load())
			go func() { samples <- liveHeap(ctx, heapPage) }()
		case r := <-samples:
			sampling = false
			if r.err != nil {
				o.heapErr = r.err
				continue
			}
			o.heap = append(o.heap, heapSample{r.live, min(before, held(es.stats(), c.open.Load()))})
		}
	}
}

func (o *observations) look(stats []enginesim.Stats, open int64, threshold int) {
	o.looks++
	above := false
	for i := range stats {
		o.mostWaiting = max(o.mostWaiting, stats[i].Waiting)
		o.sumRunning += int64(stats[i].Running)
		above = above || stats[i].Waiting > threshold
	}
	if above {
		o.above++
	}
	o.mostHeld = max(o.mostHeld, held(stats, open))
}

// held is how many of the open requests no engine has.
func held(stats []enginesim.Stats, open int64) int64 {
	for i := range stats {
		open -= int64(stats[i].Running + stats[i].Waiting)
	}
	return max(0, open)
}

type heapResult struct {
	live int64
	err  error
}

// liveHeap has the picker collect garbage and tells what is left.
func liveHeap(ctx context.Context, page func(context.Context) ([]byte, error)) heapResult {
	text, err := page(ctx)
	if err != nil {
		return heapResult{err: err}
	}
	live, err := heapAlloc(text)
	return heapResult{live, err}
}

// heapPath is the page of net/http/pprof that collects garbage first and ends with the fields of runtime.MemStats.
const heapPath = "/debug/pprof/heap?gc=1&debug=1"

func heapAlloc(page []byte) (int64, error) {
	for line := range bytes.Lines(page) {
		if value, ok := bytes.CutPrefix(line, []byte("# HeapAlloc = ")); ok {
			return strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
		}
	}
	return 0, fmt.Errorf("the picker's %s has no line with HeapAlloc", heapPath)
}

// beyond is the most, in bytes, that the live heap was above the queue's capacity and what each waiting request may take.
func (o *observations) beyond(capacity, each int64) int64 {
	most := int64(0)
	for i, s := range o.heap {
		if b := s.live - capacity - each*s.waiting; i == 0 || b > most {
			most = b
		}
	}
	return most
}
