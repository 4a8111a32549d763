package queue

// maxSpares bounds the records of each kind that are kept for reuse.
const maxSpares = 1 << 14

// spares are records to be used again, so that flows that come and go leave no garbage.
type spares[T any] []*T

func (s *spares[T]) get() *T {
	n := len(*s)
	if n == 0 {
		return new(T)
	}
	record := (*s)[n-1]
	(*s)[n-1] = nil
	*s = (*s)[:n-1]
	return record
}

func (s *spares[T]) put(record *T) {
	if len(*s) < maxSpares {
		*s = append(*s, record)
	}
}

// An index finds records by key. Unlike a bare map it gives memory back: flow names come from clients, and a million of them at once
// mustn't be paid for ever after.
type index[K comparable, T any] struct {
	records map[K]*T
	peak    int
}

// minPeak is the size below which an index doesn't bother to give memory back.
const minPeak = 1 << 14

func (x *index[K, T]) get(key K) *T { return x.records[key] }

func (x *index[K, T]) set(key K, record *T) {
	if x.records == nil {
		x.records = map[K]*T{}
	}
	x.records[key] = record
	x.peak = max(x.peak, len(x.records))
}

func (x *index[K, T]) delete(key K) {
	delete(x.records, key)
	if x.peak < minPeak || len(x.records) > x.peak/8 {
		return
	}
	smaller := make(map[K]*T, 2*len(x.records))
	for k, record := range x.records {
		smaller[k] = record
	}
	x.records, x.peak = smaller, len(smaller)
}
