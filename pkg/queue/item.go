package queue

// An Item is one request that waits. The caller embeds or allocates it, fills in the exported fields, and leaves them alone while it
// waits. The zero value is ready; an item that has left the queue may be pushed again.
type Item[V any] struct {
	Value V
	// Priority: higher goes first and is discarded last. Any value will do.
	Priority int
	// Flow is whom the request counts against within its priority, such as a tenant; "" is a flow like any other. The queue may keep
	// the string for some time after the item left, so it shouldn't be a view of something large.
	Flow string
	// Lane stands for the set of pods that the request can go to; requests of one lane can go to the same ones. 0 is any pod.
	Lane uint64
	// Bytes is what the request takes of the capacity; less than 0 counts as 0.
	Bytes int64
	// Tokens is what the request takes of its flow's share. It counts as at least 1 and at most 2^30.
	Tokens int

	line    *line[V] // nil: not waiting
	seq     uint64   // in order of arrival
	arrived int64    // nanoseconds on the queue's clock
	links   [2]link[V]
}

// Waiting says whether the item is in a queue.
func (it *Item[V]) Waiting() bool { return it.line != nil }

const maxTokens = 1 << 30

// cost is what the item's flow pays for it, in the unit of rounds: half tokens.
func (it *Item[V]) cost() int64 { return 2 * int64(min(max(it.Tokens, 1), maxTokens)) }

func (it *Item[V]) size() int64 { return max(it.Bytes, 0) }

// An item is linked into two lists, each in order of arrival.
const (
	ofQueue = iota
	ofLine
)

type link[V any] struct{ previous, next *Item[V] }

type list[V any] struct{ oldest, newest *Item[V] }

func (l *list[V]) append(it *Item[V], which int) {
	it.links[which].previous = l.newest
	if l.newest == nil {
		l.oldest = it
	} else {
		l.newest.links[which].next = it
	}
	l.newest = it
}

func (l *list[V]) remove(it *Item[V], which int) {
	at := it.links[which]
	if at.previous == nil {
		l.oldest = at.next
	} else {
		at.previous.links[which].next = at.next
	}
	if at.next == nil {
		l.newest = at.previous
	} else {
		at.next.links[which].previous = at.previous
	}
	it.links[which] = link[V]{}
}
