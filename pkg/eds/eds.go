// Package eds tells Envoy the pool's endpoints, as an endpoint discovery service beside ext_proc.
//
// It promises that a change of the pool reaches every proxy within milliseconds, as SotW or delta, by a direct
// or an aggregated stream, and that nothing is said while the pool isn't known yet: a proxy that reconnects to a picker
// that was just started goes on with what it had. Only ip:port goes out, since one host name among the endpoints makes
// Envoy refuse them all. A picker serves one pool, so every proxy gets it, under whatever cluster name it asks for.
package eds

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservice "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/sotw/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pilotfish-epp/pilotfish/pkg/pool"
)

// Cluster is the name under which the endpoints are served from the start; others are added as they are asked for.
const Cluster = "pods"

const (
	maxNames = 64          // cluster names served at once; a proxy that asks for ever new ones is not followed for ever
	look     = time.Second // between two looks at the pool that nobody asked for
)

// Server serves one pool. Its methods are safe for concurrent use; Run may be called once.
type Server struct {
	pool   *pool.Pool
	logger *slog.Logger
	cache  *cache.LinearCache
	sotw   sotw.Server
	delta  delta.Server

	changed chan struct{} // the pool's members changed; holds at most one
	known   chan struct{} // closed when the pool's members are known
	ended   context.Context
	end     context.CancelFunc

	mu      sync.Mutex
	names   map[string]bool
	pods    []*endpoint.LbEndpoint
	version uint64 // of the snapshot that pods are; 0: none yet
}

// New gives a server of p's endpoints. It answers nobody before Run.
func New(p *pool.Pool, logger *slog.Logger) *Server {
	s := &Server{
		pool: p, logger: logger,
		// A version of another process must not be taken for one of ours.
		cache:   cache.NewLinearCache(resource.EndpointType, cache.WithVersionPrefix(rand.Text()[:8]+"-")),
		changed: make(chan struct{}, 1),
		known:   make(chan struct{}),
		names:   map[string]bool{Cluster: true},
	}
	s.ended, s.end = context.WithCancel(context.Background())
	watches := endpointsOnly{s.cache}
	s.sotw = sotw.NewServer(s.ended, watches, sotwRequests{s})
	s.delta = delta.NewServer(s.ended, watches, deltaRequests{s})
	p.OnChange(func([]*pool.Pod, []*pool.Pod) {
		select {
		case s.changed <- struct{}{}:
		default:
		}
	})
	return s
}

// Register adds the endpoint and the aggregated discovery service to r.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	endpointservice.RegisterEndpointDiscoveryServiceServer(r, &direct{s: s})
	discovery.RegisterAggregatedDiscoveryServiceServer(r, &aggregated{s: s})
}

// Run publishes the pool and its changes until ctx ends, and then ends all streams, so that a gRPC server can stop
// gracefully. A pool that was never set isn't known and isn't published.
func (s *Server) Run(ctx context.Context) {
	defer s.end()
	every := time.NewTicker(look)
	defer every.Stop()
	for {
		s.publish()
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		case <-every.C:
		}
	}
}

// publish hands the pool as it is now to the streams.
func (s *Server) publish() {
	snapshot := s.pool.Snapshot()
	s.mu.Lock()
	defer s.mu.Unlock()
	if snapshot.Version == s.version {
		return
	}
	first := s.version == 0
	s.version, s.pods = snapshot.Version, hosts(snapshot)
	s.update()
	if first {
		close(s.known)
	}
}

// update puts the pods into the cache under every name. The caller holds the lock.
func (s *Server) update() {
	sets := make(map[string]types.Resource, len(s.names))
	for name := range s.names {
		sets[name] = assignment(name, s.pods)
	}
	if err := s.cache.UpdateResources(sets, nil); err != nil {
		s.logger.Error("endpoints can't be published", "error", err)
	}
}

// asked makes sure that the clusters that a proxy asks for are served.
func (s *Server) asked(names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	had := len(s.names)
	for _, name := range names {
		if name == "" || name == "*" || s.names[name] {
			continue
		}
		if len(s.names) >= maxNames {
			s.logger.Warn("too many clusters: this one gets no endpoints", "cluster", name, "most", maxNames)
			continue
		}
		s.names[name] = true
	}
	if len(s.names) > had && s.version != 0 {
		s.update()
	}
}

func (s *Server) refused(node *core.Node, message string) {
	s.logger.Error("the proxy refused the endpoints", "node", node.GetId(), "reason", message)
}

// untilKnown waits until there is something to say.
func (s *Server) untilKnown(ctx context.Context) error {
	select {
	case <-s.known:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	case <-s.ended.Done():
		return status.Error(codes.Unavailable, "the picker is shutting down")
	}
}

func hosts(s *pool.Snapshot) []*endpoint.LbEndpoint {
	out := make([]*endpoint.LbEndpoint, len(s.Pods))
	for i, pod := range s.Pods {
		out[i] = &endpoint.LbEndpoint{
			HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{
				Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
					Address:       pod.Address.Addr().String(),
					PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(pod.Address.Port())},
				}}},
			}},
		}
	}
	return out
}

func assignment(name string, pods []*endpoint.LbEndpoint) *endpoint.ClusterLoadAssignment {
	set := &endpoint.ClusterLoadAssignment{ClusterName: name}
	if len(pods) > 0 {
		set.Endpoints = []*endpoint.LocalityLbEndpoints{{LbEndpoints: pods}}
	}
	return set
}
