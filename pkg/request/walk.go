package request

import "bytes"

// The walk reads what the scanner checked, or what a cut left of it. It must come to an end on any bytes, but needn't tell good from bad.

// stringEnd returns the offset of the quote that closes the string whose content begins at i, or len(b).
func stringEnd(b []byte, i int) int {
	for i < len(b) {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			break
		}
		n += i
		slashes := n
		for slashes > i && b[slashes-1] == '\\' {
			slashes--
		}
		if (n-slashes)%2 == 0 {
			return n
		}
		i = n + 1
	}
	return len(b)
}

// valueEnd returns the offset behind the value that begins at i.
func valueEnd(b []byte, i int) int {
	if i >= len(b) {
		return len(b)
	}
	switch b[i] {
	case '"':
		return min(stringEnd(b, i+1)+1, len(b))
	case '{', '[':
		return containerEnd(b, i)
	}
	for i < len(b) && !endsScalar(b[i]) {
		i++
	}
	return i
}

func containerEnd(b []byte, i int) int {
	for depth := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			i = stringEnd(b, i+1)
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(b)
}

func endsScalar(c byte) bool {
	switch c {
	case ',', '}', ']', ' ', '\n', '\t', '\r':
		return true
	}
	return false
}

// separators skips white space and commas.
func separators(b []byte, i int) int {
	for i < len(b) && (b[i] == ',' || b[i] <= ' ') {
		i++
	}
	return i
}

// An object goes through an object's members: for it := (object{b: value}); it.next(); { … }. A value that is no object has none.
type object struct {
	b       []byte
	i       int
	key     []byte // without escapes; nil if it has some and is long
	value   []byte
	scratch [64]byte
}

func (o *object) next() bool {
	if o.i == 0 {
		if len(o.b) == 0 || o.b[0] != '{' {
			return false
		}
		o.i = 1
	}
	i := separators(o.b, o.i)
	if i >= len(o.b) || o.b[i] != '"' {
		return false
	}
	end := stringEnd(o.b, i+1)
	o.key = plainKey(o.scratch[:0], o.b[i+1:end])
	if i = separators(o.b, end+1); i >= len(o.b) || o.b[i] != ':' {
		return false
	}
	i = separators(o.b, i+1)
	o.i = valueEnd(o.b, i)
	o.value = o.b[i:o.i]
	return len(o.value) > 0
}

// An array goes through an array's elements, like object.
type array struct {
	b     []byte
	i     int
	value []byte
}

func (a *array) next() bool {
	if a.i == 0 {
		if len(a.b) == 0 || a.b[0] != '[' {
			return false
		}
		a.i = 1
	}
	i := separators(a.b, a.i)
	a.i = valueEnd(a.b, i)
	if i >= len(a.b) {
		return false
	}
	a.value = a.b[i:a.i]
	return len(a.value) > 0
}
