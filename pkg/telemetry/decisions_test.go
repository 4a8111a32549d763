package telemetry

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 250e6, time.UTC)

var someDecisions = []Decision{
	{
		Time: noon, RequestID: "r1", Model: "llama", Target: "llama", Bytes: 12600, Blocks: 128, Matched: 120, Pod: "engine-0",
		Address: "10.0.0.1:8000", Reason: "prefix", Cost: 12.34, Candidates: 4, Latency: 23400 * time.Nanosecond,
	},
	{
		Time: noon, Model: "chat", Target: "chat-lora-7", Bytes: 300, Pod: "10.0.0.12:8000", Address: "10.0.0.12:8000",
		Reason: "load", Cost: 1, Candidates: 4, Wait: 1500 * time.Millisecond, Latency: 4 * time.Microsecond,
	},
	{Time: noon, Model: "", Bytes: 3 << 20, Reason: "no_endpoints", Status: 503},
	{Time: noon, Model: "evil\x1b[2J\n" + strings.Repeat("x", 100), Target: "evil\x1b[2J\n" + strings.Repeat("x", 100), Reason: "a", Status: 400},
}

func TestTextLinesStandBelowEachOther(t *testing.T) {
	got := written(t, Text, false, someDecisions...)
	want := strings.Join([]string{
		"12:00:00.250  llama  12.3 KiB  120/128 blocks  → engine-0 10.0.0.1:8000  prefix  cost 12.3 ms of 4  23µs",
		"12:00:00.250  chat as chat-lora-7  300 B     0/0 blocks      → 10.0.0.12:8000          load    cost 1.0 ms of 4  waited 1.5s  4µs",
		"12:00:00.250  -                    3.0 MiB   refused 503: no_endpoints",
		"12:00:00.250  evil·[2J·" + strings.Repeat("x", 54) + "…  0 B       refused 400: a",
		"",
	}, "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestColourIsOnlyForTerminals(t *testing.T) {
	if text := written(t, Text, true, someDecisions[0]); !strings.Contains(text, "\x1b[32m120/128 blocks\x1b[0m") {
		t.Errorf("no colour: %q", text)
	}
	if text := written(t, Text, false, someDecisions...); strings.Contains(text, "\x1b") {
		t.Errorf("colour or a client's escape: %q", text)
	}
}

func TestJSONLines(t *testing.T) {
	got := written(t, JSON, true, someDecisions...)
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	if len(lines) != len(someDecisions) {
		t.Fatalf("%d lines, want %d", len(lines), len(someDecisions))
	}
	want := `{"time":"2026-03-01T12:00:00.25Z","requestId":"r1","model":"llama","target":"llama","promptBytes":12600,` +
		`"blocks":128,"matchedBlocks":120,"pod":"engine-0","address":"10.0.0.1:8000","reason":"prefix","costMs":12.34,` +
		`"candidates":4,"waitMs":0,"latencyMs":0.023}`
	if lines[0] != want {
		t.Errorf("got  %s\nwant %s", lines[0], want)
	}
	for _, line := range lines {
		if !json.Valid([]byte(line)) {
			t.Errorf("no JSON: %s", line)
		}
	}
	if line := written(t, JSON, false, Decision{Cost: math.Inf(1)}); !json.Valid([]byte(line)) {
		t.Errorf("no JSON: %s", line)
	}
}

func TestOffWritesNothing(t *testing.T) {
	if got := written(t, Off, false, someDecisions...); got != "" {
		t.Error(got)
	}
	var none *Decisions
	if none.On() {
		t.Error("no log is on")
	}
}

func TestASlowReaderHoldsNobodyUp(t *testing.T) {
	var out bytes.Buffer
	gate := make(chan struct{})
	entered := make(chan struct{})
	var once sync.Once
	var dropped int
	d := NewDecisions(writer(func(p []byte) (int, error) {
		once.Do(func() { close(entered) })
		<-gate
		return out.Write(p)
	}), false, func(n int) { dropped += n })
	d.SetForm(Text)
	d.Write(&someDecisions[0])
	<-entered // the reader hangs from now on
	line := Decision{Time: noon, Model: strings.Repeat("m", 60), Reason: "r", Status: 400}
	const lines = 20_000
	for range lines {
		d.Write(&line)
	}
	if dropped == 0 || dropped == lines {
		t.Fatalf("%d of %d lines dropped; want those beyond the backlog", dropped, lines)
	}
	close(gate)
	// The first line that finds room again tells of the gap.
	deadline := time.Now().Add(10 * time.Second)
	for before := -1; before != dropped; {
		if time.Now().After(deadline) {
			t.Fatal("the backlog never drained")
		}
		before = dropped
		d.Write(&line)
	}
	d.Close(10 * time.Second)
	if !strings.Contains(out.String(), "lines dropped") {
		t.Error("the gap is not told in the log")
	}
	if n := strings.Count(out.String(), "refused 400") + dropped; n < lines {
		t.Errorf("%d lines written or counted as dropped, want at least %d", n, lines)
	}
}

func TestCloseDoesNotWaitForever(t *testing.T) {
	gate := make(chan struct{})
	defer close(gate)
	d := NewDecisions(writer(func(p []byte) (int, error) { <-gate; return len(p), nil }), false, nil)
	d.SetForm(Text)
	d.Write(&someDecisions[0])
	d.Close(10 * time.Millisecond)
	d.Close(10 * time.Millisecond)
	d.Write(&someDecisions[0]) // after the end: nothing, and no panic
}

func BenchmarkDecisionOff(b *testing.B) {
	d := NewDecisions(io.Discard, false, nil)
	defer d.Close(time.Second)
	b.ReportAllocs()
	for b.Loop() {
		if d.On() {
			d.Write(&someDecisions[0])
		}
	}
}

// Formatting alone: a loop that writes faster than anyone reads would measure how lines are dropped.
func BenchmarkDecisionText(b *testing.B) {
	var lines columns
	var out bytes.Buffer
	b.ReportAllocs()
	for b.Loop() {
		out.Reset()
		lines.write(&out, &someDecisions[0], false)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func written(t *testing.T, form Form, color bool, decisions ...Decision) string {
	t.Helper()
	var out bytes.Buffer
	d := NewDecisions(&out, color, nil)
	d.SetForm(form)
	for i := range decisions {
		d.Write(&decisions[i])
	}
	d.Close(10 * time.Second)
	return out.String()
}
