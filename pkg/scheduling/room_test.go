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
	unread := func(inFlight int) pool.Load { return pool.Load{PageFailures: 1, InFlight: inFlight} }
	patient := Room{Depth: 5, Burst: 5, KV: 0.8, Patient: true}
	fullOf := func(places int, ago time.Duration) func(*pool.Load) {
		return func(l *pool.Load) { l.Places, l.FullAt = places, pool.At(now.Add(-ago)) }
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
		{"what was sent since counts", usual, fleet(with(reported(3, 8, .5), sent(2))), "none"},
		{"what ended since makes room", usual, fleet(with(reported(5, 8, .5), sent(-1))), "a"},
		{"places known to be free are no queue", usual, fleet(with(reported(0, 2, .1), func(l *pool.Load) { l.Places = 20; l.InFlight = 4 })), "a"},
		{"but are taken in bursts, a report each", usual, fleet(with(reported(0, 2, .1), func(l *pool.Load) { l.Places = 20; l.InFlight = 5 })), "none"},
		{"larger ones where there are many", usual, fleet(with(reported(0, 2, .1), func(l *pool.Load) { l.Places = 200; l.InFlight = 49 })), "a"},
		{"a pod of which no more is known is tried", usual, fleet(with(reported(0, 2, .1), sent(3))), "a"},
		{"but no further than the threshold, less one that may have ended before", usual, fleet(with(reported(0, 2, .1), sent(4))), "none"},
		{"a full KV cache", usual, fleet(reported(0, 2, .8)), "none"},
		{"less than the threshold of it", usual, fleet(reported(0, 2, .79)), "a"},
		{"filled by what was sent since", usual, fleet(with(reported(0, 2, .7), func(l *pool.Load) { l.Uncached = 41_000 })), "none"},
		{"emptied by what ended since", usual, fleet(with(reported(0, 4, .9), func(l *pool.Load) { l.Report.InFlight = 4; l.InFlight = 2 })), "a"},
		{"a lower threshold: only where none waits", Room{Depth: 1, Burst: 5, KV: .8}, fleet(reported(1, 8, .5), reported(0, 8, .5)), "b"},
		{"and only one", Room{Depth: 1, Burst: 5, KV: .8}, fleet(with(reported(0, 8, .5), sent(1))), "none"},
		{"the patient go to a pod that was full of late only into a free place", patient, fleet(with(reported(2, 8, .5), fullOf(8, time.Second))), "none"},
		{"when it has one", patient, fleet(with(reported(0, 7, .5), fullOf(8, time.Second))), "a"},
		{"that none has taken since", patient, fleet(with(reported(0, 7, .5), fullOf(8, time.Second), sent(1))), "none"},
		{"low ones leave a place of sixteen", Room{Depth: 1, Burst: 5, KV: .8, Patient: true, Low: true}, fleet(with(reported(0, 15, .5), fullOf(16, time.Second))), "none"},
		{"and take what is left", Room{Depth: 1, Burst: 5, KV: .8, Patient: true, Low: true}, fleet(with(reported(0, 14, .5), fullOf(16, time.Second))), "a"},
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
			if saturated := Saturated(now, c.pods, &r, strategy(false), &c.room); saturated != (c.want == "none" && Alive(now, c.pods, &r)) {
				t.Errorf("saturated: %v", saturated)
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
