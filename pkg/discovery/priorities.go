package discovery

import (
	"maps"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Criticalities as priorities, after InferenceModel and InferenceObjective of the Gateway API inference extension: a
// higher one goes first, and those below Standard may be shed.
const (
	Critical  = 1
	Standard  = 0
	Sheddable = -1
)

// Priorities tell how important a request is. They never change, so any number may read them at once. A nil one knows no
// names: everything is Standard.
type Priorities struct {
	models     map[string]int
	objectives map[string]int
}

// NewPriorities gives the priorities of models, by the name that requests ask for, and of objectives, by the name that
// the header has; both are copied, no name is empty. It gives nil for no names at all.
func NewPriorities(models, objectives map[string]int) *Priorities {
	if len(models)+len(objectives) == 0 {
		return nil
	}
	return &Priorities{models: maps.Clone(models), objectives: maps.Clone(objectives)}
}

// Of is the priority of a request: its objective's if that is known, else its model's if that is known, else Standard.
// An empty name stands for none. It takes two look-ups at most and doesn't allocate.
func (p *Priorities) Of(objective, model string) int {
	if p == nil {
		return Standard
	}
	if priority, ok := p.objectives[objective]; ok {
		return priority
	}
	return p.models[model] // Standard, when it isn't there
}

func (p *Priorities) equal(q *Priorities) bool {
	if p == nil || q == nil {
		return p == q
	}
	return maps.Equal(p.models, q.models) && maps.Equal(p.objectives, q.objectives)
}

// names counts the models and the objectives that have a priority.
func (p *Priorities) names() (models, objectives int) {
	if p == nil {
		return 0, 0
	}
	return len(p.models), len(p.objectives)
}

// ranks reads a list of names, each with one more field that says how important it is. Without that field a name is
// Standard, as an InferenceModel without criticality and an InferenceObjective without priority are.
func (p *parser) ranks(n *yaml.Node, section, item, field string, rank func(*yaml.Node) int) map[string]int {
	if !p.isList(n, section) {
		return nil
	}
	out := make(map[string]int, len(n.Content))
	lines := make(map[string]int, len(n.Content))
	for _, at := range n.Content {
		had, name, priority := len(p.problems), "", Standard
		p.fields(resolved(at), item, map[string]func(*yaml.Node){
			"name": func(n *yaml.Node) { name = p.requestName(n) },
			field:  func(n *yaml.Node) { priority = rank(n) },
		}, "name")
		switch {
		case len(p.problems) > had:
		case lines[name] != 0:
			p.wrong(at, "%s: name: %q is already in line %d", section, name, lines[name])
		default:
			out[name], lines[name] = priority, at.Line
		}
	}
	return out
}

// requestName reads a name that requests are compared with. No request has blanks or line breaks around it, so a name
// that does would be there for nothing.
func (p *parser) requestName(n *yaml.Node) string {
	name := p.text(n, "name")
	if name != strings.TrimSpace(name) {
		p.wrong(n, "name: expected a text without blanks around it, got %q", name)
	}
	return name
}

func (p *parser) criticality(n *yaml.Node) int {
	const expected = "criticality: expected Critical, Standard or Sheddable, got %s"
	if n.Kind != yaml.ScalarNode {
		p.wrong(n, expected, describe(n))
		return Standard
	}
	switch strings.ToLower(n.Value) {
	case "critical":
		return Critical
	case "standard":
		return Standard
	case "sheddable", "schedulable": // the family's documents have both spellings
		return Sheddable
	}
	p.wrong(n, expected, describe(n))
	return Standard
}

func (p *parser) priority(n *yaml.Node) int {
	priority, err := strconv.ParseInt(n.Value, 10, 32)
	if n.Kind != yaml.ScalarNode || err != nil {
		p.wrong(n, "priority: expected a whole number of -2147483648..2147483647, got %s", describe(n))
		return Standard
	}
	return int(priority)
}
