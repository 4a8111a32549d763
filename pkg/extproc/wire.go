package extproc

import (
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// reader walks over a protobuf message that lies in several buffers.
type reader struct {
	rest mem.BufferSlice // rest[0] holds data
	data []byte          // what is left of rest[0]
	left int             // bytes left in all
}

func (r *reader) start() {
	r.left = r.rest.Len()
	if len(r.rest) > 0 {
		r.data = r.rest[0].ReadOnlyData()
	}
}

// fill makes sure that data holds something; the caller knows that something is left.
func (r *reader) fill() {
	for len(r.data) == 0 {
		r.rest = r.rest[1:]
		r.data = r.rest[0].ReadOnlyData()
	}
}

func (r *reader) advance(n int) { r.data, r.left = r.data[n:], r.left-n }

func (r *reader) varint() (uint64, error) {
	var v uint64
	for shift := 0; shift < 64; shift += 7 {
		if r.left == 0 {
			return 0, errMalformed
		}
		r.fill()
		c := r.data[0]
		r.advance(1)
		if shift == 63 && c > 1 {
			return 0, errMalformed
		}
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return v, nil
		}
	}
	return 0, errMalformed
}

func (r *reader) tag() (protowire.Number, protowire.Type, error) {
	v, err := r.varint()
	if err != nil {
		return 0, 0, err
	}
	number, wire := protowire.DecodeTag(v)
	if number < protowire.MinValidNumber {
		return 0, 0, errMalformed
	}
	return number, wire, nil
}

// length reads the length of what follows, and checks that so much is left.
func (r *reader) length() (int, error) {
	n, err := r.varint()
	if err != nil {
		return 0, err
	}
	if n > uint64(r.left) {
		return 0, errMalformed
	}
	return int(n), nil
}

// bytes gives the next n bytes as a view where they lie in one buffer, else as a copy. The caller has checked that n
// are left.
func (r *reader) bytes(n int) []byte {
	if n == 0 {
		return nil
	}
	r.fill()
	if n <= len(r.data) {
		b := r.data[:n:n]
		r.advance(n)
		return b
	}
	b := make([]byte, 0, n)
	for len(b) < n {
		r.fill()
		part := r.data[:min(len(r.data), n-len(b))]
		b = append(b, part...)
		r.advance(len(part))
	}
	return b
}

// spans appends a length-delimited field to dst, as stretches of the buffers that it lies in.
func (r *reader) spans(dst []span) ([]span, int, error) {
	n, err := r.length()
	if err != nil {
		return dst, 0, err
	}
	for todo := n; todo > 0; {
		r.fill()
		part := min(len(r.data), todo)
		from := r.rest[0].Len() - len(r.data)
		dst = append(dst, span{r.rest[0], from, from + part})
		r.advance(part)
		todo -= part
	}
	return dst, n, nil
}

// skip passes over the value of a field.
func (r *reader) skip(number protowire.Number, wire protowire.Type) error {
	switch wire {
	case protowire.VarintType:
		_, err := r.varint()
		return err
	case protowire.BytesType:
		n, err := r.length()
		if err != nil {
			return err
		}
		r.discard(n)
		return nil
	case protowire.Fixed32Type, protowire.Fixed64Type:
		n := 4
		if wire == protowire.Fixed64Type {
			n = 8
		}
		if r.left < n {
			return errMalformed
		}
		r.discard(n)
		return nil
	}
	// A group, which nobody uses, or nothing that there is.
	rest := r.bytes(r.left)
	n := protowire.ConsumeFieldValue(number, wire, rest)
	if n < 0 {
		return errMalformed
	}
	r.rest, r.data, r.left = mem.BufferSlice{mem.SliceBuffer(rest)}, rest[n:], len(rest)-n
	return nil
}

func (r *reader) discard(n int) {
	for n > 0 {
		r.fill()
		part := min(len(r.data), n)
		r.advance(part)
		n -= part
	}
}

// withBytes hands the next length-delimited field to f.
func withBytes(r *reader, f func([]byte) error) error {
	n, err := r.length()
	if err != nil {
		return err
	}
	return f(r.bytes(n))
}

// field is one field of a message in contiguous bytes; bytes or number64 is set as the wire type says.
type field struct {
	number   protowire.Number
	wire     protowire.Type
	bytes    []byte
	number64 uint64
}

func (f field) isBytes(n protowire.Number) bool {
	return f.number == n && f.wire == protowire.BytesType
}

func (f field) isVarint(n protowire.Number) bool {
	return f.number == n && f.wire == protowire.VarintType
}

// isValueKind says whether f is any of the kinds of a google.protobuf.Value.
func (f field) isValueKind() bool {
	switch f.number {
	case 1, 4:
		return f.wire == protowire.VarintType
	case valueNumber:
		return f.wire == protowire.Fixed64Type
	case valueString, 5, valueList:
		return f.wire == protowire.BytesType
	}
	return false
}

// eachField calls f for every field of the message in b.
func eachField(b []byte, f func(field) error) error {
	for len(b) > 0 {
		number, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
		at := field{number: number, wire: wire}
		switch wire {
		case protowire.BytesType:
			at.bytes, n = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			at.number64, n = protowire.ConsumeVarint(b)
		default:
			n = protowire.ConsumeFieldValue(number, wire, b)
		}
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
		if err := f(at); err != nil {
			return err
		}
	}
	return nil
}

// mapKey gives the key of a map entry with string keys.
func mapKey(entry []byte) (key []byte, err error) {
	err = eachField(entry, func(f field) error {
		if f.isBytes(1) {
			key = f.bytes
		}
		return nil
	})
	return key, err
}

// mapValue calls f for the value of a map entry. Pieces of a message merge to what their bytes, one after the other, say.
func mapValue(entry []byte, f func([]byte) error) error {
	var value []byte
	pieces := 0
	err := eachField(entry, func(at field) error {
		if !at.isBytes(2) {
			return nil
		}
		if pieces++; pieces == 1 {
			value = at.bytes
		} else {
			value = append(value[:len(value):len(value)], at.bytes...)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return f(value)
}
