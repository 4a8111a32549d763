package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Spec says what to start.
type Spec struct {
	Name string   // names the process in errors and its log file; unique within a stack
	Path string   // the binary
	Args []string // without the binary's name
	Env  []string // the whole environment, KEY=value; nil means this process's own

	// OnLine, if set, is called with every line of output as it comes, from one goroutine at a time.
	OnLine func(line string)
	// Ready, if set, is asked every 20 ms until it returns nil. Start returns then.
	Ready func(context.Context) error
}

// Process is a started program, alone in its process group, so that a signal reaches its children too and a Ctrl-C in the
// terminal does not. Safe for concurrent use.
type Process struct {
	spec Spec
	cmd  *exec.Cmd
	out  *output
	done chan struct{} // closed when the process has ended and its output is read

	mu     sync.Mutex
	reaped bool
	err    error // of Wait; read it after done
}

// Start starts a process and waits until it is ready. Without a deadline on ctx readiness is awaited for 30 s. On an
// error nothing is left running. The context bounds the start alone, not the process's life.
func (s *Stack) Start(ctx context.Context, spec Spec) (*Process, error) {
	p, err := s.launch(spec)
	if err != nil {
		return nil, err
	}
	if spec.Ready == nil {
		return p, nil
	}
	if err := p.await(ctx, "ready", spec.Ready); err != nil {
		_ = p.Kill()
		s.remove(p)
		return nil, err
	}
	return p, nil
}

func (s *Stack) launch(spec Spec) (*Process, error) {
	file, err := os.OpenFile(filepath.Join(s.dir, spec.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("%s: log: %w", spec.Name, err)
	}
	p := &Process{
		spec: spec,
		cmd:  exec.Command(spec.Path, spec.Args...),
		out:  &output{file: file, onLine: spec.OnLine},
		done: make(chan struct{}),
	}
	p.cmd.Env = spec.Env
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.SysProcAttr = ownGroup()
	p.cmd.WaitDelay = time.Second // a grandchild that keeps the pipe open must not keep Wait from returning
	if err := p.cmd.Start(); err != nil {
		p.out.close()
		return nil, fmt.Errorf("%s: %w", spec.Name, err)
	}
	go p.reap()
	if err := s.add(p); err != nil {
		return nil, err
	}
	return p, nil
}

// reap waits for the end and then kills what the process left behind in its group. That happens before its id is
// given back to the system, so that no signal can reach a stranger.
func (p *Process) reap() {
	if awaitExit(p.cmd.Process.Pid) {
		p.mu.Lock()
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		p.reaped = true
		p.mu.Unlock()
	}
	err := p.cmd.Wait()
	p.mu.Lock()
	p.reaped = true
	p.mu.Unlock()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	p.err = err
	p.out.close()
	close(p.done)
}

// Name is the name given at the start.
func (p *Process) Name() string { return p.spec.Name }

// Pid is the process's id, and that of its group.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says how the process ended: nil for status 0 and while it runs, otherwise an *exec.ExitError.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Tail returns the last n lines of output; about the last 64 KB are kept. All of it is in <name>.log.
func (p *Process) Tail(n int) string { return p.out.last(n) }

// Signal sends a signal to the process's group: SIGSTOP freezes, SIGCONT thaws. A process that has ended gives os.ErrProcessDone.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return os.ErrProcessDone
	}
	if err := syscall.Kill(-p.cmd.Process.Pid, sig); err != nil {
		return fmt.Errorf("%s: signal %v: %w", p.Name(), sig, err)
	}
	return nil
}

// Kill sends SIGKILL and waits for the end. One that has ended already is no error.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.done
	return nil
}

// Stop sends SIGTERM, waits up to grace, and then kills. One that is frozen is killed after grace too.
func (p *Process) Stop(grace time.Duration) error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(grace):
		return p.Kill()
	}
}

// restartGrace is above the picker's default SHUTDOWN_GRACE, so that a restart under load lets answers finish.
const restartGrace = 40 * time.Second

// Restart ends a process with SIGTERM, waits up to 40 s for it before it kills, and starts it again with the same
// arguments, ports and log. It returns the new process once that is ready.
func (s *Stack) Restart(ctx context.Context, p *Process) (*Process, error) {
	if err := p.Stop(restartGrace); err != nil {
		return nil, err
	}
	s.remove(p)
	return s.Start(ctx, p.spec)
}

// await polls a condition and gives up early when the process has ended.
func (p *Process) await(ctx context.Context, what string, condition func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-p.done:
			cancel(errEnded)
		case <-ctx.Done():
		}
	}()
	err := Await(ctx, p.Name()+" to be "+what, condition)
	if err == nil {
		return nil
	}
	if errors.Is(context.Cause(ctx), errEnded) {
		return fmt.Errorf("%s ended before it was %s (%s); its last lines:\n%s", p.Name(), what, exitText(p.Err()), p.Tail(20))
	}
	return fmt.Errorf("%w; its last lines:\n%s", err, p.Tail(20))
}

var errEnded = errors.New("the process ended")

func exitText(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// awaitLimit bounds a wait whose context has no deadline.
const awaitLimit = 30 * time.Second

// Await asks for a condition every 20 ms until it returns nil. It ends with the context, or after 30 s if that has no
// deadline; the error names what was awaited and the last reason why it was not there.
func Await(ctx context.Context, what string, condition func(context.Context) error) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, awaitLimit)
		defer cancel()
	}
	start := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := condition(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err // the reason, not that asking was cut short
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %v for %s: %w", time.Since(start).Round(time.Millisecond), what, last)
		case <-tick.C:
		}
	}
}
