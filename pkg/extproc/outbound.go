package extproc

import (
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// outbound is an encoded ProcessingResponse on its way to grpc. Sending it hands its buffers over.
type outbound struct{ data mem.BufferSlice }

// chunkLimit is the most body bytes in one answer: some builds of Envoy take no more than 64 KiB for each message, and
// 62,000 is what pickers of the family send.
const chunkLimit = 62000

// Field numbers of the proto files envoy/service/ext_proc/v3/external_processor.proto and envoy/config/core/v3/base.proto.
const (
	responseImmediate       = 7 // ProcessingResponse
	responseDynamicMetadata = 8
	responseModeOverride    = 9
	responseTimeoutOverride = 10

	commonHeaderMutation  = 2 // CommonResponse
	commonBodyMutation    = 3
	commonClearRouteCache = 5

	mutationSet    = 1 // HeaderMutation
	mutationRemove = 2

	bodyMutationBody      = 1 // BodyMutation
	bodyMutationClearBody = 2
	bodyMutationStreamed  = 3

	optionHeader       = 1 // HeaderValueOption
	optionAppendAction = 3
	overwriteOrAdd     = 2 // HeaderAppendAction OVERWRITE_IF_EXISTS_OR_ADD
	headerKey          = 1 // HeaderValue
	headerRawValue     = 3

	structFields  = 1 // google.protobuf.Struct, a map
	mapEntryKey   = 1
	mapEntryValue = 2
	valueStruct   = 5 // google.protobuf.Value

	headersSend = 1 // ProcessingMode.HeaderSendMode SEND
)

// answerField gives the number of the variant of ProcessingResponse that answers a message of kind k: they are those of
// the requests in the order headers, headers, body, body, trailers, trailers, from 1.
func answerField(k kind) protowire.Number { return protowire.Number(k) - 1 }

// set is one header to be set, replacing what is there.
type set struct{ name, value string }

// mutation is what an answer changes besides the body. The zero mutation changes nothing.
type mutation struct {
	set             []set
	remove          []string
	clearRouteCache bool
	destination     string // goes into the dynamic metadata; empty: none
	override        *modeOverride
}

// modeOverride asks the proxy for other modes in the rest of this request.
type modeOverride struct{ requestMode, responseMode bodyMode }

// encoder builds a message from its end to its start, so that every length is known when it is written. The zero
// encoder is ready; it keeps its memory for the next message.
type encoder struct {
	memory []byte
	at     int // start of what is written
}

func (e *encoder) reset() {
	if e.memory == nil {
		e.memory = make([]byte, 512)
	}
	e.at = len(e.memory)
}

// room makes sure that n bytes fit in front.
func (e *encoder) room(n int) {
	if n <= e.at {
		return
	}
	grown := make([]byte, 2*len(e.memory)+n)
	moved := len(grown) - (len(e.memory) - e.at)
	copy(grown[moved:], e.memory[e.at:])
	e.memory, e.at = grown, moved
}

// end marks the end of a nested message: begin gives it its head.
func (e *encoder) end() int { return len(e.memory) - e.at }

// begin puts length and tag before everything written since end, and before extra bytes that follow elsewhere.
func (e *encoder) begin(number protowire.Number, end, extra int) {
	e.varint(uint64(e.end() - end + extra))
	e.varint(protowire.EncodeTag(number, protowire.BytesType))
}

func (e *encoder) varint(v uint64) {
	n := protowire.SizeVarint(v)
	e.room(n)
	e.at -= n
	at := e.at
	for ; v >= 0x80; at++ {
		e.memory[at] = byte(v) | 0x80
		v >>= 7
	}
	e.memory[at] = byte(v)
}

func (e *encoder) number(number protowire.Number, v uint64) {
	e.varint(v)
	e.varint(protowire.EncodeTag(number, protowire.VarintType))
}

func (e *encoder) text(number protowire.Number, s string) {
	e.room(len(s))
	e.at -= len(s)
	copy(e.memory[e.at:], s)
	e.varint(uint64(len(s)))
	e.varint(protowire.EncodeTag(number, protowire.BytesType))
}

// message gives a copy of what was written; the encoder may be used again.
func (e *encoder) message() mem.Buffer {
	return mem.SliceBuffer(append([]byte(nil), e.memory[e.at:]...))
}

func (e *encoder) headerMutation(number protowire.Number, sets []set, remove []string) {
	if len(sets) == 0 && len(remove) == 0 {
		return
	}
	end := e.end()
	for i := len(remove) - 1; i >= 0; i-- {
		e.text(mutationRemove, remove[i])
	}
	for i := len(sets) - 1; i >= 0; i-- {
		e.setHeader(sets[i])
	}
	e.begin(number, end, 0)
}

func (e *encoder) setHeader(s set) {
	option := e.end()
	e.number(optionAppendAction, overwriteOrAdd)
	header := e.end()
	e.text(headerRawValue, s.value)
	e.text(headerKey, s.name)
	e.begin(optionHeader, header, 0)
	e.begin(mutationSet, option, 0)
}

// around writes the fields of ProcessingResponse that stand beside the answer itself.
func (e *encoder) around(m *mutation) {
	if m.override != nil {
		end := e.end()
		e.number(6, headersSend) // response_trailer_mode
		e.number(4, uint64(m.override.responseMode))
		e.number(3, uint64(m.override.requestMode))
		e.number(2, headersSend) // response_header_mode
		e.begin(responseModeOverride, end, 0)
	}
	if m.destination != "" {
		end := e.end()
		e.text(valueString, m.destination)
		e.begin(mapEntryValue, end, 0)
		e.text(mapEntryKey, keyDestination)
		e.begin(structFields, end, 0)
		e.begin(valueStruct, end, 0)
		e.begin(mapEntryValue, end, 0)
		e.text(mapEntryKey, metadataLB)
		e.begin(structFields, end, 0)
		e.begin(responseDynamicMetadata, end, 0)
	}
}

// common writes the parts of a CommonResponse that don't touch the body.
func (e *encoder) common(m *mutation) {
	if m.clearRouteCache {
		e.number(commonClearRouteCache, 1)
	}
	e.headerMutation(commonHeaderMutation, m.set, m.remove)
}

// answer encodes the answer to a message of kind k. A plain one is shared by all streams: nobody writes to it.
func (e *encoder) answer(k kind, m *mutation) mem.BufferSlice {
	if m == nil {
		return plainAnswers[k]
	}
	e.reset()
	if k == requestTrailers || k == responseTrailers {
		// The headers have gone: only what stands beside the answer still counts.
		e.begin(answerField(k), e.end(), 0)
	} else {
		end := e.end()
		e.common(m)
		e.begin(1, end, 0)
		e.begin(answerField(k), end, 0)
	}
	e.around(m)
	return mem.BufferSlice{e.message()}
}

// patience encodes a message that answers nothing, and asks for d before the proxy gives up on the answer.
func (e *encoder) patience(d time.Duration) mem.BufferSlice {
	e.reset()
	end := e.end()
	e.number(2, uint64(d%time.Second)) // of google.protobuf.Duration: nanos, seconds
	e.number(1, uint64(d/time.Second))
	e.begin(responseTimeoutOverride, end, 0)
	return mem.BufferSlice{e.message()}
}

// chunk encodes the answer to a body message of kind k that passes the bytes of views on, n in all, in full duplex.
// The views are handed over.
func (e *encoder) chunk(k kind, views []mem.Buffer, n int, endOfStream bool, m *mutation) mem.BufferSlice {
	e.reset()
	end := e.end()
	if n > 0 { // the bytes themselves follow the message's head
		e.varint(uint64(n))
		e.varint(protowire.EncodeTag(1, protowire.BytesType))
	}
	if endOfStream {
		e.number(2, 1)
	}
	e.begin(bodyMutationStreamed, end, n)
	e.begin(commonBodyMutation, end, n)
	if m != nil {
		e.common(m)
	}
	e.begin(1, end, n)
	e.begin(answerField(k), end, n)
	if m != nil {
		e.around(m)
	}
	data := make(mem.BufferSlice, 1, 1+len(views))
	data[0] = e.message()
	return append(data, views...)
}

// replaced encodes the answer to a body message outside full duplex that puts the bytes of views, n in all, in place
// of the body. The views are handed over.
func (e *encoder) replaced(k kind, views []mem.Buffer, n int, m *mutation) mem.BufferSlice {
	e.reset()
	end := e.end()
	if n > 0 {
		e.varint(uint64(n))
		e.varint(protowire.EncodeTag(bodyMutationBody, protowire.BytesType))
	} else {
		e.number(bodyMutationClearBody, 1)
	}
	e.begin(commonBodyMutation, end, n)
	e.common(m)
	e.begin(1, end, n)
	e.begin(answerField(k), end, n)
	e.around(m)
	data := make(mem.BufferSlice, 1, 1+len(views))
	data[0] = e.message()
	return append(data, views...)
}

// immediate encodes an ImmediateResponse: status = 1 {code = 1}, headers = 2, body = 3, details = 5.
func (e *encoder) immediate(status int, headers []set, text, details string) mem.BufferSlice {
	e.reset()
	end := e.end()
	e.text(5, details)
	e.text(3, text)
	e.headerMutation(2, headers, nil)
	code := e.end()
	e.number(1, uint64(status))
	e.begin(1, code, 0)
	e.begin(responseImmediate, end, 0)
	return mem.BufferSlice{e.message()}
}

// plainAnswers are the answers that change nothing, by the kind of message answered.
var plainAnswers = [...]mem.BufferSlice{
	requestHeaders:   {mem.SliceBuffer{1<<3 | 2, 2, 1<<3 | 2, 0}},
	responseHeaders:  {mem.SliceBuffer{2<<3 | 2, 2, 1<<3 | 2, 0}},
	requestBody:      {mem.SliceBuffer{3<<3 | 2, 2, 1<<3 | 2, 0}},
	responseBody:     {mem.SliceBuffer{4<<3 | 2, 2, 1<<3 | 2, 0}},
	requestTrailers:  {mem.SliceBuffer{5<<3 | 2, 0}},
	responseTrailers: {mem.SliceBuffer{6<<3 | 2, 0}},
}
