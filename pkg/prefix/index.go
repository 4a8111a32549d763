package prefix

import (
	"math/bits"
	"math/rand/v2"
	"slices"
	"sort"
	"sync"
)

// batch is how many blocks are worked on under one hold of the lock, which takes about 10 to 20 µs for as many blocks that miss every
// cache (BenchmarkHold).
const batch = 64

// An Index remembers which pod was sent which blocks. Each pod has an LRU list of its own, of at most capacity blocks.
//
// In a pod's list a block always stands before the blocks that continue it. So a block leaves only after all that continue
// it (heads outlive tails), and a pod that holds a block holds the whole chain before it. Match relies on that.
//
// All methods may be called concurrently. Add, Forget and SetCapacity take the write lock for short batches only (about 50 µs at most), so
// that a Match never waits long, whatever the length of a chain or of a pod's list. A Match that falls between two batches sees a chain's
// head without its tail, never a tail without its head.
//
// Pods are small dense numbers: memory for each number up to the largest is about 48 bytes. A number may be given to
// another pod once Forget has returned, if nobody calls Add for the former pod any more.
type Index struct {
	mu        sync.RWMutex
	capacity  int
	pods      []podList
	slab      slab
	table     table
	distinct  int
	evictions uint64
	warmed    uint32 // keeps the reads of warm from being optimised away
}

// podList is one pod's blocks: they fill the slots 0..n-1 of its chunks without a gap, linked from newest to oldest.
type podList struct {
	chunks  []uint32
	n       uint32
	newest  uint32
	oldest  uint32
	leaving bool
}

// Stats is a count of what an Index holds.
type Stats struct {
	Blocks    int    // (pod, block) pairs remembered
	Distinct  int    // different blocks among them
	Pods      int    // pods that hold at least one block
	Bytes     int64  // memory of the index on the heap, in bytes, less the slack of Go's allocator
	Evictions uint64 // blocks that left because a pod was at its capacity, since New or Reset
}

// New returns an empty index that remembers at most capacity blocks for each pod (at least 1).
func New(capacity int) *Index {
	x := &Index{capacity: max(capacity, 1)}
	x.clear()
	return x
}

// Reset forgets everything at once, as after a change of the block size. The capacity stays.
func (x *Index) Reset() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.clear()
}

func (x *Index) clear() {
	x.pods = nil
	x.slab = slab{}
	// The seed keeps clients from aiming prompts at one bucket; no result depends on it.
	x.table = newTable(rand.Uint64() | 1)
	x.distinct = 0
	x.evictions = 0
}

// Match writes into depth[pod], for every pod below len(depth), how many of the leading hashes the pod holds.
// It takes O(b·log len(hashes)) look-ups, where b is the number of different depths found, and writes each pod once.
func (x *Index) Match(hashes []uint64, depth []int32) {
	clear(depth)
	x.mu.RLock()
	defer x.mu.RUnlock()

	// The pods that hold block i+1 are among those that hold block i, so equal counts mean the same pods: the walk needs
	// to look only for the blocks after which the count falls.
	var steps [128]step
	n := 0
	for i := 0; i < len(hashes); {
		first := x.lookup(hashes[i])
		if first == 0 {
			break
		}
		last, holder := x.lastAlike(hashes, i, first)
		if n == len(steps) {
			x.assign(steps[:n], depth)
			n = 0
		}
		steps[n] = step{holder: holder, depth: int32(last + 1)}
		n++
		i = last + 1
	}
	x.assign(steps[:n], depth)
}

// A step is a block after which fewer pods go on: the first of its holders, and the depth at which it stands.
type step struct {
	holder uint32
	depth  int32
}

// lastAlike returns the last block, from i on, that is held by as many pods as block i, and the first of its holders. It gallops
// from i and then halves the gap.
func (x *Index) lastAlike(hashes []uint64, i int, first uint32) (int, uint32) {
	count := x.slab.at(first).holders()
	beyond := len(hashes) // the first block known to differ
	for stride := 1; i+1 < beyond; stride *= 2 {
		probe := min(i+stride, beyond-1)
		id := x.lookup(hashes[probe])
		if id == 0 || x.slab.at(id).holders() != count {
			beyond = probe
			break
		}
		i, first = probe, id
	}
	for i+1 < beyond {
		probe := int(uint(i+beyond) / 2)
		id := x.lookup(hashes[probe])
		if id == 0 || x.slab.at(id).holders() != count {
			beyond = probe
		} else {
			i, first = probe, id
		}
	}
	return i, first
}

// assign writes the depths of steps, which are in order of depth. From the deepest up, each step adds only the pods that stop there; once
// those are found the rest of the holders needn't be visited. Where that takes too long, because many steps have many holders,
// the rest is found pod by pod.
func (x *Index) assign(steps []step, depth []int32) {
	if len(steps) == 0 {
		return
	}
	visits := int(x.slab.at(steps[0].holder).holders()) * bits.Len(uint(len(steps)))
	deeper := uint32(0)
	for i, s := range slices.Backward(steps) {
		if visits < 0 {
			x.assignByPod(steps[:i+1], depth)
			return
		}
		count := x.slab.at(s.holder).holders()
		missing := count - deeper
		for id := s.holder; id != 0 && missing > 0; id = x.slab.at(id).next {
			visits--
			pod := x.slab.owner(id)
			if x.counts(pod, depth) && depth[pod] < s.depth {
				depth[pod] = s.depth
				missing--
			}
		}
		deeper = count
	}
}

// assignByPod is assign by halving for each pod that has no depth beyond these steps.
func (x *Index) assignByPod(steps []step, depth []int32) {
	deepest := steps[len(steps)-1].depth
	for id := steps[0].holder; id != 0; id = x.slab.at(id).next {
		pod := x.slab.owner(id)
		if !x.counts(pod, depth) || depth[pod] > deepest {
			continue
		}
		beyond := sort.Search(len(steps)-1, func(i int) bool {
			holder := steps[i+1].holder
			return x.findAmong(holder, pod, x.slab.at(holder).hash()) == 0
		})
		depth[pod] = steps[beyond].depth
	}
}

// counts says whether a pod is one to match.
func (x *Index) counts(pod uint32, depth []int32) bool {
	return int(pod) < len(depth) && !x.pods[pod].leaving
}

// Add remembers that pod was sent the chain of hashes, which makes them the pod's most recent blocks, the head first. Of a
// chain longer than the capacity the head is remembered. Adding to a pod that is being forgotten does nothing.
func (x *Index) Add(pod uint32, hashes []uint64) {
	for done := 0; done < len(hashes); {
		done = x.addSome(pod, hashes, done)
	}
}

// addSome adds a batch from hashes[from] on and returns where to go on.
func (x *Index) addSome(pod uint32, hashes []uint64, from int) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	for int(pod) >= len(x.pods) {
		x.pods = append(x.pods, podList{})
	}
	end := len(hashes)
	if x.pods[pod].leaving {
		return end
	}
	after := uint32(0)
	if from > 0 {
		// Between two batches another chain may have pushed this one out, or the pod or everything may have been forgotten.
		if after = x.find(pod, hashes[from-1]); after == 0 {
			return end
		}
	}
	stop := max(min(from+batch, end, x.capacity), from)
	warmed := false
	for i := from; i < stop; {
		last, n := x.refresh(pod, hashes[i:stop], after)
		if n == 0 {
			if !warmed {
				x.warm(&x.pods[pod], hashes[i:stop])
				warmed = true
			}
			last, n = x.insert(pod, hashes[i], x.lookup(hashes[i]), after), 1
		}
		if last == 0 {
			return end
		}
		after, i = last, i+n
	}
	if stop >= x.capacity {
		return end
	}
	return stop
}

// warm reads what adding new blocks is about to read here and there, all at once, so that the memory's latencies overlap: the buckets of
// the blocks, those of the blocks that will be evicted for them, and the nodes in both. In a large index that is most of the time.
func (x *Index) warm(list *podList, hashes []uint64) {
	var ids [2 * batch]uint32
	n := 0
	for _, h := range hashes {
		ids[n] = x.table.first(x.table.blockKey(h))
		n++
	}
	if int(list.n) >= x.capacity {
		id := list.oldest
		for range hashes {
			if id == 0 {
				break
			}
			node := x.slab.at(id)
			ids[n] = x.table.first(x.table.blockKey(node.hash()))
			n++
			id = node.newer
		}
	}
	for _, id := range ids[:n] {
		if id != 0 {
			x.warmed += x.slab.at(id).chain
		}
	}
}

// refresh puts the block hashes[0] next in age after the block at after (0: newest of all), and with it those that follow it in hashes
// and already stand behind it in order. It returns where the last of them is and how many they are: none if the pod doesn't hold the first.
func (x *Index) refresh(pod uint32, hashes []uint64, after uint32) (last uint32, n int) {
	list := &x.pods[pod]
	behind := list.newest
	if after != 0 {
		behind = x.slab.at(after).older
	}
	// A chain that was added last still stands in its place.
	if behind != 0 && x.slab.at(behind).has(hashes[0]) {
		return x.run(behind, hashes, after)
	}
	id := x.find(pod, hashes[0])
	switch id {
	case 0:
		return 0, 0
	case after:
		return id, 1
	}
	last, n = x.run(id, hashes, after)
	x.moveRun(list, id, last, after)
	return last, n
}

// run returns the last of the blocks that stand one behind the other from the one at id on as they do in hashes, and how many they are.
// To look at a neighbour is several times cheaper than to look a block up.
func (x *Index) run(id uint32, hashes []uint64, after uint32) (last uint32, n int) {
	for n = 1; n < len(hashes); n++ {
		older := x.slab.at(id).older
		if older == 0 || older == after || !x.slab.at(older).has(hashes[n]) {
			break
		}
		id = older
	}
	return id, n
}

// insert adds a block that the pod doesn't hold; first is the first of its holders, or 0.
func (x *Index) insert(pod uint32, hash uint64, first, after uint32) uint32 {
	list := &x.pods[pod]
	var id uint32
	if int(list.n) >= x.capacity {
		if id = list.oldest; id == after {
			return 0
		}
		x.unlink(list, pod, id)
		x.evictions++
	} else {
		id = x.slab.grow(list, pod)
	}
	node := x.slab.at(id)
	*node = blockNode{hashLow: uint32(hash), hashHigh: uint32(hash >> 32)}
	if first == 0 {
		node.prevOrCount = isFirst | 1
		x.distinct++
		x.table.insert(&x.slab, x.table.blockKey(hash), id)
	} else {
		head := x.slab.at(first)
		head.prevOrCount++
		node.prevOrCount, node.next = first, head.next
		if head.next != 0 {
			x.slab.at(head.next).prevOrCount = id
		}
		head.next = id
		x.table.insert(&x.slab, x.table.pairKey(hash, pod), id)
	}
	x.linkAge(list, id, after)
	return id
}

// Forget removes the pod and all its blocks. Its hits vanish at once; the memory is given back, a short hold of the lock at a time, until
// Forget returns.
func (x *Index) Forget(pod uint32) {
	for x.forgetSome(pod) {
	}
}

func (x *Index) forgetSome(pod uint32) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if int(pod) >= len(x.pods) {
		return false
	}
	list := &x.pods[pod]
	list.leaving = true
	// The oldest first, since the others still match against these counts.
	for range batch {
		if list.n == 0 {
			*list = podList{}
			return false
		}
		x.removeOldest(list, pod)
	}
	return true
}

// SetCapacity changes the number of blocks remembered for each pod (at least 1). Where pods hold more, their oldest blocks are evicted,
// a short hold of the lock at a time, until SetCapacity returns.
func (x *Index) SetCapacity(capacity int) {
	x.mu.Lock()
	x.capacity = max(capacity, 1)
	x.mu.Unlock()
	for pod := uint32(0); ; {
		again, pods := x.shrinkSome(pod)
		if !again {
			pod++
		}
		if int(pod) >= pods {
			return
		}
	}
}

func (x *Index) shrinkSome(pod uint32) (again bool, pods int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if int(pod) >= len(x.pods) {
		return false, len(x.pods)
	}
	list := &x.pods[pod]
	for range batch {
		if int(list.n) <= x.capacity {
			return false, len(x.pods)
		}
		x.removeOldest(list, pod)
		x.evictions++
	}
	return true, len(x.pods)
}

// Stats counts what the index holds. It takes time in proportion to the number of pods.
func (x *Index) Stats() Stats {
	x.mu.RLock()
	defer x.mu.RUnlock()
	s := Stats{Distinct: x.distinct, Evictions: x.evictions, Bytes: x.slab.bytes() + x.table.bytes()}
	for i := range x.pods {
		list := &x.pods[i]
		s.Bytes += podListBytes + 4*int64(cap(list.chunks))
		s.Blocks += int(list.n)
		if list.n > 0 {
			s.Pods++
		}
	}
	return s
}

// PodBlocks returns how many blocks are remembered for the pod.
func (x *Index) PodBlocks(pod uint32) int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if int(pod) >= len(x.pods) || x.pods[pod].leaving {
		return 0
	}
	return int(x.pods[pod].n)
}

// lookup returns the first of the block's holders, or 0.
func (x *Index) lookup(hash uint64) uint32 {
	for id := x.table.first(x.table.blockKey(hash)); id != 0; {
		node := x.slab.at(id)
		if node.has(hash) && node.first() {
			return id
		}
		id = node.chain
	}
	return 0
}

// find returns the pod's node of the block, or 0.
func (x *Index) find(pod uint32, hash uint64) uint32 {
	return x.findAmong(x.lookup(hash), pod, hash)
}

// findAmong is find for a block whose first holder is known.
func (x *Index) findAmong(first, pod uint32, hash uint64) uint32 {
	switch {
	case first == 0:
		return 0
	case x.slab.owner(first) == pod:
		return first
	case x.slab.at(first).holders() == 1:
		return 0
	}
	for id := x.table.first(x.table.pairKey(hash, pod)); id != 0; {
		node := x.slab.at(id)
		if node.has(hash) && !node.first() && x.slab.owner(id) == pod {
			return id
		}
		id = node.chain
	}
	return 0
}

// linkAge puts a node next in age after the node at after (0: newest of all).
func (x *Index) linkAge(list *podList, id, after uint32) {
	older := list.newest
	if after != 0 {
		older = x.slab.at(after).older
	}
	x.join(list, after, id)
	x.join(list, id, older)
}

// moveRun puts the nodes from first to last, which stand one behind the other, next in age after the node at after, which is none of
// them (0: newest of all).
func (x *Index) moveRun(list *podList, first, last, after uint32) {
	x.join(list, x.slab.at(first).newer, x.slab.at(last).older)
	older := list.newest
	if after != 0 {
		older = x.slab.at(after).older
	}
	x.join(list, after, first)
	x.join(list, last, older)
}

// join makes two nodes neighbours in age; 0 in place of one is that end of the list.
func (x *Index) join(list *podList, newer, older uint32) {
	if newer == 0 {
		list.newest = older
	} else {
		x.slab.at(newer).older = older
	}
	if older == 0 {
		list.oldest = newer
	} else {
		x.slab.at(older).newer = newer
	}
}

func (x *Index) unlinkAge(list *podList, id uint32) {
	node := x.slab.at(id)
	x.join(list, node.newer, node.older)
}

// unlink takes a node out of every list; its slot stays the pod's.
func (x *Index) unlink(list *podList, pod, id uint32) {
	x.unlinkAge(list, id)
	node := x.slab.at(id)
	hash := node.hash()
	if !node.first() {
		x.table.remove(&x.slab, x.table.pairKey(hash, pod), id)
		x.slab.at(node.prevOrCount).next = node.next
		if node.next != 0 {
			x.slab.at(node.next).prevOrCount = node.prevOrCount
		}
		x.slab.at(x.lookup(hash)).prevOrCount--
		return
	}
	block := x.table.blockKey(hash)
	x.table.remove(&x.slab, block, id)
	if node.next == 0 {
		x.distinct--
		return
	}
	x.table.remove(&x.slab, x.table.pairKey(hash, x.slab.owner(node.next)), node.next)
	x.slab.at(node.next).prevOrCount = node.prevOrCount - 1
	x.table.insert(&x.slab, block, node.next)
}

// removeOldest removes a pod's oldest block and fills the gap with the pod's last slot, so that slots stay dense and chunks fall free.
func (x *Index) removeOldest(list *podList, pod uint32) {
	gap := list.oldest
	x.unlink(list, pod, gap)
	if last := x.slab.last(list); last != gap {
		x.move(list, pod, last, gap)
	}
	x.slab.shrink(list)
}

// move gives a node another slot of the same pod.
func (x *Index) move(list *podList, pod, from, to uint32) {
	node := x.slab.at(to)
	*node = *x.slab.at(from)
	key := x.table.pairKey(node.hash(), pod)
	if node.first() {
		key = x.table.blockKey(node.hash())
	} else {
		x.slab.at(node.prevOrCount).next = to
	}
	x.table.replace(&x.slab, key, from, to)
	if node.next != 0 {
		x.slab.at(node.next).prevOrCount = to
	}
	if node.newer == 0 {
		list.newest = to
	} else {
		x.slab.at(node.newer).older = to
	}
	if node.older == 0 {
		list.oldest = to
	} else {
		x.slab.at(node.older).newer = to
	}
}
