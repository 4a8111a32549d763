package enginesim

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
)

// Faults says how a Server misbehaves; the zero value is a healthy one. /faults and /stats answer through all of them.
type Faults struct {
	Slow           float64 `json:"slow"`             // factor on every step's time; 0 and 1 = none
	Refuse         string  `json:"refuse"`           // reset connections: "before" the body is read, "after" the whole request was read
	DieAfterChunks int     `json:"die_after_chunks"` // reset answers after so many SSE events (half way, if not streamed); 0 = none
	FreezeMetrics  bool    `json:"freeze_metrics"`   // the metrics page stays as it is
	Metrics        string  `json:"metrics"`          // "error" (500), "html", "empty", "endless", "slow" (a byte a second)
	Hang           bool    `json:"hang"`             // inference requests are read and not answered until this ends
	Freeze         bool    `json:"freeze"`           // nothing moves: no token, no answer, no page, until this ends
	Loading        bool    `json:"loading"`          // 503 to everything, as while a model is loaded
}

func (f Faults) validate() error {
	switch f.Refuse {
	case "", "before", "after":
	default:
		return fmt.Errorf(`fault refuse: got %q, expected "", "before" or "after"`, f.Refuse)
	}
	switch f.Metrics {
	case "", "error", "html", "empty", "endless", "slow":
	default:
		return fmt.Errorf(`fault metrics: got %q, expected "", "error", "html", "empty", "endless" or "slow"`, f.Metrics)
	}
	if f.Slow < 0 {
		return fmt.Errorf("fault slow: got %g, expected 0 or more", f.Slow)
	}
	if f.DieAfterChunks < 0 {
		return fmt.Errorf("fault die_after_chunks: got %d, expected 0 or more", f.DieAfterChunks)
	}
	return nil
}

// faultState is a set of faults and the signal that it was replaced.
type faultState struct {
	Faults
	replaced chan struct{} // closed by the next SetFaults
}

// Faults returns the faults in force.
func (s *Server) Faults() Faults { return s.faults.Load().Faults }

// SetFaults replaces the faults in force.
func (s *Server) SetFaults(f Faults) error {
	if err := f.validate(); err != nil {
		return err
	}
	if f.FreezeMetrics {
		s.frozenPage.CompareAndSwap(nil, new(s.metricsPage()))
	} else {
		s.frozenPage.Store(nil)
	}
	s.mu.Lock()
	s.engine.SetSlowdown(slowdown(f))
	s.clock.pause(f.Freeze)
	old := s.faults.Swap(&faultState{Faults: f, replaced: make(chan struct{})})
	s.mu.Unlock()
	close(old.replaced)
	s.wakeDriver()
	return nil
}

func slowdown(f Faults) float64 {
	if f.Slow == 0 {
		return 1
	}
	return f.Slow
}

// await returns once the faults no longer hold the caller up; false when its client has left.
func (s *Server) await(ctx context.Context, held func(Faults) bool) bool {
	for {
		state := s.faults.Load()
		if !held(state.Faults) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-state.replaced:
		}
	}
}

func frozen(f Faults) bool { return f.Freeze }

func hanging(f Faults) bool { return f.Hang || f.Freeze }

// reset ends the connection of a request with a TCP reset, whatever was sent of the answer.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // close sends RST instead of FIN
	}
	_ = conn.Close()
}

// serveFaults shows the faults (GET), changes those that the body names (POST) or ends all (DELETE), to callers on
// this machine that come directly.
func (s *Server) serveFaults(w http.ResponseWriter, r *http.Request) {
	if !isLocal(r) {
		writeError(w, &apiError{Status: http.StatusForbidden, Type: "PermissionDeniedError", Message: "faults are set from the engine's own machine only"})
		return
	}
	f := s.Faults()
	switch r.Method {
	case http.MethodGet:
	case http.MethodDelete:
		f = Faults{}
	case http.MethodPost:
		body, failed := s.readBody(w, r)
		if failed != nil {
			writeError(w, failed)
			return
		}
		dec := json.NewDecoder(bytes.NewReader(body))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&f); err != nil {
			writeError(w, badRequest("", "faults: "+err.Error()))
			return
		}
	default:
		writeError(w, methodNotAllowed(r))
		return
	}
	if err := s.SetFaults(f); err != nil {
		writeError(w, badRequest("", err.Error()))
		return
	}
	writeJSON(w, http.StatusOK, f)
}

func isLocal(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr == "pipe" // an in-memory connection
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback() && r.Header.Get("X-Forwarded-For") == ""
}
