package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/enginesim"
	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

// Names of the profiles in deploy/envoy.
const (
	lean       = "lean"
	fullDuplex = "full-duplex"
)

// model is what the engines serve.
const model = "sim"

// plan says what a site is made of.
type plan struct {
	profile string              // default lean
	engines []enginesim.Options // model servers, see fastEngines
	others  []stack.Endpoint    // model servers that the test has itself
	pickers int                 // default 1
	env     []string            // settings of the pickers, KEY=value
	mutate  func(stack.Config) error
	workers int // threads of Envoy, default 2

	// endpoints writes the endpoints file, if it is to be a special one, and gives its path.
	endpoints func(content []byte) string
}

// site is a whole serving path.
type site struct {
	*stack.Stack
	envoy     *stack.Envoy
	pickers   []*stack.Picker
	engines   []*engine
	endpoints string // the file that the pickers watch
	client    *http.Client
}

// newSite starts a site and waits until Envoy knows all its model servers. It ends with the test; when that has failed
// the last words of every process are in the test's log.
func newSite(t *testing.T, p plan) *site {
	t.Helper()
	st, err := stack.New(stack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := &site{Stack: st, client: newClient(), endpoints: filepath.Join(st.Dir(), "endpoints.yaml")}
	t.Cleanup(func() {
		if t.Failed() {
			s.logAll(t)
		}
		s.client.CloseIdleConnections()
		if err := st.Kill(); err != nil {
			t.Error(err)
		}
	})

	ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
	defer cancel()
	for _, o := range p.engines {
		s.startEngine(ctx, t, o)
	}
	endpoints := s.engineEndpoints()
	endpoints = append(endpoints, p.others...)
	if p.endpoints != nil {
		s.endpoints = p.endpoints(endpointsOf(s.engines))
	} else if err := stack.WriteEndpoints(s.endpoints, endpoints...); err != nil {
		t.Fatal(err)
	}
	for range max(1, p.pickers) {
		s.startPicker(ctx, t, p.env)
	}
	s.startEnvoy(ctx, t, p)
	if err := s.envoy.AwaitHosts(ctx, "pods", len(endpoints)); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) startPicker(ctx context.Context, t *testing.T, env []string) {
	t.Helper()
	name := "picker"
	if len(s.pickers) > 0 {
		name = fmt.Sprintf("picker-%d", len(s.pickers))
	}
	p, err := s.Picker(ctx, stack.PickerOptions{
		Name: name, Binary: epp, EndpointsFile: s.endpoints,
		Env: append([]string{"DEBUG_ENDPOINTS=true", "DESTINATION_FALLBACKS=2"}, env...),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.pickers = append(s.pickers, p)
}

func (s *site) startEnvoy(ctx context.Context, t *testing.T, p plan) {
	t.Helper()
	pickers := make([]netip.AddrPort, 0, len(s.pickers))
	for _, p := range s.pickers {
		pickers = append(pickers, p.GRPC)
	}
	profile := p.profile
	if profile == "" {
		profile = lean
	}
	workers := p.workers
	if workers == 0 {
		workers = 2
	}
	var err error
	s.envoy, err = s.Envoy(ctx, stack.EnvoyOptions{
		Profile: profile, Pickers: pickers, Concurrency: workers, Mutate: p.mutate,
		AccessLog: filepath.Join(s.Dir(), "access.log"),
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (s *site) engineEndpoints() []stack.Endpoint {
	var endpoints []stack.Endpoint
	for _, e := range s.engines {
		endpoints = append(endpoints, e.Endpoint())
	}
	return endpoints
}

// picker is the only picker of a site, or its first.
func (s *site) picker() *stack.Picker { return s.pickers[0] }

// url is where requests go.
func (s *site) url() string { return "http://" + s.envoy.Gateway.String() }

// do sends a request to the gateway.
func (s *site) do(r call) *answer { return do(context.Background(), s.client, s.url(), r) }

// logAll writes the end of every process's output to the test's log, and the requests that went wrong at Envoy.
func (s *site) logAll(t *testing.T) {
	t.Helper()
	for _, p := range s.Processes() {
		if tail := p.Tail(15); strings.TrimSpace(tail) != "" {
			t.Logf("last lines of %s:\n%s", p.Name(), tail)
		}
	}
	var odd []string
	for _, line := range s.accessLog() {
		if !strings.Contains(line, `"status":200`) {
			odd = append(odd, line)
		}
	}
	t.Logf("requests that Envoy did not answer with 200: %d\n%s", len(odd), strings.Join(odd[max(0, len(odd)-10):], "\n"))
}

// eventually asks for a condition until it gives nil.
func eventually(t *testing.T, limit time.Duration, what string, condition func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := stack.Await(ctx, what, func(context.Context) error { return condition() }); err != nil {
		t.Fatal(err)
	}
}

// page reads a page of a process's own port.
func page(t *testing.T, url string) []byte {
	t.Helper()
	b, err := fetch(url)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func fetch(url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %.300s", url, err, b)
	}
	return b, nil
}
