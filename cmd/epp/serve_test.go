package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	extprocfilter "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservice "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
)

func TestAPickerFromStartToEnd(t *testing.T) {
	engine := newEngine(t)
	p := start(t, engine, "DECISION_LOG=text", "ROUTING_STRATEGY=PREFIX_CACHE", "DEBUG_ENDPOINTS=true", "POOL_NAME=llama")

	// Every port answers from the moment on in which it is told of.
	if got := p.get(t, "/healthz"); !strings.Contains(got, `"status": "ok"`) || !strings.Contains(got, `"pods": 1`) {
		t.Errorf("/healthz: %s", got)
	}
	if page := parsePage(t, p.get(t, "/settings")); valueOf(page, "ROUTING_STRATEGY") != "PREFIX_CACHE" {
		t.Errorf("/settings: %+v", page)
	}
	if got := p.get(t, "/settings?format=table"); !strings.Contains(got, "NAME ") {
		t.Errorf("/settings?format=table: %s", got)
	}
	overTLS := p.dial(t, p.extproc, credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}))
	plain := p.dial(t, p.health, insecure.NewCredentials())
	for name, conn := range map[string]*grpc.ClientConn{"ext_proc port": overTLS, "health port": plain} {
		for _, service := range []string{"", "liveness", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor", "inference-extension"} {
			if got := healthOf(t, conn, service); got != healthgrpc.HealthCheckResponse_SERVING {
				t.Errorf("%s, service %q: %v", name, service, got)
			}
		}
	}

	// A request is routed, counted and told of.
	stream := open(t, overTLS)
	destination := route(t, stream, `{"model":"chat","messages":[{"role":"user","content":"`+strings.Repeat("Hello there. ", 30)+`"}]}`)
	if destination != engine.address() {
		t.Errorf("destination %q, want %q", destination, engine.address())
	}
	p.eventually(t, "a line in the decision log", func() bool {
		line := p.out.String()
		return strings.Contains(line, "chat") && strings.Contains(line, engine.address())
	})
	p.eventually(t, "a scraped pod", func() bool {
		return strings.Contains(p.get(t, "/metrics"), `inference_pool_per_pod_queue_size{model_server_pod="engine-0",name="llama"} 3`)
	})
	page := p.get(t, "/metrics")
	for _, line := range []string{
		`inference_pool_ready_pods{name="llama"} 1`,
		`pilotfish_picks_total{reason="only"} 1`,
		`pilotfish_streams 1`,
		`inference_extension_scheduler_e2e_duration_seconds_count 1`,
		`inference_model_running_requests{model_name="other"} 1`,
		`inference_objective_running_requests{model_name="other"} 1`,
	} {
		if !strings.Contains(page, "\n"+line+"\n") {
			t.Errorf("not on the metrics page: %s", line)
		}
	}
	for path, want := range map[string]string{
		"/debug/pool": `"inFlight": 1`, "/debug/index": `"blocks": 6`, "/debug/queue": `"waiting": 0`, "/debug/pprof/cmdline": "",
	} {
		if got := p.get(t, path); !strings.Contains(got, want) || strings.Contains(got, "Hello there") {
			t.Errorf("%s: %s", path, got)
		}
	}

	// Told to stop, it is not ready at once, and lets the stream that is open finish.
	watch := watchHealth(t, overTLS)
	p.stop()
	p.eventually(t, "not ready", func() bool {
		return healthOf(t, plain, "readiness") == healthgrpc.HealthCheckResponse_NOT_SERVING
	})
	if got := healthOf(t, plain, "liveness"); got != healthgrpc.HealthCheckResponse_SERVING {
		t.Errorf("liveness while stopping: %v", got)
	}
	if got := p.status(t, "/readyz"); got != http.StatusServiceUnavailable {
		t.Errorf("/readyz while stopping: %d", got)
	}
	respond(t, stream)
	if err := p.wait(t); err != nil {
		t.Errorf("ended with %v", err)
	}
	for watch.RecvMsg(new(healthgrpc.HealthCheckResponse)) == nil {
	} // a watch must not keep the picker, and ends with it
	if log := p.err.String(); !strings.Contains(log, "every stream has finished") || strings.Contains(log, `"level":"ERROR"`) {
		t.Error(log)
	}
}

func TestStreamsThatDoNotFinishAreCutAfterTheGrace(t *testing.T) {
	p := start(t, newEngine(t), "SHUTDOWN_GRACE=50ms", "SECURE_SERVING=false")
	stream := open(t, p.dial(t, p.extproc, insecure.NewCredentials()))
	route(t, stream, `{"model":"chat","prompt":"x"}`)
	p.stop()
	if err := p.wait(t); err != nil {
		t.Errorf("ended with %v", err)
	}
	if _, err := stream.Recv(); err == nil {
		t.Error("the stream goes on")
	}
	if !strings.Contains(p.err.String(), "were cut") {
		t.Error(p.err.String())
	}
}

func TestEnvoyLearnsTheEndpointsUnlessToldOtherwise(t *testing.T) {
	for _, tc := range []struct {
		env  []string
		want bool
	}{
		{nil, true},
		{[]string{"EDS=false"}, false},
	} {
		e := newEngine(t)
		p := start(t, e, tc.env...)
		conn := p.dial(t, p.extproc, credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}))
		stream, err := endpointservice.NewEndpointDiscoveryServiceClient(conn).StreamEndpoints(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ask := &discoveryv3.DiscoveryRequest{
			TypeUrl: "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment", ResourceNames: []string{"pods"},
		}
		if err := stream.Send(ask); err != nil && !errors.Is(err, io.EOF) { // EOF: refused already, which Recv tells
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		if tc.want != (err == nil) {
			t.Errorf("%v: %v, %v", tc.env, answer, err)
			continue
		}
		if !tc.want {
			continue
		}
		var set endpointv3.ClusterLoadAssignment
		if err := answer.Resources[0].UnmarshalTo(&set); err != nil {
			t.Fatal(err)
		}
		at := set.Endpoints[0].LbEndpoints[0].GetEndpoint().GetAddress().GetSocketAddress()
		if got := fmt.Sprintf("%s:%d", at.GetAddress(), at.GetPortValue()); got != e.address() {
			t.Errorf("told of %s, want %s", got, e.address())
		}
	}
}

func TestDebugPagesAreOffByDefault(t *testing.T) {
	p := start(t, newEngine(t))
	for _, path := range []string{"/debug/pool", "/debug/index", "/debug/queue", "/debug/pprof/", "/nowhere"} {
		if got := p.status(t, path); got != http.StatusNotFound {
			t.Errorf("%s: %d", path, got)
		}
	}
}

func TestAPortInUseIsNamedWithWhatChangesIt(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	for variable, flag := range map[string]string{
		"GRPC_PORT": "--grpc-port", "GRPC_HEALTH_PORT": "--grpc-health-port", "METRICS_PORT": "--metrics-port",
	} {
		env := append(loopback(), "ENDPOINTS="+newEngine(t).file(t), variable+"="+port)
		_, _, err := epp(t, env)
		want := fmt.Sprintf("%s: port %s is in use by another process (127.0.0.1:%s); choose another with the variable %s or the flag %s",
			variable, port, port, variable, flag)
		if err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

func TestHostNamesThatCannotBeResolvedKeepThePickerFromBeingReady(t *testing.T) {
	file := filepath.Join(t.TempDir(), "endpoints.yaml")
	write(t, file, "endpoints:\n- address: no-such-host.invalid\n  port: 8000\n")
	p := startWith(t, file)
	if got := p.status(t, "/readyz"); got != http.StatusServiceUnavailable {
		t.Errorf("/readyz: %d", got)
	}
	if got := p.get(t, "/healthz"); !strings.Contains(got, `"status": "starting"`) {
		t.Errorf("/healthz: %s", got)
	}
	conn := p.dial(t, p.health, insecure.NewCredentials())
	for service, want := range map[string]healthgrpc.HealthCheckResponse_ServingStatus{
		"liveness": healthgrpc.HealthCheckResponse_SERVING, "readiness": healthgrpc.HealthCheckResponse_NOT_SERVING,
	} {
		if got := healthOf(t, conn, service); got != want {
			t.Errorf("%s: %v, want %v", service, got, want)
		}
	}
	write(t, file, newEngine(t).yaml("engine-0"))
	p.eventually(t, "ready", func() bool { return p.status(t, "/readyz") == http.StatusOK })
}

func TestABadEndpointsFileIsRefusedAtTheStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "endpoints.yaml")
	write(t, file, "endpoints:\n- address: 127.0.0.1\n  port: many\n")
	_, _, err := epp(t, append(loopback(), "ENDPOINTS="+file))
	if err == nil || !strings.Contains(err.Error(), "endpoints.yaml") || !strings.Contains(err.Error(), "3") {
		t.Errorf("want the file and its line 3, got %v", err)
	}
	_, _, err = epp(t, append(loopback(), "ENDPOINTS="+file+".absent"))
	if err == nil || !strings.Contains(err.Error(), "endpoints.yaml.absent") {
		t.Errorf("want the missing file, got %v", err)
	}
}

func TestAnEditedEndpointsFileIsInForce(t *testing.T) {
	first, second := newEngine(t), newEngine(t)
	file := first.file(t)
	p := startWith(t, file)
	write(t, file, second.yaml("engine-1"))
	conn := p.dial(t, p.extproc, credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}))
	p.eventually(t, "requests for the new engine", func() bool {
		stream := open(t, conn)
		defer respond(t, stream)
		return route(t, stream, `{"model":"chat","prompt":"x"}`) == second.address()
	})
}

// engine is a model server's metrics page.
type engine struct{ *httptest.Server }

func newEngine(t *testing.T) *engine {
	t.Helper()
	e := &engine{httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{engine=\"0\",model_name=\"chat\"} 3\n"+
			"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{engine=\"0\",model_name=\"chat\"} 2\n"+
			"# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc{engine=\"0\",model_name=\"chat\"} 0.5\n")
	}))}
	t.Cleanup(e.Close)
	return e
}

func (e *engine) address() string { return e.Listener.Addr().String() }

func (e *engine) yaml(name string) string {
	u, _ := url.Parse(e.URL)
	return fmt.Sprintf("endpoints:\n- name: %s\n  address: 127.0.0.1\n  port: %s\n", name, u.Port())
}

func (e *engine) file(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "endpoints.yaml")
	write(t, file, e.yaml("engine-0"))
	return file
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func loopback() []string {
	return []string{"BIND_ADDRESS=127.0.0.1", "GRPC_PORT=0", "GRPC_HEALTH_PORT=0", "METRICS_PORT=0", "LOG_FORMAT=json"}
}

// running is a picker that runs in this process.
type running struct {
	extproc, health, admin string // addresses
	out, err               buffer
	stop                   context.CancelFunc
	ended                  chan struct{}
	result                 error // once ended is closed
}

func start(t *testing.T, e *engine, env ...string) *running {
	t.Helper()
	return startWith(t, e.file(t), env...)
}

func startWith(t *testing.T, file string, env ...string) *running {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	p := &running{stop: stop, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		p.result = run(ctx, []string{"serve", "--endpoints", file}, append(loopback(), env...), &p.out, &p.err)
	}()
	t.Cleanup(func() {
		stop()
		select {
		case <-p.ended:
		case <-time.After(20 * time.Second):
			t.Error("the picker doesn't end")
		}
		if t.Failed() {
			t.Log(p.err.String())
		}
	})
	p.eventually(t, "a line that tells the ports", p.readPorts)
	return p
}

// readPorts looks for the addresses in the log.
func (p *running) readPorts() bool {
	for line := range strings.Lines(p.err.String()) {
		var entry struct{ Msg, ExtProc, Health, Admin string }
		if json.Unmarshal([]byte(strings.Replace(line, `"ext_proc"`, `"extproc"`, 1)), &entry) == nil && entry.Msg == "serving" {
			p.extproc, p.health, p.admin = entry.ExtProc, entry.Health, entry.Admin
			return true
		}
	}
	return false
}

func (p *running) wait(t *testing.T) error {
	t.Helper()
	select {
	case <-p.ended:
		return p.result
	case <-time.After(20 * time.Second):
		t.Fatal("the picker doesn't end")
		return nil
	}
}

func (p *running) eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		if holds() {
			return
		}
		select {
		case <-p.ended:
			t.Fatalf("waiting for %s: the picker has ended: %v", what, p.result)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}

func (p *running) get(t *testing.T, path string) string {
	t.Helper()
	response, err := http.Get("http://" + p.admin + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", path, response.Status, err)
	}
	return string(body)
}

func (p *running) status(t *testing.T, path string) int {
	t.Helper()
	response, err := http.Get("http://" + p.admin + path)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

func (p *running) dial(t *testing.T, address string, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func healthOf(t *testing.T, conn *grpc.ClientConn, service string) healthgrpc.HealthCheckResponse_ServingStatus {
	t.Helper()
	response, err := healthgrpc.NewHealthClient(conn).Check(t.Context(), &healthgrpc.HealthCheckRequest{Service: service})
	if err != nil {
		t.Fatalf("health of %q: %v", service, err)
	}
	return response.Status
}

func watchHealth(t *testing.T, conn *grpc.ClientConn) grpc.ClientStream {
	t.Helper()
	watch, err := healthgrpc.NewHealthClient(conn).Watch(t.Context(), &healthgrpc.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if first, err := watch.Recv(); err != nil || first.Status != healthgrpc.HealthCheckResponse_SERVING {
		t.Fatalf("watch: %v, %v", first, err)
	}
	return watch
}

func open(t *testing.T, conn *grpc.ClientConn) extprocv3.ExternalProcessor_ProcessClient {
	t.Helper()
	stream, err := extprocv3.NewExternalProcessorClient(conn).Process(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// route sends a request as a gateway with buffered request bodies does, and returns the destination that it is told.
func route(t *testing.T, stream extprocv3.ExternalProcessor_ProcessClient, body string) string {
	t.Helper()
	exchange(t, stream, &extprocv3.ProcessingRequest{
		Request: &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: headers(
			":method", "POST", ":path", "/v1/chat/completions", "content-type", "application/json")},
		ProtocolConfig: &extprocv3.ProtocolConfiguration{
			RequestBodyMode: extprocfilter.ProcessingMode_BUFFERED, ResponseBodyMode: extprocfilter.ProcessingMode_NONE,
		},
	})
	answer := exchange(t, stream, &extprocv3.ProcessingRequest{
		Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{Body: []byte(body), EndOfStream: true}},
	})
	for _, h := range answer.GetRequestBody().GetResponse().GetHeaderMutation().GetSetHeaders() {
		if h.Header.Key == "x-gateway-destination-endpoint" {
			return string(h.Header.RawValue)
		}
	}
	t.Fatalf("no destination in %v", answer)
	return ""
}

// respond sends the response's headers and closes, as the gateway does when the answer has ended.
func respond(t *testing.T, stream extprocv3.ExternalProcessor_ProcessClient) {
	t.Helper()
	exchange(t, stream, &extprocv3.ProcessingRequest{
		Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: headers(":status", "200")},
	})
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for {
		_, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func exchange(t *testing.T, stream extprocv3.ExternalProcessor_ProcessClient, m *extprocv3.ProcessingRequest) *extprocv3.ProcessingResponse {
	t.Helper()
	if err := stream.Send(m); err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func headers(pairs ...string) *extprocv3.HttpHeaders {
	h := &corev3.HeaderMap{}
	for i := 0; i < len(pairs); i += 2 {
		h.Headers = append(h.Headers, &corev3.HeaderValue{Key: pairs[i], RawValue: []byte(pairs[i+1])})
	}
	return &extprocv3.HttpHeaders{Headers: h}
}

func valueOf(page settingsPage, name string) string {
	for _, row := range page.Settings {
		if row.Name == name {
			return row.Value
		}
	}
	return ""
}

// buffer is a bytes.Buffer for one writer and one reader at a time.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
