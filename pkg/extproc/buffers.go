package extproc

import (
	"math/bits"
	"sync"

	"google.golang.org/grpc/mem"
)

// Buffers are pooled in sizes of powers of two from smallestBuffer to largestBuffer; what is larger is left to the
// garbage collector.
const (
	smallestBufferBits = 12 // 4 KiB
	largestBufferBits  = 25 // 32 MiB, the default bound of a request body
)

// bufferPool is a mem.BufferPool whose buffers come as they were left. grpc's own clears what it gives out, in steps as
// coarse as 32 KiB to 1 MiB: for a body of 40 KB that costs more than reading it. Safe for concurrent use.
type bufferPool struct {
	sizes [largestBufferBits - smallestBufferBits + 1]sync.Pool
}

func (p *bufferPool) Get(n int) *[]byte {
	if n > 1<<largestBufferBits {
		b := make([]byte, n)
		return &b
	}
	size := 0
	if n > 1<<smallestBufferBits {
		size = bits.Len(uint(n-1)) - smallestBufferBits
	}
	if b, ok := p.sizes[size].Get().(*[]byte); ok {
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n, 1<<(size+smallestBufferBits))
	return &b
}

func (p *bufferPool) Put(b *[]byte) {
	c := cap(*b)
	if c < 1<<smallestBufferBits || c > 1<<largestBufferBits || c&(c-1) != 0 {
		return
	}
	p.sizes[bits.Len(uint(c))-1-smallestBufferBits].Put(b)
}

// span is a stretch of bytes inside a buffer that somebody else holds a reference of.
type span struct {
	buffer   mem.Buffer
	from, to int
}

func (s span) bytes() []byte { return s.buffer.ReadOnlyData()[s.from:s.to] }
func (s span) len() int      { return s.to - s.from }

// view gives the stretch as a buffer with a reference of its own.
func (s span) view() mem.Buffer { return s.buffer.Slice(s.from, s.to) }

// body gathers the bytes of one HTTP body that comes in messages. A body that came whole in one receive buffer stays
// there, held by a reference; anything else is joined in one pooled buffer that grows by doubling, so that a body costs
// one copy and a million small chunks cost no more than a few large ones, and receive buffers go back at once.
//
// The owner calls free when it needs the body no more; views given out by spans live on by their own references.
type body struct {
	pool   mem.BufferPool
	whole  span    // valid when buffer is set
	joined *[]byte // otherwise, when set
	sealed mem.Buffer
}

func (b *body) len() int {
	switch {
	case b.whole.buffer != nil:
		return b.whole.len()
	case b.joined != nil:
		return len(*b.joined)
	}
	return 0
}

// add takes in the body bytes of m, which the caller may release afterwards.
func (b *body) add(m *inbound) {
	if m.bodyLen == 0 {
		return
	}
	if b.len() == 0 && b.joined == nil && len(m.body) == 1 {
		b.whole = m.body[0]
		b.whole.buffer.Ref()
		return
	}
	b.reserve(b.len() + m.bodyLen)
	for _, s := range m.body {
		*b.joined = append(*b.joined, s.bytes()...)
	}
}

// reserve makes room for n bytes in the joined buffer, and moves there what lies elsewhere.
func (b *body) reserve(n int) {
	if b.joined != nil && n <= cap(*b.joined) {
		return
	}
	if b.joined != nil {
		n = max(n, 2*cap(*b.joined))
	}
	grown := b.pool.Get(n)
	*grown = append((*grown)[:0], b.bytes()...)
	b.free()
	b.joined = grown
}

// pinLimit is the length below which a body that has to wait is copied: it may share a frame of 16 KiB with other
// messages of its stream, and would hold all of that.
const pinLimit = 8 << 10

// unpin copies a small body out of its receive buffer, for a request that may wait.
func (b *body) unpin() {
	if n := b.whole.len(); b.whole.buffer != nil && n < pinLimit {
		b.reserve(n)
	}
}

// bytes gives the body, valid until the next add or free. Nobody may write to it.
func (b *body) bytes() []byte {
	switch {
	case b.whole.buffer != nil:
		return b.whole.bytes()
	case b.joined != nil:
		return *b.joined
	}
	return nil
}

// span gives bytes from up to to of the body as a stretch that is valid until free. Nothing may be added after it.
func (b *body) span(from, to int) span {
	if b.whole.buffer != nil {
		return span{b.whole.buffer, b.whole.from + from, b.whole.from + to}
	}
	if b.sealed == nil {
		b.sealed = mem.NewBuffer(b.joined, b.pool)
	}
	return span{b.sealed, from, to}
}

// free gives up the body's memory; the body is then empty and ready for use.
func (b *body) free() {
	switch {
	case b.whole.buffer != nil:
		b.whole.buffer.Free()
	case b.sealed != nil:
		b.sealed.Free()
	case b.joined != nil:
		b.pool.Put(b.joined)
	}
	b.whole, b.joined, b.sealed = span{}, nil, nil
}
