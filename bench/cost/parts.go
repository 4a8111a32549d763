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

// partsRuns are the invocations of `go test -bench`. The benchmarks of pkg/prefix print CPU time beside time on the wall.
var partsRuns = [...]struct{ pkg, pattern, benchtime string }{
	{"./pkg/prefix", "^BenchmarkParseHash$/^(1KB|8KB|64KB|64KB-prose|64KB-128-blocks)$", "300ms"},
	{"./pkg/prefix", "^BenchmarkMatch$/^pods=256$", "200ms"},
	{"./pkg/prefix", "^BenchmarkMemory$/^blocks=25000$/^distinct$/^index$", "1x"},
	{"./pkg/scheduling", "^BenchmarkChoose$/^pods=256$", "300ms"},
}

// part is a figure that is made from the benchmarks' results.
type part struct {
	name, unit string
	terms      []term  // what they say is added up
	scale      float64 // from the metric to the unit
	limit      float64
	atLeast    bool
}

// term is one metric of one benchmark, without "Benchmark" and in Go's words.
type term struct{ name, metric string }

var partsWanted = [...]part{
	parseHash("1 KB chat body, every byte", "1KB", 0),
	parseHash("8 KB chat body, every byte", "8KB", 0),
	parseHash("64 KB chat body, window of 128 blocks (the default)", "64KB-128-blocks", 1),
	parseHash("64 KB of prose, every byte", "64KB-prose", 1),
	parseHash("64 KB of code, JSON and markup, every byte", "64KB", 0),
	{name: "parse and hash 64 KB: allocated", unit: "bytes", terms: []term{{"ParseHash/64KB-128-blocks", "B/op"}}, scale: 1},
	pickOf("128 blocks, a quarter of the pods has all", "blocks=128/quarter", 20),
	pickOf("128 blocks, every pod has another part", "blocks=128/staircase", 0),
	pickOf("8,192 blocks, a quarter of the pods has all", "blocks=8192/quarter", 200),
	pickOf("8,192 blocks, every pod has another part", "blocks=8192/staircase", 200),
	{name: "prefix index: memory of one (pod, block)", unit: "bytes", terms: []term{{"Memory/blocks=25000/distinct/index", "B/block"}}, scale: 1, limit: indexBudget},
}

func parseHash(what, benchmark string, atLeast float64) part {
	return part{
		name: "parse and hash: " + what, unit: "GB/CPU-s", terms: []term{{"ParseHash/" + benchmark, "cpu-GB/s"}},
		scale: 1, limit: atLeast, atLeast: true,
	}
}

func pickOf(what, benchmark string, limit float64) part {
	return part{
		name: "match and choose among 256 pods: " + what, unit: "µs",
		terms: []term{{"Match/pods=256/" + benchmark, "cpu-ns/op"}, {"Choose/pods=256", "ns/op"}},
		scale: 1e-3, limit: limit,
	}
}

// parts runs Go benchmarks and takes figures out of what they print.
func (b *bench) parts(ctx context.Context, out *Section) error {
	out.Title = "parts, by their Go benchmarks"
	for _, run := range partsRuns {
		out.Conditions = append(out.Conditions, fmt.Sprintf("go test -run '^$' -bench '%s' -benchtime %s %s", run.pattern, run.benchtime, run.pkg))
	}
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
	for _, t := range p.terms {
		values := r[t.name][t.metric]
		if len(values) == 0 {
			return Figure{}, fmt.Errorf("no benchmark printed %s of Benchmark%s", t.metric, t.name)
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
	found := results{}
	for _, run := range partsRuns {
		b.progress("parts: %s %s", run.pkg, run.pattern)
		args := []string{"test", "-run", "^$", "-bench", run.pattern, "-benchmem", "-benchtime", run.benchtime, "-count", strconv.Itoa(b.Rounds), run.pkg}
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = root
		text, err := cmd.CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, text)
		}
		found.read(text)
	}
	return found, nil
}

// read takes in lines as `go test -bench` prints them:
//
//	BenchmarkParseHash/64KB-2   	   41025	     29219 ns/op	2243.05 MB/s	       0 B/op
func (found results) read(text []byte) {
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
}
