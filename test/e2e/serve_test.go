package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

// runEpp runs the picker's binary to its end.
func runEpp(t *testing.T, env []string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), answerLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, epp, args...)
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// The start is refused with the name of the variable, the value and what is allowed.
func TestBadSettingsRefuseTheStart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		env  string
		want []string
	}{
		{"ROUTING_STRATEGY=FASTEST", []string{"DEFAULT", "PREFIX_CACHE"}},
		{"PREFIX_CACHE_HASH_BLOCK_SIZE=0", []string{"1", "65536"}},
		{"PREFIX_CACHE_MAX_PREFIX_BLOCKS=many", []string{"65535"}},
		{"QUEUE_TTL=forever", []string{"1ms", "1h"}},
		{"QUEUEING=perhaps", []string{"enabled", "disabled"}},
		{"MODEL_SERVER_RUNTIME=llama", []string{"vllm", "sglang", "trt-llm"}},
		{"SD_KV_CACHE_UTIL_THRESHOLD=1.5", []string{"0", "1"}},
		{"MAX_REQUEST_BODY=lots", []string{"Mi"}},
		{"GRPC_PORT=70000", []string{"65535"}},
		{"USAGE_SAMPLE=-0.1", []string{"0", "1"}},
	} {
		name, value, _ := strings.Cut(c.env, "=")
		out, err := runEpp(t, []string{c.env}, "serve", "--endpoints", "/nowhere.yaml")
		if err == nil {
			t.Errorf("%s: the picker started and ended well, saying %s", c.env, out)
		}
		for _, want := range append(c.want, name, value) {
			if !strings.Contains(out, want) {
				t.Errorf("%s: expected the refusal to say %q, got: %s", c.env, want, out)
			}
		}
	}
}

// The picker's own pages tell what is in force, under names that dashboards and probes know.
func TestAdminPages(t *testing.T) {
	t.Parallel()
	s := newSite(t, plan{engines: fastEngines(2), env: []string{"ROUTING_STRATEGY=prefix_cache", "QUEUE_TTL=90s"}})
	for range 5 {
		s.do(chat{prompt: text("hello", 500)}.call()).wantWhole(t, false)
	}
	s.wantIdle(t)
	admin := "http://" + s.picker().Metrics.String()

	settings := decode[struct {
		Settings []map[string]any
		Problems []any
	}](t, page(t, admin+"/settings"))
	said := map[string]string{}
	for _, r := range settings.Settings {
		said[fmt.Sprint(r["name"])] = fmt.Sprint(r)
	}
	for name, want := range map[string]string{
		"ROUTING_STRATEGY": "PREFIX_CACHE", "QUEUE_TTL": "1m30s", "PREFIX_CACHE_HASH_BLOCK_SIZE": "64",
	} {
		if !strings.Contains(said[name], want) {
			t.Errorf("/settings says of %s: %q, expected %s", name, said[name], want)
		}
	}
	if len(said) < 30 || len(settings.Problems) != 0 {
		t.Errorf("/settings lists %d settings and the problems %v", len(said), settings.Problems)
	}
	asked, err := runEpp(t, nil, "settings", "--url", admin)
	if err != nil || !strings.Contains(asked, "1m30s") {
		t.Errorf("epp settings --url: %v: %s", err, asked)
	}

	var m metrics
	eventually(t, answerLimit, "the pods' pages to be read", func() error {
		if m = metricsOf(t, s.picker()); len(m["inference_pool_average_queue_size"].GetMetric()) == 0 {
			return errors.New("no averages yet")
		}
		return nil
	})
	for _, name := range []string{
		"inference_model_request_total", "inference_model_request_duration_seconds", "inference_model_request_sizes",
		"inference_model_running_requests", "inference_pool_ready_pods", "inference_pool_average_queue_size",
		"inference_pool_average_kv_cache_utilization", "inference_extension_info",
		"inference_extension_scheduler_e2e_duration_seconds", "inference_extension_prefix_indexer_size",
		"inference_extension_prefix_indexer_hit_ratio", "pilotfish_picks_total",
	} {
		if len(m[name].GetMetric()) == 0 {
			t.Errorf("/metrics has no %s", name)
		}
	}
	if n := m.sum("inference_model_request_total", "model_name="+model); n != 5 {
		t.Errorf("inference_model_request_total of the model: %v, expected 5", n)
	}
	if n := m.sum("inference_pool_ready_pods"); n != 2 {
		t.Errorf("inference_pool_ready_pods: %v, expected 2", n)
	}

	pool := decode[struct {
		Pods []struct {
			Name, Address, Health string
			InFlight              int
		}
	}](t, page(t, admin+"/debug/pool"))
	if len(pool.Pods) != 2 || pool.Pods[0].Health != "healthy" || pool.Pods[0].InFlight != 0 {
		t.Errorf("/debug/pool: %+v", pool)
	}
	for _, path := range []string{"/debug/index", "/debug/queue", "/debug/pprof/goroutine?debug=1", "/healthz"} {
		if b := page(t, admin+path); strings.Contains(string(b), "lorem") {
			t.Errorf("%s shows prompt text: %s", path, b)
		}
	}
}

// Debug pages are for those who ask for them.
func TestDebugPagesAreOff(t *testing.T) {
	t.Parallel()
	s := newSite(t, plan{engines: fastEngines(1), env: []string{"DEBUG_ENDPOINTS=false"}})
	for _, path := range []string{"/debug/pool", "/debug/index", "/debug/queue", "/debug/pprof/"} {
		if a := do(t.Context(), s.client, "http://"+s.picker().Metrics.String(), call{path: path}); a.status != 404 {
			t.Errorf("%s: expected 404, got %v", path, a)
		}
	}
}

// Probes and proxies ask for the picker's health by several names, on both ports.
func TestHealthNames(t *testing.T) {
	t.Parallel()
	s := newSite(t, plan{engines: fastEngines(1)})
	secure := credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) //nolint:gosec // its certificate is its own
	for _, port := range []struct {
		name  string
		addr  netip.AddrPort
		creds credentials.TransportCredentials
	}{
		{"health port", s.picker().Health, insecure.NewCredentials()},
		{"ext_proc port", s.picker().GRPC, secure},
	} {
		conn, err := grpc.NewClient(port.addr.String(), grpc.WithTransportCredentials(port.creds))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		for _, service := range []string{"", "liveness", "readiness", "inference-extension", "envoy.service.ext_proc.v3.ExternalProcessor"} {
			got, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
			if err != nil || got.Status != healthpb.HealthCheckResponse_SERVING {
				t.Errorf("%s, service %q: expected SERVING, got %v, %v", port.name, service, got, err)
			}
		}
		_, err = healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "unknown"})
		if status.Code(err) != codes.NotFound {
			t.Errorf("%s, unknown service: expected NOT_FOUND, got %v", port.name, err)
		}
	}
}

// A port that somebody has is named.
func TestPortInUse(t *testing.T) {
	t.Parallel()
	s := newSite(t, plan{engines: fastEngines(1)})
	taken := fmt.Sprint(s.picker().GRPC.Port())
	var free [2]uint16
	for i := range free {
		var err error
		if free[i], err = s.FreePort(); err != nil {
			t.Fatal(err)
		}
	}
	out, err := runEpp(t, []string{
		"BIND_ADDRESS=127.0.0.1", "GRPC_PORT=" + taken, fmt.Sprint("GRPC_HEALTH_PORT=", free[0]), fmt.Sprint("METRICS_PORT=", free[1]),
	}, "--endpoints", s.endpoints)
	if err == nil || !strings.Contains(out, taken) || !strings.Contains(out, "GRPC_PORT") {
		t.Errorf("expected a refusal that names port %s and GRPC_PORT, got %v: %s", taken, err, out)
	}
}

// Answers that are under way when the picker is told to end come to their end, and then the picker does.
func TestGracefulShutdown(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, plan{profile: profile, engines: slowEngines(2)})
			const streams, tokens = 20, 300 // about two seconds
			answers := make([]*answer, streams)
			var done sync.WaitGroup
			for i := range answers {
				r := chat{prompt: fmt.Sprint("a long answer, please ", i), stream: true, usage: true, maxTokens: tokens, ignoreEOS: true}.call()
				done.Go(func() { answers[i] = s.do(r) })
			}
			eventually(t, answerLimit, "all answers to be under way", func() error {
				if n, err := inFlight(s.picker()); err != nil || n != streams {
					return fmt.Errorf("%d under way (%s)", n, fmt.Sprint(err))
				}
				return nil
			})
			told := time.Now()
			if err := s.picker().Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			done.Wait()
			for i, a := range answers {
				if !a.ok() || len(a.events()) != 1+tokens+1+1 {
					t.Errorf("answer %d: expected all of its %d tokens, got %d events: %.300v", i, tokens, len(a.events()), a)
				}
			}
			select {
			case <-s.picker().Done():
			case <-time.After(10 * time.Second):
				t.Fatal("the picker did not end within 10 s of its last answer")
			}
			if err := s.picker().Err(); err != nil {
				t.Errorf("the picker ended with %v", err)
			}
			t.Logf("the picker ended %v after it was told to", time.Since(told).Round(time.Millisecond))
		})
	}
}

// An endpoints file that isn't there, or is no good at the start, is named with the reason.
func TestBadEndpointsFileAtStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("endpoints:\n- address: 127.0.0.1\n  port: none\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	st, err := stack.New(stack.Options{Dir: filepath.Join(dir, "stack")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Kill() })
	for file, want := range map[string][]string{
		filepath.Join(dir, "missing.yaml"): {"missing.yaml", "no such file"},
		bad:                                {"bad.yaml:3:", "none"},
	} {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		var ports [3]uint16
		for i := range ports {
			if ports[i], err = st.FreePort(); err != nil {
				t.Fatal(err)
			}
		}
		p, err := st.Start(t.Context(), stack.Spec{
			Name: name, Path: epp, Args: []string{"--endpoints", file},
			Env: []string{
				"BIND_ADDRESS=127.0.0.1", fmt.Sprint("GRPC_PORT=", ports[0]), fmt.Sprint("GRPC_HEALTH_PORT=", ports[1]),
				fmt.Sprint("METRICS_PORT=", ports[2]),
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, answerLimit, "the picker to say what is wrong with "+name, func() error {
			for _, w := range want {
				if !strings.Contains(p.Tail(20), w) {
					return fmt.Errorf("no %q in: %s", w, p.Tail(20))
				}
			}
			return nil
		})
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	}
}
