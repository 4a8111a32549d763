package prefix

import "math/bits"

// segmentBuckets buckets of 4 bytes are allocated, and given back, together.
const (
	segmentShift   = 10
	segmentBuckets = 1 << segmentShift
	segmentBytes   = 4 * segmentBuckets
)

// A table is a linear hash table (W. Litwin, VLDB 1980) of node numbers, chained through the nodes: with every node added at most
// one bucket is split, and with every node removed at most two merged, so that there is no pause to rehash and no doubling of memory.
//
// Each node is in one bucket: the first of a block's holders under the block's key, so that it is found for all pods, the
// others under the key of block and pod.
type table struct {
	seed     uint64
	segments []*[segmentBuckets]uint32
	buckets  uint32
	nodes    uint32
}

func newTable(seed uint64) table {
	return table{seed: seed, segments: []*[segmentBuckets]uint32{new([segmentBuckets]uint32)}, buckets: segmentBuckets}
}

func (t *table) blockKey(hash uint64) uint32 {
	return uint32(hash * t.seed >> 32)
}

func (t *table) pairKey(hash uint64, pod uint32) uint32 {
	return uint32((hash + (uint64(pod)+1)*0x9e3779b97f4a7c15) * t.seed >> 32)
}

func (t *table) key(s *slab, id uint32) uint32 {
	node := s.at(id)
	if node.first() {
		return t.blockKey(node.hash())
	}
	return t.pairKey(node.hash(), s.owner(id))
}

// bucket returns where a key belongs: by as many low bits as number the buckets, or by one bit less where that bucket
// isn't split off yet.
func (t *table) bucket(key uint32) *uint32 {
	mask := uint32(1)<<bits.Len32(t.buckets-1) - 1
	i := key & mask
	if i >= t.buckets {
		i &= mask >> 1
	}
	return t.slot(i)
}

func (t *table) slot(i uint32) *uint32 { return &t.segments[i>>segmentShift][i%segmentBuckets] }

func (t *table) first(key uint32) uint32 { return *t.bucket(key) }

func (t *table) insert(s *slab, key, id uint32) {
	b := t.bucket(key)
	s.at(id).chain = *b
	*b = id
	t.nodes++
	if t.nodes > t.buckets {
		t.split(s)
	}
}

func (t *table) remove(s *slab, key, id uint32) {
	link := t.bucket(key)
	for *link != id {
		link = &s.at(*link).chain
	}
	*link = s.at(id).chain
	t.nodes--
	// Two at most, so that the buckets keep up with the nodes.
	for range 2 {
		if t.buckets > segmentBuckets && t.nodes < t.buckets-t.buckets/4 {
			t.merge(s)
		}
	}
}

func (t *table) replace(s *slab, key, from, to uint32) {
	link := t.bucket(key)
	for *link != from {
		link = &s.at(*link).chain
	}
	*link = to
}

func (t *table) split(s *slab) {
	added := t.buckets
	if added%segmentBuckets == 0 {
		t.segments = append(t.segments, new([segmentBuckets]uint32))
	}
	t.buckets++
	old, fresh := t.slot(sibling(added)), t.slot(added)
	id := *old
	for *old = 0; id != 0; {
		node := s.at(id)
		next := node.chain
		to := t.bucket(t.key(s, id))
		if to != fresh {
			to = old
		}
		node.chain, *to = *to, id
		id = next
	}
}

func (t *table) merge(s *slab) {
	t.buckets--
	gone := t.slot(t.buckets)
	link := t.slot(sibling(t.buckets))
	for *link != 0 {
		link = &s.at(*link).chain
	}
	*link, *gone = *gone, 0
	if t.buckets%segmentBuckets == 0 {
		t.segments[len(t.segments)-1] = nil
		t.segments = t.segments[:len(t.segments)-1]
	}
}

// sibling returns the bucket that bucket i was, or will be, split from.
func sibling(i uint32) uint32 { return i &^ (1 << (bits.Len32(i) - 1)) }

func (t *table) bytes() int64 {
	return int64(len(t.segments))*segmentBytes + 8*int64(cap(t.segments))
}
