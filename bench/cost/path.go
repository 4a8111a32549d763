package cost

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

const (
	pathPods       = 8
	podPage        = 40 << 10 // bytes of a metrics page; that of vLLM 0.32 has 51 KB
	leanSSEBudget  = 1.1
	leanJSONBudget = 1.2
)

// errand is one kind of request through Envoy.
type errand struct {
	name     string
	kb       int
	stream   bool
	requests int // in each turn
	conns    int
	budget   float64 // of Envoy + picker over Envoy + bare, lean profile
}

var errands = [...]errand{
	{name: "1 KB, 128-event SSE answer", kb: 1, stream: true, requests: 768, conns: 128, budget: leanSSEBudget},
	{name: "8 KB, short JSON answer", kb: 8, requests: 4000, conns: 16, budget: leanJSONBudget},
}

// route is one way that requests go: an Envoy, and behind it an ext_proc server or none.
type route struct {
	name    string
	profile string
	envoy   *stack.Envoy
	server  *stack.Process // nil: Envoy alone
	bare    *route         // the reference of one with a picker

	budgeted bool // its ratio has a budget

	whole, proxy, behind [len(errands)][]float64 // CPU-µs a request, by errand: sum, Envoy, ext_proc server
}

// path measures requests through real Envoys.
func (b *bench) path(ctx context.Context, out *Section) error {
	out.Title = "CPU of Envoy and the ext_proc server for one request, HTTP/1.1"
	out.Conditions = []string{
		"profiles of deploy/envoy, plaintext to the ext_proc server, endpoints static; client and pods are not counted",
		fmt.Sprintf("SSE: 1 KB request, %d events %v apart, 128 connections; JSON: 8 KB request, 400-byte answer, 16 connections", events, eventGap),
		fmt.Sprintf("bare: ext_proc server with grpc-go and go-control-plane's types that names a pod in turn (lean) and sends all back (full duplex); %d pods", pathPods),
		"picker: PREFIX_CACHE, DESTINATION_FALLBACKS=2, all else by default: pages of 40 KB read every 200 ms, a sample of the answers looked at",
	}
	return onStack(func(s *stack.Stack) error {
		routes, err := b.routes(ctx, s)
		if err != nil {
			return err
		}
		for i := range errands {
			if err := b.errand(ctx, i, routes); err != nil {
				return err
			}
		}
		out.Figures = pathFigures(routes)
		return nil
	})
}

func (b *bench) routes(ctx context.Context, s *stack.Stack) ([]*route, error) {
	pods, err := b.startChild(ctx, s, "pods", "pods", fmt.Sprint(pathPods), fmt.Sprint(podPage))
	if err != nil {
		return nil, err
	}
	bare, err := b.startChild(ctx, s, "bare", "echo", joined(pods.addrs))
	if err != nil {
		return nil, err
	}
	picker, err := b.startPicker(ctx, s, "picker", pods.addrs, "DESTINATION_FALLBACKS=2")
	if err != nil {
		return nil, err
	}
	silent, err := b.startPicker(ctx, s, "picker-no-sample", pods.addrs, "DESTINATION_FALLBACKS=2", "USAGE_SAMPLE=0")
	if err != nil {
		return nil, err
	}
	routes := routesThrough(bare.Process, picker.Process, silent.Process)
	for i, r := range routes {
		server := bare.addrs[0]
		switch r.server {
		case picker.Process:
			server = picker.GRPC
		case silent.Process:
			server = silent.GRPC
		}
		o := stack.EnvoyOptions{
			Name: fmt.Sprintf("envoy-%d", i), Profile: r.profile, Pickers: []netip.AddrPort{server}, Plaintext: true, Pods: pods.addrs,
		}
		if r.server == nil {
			o.Mutate = stack.Config.RemoveExtProc
		}
		if r.envoy, err = s.Envoy(ctx, o); err != nil {
			return nil, err
		}
	}
	return routes, nil
}

// routesThrough lists the routes in the order of the table. silent is a picker that looks at no answer.
func routesThrough(bare, picker, silent *stack.Process) []*route {
	leanBare := &route{name: "lean, bare", profile: "lean", server: bare}
	duplexBare := &route{name: "full duplex, bare", profile: "full-duplex", server: bare}
	return []*route{
		{name: "Envoy alone", profile: "lean"},
		leanBare,
		{name: "lean, picker", profile: "lean", server: picker, bare: leanBare, budgeted: true},
		{name: "lean, picker, USAGE_SAMPLE=0", profile: "lean", server: silent, bare: leanBare},
		duplexBare,
		{name: "full duplex, picker", profile: "full-duplex", server: picker, bare: duplexBare},
	}
}

func joined(addrs []netip.AddrPort) string {
	s := make([]string, len(addrs))
	for i, a := range addrs {
		s[i] = a.String()
	}
	return strings.Join(s, ",")
}

// errand sends one kind of request over all routes in turn.
func (b *bench) errand(ctx context.Context, i int, routes []*route) error {
	e := errands[i]
	bodies := newChats(2, e.kb<<10, 128, e.stream)
	n := b.some(e.requests)
	for _, r := range routes { // warm-up
		if _, err := load(ctx, r.envoy.Gateway.String(), bodies, e, max(n/4, e.conns)); err != nil {
			return fmt.Errorf("%s: %s: %w", r.name, e.name, err)
		}
	}
	return inTurn(b.Rounds, routes, func(round int, r *route) error {
		measured := []*stack.Process{r.envoy.Process}
		if r.server != nil {
			measured = append(measured, r.server)
		}
		var took time.Duration
		used, err := spent(func() (err error) {
			took, err = load(ctx, r.envoy.Gateway.String(), bodies, e, n)
			return err
		}, measured...)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", r.name, e.name, err)
		}
		proxy, behind := micros(used[0], n), 0.0
		if r.server != nil {
			behind = micros(used[1], n)
		}
		r.proxy[i], r.behind[i] = append(r.proxy[i], proxy), append(r.behind[i], behind)
		r.whole[i] = append(r.whole[i], proxy+behind)
		b.progress("path %s round %d %-20s %6.0f + %4.0f CPU-µs a request, %4.0f requests/s", e.name, round+1, r.name, proxy, behind, float64(n)/took.Seconds())
		return nil
	})
}

func pathFigures(routes []*route) []Figure {
	var figures []Figure
	for i, e := range errands {
		alone := routes[0]
		for _, r := range routes {
			f := Figure{
				Case: e.name + ": " + r.name, Unit: "CPU-µs/request", Value: spread(r.whole[i]),
				Parts: []Part{{"Envoy", spread(r.proxy[i])}},
			}
			if r.server != nil {
				f.Parts = append(f.Parts, Part{"server", spread(r.behind[i])})
				overAlone := spread(ratios(r.whole[i], alone.whole[i]))
				f.Note = fmt.Sprintf("%.2f of Envoy alone", overAlone.Median)
			}
			if r.bare != nil {
				f.against(r.bare.name, r.whole[i], r.bare.whole[i])
				if r.budgeted {
					f.limitRatio(e.budget)
				}
			}
			figures = append(figures, f)
		}
	}
	return figures
}

// load sends n requests over an errand's connections, each as soon as the last one's answer has ended, and returns how
// long that took. An answer that isn't the expected one ends it.
func load(ctx context.Context, addr string, bodies *chats, e errand, n int) (time.Duration, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	start := time.Now()
	var begun atomic.Int64
	var wg sync.WaitGroup
	for range e.conns {
		wg.Go(func() {
			c, err := dialClient(ctx, addr)
			if err != nil {
				stop(err)
				return
			}
			defer c.Close()
			for begun.Add(1) <= int64(n) && ctx.Err() == nil {
				if err := c.ask(bodies.take(), e.stream); err != nil {
					stop(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start), context.Cause(ctx)
}

// client is one kept HTTP/1.1 connection.
type client struct {
	conn     net.Conn
	in       *bufio.Reader
	out, got []byte
}

func dialClient(ctx context.Context, addr string) (*client, error) {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &client{conn: conn, in: bufio.NewReaderSize(conn, 64<<10)}, nil
}

func (c *client) Close() { _ = c.conn.Close() } // everything asked for has come

// ask sends a chat body and reads the answer to its end.
func (c *client) ask(body []byte, stream bool) error {
	c.out = fmt.Appendf(c.out[:0], "POST /v1/chat/completions HTTP/1.1\r\nHost: gateway.example\r\nContent-Type: application/json\r\n"+
		"User-Agent: OpenAI/Python 2.7.1\r\nAccept: application/json\r\nAuthorization: Bearer sk-none\r\nContent-Length: %d\r\n\r\n", len(body))
	c.out = append(c.out, body...)
	if err := c.conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	if _, err := c.conn.Write(c.out); err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end already, or the connection is given up
	buf := bytes.NewBuffer(c.got[:0])
	_, err = io.Copy(buf, resp.Body)
	c.got = buf.Bytes()
	switch {
	case err != nil:
		return fmt.Errorf("answer: %w", err)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("status %s: %.300s", resp.Status, c.got)
	case stream && bytes.Count(c.got, []byte("data: {")) != events, stream && !bytes.HasSuffix(c.got, []byte(lastEvent)):
		return errors.New("the events came incomplete")
	case !stream && string(c.got) != jsonAnswer:
		return fmt.Errorf("another answer came than the pod's: %.300s", c.got)
	}
	return nil
}
