package stack

import (
	"context"
	"fmt"
	"net/netip"
)

// EngineOptions say how to run a model server.
type EngineOptions struct {
	Name   string // needed; unique within the stack
	Binary string
	Args   func(addr netip.AddrPort) []string // the arguments that make it listen there
	Env    []string                           // as in Spec
	Port   uint16                             // default a free one
	Health string                             // path that answers 200 when it is ready; default "/health", as vLLM's
	OnLine func(line string)
}

// Engine is a running model server.
type Engine struct {
	*Process
	Addr netip.AddrPort
}

// Endpoint is the engine's entry in an endpoints file.
func (e *Engine) Endpoint() Endpoint { return At(e.Name(), e.Addr) }

// Engine starts a model server, simulated or real, and returns when it answers on its health path.
func (s *Stack) Engine(ctx context.Context, o EngineOptions) (*Engine, error) {
	if o.Name == "" || o.Binary == "" || o.Args == nil {
		return nil, fmt.Errorf("engine %q: Name, Binary and Args are needed", o.Name)
	}
	if o.Health == "" {
		o.Health = "/health"
	}
	if err := s.defaultPort(&o.Port); err != nil {
		return nil, err
	}
	e := &Engine{Addr: loopback(o.Port)}
	var err error
	e.Process, err = s.Start(ctx, Spec{
		Name:   o.Name,
		Path:   o.Binary,
		Args:   o.Args(e.Addr),
		Env:    o.Env,
		OnLine: o.OnLine,
		Ready: func(ctx context.Context) error {
			_, err := get(ctx, "http://"+e.Addr.String()+o.Health)
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

// Restart ends the engine as Stack.Restart does and starts it on the same port. e is the new one afterwards.
func (e *Engine) Restart(ctx context.Context, s *Stack) error {
	next, err := s.Restart(ctx, e.Process)
	if err != nil {
		return err
	}
	e.Process = next
	return nil
}
