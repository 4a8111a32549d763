package e2e

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/enginesim"
)

// slowEngines answer in real time: eight tokens in about 60 ms, so that a load always has requests under way.
func slowEngines(n int) []enginesim.Options {
	engines := fastEngines(n)
	for i := range engines {
		engines[i].Speed = 1
	}
	return engines
}

// A model server that dies under load costs no request whose answer had not begun, and serves again when it is back.
func TestPodDies(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, plan{profile: profile, engines: slowEngines(3)})
			l := startLoad(t, s.url(), 12, chats)
			l.await(t, 60)
			dead := s.engines[1]
			if err := dead.Kill(); err != nil {
				t.Fatal(err)
			}
			l.await(t, 150)
			if err := dead.Restart(context.Background(), s.Stack); err != nil {
				t.Fatal(err)
			}
			eventually(t, answerLimit, "the new engine to serve", func() error {
				if n := dead.stats(t).Finished; n < 5 {
					return fmt.Errorf("it has served %d requests", n)
				}
				return nil
			})
			all := l.stop()

			cut := 0
			var lost []outcome
			for _, o := range failures(all) {
				if o.began() {
					cut++
					if o.servedBy != dead.Name() {
						t.Errorf("an answer of an engine that lived was cut: %v", o.answer)
					}
					continue
				}
				lost = append(lost, o)
			}
			t.Logf("%d requests, %d answers cut after they had begun, %d lost; served by %v", len(all), cut, len(lost), servedBy(all))
			for _, o := range lost {
				t.Errorf("a request whose answer had not begun failed: %v", o.answer)
			}
			if cut > 12 {
				t.Errorf("%d answers were cut, more than can have been under way", cut)
			}
			s.wantIdle(t)
		})
	}
}

// A model server that reads requests and then resets the connection costs no request either.
func TestPodResetsAfterReading(t *testing.T) {
	t.Parallel()
	s := newSite(t, plan{engines: fastEngines(3)})
	s.engines[0].fault(t, enginesim.Faults{Refuse: "after"})
	l := startLoad(t, s.url(), 4, chats)
	l.await(t, 100)
	all := l.stop()
	wantNoFailure(t, all)
	if by := servedBy(all); by["engine-0"] != 0 {
		t.Errorf("served by %v, but engine-0 answers nothing", by)
	}
	s.wantIdle(t)
}

// A model server that freezes, without a word to anybody, soon gets no new requests. Those in its hands are answered
// when it thaws, and then it takes part again.
func TestPodFreezes(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, plan{profile: profile, engines: slowEngines(3)})
			l := startLoad(t, s.url(), 30, chats)
			l.await(t, 60)
			frozen := s.engines[2]
			if err := frozen.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			// 60 requests in a row that all find another engine: it is avoided.
			inARow, stuck := 0, 0
			eventually(t, 15*time.Second, "new requests to avoid the frozen engine", func() error {
				ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
				defer cancel()
				if a := do(ctx, s.client, s.url(), chat{prompt: fmt.Sprint("avoid ", stuck, inARow), maxTokens: 2}.call()); !a.ok() {
					stuck++
					inARow = 0
					return fmt.Errorf("%d requests were caught, the last after %v", stuck, time.Since(start))
				}
				if inARow++; inARow < 60 {
					return errors.New("not yet sure")
				}
				return nil
			})
			t.Logf("avoided %v after it froze; %d of the requests sent to find out were caught", time.Since(start).Round(time.Millisecond), stuck)
			if err := frozen.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			served := frozen.stats(t).Finished
			eventually(t, answerLimit, "the thawed engine to serve again", func() error {
				if n := frozen.stats(t).Finished; n < served+40 {
					return fmt.Errorf("it has served %d since", n-served)
				}
				return nil
			})
			all := l.stop()
			wantNoFailure(t, all)
			s.wantIdle(t)
		})
	}
}

// The picker learns who served when the gateway had to take a fallback: it counts the request there, and soon names
// the dead one last.
func TestFallbackIsReadBack(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			// A metrics page every minute: nothing but the answers can tell that an engine is dead.
			s := newSite(t, plan{profile: profile, engines: fastEngines(3), env: []string{"REFRESH_METRICS_INTERVAL=60s"}})
			dead := s.engines[0]
			if err := dead.Kill(); err != nil {
				t.Fatal(err)
			}
			for range 30 {
				s.do(chat{prompt: "who is there?"}.call()).wantWhole(t, false)
			}
			retried := 0
			for _, l := range s.accessEntries(t) {
				if l.Attempts > 1 {
					retried++
				}
			}
			if retried == 0 || retried > 10 {
				t.Errorf("%d of 30 requests met the dead engine first: expected some, until its failures were read back, and no more than 10", retried)
			}
			t.Logf("%d of 30 requests met the dead engine first", retried)
			s.wantIdle(t)
		})
	}
}
