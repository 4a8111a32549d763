package pool

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

var t0 = time.Unix(1_700_000_000, 0)

func endpoint(name, address string) Endpoint {
	a := netip.MustParseAddrPort(address)
	return Endpoint{Name: name, Address: a, MetricsPort: a.Port()}
}

// least picks the pod with the fewest requests in flight, the first of equals.
type least struct{ tokens int }

func (c least) Choose(s *Snapshot) (Charge, bool) {
	if len(s.Pods) == 0 {
		return Charge{}, false
	}
	best := s.Pods[0]
	for _, pod := range s.Pods {
		if pod.Load.InFlight < best.Load.InFlight {
			best = pod
		}
	}
	return Charge{Pod: best, Tokens: c.tokens, Prefill: time.Duration(c.tokens) * time.Millisecond}, true
}

func twoPods(t *testing.T) *Pool {
	t.Helper()
	p := New()
	p.Set(t0, []Endpoint{endpoint("a", "127.0.0.1:1"), endpoint("b", "127.0.0.1:2")})
	return p
}

func (p *Pool) load(t *testing.T, name string) Load {
	t.Helper()
	s := p.Snapshot()
	for i, l := range p.Loads(s, nil) {
		if s.Pods[i].Name == name {
			return l
		}
	}
	t.Fatalf("no pod %q", name)
	return Load{}
}

func TestBurstSpreadsBetweenTwoReports(t *testing.T) {
	p := twoPods(t)
	leases := make([]Lease, 10)
	for i := range leases {
		if !p.Assign(t0, least{tokens: 10}, &leases[i]) {
			t.Fatal("no pod")
		}
	}
	for _, name := range []string{"a", "b"} {
		if l := p.load(t, name); l.InFlight != 5 || l.Tokens != 50 || l.PrefillQueue(At(t0)) != 50*time.Millisecond {
			t.Errorf("%s: %d in flight, %d tokens, %v queue; want 5, 50, 50ms", name, l.InFlight, l.Tokens, l.PrefillQueue(At(t0)))
		}
	}
	for i := range leases {
		p.Release(&leases[i])
		p.Release(&leases[i]) // a second release must not count
	}
	for _, name := range []string{"a", "b"} {
		if l := p.load(t, name); l.InFlight != 0 || l.Tokens != 0 {
			t.Errorf("%s: %d in flight, %d tokens after all were released", name, l.InFlight, l.Tokens)
		}
	}
}

func TestRequestsAreReportedPlusSentMinusEnded(t *testing.T) {
	p := twoPods(t)
	a := p.Snapshot().Pods[0]
	var before, after Lease
	p.Assign(t0, least{}, &before) // to a
	inFlight, uncached := p.InFlight(a)
	p.Report(t0, a, Report{Taken: At(t0), InFlight: inFlight, Uncached: uncached, Waiting: 2, Running: 5})
	if l := p.load(t, "a"); l.Requests(true) != 7 {
		t.Errorf("right after the report: %d requests, want the 7 reported", l.Requests(true))
	}
	p.Assign(t0, onlyA{}, &after)
	if l := p.load(t, "a"); l.Requests(true) != 8 {
		t.Errorf("with one sent since: %d requests, want 8", l.Requests(true))
	}
	p.Release(&before)
	p.Release(&after)
	l := p.load(t, "a")
	if l.Requests(true) != 6 {
		t.Errorf("with one more ended than sent: %d requests, want 6", l.Requests(true))
	}
	if l.Requests(false) != 0 {
		t.Errorf("with a stale report: %d requests, want the 0 counted", l.Requests(false))
	}
}

// What was sent just before a page was read and isn't on it is still to come. What isn't on the next ones either never
// will be: it has ended there, or is of a kind that pages don't count.
func TestRequestsOnTheirWayAreNotForgotten(t *testing.T) {
	p := twoPods(t)
	a := p.Snapshot().Pods[0]
	read := func(running, waiting int) {
		r := Report{Taken: At(t0), Running: running, Waiting: waiting}
		r.InFlight, r.Uncached = p.InFlight(a)
		p.Report(t0, a, r)
	}
	leases := make([]Lease, 6)
	send := func(n int) {
		for i := range leases[:n] {
			p.Assign(t0, onlyA{}, &leases[i])
		}
	}
	expect := func(when string, waiting int) {
		t.Helper()
		if l := p.load(t, "a"); l.Waiting() != waiting {
			t.Errorf("%s: %d wait, want %d", when, l.Waiting(), waiting)
		}
	}
	read(4, 1) // of which others send, too
	expect("nothing sent", 1)
	send(6)
	expect("six sent since", 7)
	for range 3 {
		read(4, 1)
		expect("one of the six may not have come yet", 2)
	}
	read(4, 1)
	expect("it did not come", 1)
	for i := range leases {
		p.Release(&leases[i])
	}
	read(4, 0)
	send(3)
	read(4, 3)
	expect("all have come", 3)
	p.Release(&leases[0])
	expect("one has ended", 2)
}

type onlyA struct{}

func (onlyA) Choose(s *Snapshot) (Charge, bool) { return Charge{Pod: s.Pods[0]}, true }

func TestFirstTokenCorrectsThePrefillQueue(t *testing.T) {
	p := New()
	p.Set(t0, []Endpoint{endpoint("a", "127.0.0.1:1")})
	var first, second, third Lease
	for _, l := range []*Lease{&first, &second, &third} {
		p.Assign(t0, least{tokens: 100}, l)
	}
	if l := p.load(t, "a"); l.PrefillQueue(At(t0)) != 300*time.Millisecond {
		t.Fatalf("queue %v, want 300ms", l.PrefillQueue(At(t0)))
	}
	p.Started(t0.Add(20*time.Millisecond), &second) // much earlier than estimated: the third alone is left
	now := t0.Add(20 * time.Millisecond)
	if l := p.load(t, "a"); l.PrefillQueue(At(now)) != 100*time.Millisecond {
		t.Errorf("queue %v after the second's first token, want 100ms", l.PrefillQueue(At(now)))
	}
	p.Started(now, &first) // says nothing new
	if l := p.load(t, "a"); l.PrefillQueue(At(now)) != 100*time.Millisecond {
		t.Errorf("queue %v, want 100ms still", l.PrefillQueue(At(now)))
	}
}

func TestPodThatComesBackIsNew(t *testing.T) {
	p := twoPods(t)
	var joined, left []string
	p.OnChange(func(j, l []*Pod) {
		for _, pod := range j {
			joined = append(joined, fmt.Sprint(pod.Name, pod.ID))
		}
		for _, pod := range l {
			left = append(left, fmt.Sprint(pod.Name, pod.ID))
		}
	})
	var lease Lease
	p.Assign(t0, least{}, &lease) // to a
	p.Set(t0, []Endpoint{endpoint("b", "127.0.0.1:2")})
	p.Set(t0, []Endpoint{endpoint("a", "127.0.0.1:1"), endpoint("b", "127.0.0.1:2")})
	if l := p.load(t, "a"); l.InFlight != 0 {
		t.Errorf("the new pod begins with %d in flight", l.InFlight)
	}
	p.Release(&lease) // the old one's: must not touch the new one
	if l := p.load(t, "a"); l.InFlight != 0 {
		t.Errorf("the new pod counts %d in flight after the old one's request ended", l.InFlight)
	}
	if got, want := fmt.Sprint(joined, left), "[a2] [a0]"; got != want {
		t.Errorf("joined and left: %s, want %s: an ID isn't reused at once", got, want)
	}
	p.Set(t0.Add(idRest), []Endpoint{endpoint("a", "127.0.0.1:1"), endpoint("b", "127.0.0.1:2"), endpoint("c", "127.0.0.1:3")})
	if c := p.Snapshot().At(netip.MustParseAddrPort("127.0.0.1:3")); c.ID != 0 {
		t.Errorf("c has ID %d, want the 0 that has rested", c.ID)
	}
}

func TestChangedLabelsKeepTheLoad(t *testing.T) {
	p := twoPods(t)
	var lease Lease
	p.Assign(t0, least{}, &lease)
	e := endpoint("a", "127.0.0.1:1")
	e.Labels = map[string]string{"zone": "a"}
	p.Set(t0, []Endpoint{e, endpoint("b", "127.0.0.1:2")})
	if l := p.load(t, "a"); l.InFlight != 1 {
		t.Errorf("%d in flight, want 1", l.InFlight)
	}
	if p.Snapshot().Pods[0].Labels["zone"] != "a" {
		t.Error("the new label is not there")
	}
}

func TestRestartIsSeenInTheStartTime(t *testing.T) {
	p := twoPods(t)
	a := p.Snapshot().Pods[0]
	var lease Lease
	p.Assign(t0, onlyA{}, &lease)
	p.Report(t0, a, Report{Taken: At(t0), Started: 100})
	p.Report(t0, a, Report{Taken: At(t0), Started: 100})
	if p.Snapshot().Pods[0].ID != a.ID {
		t.Fatal("an equal start time made a new pod")
	}
	p.Report(t0, a, Report{Taken: At(t0), Started: 200, InFlight: 1, Running: 3})
	fresh := p.Snapshot().Pods[0]
	if fresh.ID == a.ID {
		t.Fatal("a later start time didn't make a new pod")
	}
	if l := p.load(t, "a"); l.InFlight != 0 || l.Requests(true) != 3 {
		t.Errorf("fresh pod: %d in flight and %d requests, want 0 and the 3 reported", l.InFlight, l.Requests(true))
	}
}

func TestAnswersThatHaveBegunAreCountedWhereTheyAre(t *testing.T) {
	p := twoPods(t)
	var lease, other Lease
	p.Assign(t0, onlyA{}, &lease)
	p.Assign(t0, onlyA{}, &other)
	p.Begun(&lease)
	p.Begun(&lease)
	if l := p.load(t, "a"); l.InFlight != 2 || l.Unanswered() != 1 {
		t.Errorf("%d in flight, %d unanswered; want 2 and 1", l.InFlight, l.Unanswered())
	}
	p.Move(t0, &lease, p.Snapshot().Pods[1])
	if a, b := p.load(t, "a"), p.load(t, "b"); a.Unanswered() != 1 || b.Unanswered() != 1 {
		t.Errorf("after a move: unanswered a %d, b %d; want 1 and 1", a.Unanswered(), b.Unanswered())
	}
	p.Begun(&lease)
	p.Release(&lease)
	p.Release(&other)
	for _, name := range []string{"a", "b"} {
		if l := p.load(t, name); l.InFlight != 0 || l.Begun != 0 {
			t.Errorf("%s keeps %d in flight, %d begun", name, l.InFlight, l.Begun)
		}
	}
}

func TestFallbackMovesTheCount(t *testing.T) {
	p := twoPods(t)
	var lease Lease
	p.Assign(t0, onlyA{}, &lease)
	p.Move(t0, &lease, p.Snapshot().Pods[1])
	if a, b := p.load(t, "a"), p.load(t, "b"); a.InFlight != 0 || b.InFlight != 1 {
		t.Errorf("in flight: a %d, b %d; want 0 and 1", a.InFlight, b.InFlight)
	}
	p.Release(&lease)
	if b := p.load(t, "b"); b.InFlight != 0 {
		t.Errorf("b keeps %d in flight", b.InFlight)
	}
}

func TestRefusedPageTellsOnlyOfItsOwnPort(t *testing.T) {
	refused := fmt.Errorf("dial: %w", syscall.ECONNREFUSED)
	for _, c := range []struct {
		name    string
		metrics uint16
		err     error
		want    bool
	}{
		{"same port", 1, refused, true},
		{"other port", 9, refused, false},
		{"time-out", 1, errors.New("time-out"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := New()
			e := endpoint("a", "127.0.0.1:1")
			e.MetricsPort = c.metrics
			p.Set(t0, []Endpoint{e})
			p.ReportFailed(p.Snapshot().Pods[0], t0, c.err)
			if got := p.load(t, "a").Refused; got != c.want {
				t.Errorf("Refused = %v, want %v", got, c.want)
			}
		})
	}
}

func TestFreshness(t *testing.T) {
	l := Load{HasReport: true, Report: Report{Taken: At(t0), Interval: 200 * time.Millisecond}}
	for _, c := range []struct {
		age, limit time.Duration
		want       bool
	}{
		{500 * time.Millisecond, 200 * time.Millisecond, true}, // within three intervals
		{700 * time.Millisecond, 200 * time.Millisecond, false},
		{700 * time.Millisecond, time.Second, true},
	} {
		if got := l.Fresh(At(t0.Add(c.age)), c.limit); got != c.want {
			t.Errorf("age %v, limit %v: fresh %v, want %v", c.age, c.limit, got, c.want)
		}
	}
}

func TestQueueIsNeverLongerThanWhatIsInFlight(t *testing.T) {
	p := New()
	p.Set(t0, []Endpoint{endpoint("a", "127.0.0.1:1")})
	for range 1000 { // each ends at once, faster than estimated, and nobody says so
		var l Lease
		p.Assign(t0, least{tokens: 100}, &l)
		p.Release(&l)
	}
	if l := p.load(t, "a"); l.PrefillQueue(At(t0)) != 0 {
		t.Errorf("queue %v with nothing in flight", l.PrefillQueue(At(t0)))
	}
	var l Lease
	p.Assign(t0, least{tokens: 100}, &l)
	if l := p.load(t, "a"); l.PrefillQueue(At(t0)) != 100*time.Millisecond {
		t.Errorf("queue %v with one in flight, want its 100ms", l.PrefillQueue(At(t0)))
	}
}
