package enginesim

import (
	"net/http"
)

// events writes server-sent events; what is written reaches the client at flush.
type events struct {
	w       http.ResponseWriter
	control *http.ResponseController
	buf     []byte
	sent    int
	die     int  // reset the connection after so many events; 0 = never
	dead    bool // it was reset
}

func newEvents(w http.ResponseWriter, die int) *events {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	e := &events{w: w, control: http.NewResponseController(w), die: die}
	w.WriteHeader(http.StatusOK)
	e.flush() // vLLM sends the headers as soon as it has accepted the request
	return e
}

// data adds an event from pieces of its data.
func (e *events) data(pieces ...[]byte) { e.named("", pieces...) }

// named adds an event with an event line, as the Responses and Messages APIs use them.
func (e *events) named(name string, pieces ...[]byte) {
	if e.dead {
		return
	}
	if name != "" {
		e.buf = append(append(append(e.buf, "event: "...), name...), '\n')
	}
	e.buf = append(e.buf, "data: "...)
	for _, p := range pieces {
		e.buf = append(e.buf, p...)
	}
	e.buf = append(e.buf, "\n\n"...)
	e.sent++
	if e.sent == e.die {
		e.flush()
		reset(e.w)
		e.dead = true
	}
}

func (e *events) flush() {
	if e.dead {
		return
	}
	_, _ = e.w.Write(e.buf) // a client that has left is noticed by the request's context
	e.buf = e.buf[:0]
	_ = e.control.Flush()
}
