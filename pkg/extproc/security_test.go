package extproc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// secured runs a server with health checks under security and gives its address.
func secured(t *testing.T, security *tls.Config, h *Health) string {
	t.Helper()
	g := grpc.NewServer(ServerOptions(security)...)
	newServer(fixedRouter{}, newStore(t, nil), nil).Register(g)
	h.Register(g)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = g.Serve(listener) }()
	t.Cleanup(g.Stop)
	return listener.Addr().String()
}

// peer makes a handshake and gives the certificate that came.
func peer(t *testing.T, address string) *x509.Certificate {
	t.Helper()
	connection, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	state := connection.ConnectionState()
	if state.NegotiatedProtocol != "h2" {
		t.Errorf("ALPN gave %q, want h2", state.NegotiatedProtocol)
	}
	return state.PeerCertificates[0]
}

func TestSelfSigned(t *testing.T) {
	now := time.Now()
	security, err := SelfSigned(now)
	if err != nil {
		t.Fatal(err)
	}
	address := secured(t, security, NewHealth())
	c := peer(t, address)
	if c.PublicKeyAlgorithm != x509.ECDSA || c.NotAfter.Before(now.AddDate(9, 0, 0)) {
		t.Errorf("a certificate with %v until %v", c.PublicKeyAlgorithm, c.NotAfter)
	}
	client, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := healthgrpc.NewHealthClient(client).Check(context.Background(), &healthgrpc.HealthCheckRequest{Service: "liveness"}); err != nil {
		t.Errorf("a gRPC call over it: %v", err)
	}
}

// writePair puts a fresh certificate and key into folder, dated at.
func writePair(t *testing.T, folder string, at time.Time) {
	t.Helper()
	security, err := SelfSigned(at)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(security.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write(t, folder, certificateFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: security.Certificates[0].Certificate[0]}), at)
	write(t, folder, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), at)
}

func write(t *testing.T, folder, name string, content []byte, at time.Time) {
	t.Helper()
	path := filepath.Join(folder, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

func TestCertificateFiles(t *testing.T) {
	folder := t.TempDir()
	now := time.Now()
	clock := func() time.Time { return now }
	if _, err := FromFiles(folder, clock, nil); err == nil {
		t.Fatal("an empty folder is taken")
	}
	writePair(t, folder, now)
	security, err := FromFiles(folder, clock, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	address := secured(t, security, NewHealth())
	first := peer(t, address)

	writePair(t, folder, now.Add(time.Minute))
	now = now.Add(2 * certificateCheck)
	second := peer(t, address)
	if second.Equal(first) {
		t.Error("replaced files are not read")
	}

	write(t, folder, keyFile, []byte("no key"), now.Add(time.Hour))
	now = now.Add(2 * certificateCheck)
	if !peer(t, address).Equal(second) {
		t.Error("bad files don't keep the last good certificate")
	}

	writePair(t, folder, now.Add(2*time.Hour))
	now = now.Add(2 * certificateCheck)
	if peer(t, address).Equal(second) {
		t.Error("files that are good again are not read")
	}
}

func TestHealth(t *testing.T) {
	h := NewHealth()
	address := secured(t, nil, h)
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	client := healthgrpc.NewHealthClient(connection)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	check := func(name string) healthgrpc.HealthCheckResponse_ServingStatus {
		t.Helper()
		answer, err := client.Check(ctx, &healthgrpc.HealthCheckRequest{Service: name})
		if err != nil {
			t.Fatal(err)
		}
		return answer.Status
	}
	const up, down = healthgrpc.HealthCheckResponse_SERVING, healthgrpc.HealthCheckResponse_NOT_SERVING
	names := []string{"", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor", "inference-extension"}
	watch, err := client.Watch(ctx, &healthgrpc.HealthCheckRequest{Service: "readiness"})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		ready bool
		want  healthgrpc.HealthCheckResponse_ServingStatus
	}{{false, down}, {true, up}, {false, down}} {
		h.SetReady(step.ready)
		for _, name := range names {
			if got := check(name); got != step.want {
				t.Errorf("ready %v: %q is %v, want %v", step.ready, name, got, step.want)
			}
		}
		if got := check("liveness"); got != up {
			t.Errorf("ready %v: liveness is %v, want %v", step.ready, got, up)
		}
		seen, err := watch.Recv()
		if err != nil || seen.Status != step.want {
			t.Errorf("ready %v: a watcher sees %v, %v, want %v", step.ready, seen, err, step.want)
		}
	}
	if _, err := client.Check(ctx, &healthgrpc.HealthCheckRequest{Service: "nobody"}); status.Code(err) != codes.NotFound {
		t.Errorf("an unknown service: %v, want NotFound", err)
	}
}
