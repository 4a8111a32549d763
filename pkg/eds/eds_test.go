package eds

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservice "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/pilotfish-epp/pilotfish/pkg/pool"
)

// A proxy of each kind hears of the pool and of each change, in any number of steps, and only of ip:port.
func TestEveryKindOfStream(t *testing.T) {
	for kind, open := range kinds {
		t.Run(kind, func(t *testing.T) {
			s := serve(t)
			s.set("10.0.0.1:8000", "[fd00::2]:8001")
			proxy := open(t, s, Cluster)
			proxy.until("10.0.0.1:8000", "[fd00::2]:8001")
			s.set("10.0.0.1:8000")
			proxy.until("10.0.0.1:8000")
			s.set("10.0.0.1:8000", "10.0.0.3:8000", "10.0.0.4:8000")
			proxy.until("10.0.0.1:8000", "10.0.0.3:8000", "10.0.0.4:8000")
			s.set()
			proxy.until()
			for i := range 20 {
				s.set(fmt.Sprintf("10.0.1.%d:8000", i))
			}
			proxy.until("10.0.1.19:8000")
		})
	}
}

// A pool that was never set isn't an empty one: a proxy that reconnects must keep what it had.
func TestNothingIsSaidWhileThePoolIsNotKnown(t *testing.T) {
	for kind, open := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := serve(t)
			proxy := open(t, s, Cluster)
			select {
			case set := <-proxy.sets:
				t.Fatalf("was told %v", set)
			case <-time.After(2*look + 100*time.Millisecond): // whatever looks at the pool from time to time has done so
			}
			s.set("10.0.0.1:8000")
			if first := proxy.next(); !slices.Equal(first, []string{"10.0.0.1:8000"}) {
				t.Errorf("was first told %v", first)
			}
		})
	}
}

func TestPoolThatIsKnownToBeEmpty(t *testing.T) {
	s := serve(t)
	s.set()
	if first := openSotW(t, s, Cluster).next(); len(first) != 0 {
		t.Errorf("was told %v", first)
	}
}

func TestAnyClusterNameGetsThePool(t *testing.T) {
	for kind, open := range kinds {
		t.Run(kind, func(t *testing.T) {
			s := serve(t)
			s.set("10.0.0.1:8000")
			proxy := open(t, s, "my-engines")
			proxy.until("10.0.0.1:8000")
			s.set("10.0.0.2:8000")
			proxy.until("10.0.0.2:8000")
		})
	}
}

func TestClusterNamesAreBounded(t *testing.T) {
	s := serve(t)
	for i := range 3 * maxNames {
		s.asked([]string{fmt.Sprint("cluster-", i)})
	}
	if len(s.names) != maxNames {
		t.Errorf("%d names", len(s.names))
	}
	if !strings.Contains(s.logged(), "too many clusters") {
		t.Errorf("nothing is said of it: %s", s.logged())
	}
}

// An aggregated stream may ask for other things too; it gets the endpoints all the same.
func TestOtherTypesOnAnAggregatedStream(t *testing.T) {
	s := serve(t)
	s.set("10.0.0.1:8000")
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(s.conn).StreamAggregatedResources(t.Context())
	check(t, err)
	check(t, stream.Send(&discovery.DiscoveryRequest{TypeUrl: resource.ClusterType, Node: &core.Node{Id: "n"}}))
	check(t, stream.Send(&discovery.DiscoveryRequest{TypeUrl: resource.EndpointType, ResourceNames: []string{Cluster}}))
	response, err := stream.Recv()
	check(t, err)
	if response.GetTypeUrl() != resource.EndpointType {
		t.Errorf("got %s", response.GetTypeUrl())
	}
}

// A proxy that comes back with the version of another process is told anew, although both counted to the same number.
func TestVersionsOfAnotherProcess(t *testing.T) {
	old, fresh := serve(t), serve(t)
	old.set("10.0.0.1:8000")
	fresh.set("10.0.0.2:8000")
	version := func(s *scene, had string) string {
		stream, err := endpointservice.NewEndpointDiscoveryServiceClient(s.conn).StreamEndpoints(t.Context())
		check(t, err)
		check(t, stream.Send(&discovery.DiscoveryRequest{TypeUrl: resource.EndpointType, ResourceNames: []string{Cluster}, VersionInfo: had, Node: &core.Node{Id: "n"}}))
		response, err := stream.Recv()
		check(t, err)
		return response.GetVersionInfo()
	}
	had := version(old, "")
	if got := version(fresh, had); got == had {
		t.Errorf("both say version %s", got)
	}
}

func TestRefusalIsLogged(t *testing.T) {
	s := serve(t)
	s.set("10.0.0.1:8000")
	stream, err := endpointservice.NewEndpointDiscoveryServiceClient(s.conn).StreamEndpoints(t.Context())
	check(t, err)
	ask := &discovery.DiscoveryRequest{TypeUrl: resource.EndpointType, ResourceNames: []string{Cluster}, Node: &core.Node{Id: "envoy-7"}}
	check(t, stream.Send(ask))
	response, err := stream.Recv()
	check(t, err)
	check(t, stream.Send(&discovery.DiscoveryRequest{
		TypeUrl: resource.EndpointType, ResourceNames: []string{Cluster}, Node: ask.GetNode(), ResponseNonce: response.GetNonce(),
		ErrorDetail: &rpcstatus.Status{Code: 13, Message: "malformed IP address"},
	}))
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(s.logged(), "node=envoy-7 reason=\"malformed IP address\""); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("logged: %s", s.logged())
		}
	}
}

// With open streams, known pool or not, a graceful stop doesn't hang once Run has ended.
func TestGracefulStop(t *testing.T) {
	for kind, open := range kinds {
		for _, known := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s known=%v", kind, known), func(t *testing.T) {
				s := serve(t)
				if known {
					s.set("10.0.0.1:8000")
				}
				proxy := open(t, s, Cluster)
				if known {
					proxy.until("10.0.0.1:8000")
				}
				s.end()
				stopped := make(chan bool)
				go func() {
					s.grpc.GracefulStop()
					close(stopped)
				}()
				select {
				case <-stopped:
				case <-time.After(10 * time.Second):
					t.Error("hangs")
				}
			})
		}
	}
}

// BenchmarkPush measures from the change of a pool of 64 to its arrival at a proxy over loopback.
func BenchmarkPush(b *testing.B) {
	s := serve(b)
	addresses := make([]string, 64)
	for i := range addresses {
		addresses[i] = fmt.Sprintf("10.0.0.%d:8000", i)
	}
	s.set(addresses...)
	proxy := openSotW(b, s, Cluster)
	proxy.next()
	for all := false; b.Loop(); all = !all {
		if all {
			s.set(addresses...)
		} else {
			s.set(addresses[1:]...)
		}
		proxy.next()
	}
}

// kinds are the ways in which a proxy can ask.
var kinds = map[string]func(testing.TB, *scene, string) *proxy{
	"SotW":             openSotW,
	"delta":            openDelta,
	"SotW aggregated":  openSotWAggregated,
	"delta aggregated": openDeltaAggregated,
}

// proxy is what an Envoy would know.
type proxy struct {
	t    testing.TB
	sets chan []string
}

func (p *proxy) next() []string {
	p.t.Helper()
	select {
	case set := <-p.sets:
		return set
	case <-time.After(10 * time.Second):
		p.t.Fatal("is told nothing")
		return nil
	}
}

func (p *proxy) until(want ...string) {
	p.t.Helper()
	for got := p.next(); !slices.Equal(got, want); got = p.next() {
		if len(p.sets) == 0 && len(got) > 100 {
			p.t.Fatalf("got %v, want %v", got, want)
		}
	}
}

func (p *proxy) heard(ctx context.Context, cluster string, a *anypb.Any) {
	var set endpoint.ClusterLoadAssignment
	if err := a.UnmarshalTo(&set); err != nil {
		p.t.Error(err)
		return
	}
	if set.GetClusterName() != cluster {
		p.t.Errorf("cluster %q, want %q", set.GetClusterName(), cluster)
	}
	var addresses []string
	for _, locality := range set.GetEndpoints() {
		for _, host := range locality.GetLbEndpoints() {
			at := host.GetEndpoint().GetAddress().GetSocketAddress()
			ip, err := netip.ParseAddr(at.GetAddress())
			if err != nil {
				p.t.Errorf("an address that Envoy refuses: %v", err)
			}
			addresses = append(addresses, netip.AddrPortFrom(ip, uint16(at.GetPortValue())).String())
		}
	}
	select {
	case p.sets <- addresses:
	case <-ctx.Done():
	}
}

type sotwStream interface {
	Send(*discovery.DiscoveryRequest) error
	Recv() (*discovery.DiscoveryResponse, error)
	Context() context.Context
}

func openSotW(t testing.TB, s *scene, cluster string) *proxy {
	t.Helper()
	stream, err := endpointservice.NewEndpointDiscoveryServiceClient(s.conn).StreamEndpoints(t.Context())
	check(t, err)
	return runSotW(t, stream, cluster)
}

func openSotWAggregated(t testing.TB, s *scene, cluster string) *proxy {
	t.Helper()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(s.conn).StreamAggregatedResources(t.Context())
	check(t, err)
	return runSotW(t, stream, cluster)
}

func runSotW(t testing.TB, stream sotwStream, cluster string) *proxy {
	t.Helper()
	p := &proxy{t, make(chan []string)}
	ask := &discovery.DiscoveryRequest{TypeUrl: resource.EndpointType, ResourceNames: []string{cluster}, Node: &core.Node{Id: "n", Cluster: "c"}}
	check(t, stream.Send(ask))
	go func() {
		for {
			response, err := stream.Recv()
			if err != nil {
				return
			}
			ask.VersionInfo, ask.ResponseNonce = response.GetVersionInfo(), response.GetNonce()
			if stream.Send(ask) != nil {
				return
			}
			for _, a := range response.GetResources() {
				p.heard(stream.Context(), cluster, a)
			}
		}
	}()
	return p
}

type deltaStream interface {
	Send(*discovery.DeltaDiscoveryRequest) error
	Recv() (*discovery.DeltaDiscoveryResponse, error)
	Context() context.Context
}

func openDelta(t testing.TB, s *scene, cluster string) *proxy {
	t.Helper()
	stream, err := endpointservice.NewEndpointDiscoveryServiceClient(s.conn).DeltaEndpoints(t.Context())
	check(t, err)
	return runDelta(t, stream, cluster, "") // a direct stream needn't name the type
}

func openDeltaAggregated(t testing.TB, s *scene, cluster string) *proxy {
	t.Helper()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(s.conn).DeltaAggregatedResources(t.Context())
	check(t, err)
	return runDelta(t, stream, cluster, resource.EndpointType)
}

func runDelta(t testing.TB, stream deltaStream, cluster, typeURL string) *proxy {
	t.Helper()
	p := &proxy{t, make(chan []string)}
	check(t, stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesSubscribe: []string{cluster}, Node: &core.Node{Id: "n", Cluster: "c"}}))
	go func() {
		for {
			response, err := stream.Recv()
			if err != nil {
				return
			}
			if stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: typeURL, ResponseNonce: response.GetNonce()}) != nil {
				return
			}
			for _, r := range response.GetResources() {
				p.heard(stream.Context(), cluster, r.GetResource())
			}
		}
	}()
	return p
}

// scene is a running server and a connection to it.
type scene struct {
	*Server
	grpc *grpc.Server
	conn *grpc.ClientConn
	end  context.CancelFunc

	mu  sync.Mutex
	log bytes.Buffer
}

func serve(t testing.TB) *scene {
	t.Helper()
	s := &scene{grpc: grpc.NewServer()}
	s.Server = New(pool.New(), slog.New(slog.NewTextHandler(s, nil)))
	s.Register(s.grpc)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	s.end = cancel
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	running.Go(func() { s.grpc.Serve(listener) }) //nolint:errcheck // ends with Stop
	s.conn, err = grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(t, err)
	t.Cleanup(func() {
		s.conn.Close() //nolint:errcheck // the test is over
		cancel()
		s.grpc.Stop()
		running.Wait()
	})
	return s
}

func (s *scene) set(addresses ...string) {
	var endpoints []pool.Endpoint
	for _, a := range addresses {
		endpoints = append(endpoints, pool.Endpoint{Name: a, Address: netip.MustParseAddrPort(a)})
	}
	s.pool.Set(time.Now(), endpoints)
}

func (s *scene) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(p)
}

func (s *scene) logged() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
