package scheduling

import (
	"net/netip"
	"testing"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/pool"
)

func TestWhoHasRoom(t *testing.T) {
	usual := Room{Depth: 5, Burst: 5, KV: 0.8}
	sent := func(n int) func(*pool.Load) { return func(l *pool.Load) { l.InFlight += n } }
	low := Room{Depth: 1, Burst: 5, KV: 0.8, Patient: true, Low: true}
	counted := func(then, now int) func(*pool.Load) {
		return func(l *pool.Load) { l.Report.Counted, l.Report.InFlight, l.InFlight = then, then, now }
	}
	unread := func(inFlight int) pool.Load { return pool.Load{PageFailures: 1, InFlight: inFlight} }
	patient := Room{Depth: 5, Burst: 5, KV: 0.8, Patient: true}
	fullOf := func(places int, ago time.Duration) func(*pool.Load) {
		return func(l *pool.Load) { l.Places, l.FullAt, l.FullFor = places, pool.At(now.Add(-ago)), 5*time.Second }
	}
	stale := func(l *pool.Load) { l.Report.Taken = pool.At(now.Add(-time.Minute)) }
	for _, c := range []struct {
		name string
		room Room
		pods []*pool.Pod
		want string // the pod picked, or "none"
	}{
		{"an idle pod", usual, fleet(reported(0, 0, 0)), "a"},
		{"fewer wait than the threshold", usual, fleet(reported(4, 8, .5)), "a"},
		{"as many wait as the threshold", usual, fleet(reported(5, 8, .5)), "none"},
		{"a pod that was not full of late takes some more a report", usual, fleet(with(reported(0, 8, .5), counted(8, 12))), "a"},
		{"but no more than the burst", usual, fleet(with(reported(0, 8, .5), counted(8, 13))), "none"},
		{"or a quarter, where that is more", usual, fleet(with(reported(0, 80, .5), counted(80, 99))), "a"},
		{"but no more than that", usual, fleet(with(reported(0, 80, .5), counted(80, 100))), "none"},
		{"an eighth, when it is known how it is when it is full", usual, fleet(with(reported(0, 80, .5), counted(80, 90), fullOf(80, time.Minute))), "none"},
		{"low ones one by one", low, fleet(with(reported(0, 8, .5), counted(8, 8), fullOf(8, time.Minute))), "a"},
		{"and no more a report", low, fleet(with(reported(0, 8, .5), counted(8, 9), fullOf(8, time.Minute))), "none"},
		{"of a full pod what was sent since counts", usual, fleet(with(reported(3, 8, .5), fullOf(8, time.Second), sent(2))), "none"},
		{"what ended since makes room", usual, fleet(with(reported(5, 8, .5), fullOf(8, time.Second), sent(-1))), "a"},
		{"places known to be free are no queue", usual, fleet(with(reported(0, 16, .1), fullOf(20, time.Second), sent(4))), "a"},
		{"but are taken in bursts, a report each", usual, fleet(with(reported(0, 2, .1), fullOf(20, time.Second), sent(5))), "none"},
		{"larger ones where there are many", usual, fleet(with(reported(0, 2, .1), fullOf(200, time.Second), sent(49))), "a"},
		{"one less than the threshold, since one may have ended before", usual, fleet(with(reported(0, 8, .1), fullOf(8, time.Second), sent(4))), "none"},
		{"a full KV cache", usual, fleet(reported(0, 2, .8)), "none"},
		{"less than the threshold of it", usual, fleet(reported(0, 2, .79)), "a"},
		{"filled by what was sent since", usual, fleet(with(reported(0, 2, .7), func(l *pool.Load) { l.Uncached = 41_000 })), "none"},
		{"emptied by what ended since", usual, fleet(with(reported(0, 4, .9), func(l *pool.Load) { l.Report.InFlight = 4; l.InFlight = 2 })), "a"},
		{"a lower threshold: only where none waits", low, fleet(reported(1, 8, .5), reported(0, 8, .5)), "b"},
		{"the patient go to a pod that was full of late only into a free place", patient, fleet(with(reported(2, 8, .5), fullOf(8, time.Second))), "none"},
		{"when it has one", patient, fleet(with(reported(0, 7, .5), fullOf(8, time.Second))), "a"},
		{"that none has taken since", patient, fleet(with(reported(0, 7, .5), fullOf(8, time.Second), sent(1))), "none"},
		{"low ones leave a place of sixteen", low, fleet(with(reported(0, 15, .5), fullOf(16, time.Second))), "none"},
		{"and take what is left", low, fleet(with(reported(0, 14, .5), fullOf(16, time.Second))), "a"},
		{"others wait there", usual, fleet(with(reported(2, 8, .5), fullOf(8, time.Second))), "a"},
		{"a pod that was full long ago may take more by now", patient, fleet(with(reported(0, 8, .5), fullOf(8, 6*time.Second))), "a"},
		{"a pod that doesn't answer", usual, fleet(pool.Load{Refused: true}), "none"},
		{"a pod on trial", usual, fleet(pool.Load{PageFailures: pageTries}), "a"},
		{"one trial at a time", usual, fleet(pool.Load{PageFailures: pageTries, InFlight: 1}), "none"},
		{"no page can be read: all have room", usual, fleet(unread(50), unread(60)), "a"},
		{"a pod that was never looked at", usual, fleet(pool.Load{}), "none"},
		{"of a stale report only what ran is used", usual, fleet(with(reported(9, 9, .9), stale, func(l *pool.Load) { l.Places, l.InFlight = 9, 13 })), "a"},
		{"and what was sent", usual, fleet(with(reported(0, 0, 0), stale, func(l *pool.Load) { l.Places, l.InFlight = 9, 14 })), "none"},
		{"a pod whose page can't be read takes no more than the fullest one has", usual, fleet(reported(9, 9, .5), unread(18)), "b"},
		{"and not all that finds no room", usual, fleet(reported(9, 9, .5), unread(19)), "none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := "none"
			r := Request{Tokens: 100, Room: &c.room}
			var p Picker
			if pick, ok := p.Choose(now, c.pods, &r, strategy(false), 0); ok {
				got = names(pick)
			}
			if got != c.want {
				t.Errorf("picked %q, want %q", got, c.want)
			}
		})
	}
}

func TestFallbacksNeedNoRoom(t *testing.T) {
	pods := fleet(reported(9, 9, .5), reported(0, 9, .5), pool.Load{Refused: true})
	r := Request{Room: &Room{Depth: 5, Burst: 5, KV: 0.8}}
	var p Picker
	if pick, ok := p.Choose(now, pods, &r, strategy(false), 2); !ok || names(pick) != "b a c" {
		t.Errorf("picked %q, want b, which has room, and then the others by trust", names(pick))
	}
}

// When every pod is set aside, one whose page reads gets a request at a time.
func TestHopefulPods(t *testing.T) {
	aside := with(reported(0, 0, 0), func(l *pool.Load) { l.RequestFailures, l.LastFailure = requestTries, pool.At(now.Add(-time.Second)) })
	busy := with(aside, func(l *pool.Load) { l.InFlight = 1 })
	r := Request{Room: &Room{Depth: 5, Burst: 5, KV: 0.8}}
	for _, c := range []struct {
		name string
		pods []*pool.Pod
		want string
	}{
		{"one", fleet(pool.Load{Refused: true}, aside), "b: last-hope"},
		{"not a second time", fleet(pool.Load{Refused: true}, busy), "none"},
		{"not while another is well", fleet(reported(9, 9, .5), aside), "none"},
	} {
		got := "none"
		var p Picker
		if pick, ok := p.Choose(now, c.pods, &r, strategy(false), 0); ok {
			got = names(pick) + ": " + pick.Reason.String()
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestSaturation(t *testing.T) {
	room := Room{Depth: 5, KV: 0.8}
	for _, c := range []struct {
		name string
		pods []*pool.Pod
		want bool
	}{
		{"idle", fleet(reported(0, 0, 0)), false},
		{"as many wait as the threshold", fleet(reported(5, 9, .5)), true},
		{"more were sent to where some wait", fleet(with(reported(3, 9, .5), func(l *pool.Load) { l.InFlight = 2 })), true},
		{"a burst to where none waits is no proof", fleet(with(reported(0, 0, .5), func(l *pool.Load) { l.InFlight = 50 })), false},
		{"a full cache", fleet(reported(0, 9, .9)), true},
		{"one of two", fleet(reported(9, 9, .5), reported(0, 9, .5)), false},
		{"the other doesn't answer", fleet(reported(9, 9, .5), pool.Load{Refused: true}), true},
		{"the other was never looked at", fleet(reported(9, 9, .5), pool.Load{}), false},
		{"nobody answers", fleet(pool.Load{Refused: true}), false},
	} {
		if got := Saturated(now, c.pods, &Request{}, strategy(false), &room); got != c.want {
			t.Errorf("%s: saturated %v, want %v", c.name, got, c.want)
		}
	}
}

func TestSaturationHeedsTheSubset(t *testing.T) {
	pods := fleet(reported(9, 9, .5), reported(0, 0, 0))
	room := Room{Depth: 5, Burst: 5, KV: 0.8}
	r := Request{HasSubset: true, Subset: []netip.AddrPort{pods[0].Address}}
	if !Saturated(now, pods, &r, strategy(false), &room) {
		t.Error("the only pod allowed is saturated, and the request isn't told so")
	}
	r.Subset = []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:1")}
	if Saturated(now, pods, &r, strategy(false), &room) || Alive(now, pods, &r) {
		t.Error("a pod that isn't there is neither saturated nor alive")
	}
}
