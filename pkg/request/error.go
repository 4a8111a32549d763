package request

import (
	"bytes"
	"fmt"
)

// A SyntaxError says where a body stops being JSON.
type SyntaxError struct {
	Offset   int    // bytes before the one that is wrong; the body's length if it ends too early
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
	case body[offset] > ' ' && body[offset] < 0x7f:
		e.Got = fmt.Sprintf("'%c'", body[offset])
	default:
		e.Got = fmt.Sprintf("byte 0x%02x", body[offset])
	}
	return e
}
