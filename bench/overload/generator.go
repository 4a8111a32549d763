package overload

import (
	"context"
	"sync"
	"time"
)

// play sends each request when its time has come, whatever became of those before, and tells each answer to seen, which
// must be safe for concurrent use. It returns when all have ended; the end of ctx gives up what is under way, and what
// was not sent by then counts as unanswered.
func play(ctx context.Context, c *client, requests []Request, seen func(Answer)) {
	var under sync.WaitGroup
	sent := dispatch(ctx, time.Now(), requests, func(r *Request, late time.Duration) {
		under.Go(func() {
			a := c.ask(ctx, r)
			a.At, a.Late = r.At, late
			seen(a)
		})
	})
	for i := range requests[sent:] {
		seen(Answer{Priority: requests[sent+i].Priority, At: requests[sent+i].At, Outcome: Unanswered, Fault: "was not sent before the measurement gave up"})
	}
	under.Wait()
}

// dispatch calls send for each request at its time after start, with how much later it is. It returns how many it sent
// before ctx ended.
func dispatch(ctx context.Context, start time.Time, requests []Request, send func(r *Request, late time.Duration)) (sent int) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := range requests {
		r := &requests[i]
		timer.Reset(r.At - time.Since(start))
		select {
		case <-ctx.Done():
			return i
		case <-timer.C:
		}
		send(r, time.Since(start)-r.At)
	}
	return len(requests)
}

// saturate keeps n requests under way, each followed by the next as soon as its answer has ended, until ctx ends.
func saturate(ctx context.Context, c *client, n int, requests *draws, seen func(Answer)) {
	var mu sync.Mutex
	next := func() Request {
		mu.Lock()
		defer mu.Unlock()
		return requests.next()
	}
	var lanes sync.WaitGroup
	for range n {
		lanes.Go(func() {
			for ctx.Err() == nil {
				r := next()
				r.Priority = Standard // Sheddable ones would be turned away, since all is full
				if a := c.ask(ctx, &r); ctx.Err() == nil {
					seen(a)
				}
			}
		})
	}
	lanes.Wait()
}
