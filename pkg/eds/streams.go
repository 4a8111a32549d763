package eds

import (
	"context"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservice "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// direct is the endpoint discovery service.
type direct struct {
	endpointservice.UnimplementedEndpointDiscoveryServiceServer
	s *Server
}

func (d *direct) StreamEndpoints(stream endpointservice.EndpointDiscoveryService_StreamEndpointsServer) error {
	if err := d.s.untilKnown(stream.Context()); err != nil {
		return err
	}
	return d.s.sotw.StreamHandler(stream, resource.EndpointType)
}

func (d *direct) DeltaEndpoints(stream endpointservice.EndpointDiscoveryService_DeltaEndpointsServer) error {
	if err := d.s.untilKnown(stream.Context()); err != nil {
		return err
	}
	return d.s.delta.DeltaStreamHandler(stream, resource.EndpointType)
}

// aggregated is the aggregated discovery service.
type aggregated struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	s *Server
}

func (a *aggregated) StreamAggregatedResources(stream discovery.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	if err := a.s.untilKnown(stream.Context()); err != nil {
		return err
	}
	return a.s.sotw.StreamHandler(stream, resource.AnyType)
}

func (a *aggregated) DeltaAggregatedResources(stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	if err := a.s.untilKnown(stream.Context()); err != nil {
		return err
	}
	return a.s.delta.DeltaStreamHandler(stream, resource.AnyType)
}

// endpointsOnly answers nothing to those who ask for other things on an aggregated stream, rather than ending it.
type endpointsOnly struct{ *cache.LinearCache }

func (e endpointsOnly) CreateWatch(r *cache.Request, sub cache.Subscription, out chan cache.Response) (func(), error) {
	if r.GetTypeUrl() != resource.EndpointType {
		return func() {}, nil
	}
	return e.LinearCache.CreateWatch(r, sub, out)
}

func (e endpointsOnly) CreateDeltaWatch(r *cache.DeltaRequest, sub cache.Subscription, out chan cache.DeltaResponse) (func(), error) {
	if r.GetTypeUrl() != resource.EndpointType {
		return func() {}, nil
	}
	return e.LinearCache.CreateDeltaWatch(r, sub, out)
}

// sotwRequests hears of requests before they are answered.
type sotwRequests struct{ s *Server }

func (sotwRequests) OnStreamOpen(context.Context, int64, string) error { return nil }
func (sotwRequests) OnStreamClosed(int64, *core.Node)                  {}

func (c sotwRequests) OnStreamRequest(_ int64, r *discovery.DiscoveryRequest) error {
	if r.GetErrorDetail() != nil {
		c.s.refused(r.GetNode(), r.GetErrorDetail().GetMessage())
	}
	if t := r.GetTypeUrl(); t == resource.EndpointType || t == "" { // a direct stream needn't say it
		c.s.asked(r.GetResourceNames())
	}
	return nil
}

func (sotwRequests) OnStreamResponse(context.Context, int64, *discovery.DiscoveryRequest, *discovery.DiscoveryResponse) {
}

// deltaRequests hears of requests before they are answered.
type deltaRequests struct{ s *Server }

func (deltaRequests) OnDeltaStreamOpen(context.Context, int64, string) error { return nil }
func (deltaRequests) OnDeltaStreamClosed(int64, *core.Node)                  {}

func (c deltaRequests) OnStreamDeltaRequest(_ int64, r *discovery.DeltaDiscoveryRequest) error {
	if r.GetErrorDetail() != nil {
		c.s.refused(r.GetNode(), r.GetErrorDetail().GetMessage())
	}
	if t := r.GetTypeUrl(); t == resource.EndpointType || t == "" { // a direct stream needn't say it
		c.s.asked(r.GetResourceNamesSubscribe())
	}
	return nil
}

func (deltaRequests) OnStreamDeltaResponse(int64, *discovery.DeltaDiscoveryRequest, *discovery.DeltaDiscoveryResponse) {
}
