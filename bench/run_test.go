package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// variables are an environment with a picker's binary in it.
func variables(t *testing.T, pairs ...string) func(string) string {
	t.Helper()
	epp := filepath.Join(t.TempDir(), "epp")
	if err := os.WriteFile(epp, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"EPP": epp}
	for i := 0; i < len(pairs); i += 2 {
		env[pairs[i]] = pairs[i+1]
	}
	return func(name string) string { return env[name] }
}

func TestRunRefusesBadVariables(t *testing.T) {
	for _, tc := range []struct{ name, value, want string }{
		{"PROFILE", "fat", `PROFILE: no Envoy profile "fat": expected one of full-duplex, lean`},
		{"GATEWAY_PORT", "80800", `GATEWAY_PORT: expected a port from 1 to 65535, got "80800"`},
		{"ENVOY_ADMIN_PORT", "0", `ENVOY_ADMIN_PORT: expected a port from 1 to 65535, got "0"`},
		{"GRPC_PORT", "x", `GRPC_PORT: expected a port`},
		{"ENDPOINTS", "nonesuch.yaml", "ENDPOINTS: stat"},
		{"EPP", "/nonesuch", "make build builds it"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := runOptionsFrom(variables(t, tc.name, tc.value))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("expected %q, got %v", tc.want, err)
			}
		})
	}
}

func TestRunDefaults(t *testing.T) {
	o, err := runOptionsFrom(variables(t))
	if err != nil {
		t.Fatal(err)
	}
	if o.profile != "lean" || o.ports.gateway.port != 8080 || o.plaintext || o.endpoints != "" {
		t.Errorf("%+v", o)
	}
	if o, err = runOptionsFrom(variables(t, "SECURE_SERVING", "false", "GATEWAY_PORT", "81")); err != nil || !o.plaintext || o.ports.gateway.port != 81 {
		t.Errorf("%+v, %v", o, err)
	}
}

// taken listens on a port until the end of the test.
func taken(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // nothing was accepted
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func TestPortsInUseAreNamedWithAWayOut(t *testing.T) {
	port := taken(t)
	o, err := runOptionsFrom(variables(t, "GATEWAY_PORT", fmt.Sprint(port), "GRPC_PORT", "20001", "GRPC_HEALTH_PORT", "20001"))
	if err != nil {
		t.Fatal(err)
	}
	err = o.ports.check()
	if err == nil {
		t.Fatal("nothing was found")
	}
	for _, want := range []string{
		fmt.Sprintf("port %d, for the gateway, where requests go, is in use by bench.test (process %d)", port, os.Getpid()),
		"port 20001, for the picker's health service, is that of the picker's ext_proc too (GRPC_PORT)",
		"free ones would be: make run GATEWAY_PORT=",
		" GRPC_HEALTH_PORT=2000",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), fmt.Sprintf("GATEWAY_PORT=%d", port)) {
		t.Errorf("the way out is the port in use: %v", err)
	}
}

func TestWhatCountsAsAnAnswerOfAModelServer(t *testing.T) {
	const server = "x-envoy-upstream-service-time"
	for _, tc := range []struct {
		name, header string
		status       int
		body         string
		model, what  string // what is empty when it is no answer
		err          string
	}{
		{"models", server, 200, `{"data": [{"id": "m1"}, {"id": "m2"}]}`, "m1", " gave 200 OK", ""},
		{"no such page", server, 404, `{"detail": "Not Found"}`, "", " gave 404 Not Found, `{\"detail\": \"Not Found\"}`", ""},
		{"a key is asked for", server, 401, "", "", " gave 401 Unauthorized, ``", ""},
		{"a server that is starting", server, 503, "loading\n  weights", "", " gave 503 Service Unavailable, `loading weights`", ""},
		{"something else", server, 200, "<html>", "", " gave 200 OK, `<html>`", ""},
		{"no models", server, 200, `{"data": []}`, "", " gave 200 OK", ""},
		{"the gateway alone", "", 503, "no healthy upstream", "", "", " gave 503 Service Unavailable, `no healthy upstream`, from the gateway and not from a server"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if tc.header != "" {
					w.Header().Set(tc.header, "1")
				}
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body) // the test sees what is missing
			}))
			defer gateway.Close()
			got, err := askModels(t.Context(), gateway.URL)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("expected %q, got %v", tc.err, err)
				}
				return
			}
			if err != nil || got.model != tc.model || !strings.HasPrefix(got.what, "GET "+gateway.URL+tc.what) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestWarningsAreKnownInBothForms(t *testing.T) {
	for line, want := range map[string]bool{
		`time=2026-01-02T03:04:05.000Z level=WARN msg="x" pod=a`:                          true,
		`time=2026-01-02T03:04:05.000Z level=ERROR msg="x"`:                               true,
		`{"time":"2026-01-02T03:04:05.000Z","level":"WARN","msg":"x"}`:                    true,
		`time=2026-01-02T03:04:05.000Z level=INFO msg="x"`:                                false,
		`{"time":"2026-01-02T03:04:05.000Z","level":"INFO","msg":"x"}`:                    false,
		`03:04:05.000   level=WARN   12 B  0/0 blocks  → engine-0  load`:                  false, // a model's name
		`{"time":"2026-01-02T03:04:05.000Z","model":"WARN","promptBytes":1,"reason":"x"}`: false,
	} {
		if warning(line) != want {
			t.Errorf("%s: %v", line, !want)
		}
	}
}
