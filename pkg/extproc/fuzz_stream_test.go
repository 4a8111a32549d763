package extproc

import (
	"bytes"
	"context"
	"log/slog"
	"testing"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	modev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"

	"github.com/pilotfish-epp/pilotfish/pkg/routing"
	"github.com/pilotfish-epp/pilotfish/pkg/settings"
)

// FuzzStream sends messages in any order, as a proxy gone wrong might, and holds the answers to what every proxy
// insists on. The first byte gives the modes, each further one a message.
func FuzzStream(f *testing.F) {
	f.Add([]byte{4 + 4*6, 0x00, 0x01, 0x11, 0x02, 0x03, 0x13})
	f.Add([]byte{2 + 0*6, 0x00, 0x11, 0x02, 0x05})
	f.Add([]byte{1 + 1*6, 0x00, 0x01, 0x04, 0x02, 0x03, 0x05})
	f.Add([]byte{4 + 4*6, 0x80, 0x81, 0x91})
	f.Add([]byte{3 + 4*6, 0x20, 0x21, 0x22, 0x23, 0x25})
	store, err := settings.New(map[string]string{"MAX_REQUEST_BODY": "150000", "MAX_BUFFERED": "200000"}, nil)
	if err != nil {
		f.Fatal(err)
	}
	server := newServer(nil, store, slog.New(slog.DiscardHandler))
	server.draw = func(float64) bool { return true }
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) == 0 {
			return
		}
		w := &fuzzedWire{
			t: t, script: script[1:],
			request: bodyMode(script[0] % 6), response: bodyMode(script[0] / 6 % 6),
			sent: map[kind][]byte{}, got: map[kind][]byte{}, received: map[kind]int{}, answered: map[kind]int{}, over: map[kind]bool{},
		}
		r := &fuzzedRouter{t: t}
		s := newServer(r, store, slog.New(slog.DiscardHandler))
		s.draw = server.draw
		pool := &countingPool{}
		st := newStream(s, pool)
		whole, err := s.guarded(st, w)
		if !whole {
			t.Fatal("panicked")
		}
		if err != nil {
			t.Fatalf("a gRPC error: %v", err)
		}
		st.reset()
		if r.picked != r.finished {
			t.Fatalf("%d requests picked, %d finished", r.picked, r.finished)
		}
		if r.picked > 1 {
			t.Fatalf("one request was picked %d times", r.picked)
		}
		if told := r.refused; told > 1 || w.refused != (told == 1) { // this router refuses nothing itself
			t.Fatalf("refused: %v, and told so %d times", w.refused, told)
		}
		if n := w.pool.out + pool.out; n != 0 {
			t.Fatalf("%d pooled buffers are still held", n)
		}
		if n := s.buffered.Load(); n != 0 {
			t.Fatalf("%d bytes are still counted as held", n)
		}
	})
}

type fuzzedWire struct {
	t                 *testing.T
	script            []byte
	request, response bodyMode
	first             bool
	pool              countingPool

	sent, got          map[kind][]byte
	received, answered map[kind]int
	over               map[kind]bool // the last chunk of a direction was passed on
	headed             bool          // request headers came before any body
	refused            bool
}

func (w *fuzzedWire) Context() context.Context { return context.Background() }

func (w *fuzzedWire) RecvMsg(m any) error {
	if w.refused {
		w.t.Fatal("the stream goes on after an immediate response")
	}
	if len(w.script) == 0 {
		return status.Error(codes.Canceled, "context canceled")
	}
	op := w.script[0]
	w.script = w.script[1:]
	p := w.message(op)
	if !w.first {
		w.first = true
		if w.request != modeFullDuplex || w.response != modeFullDuplex {
			p.ProtocolConfig = &extprocv3.ProtocolConfiguration{
				RequestBodyMode:  modev3.ProcessingMode_BodySendMode(w.request),
				ResponseBodyMode: modev3.ProcessingMode_BodySendMode(w.response),
			}
		}
	}
	encoded, err := proto.Marshal(p)
	if err != nil {
		w.t.Fatal(err)
	}
	b := w.pool.Get(max(len(encoded), 2048))
	copy(*b, encoded)
	all := mem.NewBuffer(b, &w.pool)
	data := mem.BufferSlice{all.Slice(0, len(encoded))}
	all.Free()
	if op&0x80 != 0 && len(encoded) > 1 {
		data = mem.BufferSlice{data[0].Slice(0, len(encoded)/2), data[0].Slice(len(encoded)/2, len(encoded)), data[0]}
		cut := mem.BufferSlice{data[0], data[1]}
		data[2].Free()
		data = cut
	}
	defer data.Free()
	return m.(*inbound).decode(data)
}

// message makes one of the six kinds; bit 4 is the end of the stream, bits 5 and 6 the size of a body.
func (w *fuzzedWire) message(op byte) *extprocv3.ProcessingRequest {
	end := op&0x10 != 0
	body := [][]byte{[]byte(`{"model":"m","prompt":"x"}`), nil, bytes.Repeat([]byte("y"), 70000), []byte("z")}[op>>5&3]
	k := kind(op&7%6) + requestHeaders
	w.received[k]++
	switch k {
	case requestHeaders:
		w.headed = w.headed || w.received[requestBody] == 0 && w.received[responseHeaders] == 0
		return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{
			Headers: headers(":path", []string{"/v1/completions", "/upload"}[op>>5&1], ":method", "POST"), EndOfStream: end,
		}}}
	case responseHeaders:
		return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: &extprocv3.HttpHeaders{
			Headers: headers(":status", "200", "content-type", "text/event-stream"), EndOfStream: end,
		}}}
	case requestBody:
		w.sent[k] = append(w.sent[k], body...)
		return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{Body: body, EndOfStream: end}}}
	case responseBody:
		w.sent[k] = append(w.sent[k], body...)
		return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseBody{ResponseBody: &extprocv3.HttpBody{Body: body, EndOfStream: end}}}
	case requestTrailers:
		return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestTrailers{RequestTrailers: &extprocv3.HttpTrailers{}}}
	}
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseTrailers{ResponseTrailers: &extprocv3.HttpTrailers{}}}
}

func (w *fuzzedWire) SendMsg(m any) error {
	data, err := newCodec().Marshal(m)
	if err != nil {
		w.t.Fatal(err)
	}
	defer data.Free()
	var p extprocv3.ProcessingResponse
	if err := proto.Unmarshal(data.Materialize(), &p); err != nil {
		w.t.Fatalf("an answer that is none: %v", err)
	}
	switch r := p.Response.(type) {
	case *extprocv3.ProcessingResponse_ImmediateResponse:
		w.refused = true
	case *extprocv3.ProcessingResponse_RequestHeaders:
		w.answer(requestHeaders)
	case *extprocv3.ProcessingResponse_ResponseHeaders:
		w.answer(responseHeaders)
	case *extprocv3.ProcessingResponse_RequestTrailers:
		w.answer(requestTrailers)
	case *extprocv3.ProcessingResponse_ResponseTrailers:
		w.answer(responseTrailers)
	case *extprocv3.ProcessingResponse_RequestBody:
		w.body(requestBody, w.request, r.RequestBody.Response.BodyMutation)
	case *extprocv3.ProcessingResponse_ResponseBody:
		w.body(responseBody, w.response, r.ResponseBody.Response.BodyMutation)
	}
	return nil
}

// answer checks that there are never more answers than messages.
func (w *fuzzedWire) answer(k kind) {
	w.answered[k]++
	if w.answered[k] > w.received[k] {
		w.t.Fatalf("answer %d to %d messages of kind %d", w.answered[k], w.received[k], k)
	}
}

func (w *fuzzedWire) body(k kind, mode bodyMode, m *extprocv3.BodyMutation) {
	if k == requestBody && mode.fullDuplex() && w.headed && w.answered[requestHeaders] == 0 {
		w.t.Fatal("a body before the headers")
	}
	chunk := m.GetStreamedResponse()
	if mode.fullDuplex() != (chunk != nil) {
		w.t.Fatalf("in mode %v a body is answered with %v", mode, m)
	}
	if chunk == nil {
		w.answer(k)
		return
	}
	if w.over[k] {
		w.t.Fatal("a chunk after the last one")
	}
	w.over[k] = chunk.EndOfStream
	if len(chunk.Body) > chunkLimit {
		w.t.Fatalf("a chunk of %d bytes", len(chunk.Body))
	}
	w.got[k] = append(w.got[k], chunk.Body...)
	if !bytes.HasPrefix(w.sent[k], w.got[k]) {
		w.t.Fatal("other bytes than came")
	}
}

type fuzzedRouter struct {
	t                         *testing.T
	picked, finished, refused int
}

func (r *fuzzedRouter) newTicket() ticket { return &fuzzedTicket{router: r} }

func (r *fuzzedRouter) route(_ context.Context, _ *routing.Arrival, _ ticket) *routing.Refusal {
	r.picked++
	return nil
}

func (*fuzzedRouter) RefuseWaiting() {}

func (r *fuzzedRouter) Refused(a *routing.Arrival, _ *routing.Refusal) {
	r.refused++
	if a.RequestID == "" {
		r.t.Fatal("a refusal without a request ID")
	}
}

type fuzzedTicket struct {
	fixedTicket
	router *fuzzedRouter
}

func (*fuzzedTicket) Destination() string  { return "10.0.0.1:8000" }
func (t *fuzzedTicket) Finish(routing.End) { t.router.finished++ }
