package main

import (
	"crypto/tls"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"google.golang.org/grpc/credentials"
)

// asMain makes the test's binary the program itself, so that signals and exit codes can be tested.
const asMain = "EPP_TEST_RUN_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestASignalEndsThePickerWithExitCode0(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		p, process := startProcess(t)
		if err := process.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if err := p.wait(t); err != nil {
			t.Errorf("%v: %v", signal, err)
		}
	}
}

func TestASecondSignalEndsThePickerAtOnce(t *testing.T) {
	p, process := startProcess(t)
	stream := open(t, p.dial(t, p.extproc, credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))
	route(t, stream, `{"model":"chat","prompt":"x"}`) // keeps it for SHUTDOWN_GRACE, 30 s
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.eventually(t, "not ready", func() bool { return p.status(t, "/readyz") == 503 })
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := p.wait(t); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("ended with %v, want the signal's usual effect", err)
	}
}

func TestABadStartHasExitCode1(t *testing.T) {
	process := exec.Command(os.Args[0], "--grpc-prot", "1")
	process.Env = append(os.Environ(), asMain+"=1")
	out, err := process.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || string(out) != "epp: unknown flag --grpc-prot: did you mean --grpc-port?\n" {
		t.Errorf("%v: %s", err, out)
	}
}

// startProcess starts the picker as a process of its own.
func startProcess(t *testing.T) (*running, *exec.Cmd) {
	t.Helper()
	p := &running{ended: make(chan struct{}), stop: func() {}}
	process := exec.Command(os.Args[0], "serve", "--endpoints", newEngine(t).file(t))
	process.Env = append(append(os.Environ(), asMain+"=1"), loopback()...)
	process.Stdout, process.Stderr = &p.out, &p.err
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		p.result = process.Wait()
	}()
	t.Cleanup(func() {
		_ = process.Process.Kill() // it has ended, if the test went well
		<-p.ended
	})
	p.eventually(t, "a line that tells the ports", p.readPorts)
	return p, process
}
