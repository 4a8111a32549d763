package queue

import "slices"

// Flows of one priority share by deficit round robin with a quantum of one token, the surplus variant: a flow whose turn has come is
// served a whole request, and then sits out as many rounds as it took tokens. Rounds are computed, not gone through, so the sizes of
// requests cost nothing: each flow knows the round in which it may go next, and the lowest is next in turn. Hence two flows that
// wait all the time are never further apart, in tokens, than 1.5 times the largest request of either.
//
//   - The round of a band is that of the request last taken.
//   - Taking a request advances its flow's round by the request's tokens.
//   - A flow that starts to wait where nobody does comes in at the band's round. Where others wait, it does half a request later, after
//     those whose turn it is and before those who have just had theirs: half of its own request or of that next in turn, whichever is
//     smaller. So the round moves on even if only newcomers are served, and they can't keep a flow in debt waiting for ever.
//   - A flow that leaves in debt, which is when its round is ahead of the band's, is remembered until the band's reaches it, or until
//     nobody has waited in the band for as long as the TTL.
//   - A flow that was passed over because all its lanes were full goes first when one opens, but saves up no more than that one request.

// A band is one priority.
type band[V any] struct {
	priority int
	waiting  int
	bytes    int64
	round    int64 // in half tokens, as those of flows
	turns    uint64
	emptied  int64 // since when nobody waits, on the queue's clock
	sections heap[*section[V]]
	hoards   heap[hoard[V]]
	debts    heap[debt[V]]
}

// A flow is one flow of one band. It waits, or is remembered for its debt, and then stands in debts alone.
type flow[V any] struct {
	band    *band[V]
	name    string
	round   int64
	turn    uint64 // decides between flows of one round: who came to it first
	waiting int
	bytes   int64
	first   uint64 // the oldest item's number

	// The flow's lines in use. Most flows are in one lane only, hence a line and a heap of one without further records.
	lines heap[*line[V]]
	place [1]*line[V]
	own   line[V]
	aside *line[V] // the first of its lines to be set aside in this Dispatch

	// Where the flow is filed; section is nil if it isn't.
	section *section[V]
	mixed   bool
	pos     int32

	hoardPos int32
	debtPos  int32
}

type flowKey struct {
	priority int
	name     string
}

// maxDebts bounds how many flows are remembered for their debts alone, in all bands together.
const maxDebts = 1 << 14

// The heaps of flows keep beside each flow what it is ranked by, so that to compare two of them doesn't mean to fetch both.

// A turn ranks flows by whose comes first.
type turn[V any] struct {
	round int64
	turn  uint64
	flow  *flow[V]
}

func (t turn[V]) before(other turn[V]) bool {
	if t.round != other.round {
		return t.round < other.round
	}
	return t.turn < other.turn
}
func (t turn[V]) moved(to int) { t.flow.pos = int32(to) }

// A hoard ranks flows by who holds most bytes; of those that hold as much, the one whose oldest is older.
type hoard[V any] struct {
	bytes int64
	first uint64
	flow  *flow[V]
}

func (h hoard[V]) before(other hoard[V]) bool {
	if h.bytes != other.bytes {
		return h.bytes > other.bytes
	}
	return h.first < other.first
}
func (h hoard[V]) moved(to int) { h.flow.hoardPos = int32(to) }

// A debt ranks flows that don't wait by who has least to sit out.
type debt[V any] struct {
	round int64
	flow  *flow[V]
}

func (d debt[V]) before(other debt[V]) bool { return d.round < other.round }
func (d debt[V]) moved(to int)              { d.flow.debtPos = int32(to) }

func (f *flow[V]) asTurn() turn[V]   { return turn[V]{f.round, f.turn, f} }
func (f *flow[V]) asHoard() hoard[V] { return hoard[V]{f.bytes, f.first, f} }
func (f *flow[V]) asDebt() debt[V]   { return debt[V]{f.round, f} }

// oldest returns the number of the flow's oldest item, lines set aside included.
func (f *flow[V]) oldest() uint64 {
	if f.aside == nil {
		return f.lines[0].items.oldest.seq
	}
	// Lines are set aside the oldest first.
	oldest := f.aside.items.oldest.seq
	if len(f.lines) > 0 {
		oldest = min(oldest, f.lines[0].items.oldest.seq)
	}
	return oldest
}

// enter returns the flow of an item that is about to wait, made if need be, with the round in which it may go.
func (q *Queue[V]) enter(it *Item[V]) *flow[V] {
	b := q.bands.get(it.Priority)
	if b == nil {
		b = q.spareBands.get()
		b.priority = it.Priority
		q.bands.set(b.priority, b)
	}
	if b.waiting == 0 {
		if q.now-b.emptied >= int64(q.ttls.newest()) {
			for len(b.debts) > 0 {
				q.forgive(b)
			}
		}
		q.order = slices.Insert(q.order, q.place(b.priority), b)
	}
	key := flowKey{it.Priority, it.Flow}
	f := q.flows.get(key)
	switch {
	case f == nil:
		f = q.spareFlows.get()
		f.band, f.name = b, it.Flow
		if f.lines == nil {
			f.lines = f.place[:0]
		}
		q.flows.set(key, f)
	case f.waiting > 0:
		return f
	default:
		b.debts.remove(int(f.debtPos))
		q.debts--
	}
	behind := int64(0)
	if next := b.next(); next != nil {
		behind = min(it.cost(), next.lines[0].items.oldest.cost()) / 2
	}
	f.round = max(f.round, b.round+behind)
	f.turn = b.turns
	b.turns++
	return f
}

// place returns where a priority belongs in the order.
func (q *Queue[V]) place(priority int) int {
	at, _ := slices.BinarySearchFunc(q.order, priority, func(b *band[V], priority int) int {
		switch {
		case b.priority > priority:
			return -1
		case b.priority < priority:
			return 1
		}
		return 0
	})
	return at
}

// next returns the flow next in turn, nil if nobody waits.
func (b *band[V]) next() *flow[V] {
	if len(b.sections) == 0 {
		return nil
	}
	return b.sections[0].next().flow
}

// charge makes a flow pay for an item that is taken.
func (q *Queue[V]) charge(it *Item[V]) {
	f := it.line.flow
	b := f.band
	b.round = max(b.round, f.round)
	f.round = b.round + it.cost()
	f.turn = b.turns
	b.turns++
	for len(b.debts) > 0 && b.debts[0].round <= b.round {
		q.forgive(b)
	}
}

// leave sees off a flow of which nobody waits any more.
func (q *Queue[V]) leave(f *flow[V]) {
	b := f.band
	f.unfile()
	b.hoards.remove(int(f.hoardPos))
	if f.round <= b.round {
		q.dropFlow(f)
		return
	}
	b.debts.push(f.asDebt())
	q.debts++
	if q.debts > maxDebts {
		q.forgive(b)
	}
}

// forgive forgets the smallest debt of a band.
func (q *Queue[V]) forgive(b *band[V]) {
	f := b.debts[0].flow
	b.debts.remove(0)
	q.debts--
	q.dropFlow(f)
}

func (q *Queue[V]) dropFlow(f *flow[V]) {
	q.flows.delete(flowKey{f.band.priority, f.name})
	*f = flow[V]{lines: f.lines}
	q.spareFlows.put(f)
}

// empty sees to a band in which nobody waits any more.
func (q *Queue[V]) empty(b *band[V]) {
	b.emptied = q.now
	at := q.place(b.priority)
	q.order = slices.Delete(q.order, at, at+1)
	if len(b.debts) > 0 {
		return
	}
	q.bands.delete(b.priority)
	*b = band[V]{sections: b.sections, hoards: b.hoards, debts: b.debts}
	q.spareBands.put(b)
}
