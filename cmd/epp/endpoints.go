package main

import (
	"context"
	"sync"

	"github.com/pilotfish-epp/pilotfish/pkg/discovery"
)

// discover keeps the pool as the endpoints file says until ctx ends. It returns when the file was read for the first
// time, with an error if it is bad; the picker is ready as soon as at least one of the file's host names is known.
func (p *picker) discover(ctx context.Context, loops *sync.WaitGroup) error {
	first := make(chan struct{})
	var once sync.Once
	p.file = discovery.NewFile(p.settings.Current().Endpoints, discovery.Options{
		Pool: p.pool, Logger: p.logger, Now: p.now,
		Reloaded: func(err error) {
			p.metrics.EndpointsReloaded(err == nil)
			if err == nil {
				once.Do(func() { close(first) })
			}
		},
	})
	failed := make(chan error, 1)
	loops.Go(func() { failed <- p.file.Run(ctx) })
	select {
	case err := <-failed:
		return err
	case <-first:
	}
	loops.Go(func() {
		select {
		case <-p.file.Synced():
			p.becomeReady()
		case <-ctx.Done():
		}
	})
	return nil
}
