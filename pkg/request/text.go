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
	end := stringEnd(value, 1)
	return value[1:end]
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

// decode appends the text that a string's content stands for to dst, as valid UTF-8, until the content is used up or
// dst has less than utf8.UTFMax bytes of capacity left. It returns dst and how many bytes of content were used. What isn't
// UTF-8 and lone surrogates become U+FFFD; a broken escape, which only the end of a cut body can have, is left out.
func decode(dst, src []byte) (out []byte, used int) {
	i := 0
	for i < len(src) {
		room := cap(dst) - len(dst)
		if room < utf8.UTFMax {
			break
		}
		if n := plainLen(src[i:min(len(src), i+room)]); n > 0 {
			dst = append(dst, src[i:i+n]...)
			i += n
			continue
		}
		if src[i] != '\\' {
			c, n := utf8.DecodeRune(src[i:])
			dst = utf8.AppendRune(dst, c)
			i += n
			continue
		}
		c, n := unescape(src[i:])
		if c >= 0 {
			dst = utf8.AppendRune(dst, c)
		}
		i += n
	}
	return dst, i
}

// unescape returns the character that the escape at the beginning of b stands for, and the escape's length. The
// character is -1 if the escape is broken.
func unescape(b []byte) (rune, int) {
	if len(b) < 2 {
		return -1, len(b)
	}
	switch c := b[1]; c {
	case 'n':
		return '\n', 2
	case 't':
		return '\t', 2
	case 'r':
		return '\r', 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'u':
		c := unescapeUnit(b)
		if c < 0 {
			return -1, 2
		}
		if !utf16.IsSurrogate(c) {
			return c, 6
		}
		if pair := utf16.DecodeRune(c, unescapeUnit(b[6:])); pair != utf8.RuneError {
			return pair, 12
		}
		return utf8.RuneError, 6
	default:
		return rune(c), 2 // quote, backslash, slash
	}
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
