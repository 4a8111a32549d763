package queue

import "time"

// Len returns how many items wait.
func (q *Queue[V]) Len() int { return q.waiting }

// Bytes returns how many bytes those who wait hold.
func (q *Queue[V]) Bytes() int64 { return q.bytes }

// Capacity returns how many bytes those who wait may hold.
func (q *Queue[V]) Capacity() int64 { return q.capacity }

// AtOrAbove returns how many items of a priority or a higher one wait, in one step for each such priority.
func (q *Queue[V]) AtOrAbove(priority int) int {
	n := 0
	for _, b := range q.order {
		if b.priority < priority {
			break
		}
		n += b.waiting
	}
	return n
}

// Ahead says whether somebody waits who has a better claim than a newcomer to whatever pod the newcomer could go to: of its priority or
// a higher one, in its lane or in lane 0. It takes a look-up or two for each such priority.
func (q *Queue[V]) Ahead(priority int, lane uint64) bool {
	for _, b := range q.order {
		if b.priority < priority {
			break
		}
		if q.sections.get(sectionKey{b.priority, 0}) != nil || q.sections.get(sectionKey{b.priority, lane}) != nil {
			return true
		}
	}
	return false
}

// PriorityStats is what waits of one priority.
type PriorityStats struct {
	Priority int
	Len      int
	Bytes    int64
	Flows    int       // flows of which somebody waits
	Oldest   time.Time // when the one who waits longest arrived
}

// Stats appends what waits to dst, for each priority of which somebody does, the highest first. It takes one
// step for each flow that waits.
func (q *Queue[V]) Stats(dst []PriorityStats) []PriorityStats {
	for _, b := range q.order {
		oldest := b.hoards[0]
		for _, h := range b.hoards {
			if h.first < oldest.first {
				oldest = h
			}
		}
		dst = append(dst, PriorityStats{
			Priority: b.priority,
			Len:      b.waiting,
			Bytes:    b.bytes,
			Flows:    len(b.hoards),
			Oldest:   q.clock.time(oldest.flow.lines[0].items.oldest.arrived),
		})
	}
	return dst
}
