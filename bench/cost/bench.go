package cost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

// Options of a run.
type Options struct {
	Only   []string // sections, of Names; empty means all
	Rounds int      // turns of all variants; 0 means 5, or 2 with Quick
	Quick  bool     // an eighth of the work: to see that it runs, not to quote
	Binary string   // the picker; empty means to build ./cmd/epp
	Others []string // other builds of the picker, as NAME=PATH, measured beside it in the stream section
	Env    []string // settings of the picker beside those of the measurement, KEY=value; the later one counts

	// Profiles, if set, is a folder for CPU profiles of the picker, one for each case of the stream section, taken in an
	// extra round whose figures don't count.
	Profiles string

	// Self is the command that runs Child with the arguments added to it; needed.
	Self []string
	// Progress, if set, is told what is being measured, a line at a time.
	Progress io.Writer
}

// Names lists the sections in the order in which they are measured.
func Names() []string {
	names := make([]string, len(sections))
	for i, s := range sections {
		names[i] = s.name
	}
	return names
}

var sections = [...]struct {
	name string
	run  func(*bench, context.Context, *Section) error
}{
	{"stream", (*bench).stream},
	{"path", (*bench).path},
	{"scrape", (*bench).scrape},
	{"memory", (*bench).memory},
	{"parts", (*bench).parts},
}

// bench is one run.
type bench struct {
	Options
	self []string
	dir  string // of what is built; removed at the end
}

// Run measures. A section that can't be measured says so in the report, and the others go on; the error is for what
// concerns all of them.
func Run(ctx context.Context, o Options) (*Report, error) {
	for _, name := range o.Only {
		if !slices.Contains(Names(), name) {
			return nil, fmt.Errorf("no section %q: expected some of %s", name, strings.Join(Names(), ", "))
		}
	}
	if o.Rounds <= 0 {
		o.Rounds = 5
		if o.Quick {
			o.Rounds = 2
		}
	}
	dir, err := os.MkdirTemp("", "pilotfish-cost-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	start := time.Now()
	b := &bench{Options: o, self: o.Self, dir: dir}
	r := &Report{Machine: thisMachine(ctx)}
	for _, s := range sections {
		if len(o.Only) > 0 && !slices.Contains(o.Only, s.name) {
			continue
		}
		section := Section{Name: s.name}
		err := s.run(b, ctx, &section)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			section.Err = err.Error()
		}
		r.Sections = append(r.Sections, section)
	}
	r.Seconds = time.Since(start).Seconds()
	r.Machine.LoadEnd = loadAverage()
	return r, nil
}

func (b *bench) progress(format string, args ...any) {
	if b.Progress != nil {
		fmt.Fprintf(b.Progress, format+"\n", args...)
	}
}

// some is a count of things to do, scaled down with Quick.
func (b *bench) some(n int) int {
	if b.Quick {
		return max(n/8, 1)
	}
	return n
}

// picker gives the picker's binary.
func (b *bench) picker(ctx context.Context) (string, error) {
	if b.Binary != "" {
		return filepath.Abs(b.Binary)
	}
	binary, err := stack.Build(ctx, b.dir, "./cmd/epp")
	b.Binary = binary
	return binary, err
}

// startPicker starts a picker over pods, in plaintext and with PREFIX_CACHE. Its health is SERVING when this returns.
func (b *bench) startPicker(ctx context.Context, s *stack.Stack, name string, pods []netip.AddrPort, env ...string) (*stack.Picker, error) {
	binary, err := b.picker(ctx)
	if err != nil {
		return nil, err
	}
	return b.startBuild(ctx, s, binary, name, pods, env...)
}

// startBuild is startPicker for a given binary.
func (b *bench) startBuild(ctx context.Context, s *stack.Stack, binary, name string, pods []netip.AddrPort, env ...string) (*stack.Picker, error) {
	file := filepath.Join(s.Dir(), name+"-endpoints.yaml")
	endpoints := make([]stack.Endpoint, len(pods))
	for i, addr := range pods {
		endpoints[i] = stack.At(fmt.Sprintf("pod-%d", i), addr)
	}
	if err := stack.WriteEndpoints(file, endpoints...); err != nil {
		return nil, err
	}
	all := append([]string{"SECURE_SERVING=false", "ROUTING_STRATEGY=PREFIX_CACHE"}, env...)
	return s.Picker(ctx, stack.PickerOptions{Name: name, Binary: binary, EndpointsFile: file, Env: append(all, b.Env...)})
}

// onStack runs f with a stack that is closed afterwards.
func onStack(f func(s *stack.Stack) error) (err error) {
	s, err := stack.New(stack.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return f(s)
}

// spent runs f and returns the CPU time that each of the processes took meanwhile, up to a moment after.
func spent(f func() error, processes ...*stack.Process) ([]time.Duration, error) {
	before, err := cpu(processes)
	if err != nil {
		return nil, err
	}
	if err := f(); err != nil {
		return nil, err
	}
	time.Sleep(20 * time.Millisecond) // for what ends after the last byte: streams being closed, logs being written
	after, err := cpu(processes)
	if err != nil {
		return nil, err
	}
	for i := range after {
		after[i] -= before[i]
	}
	return after, nil
}

func cpu(processes []*stack.Process) ([]time.Duration, error) {
	used := make([]time.Duration, len(processes))
	for i, p := range processes {
		d, err := p.CPU()
		if err != nil {
			return nil, err
		}
		used[i] = d
	}
	return used, nil
}

// inTurn calls f for every variant, each round starting with another, so that none always comes first.
func inTurn[V any](rounds int, variants []V, f func(round int, v V) error) error {
	for round := range rounds {
		for i := range variants {
			if err := f(round, variants[(i+round)%len(variants)]); err != nil {
				return err
			}
		}
	}
	return nil
}

func micros(d time.Duration, n int) float64 { return float64(d.Nanoseconds()) / 1e3 / float64(n) }
