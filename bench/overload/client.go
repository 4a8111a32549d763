package overload

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// client sends requests to a gateway, each on a connection that nobody else uses meanwhile; connections are kept for
// the next one. Thousands may be under way, so it holds little for each: no goroutine but the caller's, and a buffer
// of 4 KB. Safe for concurrent use.
type client struct {
	gateway string
	open    atomic.Int64 // requests whose answer has not ended

	mu   sync.Mutex
	idle []*connection // the one used last is at the end
}

// connection is one HTTP/1.1 connection.
type connection struct {
	net.Conn
	in *bufio.Reader
}

// close ends the connections that are not in use.
func (c *client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.idle {
		_ = conn.Close() // nothing is under way on it
	}
	c.idle = nil
}

func (c *client) connect(ctx context.Context) (*connection, error) {
	c.mu.Lock()
	if n := len(c.idle); n > 0 {
		conn := c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		return conn, nil
	}
	c.mu.Unlock()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.gateway)
	if err != nil {
		return nil, err
	}
	return &connection{conn, bufio.NewReaderSize(conn, 4<<10)}, nil
}

func (c *client) keep(conn *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = append(c.idle, conn)
}

// ask sends a request and follows its answer to the end, or to that of ctx.
func (c *client) ask(ctx context.Context, r *Request) Answer {
	c.open.Add(1)
	defer c.open.Add(-1)
	a := Answer{Priority: r.Priority}
	conn, err := c.connect(ctx)
	if err != nil {
		return a.fail(ctx, 0, err)
	}
	forget := context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends what is being read
	start := time.Now()
	kept, err := conn.exchange(r, &a, start)
	a.Total = time.Since(start)
	if !forget() || err != nil || !kept {
		_ = conn.Close() // what there was to read is read, or lost
	} else {
		c.keep(conn)
	}
	if err != nil {
		return a.fail(ctx, a.Total, err)
	}
	return a
}

// fail is the answer that did not come, or not whole.
func (a Answer) fail(ctx context.Context, after time.Duration, err error) Answer {
	a.Outcome, a.Total, a.Fault = Broken, after, err.Error()
	if ctx.Err() != nil {
		a.Outcome, a.Fault = Unanswered, fmt.Sprintf("given up after %v", after.Round(time.Second))
	}
	return a
}

// write sends the request. What it is made of is garbage then: the answer may be long in coming.
func (conn *connection) write(r *Request) error {
	body := r.appendBody(make([]byte, 0, 128+4*r.Prompt))
	head := fmt.Appendf(nil, "POST /v1/chat/completions HTTP/1.1\r\nHost: gateway.example\r\nContent-Type: application/json\r\n"+
		"Accept: text/event-stream\r\nX-Gateway-Inference-Objective: %s\r\nContent-Length: %d\r\n\r\n", r.Priority.Objective(), len(body))
	buffers := net.Buffers{head, body}
	_, err := buffers.WriteTo(conn.Conn)
	return err
}

// exchange writes the request and reads its answer. kept says whether the connection can be used again.
func (conn *connection) exchange(r *Request, a *Answer, start time.Time) (kept bool, err error) {
	if err := conn.write(r); err != nil {
		return false, err
	}
	resp, err := http.ReadResponse(conn.in, nil)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end, or the connection is given up
	a.Status = resp.StatusCode
	if a.Status == http.StatusOK {
		err = a.readTokens(resp.Body, r.Answer, start)
	} else {
		err = a.readRefusal(resp)
	}
	switch {
	case err != nil:
		return false, err
	case conn.in.Buffered() > 0:
		return false, errors.New("more came after the end of the answer")
	}
	return !resp.Close, nil
}

// readTokens follows the events of a streamed answer.
func (a *Answer) readTokens(body io.Reader, want int, start time.Time) error {
	got, done := 0, false
	in := bufio.NewReaderSize(body, 4<<10)
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("after %d of %d tokens: %w", got, want, err)
		}
		switch {
		case done && len(bytes.TrimSpace(line)) > 0:
			return fmt.Errorf("after [DONE] came %.80q", line)
		case bytes.HasPrefix(line, []byte("data: [DONE]")):
			done = true
		case hasContent(line):
			if got++; got == 1 {
				a.First = time.Since(start)
			}
		}
	}
	if !done || got != want {
		return fmt.Errorf("the answer ended after %d of %d tokens, [DONE] seen: %v", got, want, done)
	}
	a.Outcome = Served
	return nil
}

// hasContent says whether an event carries text: the first chunk of a chat has a role and an empty content.
func hasContent(line []byte) bool {
	_, after, found := bytes.Cut(line, []byte(`"content":"`))
	return found && len(after) > 0 && after[0] != '"'
}

// reasonHeader says why the picker refused a request.
const reasonHeader = "X-Llm-D-Request-Dropped-Reason"

func (a *Answer) readRefusal(resp *http.Response) error {
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests:
		a.Outcome = TooMany
	case http.StatusServiceUnavailable:
		a.Outcome = Unavailable
	default:
		a.Outcome = OtherStatus
	}
	a.Reason = resp.Header.Get(reasonHeader)
	var e struct {
		Error struct{ Message, Code string }
	}
	if json.Unmarshal(body, &e) != nil || e.Error.Message == "" || e.Error.Code == "" {
		a.Fault = fmt.Sprintf("status %d with a body that is no OpenAI-style error with a code: %.120q", resp.StatusCode, body)
	}
	return nil
}
