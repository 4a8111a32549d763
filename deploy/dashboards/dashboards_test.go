// Package dashboards tests that the dashboard asks only for what the picker tells.
package dashboards

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"

	"github.com/pilotfish-epp/pilotfish/pkg/telemetry"
)

type dashboard struct {
	SchemaVersion int     `json:"schemaVersion"`
	Panels        []panel `json:"panels"`
	Templating    struct {
		List []struct {
			Name       string `json:"name"`
			Type       string `json:"type"`
			Definition string `json:"definition"`
		} `json:"list"`
	} `json:"templating"`
}

type panel struct {
	ID      int    `json:"id"`
	Type    string `json:"type"`
	Title   string `json:"title"`
	GridPos struct{ X, Y, W, H int }
	Targets []struct {
		Expr string `json:"expr"`
	} `json:"targets"`
	Datasource struct {
		UID string `json:"uid"`
	} `json:"datasource"`
}

// A metric's name in an expression stands before a selector; labels that are asked for stand in it or after by.
var (
	inUse    = regexp.MustCompile(`([a-z][a-z0-9_]+)\{([^}]*)\}`)
	selector = regexp.MustCompile(`([a-z_]+)(?:=|!)`)
	byList   = regexp.MustCompile(`by \(([^)]*)\)`)
)

func TestEveryMetricOfTheDashboardExists(t *testing.T) {
	d := load(t)
	labels := exposed(t)
	var expressions []string
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			expressions = append(expressions, target.Expr)
		}
	}
	used := 0
	for _, expr := range expressions {
		names := inUse.FindAllStringSubmatch(expr, -1)
		if len(names) == 0 {
			t.Errorf("no metric in %q", expr)
		}
		for _, match := range names {
			used++
			has, ok := labels[match[1]]
			if !ok {
				t.Errorf("%s is not on the metrics page, in %q", match[1], expr)
				continue
			}
			for _, asked := range selector.FindAllStringSubmatch(match[2], -1) {
				if asked[1] != "job" && !slices.Contains(has, asked[1]) {
					t.Errorf("%s has no label %q, in %q", match[1], asked[1], expr)
				}
			}
			for _, by := range byList.FindAllStringSubmatch(expr, -1) {
				for label := range strings.SplitSeq(by[1], ",") {
					// instance and job are added by Prometheus.
					if label = strings.TrimSpace(label); label != "instance" && !slices.Contains(has, label) {
						t.Errorf("%s has no label %q, in %q", match[1], label, expr)
					}
				}
			}
		}
	}
	if used < 40 {
		t.Errorf("only %d uses of metrics found: does the test still read expressions?", used)
	}
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		metric := regexp.MustCompile(`label_values\(([a-z_]+)`).FindStringSubmatch(v.Definition)
		if metric == nil || labels[metric[1]] == nil {
			t.Errorf("variable %s asks for a metric that is not there: %q", v.Name, v.Definition)
		}
	}
}

func TestTheDashboardIsWhole(t *testing.T) {
	d := load(t)
	if d.SchemaVersion < 39 || len(d.Templating.List) == 0 || d.Templating.List[0].Type != "datasource" {
		t.Errorf("schema %d, variables %v; want at least 39 and the data source first", d.SchemaVersion, d.Templating.List)
	}
	ids := make(map[int]bool)
	for i, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("panel %q: ID %d is taken", p.Title, p.ID)
		}
		ids[p.ID] = true
		if p.Type != "row" && p.Datasource.UID != "${datasource}" {
			t.Errorf("panel %q: data source %q, want the variable", p.Title, p.Datasource.UID)
		}
		if p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %q is beyond the 24th column", p.Title)
		}
		for _, q := range d.Panels[:i] {
			a, b := p.GridPos, q.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("panels %q and %q lie over each other", p.Title, q.Title)
			}
		}
	}
}

// exposed gives the series' names of a picker's page after some traffic, as they are asked for, with their labels.
func exposed(t *testing.T) map[string][]string {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	m := telemetry.New(reg, telemetry.Build{})
	m.Watch(telemetry.Sources{
		PoolName: "p",
		Pods: func() []telemetry.PodLoad {
			return []telemetry.PodLoad{{Name: "a", Ready: true, Reported: true}}
		},
		Index:    func() telemetry.IndexSize { return telemetry.IndexSize{} },
		Buffered: func() int64 { return 0 },
		Streams: func() telemetry.StreamCounts {
			return telemetry.StreamCounts{Modes: []telemetry.ModeCount{{}}, Refused: map[string]int64{"r": 1}}
		},
		Queue:    func() []telemetry.QueueLevel { return []telemetry.QueueLevel{{Length: 1}} },
		Refused:  func() int { return 0 },
		Interval: func() time.Duration { return 0 },
	})
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.Picked(&telemetry.Pick{Model: "m", Target: "m", Reason: "load", Blocks: 1})
	m.Finished(&telemetry.Done{Model: "m", Target: "m", Status: 200, End: telemetry.EndCompleted, HasUsage: true})
	m.Waited(0, telemetry.WaitDispatched, time.Second)
	m.ScrapeFailed("a", "timeout")
	m.EndpointsReloaded(false)
	families, err := telemetry.BothSpellings(reg).Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string][]string)
	for _, f := range families {
		var labels []string
		for _, pair := range f.Metric[0].Label {
			labels = append(labels, pair.GetName())
		}
		if f.GetType() == dto.MetricType_HISTOGRAM {
			out[f.GetName()+"_bucket"] = append(labels, "le")
			out[f.GetName()+"_sum"], out[f.GetName()+"_count"] = labels, labels
			continue
		}
		out[f.GetName()] = append([]string{}, labels...) // never nil, also without labels
	}
	return out
}

func load(t *testing.T) dashboard {
	t.Helper()
	data, err := os.ReadFile("pilotfish.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	return d
}
