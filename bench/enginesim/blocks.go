package enginesim

import "math/bits"

const none = int32(-1)

// block is one page of the KV cache. A block with refs == 0 stands in the free queue; it keeps its hash, and so can be
// found and taken back, until the queue hands it out for something else.
type block struct {
	hash       uint64
	prev, next int32 // free queue
	twin       int32 // next block of equal content
	refs       int32
	cached     bool // hash is valid and the block is in the table
}

// blocks is the paged KV cache: a pool of equal blocks, a free queue in least-recently-freed order and a table from
// content hash to block. Two requests that compute the same content at the same time hold twins, as in vLLM.
type blocks struct {
	pages      []block
	head, tail int32 // free queue: head is handed out (and evicted) first
	free       int
	table      []int32 // open addressing; holds the first of the twins
	mask       uint32
	shift      uint8
	// gains counts the changes that can turn a refused admission into a possible one: blocks freed, content added.
	gains     uint64
	evictions uint64
}

func newBlocks(n int) *blocks {
	size := 1 << bits.Len(uint(2*n))
	b := &blocks{
		pages: make([]block, n),
		head:  none, tail: none,
		table: make([]int32, size),
		mask:  uint32(size - 1),
		shift: uint8(64 - bits.Len(uint(size-1))),
	}
	for i := range b.table {
		b.table[i] = none
	}
	for i := range b.pages {
		b.pages[i].twin = none
		b.enqueue(int32(i))
	}
	return b
}

// find returns a block that holds the content, or none.
func (b *blocks) find(hash uint64) int32 {
	for slot := b.slot(hash); ; slot = (slot + 1) & b.mask {
		id := b.table[slot]
		if id == none || b.pages[id].hash == hash {
			return id
		}
	}
}

// hold takes a reference; a free block leaves the queue.
func (b *blocks) hold(id int32) {
	if b.pages[id].refs == 0 {
		b.dequeue(id)
	}
	b.pages[id].refs++
}

// take hands out the block at the head of the free queue and forgets what it held. The queue must not be empty.
func (b *blocks) take() int32 {
	id := b.head
	b.dequeue(id)
	if b.pages[id].cached {
		b.forget(id)
		b.evictions++
	}
	b.pages[id].refs = 1
	return id
}

// release drops one reference to each block, the last one first, so that the tail of a sequence is evicted before its
// head, which more requests share.
func (b *blocks) release(ids []int32) {
	for i := len(ids) - 1; i >= 0; i-- {
		p := &b.pages[ids[i]]
		p.refs--
		if p.refs == 0 {
			b.enqueue(ids[i])
		}
	}
	b.gains++
}

// remember makes the content of a held block findable.
func (b *blocks) remember(id int32, hash uint64) {
	p := &b.pages[id]
	if p.cached {
		return
	}
	p.hash, p.cached, p.twin = hash, true, none
	b.gains++
	slot := b.slot(hash)
	for ; b.table[slot] != none; slot = (slot + 1) & b.mask {
		if first := &b.pages[b.table[slot]]; first.hash == hash {
			p.twin, first.twin = first.twin, id
			return
		}
	}
	b.table[slot] = id
}

// forget takes the block out of the table; a twin takes its place.
func (b *blocks) forget(id int32) {
	p := &b.pages[id]
	p.cached = false
	slot := b.slot(p.hash)
	for b.pages[b.table[slot]].hash != p.hash {
		slot = (slot + 1) & b.mask
	}
	if first := b.table[slot]; first != id {
		for b.pages[first].twin != id {
			first = b.pages[first].twin
		}
		b.pages[first].twin = p.twin
		return
	}
	if p.twin != none {
		b.table[slot] = p.twin
		return
	}
	b.vacate(slot)
}

// vacate empties a slot and moves later entries of the same run up, so that every probe still finds its entry.
func (b *blocks) vacate(slot uint32) {
	for next := (slot + 1) & b.mask; b.table[next] != none; next = (next + 1) & b.mask {
		home := b.slot(b.pages[b.table[next]].hash)
		if (next-home)&b.mask >= (next-slot)&b.mask {
			b.table[slot] = b.table[next]
			slot = next
		}
	}
	b.table[slot] = none
}

// slot spreads hashes that may be small consecutive numbers (trace block ids) by a multiplication.
func (b *blocks) slot(hash uint64) uint32 { return uint32((hash * 0x9E3779B97F4A7C15) >> b.shift) }

func (b *blocks) enqueue(id int32) {
	p := &b.pages[id]
	p.prev, p.next = b.tail, none
	if b.tail == none {
		b.head = id
	} else {
		b.pages[b.tail].next = id
	}
	b.tail = id
	b.free++
}

func (b *blocks) dequeue(id int32) {
	p := &b.pages[id]
	if p.prev == none {
		b.head = p.next
	} else {
		b.pages[p.prev].next = p.next
	}
	if p.next == none {
		b.tail = p.prev
	} else {
		b.pages[p.next].prev = p.prev
	}
	b.free--
}
