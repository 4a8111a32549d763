package queue

import "time"

// A Try is what became of an item that Dispatch offered.
type Try uint8

const (
	// Taken means that the item goes. It leaves the queue.
	Taken Try = iota
	// LaneFull means that no pod of the item's lane has room for anyone of its priority or a lower one. The lane is skipped for the rest of the
	// Dispatch. In lane 0, any pod, that is AllFull.
	LaneFull
	// AllFull means that no pod has room for anyone of the item's priority or a lower one. The Dispatch ends.
	AllFull
)

// String returns the try's name in lower case.
func (t Try) String() string {
	switch t {
	case Taken:
		return "taken"
	case LaneFull:
		return "lane full"
	default:
		return "all full"
	}
}

// Dispatch offers items to try, in the order in which they are to go, until nobody waits whom try hasn't refused, and returns how many
// were taken. An item is the queue's until Dispatch has returned.
//
// It takes O(log n) steps for each item taken, and the same for each lane found full and for each flow whose next item is in that lane
// but that has others elsewhere. It doesn't look at deadlines: those who are due leave by Expire, which goes first.
func (q *Queue[V]) Dispatch(now time.Time, try func(*Item[V]) Try) (taken int) {
	q.advance(now)
	defer q.restore()
	for i := 0; i < len(q.order); {
		b := q.order[i]
		n, more := q.serve(b, try)
		taken += n
		if !more {
			break
		}
		if b.waiting > 0 { // otherwise it has left the order
			i++
		}
	}
	return taken
}

// serve dispatches from one band. more says whether lower ones may go on.
func (q *Queue[V]) serve(b *band[V], try func(*Item[V]) Try) (taken int, more bool) {
	for len(b.sections) > 0 {
		s := b.sections[0]
		if q.isFull(s.lane) {
			q.setAside(s)
			continue
		}
		it := s.next().flow.lines[0].items.oldest
		switch try(it) {
		case Taken:
			q.take(it)
			taken++
		case LaneFull:
			if s.lane.id == 0 {
				return taken, false
			}
			s.lane.full = q.dispatches
		default:
			return taken, false
		}
	}
	return taken, true
}

func (q *Queue[V]) take(it *Item[V]) {
	q.charge(it)
	q.remove(it)
	if q.waiting > 0 {
		q.drain.taken++
	}
}

// aside is what a Dispatch doesn't look at any more, because the lane is full.
type aside[V any] struct {
	sections []*section[V]
	lines    []*line[V]
}

// setAside files elsewhere those flows of a section whose lane is full that have items in open lanes, and takes the section with the
// others out of its band's heap.
func (q *Queue[V]) setAside(s *section[V]) {
	for len(s.mixed) > 0 {
		f := s.mixed[0].flow
		q.skipFull(f)
		f.file()
	}
	if len(s.single) > 0 {
		s.band.sections.remove(s.pos)
		q.aside.sections = append(q.aside.sections, s)
	}
}

// skipFull sets aside the lines of a flow that stand before those in open lanes, and whose lane is full.
func (q *Queue[V]) skipFull(f *flow[V]) {
	for len(f.lines) > 0 && q.isFull(f.lines[0].section.lane) {
		l := f.lines[0]
		f.lines.remove(0)
		if f.aside == nil {
			f.aside = l
		}
		q.aside.lines = append(q.aside.lines, l)
	}
}

func (q *Queue[V]) isFull(a *lane) bool { return a.full == q.dispatches }

// restore puts back what was set aside, and no lane counts as full any more.
func (q *Queue[V]) restore() {
	q.dispatches++
	for _, l := range q.aside.lines {
		f := l.flow
		f.aside = nil
		f.lines.push(l)
		f.file()
	}
	for _, s := range q.aside.sections {
		s.fix()
	}
	clear(q.aside.lines)
	clear(q.aside.sections)
	q.aside.lines, q.aside.sections = q.aside.lines[:0], q.aside.sections[:0]
}
