package queue

// Within a band, each flow is filed in the section of the lane in which its oldest item is, and the sections are in a heap by
// whose flow is next in turn. So a full lane is skipped in one step together with all the flows that have nothing elsewhere. Flows that
// do are filed apart, so that they can be found and filed anew, by the oldest item of a lane that is still open.

// A lane is a set of pods, the same for all bands.
type lane struct {
	id       uint64
	sections int
	full     uint64 // the last Dispatch that found it full
}

// A section is the part of a band that is in one lane.
type section[V any] struct {
	band   *band[V]
	lane   *lane
	lines  int           // of all its flows; none: the section is gone
	single heap[turn[V]] // flows that have no other lane
	mixed  heap[turn[V]]
	pos    int // in the band's heap; -1 if no flow is filed here, or while it is set aside
}

type sectionKey struct {
	priority int
	lane     uint64
}

// A line is the part of a flow that is in one lane, the oldest first.
type line[V any] struct {
	flow    *flow[V]
	section *section[V]
	items   list[V]
	pos     int // in the flow's heap; -1 while set aside
}

type lineKey[V any] struct {
	flow *flow[V]
	lane uint64
}

func (l *line[V]) before(other *line[V]) bool { return l.items.oldest.seq < other.items.oldest.seq }
func (l *line[V]) moved(to int)               { l.pos = to }

func (s *section[V]) before(other *section[V]) bool { return s.next().before(other.next()) }
func (s *section[V]) moved(to int)                  { s.pos = to }

// next returns the turn that comes first of those filed here, of which there must be one.
func (s *section[V]) next() turn[V] {
	switch {
	case len(s.single) == 0:
		return s.mixed[0]
	case len(s.mixed) == 0 || s.single[0].before(s.mixed[0]):
		return s.single[0]
	default:
		return s.mixed[0]
	}
}

func (s *section[V]) heap(mixed bool) *heap[turn[V]] {
	if mixed {
		return &s.mixed
	}
	return &s.single
}

// fix restores the section's place among the others after what is filed here has changed.
func (s *section[V]) fix() {
	switch filed := len(s.single)+len(s.mixed) > 0; {
	case filed && s.pos >= 0:
		s.band.sections.fix(s.pos)
	case filed:
		s.band.sections.push(s)
	case s.pos >= 0:
		s.band.sections.remove(s.pos)
	}
}

// file puts the flow where its oldest item is, and in order there.
func (f *flow[V]) file() {
	if len(f.lines) == 0 {
		f.unfile()
		return
	}
	s, mixed := f.lines[0].section, len(f.lines) > 1
	if f.section == s && f.mixed == mixed {
		s.heap(mixed).set(int(f.pos), f.asTurn())
		s.fix()
		return
	}
	f.unfile()
	f.section, f.mixed = s, mixed
	s.heap(mixed).push(f.asTurn())
	s.fix()
}

func (f *flow[V]) unfile() {
	s := f.section
	if s == nil {
		return
	}
	f.section = nil
	s.heap(f.mixed).remove(int(f.pos))
	s.fix()
}

// lineOf returns the line for an item that is about to join it, made if need be. A new one isn't in the flow's heap yet.
func (q *Queue[V]) lineOf(f *flow[V], id uint64) *line[V] {
	own := f.own.section
	if own != nil && own.lane.id == id {
		return &f.own
	}
	l := &f.own
	if own != nil {
		key := lineKey[V]{f, id}
		if l = q.lines.get(key); l != nil {
			return l
		}
		l = q.spareLines.get()
		q.lines.set(key, l)
	}
	l.flow, l.section, l.pos = f, q.sectionOf(f.band, id), -1
	l.section.lines++
	return l
}

func (q *Queue[V]) dropLine(l *line[V]) {
	f, s := l.flow, l.section
	s.lines--
	f.lines.remove(l.pos)
	*l = line[V]{}
	if l != &f.own {
		q.lines.delete(lineKey[V]{f, s.lane.id})
		q.spareLines.put(l)
	}
}

func (q *Queue[V]) sectionOf(b *band[V], id uint64) *section[V] {
	key := sectionKey{b.priority, id}
	if s := q.sections.get(key); s != nil {
		return s
	}
	a := q.lanes.get(id)
	if a == nil {
		a = q.spareLanes.get()
		a.id = id
		q.lanes.set(id, a)
	}
	a.sections++
	s := q.spareSections.get()
	s.band, s.lane, s.pos = b, a, -1
	q.sections.set(key, s)
	return s
}

func (q *Queue[V]) dropSection(s *section[V]) {
	q.sections.delete(sectionKey{s.band.priority, s.lane.id})
	a := s.lane
	*s = section[V]{single: s.single, mixed: s.mixed}
	q.spareSections.put(s)
	a.sections--
	if a.sections == 0 {
		q.lanes.delete(a.id)
		*a = lane{}
		q.spareLanes.put(a)
	}
}
