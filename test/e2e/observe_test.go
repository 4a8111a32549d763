package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	prom "github.com/prometheus/common/model"

	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

// metrics is one reading of a picker's metrics page.
type metrics map[string]*dto.MetricFamily

func metricsOf(t *testing.T, p *stack.Picker) metrics {
	t.Helper()
	m, err := readMetrics(p)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func readMetrics(p *stack.Picker) (metrics, error) {
	b, err := fetch("http://" + p.Metrics.String() + "/metrics")
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(prom.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("metrics page of %s: %w", p.Name(), err)
	}
	return families, nil
}

// sum adds up the samples of a metric whose labels have the given values, such as "reason=prefix". Of histograms it
// is the sum of what was observed. A metric without samples gives 0.
func (m metrics) sum(name string, labels ...string) float64 {
	var sum float64
	for _, s := range m.samples(name, labels) {
		sum += s.GetCounter().GetValue() + s.GetGauge().GetValue() + s.GetHistogram().GetSampleSum()
	}
	return sum
}

// count adds up how often something was observed in a histogram.
func (m metrics) count(name string, labels ...string) uint64 {
	var n uint64
	for _, s := range m.samples(name, labels) {
		n += s.GetHistogram().GetSampleCount()
	}
	return n
}

func (m metrics) samples(name string, labels []string) []*dto.Metric {
	var found []*dto.Metric
	for _, s := range m[name].GetMetric() {
		if hasLabels(s, labels) {
			found = append(found, s)
		}
	}
	return found
}

func hasLabels(s *dto.Metric, labels []string) bool {
	for _, want := range labels {
		has := false
		for _, l := range s.GetLabel() {
			has = has || l.GetName()+"="+l.GetValue() == want
		}
		if !has {
			return false
		}
	}
	return true
}

// picks is how many requests a picker has given a pod.
func picks(t *testing.T, p *stack.Picker) int {
	t.Helper()
	return int(metricsOf(t, p).sum("pilotfish_picks_total"))
}

// accessLog gives the lines of Envoy's access log that were written so far.
func (s *site) accessLog() []string {
	b, err := os.ReadFile(filepath.Join(s.Dir(), "access.log"))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

func decode[T any](t *testing.T, b []byte) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%v in %.500s", err, b)
	}
	return v
}

// inFlight is how many requests a picker counts at all pods now.
func inFlight(p *stack.Picker) (int, error) {
	m, err := readMetrics(p)
	if err != nil {
		return 0, err
	}
	return int(m.sum("pilotfish_pod_in_flight_requests")), nil
}

// wantIdle waits until the pickers of a site count nothing any more: no request, no stream, no byte held.
func (s *site) wantIdle(t *testing.T) {
	t.Helper()
	for _, p := range s.pickers {
		eventually(t, answerLimit, p.Name()+" to count nothing", func() error {
			m, err := readMetrics(p)
			if err != nil {
				return err
			}
			for _, gauge := range []string{"pilotfish_pod_in_flight_requests", "pilotfish_streams", "pilotfish_buffered_bytes", "inference_model_running_requests"} {
				if n := m.sum(gauge); n != 0 {
					return fmt.Errorf("%s is %v", gauge, n)
				}
			}
			return nil
		})
	}
}

// wantNoBypass checks that no request has passed the picker by, and that Envoy found every message of it in order.
func (s *site) wantNoBypass(t *testing.T) {
	t.Helper()
	stats, err := s.envoy.Stats(t.Context(), `ext_proc\.`)
	if err != nil {
		t.Fatal(err)
	}
	if len(stats) == 0 {
		t.Fatal("Envoy shows no counters of ext_proc")
	}
	for name, n := range stats {
		for _, bad := range []string{"failure_mode_allowed", "streams_failed", "spurious_msgs_received", "message_timeouts", "rejected_header_mutations", "override_message_timeout_ignored"} {
			if strings.HasSuffix(name, bad) && n != 0 {
				t.Errorf("Envoy counts %s: %d, expected 0", name, n)
			}
		}
	}
}

// accessEntry is a line of Envoy's access log.
type accessEntry struct {
	Status   any    `json:"status"`
	Details  string `json:"details"`
	Flags    string `json:"flags"`
	Picked   string `json:"picked"`
	Served   string `json:"served"`
	Attempts int    `json:"attempts"`
}

// accessEntries waits until every request that has ended is in the access log, and gives its lines.
func (s *site) accessEntries(t *testing.T) []accessEntry {
	t.Helper()
	stats, err := s.envoy.Stats(t.Context(), `^http\.gateway\.downstream_rq_completed$`)
	if err != nil {
		t.Fatal(err)
	}
	ended := stats["http.gateway.downstream_rq_completed"]
	var lines []string
	eventually(t, answerLimit, "Envoy to write its access log", func() error {
		if lines = s.accessLog(); int64(len(lines)) < ended || ended == 0 {
			return fmt.Errorf("%d lines for %d requests", len(lines), ended)
		}
		return nil
	})
	entries := make([]accessEntry, len(lines))
	for i, line := range lines {
		entries[i] = decode[accessEntry](t, []byte(line))
	}
	return entries
}
