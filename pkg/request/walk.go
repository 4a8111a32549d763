package request

import (
	"bytes"
	"slices"
)

// A walker goes again through what the scanner checked, or what a cut left of it. It comes to an end on any bytes, but can't tell good
// from bad. Its methods take and return offsets in b.
type walker struct {
	b    []byte
	long []span // the strings longer than shortText in b whose ends are known, in order
	hint int    // where in long the next one is expected
}

// stringEnd returns the offset of the quote that closes the string whose content begins at i, or len(b).
func (w *walker) stringEnd(i int) int {
	if w.hint < len(w.long) && w.long[w.hint].off == i {
		w.hint++
		return w.long[w.hint-1].end
	}
	if end, ok := closingQuote(w.b[:min(i+shortText+1, len(w.b))], i); ok {
		return end
	}
	n, ok := slices.BinarySearchFunc(w.long, i, func(s span, off int) int { return s.off - off })
	if ok {
		w.hint = n + 1
		return w.long[n].end
	}
	end, _ := closingQuote(w.b, i)
	return end
}

// closingQuote returns the offset of the quote that closes the string whose content begins at i; if there is none, len(b).
func closingQuote(b []byte, i int) (end int, ok bool) {
	for i < len(b) {
		i += quoteOrSlash(b[i:])
		if i < len(b) && b[i] == '"' {
			return i, true
		}
		i += 2
	}
	return len(b), false
}

// valueEnd returns the offset behind the value that begins at i.
func (w *walker) valueEnd(i int) int {
	if i >= len(w.b) {
		return len(w.b)
	}
	switch w.b[i] {
	case '"':
		return min(w.stringEnd(i+1)+1, len(w.b))
	case '{', '[':
		return w.containerEnd(i)
	}
	for i < len(w.b) && !endsScalar(w.b[i]) {
		i++
	}
	return i
}

func (w *walker) containerEnd(i int) int {
	for depth := 0; i < len(w.b); i++ {
		switch w.b[i] {
		case '"':
			i = w.stringEnd(i + 1)
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(w.b)
}

func endsScalar(c byte) bool {
	switch c {
	case ',', '}', ']', ' ', '\n', '\t', '\r':
		return true
	}
	return false
}

// separators skips white space and commas.
func (w *walker) separators(i int) int {
	for i < len(w.b) && (w.b[i] == ',' || w.b[i] <= ' ') {
		i++
	}
	return i
}

func (w *walker) first(s span) byte {
	if s.off >= min(s.end, len(w.b)) {
		return 0
	}
	return w.b[s.off]
}

// An object goes through an object's members: for it := w.object(value); it.next(); { … }. A value that is no object has none.
// The object's end needn't be known before: when next is false, i is behind it.
type object struct {
	w     *walker
	i     int
	name  member
	value span
}

func (w *walker) object(value span) object {
	if w.first(value) != '{' {
		return object{}
	}
	return object{w: w, i: value.off + 1}
}

func (o *object) next() bool {
	if o.w == nil {
		return false
	}
	b := o.w.b
	i := o.w.separators(o.i)
	if i >= len(b) || b[i] != '"' {
		o.i = min(i+1, len(b))
		return false
	}
	end := o.w.stringEnd(i + 1)
	o.name = memberOf(b[min(i+1, end):end])
	i = o.w.separators(end + 1)
	if i >= len(b) || b[i] != ':' {
		o.i = len(b)
		return false
	}
	i = o.w.separators(i + 1)
	o.i = o.w.valueEnd(i)
	o.value = span{i, o.i}
	return o.i > i
}

// An array goes through an array's elements, like object. Where an element is an object its end isn't looked for: whoever goes through it
// sets i to the end found, so that the element is read once.
type array struct {
	w     *walker
	i     int
	value span
}

func (w *walker) array(value span) array {
	if w.first(value) != '[' {
		return array{}
	}
	return array{w: w, i: value.off + 1}
}

func (a *array) next() bool {
	if a.w == nil {
		return false
	}
	b := a.w.b
	i := a.w.separators(a.i)
	if i < len(b) && b[i] == '{' {
		a.i = len(b)
		a.value = span{i, len(b)}
		return true
	}
	a.i = a.w.valueEnd(i)
	a.value = span{i, a.i}
	return a.i > i
}

// A member is the name of a member of an object within a body's members, as far as it matters.
type member uint8

const (
	memberUnknown member = iota
	memberRole
	memberType
	memberContent
	memberText
	memberName
	memberArguments
	memberInput
	memberFunction
	memberFunctionCall
	memberToolCalls
	memberReasoning
	memberRefusal
	memberOutput
	memberSummary
	memberMedia
	memberPayload
	memberFile
	memberOpaque
	memberMaxTokens
	memberStream
)

func memberOf(key []byte) member {
	if m := memberNamed(key); m != memberUnknown || bytes.IndexByte(key, '\\') < 0 {
		return m
	}
	var plain [64]byte
	return memberNamed(plainKey(plain[:0], key))
}

// memberNamed is memberOf for a name without escapes.
func memberNamed(name []byte) member {
	switch string(name) {
	case "role":
		return memberRole
	case "type":
		return memberType
	case "content":
		return memberContent
	case "text", "thinking":
		return memberText
	case "name":
		return memberName
	case "arguments":
		return memberArguments
	case "input":
		return memberInput
	case "function", "custom":
		return memberFunction
	case "function_call":
		return memberFunctionCall
	case "tool_calls":
		return memberToolCalls
	case "reasoning_content", "reasoning":
		return memberReasoning
	case "refusal":
		return memberRefusal
	case "output":
		return memberOutput
	case "summary":
		return memberSummary
	case "image_url", "audio_url", "video_url", "input_audio", "source", "file", "image", "file_url":
		return memberMedia
	case "url", "data":
		return memberPayload
	case "file_data", "file_id":
		return memberFile
	case "encrypted_content", "signature", "image_data":
		return memberOpaque
	case "max_tokens", "max_new_tokens":
		return memberMaxTokens
	case "stream":
		return memberStream
	}
	return memberUnknown
}
