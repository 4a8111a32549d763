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

// A writer walks through a prompt and joins its short pieces of text for a sink.
type writer struct {
	walker
	sink   TextSink
	full   bool // the sink wants no more
	n      int
	buf    [4096]byte
	digest xxhash.Digest
}

func (w *writer) start(sink TextSink, walker walker) {
	w.walker = walker
	w.sink, w.full, w.n = sink, false, 0
}

func (w *writer) finish() {
	w.flush()
	w.sink, w.walker = nil, walker{}
}

func (w *writer) is(value span, json string) bool { return string(value.of(w.b)) == json }

// text writes a string's text; of other JSON, what stands there; nothing for null.
func (w *writer) text(value span) {
	switch {
	case value.none() || w.is(value, "null"):
	case w.first(value) == '"':
		w.decoded(content(value.of(w.b)))
	default:
		w.decoded(value.of(w.b))
	}
	w.stopAtCut(value.end)
}

func (w *writer) flush() {
	if w.n > 0 {
		w.full = !w.sink.Text(w.buf[:w.n]) || w.full
	}
	w.n = 0
}

// stopAtCut ends the writing where the body was cut, which the end of a value at the body's end tells: of a whole body, at least the
// brace that closes it follows.
func (w *writer) stopAtCut(end int) {
	if end >= len(w.b) {
		w.full = true
	}
}

// plain writes a short text that needs no decoding.
func (w *writer) plain(text string) {
	if w.full {
		return
	}
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
	w.flush() // hashing uses the buffer
	if w.full {
		return
	}
	var sum [8]byte
	binary.BigEndian.PutUint64(sum[:], w.hashDecoded(src))
	w.plain("<|media:")
	w.n += hex.Encode(w.buf[w.n:], sum[:])
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
