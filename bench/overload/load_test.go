package overload

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestArrivalsAreAPoissonStreamOfTheSharesAsked(t *testing.T) {
	const perSecond, length = 100.0, 200 * time.Second
	requests := arrivals(DefaultShape(), 1, perSecond, length)
	bySecond := make([]float64, int(length.Seconds()))
	byPlace := [3]float64{}
	last := time.Duration(0)
	for _, r := range requests {
		if r.At < last || r.At >= length {
			t.Fatalf("a request at %v after one at %v", r.At, last)
		}
		last = r.At
		bySecond[int(r.At.Seconds())]++
		byPlace[r.Priority.place()]++
	}
	mean, variance := moments(bySecond)
	if math.Abs(mean-perSecond) > 3 {
		t.Errorf("%.1f requests a second, want %g", mean, perSecond)
	}
	if ratio := variance / mean; ratio < 0.7 || ratio > 1.4 {
		t.Errorf("the counts of seconds have a variance of %.2f of their mean, want 1 as Poisson's", ratio)
	}
	for i, want := range [...]float64{0.2, 0.4, 0.4} {
		if share := byPlace[i] / float64(len(requests)); math.Abs(share-want) > 0.02 {
			t.Errorf("%v is %.3f of the requests, want %g", Priorities()[i], share, want)
		}
	}
}

// Shares of requests are shares of tokens, since the priority has nothing to do with the length.
func TestCriticalHasItsShareOfTheTokens(t *testing.T) {
	tokens, critical := 0, 0
	for _, r := range arrivals(DefaultShape(), 2, 200, 100*time.Second) {
		tokens += r.Prompt + r.Answer
		if r.Priority == Critical {
			critical += r.Prompt + r.Answer
		}
	}
	if share := float64(critical) / float64(tokens); math.Abs(share-0.2) > 0.01 {
		t.Errorf("Critical has %.3f of the tokens, want 0.2", share)
	}
}

func TestTheSameSeedGivesTheSameRequests(t *testing.T) {
	one, two := arrivals(DefaultShape(), 7, 50, 10*time.Second), arrivals(DefaultShape(), 7, 50, 10*time.Second)
	if !slices.Equal(one, two) {
		t.Error("two streams of one seed differ")
	}
	if slices.Equal(one, arrivals(DefaultShape(), 8, 50, 10*time.Second)) {
		t.Error("another seed gives the same stream")
	}
}

func TestLengthsKeepToTheirDistribution(t *testing.T) {
	shape := DefaultShape()
	var prompts, answers []float64
	for _, r := range arrivals(shape, 3, 1000, 20*time.Second) {
		prompts, answers = append(prompts, float64(r.Prompt)), append(answers, float64(r.Answer))
	}
	for _, tc := range []struct {
		name   string
		drawn  []float64
		of     Lengths
		median float64
	}{{"prompts", prompts, shape.Prompt, 450}, {"answers", answers, shape.Answer, 50}} {
		if m := quantile(tc.drawn, 0.5); math.Abs(m/tc.median-1) > 0.05 {
			t.Errorf("%s: median %g, want %g", tc.name, m, tc.median)
		}
		if slices.Min(tc.drawn) < float64(tc.of.Min) || slices.Max(tc.drawn) > float64(tc.of.Max) {
			t.Errorf("%s: from %g to %g, want within %d to %d", tc.name, slices.Min(tc.drawn), slices.Max(tc.drawn), tc.of.Min, tc.of.Max)
		}
	}
}

func TestBodiesAreStreamedChatsThatShareNoBeginning(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range arrivals(DefaultShape(), 4, 100, time.Second) {
		var chat struct {
			Model     string
			Messages  []struct{ Role, Content string }
			Stream    bool
			IgnoreEOS bool `json:"ignore_eos"`
			MaxTokens int  `json:"max_tokens"`
		}
		if err := json.Unmarshal(r.appendBody(nil), &chat); err != nil {
			t.Fatal(err)
		}
		if !chat.Stream || !chat.IgnoreEOS || chat.MaxTokens != r.Answer || len(chat.Messages[0].Content) != 4*r.Prompt {
			t.Fatalf("%+v became %+v", r, chat)
		}
		start := chat.Messages[0].Content[:64]
		if seen[start] {
			t.Fatalf("two prompts begin with %q", start)
		}
		seen[start] = true
	}
}

func TestSharesThatMakeNoSenseAreRefused(t *testing.T) {
	shape := DefaultShape()
	shape.CriticalShare = 0.7
	if err := shape.validate(); err == nil || !strings.Contains(err.Error(), "at most 1 together, got 0.7 and 0.4") {
		t.Errorf("got %v", err)
	}
}

func moments(values []float64) (mean, variance float64) {
	for _, v := range values {
		mean += v / float64(len(values))
	}
	for _, v := range values {
		variance += (v - mean) * (v - mean) / float64(len(values))
	}
	return mean, variance
}
