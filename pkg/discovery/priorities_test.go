package discovery

import (
	"strings"
	"sync"
	"testing"
	"time"
)

// ranked is an endpoints file with both sections of priorities.
const ranked = `endpoints: []
models:
- name: meta-llama/Llama-3.1-8B-Instruct
  criticality: Critical
- {name: summaries, criticality: sheddable}
- {name: embeddings, criticality: Schedulable}   # the family's other spelling
- {name: chat, criticality: STANDARD}
- {name: plain}                                  # Standard, as an InferenceModel without one
objectives:
- name: batch
  priority: -1
- {name: alarms, priority: "2147483647"}
- {name: night, priority: -2147483648}
- {name: summaries, priority: 7}                 # a model may be called so too
- {name: usual}                                  # 0, as an InferenceObjective without one
`

func TestObjectiveBeforeModelBeforeStandard(t *testing.T) {
	doc, err := parse("e.yaml", []byte(ranked))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		objective, model string
		want             int
	}{
		{"", "meta-llama/Llama-3.1-8B-Instruct", Critical},
		{"", "summaries", Sheddable},
		{"", "embeddings", Sheddable},
		{"", "chat", Standard},
		{"", "plain", Standard},
		{"", "never heard of", Standard},
		{"", "", Standard},
		{"batch", "", -1},
		{"batch", "never heard of", -1},
		{"batch", "meta-llama/Llama-3.1-8B-Instruct", -1},
		{"alarms", "summaries", 2147483647},
		{"night", "chat", -2147483648},
		{"summaries", "chat", 7},
		{"usual", "meta-llama/Llama-3.1-8B-Instruct", 0}, // known, though it says nothing
		{"never heard of", "meta-llama/Llama-3.1-8B-Instruct", Critical},
		{"never heard of", "never heard of", Standard},
		{"Batch", "summaries", Sheddable}, // names are exact
		{"chat", "summaries", Sheddable},  // a model's name is no objective's
	}
	for _, test := range tests {
		if got := doc.priorities.Of(test.objective, test.model); got != test.want {
			t.Errorf("objective %q, model %q: %d, want %d", test.objective, test.model, got, test.want)
		}
	}
}

func TestNoPrioritiesAreNil(t *testing.T) {
	for _, text := range []string{"endpoints: []\n", "endpoints: []\nmodels: []\nobjectives: []\n"} {
		doc, err := parse("e.yaml", []byte(text))
		if err != nil || doc.priorities != nil {
			t.Errorf("%q: %+v, %v", text, doc.priorities, err)
		}
	}
	if got := (*Priorities)(nil).Of("batch", "chat"); got != Standard {
		t.Errorf("nil gives %d", got)
	}
}

func TestPrioritiesAreCopied(t *testing.T) {
	models := map[string]int{"chat": Critical}
	p := NewPriorities(models, nil)
	models["chat"] = Sheddable
	if got := p.Of("", "chat"); got != Critical {
		t.Errorf("changed from outside: %d", got)
	}
}

func TestAskingForAPriorityAllocatesNothing(t *testing.T) {
	p := NewPriorities(map[string]int{"chat": Critical}, map[string]int{"batch": Sheddable})
	if n := testing.AllocsPerRun(1000, func() { p.Of("unknown", "chat") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestBadPriorities(t *testing.T) {
	model := func(field string) string { return "endpoints: []\nmodels:\n- name: m\n  " + field + "\n" }
	objective := func(field string) string { return "endpoints: []\nobjectives:\n- name: o\n  " + field + "\n" }
	tests := []struct{ text, want string }{
		{"models: []\n", "e.yaml:1: the file: expected field endpoints, which is missing"},
		{"endpoints: []\nmodel: []\n", `e.yaml:2: unknown field "model": expected endpoints, models, objectives; did you mean models?`},
		{"endpoints: []\nmodels: []\nmodels: []\n", "e.yaml:3: models: given twice, first in line 2"},
		{"endpoints: []\nmodels:\n", "e.yaml:2: models: expected a list, got nothing; models: [] stands for none"},
		{"endpoints: []\nobjectives: {batch: -1}\n", "e.yaml:2: objectives: expected a list, got fields; objectives: [] stands for none"},
		{"endpoints: []\nmodels:\n- m\n", `e.yaml:3: a model: expected fields (criticality, name), got "m"`},
		{"endpoints: []\nobjectives:\n- [o]\n", "e.yaml:3: an objective: expected fields (name, priority), got a list"},
		{"endpoints: []\nmodels:\n- criticality: Critical\n", "e.yaml:3: a model: expected field name, which is missing"},
		{"endpoints: []\nmodels:\n- name: ''\n", "e.yaml:3: name: expected a text, got nothing"},
		{"endpoints: []\nmodels:\n- name: ' m'\n", `e.yaml:3: name: expected a text without blanks around it, got " m"`},
		{"endpoints: []\nobjectives:\n- name: |\n    batch\n", `e.yaml:3: name: expected a text without blanks around it, got "batch\n"`},
		{model("critical: true"), `e.yaml:4: unknown field "critical": expected criticality, name`},
		{model("priority: 1"), `e.yaml:4: unknown field "priority": expected criticality, name`},
		{model("criticality: High"), `e.yaml:4: criticality: expected Critical, Standard or Sheddable, got "High"`},
		{model("criticality: 1"), `e.yaml:4: criticality: expected Critical, Standard or Sheddable, got "1"`},
		{model("criticality:"), "e.yaml:4: criticality: expected Critical, Standard or Sheddable, got nothing"},
		{model("criticality: [Critical]"), "e.yaml:4: criticality: expected Critical, Standard or Sheddable, got a list"},
		{model("criticality: Critical\n- name: n\n- name: m"), `e.yaml:6: models: name: "m" is already in line 3`},
		{objective("criticality: Critical"), `e.yaml:4: unknown field "criticality": expected name, priority`},
		{objective("priority: high"), `e.yaml:4: priority: expected a whole number of -2147483648..2147483647, got "high"`},
		{objective("priority: 1.0"), `e.yaml:4: priority: expected a whole number of -2147483648..2147483647, got "1.0"`},
		{objective("priority: 2147483648"), `e.yaml:4: priority: expected a whole number of -2147483648..2147483647, got "2147483648"`},
		{objective("priority: -2147483649"), `e.yaml:4: priority: expected a whole number of -2147483648..2147483647, got "-2147483649"`},
		{objective("priority:"), "e.yaml:4: priority: expected a whole number of -2147483648..2147483647, got nothing"},
		{objective("priority: 1\n- {name: o, priority: 1}"), `e.yaml:5: objectives: name: "o" is already in line 3`},
		{
			"endpoints:\n- {address: a, port: 0}\nmodels:\n- {name: m, criticality: x}\n- {name: m}\nobjectives:\n- {priority: 1}\n",
			"e.yaml:2: port: expected a number of 1..65535, got \"0\"\n" +
				"e.yaml:4: criticality: expected Critical, Standard or Sheddable, got \"x\"\n" +
				"e.yaml:7: an objective: expected field name, which is missing",
		},
	}
	for _, test := range tests {
		t.Run(test.want, func(t *testing.T) {
			_, err := parse("e.yaml", []byte(test.text))
			if err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("%s\ngot:  %v\nwant: %s", test.text, err, test.want)
			}
		})
	}
}

func TestPrioritiesAreHandedOverWhenTheyChange(t *testing.T) {
	var mu sync.Mutex
	var given []*Priorities
	s := beginWith(t, list("10.0.0.1"), Options{Again: time.Hour, Priorities: func(p *Priorities) {
		mu.Lock()
		defer mu.Unlock()
		given = append(given, p)
	}})
	// so tells what was handed over up to here: the priorities of model m.
	so := func(want ...int) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if len(given) != len(want) {
			t.Fatalf("handed over %d times, want %d", len(given), len(want))
		}
		for i, p := range given {
			if got := p.Of("", "m"); got != want[i] {
				t.Errorf("handed over %d gives %d, want %d", i, got, want[i])
			}
		}
	}
	const critical, sheddable = "models: [{name: m, criticality: Critical}]\n", "models: [{name: m, criticality: Sheddable}]\n"

	s.until("10.0.0.1:8000")
	so() // the file has none: nothing to tell

	s.write(list("10.0.0.2") + critical)
	s.until("10.0.0.2:8000") // what is in the pool came later than its priorities
	so(Critical)

	s.write(list("10.0.0.3") + "objectives: []\n" + critical + "# said otherwise, and the same\n")
	s.until("10.0.0.3:8000")
	so(Critical)

	s.write(list("10.0.0.4") + strings.Replace(sheddable, "Sheddable", "Shedable", 1))
	s.problem(s.path + `:3: criticality: expected Critical, Standard or Sheddable, got "Shedable"`)
	s.until("10.0.0.3:8000") // the last good file stays whole
	so(Critical)

	s.write(list("10.0.0.5") + sheddable)
	s.until("10.0.0.5:8000")
	so(Critical, Sheddable)

	s.write(list("10.0.0.6"))
	s.until("10.0.0.6:8000")
	so(Critical, Sheddable, Standard)
	if given[2] != nil {
		t.Errorf("no priorities are %+v, want nil", given[2])
	}
}
