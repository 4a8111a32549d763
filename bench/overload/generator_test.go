package overload

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestRequestsAreSentWhenTheirTimeHasCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requests := []Request{{At: 0}, {At: 10 * time.Millisecond}, {At: 10 * time.Millisecond}, {At: time.Second}}
		start := time.Now()
		var at, late []time.Duration
		sent := dispatch(t.Context(), start, requests, func(_ *Request, l time.Duration) {
			at, late = append(at, time.Since(start)), append(late, l)
			if len(at) == 2 {
				time.Sleep(5 * time.Millisecond) // whoever sends was held up
			}
		})
		if want := []time.Duration{0, 10 * time.Millisecond, 15 * time.Millisecond, time.Second}; sent != 4 || !slices.Equal(at, want) {
			t.Errorf("%d were sent at %v, want %v", sent, at, want)
		}
		if want := []time.Duration{0, 0, 5 * time.Millisecond, 0}; !slices.Equal(late, want) {
			t.Errorf("late by %v, want %v", late, want)
		}
	})
}

func TestNothingIsSentAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		requests := []Request{{At: time.Second}, {At: 3 * time.Second}, {At: 4 * time.Second}}
		n := 0
		if sent := dispatch(ctx, time.Now(), requests, func(*Request, time.Duration) { n++ }); sent != 1 || n != 1 {
			t.Errorf("%d were sent, %d told; want 1", n, sent)
		}
	})
}

// Every request is counted, also when the measurement ends before it was sent: none gets lost on the way to the table.
func TestWhatWasNotSentCountsAsUnanswered(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var tally Tally
	play(ctx, &client{gateway: "127.0.0.1:1"}, []Request{{At: time.Hour, Priority: Critical}, {At: 2 * time.Hour}}, tally.add)
	if n := tally.sum(); n.offered != 2 || n.ended[Unanswered] != 2 || tally.of(Critical).offered != 1 {
		t.Errorf("%+v", n)
	}
}

func TestSaturationKeepsSoManyUnderWay(t *testing.T) {
	g := answering(t, whole("200 OK", "", events(1, "data: [DONE]\n\n")))
	c := &client{gateway: g.addr}
	defer c.close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	shape := DefaultShape()
	shape.Answer = Lengths{Median: 1, Min: 1, Max: 1}
	var tally Tally
	saturate(ctx, c, 3, newDraws(shape, 1), func(a Answer) {
		tally.add(a)
		tally.mu.Lock()
		defer tally.mu.Unlock()
		if tally.byPlace[Standard.place()].offered == 50 {
			cancel()
		}
	})
	n := tally.sum()
	if n.ended[Served] < 50 || n.ended[Served] != n.offered || tally.of(Standard).offered != n.offered {
		t.Errorf("%+v, %v", n, tally.faults)
	}
	if used := g.connections.Load(); used > 3 {
		t.Errorf("%d connections for 3 at a time", used)
	}
}
