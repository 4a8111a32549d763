package metrics

import (
	"bytes"
	"strconv"

	dto "github.com/prometheus/client_model/go"

	"github.com/pilotfish-epp/pilotfish/pkg/runtime"
)

// memory keeps what a pod's last page was parsed to. From one page to the next it is the values that change, hardly ever
// the series; parsing their names and labels anew would cost ten times what the values do.
type memory struct {
	shape  []byte
	page   runtime.Page
	values []*float64 // of the page, in the order of its lines
}

// shape is a page's lines with their values taken out.
type shape struct {
	text   []byte
	names  [][]byte // of the samples, in their order
	values []float64
}

// take fills s with lines, which are those that a filter kept. It says whether all of them are of the usual form: what
// isn't, is for the parser. The names are views of lines.
func (s *shape) take(lines []byte) (plain bool) {
	s.text, s.names, s.values = s.text[:0], s.names[:0], s.values[:0]
	for line := range bytes.Lines(lines) {
		subject := skipBlanks(line)
		switch {
		case subject[0] == '#':
			s.text = append(s.text, line...)
			continue
		case quoted(subject):
			return false
		}
		name := subject[:bytes.IndexAny(subject, afterName)]
		series := len(line) - len(subject) + len(name)
		if line[series] == '{' {
			series = bytes.LastIndexByte(line, '}') + 1
		}
		value, ok := number(line[series:])
		if !ok {
			return false
		}
		s.text = append(append(s.text, line[:series]...), '\n')
		s.names, s.values = append(s.names, name), append(s.values, value)
	}
	return true
}

// number reads a decimal number with blanks around it, and nothing else: no NaN, no timestamp behind.
func number(text []byte) (float64, bool) {
	text = bytes.Trim(text, " \t\n")
	for _, b := range text {
		if (b < '0' || b > '9') && b != '.' && b != '-' && b != '+' && b != 'e' && b != 'E' {
			return 0, false
		}
	}
	v, err := strconv.ParseFloat(string(text), 64)
	return v, err == nil
}

// recall makes the page that is remembered the one of s, if it has the same series in the same order.
func (m *memory) recall(s *shape) bool {
	if m.page == nil || !bytes.Equal(s.text, m.shape) {
		return false
	}
	for i, v := range s.values {
		*m.values[i] = v
	}
	return true
}

// remember keeps page, the parsed lines of s, if each of its samples is one number.
func (m *memory) remember(page runtime.Page, s *shape) {
	m.page, m.values = nil, m.values[:0]
	seen := map[string]int{}
	for _, name := range s.names {
		metrics := page[string(name)].GetMetric()
		at := seen[string(name)]
		if at == len(metrics) {
			return
		}
		value := valueOf(metrics[at])
		if value == nil {
			return
		}
		m.values = append(m.values, value)
		seen[string(name)]++
	}
	m.page, m.shape = page, append(m.shape[:0], s.text...)
}

// valueOf gives where m has its value; nil when it isn't one number.
func valueOf(m *dto.Metric) *float64 {
	switch {
	case m.Gauge != nil:
		return m.Gauge.Value
	case m.Untyped != nil:
		return m.Untyped.Value
	case m.Counter != nil:
		return m.Counter.Value
	}
	return nil
}
