package queue

import (
	"math"
	"time"
)

// drainWindow is how far back the drain rate looks: what happened so long ago counts for 1/e.
const drainWindow = 30 * time.Second

// drain measures how fast requests leave while others wait. Time in which nobody waits says nothing of how fast they could, and neither
// does a request after which nobody waits, which may have come an instant before.
type drain struct {
	taken float64 // requests, fading with age
	busy  float64 // seconds in which somebody waited, fading alike
}

func (d *drain) pass(nanoseconds int64, waiting bool) {
	window := drainWindow.Seconds()
	kept := math.Exp(-float64(nanoseconds) / float64(drainWindow))
	d.taken *= kept
	d.busy *= kept
	if waiting {
		d.busy += window * (1 - kept)
	}
}

// DrainRate returns how many requests a second Dispatch has taken of late, over the time in which others waited; 0 if too few to tell.
func (q *Queue[V]) DrainRate(now time.Time) float64 {
	q.advance(now)
	if q.drain.taken < 1 || q.drain.busy == 0 {
		return 0
	}
	return q.drain.taken / q.drain.busy
}

// DrainTime estimates how long it takes until n requests have been taken; false if too few were of late to tell.
// For a request of some priority that comes back, n is AtOrAbove(priority) + 1.
func (q *Queue[V]) DrainTime(now time.Time, n int) (time.Duration, bool) {
	rate := q.DrainRate(now)
	if rate == 0 {
		return 0, false
	}
	nanoseconds := float64(max(n, 0)) / rate * float64(time.Second)
	if nanoseconds >= math.MaxInt64 {
		return math.MaxInt64, true
	}
	return time.Duration(nanoseconds), true
}
