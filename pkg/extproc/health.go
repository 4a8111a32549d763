package extproc

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
)

// liveness is the service name that is served as healthy for as long as the process answers at all.
const liveness = "liveness"

// readinessNames are the service names under which proxies, probes and charts of the family ask whether requests can
// come: no name, the Endpoint Picker Protocol's two, and the one of older charts.
func readinessNames() []string {
	return []string{"", "readiness", ServiceName, "inference-extension"}
}

// Health answers gRPC health checks, Watch included, on every server that it is registered with. It starts not ready.
// All methods are safe for concurrent use.
type Health struct{ server *health.Server }

// NewHealth gives a Health that is alive and not ready.
func NewHealth() *Health {
	h := &Health{server: health.NewServer()}
	h.server.SetServingStatus(liveness, healthgrpc.HealthCheckResponse_SERVING)
	h.SetReady(false)
	return h
}

// Register adds the health service to r.
func (h *Health) Register(r grpc.ServiceRegistrar) { healthgrpc.RegisterHealthServer(r, h.server) }

// SetReady says whether requests may come. Liveness is not touched by it.
func (h *Health) SetReady(ready bool) {
	now := healthgrpc.HealthCheckResponse_NOT_SERVING
	if ready {
		now = healthgrpc.HealthCheckResponse_SERVING
	}
	for _, name := range readinessNames() {
		h.server.SetServingStatus(name, now)
	}
}

// Close answers NOT_SERVING to all from then on, liveness included, and tells every Watch so; SetReady does nothing any
// more. No Watch is ended by it: each goes on until its stream does, and keeps a graceful stop waiting until then.
func (h *Health) Close() { h.server.Shutdown() }
