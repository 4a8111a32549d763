package cost

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what a run found.
type Report struct {
	Machine  Machine   `json:"machine"`
	Sections []Section `json:"sections"`
	Seconds  float64   `json:"seconds"` // how long the run took
}

// Section is one table.
type Section struct {
	Name       string   `json:"name"`       // as in --only
	Title      string   `json:"title"`      // what is measured
	Conditions []string `json:"conditions"` // how
	Figures    []Figure `json:"figures"`
	Err        string   `json:"error,omitempty"` // why there are no figures, or not all
}

// Figure is one line of a table.
type Figure struct {
	Case      string  `json:"case"`
	Value     Spread  `json:"value"`
	Unit      string  `json:"unit"`
	Parts     []Part  `json:"parts,omitempty"`     // what the value is the sum of
	Ratio     *Spread `json:"ratio,omitempty"`     // to the reference, formed within each round
	Reference string  `json:"reference,omitempty"` // case that the ratio is to
	Budget    *Budget `json:"budget,omitempty"`
	Note      string  `json:"note,omitempty"`
}

// Part is one term of a figure that is a sum.
type Part struct {
	Name  string `json:"name"`
	Value Spread `json:"value"`
}

// Budget is what a figure should keep to.
type Budget struct {
	Limit   float64 `json:"limit"`
	AtLeast bool    `json:"at_least,omitempty"` // the figure should not be below, rather than not above
	OfRatio bool    `json:"of_ratio,omitempty"` // the ratio's median counts, not the value's
	Met     bool    `json:"met"`
}

// Spread is a measured quantity over the rounds.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	Rounds int     `json:"rounds"`
}

// spread sums samples up; there must be at least one.
func spread(samples []float64) Spread {
	s := slices.Sorted(slices.Values(samples))
	n := len(s)
	return Spread{Median: (s[(n-1)/2] + s[n/2]) / 2, Min: s[0], Max: s[n-1], Rounds: n}
}

// ratios divides round by round.
func ratios(of, to []float64) []float64 {
	r := make([]float64, len(of))
	for i := range of {
		r[i] = of[i] / to[i]
	}
	return r
}

func (f *Figure) against(reference string, of, to []float64) {
	r := spread(ratios(of, to))
	f.Ratio, f.Reference = &r, reference
}

func (f *Figure) limitRatio(most float64) {
	f.Budget = &Budget{Limit: most, OfRatio: true, Met: f.Ratio.Median <= most}
}

func (f *Figure) limit(most float64) {
	f.Budget = &Budget{Limit: most, Met: f.Value.Median <= most}
}

func (f *Figure) atLeast(least float64) {
	f.Budget = &Budget{Limit: least, AtLeast: true, Met: f.Value.Median >= least}
}

// Missed lists the figures that are over their budgets, as "section: case".
func (r *Report) Missed() []string {
	var missed []string
	for _, s := range r.Sections {
		for _, f := range s.Figures {
			if f.Budget != nil && !f.Budget.Met {
				missed = append(missed, s.Name+": "+f.Case)
			}
		}
	}
	return missed
}

// WriteJSON writes the report for programs.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// WriteText writes the report for people.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	r.Machine.text(&b)
	for i := range r.Sections {
		b.WriteByte('\n')
		if err := r.Sections[i].text(&b); err != nil {
			return err
		}
	}
	r.verdict(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) verdict(b *strings.Builder) {
	budgets := 0
	for _, s := range r.Sections {
		for _, f := range s.Figures {
			if f.Budget != nil {
				budgets++
			}
		}
	}
	missed := r.Missed()
	fmt.Fprintf(b, "\n%d of %d budgets met, in %v.\n", budgets-len(missed), budgets,
		time.Duration(r.Seconds*float64(time.Second)).Round(time.Second))
	for _, m := range missed {
		fmt.Fprintf(b, "  missed: %s\n", m)
	}
	for _, s := range r.Sections {
		if s.Err != "" {
			fmt.Fprintf(b, "  not measured: %s\n", s.Name)
		}
	}
}

func (s *Section) text(b *strings.Builder) error {
	fmt.Fprintf(b, "%s: %s\n", s.Name, s.Title)
	for _, c := range s.Conditions {
		fmt.Fprintf(b, "  %s\n", c)
	}
	if len(s.Figures) > 0 {
		t := tabwriter.NewWriter(b, 0, 0, 3, ' ', 0)
		s.header(t)
		for i := range s.Figures {
			s.Figures[i].line(t, s.parts())
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	if s.Err != "" {
		fmt.Fprintf(b, "  could not be measured: %s\n", strings.ReplaceAll(s.Err, "\n", "\n    "))
	}
	return nil
}

// parts names the terms of the section's sums.
func (s *Section) parts() []string {
	var names []string
	for _, f := range s.Figures {
		for _, p := range f.Parts {
			if !slices.Contains(names, p.Name) {
				names = append(names, p.Name)
			}
		}
	}
	return names
}

func (s *Section) header(w io.Writer) {
	fmt.Fprint(w, "\t\tmedian (min–max)")
	for _, p := range s.parts() {
		fmt.Fprintf(w, "\t%s", p)
	}
	fmt.Fprint(w, "\tratio (min–max)\tto\tbudget\t\n")
}

func (f *Figure) line(w io.Writer, parts []string) {
	fmt.Fprintf(w, "  %s\t%s\t%s", f.Case, f.Unit, f.Value)
	for _, name := range parts {
		i := slices.IndexFunc(f.Parts, func(p Part) bool { return p.Name == name })
		if i < 0 {
			fmt.Fprint(w, "\t")
			continue
		}
		fmt.Fprintf(w, "\t%s", number(f.Parts[i].Value.Median))
	}
	if f.Ratio != nil {
		fmt.Fprintf(w, "\t%.2f (%.2f–%.2f)\t%s", f.Ratio.Median, f.Ratio.Min, f.Ratio.Max, f.Reference)
	} else {
		fmt.Fprint(w, "\t\t")
	}
	fmt.Fprintf(w, "\t%s\t%s\n", f.Budget, f.Note)
}

// String is how a budget stands in a table.
func (b *Budget) String() string {
	if b == nil {
		return ""
	}
	sign, verdict := "≤", "missed"
	if b.AtLeast {
		sign = "≥"
	}
	if b.Met {
		verdict = "met"
	}
	return fmt.Sprintf("%s %s %s", sign, number(b.Limit), verdict)
}

// String is how a quantity stands in a table.
func (s Spread) String() string {
	if s.Rounds <= 1 {
		return number(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.Median), number(s.Min), number(s.Max))
}

// number writes as many digits as mean something.
func number(v float64) string {
	switch {
	case v >= 100:
		return group(int64(v + 0.5))
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// group sets commas between thousands.
func group(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
