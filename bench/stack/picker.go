package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// PickerOptions say how to run a picker.
type PickerOptions struct {
	Name          string   // default "picker"; unique within the stack
	Binary        string   // epp, see Build; needed
	EndpointsFile string   // needed, see WriteEndpoints
	Args          []string // more arguments after the endpoints file's
	// Env has settings, KEY=value. Nothing but these, the ports and what any process needs (PATH, HOME, TMPDIR,
	// GOMAXPROCS, GOCOVERDIR) reaches the picker, so that a developer's environment changes no test.
	Env                               []string
	GRPCPort, HealthPort, MetricsPort uint16 // default free ones
	OnLine                            func(line string)
}

// Picker is a running picker.
type Picker struct {
	*Process
	GRPC    netip.AddrPort // ext_proc and EDS
	Health  netip.AddrPort // gRPC health, plaintext
	Metrics netip.AddrPort // admin HTTP
}

// Picker starts a picker on loopback, and returns when its health service says that it serves.
func (s *Stack) Picker(ctx context.Context, o PickerOptions) (*Picker, error) {
	if o.Name == "" {
		o.Name = "picker"
	}
	if o.Binary == "" || o.EndpointsFile == "" {
		return nil, fmt.Errorf("%s: Binary and EndpointsFile are needed", o.Name)
	}
	for _, port := range []*uint16{&o.GRPCPort, &o.HealthPort, &o.MetricsPort} {
		if err := s.defaultPort(port); err != nil {
			return nil, err
		}
	}
	p := &Picker{GRPC: loopback(o.GRPCPort), Health: loopback(o.HealthPort), Metrics: loopback(o.MetricsPort)}
	var err error
	p.Process, err = s.Start(ctx, Spec{
		Name:   o.Name,
		Path:   o.Binary,
		Args:   append([]string{"serve", "--endpoints", o.EndpointsFile}, o.Args...),
		Env:    o.environment(),
		OnLine: o.OnLine,
		Ready:  p.serving,
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// CheckPicker asks the picker's binary what it thinks of the settings, ports aside, and starts nothing. The error is what
// the picker says of the bad ones.
func CheckPicker(ctx context.Context, o PickerOptions) error {
	cmd := exec.CommandContext(ctx, o.Binary, append([]string{"settings"}, o.Args...)...)
	cmd.Env = o.environment()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		if said := strings.TrimSpace(stderr.String()); said != "" {
			return errors.New(said)
		}
		return fmt.Errorf("%s: %w", cmd, err)
	}
	return nil
}

func (o PickerOptions) environment() []string {
	env := []string{
		"BIND_ADDRESS=127.0.0.1",
		"GRPC_PORT=" + strconv.Itoa(int(o.GRPCPort)),
		"GRPC_HEALTH_PORT=" + strconv.Itoa(int(o.HealthPort)),
		"METRICS_PORT=" + strconv.Itoa(int(o.MetricsPort)),
	}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "GOMAXPROCS", "GOCOVERDIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return append(env, o.Env...)
}

// Restart ends the picker as Stack.Restart does and starts it on the same ports. p is the new one afterwards.
func (p *Picker) Restart(ctx context.Context, s *Stack) error {
	next, err := s.Restart(ctx, p.Process)
	if err != nil {
		return err
	}
	p.Process = next
	return nil
}

// AdminPage reads a page of the picker's admin port, such as /metrics.
func (p *Picker) AdminPage(ctx context.Context, path string) ([]byte, error) {
	return get(ctx, "http://"+p.Metrics.String()+path)
}

// serving asks the health service as a proxy would.
func (p *Picker) serving(ctx context.Context) error {
	conn, err := grpc.NewClient(p.Health.String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	const service = "envoy.service.ext_proc.v3.ExternalProcessor"
	r, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
	if err != nil {
		return err
	}
	if r.Status != healthpb.HealthCheckResponse_SERVING {
		return errors.New("its health service says " + r.Status.String())
	}
	return nil
}

// Build compiles a package of this repository, such as ./cmd/epp, into dir and returns the binary's path. It takes a
// second when nothing has changed.
func Build(ctx context.Context, dir, pkg string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, pkg)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	return binary, nil
}

func (s *Stack) defaultPort(port *uint16) error {
	if *port != 0 {
		return nil
	}
	free, err := s.FreePort()
	*port = free
	return err
}
