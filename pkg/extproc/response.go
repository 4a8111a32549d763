package extproc

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/request"
	"github.com/pilotfish-epp/pilotfish/pkg/routing"
)

// onResponseHeaders answers at once and decides what is looked at in the body.
func (s *stream) onResponseHeaders(m *inbound) error {
	if s.response != awaitingResponse {
		return s.send(s.encoder.answer(responseHeaders, nil))
	}
	s.overtaken()
	s.answer.read(m.headers)
	served := servedBy(m.served)
	if s.picked {
		s.ticket.Responded(s.answer.status, served, s.answer.events)
	}
	var change *mutation
	if !m.endOfStream {
		change = s.look()
	}
	if s.values.ConformanceHeaders {
		change = s.conform(change, m.served)
	}
	s.response = responding
	if err := s.send(s.encoder.answer(responseHeaders, change)); err != nil {
		return err
	}
	if m.endOfStream {
		s.endResponse()
	}
	return nil
}

// overtaken ends a request that is answered before it has been routed: the answer is the proxy's own.
func (s *stream) overtaken() {
	if s.request == passing {
		return
	}
	s.request = requestOver
	s.drop()
}

// look decides whether usage is read from this response's body. Reading costs little beside passing the bytes on, so
// that where bodies come anyway it is always done, save for embeddings, whose long answers tell the prompt's length and
// nothing else. Where bodies don't come the proxy is asked for those of a sample, if it is one that listens: with full
// duplex configured in either direction it would not, and the answers would break the stream. Of streamed answers one at
// a time is asked for, unless all are: each event is a message and a wake-up of its own, so that one of them costs as much
// as thirty that pass unseen. A share of 0 turns all of it off.
func (s *stream) look() *mutation {
	if !s.picked || s.kind == request.Other || s.values.UsageSample == 0 ||
		s.answer.status < 200 || s.answer.status > 299 || s.answer.encoded {
		return nil
	}
	comes := s.responseMode != modeNone
	if !comes && (!s.described || s.requestMode.fullDuplex()) {
		return nil
	}
	if (!comes || s.kind == request.Embeddings) && !s.server.draw(s.values.UsageSample) {
		return nil
	}
	if !comes && s.answer.events && s.values.UsageSample < 1 && !s.open(time.Now().UnixNano()) {
		return nil
	}
	s.reading = true
	s.usage.Reset(s.answer.events)
	if comes {
		return nil
	}
	return &mutation{override: &modeOverride{requestMode: s.requestMode, responseMode: modeStreamed}}
}

// openLimit is how long an answer that is looked at keeps others from it: one that never ends shall not.
const openLimit = int64(30 * time.Second)

// open takes the place of the one streamed answer that is looked at, if it is free or was taken long ago.
func (s *stream) open(now int64) bool {
	since := s.server.opened.Load()
	if since != 0 && now-since < openLimit || !s.server.opened.CompareAndSwap(since, now) {
		return false
	}
	s.opened = now
	return true
}

// conform adds what the conformance tests of the Gateway API Inference Extension look for.
func (s *stream) conform(m *mutation, served []byte) *mutation {
	if m == nil {
		m = &mutation{}
	}
	m.set = append(m.set, set{headerSeenTest, "true"})
	if len(served) > 0 {
		m.set = append(m.set, set{headerServedTest, string(served)})
	}
	return m
}

// onResponseBody passes the chunk on first and looks at it then.
func (s *stream) onResponseBody(m *inbound) error {
	if s.response == responseOver {
		return nil
	}
	s.response = responding
	s.overtaken()
	if s.responseMode == modeNone {
		s.responseMode = modeStreamed // as was asked for
	}
	var err error
	if s.responseMode.fullDuplex() {
		err = s.echo(responseBody, m.body, m.endOfStream, nil)
	} else {
		err = s.send(s.encoder.answer(responseBody, nil))
	}
	if err != nil {
		return err
	}
	s.observe(m)
	if m.endOfStream {
		s.endResponse()
	}
	return nil
}

// observe tells the ticket what a chunk of the response says.
func (s *stream) observe(m *inbound) {
	if !s.picked || m.bodyLen == 0 {
		return
	}
	s.ticket.ResponseBytes(m.bodyLen)
	if s.reading {
		for _, part := range m.body {
			s.usage.Write(part.bytes())
		}
	}
	if s.first || !s.answer.events || s.reading && !s.usage.FirstToken() {
		return
	}
	s.first = true
	s.ticket.FirstToken()
}

func (s *stream) onResponseTrailers() error {
	s.overtaken()
	if err := s.send(s.encoder.answer(responseTrailers, nil)); err != nil {
		return err
	}
	s.endResponse()
	return nil
}

// endResponse ends the request. The proxy closes the stream.
func (s *stream) endResponse() {
	s.response = responseOver
	s.finish(routing.Completed)
}

// servedBy reads the address that served; the zero value when it is none.
func servedBy(text []byte) netip.AddrPort {
	if len(text) == 0 {
		return netip.AddrPort{}
	}
	a, err := netip.ParseAddrPort(string(text))
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// draw says yes in the given share of cases, 0..1.
func draw(share float64) bool {
	return share > 0 && (share >= 1 || rand.Float64() < share)
}
