package queue

import "time"

// A Queue holds the requests that wait. It is not safe for concurrent use: the caller locks.
//
// Time is passed in. A clock that jumps back is taken as standing still until it has caught up. Callbacks must not call the queue;
// they may be closures made once and kept, nothing is allocated for them. If one panics, the queue is whole afterwards.
type Queue[V any] struct {
	clock
	capacity int64
	waiting  int
	bytes    int64
	arrivals list[V]
	seq      uint64 // of the next to arrive
	ttls     ttls
	drain    drain

	// Those bands in which somebody waits, the highest priority first.
	order []*band[V]
	// How many flows are remembered for their debts alone.
	debts int

	bands    index[int, band[V]]
	flows    index[flowKey, flow[V]]
	lines    index[lineKey[V], line[V]]
	sections index[sectionKey, section[V]]
	lanes    index[uint64, lane]

	spareBands    spares[band[V]]
	spareFlows    spares[flow[V]]
	spareLines    spares[line[V]]
	spareSections spares[section[V]]
	spareLanes    spares[lane]

	dispatches uint64 // counts them; lanes remember in which they were full
	aside      aside[V]
}

// A Verdict is what became of a Push.
type Verdict uint8

const (
	// Waiting means that the item is in the queue.
	Waiting Verdict = iota
	// TooLarge means that the item is bigger than the whole capacity and can never wait.
	TooLarge
	// NoRoom means that the item doesn't fit, and wouldn't if all that may be discarded for it were. Nothing was discarded.
	NoRoom
)

// String returns the verdict's name in lower case.
func (v Verdict) String() string {
	switch v {
	case Waiting:
		return "waiting"
	case TooLarge:
		return "too large"
	default:
		return "no room"
	}
}

// New returns an empty queue of at most capacity bytes (less than 0 counts as 0), in which a request waits for at most ttl.
func New[V any](capacity int64, ttl time.Duration) *Queue[V] {
	return &Queue[V]{capacity: max(capacity, 0), ttls: ttls{{ttl: max(ttl, 0)}}, dispatches: 1}
}

// Push lets an item wait. If it doesn't fit, those that must make room for it are handed to discarded, one by one, when they have left
// the queue already: the oldest of the lowest priority present, the newcomer's own included but never a higher one; within that
// priority the oldest of the flow that holds most bytes. If it wouldn't fit even then, none is discarded.
//
// It takes O(log n) steps for the item and for each discarded one, and one for each priority where the item doesn't fit. Push panics if
// the item waits already.
func (q *Queue[V]) Push(now time.Time, it *Item[V], discarded func(*Item[V])) Verdict {
	if it.line != nil {
		panic("queue: Push of an item that waits already")
	}
	q.advance(now)
	if it.size() > q.capacity {
		return TooLarge
	}
	if excess := it.size() - (q.capacity - q.bytes); excess > 0 {
		if !q.canFree(excess, it.Priority) {
			return NoRoom
		}
		q.discard(it.size(), discarded)
	}
	q.insert(it)
	return Waiting
}

// Remove takes out an item whose client has left, in O(log n) steps. It returns false if the item wasn't waiting.
func (q *Queue[V]) Remove(it *Item[V]) bool {
	if it.line == nil {
		return false
	}
	q.remove(it)
	return true
}

// SetCapacity changes the capacity, in bytes. Where those who wait no longer fit, they are discarded by the rule of Push, whatever their
// priority, until they do.
func (q *Queue[V]) SetCapacity(now time.Time, capacity int64, discarded func(*Item[V])) {
	q.advance(now)
	q.capacity = max(capacity, 0)
	q.discard(0, discarded)
}

// canFree says whether those of a priority or lower hold so many bytes.
func (q *Queue[V]) canFree(bytes int64, priority int) bool {
	for i := len(q.order) - 1; i >= 0 && bytes > 0 && q.order[i].priority <= priority; i-- {
		bytes -= q.order[i].bytes
	}
	return bytes <= 0
}

// discard makes room for so many bytes, from the lowest priority up. A priority that holds no bytes is spared: it can't help.
func (q *Queue[V]) discard(bytes int64, discarded func(*Item[V])) {
	for i := len(q.order) - 1; q.bytes > q.capacity-bytes; {
		b := q.order[i]
		if b.bytes == 0 {
			i--
			continue
		}
		it := b.hoards[0].flow.lines[0].items.oldest
		q.remove(it)
		discarded(it)
		i = min(i, len(q.order)-1)
	}
}

func (q *Queue[V]) insert(it *Item[V]) {
	it.seq, it.arrived = q.seq, q.now
	q.seq++
	f := q.enter(it)
	l := q.lineOf(f, it.Lane)
	it.line = l
	l.items.append(it, ofLine)
	q.arrivals.append(it, ofQueue)
	q.count(it, 1)
	if f.waiting == 1 {
		f.first = it.seq
		f.band.hoards.push(f.asHoard())
	} else {
		f.band.hoards.set(int(f.hoardPos), f.asHoard())
	}
	if l.pos < 0 {
		f.lines.push(l)
		f.file()
	}
}

func (q *Queue[V]) remove(it *Item[V]) {
	l := it.line
	s, f := l.section, l.flow
	b := f.band
	l.items.remove(it, ofLine)
	q.arrivals.remove(it, ofQueue)
	q.count(it, -1)
	it.line = nil
	if l.items.oldest == nil {
		q.dropLine(l)
	} else {
		f.lines.fix(l.pos)
	}
	if f.waiting > 0 {
		f.first = f.oldest()
		q.skipFull(f)
		f.file()
		b.hoards.set(int(f.hoardPos), f.asHoard())
	} else {
		q.leave(f)
	}
	if s.lines == 0 {
		q.dropSection(s)
	}
	if b.waiting == 0 {
		q.empty(b)
	}
}

func (q *Queue[V]) count(it *Item[V], n int) {
	bytes := int64(n) * it.size()
	f := it.line.flow
	f.waiting += n
	f.bytes += bytes
	f.band.waiting += n
	f.band.bytes += bytes
	q.waiting += n
	q.bytes += bytes
}
