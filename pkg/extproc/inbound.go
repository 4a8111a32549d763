package extproc

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// kind is which of its variants a ProcessingRequest is. The values are the field numbers of the proto file
// envoy/service/ext_proc/v3/external_processor.proto.
type kind uint8

const (
	noMessage        kind = 0
	requestHeaders   kind = 2
	responseHeaders  kind = 3
	requestBody      kind = 4
	responseBody     kind = 5
	requestTrailers  kind = 6
	responseTrailers kind = 7
)

// bodyMode says how the proxy sends the bodies of one direction, and in what form it takes answers. The values are
// those of ProcessingMode.BodySendMode.
type bodyMode uint8

const (
	modeNone       bodyMode = 0
	modeStreamed   bodyMode = 1
	modeBuffered   bodyMode = 2
	modePartial    bodyMode = 3
	modeFullDuplex bodyMode = 4
	modeGRPC       bodyMode = 5 // full duplex with gRPC messages apart; no proxy has it yet
)

// header is one HTTP header as the proxy sent it; the bytes are views.
type header struct{ name, value []byte }

// inbound is a ProcessingRequest reduced to what the picker reads. Its byte slices are views into the buffers that the
// message came in. It holds references to those from decode to release, and is reused for the next message.
type inbound struct {
	kind        kind
	endOfStream bool
	ended       bool     // end_of_stream_without_message
	headers     []header // of headers messages; trailers are not read
	body        []span
	bodyLen     int

	hasModes                  bool
	requestMode, responseMode bodyMode
	observability             bool

	hasSubset bool
	subset    [][]byte // each an address or a comma-separated list of them
	served    []byte   // address that served the request, as the proxy tells with the response

	held mem.BufferSlice
}

// release gives up the message's buffers. Releasing an empty message does nothing.
func (m *inbound) release() {
	m.held.Free()
	clear(m.held)
	clear(m.headers)
	clear(m.body)
	clear(m.subset)
	*m = inbound{headers: m.headers[:0], body: m.body[:0], subset: m.subset[:0], held: m.held[:0]}
}

const (
	metadataSubset      = "envoy.lb.subset_hint"
	metadataLB          = "envoy.lb"
	keySubset           = "x-gateway-destination-endpoint-subset"
	keyServed           = "x-gateway-destination-endpoint-served"
	keyDestination      = "x-gateway-destination-endpoint"
	fieldMetadata       = 8
	fieldObservability  = 10
	fieldProtocolConfig = 11
)

var errMalformed = errors.New("extproc: malformed ProcessingRequest")

// decode reads a ProcessingRequest that lies in data, and takes references of its own to data's buffers. As proto
// readers do, it passes over unknown fields, lets a later value of a field replace the earlier one, and merges
// messages that come in several pieces. An error leaves m released.
func (m *inbound) decode(data mem.BufferSlice) error {
	m.release()
	m.held = append(m.held, data...)
	m.held.Ref()
	if err := m.fields(&reader{rest: m.held}); err != nil {
		m.release()
		return err
	}
	m.endOfStream = m.endOfStream || m.ended
	return nil
}

func (m *inbound) fields(r *reader) error {
	r.start()
	for r.left > 0 {
		number, wire, err := r.tag()
		if err != nil {
			return err
		}
		if err := m.field(r, number, wire); err != nil {
			return fmt.Errorf("%w: field %d", err, number)
		}
	}
	return nil
}

func (m *inbound) field(r *reader, number protowire.Number, wire protowire.Type) error {
	switch {
	case wire == protowire.VarintType && number == fieldObservability:
		v, err := r.varint()
		m.observability = v != 0
		return err
	case wire != protowire.BytesType:
		return r.skip(number, wire)
	case number >= protowire.Number(requestHeaders) && number <= protowire.Number(responseTrailers):
		return m.variant(r, kind(number))
	case number == fieldMetadata:
		return withBytes(r, m.metadata)
	case number == fieldProtocolConfig:
		m.hasModes = true
		return withBytes(r, m.protocolConfig)
	}
	return r.skip(number, wire)
}

// variant reads the message of one kind. A second one of the same kind is merged, one of another kind replaces it.
func (m *inbound) variant(r *reader, k kind) error {
	if m.kind != k {
		m.kind, m.endOfStream, m.ended = k, false, false
		m.headers, m.body, m.bodyLen = m.headers[:0], m.body[:0], 0
	}
	switch k {
	case requestHeaders, responseHeaders:
		return withBytes(r, m.httpHeaders)
	case requestBody, responseBody:
		return m.httpBody(r)
	}
	return withBytes(r, checked)
}

// checked reads a message of which nothing is wanted.
func checked(b []byte) error { return eachField(b, func(field) error { return nil }) }

// httpBody reads an HttpBody where it lies, however many buffers that are.
func (m *inbound) httpBody(r *reader) error {
	n, err := r.length()
	if err != nil {
		return err
	}
	outside := r.left - n
	for r.left > outside {
		number, wire, err := r.tag()
		if err != nil {
			return err
		}
		switch {
		case number == 1 && wire == protowire.BytesType:
			m.body = m.body[:0]
			m.body, m.bodyLen, err = r.spans(m.body)
		case number == 2 && wire == protowire.VarintType:
			var v uint64
			v, err = r.varint()
			m.endOfStream = v != 0
		case number == 3 && wire == protowire.VarintType: // end_of_stream_without_message
			var v uint64
			v, err = r.varint()
			m.ended = v != 0
		default:
			err = r.skip(number, wire)
		}
		if err != nil {
			return err
		}
	}
	if r.left < outside {
		return errMalformed
	}
	return nil
}

// httpHeaders reads an HttpHeaders: headers = 1 {headers = 1 {key = 1, value = 2, raw_value = 3}}, end_of_stream = 3.
func (m *inbound) httpHeaders(b []byte) error {
	return eachField(b, func(f field) error {
		switch {
		case f.isBytes(1):
			return eachField(f.bytes, func(f field) error {
				if f.isBytes(1) {
					return m.headerValue(f.bytes)
				}
				return nil
			})
		case f.isVarint(3):
			m.endOfStream = f.number64 != 0
		}
		return nil
	})
}

func (m *inbound) headerValue(b []byte) error {
	var h header
	var raw []byte
	err := eachField(b, func(f field) error {
		switch {
		case f.isBytes(1):
			h.name = f.bytes
		case f.isBytes(2):
			h.value = f.bytes
		case f.isBytes(3):
			raw = f.bytes
		}
		return nil
	})
	if len(raw) > 0 {
		h.value = raw
	}
	m.headers = append(m.headers, h)
	return err
}

// protocolConfig reads a ProtocolConfiguration: request_body_mode = 1, response_body_mode = 2.
func (m *inbound) protocolConfig(b []byte) error {
	return eachField(b, func(f field) error {
		switch {
		case f.isVarint(1):
			m.requestMode = modeOf(f.number64)
		case f.isVarint(2):
			m.responseMode = modeOf(f.number64)
		}
		return nil
	})
}

// modeOf takes a mode that nobody knows yet for full duplex, the one that every proxy must be able to.
func modeOf(v uint64) bodyMode {
	if mode := uint32(v); mode <= uint32(modeGRPC) { // enums have 32 bits
		return bodyMode(mode)
	}
	return modeFullDuplex
}

// metadata reads a Metadata: filter_metadata = 1, a map from namespace to Struct.
func (m *inbound) metadata(b []byte) error {
	return eachField(b, func(f field) error {
		if !f.isBytes(1) {
			return nil
		}
		namespace, err := mapKey(f.bytes)
		if err != nil {
			return err
		}
		switch string(namespace) {
		case metadataSubset:
			m.hasSubset, m.subset = false, m.subset[:0]
		case metadataLB:
			m.served = nil
		default:
			return nil
		}
		return mapValue(f.bytes, func(value []byte) error { return m.namespace(string(namespace), value) })
	})
}

// namespace reads a Struct: fields = 1, a map from key to Value.
func (m *inbound) namespace(name string, b []byte) error {
	return eachField(b, func(f field) error {
		if !f.isBytes(1) {
			return nil
		}
		key, err := mapKey(f.bytes)
		if err != nil {
			return err
		}
		switch {
		case name == metadataSubset && string(key) == keySubset:
			m.hasSubset, m.subset = true, m.subset[:0]
			return mapValue(f.bytes, m.subsetValue)
		case name == metadataLB && string(key) == keyServed:
			m.served = nil
			return mapValue(f.bytes, m.servedValue)
		}
		return nil
	})
}

// Fields of google.protobuf.Value, a oneof.
const (
	valueNumber = 2
	valueString = 3
	valueList   = 6
)

// subsetValue reads a Value that is a string or a list of strings. Anything else names no endpoint.
func (m *inbound) subsetValue(b []byte) error {
	list := false
	return eachField(b, func(f field) error {
		switch {
		case f.isBytes(valueString):
			list, m.subset = false, append(m.subset[:0], f.bytes)
		case f.isBytes(valueList):
			if !list {
				list, m.subset = true, m.subset[:0]
			}
			return eachField(f.bytes, func(f field) error {
				if !f.isBytes(1) {
					return nil
				}
				item, err := stringValue(f.bytes)
				if item != nil {
					m.subset = append(m.subset, item)
				}
				return err
			})
		case f.isValueKind():
			list, m.subset = false, m.subset[:0]
		}
		return nil
	})
}

func (m *inbound) servedValue(b []byte) error {
	v, err := stringValue(b)
	m.served = v
	return err
}

// stringValue gives the string of a Value, or nil when it is none.
func stringValue(b []byte) (s []byte, err error) {
	err = eachField(b, func(f field) error {
		switch {
		case f.isBytes(valueString):
			s = f.bytes
		case f.isValueKind():
			s = nil
		}
		return nil
	})
	return s, err
}
