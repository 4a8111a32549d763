package cost

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

// echo is the reference: an ext_proc server as one writes it with grpc-go and go-control-plane's types, which does
// nothing but what the protocol needs. It names one of its destinations, in turn, reads the request's body to its end,
// and gives every byte back. It looks at no body, knows no pods and keeps no metrics.
type echo struct {
	extprocv3.UnimplementedExternalProcessorServer
	destinations []string
	next         atomic.Uint64
}

// serveEcho answers on l until ctx ends.
func serveEcho(ctx context.Context, l net.Listener, destinations []string) error {
	s := grpc.NewServer(grpc.MaxRecvMsgSize(64 << 20))
	extprocv3.RegisterExternalProcessorServer(s, &echo{destinations: destinations})
	healthy := health.NewServer()
	healthy.SetServingStatus("envoy.service.ext_proc.v3.ExternalProcessor", healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(s, healthy)
	defer context.AfterFunc(ctx, s.Stop)()
	return s.Serve(l)
}

// Process serves one stream.
func (e *echo) Process(s extprocv3.ExternalProcessor_ProcessServer) error {
	var held []*extprocv3.ProcessingResponse
	duplex := false
	for {
		req, err := s.Recv()
		if errors.Is(err, io.EOF) || status.Code(err) == codes.Canceled {
			return nil
		}
		if err != nil {
			return err
		}
		if c := req.ProtocolConfig; c != nil {
			duplex = c.RequestBodyMode == filterv3.ProcessingMode_FULL_DUPLEX_STREAMED
		}
		resp, done := e.answer(req, duplex)
		if held = append(held, resp); !done {
			continue
		}
		for _, resp := range held {
			if err := s.Send(resp); err != nil {
				return err
			}
		}
		held = held[:0]
	}
}

// answer makes the answer to a message, and says whether it and those before it can be sent: in full duplex a request
// is read whole first, as a picker that looks at the prompt must.
func (e *echo) answer(req *extprocv3.ProcessingRequest, duplex bool) (*extprocv3.ProcessingResponse, bool) {
	switch m := req.Request.(type) {
	case *extprocv3.ProcessingRequest_RequestHeaders:
		if !duplex {
			return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{}}}, true
		}
		destination := e.destination()
		return &extprocv3.ProcessingResponse{
			Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{
				Response: &extprocv3.CommonResponse{HeaderMutation: naming(destination), ClearRouteCache: true},
			}},
			DynamicMetadata: metadata(destination),
		}, m.RequestHeaders.EndOfStream
	case *extprocv3.ProcessingRequest_RequestBody:
		if duplex {
			return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestBody{RequestBody: back(m.RequestBody)}}, m.RequestBody.EndOfStream
		}
		destination := e.destination()
		return &extprocv3.ProcessingResponse{
			Response: &extprocv3.ProcessingResponse_RequestBody{RequestBody: &extprocv3.BodyResponse{
				Response: &extprocv3.CommonResponse{HeaderMutation: naming(destination), ClearRouteCache: true},
			}},
			DynamicMetadata: metadata(destination),
		}, true
	case *extprocv3.ProcessingRequest_ResponseHeaders:
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extprocv3.HeadersResponse{}}}, true
	case *extprocv3.ProcessingRequest_ResponseBody:
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseBody{ResponseBody: back(m.ResponseBody)}}, true
	case *extprocv3.ProcessingRequest_RequestTrailers:
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestTrailers{RequestTrailers: &extprocv3.TrailersResponse{}}}, true
	default:
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseTrailers{ResponseTrailers: &extprocv3.TrailersResponse{}}}, true
	}
}

func (e *echo) destination() string {
	return e.destinations[e.next.Add(1)%uint64(len(e.destinations))]
}

func naming(destination string) *extprocv3.HeaderMutation {
	return &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{{
		Header:       &corev3.HeaderValue{Key: keyDestination, RawValue: []byte(destination)},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}}}
}

func metadata(destination string) *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{lbNamespace: structpb.NewStructValue(&structpb.Struct{
		Fields: map[string]*structpb.Value{keyDestination: structpb.NewStringValue(destination)},
	})}}
}

func back(b *extprocv3.HttpBody) *extprocv3.BodyResponse {
	return &extprocv3.BodyResponse{Response: &extprocv3.CommonResponse{BodyMutation: &extprocv3.BodyMutation{
		Mutation: &extprocv3.BodyMutation_StreamedResponse{StreamedResponse: &extprocv3.StreamedBodyResponse{
			Body: b.Body, EndOfStream: b.EndOfStream,
		}},
	}}}
}
