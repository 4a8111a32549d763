package enginesim

import (
	"bufio"
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/trace"
)

const calibration = "../../../shared/calibration/"

// TestMeasuredRuns replays what a real vLLM 0.19 was measured with (300 ShareGPT-shaped requests, 10 a second, far more
// than it can take) in virtual time and compares what came out. Both profiles keep within 5 % of every figure here.
func TestMeasuredRuns(t *testing.T) {
	workload, err := trace.OpenMooncake(calibration+"sharegpt300_llama31_8b_blk16.jsonl", BlockTokens)
	if os.IsNotExist(err) {
		t.Skip("the measured runs of vLLM are not here: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, run := range []struct{ profile, file string }{
		{"rtx4090-llama8b", "vllm019_RTX4090_Llama-3.1-8B_requests.jsonl"},
		{"rtxpro6000-llama8b", "vllm019_RTXPRO6000_Llama-3.1-8B_requests.jsonl"},
	} {
		t.Run(run.profile, func(t *testing.T) {
			measured := summarize(readMeasured(t, calibration+run.file))
			times, counters := replay(t, run.profile, workload)
			simulated := summarize(times)
			t.Logf("%d preemptions, %d cached tokens", counters.Preemptions, counters.CachedTokens)
			for _, c := range []struct {
				what                string
				measured, simulated float64
			}{
				{"TTFT mean ms", measured.ttftMean, simulated.ttftMean},
				{"TTFT p50 ms", measured.ttftP50, simulated.ttftP50},
				{"TTFT p99 ms", measured.ttftP99, simulated.ttftP99},
				{"TPOT mean ms", measured.tpotMean, simulated.tpotMean},
				{"TPOT p99 ms", measured.tpotP99, simulated.tpotP99},
				{"output tok/s", measured.tokensPerSecond, simulated.tokensPerSecond},
			} {
				off := 100 * (c.simulated/c.measured - 1)
				t.Logf("%-13s measured %9.1f  simulated %9.1f  %+5.2f %%", c.what, c.measured, c.simulated, off)
				if math.Abs(off) > 5 {
					t.Errorf("%s is off by %.1f %%", c.what, off)
				}
			}
		})
	}
}

// served is the life of one request in seconds.
type served struct {
	arrived, first, last float64
	output               int
}

func replay(t *testing.T, profile string, workload *trace.Trace) ([]served, Counters) {
	t.Helper()
	p, err := ProfileNamed(profile)
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewEngine(Config{Profile: p})
	if err != nil {
		t.Fatal(err)
	}
	requests := make([]*Request, len(workload.Requests))
	for i, r := range workload.Requests {
		requests[i] = &Request{
			PromptTokens: r.Input, OutputTokens: r.Output,
			Hashes: workload.AppendChunks(nil, i, BlockTokens),
		}
	}
	for next := 0; ; {
		due, busy := e.Next()
		if next < len(requests) && (!busy || workload.Requests[next].At <= due) {
			if err := e.Submit(workload.Requests[next].At, requests[next]); err != nil {
				t.Fatal(err)
			}
			next++
			continue
		}
		if !busy {
			break
		}
		e.Step(due)
	}
	var times []served
	for _, r := range requests {
		if r.Generated != r.OutputTokens {
			t.Fatalf("a request made %d of %d tokens", r.Generated, r.OutputTokens)
		}
		times = append(times, served{r.Arrived.Seconds(), r.FirstToken.Seconds(), r.LastToken.Seconds(), r.OutputTokens})
	}
	return times, e.Counters()
}

func readMeasured(t *testing.T, path string) []served {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var times []served
	for s := bufio.NewScanner(f); s.Scan(); {
		var m struct {
			Output int     `json:"output_toks"`
			Queued float64 `json:"queued_ts"`
			First  float64 `json:"first_token_ts"`
			Last   float64 `json:"last_token_ts"`
		}
		if err := json.Unmarshal(s.Bytes(), &m); err != nil {
			t.Fatal(err)
		}
		times = append(times, served{m.Queued, m.First, m.Last, m.Output})
	}
	return times
}

type summary struct {
	ttftMean, ttftP50, ttftP99, tpotMean, tpotP99 float64 // milliseconds
	tokensPerSecond                               float64
}

func summarize(times []served) summary {
	var ttft, tpot []float64
	from, to, tokens := math.Inf(1), 0.0, 0
	for _, s := range times {
		ttft = append(ttft, 1000*(s.first-s.arrived))
		if s.output > 1 {
			tpot = append(tpot, 1000*(s.last-s.first)/float64(s.output-1))
		}
		from, to, tokens = min(from, s.arrived), max(to, s.last), tokens+s.output
	}
	slices.Sort(ttft)
	slices.Sort(tpot)
	return summary{
		mean(ttft), quantile(ttft, 0.5), quantile(ttft, 0.99), mean(tpot), quantile(tpot, 0.99),
		float64(tokens) / (to - from),
	}
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

// quantile interpolates between the sorted values around q.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 == len(sorted) {
		return sorted[i]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

// TestReplayIsDeterministic: equal input gives equal times, to the nanosecond.
func TestReplayIsDeterministic(t *testing.T) {
	workload, err := trace.OpenMooncake("../trace/testdata/mooncake_conversation_50.jsonl", trace.MooncakeBlock)
	if err != nil {
		t.Fatal(err)
	}
	workload.SpreadTies(1)
	one, _ := replay(t, "h100-llama8b", workload)
	two, counters := replay(t, "h100-llama8b", workload)
	if !slices.Equal(one, two) {
		t.Error("two replays differ")
	}
	// All 50 prompts begin with the same block of 512 tokens, so 49 can find it.
	if counters.CachedTokens < 49*512 {
		t.Errorf("%d cached tokens, want at least %d", counters.CachedTokens, 49*512)
	}
	if first := time.Duration(one[0].first * float64(time.Second)); first < 100*time.Millisecond || first > time.Second {
		t.Errorf("6,758 tokens prefilled in %v", first)
	}
}
