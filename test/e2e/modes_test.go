package e2e

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

// The picker works in whichever way a gateway sends it bodies, each direction by itself, and what reaches the model
// server is byte for byte what the client sent.
func TestBodyModes(t *testing.T) {
	for _, mode := range []struct{ request, response string }{
		{"FULL_DUPLEX_STREAMED", "FULL_DUPLEX_STREAMED"},
		{"FULL_DUPLEX_STREAMED", "NONE"},
		{"BUFFERED", "NONE"},
		{"BUFFERED", "BUFFERED"},
		{"BUFFERED_PARTIAL", "BUFFERED_PARTIAL"},
		{"STREAMED", "STREAMED"},
		{"NONE", "NONE"},
		{"NONE", "FULL_DUPLEX_STREAMED"},
	} {
		t.Run(mode.request+"/"+mode.response, func(t *testing.T) {
			t.Parallel()
			one, two := newMirror(t, "mirror-1"), newMirror(t, "mirror-2")
			s := newSite(t, plan{
				profile: fullDuplex,
				others:  []stack.Endpoint{stack.At("mirror-1", one.address), stack.At("mirror-2", two.address)},
				env:     []string{"ROUTING_STRATEGY=PREFIX_CACHE"},
				mutate: func(c stack.Config) error {
					if err := c.Replace(stack.ExtProc+"/processing_mode/request_body_mode", mode.request); err != nil {
						return err
					}
					return c.Replace(stack.ExtProc+"/processing_mode/response_body_mode", mode.response)
				},
			})
			sent := bodiesArrive(t, s)
			if got := picks(t, s.picker()); got != sent {
				t.Errorf("%d requests, %d picks counted", sent, got)
			}
			if got := len(one.requests()) + len(two.requests()); got != sent {
				t.Errorf("%d requests, %d reached a mirror", sent, got)
			}
			s.wantIdle(t)
			s.wantNoBypass(t)
		})
	}
}

// bodiesArrive sends bodies of all sizes, with and without their length told, and gives how many requests it made.
func bodiesArrive(t *testing.T, s *site) int {
	t.Helper()
	sent := 0
	for _, body := range [][]byte{
		[]byte(`{"prompt": "ä\u00e4 \/ 1e3"}`), // 27 bytes that a re-encoding would change
		chat{prompt: text("a page", 64<<10)}.body(),
		chat{prompt: text("a book", 2<<20)}.body(),
	} {
		for _, r := range []call{
			{path: chatPath, body: body},
			{path: chatPath, body: body, chunks: true},
			{path: "/v1/completions", body: body},
			{path: "/upload", body: body},
		} {
			a := s.do(r)
			sent++
			if !a.ok() {
				t.Errorf("%s, %d bytes, chunked %v: %v", r.path, len(body), r.chunks, a)
				continue
			}
			a.sighted(t).wantSame(t, body)
		}
	}
	for _, method := range []string{http.MethodGet, http.MethodDelete, http.MethodPost} {
		r := call{method: method, path: fmt.Sprintf("/v1/models?by=%s", method)}
		got := s.do(r).sighted(t)
		sent++
		if got.Method != method || got.Path != r.path || got.Bytes != 0 {
			t.Errorf("sent %s %s without a body, the mirror saw %+v", method, r.path, got)
		}
	}
	return sent
}
