package overload

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/pilotfish-epp/pilotfish/bench/cost"
)

// What is asked of queueing.
const (
	firstTokenRatio = 1.5      // Critical's p99 TTFT above capacity, over that below
	goodputRatio    = 2.0      // goodput with queueing over that without
	heapBase        = 40.0     // MB of live heap beside the queue's capacity
	heapEach        = 30 << 10 // bytes of live heap for each request that waits
	megabyte        = 1 << 20
)

// Phase is what became of the requests of one phase, all rounds together.
type Phase struct {
	Name     string   `json:"name"`
	Load     float64  `json:"load"` // of the capacity
	Queueing bool     `json:"queueing"`
	Rows     []Row    `json:"rows"`
	Faults   []string `json:"faults,omitempty"` // some, in words
}

// Row is what became of the requests of one priority. Times are in milliseconds.
type Row struct {
	Priority  string         `json:"priority"`
	Offered   int            `json:"offered"`
	Ended     map[string]int `json:"ended"`             // by outcome
	Reasons   map[string]int `json:"reasons,omitempty"` // of refusals, by status and reason
	Faulty    int            `json:"faulty_refusals"`   // refusals without an OpenAI-style error
	FirstP50  float64        `json:"ttft_p50_ms"`
	FirstP90  float64        `json:"ttft_p90_ms"`
	FirstP99  float64        `json:"ttft_p99_ms"`
	InTime    int            `json:"in_time"` // served with the first token within 2 s, in the run-in too
	InTimePer float64        `json:"goodput"` // the same, for each second of sending
}

// report makes figures of the rounds.
func (b *bench) report(rounds [][]*run) *Report {
	r := &Report{}
	r.Sections = []cost.Section{
		{
			Name: "overload", Title: "more requests than the engines can answer, through Envoy, lean profile",
			Conditions: b.conditions(),
			Figures:    b.figures(rounds),
		},
		{
			Name: "run", Title: "whether the machine kept up",
			Figures: circumstances(column(rounds, 0), column(rounds, 1), column(rounds, 2)),
		},
	}
	for i := range rounds[0] {
		r.Phases = append(r.Phases, tableOf(column(rounds, i)))
	}
	return r
}

func (b *bench) conditions() []string {
	s, p := b.Shape, b.profile
	measured := "measured with every engine full"
	if b.Capacity > 0 {
		measured = "given"
	}
	lines := []string{
		fmt.Sprintf("%d simulated engines %s in real time, at most %d sequences and %d tokens of KV cache each, in the load generator's process", b.Engines, p.Name, p.MaxSeqs, p.KVTokens),
		fmt.Sprintf("capacity %.1f requests/s (%s; %.1f by the engines' model without proxy and picker)", b.rate, measured, b.model),
		fmt.Sprintf("Poisson arrivals for %v in each phase, the same with and without queueing; streamed chats, no shared prefixes", b.RunIn+b.Duration),
		fmt.Sprintf("times to the first token are of those sent after the first %v, in which all places fill at once; all else is of all", b.RunIn),
		fmt.Sprintf("prompts: %s tokens; answers: %s", s.Prompt, s.Answer),
		fmt.Sprintf("%.0f %% Critical, %.0f %% Standard, %.0f %% Sheddable; at %g × capacity Critical alone is %.2f of it", 100*s.CriticalShare, 100*s.StandardShare, 100*(1-s.CriticalShare-s.StandardShare), b.Over, b.Over*s.CriticalShare),
		fmt.Sprintf("picker: TOTAL_QUEUE_CAPACITY=%d QUEUE_TTL=%v, all else by default; new engines, picker and Envoy for each phase", b.QueueBytes, b.TTL),
	}
	if len(b.Env) > 0 {
		lines = append(lines, fmt.Sprintf("and %v", b.Env))
	}
	return lines
}

func column(rounds [][]*run, phase int) []*run {
	var runs []*run
	for _, r := range rounds {
		runs = append(runs, r[phase])
	}
	return runs
}

// figures are those asked for, then what helps to read them.
func (b *bench) figures(rounds [][]*run) []cost.Figure {
	under, over, without := column(rounds, 0), column(rounds, 1), column(rounds, 2)
	name := under[0].name
	at, off := over[0].name+": ", without[0].name+": "
	figures := []cost.Figure{
		atMost(figure(at+"requests without exactly one whole answer", "requests", over, func(r *run) float64 { return float64(r.sum().notOnce()) }), 0),
		atMost(figure(at+"requests that passed the picker by", "requests", over, func(r *run) float64 { return float64(r.bypassed) }), 0),
		atMost(figure(at+"most requests waiting at an engine", "requests", over, func(r *run) float64 { return float64(r.mostWaiting) }), float64(over[0].threshold)),
		figure(at+"looks at the engines with more waiting than that", "%", over, aboveShare),
		figure(name+": Critical's p99 TTFT", "ms", under, criticalP99),
		ratioAtMost(figure(at+"Critical's p99 TTFT", "ms", over, criticalP99), name, values(over, criticalP99), values(under, criticalP99), firstTokenRatio),
	}
	figures = append(figures, against(figure(at+"the same with an ideal queue, in virtual time", "ms", over, idealP99), name,
		values(over, idealP99), values(under, idealP99)))
	figures[2].Note = fmt.Sprintf("at any moment; %.0f at a look each %v", spreadOf(values(over, mostAtALook)).Median, lookEvery)
	for _, p := range Priorities() {
		f := figure(at+"not served, "+p.String(), "%", over, lostShare(p))
		switch p {
		case Critical:
			f = atMost(f, 0)
		case Sheddable:
			f = atLeast(f, spreadOf(values(over, allLost)).Median)
			f.Budget.Met = f.Budget.Met && f.Value.Median > 0
			f.Note = "of all"
		}
		figures = append(figures, f)
	}
	figures = append(figures,
		figure(off+"goodput, first token within 2 s", "requests/s", without, goodput),
		ratioAtLeast(figure(at+"goodput, first token within 2 s", "requests/s", over, goodput), "disabled", values(over, goodput), values(without, goodputOfOne), goodputRatio),
		figure(at+"most requests in the picker's hands", "requests", over, func(r *run) float64 { return float64(r.mostHeld) }),
	)
	if all(over, func(r *run) bool { return len(r.heap) > 0 }) {
		figures = append(figures,
			figure(at+"most live heap of the picker", "MB", over, mostHeap),
			atMost(figure(at+"live heap beyond capacity and 30 KB for each waiting", "MB", over, heapBeyond), heapBase))
	}
	return figures
}

// circumstances tell whether the run can be believed.
func circumstances(phases ...[]*run) []cost.Figure {
	var figures []cost.Figure
	for _, runs := range phases {
		name := runs[0].name
		f := figure(name+": CPU in use", "cores", runs, func(r *run) float64 { return r.cpu.picker + r.cpu.envoy + r.cpu.self })
		f.Parts = []cost.Part{
			{Name: "picker", Value: spreadOf(values(runs, func(r *run) float64 { return r.cpu.picker }))},
			{Name: "Envoy", Value: spreadOf(values(runs, func(r *run) float64 { return r.cpu.envoy }))},
			{Name: "engines and load", Value: spreadOf(values(runs, func(r *run) float64 { return r.cpu.self }))},
		}
		figures = append(figures, f,
			figure(name+": requests sent late, p99", "ms", runs, func(r *run) float64 { return quantile(r.late, 0.99) }),
			figure(name+": requests computed for nobody", "requests", runs, wasted))
	}
	return figures
}

func criticalP99(r *run) float64 { return quantile(r.of(Critical).first, 0.99) }

func idealP99(r *run) float64 { return r.ideal }

func lostShare(p Priority) func(*run) float64 {
	return func(r *run) float64 { return 100 * r.of(p).lost() }
}

func allLost(r *run) float64 { return 100 * r.sum().lost() }

func goodput(r *run) float64 { return float64(r.sum().inTime) / r.seconds }

// goodputOfOne is goodput, or that of a single request where there was none: a ratio to nothing can't be told.
func goodputOfOne(r *run) float64 { return max(goodput(r), 1/r.seconds) }

func mostAtALook(r *run) float64 { return float64(r.observations.mostWaiting) }

func aboveShare(r *run) float64 { return 100 * float64(r.above) / float64(max(1, r.looks)) }

func mostHeap(r *run) float64 {
	most := int64(0)
	for _, s := range r.heap {
		most = max(most, s.live)
	}
	return float64(most) / megabyte
}

func heapBeyond(r *run) float64 { return float64(r.beyond(r.capacity, heapEach)) / megabyte }

// wasted is how many requests an engine took in and nobody got a whole answer from: retries, and clients that gave up.
func wasted(r *run) float64 { return float64(int(r.computed) - r.sum().ended[Served]) }

func all(runs []*run, is func(*run) bool) bool {
	return !slices.ContainsFunc(runs, func(r *run) bool { return !is(r) })
}

func values(runs []*run, of func(*run) float64) []float64 {
	v := make([]float64, len(runs))
	for i, r := range runs {
		v[i] = of(r)
	}
	return v
}

func figure(name, unit string, runs []*run, of func(*run) float64) cost.Figure {
	return cost.Figure{Case: name, Unit: unit, Value: spreadOf(values(runs, of))}
}

func spreadOf(samples []float64) cost.Spread {
	s := slices.Sorted(slices.Values(samples))
	n := len(s)
	return cost.Spread{Median: (s[(n-1)/2] + s[n/2]) / 2, Min: s[0], Max: s[n-1], Rounds: n}
}

func atMost(f cost.Figure, most float64) cost.Figure {
	f.Budget = &cost.Budget{Limit: most, Met: f.Value.Median <= most}
	return f
}

func atLeast(f cost.Figure, least float64) cost.Figure {
	f.Budget = &cost.Budget{Limit: least, AtLeast: true, Met: f.Value.Median >= least}
	return f
}

func ratioAtMost(f cost.Figure, to string, of, by []float64, most float64) cost.Figure {
	f = against(f, to, of, by)
	f.Budget = &cost.Budget{Limit: most, OfRatio: true, Met: f.Ratio != nil && f.Ratio.Median <= most}
	return f
}

func ratioAtLeast(f cost.Figure, to string, of, by []float64, least float64) cost.Figure {
	f = against(f, to, of, by)
	f.Budget = &cost.Budget{Limit: least, OfRatio: true, AtLeast: true, Met: f.Ratio != nil && f.Ratio.Median >= least}
	return f
}

// against forms the ratio within each round. Where one would divide by nothing there is none.
func against(f cost.Figure, to string, of, by []float64) cost.Figure {
	ratios := make([]float64, len(of))
	for i := range of {
		if by[i] == 0 {
			f.Note = "no ratio: " + to + " has 0"
			return f
		}
		ratios[i] = of[i] / by[i]
	}
	r := spreadOf(ratios)
	f.Ratio, f.Reference = &r, to
	return f
}

// tableOf puts the rounds of a phase together.
func tableOf(runs []*run) Phase {
	first := runs[0]
	t := Phase{Name: first.name, Load: first.load, Queueing: first.queueing}
	seconds := 0.0
	for _, r := range runs {
		seconds += r.seconds
		t.Faults = append(t.Faults, r.faults...)
	}
	total := &counts{}
	for _, p := range Priorities() {
		var c counts
		for _, r := range runs {
			c.merge(r.of(p))
		}
		total.merge(&c)
		t.Rows = append(t.Rows, c.row(p.String(), seconds))
	}
	t.Rows = append(t.Rows, total.row("all", seconds))
	return t
}

func (c *counts) row(name string, seconds float64) Row {
	r := Row{
		Priority: name, Offered: c.offered, Ended: map[string]int{}, Reasons: c.reasons, Faulty: c.faulty,
		FirstP50: quantile(c.first, 0.5), FirstP90: quantile(c.first, 0.9), FirstP99: quantile(c.first, 0.99),
		InTime: c.inTime, InTimePer: float64(c.inTime) / seconds,
	}
	for o, n := range c.ended {
		r.Ended[Outcome(o).String()] = n
	}
	return r
}

// WriteJSON writes the report for programs.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// WriteText writes the report for people: the figures, then what became of the requests.
func (r *Report) WriteText(w io.Writer) error {
	var b bytes.Buffer
	if err := r.Report.WriteText(&b); err != nil {
		return err
	}
	fmt.Fprintf(&b, "\nanswers, all rounds together; times to the first token in ms, of those served after the run-in\n")
	t := tabwriter.NewWriter(&b, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "\tsent\t")
	for _, name := range outcomeNames {
		fmt.Fprintf(t, "%s\t", name)
	}
	fmt.Fprint(t, "TTFT p50\tp90\tp99\twithin 2 s\ta second\t\n")
	for i := range r.Phases {
		for _, row := range r.Phases[i].Rows {
			fmt.Fprintf(t, "%s: %s\t%d\t", r.Phases[i].Name, row.Priority, row.Offered)
			for _, name := range outcomeNames {
				fmt.Fprintf(t, "%d\t", row.Ended[name])
			}
			fmt.Fprintf(t, "%.0f\t%.0f\t%.0f\t%d\t%.1f\t\n", row.FirstP50, row.FirstP90, row.FirstP99, row.InTime, row.InTimePer)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for i := range r.Phases {
		r.Phases[i].notes(&b)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// notes tell why requests were refused and what went wrong.
func (p *Phase) notes(b *bytes.Buffer) {
	total := p.Rows[len(p.Rows)-1]
	for _, reason := range slices.Sorted(maps.Keys(total.Reasons)) {
		fmt.Fprintf(b, "  %s: %s: %d\n", p.Name, reason, total.Reasons[reason])
	}
	if total.Faulty > 0 {
		fmt.Fprintf(b, "  %s: refusals without an OpenAI-style error: %d\n", p.Name, total.Faulty)
	}
	for _, f := range p.Faults {
		fmt.Fprintf(b, "  %s: %s\n", p.Name, f)
	}
}
