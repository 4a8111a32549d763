package cost

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// replyKind is which variant of a ProcessingResponse came: its field number in external_processor.proto.
type replyKind uint8

const (
	replyRequestHeaders  replyKind = 1
	replyResponseHeaders replyKind = 2
	replyRequestBody     replyKind = 3
	replyResponseBody    replyKind = 4
	replyImmediate       replyKind = 7
)

// String names a kind for errors.
func (k replyKind) String() string {
	switch k {
	case replyRequestHeaders:
		return "an answer to request headers"
	case replyResponseHeaders:
		return "an answer to response headers"
	case replyRequestBody:
		return "an answer to a request body"
	case replyResponseBody:
		return "an answer to a response body"
	case replyImmediate:
		return "an immediate response"
	}
	return fmt.Sprintf("variant %d", uint8(k))
}

// reply is what the driver needs of a ProcessingResponse; its bytes are valid until the next read.
type reply struct {
	kind        replyKind
	end         bool // a streamed body's end_of_stream
	body        int  // length of a streamed body
	destination []byte
	raw         []byte
}

// String shows a reply that was not expected.
func (r *reply) String() string { return fmt.Sprintf("%v: %.300q", r.kind, r.raw) }

func (r *reply) read(data mem.BufferSlice) error {
	n := data.Len()
	if cap(r.raw) < n {
		r.raw = make([]byte, n)
	}
	r.raw = r.raw[:n]
	data.CopyTo(r.raw)
	r.kind, r.end, r.body, r.destination = 0, false, 0, nil
	return fields(r.raw, func(number protowire.Number, value []byte, _ uint64) error {
		switch k := replyKind(number); k {
		case replyRequestHeaders, replyResponseHeaders, replyRequestBody, replyResponseBody:
			r.kind = k
			return nested(value, r.common, 1)
		case replyImmediate:
			r.kind = k
		}
		return nil
	})
}

// common reads a CommonResponse.
func (r *reply) common(number protowire.Number, value []byte, _ uint64) error {
	switch number {
	case 2: // header_mutation { set_headers = 1 { header = 1 } }
		return fields(value, r.setHeader)
	case 3: // body_mutation { streamed_response = 3 }
		return nested(value, func(number protowire.Number, value []byte, v uint64) error {
			switch number {
			case 1:
				r.body = len(value)
			case 2:
				r.end = v != 0
			}
			return nil
		}, 3)
	}
	return nil
}

// setHeader looks for the destination among the fields of a HeaderMutation.
func (r *reply) setHeader(number protowire.Number, value []byte, _ uint64) error {
	if number != 1 {
		return nil
	}
	var key, text []byte
	err := nested(value, func(number protowire.Number, value []byte, _ uint64) error {
		switch number {
		case 1:
			key = value
		case 2, 3: // value, raw_value
			text = value
		}
		return nil
	}, 1)
	if string(key) == keyDestination {
		r.destination = text
	}
	return err
}

type visitor func(number protowire.Number, value []byte, varint uint64) error

// nested visits the fields of the messages that a path of field numbers leads to.
func nested(b []byte, visit visitor, path ...protowire.Number) error {
	if len(path) == 0 {
		return fields(b, visit)
	}
	return fields(b, func(number protowire.Number, value []byte, _ uint64) error {
		if number != path[0] {
			return nil
		}
		return nested(value, visit, path[1:]...)
	})
}

var errMalformed = errors.New("malformed ProcessingResponse")

// fields visits the fields of a message; value is nil for numbers.
func fields(b []byte, visit visitor) error {
	for len(b) > 0 {
		number, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
		var value []byte
		var v uint64
		switch wire {
		case protowire.BytesType:
			value, n = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		default:
			n = protowire.ConsumeFieldValue(number, wire, b)
		}
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
		if err := visit(number, value, v); err != nil {
			return err
		}
	}
	return nil
}

// appendRequestBody appends a ProcessingRequest with a body and end_of_stream unset.
func appendRequestBody(dst, body []byte) []byte {
	inner := protowire.SizeTag(1) + protowire.SizeBytes(len(body))
	dst = protowire.AppendTag(dst, 4, protowire.BytesType) // request_body
	dst = protowire.AppendVarint(dst, uint64(inner))
	dst = protowire.AppendTag(dst, 1, protowire.BytesType) // body
	return protowire.AppendBytes(dst, body)
}
