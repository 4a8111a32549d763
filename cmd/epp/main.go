// Command epp is the endpoint picker: for every inference request that a gateway asks about, it answers with the pod
// that should serve it.
//
// epp and epp serve run it, epp settings prints every setting, epp version tells the build. This package wires the
// rooms together and knows no policy; what it does is in run, which a test calls like any other function.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	endOnSignals(cancel)
	if err := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "epp:", err)
		os.Exit(1)
	}
}

// endOnSignals calls cancel at the first signal, and gives the second its usual effect: it ends the process at once.
func endOnSignals(cancel func()) {
	signals := make(chan os.Signal, 2) // two, so that none is lost
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		second := <-signals
		signal.Reset()
		_ = syscall.Kill(os.Getpid(), second.(syscall.Signal)) // one may always send oneself a signal
	}()
}
