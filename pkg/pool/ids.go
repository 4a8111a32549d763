package pool

import "time"

// idRest is how long an ID of a pod that left is not given to another: a stream that picked the old pod may still be
// about to remember a prefix under it.
const idRest = 10 * time.Second

// idSpace gives out small dense numbers. The zero value is ready.
type idSpace struct {
	next uint32
	free []freeID // oldest first
}

type freeID struct {
	id uint32
	at time.Time
}

func (s *idSpace) take(now time.Time) uint32 {
	if len(s.free) > 0 && now.Sub(s.free[0].at) >= idRest {
		id := s.free[0].id
		s.free = s.free[1:]
		return id
	}
	id := s.next
	s.next++
	return id
}

func (s *idSpace) give(now time.Time, id uint32) { s.free = append(s.free, freeID{id, now}) }
