package runtime

import (
	"math"
	"strconv"
	"strings"

	dto "github.com/prometheus/client_model/go"
)

// sheet is a page while it is being read: it remembers which metrics were looked for in vain.
type sheet struct {
	page    Page
	missing []string
	absent  []string
	load    bool     // a count of waiting or running requests was found
	wanted  []string // the names under which those were looked for
}

// series are the samples of one metric whose values can be.
type series []sample

type sample struct {
	labels []*dto.LabelPair
	value  float64
}

// most bounds every number of a page. 2^53 is where a float64 stops being an exact count.
const most = 1 << 53

// of gives the samples of the first of names that the page has.
func (s *sheet) of(names ...string) series {
	for _, name := range names {
		if found := samples(s.page[name]); len(found) > 0 {
			return found
		}
	}
	return nil
}

// needed is of for a metric that should be there.
func (s *sheet) needed(names ...string) series {
	found := s.of(names...)
	if found == nil {
		s.missing = append(s.missing, strings.Join(names, " or "))
	}
	return found
}

// optional is of for a metric that may be absent.
func (s *sheet) optional(names ...string) series {
	found := s.of(names...)
	if found == nil {
		s.absent = append(s.absent, strings.Join(names, " or "))
	}
	return found
}

// requests is needed for a count of requests: at least one of these makes a page a page of this server.
func (s *sheet) requests(pick func(series) series, names ...string) int {
	found := pick(s.of(names...))
	s.wanted = append(s.wanted, names...)
	if len(found) == 0 {
		s.missing = append(s.missing, strings.Join(names, " or "))
		return 0
	}
	s.load = true
	return found.total()
}

func every(s series) series { return s }

func samples(family *dto.MetricFamily) series {
	var out series
	for _, m := range family.GetMetric() {
		v, ok := value(m)
		if ok && v >= 0 && v <= most { // false for NaN too
			out = append(out, sample{m.GetLabel(), v})
		}
	}
	return out
}

func value(m *dto.Metric) (float64, bool) {
	switch {
	case m.Gauge != nil:
		return m.Gauge.GetValue(), true
	case m.Untyped != nil:
		return m.Untyped.GetValue(), true
	case m.Counter != nil:
		return m.Counter.GetValue(), true
	}
	return 0, false
}

// total is the sum as a whole number.
func (s series) total() int {
	sum := 0.0
	for _, x := range s {
		sum += x.value
	}
	return int(min(sum, most))
}

// share is the mean, as a share of 0..1. A server whose share is a little above 1 is full; one that says far more
// doesn't mean a share, and its sample is left out.
func (s series) share() float64 {
	sum, n := 0.0, 0
	for _, x := range s {
		if x.value <= 2 {
			sum += min(x.value, 1)
			n++
		}
	}
	if n == 0 {
		return 0
	}
	return sum / float64(n)
}

func (s series) largest() float64 {
	v := 0.0
	for _, x := range s {
		v = max(v, x.value)
	}
	return v
}

// newest is the sample with the largest value: info metrics carry the time of their last change as value.
func (s series) newest() sample {
	var newest sample
	for _, x := range s {
		if x.value >= newest.value {
			newest = x
		}
	}
	return newest
}

// where keeps the samples whose label has this value.
func (s series) where(label, value string) series {
	var kept series
	for _, x := range s {
		if x.label(label) == value {
			kept = append(kept, x)
		}
	}
	return kept
}

func (x sample) label(name string) string {
	for _, l := range x.labels {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// whole reads a label that holds a whole number; 0 when it holds none ("None", as Python says).
func (x sample) whole(label string) int {
	n, err := strconv.Atoi(x.label(label))
	if err != nil || n < 0 || n > most {
		return 0
	}
	return n
}

// tokens multiplies a block size by a number of blocks, safely.
func tokens(blockSize, blocks float64) int { return int(math.Min(blockSize*blocks, most)) }
