package extproc

import (
	"context"
	"errors"
	"io"
	"net/netip"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/pilotfish-epp/pilotfish/pkg/request"
	"github.com/pilotfish-epp/pilotfish/pkg/routing"
	"github.com/pilotfish-epp/pilotfish/pkg/settings"
)

// router chooses where requests go, and hears of those that were refused before it was asked.
type router interface {
	newTicket() ticket
	route(ctx context.Context, a *routing.Arrival, t ticket) *routing.Refusal
	Refused(a *routing.Arrival, r *routing.Refusal)
	RefuseWaiting()
}

// ticket is one routed request; see routing.Ticket for what the methods mean.
type ticket interface {
	Destination() string
	Model() string
	Responded(status int, served netip.AddrPort, streaming bool)
	FirstToken()
	Used(u request.Usage)
	ResponseBytes(n int)
	Finish(e routing.End)
}

// wire is the part of a gRPC stream that a stream uses.
type wire interface {
	Context() context.Context
	RecvMsg(m any) error
	SendMsg(m any) error
}

// errDone ends a stream cleanly: there is nothing more to say.
var errDone = errors.New("extproc: done")

// requestPhase is how far the request has come.
type requestPhase uint8

const (
	awaitingRequest requestPhase = iota // no message yet
	gathering                           // headers seen; the body is held until its end
	passing                             // picked; the body goes on as it comes
	requestOver                         // answered to its end
)

// responsePhase is how far the response has come.
type responsePhase uint8

const (
	awaitingResponse responsePhase = iota
	responding
	responseOver
)

// stream is one HTTP request and its answer, as the proxy tells of them message by message. It is used by the one
// goroutine of its gRPC stream, and reused for the next when that has ended.
type stream struct {
	exchange

	server *Server
	ticket ticket // reused from request to request, as all of the following
	in     inbound
	body   body
	parsed request.Request
	usage  request.UsageReader

	arrival routing.Arrival
	out     outbound
	encoder encoder
	change  mutation
	parts   []span
	views   []mem.Buffer
}

func newStream(s *Server, buffers mem.BufferPool) *stream {
	st := &stream{server: s, body: body{pool: buffers}}
	st.arrival.Waits = st.waits
	return st
}

// exchange is what a stream knows of its request. The zero value is one that nothing was heard of.
type exchange struct {
	wire   wire
	values *settings.Values // one set for the whole request; nil: no message yet

	requestMode, responseMode bodyMode
	described                 bool // the proxy told its modes
	observed                  bool // the proxy wants no answers

	request  requestPhase
	head     requestHead
	named    bool // the request got its ID here
	kind     request.Kind
	buffered int64 // bytes counted in server.buffered
	picked   bool  // the ticket holds a pod

	response responsePhase
	answer   responseHead
	reading  bool  // usage is read from the response body
	opened   int64 // and this stream has set server.opened to this for it
	first    bool  // the first content was reported
}

// run takes the stream from its first message to its end. It returns the gRPC status: nil unless a message could not be
// read.
func (s *stream) run(w wire) error {
	s.wire = w
	for {
		if err := w.RecvMsg(&s.in); err != nil {
			return s.lost(err)
		}
		err := s.handle()
		s.in.release()
		switch {
		case errors.Is(err, errDone):
			return nil
		case err != nil: // the answer could not be sent: the proxy has gone
			s.finish(routing.ClientGone)
			return nil
		}
	}
}

// lost ends the stream after err, which receiving gave.
func (s *stream) lost(err error) error {
	halfClosed := errors.Is(err, io.EOF)
	code := status.Code(err)
	s.finish(s.endOf(halfClosed))
	if halfClosed || code == codes.Canceled || code == codes.DeadlineExceeded || code == codes.Unavailable ||
		errors.Is(err, context.Canceled) {
		return nil
	}
	s.server.counters.malformed.Add(1)
	return err
}

// endOf says how a request ended whose stream the proxy has left, by closing its side or by cancelling.
func (s *stream) endOf(halfClosed bool) routing.End {
	switch {
	case s.response == responseOver:
		return routing.Completed
	case s.response == responding && s.responseMode == modeNone:
		// No bodies come: the proxy closes when the response has ended, and how is not to be known.
		return routing.Completed
	case s.response == awaitingResponse && halfClosed && !s.described && s.request == requestOver:
		// Some proxies ask for a pod and nothing else: they close their side and read the answer.
		return routing.Unfollowed
	case s.server.stopping.Err() != nil:
		return routing.ShuttingDown
	}
	return routing.ClientGone
}

// finish ends the request, once, also when one of the calls panics and the stream is finished again for that.
func (s *stream) finish(e routing.End) {
	if s.reading {
		s.reading = false
		if u := s.usage.Usage(); u.Present {
			s.ticket.Used(u)
		}
	}
	if s.picked {
		s.picked = false
		s.ticket.Finish(e)
	}
	if s.opened != 0 {
		s.server.opened.CompareAndSwap(s.opened, 0)
		s.opened = 0
	}
	s.drop()
}

// drop gives up the request body.
func (s *stream) drop() {
	s.body.free()
	if s.buffered != 0 {
		s.server.buffered.Add(-s.buffered)
		s.buffered = 0
	}
}

// reset makes the stream ready for the next request. It keeps what costs to make anew.
func (s *stream) reset() {
	s.in.release()
	s.drop()
	_ = s.parsed.Parse(request.Other, "", nil, false) // lets go of the body
	s.exchange = exchange{head: requestHead{path: s.head.path, control: s.head.control[:0]}}
	s.arrival = routing.Arrival{Subset: s.arrival.Subset[:0], Steer: s.arrival.Steer[:0], Waits: s.arrival.Waits}
	clear(s.views)
	clear(s.parts)
}

// handle takes the message in s.in. Its error is errDone when the stream is to be closed, or what sending gave.
func (s *stream) handle() error {
	m := &s.in
	s.start(m)
	if m.observability || s.observed {
		s.observed = true
		return nil
	}
	if m.hasSubset && !s.picked {
		subsetInto(&s.arrival, m)
	}
	switch m.kind {
	case requestHeaders:
		return s.onRequestHeaders(m)
	case requestBody:
		return s.onRequestBody(m)
	case requestTrailers:
		return s.onRequestTrailers()
	case responseHeaders:
		return s.onResponseHeaders(m)
	case responseBody:
		return s.onResponseBody(m)
	case responseTrailers:
		return s.onResponseTrailers()
	}
	return nil
}

// start reads the modes: the proxy tells them in its first message. One that tells nothing is taken for full duplex.
func (s *stream) start(m *inbound) {
	if s.values != nil {
		return
	}
	s.values = s.server.settings.Current()
	s.requestMode, s.responseMode, s.described = modeFullDuplex, modeFullDuplex, m.hasModes
	if m.hasModes {
		s.requestMode, s.responseMode = m.requestMode, m.responseMode
	}
	s.server.counters.mode(s.requestMode, s.responseMode)
}

func (s *stream) send(data mem.BufferSlice) error {
	s.out.data = data
	err := s.wire.SendMsg(&s.out)
	if s.out.data != nil { // grpc gave up before it took the message over
		s.out.data.Free()
		s.out.data = nil
	}
	return err
}

// fullDuplex says whether bodies of this mode are given away by the proxy, so that every byte must be sent back.
func (b bodyMode) fullDuplex() bool { return b == modeFullDuplex || b == modeGRPC }

// buffered says whether the proxy keeps the body until it is answered, so that headers can still be changed then.
func (b bodyMode) buffered() bool { return b == modeBuffered || b == modePartial }

// echo passes on spans of a body in full duplex, in chunks that every proxy can take. With endOfStream the last chunk
// says so; a body without bytes then is one empty chunk.
// The first one carries m.
func (s *stream) echo(k kind, spans []span, endOfStream bool, m *mutation) error {
	left := 0
	for _, part := range spans {
		left += part.len()
	}
	for at := 0; ; {
		s.views = s.views[:0]
		n := 0
		for len(spans) > 0 && n < chunkLimit {
			take := min(spans[0].len()-at, chunkLimit-n)
			if take > 0 {
				s.views = append(s.views, span{spans[0].buffer, spans[0].from + at, spans[0].from + at + take}.view())
			}
			n, at = n+take, at+take
			if at == spans[0].len() {
				spans, at = spans[1:], 0
			}
		}
		left -= n
		if err := s.send(s.encoder.chunk(k, s.views, n, endOfStream && left == 0, m)); err != nil {
			return err
		}
		m = nil
		if left == 0 {
			return nil
		}
	}
}
