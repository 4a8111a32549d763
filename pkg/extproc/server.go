package extproc

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pilotfish-epp/pilotfish/pkg/routing"
	"github.com/pilotfish-epp/pilotfish/pkg/settings"
)

// ServiceName is the gRPC service of Envoy's ext_proc filter.
const ServiceName = "envoy.service.ext_proc.v3.ExternalProcessor"

// Options is what a Server works with. Router and Settings must be set.
type Options struct {
	Router   *routing.Router
	Settings *settings.Store
	Logger   *slog.Logger // nil: slog.Default
}

// Server answers ext_proc streams. All methods are safe for concurrent use.
type Server struct {
	router   router
	settings *settings.Store
	logger   *slog.Logger
	draw     func(share float64) bool

	streams  sync.Pool
	buffers  *bufferPool
	buffered atomic.Int64 // bytes of request bodies held now
	counters counters
	opened   atomic.Int64 // since when a streamed answer that would pass unseen is being looked at, Unix nanoseconds; 0: none is

	stopping context.Context
	stop     context.CancelFunc
}

// NewServer makes a Server. It must be registered with a grpc.Server that was made with ServerOptions: its messages
// need their codec.
func NewServer(o Options) *Server { return newServer(routerOf{o.Router}, o.Settings, o.Logger) }

func newServer(r router, store *settings.Store, logger *slog.Logger) *Server {
	if logger == nil {
		logger = slog.Default()
	}
	s := &Server{router: r, settings: store, logger: logger, draw: draw, buffers: &bufferPool{}}
	s.stopping, s.stop = context.WithCancel(context.Background())
	return s
}

// Register adds the ext_proc service to r.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	r.RegisterService(&grpc.ServiceDesc{
		ServiceName: ServiceName,
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName: "Process", ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, ss grpc.ServerStream) error { return s.process(ss) },
		}},
		Metadata: "envoy/service/ext_proc/v3/external_processor.proto",
	}, s)
}

func (s *Server) process(w wire) error {
	st, ok := s.streams.Get().(*stream)
	if !ok {
		st = newStream(s, s.buffers)
	}
	s.counters.streams.Add(1)
	defer s.counters.streams.Add(-1)
	whole, err := s.guarded(st, w)
	if whole {
		st.reset()
		s.streams.Put(st)
	}
	return err
}

// guarded runs the stream and keeps a panic to it: the request gets an answer, its ticket is finished, and the process
// goes on. A stream that is not whole afterwards must not be used again.
func (s *Server) guarded(st *stream, w wire) (whole bool, err error) {
	defer func() {
		if whole {
			return
		}
		s.failed(st, recover())
		err = s.collapse(st)
	}()
	return true, st.run(w)
}

func (s *Server) failed(st *stream, cause any) {
	s.counters.panics.Add(1)
	s.logger.Error("a request made the picker panic", "request_id", st.head.requestID, "panic", cause,
		"stack", string(debug.Stack()))
}

// collapse ends a stream whose state can't be trusted, and gives the gRPC status.
func (s *Server) collapse(st *stream) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			s.failed(st, cause)
			err = status.Error(codes.Internal, "the endpoint picker failed on this request; its log says why")
		}
	}()
	defer st.in.release()
	defer st.finish(routing.ClientGone)
	return st.apologize()
}

// apologize answers a request that failed here, as long as that can reach the client. Once response bytes have been
// given away a clean end would pass for the end of the response, so the stream breaks then.
func (s *stream) apologize() error {
	switch {
	case s.response == awaitingResponse && !s.observed:
		_ = s.refuse(internal())
	case s.response != responseOver && s.responseMode.fullDuplex():
		return status.Error(codes.Internal, "the endpoint picker failed on this response; its log says why")
	}
	return nil
}

// RefuseWaiting answers the requests that wait for a pod now or later with 503, for a process that is about to end.
func (s *Server) RefuseWaiting() {
	s.stop()
	s.router.RefuseWaiting()
}

// routerOf is a routing.Router as streams use it.
type routerOf struct{ *routing.Router }

func (routerOf) newTicket() ticket { return new(routing.Ticket) }

func (r routerOf) route(ctx context.Context, a *routing.Arrival, t ticket) *routing.Refusal {
	return r.Route(ctx, a, t.(*routing.Ticket))
}
