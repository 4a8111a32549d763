package cost

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

// Child runs one of the helper processes of a measurement until ctx ends: `echo DESTINATION,…` or
// `pods NUMBER PAGE-BYTES`. It prints where it listens as a line of JSON.
func Child(ctx context.Context, out io.Writer, args []string) error {
	switch {
	case len(args) == 2 && args[0] == "echo":
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		if err := announce(out, l.Addr().(*net.TCPAddr).AddrPort()); err != nil {
			return err
		}
		return serveEcho(ctx, l, strings.Split(args[1], ","))
	case len(args) == 3 && args[0] == "pods":
		n, err := strconv.Atoi(args[1])
		size, err2 := strconv.Atoi(args[2])
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		p, err := newPods(n, size)
		if err != nil {
			return err
		}
		defer p.Close()
		if err := announce(out, p.Addrs()...); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	}
	return fmt.Errorf("expected `echo DESTINATION,…` or `pods NUMBER PAGE-BYTES`, got %q", args)
}

func announce(out io.Writer, addrs ...netip.AddrPort) error {
	return json.NewEncoder(out).Encode(addrs)
}

// child is a helper process that listens.
type child struct {
	*stack.Process
	addrs []netip.AddrPort
}

// startChild starts this program again as one of the helpers of Child.
func (b *bench) startChild(ctx context.Context, s *stack.Stack, name string, args ...string) (*child, error) {
	c := &child{}
	var mu sync.Mutex
	p, err := s.Start(ctx, stack.Spec{
		Name: name,
		Path: b.self[0],
		Args: append(b.self[1:len(b.self):len(b.self)], args...),
		Env:  os.Environ(),
		OnLine: func(line string) {
			mu.Lock()
			defer mu.Unlock()
			var addrs []netip.AddrPort
			if len(c.addrs) == 0 && json.NewDecoder(bytes.NewReader([]byte(line))).Decode(&addrs) == nil {
				c.addrs = addrs
			}
		},
		Ready: func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			if len(c.addrs) == 0 {
				return errors.New("it has not said where it listens")
			}
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	c.Process = p
	return c, nil
}
