package main

import (
	"context"
	"sync"

	"github.com/pilotfish-epp/pilotfish/pkg/discovery"
)

// discover keeps the pool as the endpoints file says until background ends. It returns when the file was read for the
// first time, with an error if it is bad, or when ctx ends. The picker is ready as soon as one of the file's endpoints is
// known, or the file lists none: host names take a look-up, which may fail at first.
func (p *picker) discover(ctx, background context.Context, loops *sync.WaitGroup) error {
	first := make(chan struct{})
	var once sync.Once
	p.file = discovery.NewFile(p.settings.Current().Endpoints, discovery.Options{
		Pool: p.pool, Logger: p.logger, Now: p.now, Priorities: p.router.SetPriorities,
		Reloaded: func(err error) {
			p.metrics.EndpointsReloaded(err == nil)
			if err == nil {
				once.Do(func() { close(first) })
			}
		},
	})
	failed := make(chan error, 1)
	loops.Go(func() { failed <- p.file.Run(background) })
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	case <-first:
	}
	loops.Go(func() {
		select {
		case <-p.file.Synced():
			p.becomeReady()
		case <-background.Done():
		}
	})
	return nil
}
