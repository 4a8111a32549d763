package extproc

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/pilotfish-epp/pilotfish/pkg/request"
	"github.com/pilotfish-epp/pilotfish/pkg/routing"
	"github.com/pilotfish-epp/pilotfish/pkg/settings"
)

// fixedRouter sends everything to one place.
type fixedRouter struct{ to string }

func (r fixedRouter) newTicket() ticket { return &fixedTicket{to: r.to} }

func (fixedRouter) route(context.Context, *routing.Arrival, ticket) *routing.Refusal { return nil }

func (fixedRouter) RefuseWaiting() {}

func (fixedRouter) Refused(*routing.Arrival, *routing.Refusal) {}

type fixedTicket struct {
	scriptedTicket
	to string
}

func (t *fixedTicket) Destination() string                 { return t.to }
func (t *fixedTicket) Model() string                       { return "" }
func (t *fixedTicket) Responded(int, netip.AddrPort, bool) {}
func (t *fixedTicket) Used(request.Usage)                  {}
func (t *fixedTicket) FirstToken()                         {}
func (t *fixedTicket) Finish(routing.End)                  {}

func newStore(t testing.TB, environment map[string]string) *settings.Store {
	t.Helper()
	store, err := settings.New(environment, nil)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// serve runs s on a loopback port until the test ends and gives a client.
func serve(t testing.TB, s *Server) (*grpc.Server, extprocv3.ExternalProcessorClient) {
	t.Helper()
	g, connection := run(t, s)
	return g, extprocv3.NewExternalProcessorClient(connection)
}

func run(t testing.TB, s *Server, options ...grpc.DialOption) (*grpc.Server, *grpc.ClientConn) {
	t.Helper()
	g := grpc.NewServer(ServerOptions(nil)...)
	s.Register(g)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = g.Serve(listener) }()
	t.Cleanup(g.Stop)
	options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))
	connection, err := grpc.NewClient(listener.Addr().String(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return g, connection
}

func TestOverGRPC(t *testing.T) {
	s := newServer(fixedRouter{to: "10.0.0.1:8000"}, newStore(t, nil), nil)
	_, client := serve(t, s)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	stream, err := client.Process(ctx)
	if err != nil {
		t.Fatal(err)
	}
	body := chatBody(300_000)
	for _, m := range conversation(body) {
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	var echoed []byte
	for {
		answer, err := stream.Recv()
		if err != nil {
			break
		}
		if chunk := answer.GetRequestBody().GetResponse().GetBodyMutation().GetStreamedResponse(); chunk != nil {
			echoed = append(echoed, chunk.Body...)
		}
	}
	if string(echoed) != string(body) {
		t.Errorf("%d bytes of the body came back, want the same %d", len(echoed), len(body))
	}
}
