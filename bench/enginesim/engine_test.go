package enginesim

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestBlocksAreNeverLostOrShared drives an engine at random and checks after every move that each block is either free
// or held by those who list it, that everything in the table can be found, and that all requests end.
func TestBlocksAreNeverLostOrShared(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e, err := NewEngine(Config{
			Profile: Profile{
				Steps:            StepModel{Base: 1},
				KVTokens:         BlockTokens * rapid.IntRange(8, 40).Draw(t, "blocks"),
				MaxBatchedTokens: rapid.IntRange(8, 200).Draw(t, "budget"), MaxSeqs: rapid.IntRange(1, 8).Draw(t, "seqs"),
			},
			MaxAdapters: rapid.IntRange(0, 2).Draw(t, "adapters"),
		})
		if err != nil {
			t.Fatal(err)
		}
		var all []*Request
		now := time.Duration(0)
		for range rapid.IntRange(1, 80).Draw(t, "moves") {
			switch rapid.IntRange(0, 5).Draw(t, "move") {
			case 0, 1:
				r := anyRequest(t)
				if e.Submit(now, r) == nil {
					all = append(all, r)
				}
			case 2:
				if len(all) > 0 {
					e.Abort(rapid.SampledFrom(all).Draw(t, "aborted"))
				}
			default:
				if due, ok := e.Next(); ok {
					now = due
					e.Step(due)
				}
			}
			checkBlocks(t, e)
		}
		for range 100_000 {
			due, ok := e.Next()
			if !ok {
				break
			}
			e.Step(due)
		}
		checkBlocks(t, e)
		for _, r := range all {
			if r.phase != finished && r.phase != aborted {
				t.Fatalf("a request never ended: %+v", r)
			}
			if r.phase == finished && r.Generated != r.OutputTokens {
				t.Fatalf("a request made %d of %d tokens", r.Generated, r.OutputTokens)
			}
		}
		if e.kv.free != e.usable {
			t.Fatalf("%d of %d blocks are free in the end", e.kv.free, e.usable)
		}
	})
}

func anyRequest(t *rapid.T) *Request {
	r := &Request{
		PromptTokens: rapid.IntRange(1, 200).Draw(t, "prompt"),
		OutputTokens: rapid.IntRange(1, 60).Draw(t, "output"),
		Adapter:      rapid.SampledFrom([]string{"", "x", "y", "z"}).Draw(t, "adapter"),
	}
	// Few chains of small numbers, so that requests share heads and hashes stand close together in the table.
	chain := rapid.Uint64Range(0, 2).Draw(t, "chain")
	for i := range uint64(rapid.IntRange(0, (r.PromptTokens+r.OutputTokens)/BlockTokens).Draw(t, "named")) {
		r.Hashes = append(r.Hashes, chain<<8|i)
	}
	return r
}

func checkBlocks(t *rapid.T, e *Engine) {
	held := make([]int32, len(e.kv.pages))
	for _, r := range e.running {
		if len(r.pages) < blocksFor(r.computed) {
			t.Fatalf("%d tokens in %d blocks", r.computed, len(r.pages))
		}
		for _, id := range r.pages {
			held[id]++
		}
	}
	free := 0
	for id := e.kv.head; id != none; id = e.kv.pages[id].next {
		if e.kv.pages[id].refs != 0 {
			t.Fatalf("block %d is free and held %d times", id, e.kv.pages[id].refs)
		}
		free++
	}
	if free != e.kv.free {
		t.Fatalf("%d blocks in the queue, counted %d", free, e.kv.free)
	}
	for id, p := range e.kv.pages {
		if p.refs != held[id] {
			t.Fatalf("block %d has %d references, %d requests hold it", id, p.refs, held[id])
		}
		if p.cached && !listed(e.kv, int32(id)) {
			t.Fatalf("block %d of content %d can't be found", id, p.hash)
		}
	}
}

// listed says whether a block is among those that a search for its content leads to.
func listed(b *blocks, id int32) bool {
	for twin := b.find(b.pages[id].hash); twin != none; twin = b.pages[twin].twin {
		if twin == id {
			return true
		}
	}
	return false
}

func TestSlowdown(t *testing.T) {
	e := newBenchEngine(t, 1, 100)
	due, _ := e.Next()
	e.Step(due)
	first, _ := e.Next()
	e.SetSlowdown(3)
	e.Step(first)
	second, _ := e.Next()
	e.SetSlowdown(1)
	e.Step(second)
	third, _ := e.Next()
	if slow, normal := second-first, third-second; slow < 29*normal/10 || slow > 31*normal/10 {
		t.Errorf("a step of %v takes %v at a third of the speed", normal, slow)
	}
}

func TestConfigIsChecked(t *testing.T) {
	good, err := ProfileNamed("rtx4090-llama8b")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Profile.KVTokens = 31 }, "KV cache of 31 tokens, expected at least 32"},
		{func(c *Config) { c.Profile.MaxBatchedTokens = 0 }, "token budget of a step is 0"},
		{func(c *Config) { c.Profile.MaxSeqs = 0 }, "at most 0 sequences"},
		{func(c *Config) { c.Profile.Steps.Base = 0 }, "a step takes at least 0 ms, expected more than 0"},
		{func(c *Config) { c.MaxAdapters = -1 }, "at most -1 adapters"},
	} {
		cfg := Config{Profile: good}
		c.change(&cfg)
		if _, err := NewEngine(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
	if _, err := ProfileNamed("abacus"); err == nil || !strings.Contains(err.Error(), `got "abacus", expected one of rtx4090-llama8b,`) {
		t.Errorf("unknown profile: %v", err)
	}
}

// TestStepsAllocateNothing: what a request needs is allocated when it is submitted and admitted, steps reuse it.
func TestStepsAllocateNothing(t *testing.T) {
	e := newBenchEngine(t, 32, 2_000)
	step := func() {
		due, _ := e.Next()
		e.Step(due)
	}
	for range 50 {
		step()
	}
	if n := testing.AllocsPerRun(1_000, step); n != 0 {
		t.Errorf("%g allocations a step", n)
	}
	if n := len(e.running); n != 32 {
		t.Fatalf("%d requests ran, want 32", n)
	}
}

// BenchmarkStep is the cost of one decode step by the number of sequences.
func BenchmarkStep(b *testing.B) {
	for _, seqs := range []int{1, 32, 128} {
		b.Run(fmt.Sprintf("seqs=%d", seqs), func(b *testing.B) {
			e := newBenchEngine(b, seqs, 2_000)
			b.ReportAllocs()
			for b.Loop() {
				due, _ := e.Next()
				for _, ev := range e.Step(due) {
					if ev.Finished {
						if err := e.Submit(due, ev.Request); err != nil {
							b.Fatal(err)
						}
					}
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "steps/s")
		})
	}
}

// BenchmarkLongPrompts is the cost of a whole request: 16,384 tokens of prompt, half of it shared, and 100 of answer.
func BenchmarkLongPrompts(b *testing.B) {
	e := newBenchEngine(b, 0, 0)
	r := &Request{PromptTokens: 16_384, OutputTokens: 100, Hashes: make([]uint64, 1_024)}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		for j := range r.Hashes {
			r.Hashes[j] = uint64(j)
			if j >= 512 {
				r.Hashes[j] |= uint64(i) << 32
			}
		}
		now, _ := e.Next()
		if err := e.Submit(now, r); err != nil {
			b.Fatal(err)
		}
		for due, ok := e.Next(); ok; due, ok = e.Next() {
			e.Step(due)
		}
	}
}

// newBenchEngine is an H100 with seqs requests of 1,000 prompt tokens under way.
func newBenchEngine(t testing.TB, seqs, output int) *Engine {
	t.Helper()
	p, err := ProfileNamed("h100-llama8b")
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewEngine(Config{Profile: p})
	if err != nil {
		t.Fatal(err)
	}
	for range seqs {
		if err := e.Submit(0, &Request{PromptTokens: 1_000, OutputTokens: output}); err != nil {
			t.Fatal(err)
		}
	}
	return e
}
