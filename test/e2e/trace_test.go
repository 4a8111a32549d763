package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/enginesim"
	"github.com/pilotfish-epp/pilotfish/bench/stack"
	"github.com/pilotfish-epp/pilotfish/bench/trace"
)

// compression is how much faster than recorded the trace is replayed, and how much faster than real the engines run. The
// picker's estimates are of real engines, so it can't be much.
const compression = 8

// replayed is how many requests of the trace are used.
const replayed = 1000

// Recorded conversations find far more of their past in the engines' caches than with round robin, by the engines' own
// counters. The ideal of these 1,000 requests, one cache that forgets nothing, is 21.6 % of the prompt tokens.
//
// Where a conversation begins is chance while all pods are idle, and a few long ones are much of the trace, so no two
// replays are equal: round robin was seen to find 8.1 to 9.6 %.
func TestMooncakeConversations(t *testing.T) {
	requests := conversations(t)
	prefix := "ROUTING_STRATEGY=PREFIX_CACHE"
	ways := []struct {
		name   string
		mutate func(stack.Config) error
		env    []string
		least  float64 // times the share of round robin
	}{
		{"round robin", roundRobin, nil, 1},
		{"defaults", nil, []string{prefix}, 1.8},
	}
	shares := make([]float64, len(ways))
	t.Run("replay", func(t *testing.T) { // side by side: the engines mostly wait
		for i, way := range ways {
			t.Run(way.name, func(t *testing.T) {
				t.Parallel()
				shares[i] = replay(t, way.name, requests, way.mutate, way.env).share()
			})
		}
	})
	if t.Failed() || len(requests.Requests) < replayed {
		return // too few conversations come back in the sample to tell anything
	}
	for i, way := range ways[1:] {
		ratio := shares[i+1] / shares[0]
		t.Logf("%s: %.2f times the cached tokens of round robin", way.name, ratio)
		if ratio < way.least {
			t.Errorf("%s: %.2f times the cached tokens of round robin, expected at least %.1f", way.name, ratio, way.least)
		}
	}
}

// conversations are the first 1,000 requests of the trace, from where the full one is kept, or else the sample.
func conversations(t *testing.T) *trace.Trace {
	t.Helper()
	path := filepath.Join("..", "..", "..", "shared", "traces", "mooncake_conversation.jsonl.gz")
	if file, ok := os.LookupEnv("MOONCAKE_CONVERSATION"); ok {
		path = file
	}
	if _, err := os.Stat(path); err != nil {
		path = filepath.Join("..", "..", "bench", "trace", "testdata", "mooncake_conversation_50.jsonl")
		t.Logf("THE SAMPLE of 50 requests is replayed and nothing is compared: there is no full trace (set MOONCAKE_CONVERSATION to its file)")
	}
	all, err := trace.OpenMooncake(path, trace.MooncakeBlock)
	if err != nil {
		t.Fatal(err)
	}
	all.Requests = all.Requests[:min(replayed, len(all.Requests))]
	all.SpreadTies(1)
	return all
}

// roundRobin takes the picker out of the way and lets Envoy choose.
func roundRobin(c stack.Config) error {
	if err := c.RemoveExtProc(); err != nil {
		return err
	}
	return c.Replace(stack.PodsCluster+"/load_balancing_policy", map[string]any{"policies": []any{map[string]any{
		"typed_extension_config": map[string]any{
			"name":         "envoy.load_balancing_policies.round_robin",
			"typed_config": map[string]any{"@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin"},
		},
	}}})
}

// cacheUse is what the engines counted.
type cacheUse struct {
	name           string
	prompt, cached uint64 // tokens
}

func (u cacheUse) share() float64 { return float64(u.cached) / float64(u.prompt) }

// replay sends the requests at their times, compressed, and reads what the engines found in their caches.
func replay(t *testing.T, name string, requests *trace.Trace, mutate func(stack.Config) error, env []string) cacheUse {
	t.Helper()
	engines := make([]enginesim.Options, 4)
	for i := range engines {
		engines[i] = enginesim.Options{
			Name: fmt.Sprintf("engine-%d", i), Model: model, Speed: compression,
			KVTokens: 8_000_000, MaxModelLen: 200_000, // evicts nothing
		}
	}
	// One thread of Envoy, since each takes its own turns in a round robin.
	s := newSite(t, plan{engines: engines, mutate: mutate, env: env, workers: 1})
	start := time.Now()
	var late time.Duration
	answers := make([]*answer, len(requests.Requests))
	var done sync.WaitGroup
	for i := range requests.Requests {
		r := &requests.Requests[i]
		body := chat{prompt: string(requests.AppendText(nil, i)), maxTokens: max(1, r.Output)}.body()
		due := start.Add(r.At / compression)
		if wait := time.Until(due); wait > 0 {
			<-time.After(wait) // the arrivals are the trace's
		} else {
			late = max(late, -wait)
		}
		done.Go(func() { answers[i] = do(context.Background(), s.client, s.url(), call{path: chatPath, body: body}) })
	}
	done.Wait()
	failed := 0
	for i, a := range answers {
		if !a.ok() {
			if failed++; failed < 4 {
				t.Errorf("%s: request %d: %v", name, i, a)
			}
		}
	}
	u := cacheUse{
		name:   name,
		prompt: s.total(t, func(e enginesim.Stats) uint64 { return e.PromptTokens }),
		cached: s.total(t, func(e enginesim.Stats) uint64 { return e.CachedTokens }),
	}
	by := map[string]int{}
	var took time.Duration
	for _, a := range answers {
		by[a.servedBy]++
		took += a.took
	}
	t.Logf("%s: %d requests in %v (at most %v late), %d failed: %d of %d prompt tokens were cached, %.1f %%; mean answer %v; served by %v",
		name, len(answers), time.Since(start).Round(time.Millisecond), late.Round(time.Millisecond), failed,
		u.cached, u.prompt, 100*u.share(), (took / time.Duration(len(answers))).Round(time.Millisecond), by)
	if n := s.total(t, func(e enginesim.Stats) uint64 { return e.Evictions }); n != 0 {
		t.Errorf("%s: the engines evicted %d blocks", name, n)
	}
	if mutate == nil {
		s.wantIdle(t)
		s.wantNoBypass(t)
		if n := picks(t, s.picker()); n != len(answers) {
			t.Errorf("%s: %d picks for %d requests", name, n, len(answers))
		}
	}
	if err := s.Kill(); err != nil { // its memory is for the next one
		t.Error(err)
	}
	return u
}
