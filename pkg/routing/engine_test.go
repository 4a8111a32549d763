package routing

import (
	"context"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/discovery"
	"github.com/pilotfish-epp/pilotfish/pkg/pool"
)

// engine is a model server in the bubble's time: requests wait for its next step, and then for a place.
type engine struct {
	places  int
	step    time.Duration
	service time.Duration // how long a request runs, in the mean

	mu      sync.Mutex
	running int
	waiting []chan struct{}
	begun   int
	most    int // that waited at a step
}

func (e *engine) submit() chan struct{} {
	done := make(chan struct{})
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting = append(e.waiting, done)
	return done
}

func (e *engine) advance() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.most = max(e.most, len(e.waiting))
	n := min(len(e.waiting), e.places-e.running)
	for _, done := range e.waiting[:n] {
		e.running++
		e.begun++
		_, part := math.Modf(float64(e.begun) * math.Phi) // spread evenly, or all would end together
		time.AfterFunc(time.Duration(float64(e.service)*(0.5+part)), func() {
			e.mu.Lock()
			e.running--
			e.mu.Unlock()
			close(done)
		})
	}
	e.waiting = e.waiting[n:]
}

func (e *engine) page() (waiting, running int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.waiting), e.running
}

// every calls f again and again until stop is closed.
func every(d time.Duration, stop chan struct{}, f func()) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(d):
			f()
		}
	}
}

// traffic is so many requests a second of one model.
type traffic struct {
	model string
	rate  float64
}

// run puts the traffic on one engine through a queue, with the way to and from the engine outside of it, and gives for each
// model how many were refused and the longest wait of those that were not.
func (e *engine) run(t *testing.T, page, way, duration time.Duration, all ...traffic) (refused map[string]int, longest map[string]time.Duration) {
	b := newBench(t, 1, map[string]string{"QUEUEING": "enabled"})
	b.Router.now, b.Router.observer = time.Now, nil
	b.SetPriorities(discovery.NewPriorities(map[string]int{"critical": discovery.Critical}, nil))
	pod, stop := b.pool.Snapshot().Pods[0], make(chan struct{})
	go every(e.step, stop, e.advance)
	go every(page, stop, func() {
		inFlight, uncached := b.pool.InFlight(pod)
		waiting, running := e.page()
		b.pool.Report(time.Now(), pod, pool.Report{
			Taken: pool.At(time.Now()), Interval: page, InFlight: inFlight, Uncached: uncached, Waiting: waiting, Running: running, KVTokens: 40_000_000,
		})
	})

	refused, longest = map[string]int{}, map[string]time.Duration{}
	var mu sync.Mutex
	var requests sync.WaitGroup
	one := func(model string) {
		a, ticket, arrived := chat(t, model, "hello"), new(Ticket), time.Now()
		no := b.Route(context.Background(), a, ticket)
		mu.Lock()
		if no != nil {
			refused[model]++
		} else {
			longest[model] = max(longest[model], time.Since(arrived))
		}
		mu.Unlock()
		if no == nil {
			time.Sleep(way / 2)
			<-e.submit()
			time.Sleep(way / 2)
			ticket.Finish(Completed)
		}
	}
	var senders sync.WaitGroup
	for _, traffic := range all {
		senders.Go(func() {
			gap := time.Duration(float64(time.Second) / traffic.rate)
			for begun := time.Now(); time.Since(begun) < duration; time.Sleep(gap) {
				requests.Go(func() { one(traffic.model) })
			}
		})
	}
	senders.Wait()
	requests.Wait()
	close(stop)
	b.RefuseWaiting()
	time.Sleep(time.Minute) // timers of the queue end
	synctest.Wait()
	return refused, longest
}

// What a server can take it is sent soon, whatever is known of it at first, and what it can't take waits here.
func TestQueueBeforeAnEngine(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name      string
		engine    *engine
		page, way time.Duration
		traffic   []traffic
		refused   int           // of the last model, at most
		longest   time.Duration // of the first model
		waiting   int           // at the engine, at most
	}{
		{
			name: "from nothing to most of a large engine", engine: &engine{places: 256, step: 50 * ms, service: 5 * time.Second},
			page: 200 * ms, traffic: []traffic{{"m", 40}}, longest: time.Second, waiting: 20,
		},
		{
			name: "a low priority has an engine that others hardly use", engine: &engine{places: 256, step: 50 * ms, service: 5 * time.Second},
			page: 200 * ms, traffic: []traffic{{"m", 40}, {"critical", 1. / 30}}, longest: time.Second, waiting: 20,
		},
		{
			name: "requests that are on their way for longer than they run", engine: &engine{places: 1000, step: 5 * ms, service: 20 * ms},
			page: 200 * ms, way: 30 * ms, traffic: []traffic{{"m", 500}}, longest: 2 * time.Second, waiting: 30,
		},
		{
			name: "three times what a small engine can answer", engine: &engine{places: 16, step: 50 * ms, service: 2 * time.Second},
			page: 200 * ms, traffic: []traffic{{"critical", 3}, {"m", 21}}, longest: 600 * ms, waiting: 8, // the threshold, and what it takes to find out how many places there are
			refused: 21*40 - 9*(8*70-3*40)/10, // nine tenths of what the important leave of it are used
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				refused, longest := c.engine.run(t, c.page, c.way, 40*time.Second, c.traffic...)
				first, last := c.traffic[0].model, c.traffic[len(c.traffic)-1].model
				if first != last && refused[first] > 0 || refused[last] > c.refused {
					t.Errorf("refused %v, want at most %d of %s", refused, c.refused, last)
				}
				if longest[first] > c.longest {
					t.Errorf("%s waited for %v, want at most %v", first, longest[first], c.longest)
				}
				if c.engine.most > c.waiting {
					t.Errorf("%d waited at the engine, want at most %d", c.engine.most, c.waiting)
				}
			})
		})
	}
}
