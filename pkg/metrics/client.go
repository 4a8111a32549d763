package metrics

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"time"
)

// maxHead is the most bytes of an answer's head that are read.
const maxHead = 64 << 10

// dialer opens a connection to a pod.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// client asks one pod for its page over one kept connection. It belongs to one goroutine and has no other: in an
// http.Transport each page passes through three, and waking those costs more than reading what a small page says.
// What goes over the connection is net/http's nevertheless.
type client struct {
	dial  dialer
	clock *clock

	host     netip.AddrPort
	request  *http.Request
	question []byte // the request as it is written

	conn    net.Conn // nil: none is open
	forget  func() bool
	answer  *bufio.Reader
	left    int  // bytes that the head under way may still have
	touched bool // something of the answer under way has come
	body    body
}

func newClient(dial dialer, c *clock) *client {
	cl := &client{dial: dial, clock: c}
	cl.answer = bufio.NewReader(incoming{cl})
	return cl
}

// get asks host for the page at path, all of which has to be there at the deadline. The caller closes the body before it
// asks again. The end of ctx breaks off whatever is under way.
func (c *client) get(ctx context.Context, deadline time.Time, host netip.AddrPort, path string) (io.ReadCloser, error) {
	if err := c.prepare(host, path); err != nil {
		return nil, err
	}
	resp, err := c.roundTrip(ctx, deadline) //nolint:bodyclose // here or by the caller: the connection ends, or the body is read
	if err != nil {
		c.close()
		return nil, failure(classify(err), err)
	}
	if resp.StatusCode != http.StatusOK {
		c.close()
		return nil, failure(Status, fmt.Errorf("expected 200 OK, got %s", resp.Status))
	}
	c.body = body{ReadCloser: resp.Body, client: c, last: resp.Close}
	return &c.body, nil
}

// prepare makes the request, which is the same nearly always.
func (c *client) prepare(host netip.AddrPort, path string) error {
	if c.request != nil && c.host == host && c.request.URL.Path == path {
		return nil
	}
	if c.host != host {
		c.close()
	}
	c.host = host
	c.request = &http.Request{
		Method: http.MethodGet,
		URL:    &url.URL{Scheme: "http", Host: host.String(), Path: path},
		// Without Accept-Encoding: compressing costs the model server more than sending.
		Header: http.Header{"Accept": {"text/plain;version=0.0.4"}, "User-Agent": {"pilotfish"}},
	}
	var question bytes.Buffer
	err := c.request.Write(&question)
	c.question = question.Bytes()
	return err
}

// roundTrip asks over the kept connection or, where there is none or the server has given it up, over a new one.
func (c *client) roundTrip(ctx context.Context, deadline time.Time) (*http.Response, error) {
	if c.conn != nil && c.answer.Buffered() == 0 {
		resp, err := c.ask(deadline)
		if !c.givenUp(resp, err) || ctx.Err() != nil {
			return resp, err
		}
	}
	if err := c.connect(ctx, deadline); err != nil {
		return nil, err
	}
	return c.ask(deadline)
}

// givenUp says whether this came of a kept connection that the server closed for having been idle, which it may do just
// when it is asked once more. Some say so with a status.
func (c *client) givenUp(resp *http.Response, err error) bool {
	if err != nil {
		return !c.touched && classify(err) != Timeout
	}
	return resp.StatusCode == http.StatusRequestTimeout
}

func (c *client) connect(ctx context.Context, deadline time.Time) error {
	c.close()
	dialing, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	conn, err := c.dial(dialing, "tcp", c.host.String())
	if err != nil {
		return err
	}
	c.conn = metered(conn, c.clock)
	c.forget = context.AfterFunc(ctx, func() { conn.Close() }) //nolint:errcheck // it is of no more use
	c.answer.Reset(incoming{c})
	return nil
}

// ask writes the request and reads the head of the answer.
func (c *client) ask(deadline time.Time) (*http.Response, error) {
	c.left, c.touched = maxHead, false
	if err := c.conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	if _, err := c.conn.Write(c.question); err != nil {
		return nil, err
	}
	for {
		resp, err := http.ReadResponse(c.answer, c.request)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			c.left = math.MaxInt // the body has its own limit
			return resp, nil
		}
	}
}

// close closes the connection, if there is one.
func (c *client) close() {
	if c.conn != nil {
		c.forget()
		c.conn.Close() //nolint:errcheck // nothing more is expected of it
		c.conn = nil
	}
}

// incoming is what a client's connection brings.
type incoming struct{ *client }

func (i incoming) Read(p []byte) (int, error) {
	if i.left <= 0 {
		return 0, fmt.Errorf("expected a head of at most %d bytes, got more", maxHead)
	}
	n, err := i.conn.Read(p[:min(len(p), i.left)])
	i.left -= n
	i.touched = i.touched || n > 0
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = context.DeadlineExceeded // whose text says more
	}
	return n, err
}

// body is the body of an answer. The connection is kept when all of it was read, and the server keeps it too.
type body struct {
	io.ReadCloser
	client *client
	last   bool // nothing comes after it
	ended  bool
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.ended = b.ended || errors.Is(err, io.EOF)
	return n, err
}

// Close never fails. It doesn't read what is left, which may have no end.
func (b *body) Close() error {
	if b.last || !b.ended {
		b.client.close()
	}
	return nil
}
