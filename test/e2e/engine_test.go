package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/pilotfish-epp/pilotfish/bench/enginesim"
	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

// engineSpec is the environment variable by which this test binary learns that it is a model server: its
// enginesim.Options as JSON. Its one argument is the address.
const engineSpec = "PILOTFISH_E2E_ENGINE"

// engine is a simulated model server, a process of its own: it can be killed and frozen.
type engine struct{ *stack.Engine }

// fastEngines gives so many engines, engine-0 and so on, that answer in a few milliseconds and evict nothing.
func fastEngines(n int) []enginesim.Options {
	engines := make([]enginesim.Options, n)
	for i := range engines {
		engines[i] = enginesim.Options{Name: fmt.Sprintf("engine-%d", i), Model: model, Speed: 20, KVTokens: 4_000_000, AnswerTokens: 8}
	}
	return engines
}

func (s *site) startEngine(ctx context.Context, t *testing.T, o enginesim.Options) {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	spec, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	e, err := s.Engine(ctx, stack.EngineOptions{
		Name: o.Name, Binary: binary,
		Args: func(addr netip.AddrPort) []string { return []string{addr.String()} },
		Env:  []string{engineSpec + "=" + string(spec)},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.engines = append(s.engines, &engine{e})
}

// serveEngine is the main function of a model server.
func serveEngine(spec string) int {
	var o enginesim.Options
	if err := json.Unmarshal([]byte(spec), &o); err != nil {
		return fail(err)
	}
	server, err := enginesim.New(o)
	if err != nil {
		return fail(err)
	}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	if err := server.Start(os.Args[1]); err != nil {
		return fail(err)
	}
	<-stop.Done()
	if err := server.Close(); err != nil {
		return fail(err)
	}
	return 0
}

// stats are the engine's own counters.
func (e *engine) stats(t *testing.T) enginesim.Stats {
	t.Helper()
	var s enginesim.Stats
	if err := json.Unmarshal(page(t, "http://"+e.Addr.String()+"/stats"), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// fault puts faults in force, in place of those before.
func (e *engine) fault(t *testing.T, f enginesim.Faults) {
	t.Helper()
	b, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post("http://"+e.Addr.String()+"/faults", "application/json", bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("faults of %s: %s, %v", e.Name(), resp.Status, err)
	}
}

// total sums a counter over the engines of a site.
func (s *site) total(t *testing.T, counter func(enginesim.Stats) uint64) uint64 {
	t.Helper()
	var n uint64
	for _, e := range s.engines {
		n += counter(e.stats(t))
	}
	return n
}
