package telemetry

import (
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"
)

// BothSpellings returns g with every inference_model_* family shown a second time as inference_objective_*: the family
// renamed its request metrics, and dashboards of either age should work. Nothing is counted twice; the second spelling
// is made when the page is fetched.
func BothSpellings(g prometheus.Gatherer) prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		families, err := g.Gather()
		for _, f := range families[:len(families):len(families)] {
			rest, ok := strings.CutPrefix(f.GetName(), "inference_model_")
			if !ok {
				continue
			}
			families = append(families, &dto.MetricFamily{
				Name: proto.String("inference_objective_" + rest), Help: f.Help, Type: f.Type, Unit: f.Unit, Metric: f.Metric,
			})
		}
		slices.SortFunc(families, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
		return families, err
	})
}
