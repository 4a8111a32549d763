package request

import (
	"encoding/binary"
	"math/bits"
)

// maxDepth is how many arrays and objects may be open at once. Chat bodies need about a dozen, tool schemas some dozens.
const maxDepth = 512

// A scanner checks JSON without recursion. Its methods take the offset where something begins and return the offset behind it,
// or -1 after the first failure, which they note.
type scanner struct {
	b        []byte
	failedAt int
	expected string

	counting    bool   // strings under way belong to the prompt
	countingIDs bool   // so do numbers
	key         span   // the last member's name that was read
	textLen     int    // bytes of the strings and numbers counted
	numbers     int    // numbers counted
	long        []span // strings counted that are long, in order, as many as fit
}

// A span is b[off:end]; the zero span is none.
type span struct{ off, end int }

func (s span) of(b []byte) []byte { return b[s.off:s.end] }
func (s span) none() bool         { return s.end == 0 }

func (s *scanner) fail(at int, expected string) int {
	s.failedAt, s.expected = at, expected
	return -1
}

// space skips white space.
func (s *scanner) space(i int) int {
	for i < len(s.b) {
		switch s.b[i] {
		case ' ', '\n', '\t', '\r':
			i++
		default:
			return i
		}
	}
	return i
}

// value checks one value of any kind, with outer arrays and objects open around it.
func (s *scanner) value(i, outer int) int {
	var stack [maxDepth / 64]uint64 // one bit for each open container: 1 is an object
	depth := 0
	b := s.b

value:
	if i >= len(b) {
		return s.fail(i, aValue)
	}
	switch c := b[i]; {
	case c == '"':
		end := s.str(i + 1)
		if end < 0 {
			return -1
		}
		if s.counting {
			s.countString(span{i + 1, end})
		}
		i = end + 1
	case c == '{' || c == '[':
		if outer+depth >= maxDepth {
			return s.fail(i, "at most 512 nested arrays and objects")
		}
		word, bit := depth>>6, uint64(1)<<(depth&63)
		depth++
		i = s.space(i + 1)
		if c == '{' {
			stack[word] |= bit
			if i >= len(b) || b[i] != '}' {
				goto key
			}
		} else {
			stack[word] &^= bit
			if i >= len(b) || b[i] != ']' {
				goto value
			}
		}
		i++
		depth--
	case c == '-' || c >= '0' && c <= '9':
		end := s.number(i)
		if end < 0 {
			return -1
		}
		if s.countingIDs {
			s.textLen += end - i
			s.numbers++
		}
		i = end
	case c == 't':
		i = s.literal(i, "true")
	case c == 'f':
		i = s.literal(i, "false")
	case c == 'n':
		i = s.literal(i, "null")
	default:
		return s.fail(i, aValue)
	}
	if i < 0 {
		return -1
	}

after:
	if depth == 0 {
		return i
	}
	i = s.space(i)
	if stack[(depth-1)>>6]>>((depth-1)&63)&1 == 0 {
		if i < len(b) && b[i] == ',' {
			i = s.space(i + 1)
			goto value
		}
		if i < len(b) && b[i] == ']' {
			i++
			depth--
			goto after
		}
		return s.fail(i, "',' or ']' after an element")
	}
	if i < len(b) && b[i] == '}' {
		i++
		depth--
		goto after
	}
	if i >= len(b) || b[i] != ',' {
		return s.fail(i, "',' or '}' after a member")
	}
	i = s.space(i + 1)

key:
	if i = s.member(i); i < 0 {
		return -1
	}
	goto value
}

// member checks a member's name and the colon, and returns the offset of its value.
func (s *scanner) member(i int) int {
	if i >= len(s.b) || s.b[i] != '"' {
		return s.fail(i, "a member's name in double quotes")
	}
	end := s.str(i + 1)
	if end < 0 {
		return -1
	}
	s.key = span{i + 1, end}
	if i = s.space(end + 1); i >= len(s.b) || s.b[i] != ':' {
		return s.fail(i, "':' after a member's name")
	}
	return s.space(i + 1)
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// special marks, by the top bit of each byte, quotes, backslashes and control characters. Only the lowest mark is sure.
func special(x uint64) uint64 {
	// With the bit 0x02 turned, a quote is 0x20 and the control characters are still those below.
	low := x ^ ones*0x02
	slash := x ^ ones*'\\'
	return ((low-ones*0x21)&^low | (slash-ones)&^slash) & highs
}

// str checks the string whose content begins at i and returns the offset of the closing quote.
func (s *scanner) str(i int) int {
	b := s.b
	for {
		for p := b[i:]; len(p) >= 8; p = p[8:] {
			if m := special(binary.LittleEndian.Uint64(p)); m != 0 {
				i += bits.TrailingZeros64(m) >> 3
				goto found
			}
			i += 8
		}
		for ; i < len(b); i++ {
			if c := b[i]; c == '"' || c == '\\' || c < ' ' {
				goto found
			}
		}
		return s.fail(len(b), "'\"' at the end of a string")
	found:
		if b[i] == '"' {
			return i
		}
		if b[i] != '\\' {
			return s.fail(i, "an escape instead of a control character in a string")
		}
		if i+1 < len(b) && simpleEscapes[b[i+1]] != 0 {
			i += 2
			continue
		}
		if i = s.escape(i + 1); i < 0 {
			return -1
		}
	}
}

// escape checks a longer escape, from behind its backslash.
func (s *scanner) escape(i int) int {
	if i >= len(s.b) {
		return s.fail(i, "a character after a backslash")
	}
	if s.b[i] != 'u' {
		return s.fail(i, "one of \"\\/bfnrtu after a backslash")
	}
	for n := 1; n <= 4; n++ {
		if i+n >= len(s.b) || unhex(s.b[i+n]) < 0 {
			return s.fail(i+n, "four hexadecimal digits after \\u")
		}
	}
	return i + 5
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// literal checks that word begins at i. Any other word is none of JSON's, unless the body ends too early.
func (s *scanner) literal(i int, word string) int {
	for n := range len(word) {
		if i+n >= len(s.b) {
			return s.fail(i+n, word)
		}
		if s.b[i+n] != word[n] {
			return s.fail(i, aValue)
		}
	}
	return i + len(word)
}

func (s *scanner) number(i int) int {
	if s.b[i] == '-' {
		i++
	}
	if i < len(s.b) && s.b[i] == '0' {
		i++
	} else if i = s.digits(i); i < 0 {
		return -1
	}
	if i < len(s.b) && s.b[i] == '.' {
		if i = s.digits(i + 1); i < 0 {
			return -1
		}
	}
	if i < len(s.b) && s.b[i]|0x20 == 'e' {
		i++
		if i < len(s.b) && (s.b[i] == '+' || s.b[i] == '-') {
			i++
		}
		return s.digits(i)
	}
	return i
}

// digits checks one digit or more.
func (s *scanner) digits(i int) int {
	from := i
	for i < len(s.b) && s.b[i]-'0' <= 9 {
		i++
	}
	if i == from {
		return s.fail(i, "a digit")
	}
	return i
}

// shortText is the length, in bytes, up to which a string counts as text whatever its member's name is.
const shortText = 64

// countString counts a string of the prompt, unless it is an image, a sound or a file.
func (s *scanner) countString(text span) {
	n := text.end - text.off
	if n > shortText {
		if len(s.long) < cap(s.long) {
			s.long = append(s.long, text)
		}
		switch memberOf(s.key.of(s.b)) {
		case memberMedia, memberPayload, memberFile, memberOpaque:
			return
		}
	}
	s.textLen += n
}
