package stack

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func newStack(t *testing.T) *Stack {
	t.Helper()
	s, err := New(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Kill(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func shell(name, script string) Spec {
	return Spec{Name: name, Path: "/bin/sh", Args: []string{"-c", script}}
}

func start(t *testing.T, s *Stack, spec Spec) *Process {
	t.Helper()
	p, err := s.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// eventually awaits a condition that needs no reason.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	err := Await(t.Context(), what, func(context.Context) error {
		if condition() {
			return nil
		}
		return errors.New("not yet")
	})
	if err != nil {
		t.Fatal(err)
	}
}

// gone says whether no process has an id; one that nobody has reaped yet counts as gone.
func gone(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(state, "Z")
}

func pidFrom(t *testing.T, file string) int {
	t.Helper()
	var pid int
	eventually(t, file, func() bool {
		b, err := os.ReadFile(file)
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
		return err == nil && strings.HasSuffix(string(b), "\n")
	})
	return pid
}

func TestStartReturnsWhenReady(t *testing.T) {
	s := newStack(t)
	mark := filepath.Join(s.Dir(), "mark")
	spec := shell("slow", "sleep 0.1; touch "+mark+"; exec sleep 60")
	spec.Ready = func(context.Context) error {
		_, err := os.Stat(mark)
		return err
	}
	start(t, s, spec)
	if _, err := os.Stat(mark); err != nil {
		t.Error(err)
	}
}

func TestOneThatDiesBeforeItIsReadyTellsItsLastLines(t *testing.T) {
	s := newStack(t)
	spec := shell("broken", "echo no such setting: FOO >&2; exit 3")
	spec.Ready = func(context.Context) error { return errors.New("not yet") }
	began := time.Now()
	_, err := s.Start(t.Context(), spec)
	if err == nil {
		t.Fatal("it started")
	}
	for _, want := range []string{"broken ended before it was ready", "exit status 3", "no such setting: FOO"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
	if d := time.Since(began); d > awaitLimit/2 {
		t.Errorf("known after %v only", d)
	}
	if n := len(s.Processes()); n != 0 {
		t.Errorf("%d processes left in the stack", n)
	}
}

func TestOneThatNeverGetsReadyIsKilled(t *testing.T) {
	s := newStack(t)
	pidFile := filepath.Join(s.Dir(), "pid")
	spec := shell("stuck", "echo $$ >"+pidFile+"; echo loading; exec sleep 60")
	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	asked := 0
	spec.Ready = func(context.Context) error {
		if _, err := os.Stat(pidFile); err != nil {
			return err
		}
		if asked++; asked == 3 {
			giveUp()
		}
		return errors.New("still loading")
	}
	_, err := s.Start(ctx, spec)
	if err == nil || !strings.Contains(err.Error(), "stuck to be ready: still loading") {
		t.Fatalf("expected the last reason, got %v", err)
	}
	if pid := pidFrom(t, pidFile); !gone(pid) {
		t.Errorf("process %d was left", pid)
	}
}

func TestCloseLeavesNobody(t *testing.T) {
	s := newStack(t)
	start(t, s, shell("plain", "exec sleep 60"))
	stubborn := start(t, s, shell("frozen", "exec sleep 60"))
	if err := stubborn.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	grandchild := filepath.Join(s.Dir(), "grandchild")
	start(t, s, shell("parent", "sleep 60 & echo $! >"+grandchild+"; trap '' TERM; wait; wait"))
	pids := []int{pidFrom(t, grandchild)}
	for _, p := range s.Processes() {
		pids = append(pids, p.Pid())
	}

	if err := s.close(func(p *Process) error { return p.Stop(100 * time.Millisecond) }); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		eventually(t, "the end of "+strconv.Itoa(pid), func() bool { return gone(pid) })
	}
	if _, err := s.Start(t.Context(), shell("late", "exec sleep 60")); err == nil {
		t.Error("a closed stack started a process")
	}
}

func TestAnOrphanOfADeadLeaderIsKilled(t *testing.T) {
	s := newStack(t)
	grandchild := filepath.Join(s.Dir(), "grandchild")
	p := start(t, s, shell("leader", "sleep 60 & echo $! >"+grandchild))
	<-p.Done()
	pid := pidFrom(t, grandchild)
	eventually(t, "the end of the grandchild", func() bool { return gone(pid) })
}

// TestMain lets this test binary be the program that is killed, in the test below.
func TestMain(m *testing.M) {
	if file := os.Getenv("STACK_TEST_PARENT"); file != "" {
		parent(file)
	}
	os.Exit(m.Run())
}

// parent starts a child, tells its id and waits to be killed.
func parent(file string) {
	s, err := New(Options{Dir: filepath.Dir(file)})
	if err != nil {
		panic(err)
	}
	if _, err := s.Start(context.Background(), shell("child", "echo $$ >"+file+"; exec sleep 60")); err != nil {
		panic(err)
	}
	select {}
}

func TestAKilledParentLeavesNobody(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "pid")
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "STACK_TEST_PARENT="+file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	child := pidFrom(t, file)
	if gone(child) {
		t.Fatal("the child did not live")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	eventually(t, "the end of the child", func() bool { return gone(child) })
}

func TestOutput(t *testing.T) {
	s := newStack(t)
	var lines []string
	spec := shell("talker", "echo one; echo two >&2; printf three")
	spec.OnLine = func(line string) { lines = append(lines, line) }
	p := start(t, s, spec)
	<-p.Done()
	if got := strings.Join(lines, ","); got != "one,two,three" {
		t.Errorf("lines: %s", got)
	}
	if got := p.Tail(2); got != "two\nthree" {
		t.Errorf("tail: %q", got)
	}
	file, err := os.ReadFile(filepath.Join(s.Dir(), "talker.log"))
	if err != nil || string(file) != "one\ntwo\nthree" {
		t.Errorf("file: %q, %v", file, err)
	}
}

func TestOutputInMemoryIsBounded(t *testing.T) {
	s := newStack(t)
	p := start(t, s, shell("chatter", "yes a line of text | head -c 1000000; echo; echo the end"))
	<-p.Done()
	if n := len(p.out.tail); n > 2*tailBytes {
		t.Errorf("%d bytes kept", n)
	}
	if got := p.Tail(1); got != "the end" {
		t.Errorf("last line %q", got)
	}
}

func TestSignals(t *testing.T) {
	s := newStack(t)
	p := start(t, s, shell("loop", "exec sleep 60"))
	state := func() string {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(p.Pid()) + "/stat")
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		return rest[:1]
	}
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stop", func() bool { return state() == "T" })
	if err := p.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the going on", func() bool { return state() != "T" })
	if err := p.Err(); err != nil {
		t.Errorf("a running process has ended with %v", err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if p.Err() == nil || !strings.Contains(p.Err().Error(), "killed") {
		t.Errorf("ended with %v", p.Err())
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a signal to the dead gave %v", err)
	}
	if err := p.Stop(time.Second); err != nil {
		t.Errorf("stopping the dead: %v", err)
	}
}

func TestRestartKeepsArgumentsAndLog(t *testing.T) {
	s := newStack(t)
	p := start(t, s, shell("again", "echo started; exec sleep 60"))
	eventually(t, "the first line", func() bool { return p.Tail(1) == "started" })
	q, err := s.Restart(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second line", func() bool { return q.Tail(1) == "started" })
	if p.Pid() == q.Pid() || len(s.Processes()) != 1 {
		t.Errorf("pid %d after %d; %d processes", q.Pid(), p.Pid(), len(s.Processes()))
	}
	file, err := os.ReadFile(filepath.Join(s.Dir(), "again.log"))
	if err != nil || string(file) != "started\nstarted\n" {
		t.Errorf("log %q, %v", file, err)
	}
}

func TestCPUAndMemory(t *testing.T) {
	s := newStack(t)
	idle := start(t, s, shell("idle", "exec sleep 60"))
	busy := start(t, s, shell("busy", "while :; do :; done"))
	eventually(t, "200 ms of work", func() bool {
		d, err := busy.CPU()
		if err != nil {
			t.Fatal(err)
		}
		return d > 200*time.Millisecond
	})
	if d, err := idle.CPU(); err != nil || d > 100*time.Millisecond || d == 0 {
		t.Errorf("the idle one used %v, %v", d, err)
	}
	if n, err := busy.RssAnon(); err != nil || n < 4<<10 || n > 100<<20 {
		t.Errorf("a shell holds %d bytes, %v", n, err)
	}
	if err := busy.Kill(); err != nil {
		t.Fatal(err)
	}
	if d, err := busy.CPU(); err != nil || d < 190*time.Millisecond {
		t.Errorf("after the end: %v, %v", d, err)
	}
	if _, err := busy.RssAnon(); err == nil {
		t.Error("the dead hold memory")
	}
}
