package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/pilotfish-epp/pilotfish/pkg/eds"
	"github.com/pilotfish-epp/pilotfish/pkg/extproc"
)

// run serves until ctx ends, or a server fails, and returns when everything has stopped. Ports are opened when the
// endpoints are known, and answer from their first moment.
func (p *picker) run(ctx context.Context) error {
	// What the streams under way need goes on until they have ended, whatever happens to ctx.
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	var loops sync.WaitGroup
	defer loops.Wait()
	defer end()

	others, endOthers := context.WithCancel(background) // streams that never end by themselves: EDS, health watches
	defer endOthers()
	grpcServer := grpc.NewServer(append(extproc.ServerOptions(p.security), grpc.ChainStreamInterceptor(endingWith(others)))...)
	p.extproc.Register(grpcServer)
	p.health.Register(grpcServer)
	if p.settings.Current().ServeEDS() {
		endpoints := eds.New(p.pool, p.logger)
		endpoints.Register(grpcServer)
		loops.Go(func() { endpoints.Run(others) })
	}
	healthServer := grpc.NewServer()
	p.health.Register(healthServer)
	if err := p.discover(ctx, background, &loops); err != nil || ctx.Err() != nil {
		return err
	}
	adminServer := &http.Server{
		Handler: p.admin.handler(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute,
	}

	ports, err := listen(p.settings.Current())
	if err != nil {
		return err
	}
	failed := make(chan error, 3)
	loops.Go(func() { p.scraper.Run(background) })
	loops.Go(func() { failed <- named("ext_proc", grpcServer.Serve(ports.grpc)) })
	loops.Go(func() { failed <- named("health", healthServer.Serve(ports.health)) })
	loops.Go(func() { failed <- named("admin", adminServer.Serve(ports.admin)) })
	p.logger.Info("serving", "version", thisBuild().Version, "ext_proc", ports.grpc.Addr().String(), "health", ports.health.Addr().String(),
		"admin", ports.admin.Addr().String(), "tls", p.security != nil, "pods", len(p.pool.Snapshot().Pods))

	select {
	case <-ctx.Done():
		err = nil
	case err = <-failed:
	}
	p.becomeStopping()
	grace, cancel := context.WithTimeout(background, p.settings.Current().ShutdownGrace)
	defer cancel()
	p.logger.Info("stopping", "streams", p.extproc.Stats().Streams, "grace", p.settings.Current().ShutdownGrace.String())
	if err == nil {
		p.awaitNotice(grace)
	}
	endOthers()
	p.drain(grace, grpcServer)
	p.health.Close()
	healthServer.Stop()
	shutAdmin(adminServer)
	return err
}

// A proxy learns that this picker is leaving from its next health check. Those of deploy/envoy come every second, and
// slower ones of other proxies must not keep a process from ending.
const (
	noticeQuiet = 1200 * time.Millisecond // without a new stream, after which every proxy is taken to know
	noticeLimit = 3 * time.Second
)

// awaitNotice serves on, no longer ready, until proxies have noticed or the grace is over. In full duplex a request that
// meets a closed port is lost, since its body is on the way already; so the port stays open until no more come. Where
// none ever came there is nobody to notice.
func (p *picker) awaitNotice(grace context.Context) {
	seen, since := p.streamsEver(), time.Now()
	if seen == 0 {
		return
	}
	limit := time.After(noticeLimit)
	tick := time.NewTicker(noticeQuiet / 12)
	defer tick.Stop()
	for time.Since(since) < noticeQuiet {
		select {
		case <-grace.Done():
			return
		case <-limit:
			return
		case <-tick.C:
		}
		if n := p.streamsEver(); n != seen {
			seen, since = n, time.Now()
		}
	}
}

// streamsEver is how many ext_proc streams have been opened since the start.
func (p *picker) streamsEver() (n int64) {
	for _, count := range p.extproc.Stats().Modes {
		n += count
	}
	return n
}

// drain takes no new streams and lets those under way finish until the grace is over.
func (p *picker) drain(grace context.Context, server *grpc.Server) {
	if p.extproc.Shutdown(grace, server) {
		p.logger.Info("stopped: every stream has finished")
		return
	}
	p.logger.Warn("stopped: streams that had not finished within the grace were cut")
}

func shutAdmin(server *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), adminGrace)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		_ = server.Close() // a profile under way is cut
	}
}

// named says which server failed; a server that was stopped has not.
func named(server string, err error) error {
	if err == nil || errors.Is(err, grpc.ErrServerStopped) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("the %s server failed: %w", server, err)
}

// endingWith ends every stream but ext_proc's when ctx ends: those would keep a graceful stop waiting for ever.
func endingWith(ctx context.Context) grpc.StreamServerInterceptor {
	const process = "/" + extproc.ServiceName + "/Process"
	return func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if info.FullMethod == process {
			return handler(server, stream)
		}
		inner, cancel := context.WithCancel(stream.Context())
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		return handler(server, endable{stream, inner})
	}
}

// endable is a stream with another context.
type endable struct {
	grpc.ServerStream
	ctx context.Context
}

func (s endable) Context() context.Context { return s.ctx }
