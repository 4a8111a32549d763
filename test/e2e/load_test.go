package e2e

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load is a number of clients that each send one request after another until they are stopped.
type load struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	ended  atomic.Int64

	mu       sync.Mutex
	outcomes []outcome
}

// outcome is one request of a load.
type outcome struct {
	*answer
	started time.Time
	bytes   int // of the request's body
}

// startLoad sends requests with so many clients at once; next makes the n-th of a client. Each client gets at least
// one answer. It ends by stop, or with the test.
func startLoad(t *testing.T, base string, clients int, next func(client, n int) call) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	c := newClient()
	for client := range clients {
		l.done.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				r := next(client, n)
				started := time.Now()
				// Not under ctx: what is under way when the load stops is answered too.
				a := do(context.Background(), c, base, r)
				l.mu.Lock()
				l.outcomes = append(l.outcomes, outcome{answer: a, started: started, bytes: len(r.body)})
				l.mu.Unlock()
				l.ended.Add(1)
			}
		})
	}
	t.Cleanup(func() { l.stop() })
	return l
}

// stop ends the load and gives all its requests. A second call gives them again.
func (l *load) stop() []outcome {
	l.cancel()
	l.done.Wait()
	return l.outcomes
}

// await waits until n more requests have ended, as a measure of time that is right on a slow machine too.
func (l *load) await(t *testing.T, n int) {
	t.Helper()
	from := l.ended.Load()
	eventually(t, answerLimit, fmt.Sprintf("%d more answers", n), func() error {
		if got := l.ended.Load() - from; got < int64(n) {
			return fmt.Errorf("%d so far", got)
		}
		return nil
	})
}

// failures gives the requests that were not answered as they should.
func failures(all []outcome) []outcome {
	var failed []outcome
	for _, o := range all {
		if !o.ok() {
			failed = append(failed, o)
		}
	}
	return failed
}

// wantNoFailure checks that every request was answered with 200 and to its end.
func wantNoFailure(t *testing.T, all []outcome) {
	t.Helper()
	failed := failures(all)
	t.Logf("%d requests, %d failed", len(all), len(failed))
	if len(all) == 0 {
		t.Fatal("the load sent nothing")
	}
	for i, o := range failed {
		if i == 5 {
			t.Errorf("… and %d more", len(failed)-i)
			break
		}
		t.Errorf("started %s: %v", o.started.Format("15:04:05.000"), o.answer)
	}
}

// servedBy counts the answers of each engine.
func servedBy(all []outcome) map[string]int {
	by := map[string]int{}
	for _, o := range all {
		by[o.servedBy]++
	}
	return by
}

// chats makes requests of a load: short chats, every one with another prompt, every second one streamed.
func chats(client, n int) call {
	return chat{prompt: fmt.Sprintf("client %d asks %d", client, n), stream: n%2 == 1, maxTokens: 8}.call()
}

// burst sends all requests at once and gives their answers in order.
func burst(c *http.Client, base string, requests []call) []outcome {
	all := make([]outcome, len(requests))
	var done sync.WaitGroup
	for i, r := range requests {
		done.Go(func() {
			started := time.Now()
			all[i] = outcome{answer: do(context.Background(), c, base, r), started: started, bytes: len(r.body)}
		})
	}
	done.Wait()
	return all
}
