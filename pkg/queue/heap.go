package queue

// ranked is what a heap holds: it knows its order, and remembers where it stands so that it can be found again.
type ranked[E any] interface {
	before(other E) bool
	moved(to int)
}

// A heap is a heap of elements that know their place. Each node has four children, which makes it half as deep as a binary one: with
// many flows the depth is what costs, since each step writes to another flow's record.
type heap[E ranked[E]] []E

// minCap is the capacity below which a heap doesn't bother to give memory back.
const minCap = 1 << 12

func (h *heap[E]) push(e E) {
	*h = append(*h, e)
	h.up(len(*h) - 1)
}

// remove takes out what stands at i.
func (h *heap[E]) remove(i int) {
	old := *h
	last := len(old) - 1
	removed := old[i]
	old[i] = old[last]
	var none E
	old[last] = none
	*h = old[:last]
	if cap(old) > minCap && last < cap(old)/8 {
		*h = append(make(heap[E], 0, cap(old)/4), old[:last]...)
	}
	if i < last {
		h.fix(i)
	}
	removed.moved(-1)
}

// set puts e in the place of the element at i.
func (h heap[E]) set(i int, e E) {
	h[i] = e
	h.fix(i)
}

// fix restores the order after the element at i has changed.
func (h heap[E]) fix(i int) {
	if !h.up(i) {
		h.down(i)
	}
}

func (h heap[E]) up(i int) (moved bool) {
	e := h[i]
	for i > 0 {
		parent := (i - 1) / 4
		if !e.before(h[parent]) {
			break
		}
		h[i] = h[parent]
		h[i].moved(i)
		i, moved = parent, true
	}
	h[i] = e
	e.moved(i)
	return moved
}

func (h heap[E]) down(i int) {
	e := h[i]
	for {
		first := 4*i + 1
		if first >= len(h) {
			break
		}
		child := first
		for other := first + 1; other < min(first+4, len(h)); other++ {
			if h[other].before(h[child]) {
				child = other
			}
		}
		if !h[child].before(e) {
			break
		}
		h[i] = h[child]
		h[i].moved(i)
		i = child
	}
	h[i] = e
	e.moved(i)
}
