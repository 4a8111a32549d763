package cost

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

// streamSizes are the bodies of the stream section: KB of a chat body, and streams of it in each turn.
var streamSizes = [...]struct{ kb, streams int }{{1, 16000}, {8, 12000}, {64, 5000}}

// streamPods are the sizes of the pools. The budgets hold for budgetPods, and for the growth from the first to the last.
var streamPods = [...]int{8, 64, 256}

const (
	budgetPods   = 64
	streamBudget = 1.0
	growthBudget = 1.15
)

// streamServer is a server under measurement, with a driver for each size of body.
type streamServer struct {
	*stack.Process
	picker  *stack.Picker // nil: the reference
	build   string        // name of another build
	pods    int
	drivers []*driver
	samples [][]float64 // CPU-µs a stream, by size
}

// stream measures whole ext_proc streams at the picker, beside those at a server that only echoes.
func (b *bench) stream(ctx context.Context, out *Section) error {
	out.Title = "CPU of the server for one whole ext_proc stream, gRPC plaintext on loopback, no Envoy"
	out.Conditions = []string{
		"FULL_DUPLEX_STREAMED both ways, chat body in, JSON answer of 400 bytes; messages as Envoy 1.40 sends them",
		fmt.Sprintf("%d streams at a time on %d connections; PREFIX_CACHE; every pod's metrics page read each second", lanes, connections),
		"naive: grpc-go with go-control-plane's types; names a fixed pod and sends the same messages back",
	}
	pods, err := newPods(streamPods[len(streamPods)-1], 2<<10)
	if err != nil {
		return err
	}
	defer pods.Close()
	return onStack(func(s *stack.Stack) error {
		servers, err := b.streamServers(ctx, s, pods)
		if err != nil {
			return err
		}
		defer closeDrivers(servers)
		if err := b.streamRounds(ctx, servers); err != nil {
			return err
		}
		out.Figures = streamFigures(servers)
		return b.streamProfiles(ctx, servers)
	})
}

func (b *bench) streamServers(ctx context.Context, s *stack.Stack, pods *pods) ([]*streamServer, error) {
	var bodies []*chats
	for _, size := range streamSizes {
		bodies = append(bodies, newChats(1, size.kb<<10, 128, false))
	}
	var servers []*streamServer
	add := func(server *streamServer, addr string) error {
		server.samples = make([][]float64, len(streamSizes))
		servers = append(servers, server)
		for _, supply := range bodies {
			d, err := newDriver(addr, supply)
			if err != nil {
				return err
			}
			server.drivers = append(server.drivers, d)
		}
		return nil
	}
	addrs := pods.Addrs()
	naive, err := b.startChild(ctx, s, "naive", "echo", addrs[0].String())
	if err != nil {
		return nil, err
	}
	if err := add(&streamServer{Process: naive.Process}, naive.addrs[0].String()); err != nil {
		return servers, err
	}
	env := []string{"REFRESH_METRICS_INTERVAL=1s"}
	if b.Profiles != "" {
		env = append(env, "DEBUG_ENDPOINTS=true")
	}
	addPicker := func(build, binary string, n int) error {
		p, err := b.startBuild(ctx, s, binary, fmt.Sprintf("picker%s-%d", build, n), addrs[:n], env...)
		if err != nil {
			return err
		}
		return add(&streamServer{Process: p.Process, picker: p, build: build, pods: n}, p.GRPC.String())
	}
	binary, err := b.picker(ctx)
	if err != nil {
		return servers, err
	}
	for _, n := range streamPods {
		if err := addPicker("", binary, n); err != nil {
			return servers, err
		}
	}
	return servers, b.addOthers(addPicker)
}

// addOthers starts the other builds, each with as many pods as the budget is for, and with the most.
func (b *bench) addOthers(add func(name, binary string, pods int) error) error {
	for _, other := range b.Others {
		name, binary, ok := strings.Cut(other, "=")
		if !ok {
			return fmt.Errorf("another build: expected NAME=PATH, got %q", other)
		}
		binary, err := filepath.Abs(binary)
		if err != nil {
			return err
		}
		for _, n := range []int{budgetPods, streamPods[len(streamPods)-1]} {
			if err := add(name, binary, n); err != nil {
				return err
			}
		}
	}
	return nil
}

func closeDrivers(servers []*streamServer) {
	for _, s := range servers {
		for _, d := range s.drivers {
			d.Close()
		}
	}
}

func (b *bench) streamRounds(ctx context.Context, servers []*streamServer) error {
	for _, s := range servers {
		for i, size := range streamSizes {
			if _, err := s.drivers[i].run(ctx, b.some(size.streams)/2); err != nil {
				return fmt.Errorf("%s: %w\n%s", s.Name(), err, s.Tail(5))
			}
		}
	}
	for i, size := range streamSizes {
		n := b.some(size.streams)
		err := inTurn(b.Rounds, servers, func(round int, s *streamServer) error {
			var took time.Duration
			used, err := spent(func() (err error) {
				took, err = s.drivers[i].run(ctx, n)
				return err
			}, s.Process)
			if err != nil {
				return fmt.Errorf("%s: %w\n%s", s.Name(), err, s.Tail(5))
			}
			s.samples[i] = append(s.samples[i], micros(used[0], n))
			b.progress("stream %2d KB round %d %-10s %6.1f CPU-µs a stream, %5.0f streams/s", size.kb, round+1, s.Name(), micros(used[0], n), float64(n)/took.Seconds())
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// streamProfiles drives each picker for some seconds more while it profiles itself.
func (b *bench) streamProfiles(ctx context.Context, servers []*streamServer) error {
	if b.Profiles == "" {
		return nil
	}
	for _, s := range servers[1:] {
		for i, size := range streamSizes {
			file := filepath.Join(b.Profiles, fmt.Sprintf("stream-%dkb-%dpods.pprof", size.kb, s.pods))
			b.progress("stream profile %s", file)
			if err := profile(ctx, s.picker, file, func() error {
				_, err := s.drivers[i].run(ctx, size.streams)
				return err
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// profile calls work over and over while a picker writes a CPU profile.
func profile(ctx context.Context, p *stack.Picker, file string, work func() error) error {
	type result struct {
		page []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		page, err := get(ctx, "http://"+p.Metrics.String()+"/debug/pprof/profile?seconds=4")
		done <- result{page, err}
	}()
	for {
		if err := work(); err != nil {
			return err
		}
		select {
		case r := <-done:
			if r.err != nil {
				return r.err
			}
			return os.WriteFile(file, r.page, 0o644)
		default:
		}
	}
}

func streamFigures(servers []*streamServer) []Figure {
	var figures []Figure
	const unit = "CPU-µs/stream"
	naive, first, last := servers[0], servers[1], servers[len(streamPods)]
	for i, size := range streamSizes {
		reference := fmt.Sprintf("naive, %d KB", size.kb)
		figures = append(figures, Figure{Case: reference, Unit: unit, Value: spread(naive.samples[i])})
		for _, s := range servers[1:] {
			f := Figure{Case: fmt.Sprintf("picker%s, %d KB, %d pods", s.build, size.kb, s.pods), Unit: unit, Value: spread(s.samples[i])}
			f.against(reference, s.samples[i], naive.samples[i])
			if s.build != "" {
				j := slices.IndexFunc(servers, func(ours *streamServer) bool { return ours.build == "" && ours.pods == s.pods })
				f.Note = fmt.Sprintf("%.3f of the picker", spread(ratios(s.samples[i], servers[j].samples[i])).Median)
			} else if s.pods == budgetPods {
				f.limitRatio(streamBudget)
			}
			figures = append(figures, f)
		}
		growth := Figure{Case: fmt.Sprintf("picker, %d KB, growth from %d to %d pods", size.kb, first.pods, last.pods), Unit: "ratio"}
		growth.Value = spread(ratios(last.samples[i], first.samples[i]))
		growth.limit(growthBudget)
		figures = append(figures, growth)
	}
	return figures
}
