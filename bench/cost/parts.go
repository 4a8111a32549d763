package cost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

// partsPackages have the benchmarks, and partsPattern names those that are wanted.
var partsPackages = [...]string{"./pkg/prefix", "./pkg/scheduling"}

const partsPattern = "^(BenchmarkParseHash|BenchmarkMatch|BenchmarkChoose|BenchmarkMemory)$"

// part is a figure that is made from the benchmarks' results.
type part struct {
	name, unit string
	names      []string // of benchmarks, without "Benchmark"; what they say is added up
	metric     string   // in Go's words
	scale      float64  // from the metric to the unit
	limit      float64
	atLeast    bool
}

var partsWanted = [...]part{
	{name: "parse and hash a 1 KB chat body, every byte", unit: "MB/s", names: []string{"ParseHash/1KB"}, metric: "MB/s", scale: 1},
	{name: "parse and hash an 8 KB chat body, every byte", unit: "MB/s", names: []string{"ParseHash/8KB"}, metric: "MB/s", scale: 1},
	{name: "parse and hash a 64 KB chat body, every byte", unit: "MB/s", names: []string{"ParseHash/64KB"}, metric: "MB/s", scale: 1, limit: 1000, atLeast: true},
	{name: "its allocations", unit: "bytes", names: []string{"ParseHash/64KB"}, metric: "B/op", scale: 1},
	{name: "pick among 256 pods, 128 blocks: match and choose", unit: "µs", names: []string{"Match/pods=256/blocks=128", "Choose/pods=256"}, metric: "ns/op", scale: 1e-3, limit: 20},
	{name: "pick among 256 pods, 8,192 blocks: match and choose", unit: "µs", names: []string{"Match/pods=256/blocks=8192", "Choose/pods=256"}, metric: "ns/op", scale: 1e-3, limit: 200},
	{name: "prefix index, memory of one (pod, block)", unit: "bytes", names: []string{"Memory/index"}, metric: "B/block", scale: 1, limit: 64},
}

// parts runs Go benchmarks and takes figures out of what they print.
func (b *bench) parts(ctx context.Context, out *Section) error {
	out.Title = "parts, by their Go benchmarks"
	out.Conditions = []string{"go test -run '^$' -bench '" + partsPattern + "' " + strings.Join(partsPackages[:], " ")}
	b.progress("parts: go test -bench")
	results, err := b.goBench(ctx)
	if err != nil {
		return err
	}
	var missing []error
	for _, p := range partsWanted {
		f, err := p.figure(results)
		if err != nil {
			missing = append(missing, err)
			continue
		}
		out.Figures = append(out.Figures, f)
	}
	return errors.Join(missing...)
}

// results are the metrics of benchmarks, by name and unit, a value for each run.
type results map[string]map[string][]float64

func (p *part) figure(r results) (Figure, error) {
	var sum []float64
	for _, name := range p.names {
		values := r[name][p.metric]
		if len(values) == 0 {
			return Figure{}, fmt.Errorf("no benchmark printed %s of Benchmark%s", p.metric, name)
		}
		if sum == nil {
			sum = make([]float64, len(values))
		}
		for i := range sum {
			sum[i] += values[min(i, len(values)-1)] * p.scale
		}
	}
	f := Figure{Case: p.name, Unit: p.unit, Value: spread(sum)}
	switch {
	case p.limit == 0:
	case p.atLeast:
		f.atLeast(p.limit)
	default:
		f.limit(p.limit)
	}
	return f, nil
}

func (b *bench) goBench(ctx context.Context) (results, error) {
	root, err := stack.Root()
	if err != nil {
		return nil, err
	}
	each := "500ms"
	if b.Quick {
		each = "50ms"
	}
	args := []string{"test", "-run", "^$", "-bench", partsPattern, "-benchmem", "-benchtime", each, "-count", strconv.Itoa(b.Rounds)}
	cmd := exec.CommandContext(ctx, "go", append(args, partsPackages[:]...)...)
	cmd.Dir = root
	text, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, text)
	}
	return readBenchmarks(text), nil
}

// readBenchmarks reads lines as `go test -bench` prints them:
//
//	BenchmarkParseHash/64KB-2   	   41025	     29219 ns/op	2243.05 MB/s	       0 B/op
func readBenchmarks(text []byte) results {
	found := results{}
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(f[0], "Benchmark")
		if i := strings.LastIndexByte(name, '-'); i >= 0 { // the number of processors
			name = name[:i]
		}
		if found[name] == nil {
			found[name] = map[string][]float64{}
		}
		for i := 2; i+1 < len(f); i += 2 {
			if v, err := strconv.ParseFloat(f[i], 64); err == nil {
				found[name][f[i+1]] = append(found[name][f[i+1]], v)
			}
		}
	}
	return found
}
