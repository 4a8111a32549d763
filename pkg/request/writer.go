package request

import (
	"encoding/binary"
	"encoding/hex"

	"github.com/cespare/xxhash/v2"
)

// A TextSink takes the text of a prompt.
type TextSink interface {
	// Text takes the next piece, valid UTF-8, that must not be kept. False means that no more is wanted.
	Text(p []byte) bool
}

// viewLen is the length in bytes from which a piece is passed on as a view of the body instead of being copied together with others.
const viewLen = 512

// A writer joins short pieces of text for a sink.
type writer struct {
	sink   TextSink
	full   bool // the sink wants no more
	n      int
	buf    [4096]byte
	digest xxhash.Digest
}

func (w *writer) start(sink TextSink) {
	w.sink, w.full, w.n = sink, false, 0
}

func (w *writer) finish() {
	w.flush()
	w.sink = nil
}

func (w *writer) flush() {
	if w.n > 0 && !w.full {
		w.full = !w.sink.Text(w.buf[:w.n])
	}
	w.n = 0
}

// plain writes a short text that needs no decoding.
func (w *writer) plain(text string) {
	if w.n+len(text) > len(w.buf) {
		w.flush()
	}
	w.n += copy(w.buf[w.n:], text)
}

// decoded writes what a string's content stands for. It applies to any JSON as well: the text is then the JSON with the escapes in its
// strings resolved.
func (w *writer) decoded(src []byte) {
	for len(src) > 0 && !w.full {
		if len(src) >= viewLen {
			if n := plainLen(src[:min(len(src), len(w.buf))]); n >= viewLen {
				w.flush()
				w.full = w.full || !w.sink.Text(src[:n])
				src = src[n:]
				continue
			}
		}
		out, used := decode(w.buf[:w.n], src)
		w.n = len(out)
		src = src[used:]
		if len(src) > 0 {
			w.flush()
		}
	}
}

// media writes a mark in place of an image, a sound or anything else that isn't text: 16 hexadecimal digits of the hash of its
// URL or data.
func (w *writer) media(src []byte) {
	if w.full {
		return
	}
	w.flush() // hashing uses the buffer
	var sum [8]byte
	binary.BigEndian.PutUint64(sum[:], w.hashDecoded(src))
	w.plain("<|media:")
	if w.n+2*len(sum) <= len(w.buf) {
		w.n += hex.Encode(w.buf[w.n:], sum[:])
	}
	w.plain("|>")
}

// hashDecoded returns the xxhash64 of what a string's content stands for. It uses the buffer, which must be empty.
func (w *writer) hashDecoded(src []byte) uint64 {
	if plainLen(src) == len(src) {
		return xxhash.Sum64(src)
	}
	w.digest.Reset()
	for len(src) > 0 {
		out, used := decode(w.buf[:0], src)
		_, _ = w.digest.Write(out) // never fails
		src = src[used:]
	}
	return w.digest.Sum64()
}
