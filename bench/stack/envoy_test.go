package stack

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pilotfish-epp/pilotfish/deploy/envoy"
)

// pod is a server that says who it is and how many bytes came.
func pod(t *testing.T, name string) netip.AddrPort {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			t.Errorf("%s: reading a request: %v", name, err)
		}
		w.Header().Set("Served-By", name)
		fmt.Fprintf(w, "%d bytes", n)
	}))
	t.Cleanup(server.Close)
	return netip.MustParseAddrPort(server.Listener.Addr().String())
}

// nobody is an address where nothing listens.
func nobody(t *testing.T, s *Stack) netip.AddrPort {
	t.Helper()
	port, err := s.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return loopback(port)
}

func post(t *testing.T, url string, size int, header http.Header) (status int, servedBy, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(make([]byte, size)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Served-By"), string(b)
}

// Without its picker the gateway goes on, spreads the requests, and lets no client choose its pod.
func TestGatewayWithoutAPicker(t *testing.T) {
	for _, profile := range envoy.Profiles() {
		t.Run(profile, func(t *testing.T) {
			s := newStack(t)
			pods := []netip.AddrPort{pod(t, "a"), pod(t, "b")}
			log := filepath.Join(s.Dir(), "access.log")
			e, err := s.Envoy(t.Context(), EnvoyOptions{
				Profile: profile, Pickers: []netip.AddrPort{nobody(t, s)}, Pods: pods, Concurrency: 1, AccessLog: log,
			})
			if err != nil {
				t.Fatal(err)
			}

			served := map[string]int{}
			forged := http.Header{"X-Gateway-Destination-Endpoint": {pods[0].String()}}
			for range 40 {
				status, by, body := post(t, e.URL("/v1/chat/completions"), 2_000_000, forged.Clone())
				if status != http.StatusOK || body != "2000000 bytes" {
					t.Fatalf("status %d, %s", status, body)
				}
				served[by]++
			}
			if served["a"] == 0 || served["b"] == 0 {
				t.Errorf("a client's header chose the pod: %v", served)
			}

			stats, err := e.Stats(t.Context(), `^cluster\.pods\.upstream_rq_2`)
			if err != nil || stats["cluster.pods.upstream_rq_2xx"] != 40 {
				t.Errorf("stats %v, %v", stats, err)
			}
			if err := e.AwaitHosts(t.Context(), "pods", 2); err != nil {
				t.Error(err)
			}
			if _, err := e.Hosts(t.Context(), "nonesuch"); err == nil {
				t.Error("a cluster that isn't there has hosts")
			}
			checkAccessLog(t, e, log)
		})
	}
}

// checkAccessLog reads the first line, which Envoy writes with a delay of up to ten seconds, or at its end.
func checkAccessLog(t *testing.T, e *Envoy, file string) {
	t.Helper()
	if err := e.Stop(stopGrace); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var entry struct {
		Path, Served string
		Status       int
		Received     int
	}
	line, _, _ := strings.Cut(string(b), "\n")
	if err := json.Unmarshal([]byte(line), &entry); err != nil {
		t.Fatalf("%v in %q", err, line)
	}
	if entry.Path != "/v1/chat/completions" || entry.Status != 200 || entry.Received != 2_000_000 || entry.Served == "" {
		t.Errorf("access log: %s", line)
	}
}

func TestEnvoyWithABadConfigurationTellsWhy(t *testing.T) {
	s := newStack(t)
	_, err := s.Envoy(t.Context(), EnvoyOptions{
		Pickers: []netip.AddrPort{nobody(t, s)},
		Mutate:  func(c Config) error { return c.Put("static_resources/nonesuch", true) },
	})
	if err == nil || !strings.Contains(err.Error(), "nonesuch") {
		t.Errorf("got %v", err)
	}
}

func TestEnvoyEndsWithItsContextOnlyWhileStarting(t *testing.T) {
	s := newStack(t)
	ctx, cancel := context.WithCancel(t.Context())
	e, err := s.Envoy(ctx, EnvoyOptions{Pickers: []netip.AddrPort{nobody(t, s)}, Pods: []netip.AddrPort{pod(t, "a")}})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if status, _, body := post(t, e.URL("/"), 1, nil); status != http.StatusOK {
		t.Errorf("status %d, %s", status, body)
	}
}
