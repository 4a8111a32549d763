package extproc

import (
	"crypto/rand"
	"encoding/hex"
	"strconv"
	"time"

	"google.golang.org/grpc/mem"

	"github.com/pilotfish-epp/pilotfish/pkg/request"
	"github.com/pilotfish-epp/pilotfish/pkg/routing"
)

// onRequestHeaders answers at once where the body can't change the pick or must not be waited for; else it holds the
// answer until the body is there.
func (s *stream) onRequestHeaders(m *inbound) error {
	if s.request != awaitingRequest {
		return nil // a proxy that repeats itself gets no second pick
	}
	s.head.read(m.headers)
	if name := s.values.FairnessHeader; name != "" {
		s.head.fairness = valueOf(m.headers, name)
	}
	s.kind = request.KindOf(s.head.path)
	if s.head.encoded || s.head.foreign {
		s.kind = request.Other // nothing to be read in there
	}
	switch {
	case m.endOfStream && s.kind != request.Other && s.head.post:
		return s.refuse(malformed(nil, nil))
	case m.endOfStream || s.requestMode == modeNone:
		return s.pickAtHeaders(requestOver)
	case s.requestMode == modeStreamed:
		return s.pickAtHeaders(passing)
	case s.requestMode.fullDuplex() && s.kind == request.Other:
		// Uploads, upgrades and whatever else needs no body for the pick: it flows, and nothing is held.
		return s.pickAtHeaders(passing)
	}
	if s.head.contentLength > s.values.MaxRequestBody {
		return s.refuse(tooLarge(s.values.MaxRequestBody))
	}
	s.request = gathering
	if s.requestMode.buffered() {
		return s.releaseHeaders()
	}
	return nil
}

// releaseHeaders answers the request headers before the pick: the proxy sends no body before it has this answer. What
// a client forged is removed here already, for the proxy goes on without the picker when that takes too long.
func (s *stream) releaseHeaders() error {
	if len(s.head.control) == 0 {
		return s.send(s.encoder.answer(requestHeaders, nil))
	}
	return s.send(s.encoder.answer(requestHeaders, &mutation{remove: s.head.control, clearRouteCache: true}))
}

// pickAtHeaders routes a request whose body is not looked at.
func (s *stream) pickAtHeaders(next requestPhase) error {
	if err := s.pick(false); err != nil {
		return err
	}
	s.request = next
	if err := s.send(s.encoder.answer(requestHeaders, s.destination())); err != nil {
		return err
	}
	return s.afterRequest()
}

func (s *stream) onRequestBody(m *inbound) error {
	switch s.request {
	case requestOver:
		return nil // Envoy is known to send the last chunk of a large body twice
	case passing:
		return s.pass(m, nil)
	case awaitingRequest: // the proxy was told not to send headers
		if !s.requestMode.buffered() {
			return s.pickAtBody(m)
		}
		s.request = gathering
	}
	if err := s.hold(m); err != nil {
		return err
	}
	if s.requestMode.buffered() {
		return s.answerBuffered(m.endOfStream)
	}
	if !m.endOfStream {
		return nil
	}
	if err := s.forward(true); err != nil {
		return err
	}
	return s.afterRequest()
}

// pickAtBody routes a request whose headers never come here. The headers are beyond reach then, so the destination goes
// into the metadata alone.
func (s *stream) pickAtBody(m *inbound) error {
	if err := s.pick(false); err != nil {
		return err
	}
	s.request = passing
	return s.pass(m, &mutation{destination: s.ticket.Destination()})
}

// pass sends a body that needs no look on at once.
func (s *stream) pass(m *inbound, change *mutation) error {
	if m.endOfStream {
		s.request = requestOver
	}
	var err error
	if s.requestMode.fullDuplex() {
		err = s.echo(requestBody, m.body, m.endOfStream, change)
	} else {
		err = s.send(s.encoder.answer(requestBody, change))
	}
	if err != nil {
		return err
	}
	return s.afterRequest()
}

// hold takes the bytes of a body message in, within the bounds for each body and for the process.
func (s *stream) hold(m *inbound) error {
	if int64(s.body.len()+m.bodyLen) > s.values.MaxRequestBody {
		return s.refuse(tooLarge(s.values.MaxRequestBody))
	}
	s.buffered += int64(m.bodyLen)
	if s.server.buffered.Add(int64(m.bodyLen)) > s.values.MaxBuffered {
		return s.refuse(outOfMemory())
	}
	s.body.add(m)
	return nil
}

// forward routes a request in full duplex whose body is there, and sends headers and body on. Without endOfStream
// trailers follow.
func (s *stream) forward(endOfStream bool) error {
	if err := s.pick(false); err != nil {
		return err
	}
	s.request = requestOver
	change := s.destination()
	spans, n := s.outgoing()
	if n != s.body.len() && s.head.contentLength >= 0 {
		change.set = append(change.set, set{headerContentLength, strconv.Itoa(n)})
	}
	if err := s.send(s.encoder.answer(requestHeaders, change)); err != nil {
		return err
	}
	if n > 0 || endOfStream {
		if err := s.echo(requestBody, spans, endOfStream, nil); err != nil {
			return err
		}
	}
	s.drop()
	return nil
}

// answerBuffered routes a request whose body the proxy holds, or as much of it as the proxy could hold: headers can
// still be changed with this answer.
func (s *stream) answerBuffered(endOfStream bool) error {
	truncated := !endOfStream && s.requestMode == modePartial
	if err := s.pick(truncated); err != nil {
		return err
	}
	s.request = requestOver
	change := s.destination()
	change.remove = nil // done when the headers were answered
	if !s.rewritten() {
		s.drop()
		return s.send(s.encoder.answer(requestBody, change))
	}
	spans, n := s.outgoing()
	if s.head.contentLength >= 0 && !truncated {
		// Envoy compares the two. The length of a truncated body, which goes on elsewhere, is not ours to tell.
		change.set = append(change.set, set{headerContentLength, strconv.Itoa(n)})
	}
	s.views = s.views[:0]
	for _, part := range spans {
		s.views = append(s.views, part.view())
	}
	err := s.send(s.encoder.replaced(requestBody, s.views, n, change))
	s.drop()
	return err
}

func (s *stream) onRequestTrailers() error {
	var change *mutation
	switch {
	case s.request == gathering && s.requestMode.fullDuplex():
		if err := s.forward(false); err != nil {
			return err
		}
	case s.request == gathering: // an empty body, of which the proxy said nothing
		if err := s.pick(false); err != nil {
			return err
		}
		change = &mutation{destination: s.ticket.Destination()}
	}
	s.request = requestOver
	if err := s.send(s.encoder.answer(requestTrailers, change)); err != nil {
		return err
	}
	return s.afterRequest()
}

// afterRequest closes the stream once the request has been sent on, when responses are not to be looked at. That is
// safe only here: a proxy in full duplex that has sent response headers loses a chunk of the body.
func (s *stream) afterRequest() error {
	if s.request != requestOver || s.response != awaitingResponse || !s.picked ||
		s.values.ResponseProcessing != responseProcessingNone ||
		!s.requestMode.fullDuplex() || !s.responseMode.fullDuplex() {
		return nil
	}
	s.finish(routing.Unfollowed)
	return errDone
}

const responseProcessingNone = "none"

// arrived gives what is known of the request without a look into its body. A request without an ID gets one.
func (s *stream) arrived() *routing.Arrival {
	if s.head.requestID == "" {
		s.head.requestID, s.named = newRequestID(), true
	}
	a := &s.arrival
	a.RequestID, a.Objective, a.Fairness = s.head.requestID, s.head.objective, s.head.fairness
	a.BodyBytes = s.body.len()
	a.HeldBytes = a.BodyBytes
	if s.in.kind == requestHeaders && !s.in.endOfStream && s.requestMode.fullDuplex() {
		a.HeldBytes = streamWindow // the body comes, and is read no further while the request waits
		if s.head.contentLength >= 0 {
			a.HeldBytes = int(min(streamWindow, s.head.contentLength))
		}
	}
	if a.BodyBytes == 0 {
		a.BodyBytes = int(max(0, s.head.contentLength))
	}
	return a
}

// pick routes the request, by the body held if it is of a kind that is read. With nil the ticket holds a pod.
func (s *stream) pick(truncated bool) error {
	a := s.arrived()
	if s.head.steer != "" && s.values.ConformanceHeaders {
		a.Steer = steerTo(a.Steer[:0], s.head.steer)
	}
	if s.values.Queueing && s.request == gathering {
		s.body.unpin() // before anything looks into it
		s.in.release() // or the message would stay for as long as the request waits
	}
	if s.reads() {
		if err := s.parsed.Parse(s.kind, s.head.path, s.body.bytes(), truncated); err != nil {
			return s.refuse(malformed(err, s.body.bytes()))
		}
		a.Body, a.Rewrite = &s.parsed, s.head.rewrite
	}
	s.picked = true // from here on the ticket may hold a pod, also if something panics before it is known here
	if refusal := s.route(a); refusal != nil {
		s.picked = false
		return s.turnAway(refusal)
	}
	return nil
}

// reads says whether the body is one that is parsed. A POST to an inference path must have one, and gets told where it
// is wrong; other requests without a body go where there is room.
func (s *stream) reads() bool {
	return s.kind != request.Other && s.request == gathering && (s.body.len() > 0 || s.head.post)
}

// route asks for a pod. Where requests may wait, the wait ends with the stream.
func (s *stream) route(a *routing.Arrival) *routing.Refusal {
	if s.ticket == nil {
		s.ticket = s.server.router.newTicket()
	}
	return s.server.router.route(s.wire.Context(), a, s.ticket)
}

// longestTimeout is what deploy/envoy allows: Envoy takes no notice of a wish for more.
const longestTimeout = time.Hour

// timeoutSlack is how much longer than the longest wait the proxy is asked to be patient.
const timeoutSlack = time.Second

// waits tells the proxy that the answer under way takes up to longest, or it would go on without. In full duplex no
// answer to a request has a time limit, not even one to headers that come alone. A proxy that doesn't allow as much keeps
// to its own limit.
func (s *stream) waits(longest time.Duration) {
	if s.requestMode.fullDuplex() {
		return
	}
	_ = s.send(s.encoder.patience(min(longest+timeoutSlack, longestTimeout))) // one that has gone ends the wait by the stream's context
}

// destination gives the change that sends the request to its pod. It is valid until the next call.
func (s *stream) destination() *mutation {
	to := s.ticket.Destination()
	m := &s.change
	m.set = append(m.set[:0], set{keyDestination, to})
	if s.named {
		m.set = append(m.set, set{headerRequestID, s.head.requestID})
	}
	m.remove = m.remove[:0]
	for _, name := range s.head.control {
		if name != keyDestination { // it is overwritten
			m.remove = append(m.remove, name)
		}
	}
	m.destination, m.clearRouteCache = to, true
	return m
}

// rewritten says whether the body must carry another model name than it came with.
func (s *stream) rewritten() bool { return s.arrival.Body != nil && s.ticket.Model() != "" }

// outgoing gives the body as the engine gets it, and its length: as it came, or with another model name. It is valid
// until drop.
func (s *stream) outgoing() ([]span, int) {
	n := s.body.len()
	s.parts = s.parts[:0]
	if n == 0 {
		return s.parts, 0
	}
	if !s.rewritten() {
		s.parts = append(s.parts, s.body.span(0, n))
		return s.parts, n
	}
	head, model, tail := s.parsed.PatchModel(s.ticket.Model())
	if model == nil {
		s.parts = append(s.parts, s.body.span(0, n))
		return s.parts, n
	}
	name := mem.SliceBuffer(append([]byte(nil), model...))
	s.parts = append(s.parts,
		s.body.span(0, len(head)), span{name, 0, len(name)}, s.body.span(n-len(tail), n))
	return s.parts, len(head) + len(name) + len(tail)
}

// newRequestID gives a random UUID, version 4.
func newRequestID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	var text [36]byte
	hex.Encode(text[:8], id[:4])
	hex.Encode(text[9:13], id[4:6])
	hex.Encode(text[14:18], id[6:8])
	hex.Encode(text[19:23], id[8:10])
	hex.Encode(text[24:], id[10:])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}
