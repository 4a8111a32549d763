package request

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
)

// isString says whether a value is a whole JSON string.
func isString(value []byte) bool {
	return len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"'
}

// content returns what stands between a string's quotes, also if a cut took the second one.
func content(value []byte) []byte {
	if len(value) >= 2 && value[len(value)-1] == '"' {
		return value[1 : len(value)-1]
	}
	return value[1:]
}

// plainLen returns how many bytes at the beginning of b are ASCII without backslash.
func plainLen(b []byte) int {
	i := 0
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		slash := x ^ ones*'\\'
		if m := ((slash-ones)&^slash | x) & highs; m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
	}
	for ; i < len(b); i++ {
		if b[i] == '\\' || b[i] >= utf8.RuneSelf {
			break
		}
	}
	return i
}

// simpleEscapes holds what a character stands for behind a backslash; 0 is none, or a longer escape.
var simpleEscapes = [256]byte{'n': '\n', '"': '"', '\\': '\\', 't': '\t', '/': '/', 'r': '\r', 'b': '\b', 'f': '\f'}

// decode appends the text that a string's content stands for to dst, as valid UTF-8, until the content is used up or
// dst has less than 8 bytes of capacity left. It returns dst and how many bytes of content were used. What isn't
// UTF-8 and lone surrogates become U+FFFD; a broken escape, which only a cut body can have, is left out.
func decode(dst, src []byte) (out []byte, used int) {
	buf := dst[:cap(dst)]
	n, i := len(dst), 0
	for i < len(src) && n+8 <= len(buf) {
		if i+8 <= len(src) {
			// Eight bytes are copied whole; those from the first special one on are overwritten later.
			x := binary.LittleEndian.Uint64(src[i:])
			binary.LittleEndian.PutUint64(buf[n:], x)
			slash := x ^ ones*'\\'
			m := ((slash-ones)&^slash | x) & highs
			if m == 0 {
				i, n = i+8, n+8
				continue
			}
			plain := bits.TrailingZeros64(m) >> 3
			i, n = i+plain, n+plain
		}
		c := src[i]
		if c == '\\' && i+1 < len(src) && simpleEscapes[src[i+1]] != 0 {
			buf[n] = simpleEscapes[src[i+1]]
			i, n = i+2, n+1
			continue
		}
		if c < utf8.RuneSelf && c != '\\' {
			buf[n] = c
			i, n = i+1, n+1
			continue
		}
		if n+utf8.UTFMax > len(buf) {
			break
		}
		var r rune
		var size int
		if c == '\\' {
			r, size = unescape(src[i:])
		} else {
			r, size = utf8.DecodeRune(src[i:])
		}
		if r >= 0 {
			n += utf8.EncodeRune(buf[n:], r)
		}
		i += size
	}
	return buf[:n], i
}

// unescape returns the character that the long escape at the beginning of b stands for, and the escape's length. The
// character is -1 if the escape is broken.
func unescape(b []byte) (rune, int) {
	c := unescapeUnit(b)
	if c < 0 {
		if len(b) < 6 {
			return -1, len(b)
		}
		return -1, 2
	}
	if !utf16.IsSurrogate(c) {
		return c, 6
	}
	if pair := utf16.DecodeRune(c, unescapeUnit(b[6:])); pair != utf8.RuneError {
		return pair, 12
	}
	return utf8.RuneError, 6
}

// unescapeUnit returns the UTF-16 unit that b begins with as \uXXXX, or -1.
func unescapeUnit(b []byte) rune {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return -1
	}
	c := unhex(b[2])<<12 | unhex(b[3])<<8 | unhex(b[4])<<4 | unhex(b[5])
	return rune(max(c, -1))
}

// plainKey returns a member's name without escapes: the name itself, or decoded over dst, or nil if dst has no room for it.
func plainKey(dst, key []byte) []byte {
	if bytes.IndexByte(key, '\\') < 0 {
		return key
	}
	if name, used := decode(dst, key); used == len(key) {
		return name
	}
	return nil
}

// appendQuoted appends text as a JSON string; what isn't UTF-8 becomes U+FFFD.
func appendQuoted(dst []byte, text string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for _, c := range text {
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', byte(c))
		case c < ' ':
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			dst = utf8.AppendRune(dst, c)
		}
	}
	return append(dst, '"')
}
