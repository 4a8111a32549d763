package overload

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/cost"
)

// result is a round as a queue that does what it should gives it; change makes another of it.
func result(change func(under, over, without *run)) []*run {
	o := Options{}.withDefaults()
	var runs []*run
	for _, ph := range o.phases() {
		runs = append(runs, &run{phase: ph, limits: limits{5, 6 << 20, 30 * time.Second}, seconds: 60, mostWaiting: 5})
	}
	serve := func(r *run, p Priority, n int, first time.Duration) {
		for range n {
			r.add(Answer{Priority: p, Outcome: Served, First: first})
		}
	}
	under, over, without := runs[0], runs[1], runs[2]
	for _, p := range Priorities() {
		serve(under, p, 600, 300*time.Millisecond)
		serve(without, p, 1200, 20*time.Second)
	}
	serve(without, Standard, 600, time.Second)
	serve(over, Critical, 2000, 400*time.Millisecond)
	serve(over, Standard, 1500, 10*time.Second)
	for range 4000 {
		over.add(Answer{Priority: Sheddable, Outcome: TooMany, Reason: "evicted-queue-pressure"})
	}
	over.heap = []heapSample{{live: 30 << 20, waiting: 1000}}
	for _, r := range runs {
		r.computed = uint64(r.sum().ended[Served])
	}
	if change != nil {
		change(under, over, without)
	}
	return runs
}

func reportOf(rounds ...[]*run) *Report {
	b := &bench{Options: Options{}.withDefaults(), rate: 60, model: 62}
	b.profile, _ = b.engine()
	return b.report(rounds)
}

func TestWhatIsAskedIsMetByAQueueThatWorks(t *testing.T) {
	r := reportOf(result(nil), result(nil), result(nil))
	if missed := r.Missed(); len(missed) > 0 {
		t.Errorf("missed: %v", missed)
	}
	asked := 0
	for _, f := range r.Sections[0].Figures {
		if f.Budget != nil {
			asked++
		}
	}
	if asked != 8 {
		t.Errorf("%d figures are held against what is asked, want 8", asked)
	}
}

func TestEachFaultMissesItsFigure(t *testing.T) {
	for _, tc := range []struct {
		name, missed string
		change       func(under, over, without *run)
	}{
		{"an answer that broke", "without exactly one whole answer", func(_, over, _ *run) { over.add(Answer{Priority: Sheddable, Outcome: Broken, Fault: "cut"}) }},
		{"no answer", "without exactly one whole answer", func(_, over, _ *run) { over.add(Answer{Priority: Sheddable, Outcome: Unanswered}) }},
		{"past the picker", "passed the picker by", func(_, over, _ *run) { over.bypassed = 1 }},
		{"six wait at an engine", "most requests waiting at an engine", func(_, over, _ *run) { over.mostWaiting = 6 }},
		{"Critical waits", "Critical's p99 TTFT", func(_, over, _ *run) {
			for range 30 {
				over.add(Answer{Priority: Critical, Outcome: Served, First: 460 * time.Millisecond})
			}
		}},
		{"Critical is lost", "not served, Critical", func(_, over, _ *run) { over.add(Answer{Priority: Critical, Outcome: TooMany}) }},
		{"Sheddable loses less than others", "not served, Sheddable", func(_, over, _ *run) {
			for range 9000 {
				over.add(Answer{Priority: Sheddable, Outcome: Served, First: 9 * time.Second})
				over.add(Answer{Priority: Standard, Outcome: Unavailable})
			}
		}},
		{"as good without", "goodput", func(_, _, without *run) {
			for range 500 {
				without.add(Answer{Priority: Standard, Outcome: Served, First: time.Second})
			}
		}},
		{"a large heap", "live heap beyond", func(_, over, _ *run) { over.heap = append(over.heap, heapSample{live: 47 << 20}) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			missed := reportOf(result(tc.change)).Missed()
			if len(missed) != 1 || !strings.Contains(missed[0], tc.missed) {
				t.Errorf("missed %q, want only one of %q", missed, tc.missed)
			}
		})
	}
}

// Nothing lost is no loss borne: without queueing the figure must not count as met.
func TestNoLossIsNotBorneBySheddable(t *testing.T) {
	missed := reportOf(result(func(_, over, _ *run) { over.byPlace[Sheddable.place()] = counts{offered: 1, ended: [outcomes]int{1}} })).Missed()
	if len(missed) != 1 || !strings.Contains(missed[0], "not served, Sheddable") {
		t.Errorf("missed %q", missed)
	}
}

// A phase in which nothing was served leaves no ratio, or one to a single request, rather than one that no program can
// read.
func TestNothingToDivideBy(t *testing.T) {
	r := reportOf(result(func(under, _, without *run) { under.Tally, without.Tally = Tally{}, Tally{} }))
	var out bytes.Buffer
	if err := r.WriteJSON(&out); err != nil {
		t.Fatal(err)
	}
	if err := r.WriteText(&out); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(out.String()), " ")
	if !strings.Contains(text, "no ratio: 0.5 × capacity has 0") || !strings.Contains(text, "2000.00 (2000.00–2000.00) disabled ≥ 2.00 met") || strings.Contains(text, "NaN") {
		t.Error(out.String())
	}
}

func TestTheReportForPeopleAndPrograms(t *testing.T) {
	r := reportOf(result(nil), result(func(_, over, _ *run) {
		over.add(Answer{Priority: Sheddable, Outcome: TooMany, Fault: "no JSON"})
	}))
	var text, raw bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"capacity 60.0 requests/s (measured with every engine full; 62.0 by the engines' model",
		"3 × capacity: Sheddable 8001 0 8001 0 ",
		"3 × capacity: 429 evicted-queue-pressure: 8000",
		"refusals without an OpenAI-style error: 1",
		"8 of 8 budgets met",
	} {
		if !strings.Contains(strings.Join(strings.Fields(text.String()), " "), want) {
			t.Errorf("%q is not in\n%s", want, text.String())
		}
	}
	if err := r.WriteJSON(&raw); err != nil {
		t.Fatal(err)
	}
	var back struct {
		Machine  cost.Machine
		Sections []cost.Section
		Phases   []Phase
	}
	if err := json.Unmarshal(raw.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if n := back.Phases[1].Rows[2].Ended["429"]; n != 8001 || len(back.Sections) != 2 {
		t.Errorf("%d × 429 in\n%s", n, raw.String())
	}
}

func TestRoundsAreSpreadAndRatiosFormedWithinThem(t *testing.T) {
	f := ratioAtMost(cost.Figure{Value: spreadOf([]float64{30, 10, 20})}, "half", []float64{30, 10, 20}, []float64{10, 10, 10}, 2)
	if f.Ratio.Median != 2 || f.Ratio.Min != 1 || f.Ratio.Max != 3 || !f.Budget.Met || f.Value.Median != 20 {
		t.Errorf("%+v, %+v", f, f.Ratio)
	}
	if s := spreadOf([]float64{4, 1, 2, 3}); math.Abs(s.Median-2.5) > 1e-9 || s.Rounds != 4 {
		t.Error(fmt.Sprint(s))
	}
}
