package prefix_test

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"
)

// slowHashes computes a prompt's block hashes as the documentation of Hasher says, with no thought of speed.
func slowHashes(blockChars, maxBlocks int, model string, identity []byte, text string) []uint64 {
	start := []byte(model)
	if len(identity) > 0 {
		start = append(append(start, 0xff), identity...)
	}
	previous := xxhash.Sum64(start)
	var hashes []uint64
	for chars := []rune(text); len(chars) >= blockChars && len(hashes) < maxBlocks; chars = chars[blockChars:] {
		block := []byte(string(chars[:blockChars]))
		previous = xxhash.Sum64(binary.LittleEndian.AppendUint64(block, previous))
		hashes = append(hashes, previous)
	}
	return hashes
}

// slowIndex is an Index without any cleverness: each pod's blocks from newest to oldest.
type slowIndex struct {
	capacity int
	pods     map[uint32][]uint64
}

func newSlowIndex(capacity int) *slowIndex {
	return &slowIndex{capacity: capacity, pods: map[uint32][]uint64{}}
}

func (x *slowIndex) add(pod uint32, hashes []uint64) {
	hashes = hashes[:min(len(hashes), x.capacity)]
	list := append([]uint64{}, hashes...)
	for _, h := range x.pods[pod] {
		if !contains(hashes, h) {
			list = append(list, h)
		}
	}
	x.pods[pod] = list[:min(len(list), x.capacity)]
}

func (x *slowIndex) setCapacity(capacity int) {
	x.capacity = capacity
	for pod, list := range x.pods {
		x.pods[pod] = list[:min(len(list), capacity)]
	}
}

func (x *slowIndex) match(hashes []uint64, pods int) []int32 {
	depth := make([]int32, pods)
	for pod := range depth {
		for _, h := range hashes {
			if !contains(x.pods[uint32(pod)], h) {
				break
			}
			depth[pod]++
		}
	}
	return depth
}

func contains(list []uint64, h uint64) bool {
	for _, other := range list {
		if other == h {
			return true
		}
	}
	return false
}
