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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// Once the first signal has come, the second has its usual effect: it ends the process at once.
	context.AfterFunc(ctx, stop)
	if err := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "epp:", err)
		os.Exit(1)
	}
}
