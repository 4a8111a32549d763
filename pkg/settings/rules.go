package settings

import "fmt"

// rule is what several settings must fulfil together.
type rule struct {
	settings []string // those it speaks of, the one to blame first in front
	holds    func(*Values) bool
	allowed  func(*Values) string
}

var rules = []rule{
	{
		settings: []string{"MAX_BUFFERED", "MAX_REQUEST_BODY"},
		holds:    func(v *Values) bool { return v.MaxBuffered >= v.MaxRequestBody },
		allowed: func(v *Values) string {
			return fmt.Sprintf("MAX_BUFFERED (now %d) at least MAX_REQUEST_BODY (now %d)", v.MaxBuffered, v.MaxRequestBody)
		},
	},
	apart("GRPC_PORT", "GRPC_HEALTH_PORT",
		func(v *Values) int { return v.GRPCPort }, func(v *Values) int { return v.GRPCHealthPort }),
	apart("GRPC_PORT", "METRICS_PORT",
		func(v *Values) int { return v.GRPCPort }, func(v *Values) int { return v.MetricsPort }),
	apart("GRPC_HEALTH_PORT", "METRICS_PORT",
		func(v *Values) int { return v.GRPCHealthPort }, func(v *Values) int { return v.MetricsPort }),
}

// apart is the rule that two ports differ, unless the system chooses them.
func apart(one, other string, a, b func(*Values) int) rule {
	return rule{
		settings: []string{one, other},
		holds:    func(v *Values) bool { return a(v) != b(v) || a(v) == 0 },
		allowed:  func(v *Values) string { return fmt.Sprintf("%s and %s different (now both %d)", one, other, a(v)) },
	}
}

func firstBroken(v *Values) *rule {
	for i := range rules {
		if !rules[i].holds(v) {
			return &rules[i]
		}
	}
	return nil
}

// retreat takes the settings of a broken rule back to their last good values in every layer, and says so for those that
// were offered anew. It reports whether anything was taken back.
func (s *Store) retreat(next *[layers]map[int]entry, broken *rule, values *Values) bool {
	moved := false
	for _, name := range broken.settings {
		at, _ := lookup(name)
		for layer := range layers {
			now, there := next[layer][at]
			last, before := s.good[layer][at]
			if there == before && now == last {
				continue
			}
			moved = true
			if before {
				next[layer][at] = last
			} else {
				delete(next[layer], at)
			}
			if !there { // given up while another setting needs it
				now = entry{source: last.source, value: ""}
			}
			s.problems[layer] = append(s.problems[layer], Problem{
				Setting: name, Layer: layer, Source: now.source, Value: now.value,
				Reason: "contradicts another setting", Allowed: broken.allowed(values),
			})
		}
	}
	return moved
}
