package overload

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"github.com/pilotfish-epp/pilotfish/bench/enginesim"
	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

// path is a whole serving path: engines, picker, Envoy. Each phase has a new one, so that none begins with what another
// left behind.
type path struct {
	*stack.Stack
	engines engines
	picker  *stack.Picker
	envoy   *stack.Envoy
	limits  limits
}

func startPath(ctx context.Context, binary string, n int, profile enginesim.Profile, env ...string) (*path, error) {
	s, err := stack.New(stack.Options{})
	if err != nil {
		return nil, err
	}
	p := &path{Stack: s}
	if err := p.start(ctx, binary, n, profile, env); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *path) start(ctx context.Context, binary string, n int, profile enginesim.Profile, env []string) (err error) {
	if p.engines, err = startEngines(n, profile); err != nil {
		return err
	}
	if err := p.startPicker(ctx, binary, env); err != nil {
		return err
	}
	page, err := p.picker.AdminPage(ctx, "/settings")
	if err != nil {
		return err
	}
	if p.limits, err = readLimits(page); err != nil {
		return err
	}
	p.envoy, err = p.Envoy(ctx, stack.EnvoyOptions{Pickers: []netip.AddrPort{p.picker.GRPC}})
	if err != nil {
		return err
	}
	return p.envoy.AwaitHosts(ctx, "pods", n)
}

func (p *path) startPicker(ctx context.Context, binary string, env []string) error {
	b, err := endpointsFile(p.engines.addrs())
	if err != nil {
		return err
	}
	file := filepath.Join(p.Dir(), "endpoints.yaml")
	if err := os.WriteFile(file, b, 0o644); err != nil {
		return err
	}
	p.picker, err = p.Picker(ctx, stack.PickerOptions{
		Binary: binary, EndpointsFile: file,
		Env: append([]string{"DESTINATION_FALLBACKS=2", "DEBUG_ENDPOINTS=true"}, env...),
	})
	return err
}

func (p *path) close() error {
	return errors.Join(p.Close(), p.engines.close())
}

// objective is an entry of an endpoints file.
type objective struct {
	Name     string `yaml:"name"`
	Priority int    `yaml:"priority"`
}

// Objectives is the part of an endpoints file that gives this load's requests their priorities.
func Objectives() ([]byte, error) {
	var list []objective
	for _, p := range Priorities() {
		list = append(list, objective{p.Objective(), int(p)})
	}
	return yaml.Marshal(map[string][]objective{"objectives": list})
}

func endpointsFile(addrs []netip.AddrPort) ([]byte, error) {
	var list []stack.Endpoint
	for i, a := range addrs {
		list = append(list, stack.At(fmt.Sprintf("engine-%d", i), a))
	}
	b, err := yaml.Marshal(map[string][]stack.Endpoint{"endpoints": list})
	if err != nil {
		return b, err
	}
	more, err := Objectives()
	return append(b, more...), err
}
