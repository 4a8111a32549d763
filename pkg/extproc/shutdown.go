package extproc

import (
	"context"
	"time"

	"google.golang.org/grpc"
)

// lastWords is how long the answers to requests that waited for a pod may take to reach the proxy.
const lastWords = 500 * time.Millisecond

// Shutdown stops g: no new streams are taken, and those under way may finish until ctx ends. Then requests that still
// wait for a pod are answered 503, and what is left is cut. It says whether all streams finished by themselves.
//
// Other long-lived streams on g (EDS, health watches, which Health.Close doesn't end) must be ended by the caller, or they keep it waiting.
func (s *Server) Shutdown(ctx context.Context, g *grpc.Server) bool {
	finished := make(chan struct{})
	go func() {
		g.GracefulStop()
		close(finished)
	}()
	select {
	case <-finished:
		return true
	case <-ctx.Done():
	}
	s.RefuseWaiting()
	select {
	case <-finished:
	case <-time.After(lastWords):
	}
	g.Stop()
	<-finished
	return false
}
