package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
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
	binaries := buildBoth(t)
	matched := regexp.MustCompile(` [1-9]\d*/\d+ blocks .*engine-\d`)
	for _, profile := range []string{"lean", "full-duplex"} {
		t.Run(profile, func(t *testing.T) {
			r := startRun(t, binaries, "PROFILE="+profile)
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
			r.interrupt(simulatedEngines + 2)
		})
	}
}

// A setting that the picker refuses is told before anything starts.
func TestRunChecksSettingsFirst(t *testing.T) {
	r := startRun(t, buildBoth(t), "PREFIX_CACHE_HASH_BLOCK_SIZE=0", "QUEUE_TTL=soon")
	for _, want := range []string{"PREFIX_CACHE_HASH_BLOCK_SIZE: ", "QUEUE_TTL: "} {
		r.await(want)
	}
	if err := r.cmd.Wait(); err == nil {
		t.Error("it did not fail")
	}
	if seen := strings.Join(r.seen, "\n"); strings.Contains(seen, "starting") {
		t.Errorf("something was started:\n%s", seen)
	}
}

// A server of one's own need not know /v1/models: that it answers is enough, and what it said is told. What the picker
// warns of is shown, too.
func TestRunTakesAnyAnswerOfAServer(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	file := filepath.Join(t.TempDir(), "servers.yaml")
	addr := server.Listener.Addr().(*net.TCPAddr).AddrPort()
	if err := stack.WriteEndpoints(file, stack.At("own", addr)); err != nil {
		t.Fatal(err)
	}
	r := startRun(t, buildBoth(t), "ENDPOINTS="+file)
	r.await("Send requests to ")
	r.await("names no model: GET http://.*/v1/models gave 404 Not Found, `404 page not found`")
	r.await(`curl .*"model":"MODEL"`)
	warning := "level=WARN .*metrics page can't be read.*pod=own"
	if !regexp.MustCompile(warning).MatchString(strings.Join(r.seen, "\n")) { // it comes before or after
		r.await(warning)
	}
	r.interrupt(2)
}

func buildBoth(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, pkg := range []string{"./cmd/epp", "./bench"} {
		if _, err := stack.Build(t.Context(), dir, pkg); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// liveRun is a `bench run` under way.
type liveRun struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string
	seen  []string
}

func startRun(t *testing.T, binaries string, variables ...string) *liveRun {
	t.Helper()
	env := append(os.Environ(), "TMPDIR="+t.TempDir())
	env = append(env, variables...)
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

// interrupt does what Ctrl-C does, once that many processes were seen, and looks for what is left.
func (r *liveRun) interrupt(processes int) {
	r.t.Helper()
	children := r.children()
	if len(children) != processes {
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
