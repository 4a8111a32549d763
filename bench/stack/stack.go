// Package stack runs a whole serving path on this machine: Envoy, pickers and model servers as real processes, for
// `bench run`, the end-to-end tests and the live benchmarks.
//
// Everything listens on loopback, on ports that no other stack of this machine is given, and writes into one folder.
// A start returns when the thing answers, or with an error that carries its last lines of output. Close stops all
// that was started, in reverse order, also after a failure; on Linux the kernel does it if this process is killed.
// A Stack is safe for concurrent use.
package stack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// stopGrace is how long Close waits after SIGTERM before it kills.
const stopGrace = 5 * time.Second

// Options of a Stack; the zero value is a temporary folder that Close removes.
type Options struct {
	// Dir receives configuration files and logs, one <name>.log for each process. It is made if it doesn't exist and
	// left at Close. Empty means a temporary folder, removed at Close.
	Dir string
}

// Stack is a set of processes that live and end together.
type Stack struct {
	dir       string
	temporary bool

	mu        sync.Mutex
	processes []*Process
	ports     []*heldPort
	closed    bool
}

// New returns an empty stack.
func New(o Options) (*Stack, error) {
	s := &Stack{dir: o.Dir}
	if s.dir == "" {
		dir, err := os.MkdirTemp("", "pilotfish-stack-")
		if err != nil {
			return nil, fmt.Errorf("stack folder: %w", err)
		}
		s.dir, s.temporary = dir, true
		return s, nil
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, fmt.Errorf("stack folder: %w", err)
	}
	abs, err := filepath.Abs(s.dir)
	if err != nil {
		return nil, fmt.Errorf("stack folder: %w", err)
	}
	s.dir = abs
	return s, nil
}

// Dir is the folder of configuration files and logs, as an absolute path.
func (s *Stack) Dir() string { return s.dir }

// Processes lists what was started and not removed since, in the order of starting, the dead included.
func (s *Stack) Processes() []*Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*Process(nil), s.processes...)
}

// Close stops every process, the last started first, each with SIGTERM and after five seconds SIGKILL, gives the
// ports back and removes the folder if it is temporary. It can be called again; then it does nothing.
func (s *Stack) Close() error {
	return s.close(func(p *Process) error { return p.Stop(stopGrace) })
}

// Kill is Close with SIGKILL at once.
func (s *Stack) Kill() error {
	return s.close((*Process).Kill)
}

func (s *Stack) close(stop func(*Process) error) error {
	s.mu.Lock()
	s.closed = true
	processes, ports := s.processes, s.ports
	s.processes, s.ports = nil, nil
	s.mu.Unlock()

	var errs []error
	for i := len(processes) - 1; i >= 0; i-- {
		errs = append(errs, stop(processes[i]))
	}
	for _, p := range ports {
		p.release()
	}
	if s.temporary {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

// add takes a started process into the stack. When the stack was closed meanwhile the process is killed.
func (s *Stack) add(p *Process) error {
	s.mu.Lock()
	if !s.closed {
		s.processes = append(s.processes, p)
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	return errors.Join(fmt.Errorf("%s: the stack is closed", p.Name()), p.Kill())
}

// remove forgets a process that has ended, when another takes its place.
func (s *Stack) remove(p *Process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, q := range s.processes {
		if q == p {
			s.processes = append(s.processes[:i], s.processes[i+1:]...)
			return
		}
	}
}
