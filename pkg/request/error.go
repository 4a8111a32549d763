package request

import (
	"bytes"
	"fmt"
)

// A SyntaxError says where a body stops being JSON.
type SyntaxError struct {
	Offset   int    // bytes before the byte or the word that is wrong; the body's length if it ends too early
	Expected string // what JSON would have there
	Got      string // what is there instead
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("malformed JSON at byte %d: expected %s, got %s", e.Offset, e.Expected, e.Got)
}

// Position returns the line and the column (in bytes), both from 1, of the error in the body that was parsed.
func (e *SyntaxError) Position(body []byte) (line, column int) {
	before := body[:min(e.Offset, len(body))]
	return bytes.Count(before, []byte{'\n'}) + 1, len(before) - bytes.LastIndexByte(before, '\n')
}

func newSyntaxError(body []byte, offset int, expected string) *SyntaxError {
	e := &SyntaxError{Offset: offset, Expected: expected}
	switch {
	case len(body) == 0:
		e.Got = "an empty body"
	case offset >= len(body):
		e.Got = "the end of the body"
	case expected == aValue && isLetter(body[offset]):
		e.Got = wordAt(body[offset:])
	case body[offset] > ' ' && body[offset] < 0x7f:
		e.Got = fmt.Sprintf("'%c'", body[offset])
	default:
		e.Got = fmt.Sprintf("byte 0x%02x", body[offset])
	}
	return e
}

// aValue is what is expected where any JSON value would do. A word there is told whole: it is mostly the beginning of a
// text that is no JSON at all, or a name that JSON doesn't know.
const aValue = "a value"

// maxWord is how many bytes of a word are told; "undefined" and its like fit.
const maxWord = 20

// wordAt quotes the word of letters, digits and underscores that b begins with.
func wordAt(b []byte) string {
	n := 1
	for n < len(b) && n <= maxWord && (isLetter(b[n]) || b[n]-'0' <= 9 || b[n] == '_') {
		n++
	}
	if n > maxWord {
		return fmt.Sprintf("%q...", b[:maxWord])
	}
	return fmt.Sprintf("%q", b[:n])
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
