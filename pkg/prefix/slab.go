package prefix

import "unsafe"

// chunkNodes nodes of 28 bytes make 14,336 bytes, which is one of the allocator's sizes, so that nothing is wasted beside a pod's last,
// partly filled chunk.
const (
	chunkShift = 9
	chunkNodes = 1 << chunkShift
)

const (
	chunkBytes    = int64(unsafe.Sizeof([chunkNodes]blockNode{}))
	chunkRefBytes = int64(unsafe.Sizeof(chunk{}))
	podListBytes  = int64(unsafe.Sizeof(podList{}))
)

// A blockNode says that one pod holds one block. Nodes refer to one another by number, below 2^31; 0 is none. All fields are of 4
// bytes, lest a node be padded to 32.
type blockNode struct {
	hashLow, hashHigh uint32
	newer, older      uint32 // neighbours in the pod's LRU list
	next              uint32 // next of the block's holders
	prevOrCount       uint32 // previous of the block's holders; in the first of them isFirst and their number
	chain             uint32 // next node in the same bucket
}

const isFirst = 1 << 31

func (n *blockNode) hash() uint64 { return uint64(n.hashHigh)<<32 | uint64(n.hashLow) }

func (n *blockNode) has(hash uint64) bool {
	return n.hashLow == uint32(hash) && n.hashHigh == uint32(hash>>32)
}

// first says whether a node is the first of its block's holders, by which the block is found.
func (n *blockNode) first() bool { return n.prevOrCount&isFirst != 0 }

// holders returns how many pods hold the block, of the first of its holders.
func (n *blockNode) holders() uint32 { return n.prevOrCount &^ isFirst }

// A slab holds the nodes of all pods in chunks without pointers, each of which belongs to one pod: whatever a pod held goes back
// to the garbage collector with its chunks, and a node's pod is known from its number.
type slab struct {
	chunks []chunk // chunk 0 isn't used, so that no node has number 0
	free   []uint32
}

type chunk struct {
	nodes *[chunkNodes]blockNode
	pod   uint32
}

func (s *slab) at(id uint32) *blockNode {
	return &s.chunks[id>>chunkShift].nodes[id%chunkNodes]
}

func (s *slab) owner(id uint32) uint32 { return s.chunks[id>>chunkShift].pod }

// grow returns the pod's next slot.
func (s *slab) grow(list *podList, pod uint32) uint32 {
	slot := list.n % chunkNodes
	if slot == 0 {
		list.chunks = append(list.chunks, s.allocate(pod))
	}
	list.n++
	return list.chunks[len(list.chunks)-1]<<chunkShift | slot
}

// last returns the pod's last slot in use.
func (s *slab) last(list *podList) uint32 {
	slot := list.n - 1
	return list.chunks[slot>>chunkShift]<<chunkShift | slot%chunkNodes
}

// shrink gives up the pod's last slot.
func (s *slab) shrink(list *podList) {
	list.n--
	if list.n%chunkNodes != 0 {
		return
	}
	i := len(list.chunks) - 1
	number := list.chunks[i]
	s.chunks[number] = chunk{}
	s.free = append(s.free, number)
	list.chunks = list.chunks[:i]
	if len(s.free) == len(s.chunks)-1 {
		*s = slab{} // all are free: so is the room for their numbers
	}
}

func (s *slab) allocate(pod uint32) uint32 {
	c := chunk{nodes: new([chunkNodes]blockNode), pod: pod}
	if n := len(s.free); n > 0 {
		number := s.free[n-1]
		s.free = s.free[:n-1]
		s.chunks[number] = c
		return number
	}
	if len(s.chunks) == 0 {
		s.chunks = append(s.chunks, chunk{})
	}
	s.chunks = append(s.chunks, c)
	return uint32(len(s.chunks) - 1)
}

func (s *slab) bytes() int64 {
	used := max(len(s.chunks)-1-len(s.free), 0)
	return int64(used)*chunkBytes + int64(cap(s.chunks))*chunkRefBytes + 4*int64(cap(s.free))
}
