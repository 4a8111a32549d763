// Package e2e tests the whole serving path as users have it: clients, a real Envoy with the profiles of deploy/envoy,
// the built picker, and simulated model servers, each a process of its own on 127.0.0.1.
//
// A test stands for a promise to users and reads as one: it builds a site, does something to it while requests run, and
// looks at what clients, the model servers, Envoy and the picker each say of it. Nothing waits for a fixed time.
// Without an Envoy, a Go or a Python these tests fail: they are not skipped. The whole package takes minutes, so
// `go test -run` is the way to one of them.
package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

// epp is the picker's binary, built once by TestMain.
var epp string

func TestMain(m *testing.M) {
	if spec, ok := os.LookupEnv(engineSpec); ok {
		os.Exit(serveEngine(spec)) // this process is a model server of a test
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "pilotfish-e2e-")
	if err != nil {
		return fail(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	envoy, err := stack.EnvoyBinary(ctx)
	if err != nil {
		return fail(err)
	}
	// So that it is looked for once. And the picker is built as it is shipped.
	for name, value := range map[string]string{"ENVOY": envoy, "CGO_ENABLED": "0"} {
		if err := os.Setenv(name, value); err != nil {
			return fail(err)
		}
	}
	if epp, err = stack.Build(ctx, dir, "./cmd/epp"); err != nil {
		return fail(err)
	}
	return m.Run()
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "e2e:", err)
	return 1
}
