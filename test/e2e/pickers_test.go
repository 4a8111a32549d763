package e2e

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/enginesim"
	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

// loadedEngines answer in some 40 ms, also to a long prompt.
func loadedEngines(n int) []enginesim.Options {
	engines := fastEngines(n)
	for i := range engines {
		engines[i].Speed = 10
		engines[i].AnswerTokens = 60
	}
	return engines
}

// mixed makes requests of a load: short chats and long ones, streamed or not.
func mixed(client, n int) call {
	c := chat{prompt: fmt.Sprintf("client %d asks %d", client, n), stream: n%2 == 1, maxTokens: 60}
	if client%4 == 3 {
		c.prompt = text(c.prompt, 200<<10)
	}
	return c.call()
}

// A picker that is told to end, and one that starts in its place, cost no request.
func TestPickerRestarted(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, plan{profile: profile, engines: loadedEngines(3)})
			l := startLoad(t, s.url(), 8, mixed)
			l.await(t, 40)
			start := time.Now()
			if err := s.picker().Restart(context.Background(), s.Stack); err != nil {
				t.Fatal(err)
			}
			t.Logf("the new picker serves %v after the old one was told to end", time.Since(start).Round(time.Millisecond))
			s.wantPicks(t, s.picker(), 40)
			wantNoFailure(t, l.stop())
			s.wantIdle(t)
		})
	}
}

// wantPicks waits until a picker that has just started has made n picks.
func (s *site) wantPicks(t *testing.T, p *stack.Picker, n int) {
	t.Helper()
	eventually(t, answerLimit, "the new picker to pick", func() error {
		m, err := readMetrics(p)
		if err != nil {
			return err
		}
		if got := int(m.sum("pilotfish_picks_total")); got < n {
			return fmt.Errorf("%d picks", got)
		}
		return nil
	})
}

// In the lean profile not even the death of the only picker, with requests in its hands, costs a request.
func TestOnlyPickerKilled(t *testing.T) {
	t.Parallel()
	s := newSite(t, plan{engines: loadedEngines(3)})
	l := startLoad(t, s.url(), 16, mixed)
	l.await(t, 60)
	if err := s.picker().Kill(); err != nil {
		t.Fatal(err)
	}
	l.await(t, 100)
	if err := s.picker().Restart(context.Background(), s.Stack); err != nil {
		t.Fatal(err)
	}
	s.wantPicks(t, s.picker(), 40)
	wantNoFailure(t, l.stop())
	s.wantIdle(t)
}

// A picker that freezes is passed by too.
func TestOnlyPickerFreezes(t *testing.T) {
	t.Parallel()
	s := newSite(t, plan{engines: loadedEngines(3)})
	l := startLoad(t, s.url(), 4, chats)
	l.await(t, 30)
	if err := s.picker().Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	l.await(t, 40)
	if err := s.picker().Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	before := picks(t, s.picker())
	s.wantPicks(t, s.picker(), before+20)
	wantNoFailure(t, l.stop())
}

// Of two pickers in the full-duplex profile one is killed. What it costs is known: the requests in its hands, and for
// two seconds those whose bodies are too long for Envoy to keep.
func TestOneOfTwoPickersKilled(t *testing.T) {
	t.Parallel()
	const keeps, notices = 50 << 10, 2 * time.Second
	s := newSite(t, plan{profile: fullDuplex, pickers: 2, engines: loadedEngines(3)})
	l := startLoad(t, s.url(), 12, mixed)
	l.await(t, 80)
	for _, p := range s.pickers {
		if n := picks(t, p); n == 0 {
			t.Fatalf("%s has picked nothing: the load is not shared", p.Name())
		}
	}
	killed := time.Now()
	if err := s.pickers[0].Kill(); err != nil {
		t.Fatal(err)
	}
	dead := time.Now()
	eventually(t, answerLimit, "time to pass under load", func() error {
		if since := time.Since(dead); since < 2*notices {
			return fmt.Errorf("%v so far", since)
		}
		return nil
	})
	l.await(t, 40)
	all := l.stop()

	inHands, long := 0, 0
	for _, o := range failures(all) {
		switch {
		case o.started.Before(dead) && o.started.Add(o.took).After(killed):
			inHands++
		case o.bytes > keeps && o.started.Before(dead.Add(notices)):
			long++
		default:
			t.Errorf("a request of %d bytes failed that was sent %v after the picker's death: %v", o.bytes, o.started.Sub(dead), o.answer)
		}
	}
	t.Logf("%d requests: %d failed in the dead picker's hands, %d with bodies above 50 KB within 2 s, no other", len(all), inHands, long)
	if inHands > 12 {
		t.Errorf("%d requests failed in the dead picker's hands, more than there were", inHands)
	}
	s.pickers = s.pickers[1:]
	s.wantIdle(t)
}
