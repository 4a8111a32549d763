package prefix

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"
)

// identityMark stands between the model and the identity in the bytes of h0. It occurs in no valid UTF-8, hence in no
// model name, so that no model with an identity can look like another model without one.
const identityMark = 0xff

// A Hasher cuts the text of one prompt into blocks of characters and chains their hashes:
//
//	h0  = xxhash64(model)                       when the identity is empty
//	h0  = xxhash64(model ‖ 0xff ‖ identity)     otherwise
//	h_i = xxhash64(block_i ‖ h_{i-1})           the block's UTF-8 bytes, then h_{i-1} as 8 bytes, little-endian
//
// A character is one Unicode code point. A last block that isn't full is dropped. The pieces that Text is given must
// together be valid UTF-8; they may be cut anywhere, even within a character. (Other bytes are hashed as they are; where
// such blocks end is arbitrary but the same for any cutting.)
//
// The zero value is ready for Reset. A Hasher is for one goroutine at a time; it is reused by Reset and keeps one buffer of
// at most 4·blockChars+8 bytes (or the length of model and identity).
type Hasher struct {
	blockChars int
	maxBlocks  int
	sum        []uint64
	prev       uint64
	chars      int    // characters of the block under way that are complete
	lacking    int    // bytes that the character under way still lacks
	buf        []byte // bytes of the block under way
}

// Reset starts a prompt: at most maxBlocks hashes of blocks of blockChars characters (at least 1) are written over dst,
// which grows only if it is too small.
func (h *Hasher) Reset(blockChars, maxBlocks int, dst []uint64, model string, identity []byte) {
	h.blockChars = max(blockChars, 1)
	h.maxBlocks = maxBlocks
	h.sum = dst[:0]
	h.chars, h.lacking = 0, 0
	if len(identity) == 0 {
		h.prev = xxhash.Sum64String(model)
	} else {
		h.buf = append(h.buf[:0], model...)
		h.buf = append(h.buf, identityMark)
		h.buf = append(h.buf, identity...)
		h.prev = xxhash.Sum64(h.buf)
	}
	h.buf = h.buf[:0]
}

// Text takes the next piece of the prompt and reports whether more could still change the hashes: false means that maxBlocks
// blocks are complete.
func (h *Hasher) Text(p []byte) bool {
	for len(h.sum) < h.maxBlocks {
		if len(p) == 0 {
			return true
		}
		n := h.take(p)
		h.buf = append(h.buf, p[:n]...)
		if h.chars < h.blockChars {
			return true
		}
		h.endBlock()
		p = p[n:]
	}
	return false
}

// Sum returns the chained hashes of the full blocks so far, first block first. It is the dst of Reset (or what it grew to) and
// valid until the next Reset.
func (h *Hasher) Sum() []uint64 { return h.sum }

func (h *Hasher) endBlock() {
	h.buf = binary.LittleEndian.AppendUint64(h.buf, h.prev)
	h.prev = xxhash.Sum64(h.buf)
	h.sum = append(h.sum, h.prev)
	h.buf = h.buf[:0]
	h.chars = 0
}

const highBits = 0x8080808080808080

// take counts the characters of p into the block under way until it is full and returns how many bytes of p that took.
func (h *Hasher) take(p []byte) int {
	i := 0
	for h.chars < h.blockChars && i < len(p) {
		if h.lacking == 0 {
			room := h.blockChars - h.chars
			for room >= 32 && len(p)-i >= 32 {
				w := p[i : i+32 : i+32]
				if (binary.LittleEndian.Uint64(w)|binary.LittleEndian.Uint64(w[8:])|
					binary.LittleEndian.Uint64(w[16:])|binary.LittleEndian.Uint64(w[24:]))&highBits != 0 {
					break
				}
				i, room = i+32, room-32
			}
			for room >= 8 && len(p)-i >= 8 && binary.LittleEndian.Uint64(p[i:])&highBits == 0 {
				i, room = i+8, room-8
			}
			for room > 0 && i < len(p) && p[i] < 0x80 {
				i, room = i+1, room-1
			}
			h.chars = h.blockChars - room
			if room == 0 || i == len(p) {
				return i
			}
			h.lacking = continuationBytes(p[i])
		} else {
			h.lacking--
		}
		i++
		if h.lacking == 0 {
			h.chars++
		}
	}
	return i
}

// continuationBytes returns how many bytes follow the first byte of a character.
func continuationBytes(lead byte) int {
	switch {
	case lead >= 0xf0:
		return 3
	case lead >= 0xe0:
		return 2
	case lead >= 0xc0:
		return 1
	default:
		return 0
	}
}
