package queue

import (
	"math"
	"time"
)

// A clock turns the caller's times into nanoseconds that never go back.
type clock struct {
	base time.Time
	now  int64
}

func (c *clock) advance(now time.Time) (passed int64) {
	if c.base.IsZero() {
		c.base = now
	}
	passed = max(int64(now.Sub(c.base))-c.now, 0)
	c.now += passed
	return passed
}

func (c *clock) time(at int64) time.Time { return c.base.Add(time.Duration(at)) }

func (q *Queue[V]) advance(now time.Time) {
	if passed := q.clock.advance(now); passed > 0 {
		q.drain.pass(passed, q.waiting > 0)
	}
}

// Those who wait have the TTL that was set when they arrived, or the shortest set since if that is shorter. So an earlier arrival never
// has a longer TTL than a later one: it lived through the same settings and perhaps more. As arrivals don't go back in time either,
// deadlines are in order of arrival, the list of arrivals is the list of deadlines, and no item needs to remember its own.
//
// For the same reason the TTLs of those who wait are few runs, each from some item on and longer than the one before.
type ttls []ttlRun

type ttlRun struct {
	from uint64 // the number of the first item
	ttl  time.Duration
}

func (t ttls) newest() time.Duration { return t[len(t)-1].ttl }

// set changes the TTL for item next, which hasn't arrived, and all after it; and for those before it, where it is shorter.
func (t *ttls) set(next uint64, ttl time.Duration) {
	runs, from := *t, next
	for n := len(runs); n > 0 && (runs[n-1].ttl >= ttl || runs[n-1].from == next); n-- {
		from = runs[n-1].from
		runs = runs[:n-1]
	}
	*t = append(runs, ttlRun{from, ttl})
}

// of returns the TTL of the oldest item, forgetting those of items before it.
func (t *ttls) of(oldest uint64) time.Duration {
	for len(*t) > 1 && (*t)[1].from <= oldest {
		*t = (*t)[1:]
	}
	return (*t)[0].ttl
}

// SetTTL changes how long a request waits at most (less than 0 counts as 0). A shorter TTL applies to those who wait, a longer one to
// newcomers only. Those who are due now leave with the next Expire.
func (q *Queue[V]) SetTTL(now time.Time, ttl time.Duration) {
	q.advance(now)
	if oldest := q.arrivals.oldest; oldest != nil {
		q.ttls.of(oldest.seq)
	} else {
		q.ttls.of(q.seq)
	}
	q.ttls.set(q.seq, max(ttl, 0))
}

// Deadline returns when the first of those who wait is due; false if nobody waits. The caller needs one timer for all of them.
func (q *Queue[V]) Deadline() (time.Time, bool) {
	if q.waiting == 0 {
		return time.Time{}, false
	}
	return q.clock.time(q.due()), true
}

// due returns the deadline of the oldest item.
func (q *Queue[V]) due() int64 {
	oldest := q.arrivals.oldest
	ttl := int64(q.ttls.of(oldest.seq))
	if oldest.arrived > math.MaxInt64-ttl {
		return math.MaxInt64
	}
	return oldest.arrived + ttl
}

// Expire hands those whose deadline has come, the oldest first, to dropped, one by one, when they have left the queue already.
func (q *Queue[V]) Expire(now time.Time, dropped func(*Item[V])) {
	q.advance(now)
	for q.waiting > 0 && q.due() <= q.now {
		it := q.arrivals.oldest
		q.remove(it)
		dropped(it)
	}
}
