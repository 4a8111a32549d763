package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

// What the README promises of make run: one command, a curl line that works, a line for every request, prefixes
// that are found again, and nothing left after Ctrl-C.
func TestRunServesUntilInterrupted(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("there is no curl to try the printed line with")
	}
	binaries := t.TempDir()
	for _, pkg := range []string{"./cmd/epp", "./bench"} {
		if _, err := stack.Build(t.Context(), binaries, pkg); err != nil {
			t.Fatal(err)
		}
	}
	matched := regexp.MustCompile(` [1-9]\d*/\d+ blocks .*engine-\d`)
	for _, profile := range []string{"lean", "full-duplex"} {
		t.Run(profile, func(t *testing.T) {
			r := startRun(t, binaries, profile)
			line := r.await(`^ +(curl .*)`)
			r.await("^settings ")
			if first := r.request(line); matched.MatchString(first) {
				t.Errorf("the first request found its prompt somewhere: %s", first)
			}
			err := stack.Await(t.Context(), "a request that finds the prompt of those before", func(context.Context) error {
				if decision := r.request(line); !matched.MatchString(decision) {
					return errors.New(decision)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			r.interrupt()
		})
	}
}

// liveRun is a `bench run` under way.
type liveRun struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string
	seen  []string
}

func startRun(t *testing.T, binaries, profile string) *liveRun {
	t.Helper()
	env := append(os.Environ(), "PROFILE="+profile, "TMPDIR="+t.TempDir())
	ports, err := stack.New(stack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ports.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, variable := range []string{"GATEWAY_PORT", "GRPC_PORT", "GRPC_HEALTH_PORT", "METRICS_PORT", "ENVOY_ADMIN_PORT"} {
		port, err := ports.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		env = append(env, fmt.Sprintf("%s=%d", variable, port))
	}

	r := &liveRun{t: t, cmd: exec.Command(filepath.Join(binaries, "bench"), "run"), lines: make(chan string, 1000)}
	r.cmd.Env = env
	out, in := io.Pipe()
	r.cmd.Stdout, r.cmd.Stderr = in, in
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.cmd.Process.Kill() }) // it has ended when all went well
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			r.lines <- s.Text()
		}
	}()
	return r
}

// request runs the printed line and returns the picker's line about it.
func (r *liveRun) request(line string) string {
	r.t.Helper()
	out, err := exec.CommandContext(r.t.Context(), "/bin/sh", "-c", line).CombinedOutput()
	if err != nil || !strings.Contains(string(out), `"chat.completion"`) {
		r.t.Fatalf("%s\ngave %v\n%s", line, err, out)
	}
	return r.await(`(.* sim .* blocks .*)`)
}

// await reads lines until one matches, and returns its first group.
func (r *liveRun) await(pattern string) string {
	r.t.Helper()
	re := regexp.MustCompile(pattern)
	limit := time.After(time.Minute)
	for {
		select {
		case line := <-r.lines:
			r.seen = append(r.seen, line)
			if m := re.FindStringSubmatch(line); m != nil {
				return m[len(m)-1]
			}
		case <-limit:
			r.t.Fatalf("no line matches %s in\n%s", pattern, strings.Join(r.seen, "\n"))
		}
	}
}

// interrupt does what Ctrl-C does, and looks for what is left.
func (r *liveRun) interrupt() {
	r.t.Helper()
	children := r.children()
	if len(children) != simulatedEngines+2 {
		r.t.Errorf("%d processes run: %v", len(children), children)
	}
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		r.t.Fatal(err)
	}
	if err := r.cmd.Wait(); err != nil {
		r.t.Errorf("it ended with %v", err)
	}
	for _, child := range children {
		err := stack.Await(r.t.Context(), "the end of "+child, func(context.Context) error {
			if _, err := os.Stat(child); err == nil {
				return fmt.Errorf("%s is still there", child)
			}
			return nil
		})
		if err != nil {
			r.t.Error(err)
		}
	}
}

// children are the /proc folders of the processes that the run has started.
func (r *liveRun) children() []string {
	r.t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		r.t.Fatal(err)
	}
	parent := fmt.Sprintf("PPid:\t%d\n", r.cmd.Process.Pid)
	var children []string
	for _, proc := range all {
		status, err := os.ReadFile(filepath.Join(proc, "status"))
		if err == nil && strings.Contains(string(status), parent) {
			children = append(children, proc)
		}
	}
	return children
}
