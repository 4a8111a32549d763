package queue

import (
	"cmp"
	"slices"
	"time"
)

// slowQueue does what the documentation says, with slices and sorting, and no thought of speed.
type slowQueue struct {
	now      time.Time
	capacity int64
	ttl      time.Duration
	waiting  []*slowItem // in order of arrival
	bands    map[int]*slowBand
}

type slowItem struct {
	*Item[int]
	arrived, deadline time.Time
	flow              *slowFlow
}

type slowBand struct {
	round   float64 // tokens
	turns   int
	emptied time.Time
	flows   map[string]*slowFlow
}

type slowFlow struct {
	name  string
	round float64
	turn  int
}

func newSlowQueue(capacity int64, ttl time.Duration) *slowQueue {
	return &slowQueue{capacity: capacity, ttl: ttl, bands: map[int]*slowBand{}}
}

func (q *slowQueue) advance(now time.Time) {
	if now.After(q.now) {
		q.now = now
	}
}

func (q *slowQueue) bytes() (sum int64) {
	for _, it := range q.waiting {
		sum += it.Bytes
	}
	return sum
}

func (q *slowQueue) of(priority int) []*slowItem {
	return slices.DeleteFunc(slices.Clone(q.waiting), func(it *slowItem) bool { return it.Priority != priority })
}

func slowCost(it *Item[int]) float64 { return float64(max(it.Tokens, 1)) }

func (q *slowQueue) push(now time.Time, it *Item[int], discarded func(*Item[int])) Verdict {
	q.advance(now)
	if it.Bytes > q.capacity {
		return TooLarge
	}
	held := int64(0)
	for _, other := range q.waiting {
		if other.Priority > it.Priority {
			held += other.Bytes
		}
	}
	if held+it.Bytes > q.capacity {
		return NoRoom
	}
	q.discardFor(it.Bytes, discarded)

	b := q.bands[it.Priority]
	if b == nil {
		b = &slowBand{flows: map[string]*slowFlow{}}
		q.bands[it.Priority] = b
	}
	if len(q.of(it.Priority)) == 0 && q.now.Sub(b.emptied) >= q.ttl {
		clear(b.flows)
	}
	f := b.flows[it.Flow]
	if f == nil {
		f = &slowFlow{name: it.Flow}
		b.flows[it.Flow] = f
	}
	if !slices.ContainsFunc(q.waiting, func(other *slowItem) bool { return other.flow == f }) {
		behind := 0.0
		if next := q.next(it.Priority, nil); next != nil {
			behind = min(slowCost(it), slowCost(next.Item)) / 2
		}
		f.round = max(f.round, b.round+behind)
		f.turn = b.turns
		b.turns++
	}
	q.waiting = append(q.waiting, &slowItem{Item: it, arrived: q.now, deadline: q.now.Add(q.ttl), flow: f})
	return Waiting
}

// next returns who goes next of a priority, leaving out full lanes.
func (q *slowQueue) next(priority int, full map[uint64]bool) *slowItem {
	open := slices.DeleteFunc(q.of(priority), func(it *slowItem) bool { return full[it.Lane] })
	if len(open) == 0 {
		return nil
	}
	slices.SortStableFunc(open, func(a, b *slowItem) int {
		return cmp.Or(cmp.Compare(a.flow.round, b.flow.round), cmp.Compare(a.flow.turn, b.flow.turn))
	})
	return open[0]
}

func (q *slowQueue) leave(it *slowItem) {
	q.waiting = slices.DeleteFunc(q.waiting, func(other *slowItem) bool { return other == it })
	if len(q.of(it.Priority)) == 0 {
		q.bands[it.Priority].emptied = q.now
	}
}

func (q *slowQueue) find(it *Item[int]) *slowItem {
	i := slices.IndexFunc(q.waiting, func(other *slowItem) bool { return other.Item == it })
	if i < 0 {
		return nil
	}
	return q.waiting[i]
}

func (q *slowQueue) remove(it *Item[int]) bool {
	found := q.find(it)
	if found == nil {
		return false
	}
	q.leave(found)
	return true
}

func (q *slowQueue) setCapacity(now time.Time, capacity int64, discarded func(*Item[int])) {
	q.advance(now)
	q.capacity = capacity
	q.discardFor(0, discarded)
}

func (q *slowQueue) discardFor(bytes int64, discarded func(*Item[int])) {
	for q.bytes()+bytes > q.capacity {
		holding := slices.DeleteFunc(q.priorities(), func(p int) bool {
			return !slices.ContainsFunc(q.of(p), func(it *slowItem) bool { return it.Bytes > 0 })
		})
		lowest := q.of(holding[len(holding)-1])
		held := map[*slowFlow]int64{}
		for _, it := range lowest {
			held[it.flow] += it.Bytes
		}
		// The first of those with most is the oldest of all of them.
		oldest := slices.MaxFunc(lowest, func(a, b *slowItem) int { return cmp.Compare(held[a.flow], held[b.flow]) })
		q.leave(oldest)
		discarded(oldest.Item)
	}
}

// priorities returns those of which somebody waits, the highest first.
func (q *slowQueue) priorities() []int {
	var all []int
	for _, it := range q.waiting {
		all = append(all, it.Priority)
	}
	slices.Sort(all)
	slices.Reverse(all)
	return slices.Compact(all)
}

func (q *slowQueue) setTTL(now time.Time, ttl time.Duration) {
	q.advance(now)
	q.ttl = ttl
	for _, it := range q.waiting {
		if cut := it.arrived.Add(ttl); cut.Before(it.deadline) {
			it.deadline = cut
		}
	}
}

func (q *slowQueue) expire(now time.Time, dropped func(*Item[int])) {
	q.advance(now)
	for _, it := range slices.Clone(q.waiting) {
		if !it.deadline.After(q.now) {
			q.leave(it)
			dropped(it.Item)
		}
	}
}

func (q *slowQueue) deadline() (first time.Time, ok bool) {
	for _, it := range q.waiting {
		if !ok || it.deadline.Before(first) {
			first, ok = it.deadline, true
		}
	}
	return first, ok
}

func (q *slowQueue) dispatch(now time.Time, try func(*Item[int]) Try) (taken int) {
	q.advance(now)
	full := map[uint64]bool{}
	for _, priority := range q.priorities() {
		for it := q.next(priority, full); it != nil; it = q.next(priority, full) {
			switch try(it.Item) {
			case Taken:
				b := q.bands[priority]
				b.round = max(b.round, it.flow.round)
				it.flow.round = b.round + slowCost(it.Item)
				it.flow.turn = b.turns
				b.turns++
				q.leave(it)
				taken++
			case LaneFull:
				if it.Lane == 0 {
					return taken
				}
				full[it.Lane] = true
			case AllFull:
				return taken
			}
		}
	}
	return taken
}

func (q *slowQueue) stats() (all []PriorityStats) {
	for _, priority := range q.priorities() {
		items := q.of(priority)
		s := PriorityStats{Priority: priority, Len: len(items), Oldest: items[0].arrived}
		flows := map[*slowFlow]bool{}
		for _, it := range items {
			s.Bytes += it.Bytes
			flows[it.flow] = true
		}
		s.Flows = len(flows)
		all = append(all, s)
	}
	return all
}

func (q *slowQueue) ahead(priority int, lane uint64) bool {
	return slices.ContainsFunc(q.waiting, func(it *slowItem) bool {
		return it.Priority >= priority && (it.Lane == 0 || it.Lane == lane)
	})
}
