package e2e

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/enginesim"
)

// The only picker is killed while requests wait in it. In the lean profile Envoy sends them on without it; in full duplex,
// where bodies have died with it, those that had one are told so. Nobody is left without an answer.
func TestOnlyPickerKilledWhileRequestsWait(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			one, two := newPuppet(t, "puppet-1"), newPuppet(t, "puppet-2")
			s := queueing(t, profile, "", nil, one, two)
			const waiting = 50
			requests := anyKind()
			sent := pending{site: s}
			for i := range waiting {
				sent.send(requests[i%len(requests)])
			}
			s.awaitQueued(t, waiting)
			killed := time.Now()
			if err := s.picker().Kill(); err != nil {
				t.Fatal(err)
			}
			statuses := map[int]int{}
			for i, a := range sent.all() {
				statuses[a.status]++
				body := requests[i%len(requests)].body
				switch {
				case profile == lean || body == nil:
					a.sighted(t).wantSame(t, body)
				case a.err != nil || a.status < 500:
					t.Errorf("expected an error of the gateway, got %v", a)
				}
			}
			t.Logf("answered with %v within %v", statuses, time.Since(killed).Round(time.Millisecond))
			if n, m := len(one.requests()), len(two.requests()); profile == lean && (n+m != waiting || n == 0 || m == 0) {
				t.Errorf("the model servers got %d and %d requests, expected %d together", n, m, waiting)
			}

			if err := s.picker().Restart(context.Background(), s.Stack); err != nil {
				t.Fatal(err)
			}
			s.says(t, one, idle)
			eventually(t, answerLimit, "the new picker to be asked", func() error {
				if a := s.do(chat{prompt: "hello"}.call()); !a.ok() {
					return fmt.Errorf("%v", a)
				}
				if n := picks(t, s.picker()); n == 0 {
					return fmt.Errorf("no picks")
				}
				return nil
			})
			s.wantEmptyQueue(t)
			s.wantIdle(t)
		})
	}
}

// A picker that is told to end while requests wait answers each when its grace is over, and then ends. Requests that pods
// have in their hands are answered by these.
func TestPickerEndsWhileRequestsWait(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			const grace = 2 * time.Second
			only := newPuppet(t, "puppet")
			s := queueing(t, profile, "", []string{fmt.Sprint("SHUTDOWN_GRACE=", grace)}, only)
			only.hold()
			s.says(t, only, idle)
			inHand := pending{site: s}
			for range 3 {
				inHand.send(chat{prompt: "under way"}.call())
			}
			eventually(t, answerLimit, "three to be under way", func() error {
				if n, err := inFlight(s.picker()); err != nil || n != 3 {
					return fmt.Errorf("%d are (%s)", n, fmt.Sprint(err))
				}
				return nil
			})
			s.says(t, only, busy)
			const waiting = 50
			requests := anyKind()
			sent := pending{site: s}
			for i := range waiting {
				sent.send(requests[i%len(requests)])
			}
			s.awaitQueued(t, waiting)
			told := time.Now()
			if err := s.picker().Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			for _, a := range sent.all() {
				if a.wantRefused(t, http.StatusServiceUnavailable, "shutting_down", "rejected-shutting-down") == 0 {
					t.Error("Retry-After: expected seconds, got none")
				}
			}
			answered := time.Since(told)
			if answered < grace-100*time.Millisecond || answered > grace+3*time.Second {
				t.Errorf("those who waited were answered after %v, expected the grace of %v", answered, grace)
			}
			select {
			case <-s.picker().Done():
			case <-time.After(10 * time.Second):
				t.Fatal("the picker did not end within 10 s of its last answer")
			}
			if err := s.picker().Err(); err != nil {
				t.Errorf("the picker ended with %v", err)
			}
			only.release()
			for _, a := range inHand.all() {
				if profile == lean && !a.ok() {
					t.Errorf("a request that a pod had when the picker ended: expected its answer, got %v", a)
				}
				if a.status == 0 {
					t.Errorf("a request that a pod had when the picker ended: expected some answer, got %v", a)
				}
			}
			t.Logf("answered %v after the picker was told to end, which ended after %v; a request under way then: %v",
				answered.Round(time.Millisecond), time.Since(told).Round(time.Millisecond), inHand.answers[0])
		})
	}
}

// All model servers die while requests wait, and come back at the same places: those that wait are served then. Only what
// the servers had in their hands is lost, and told so.
func TestAllPodsDieWhileRequestsWait(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			engines := fastEngines(2)
			for i := range engines {
				engines[i].MaxSeqs = 2
			}
			s := newSite(t, plan{profile: profile, engines: engines, env: []string{"QUEUEING=enabled"}})
			for _, e := range s.engines {
				e.fault(t, enginesim.Faults{Slow: 10_000})
			}
			s.awaitReports(t)
			// Two run and five wait at each.
			const all, places = 220, 2 * (2 + 5)
			sent := pending{site: s}
			for i := range all {
				sent.send(chat{prompt: fmt.Sprint("hello ", i), stream: i%2 == 0}.call())
			}
			held := 0
			eventually(t, answerLimit, "the model servers to be full and the others to wait", func() error {
				under, err := inFlight(s.picker())
				if err != nil {
					return err
				}
				q := s.queued(t)
				if held = under; q.Waiting+held != all || held > places {
					return fmt.Errorf("%d under way, %d wait", held, q.Waiting)
				}
				return nil
			})
			for _, e := range s.engines {
				if err := e.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, answerLimit, "the picker to know that they are dead", func() error {
				for _, pod := range s.pods(t) {
					if pod.Health != "set aside" || pod.InFlight != 0 {
						return fmt.Errorf("%+v", pod)
					}
				}
				return nil
			})
			waited := s.queued(t).Waiting
			for _, e := range s.engines {
				if err := e.Restart(context.Background(), s.Stack); err != nil {
					t.Fatal(err)
				}
			}
			lost := 0
			for i, a := range sent.all() {
				switch {
				case a.ok():
					a.wantWhole(t, i%2 == 0)
				case a.err == nil && a.status == http.StatusServiceUnavailable:
					lost++
				case a.began():
					lost++ // its answer was cut
				default:
					t.Errorf("expected an answer, got %v", a)
				}
			}
			t.Logf("%d under way when the model servers died, %d waited through it, %d were lost", held, waited, lost)
			// Until it is known that they are dead, places that those under way leave are taken, once.
			if lost > all-waited || lost > held+places {
				t.Errorf("%d requests were lost: %d had been under way and %d did not wait", lost, held, all-waited)
			}
			if n := s.total(t, func(e enginesim.Stats) uint64 { return e.Finished }); n != uint64(all-lost) {
				t.Errorf("the model servers have answered %d requests since, and %d answers came", n, all-lost)
			}
			for _, pod := range s.pods(t) {
				if pod.InFlight != 0 {
					t.Errorf("/debug/pool: %d requests under way at %s, expected none", pod.InFlight, pod.Address)
				}
			}
			s.wantEmptyQueue(t)
			s.wantIdle(t)
			s.wantNoBypass(t)
		})
	}
}

// Three times as many requests come as can be answered, for some seconds. Each gets one answer, the servers' own queues
// stay short, and the important ones, of which there are fewer than can be answered, are all served.
func TestThreeTimesTheCapacity(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			const depth, most = 3, 900
			engines := slowEngines(4)
			for i := range engines {
				engines[i].MaxSeqs = 4
			}
			s := newSite(t, plan{
				profile: profile, engines: engines,
				env: []string{"QUEUEING=enabled", "QUEUE_TTL=1s", fmt.Sprint("SD_QUEUE_DEPTH_THRESHOLD=", depth)},
				endpoints: func(content []byte) string {
					return writeFile(t, append(content, "objectives: [{name: urgent, priority: 1}, {name: batch, priority: -1}]\n"...))
				},
			})
			s.awaitReports(t)
			l := s.threefold(most, func(n int) call {
				r := chat{prompt: fmt.Sprint("request ", n), maxTokens: 20, ignoreEOS: true, stream: n%2 == 0}.call()
				r.header = map[string]string{"x-gateway-inference-objective": []string{"urgent", "", "batch", "", "batch"}[n%5]}
				return r
			})
			longest := 0
			for sampling := true; sampling; {
				select {
				case <-l.done:
					sampling = false
				default:
					for _, e := range s.engines {
						longest = max(longest, e.stats(t).Waiting)
					}
				}
			}
			took := map[string]int{}
			served, urgentLost := 0, 0
			for i, a := range l.answers {
				switch {
				case a.ok():
					served++
					a.wantWhole(t, i%2 == 0)
				default:
					took["refused"]++
					a.wantRefused(t, http.StatusServiceUnavailable, "queue_timeout", "rejected-ttl-expired")
					if i%5 == 0 {
						urgentLost++
					}
				}
			}
			t.Logf("%d requests within %v: %d served, %d refused; %d waited at an engine at most", most, l.took.Round(time.Millisecond), served, most-served, longest)
			// Two may be on their way, or have just ended, unnoticed while a page is read.
			if longest > depth+2 {
				t.Errorf("%d waited at an engine, expected %d at most, and 2 for what a page can't show", longest, depth)
			}
			if urgentLost > 0 {
				t.Errorf("%d urgent requests were not served", urgentLost)
			}
			if refused := most - served; refused < most/4 {
				t.Errorf("%d of %d were refused: that was no overload", refused, most)
			}
			if n := s.total(t, func(e enginesim.Stats) uint64 { return e.Requests }); n != uint64(served) {
				t.Errorf("the engines got %d requests, %d were served", n, served)
			}
			s.wantEmptyQueue(t)
			s.wantIdle(t)
			s.wantNoBypass(t)
		})
	}
}

// overload is a load that grows with what is served.
type overload struct {
	done    chan struct{} // closed when all answers have come
	answers []*answer
	took    time.Duration
}

// threefold sends requests, three for each that was served, so that three times as many come as the servers can take,
// however fast they and the machine are. It ends after so many requests.
func (s *site) threefold(most int, next func(n int) call) *overload {
	l := &overload{done: make(chan struct{}), answers: make([]*answer, most)}
	const first = 60 // fills the engines and some of the queue
	turn := make(chan struct{}, first+3*most)
	for range first {
		turn <- struct{}{}
	}
	start := time.Now()
	var under sync.WaitGroup
	go func() {
		for i := range most {
			<-turn
			under.Go(func() {
				l.answers[i] = s.do(next(i))
				if l.answers[i].ok() {
					for range 3 {
						turn <- struct{}{}
					}
				}
			})
		}
		under.Wait()
		l.took = time.Since(start)
		close(l.done)
	}()
	return l
}
