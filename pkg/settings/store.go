package settings

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Layer is where a value comes from; a later layer covers an earlier one.
type Layer uint8

// The layers, lowest first.
const (
	Defaults Layer = iota
	Environment
	Flag
	File
	Annotation
	layers
)

// String returns the layer's name in lower case.
func (l Layer) String() string {
	return [...]string{"default", "environment", "flag", "file", "annotation"}[l]
}

// MarshalText returns the layer's name.
func (l Layer) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads a layer's name.
func (l *Layer) UnmarshalText(text []byte) error {
	for layer := range layers {
		if layer.String() == string(text) {
			*l = layer
			return nil
		}
	}
	return fmt.Errorf("layer %q: expected default, environment, flag, file or annotation", text)
}

// Change is one setting whose value in force changed. Layer is where the new value comes from.
type Change struct {
	Name  string `json:"name"`
	Old   string `json:"old"`
	New   string `json:"new"`
	Layer Layer  `json:"layer"`
}

// Problem is one value that was refused. The last good value of that setting in that layer, if there was one, stays.
type Problem struct {
	Setting string `json:"setting"`           // the setting's name; as written when there is no such setting
	Layer   Layer  `json:"layer"`             // where the value was given
	Source  string `json:"source"`            // the variable, flag or annotation key, as written
	Value   string `json:"value"`             // the value, as written
	Reason  string `json:"reason"`            // what is wrong with it
	Allowed string `json:"allowed,omitempty"` // what is allowed
	InForce string `json:"inForce,omitempty"` // the value that is used instead
}

// Error tells where, what came and what is allowed.
func (p Problem) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %q: %s", p.Source, p.Value, p.Reason)
	if p.Allowed != "" {
		fmt.Fprintf(&b, "; allowed: %s", p.Allowed)
	}
	if p.InForce != "" {
		fmt.Fprintf(&b, "; in force: %s", p.InForce)
	}
	return b.String()
}

// Store holds the layers and the Values in force. Current may be called from everywhere at any time; Apply, Table,
// Problems and Subscribe are safe for concurrent use and wait for each other.
type Store struct {
	current atomic.Pointer[Values]

	mu          sync.Mutex
	offered     [layers]map[int]entry // as last given; what was bad is kept here too, and tried again
	good        [layers]map[int]entry // what is in force or would be without the layers above
	refused     [layers][]Problem     // names without a setting, and settings that a layer can't give
	problems    [layers][]Problem     // what Problems returns
	subscribers map[*subscriber]struct{}
}

// entry is one value of one layer, as written.
type entry struct {
	source string // variable, flag or key
	value  string
}

type subscriber struct{ call func(*Values, []Change) }

// New returns a store over the environment and the flags of a process: name → value, names of either layer as
// FromEnvironment and a setting's kebab-case flag give them. Nil maps are empty. Every value that is not allowed is
// named in the error, which joins one Problem for each.
func New(environment, flags map[string]string) (*Store, error) {
	s := &Store{subscribers: make(map[*subscriber]struct{})}
	s.current.Store(Default())
	s.Apply(Environment, environment)
	s.Apply(Flag, flags)
	// Asked only now: a flag may have made right what the environment alone contradicted.
	problems := s.Problems()
	if len(problems) == 0 {
		return s, nil
	}
	all := make([]error, len(problems))
	for i, p := range problems {
		p.InForce = "" // nothing is in force: the process doesn't start
		all[i] = p
	}
	return nil, errors.Join(all...)
}

// Current returns the values in force. It never returns nil and costs one atomic load.
func (s *Store) Current() *Values { return s.current.Load() }

// Apply replaces all values of one layer: a name that is absent is given up, and the layer below shows. Names are
// variables, in snake or kebab case, present or older, and in the annotation layer also annotation keys; where both an
// older and the present name are there, the present one counts. Each value is validated by itself, and then all together: a value that is refused keeps the layer's last
// good value of that setting and is returned as a Problem, and the others apply. Subscribers hear of the changes before
// Apply returns.
func (s *Store) Apply(layer Layer, values map[string]string) ([]Change, []Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offered[layer], s.refused[layer] = sort(layer, values)
	changes := s.rebuild()
	return changes, slices.Clone(s.problems[layer])
}

// sort assigns the values of a layer to the table's rows, and refuses those that have none or must not come from there.
func sort(layer Layer, values map[string]string) (map[int]entry, []Problem) {
	var refused []Problem
	out := make(map[int]entry)
	for _, written := range sortedKeys(values) {
		name, value := written, strings.TrimSpace(values[written])
		if layer == Annotation {
			name = lastPart(written)
		}
		if slices.Contains(ignored, snake(name)) {
			continue
		}
		at, known := lookup(name)
		if !known {
			refused = append(refused, unknown(layer, written, name, value))
			continue
		}
		d := &table[at]
		if !d.hot && layer >= File {
			refused = append(refused, Problem{
				Setting: d.name, Layer: layer, Source: source(layer, written), Value: value,
				Reason:  "read only when the process starts",
				Allowed: "the environment variable " + d.name + " or the flag --" + kebab(d.name),
			})
			continue
		}
		if _, there := out[at]; there && snake(name) != d.name {
			continue // an older name beside the present one
		}
		out[at] = entry{source: source(layer, written), value: value}
	}
	return out, refused
}

func unknown(layer Layer, written, name, value string) Problem {
	p := Problem{Setting: snake(name), Layer: layer, Source: source(layer, written), Value: value, Reason: "no such setting"}
	if near, ok := nearest(name); ok {
		p.Reason += ", did you mean " + source(layer, near) + "?"
	}
	return p
}

// source is how a person wrote a name in a layer.
func source(layer Layer, name string) string {
	switch layer {
	case Flag:
		return "--" + kebab(name)
	case Annotation:
		if strings.Contains(name, "/") {
			return name
		}
		if key, ok := AnnotationKey(name); ok && lastPart(key) == kebab(name) {
			return key
		}
		return EnvironmentPrefix + kebab(name)
	default:
		return snake(name)
	}
}

// rebuild makes new Values out of all layers, swaps them in and returns what changed. What an earlier call had to
// refuse is tried again, since another layer may have made it right.
func (s *Store) rebuild() []Change {
	s.problems = [layers][]Problem{}
	var next [layers]map[int]entry
	for layer := range layers {
		next[layer] = s.acceptable(layer)
	}
	values := build(&next)
	for broken := firstBroken(values); broken != nil; broken = firstBroken(values) {
		if !s.retreat(&next, broken, values) {
			break // can't be: what was in force before broke no rule
		}
		values = build(&next)
	}
	for layer := range layers {
		s.problems[layer] = append(s.problems[layer], s.refused[layer]...)
		for i := range s.problems[layer] {
			if at, ok := lookup(s.problems[layer][i].Setting); ok {
				s.problems[layer][i].InForce = table[at].inForce(values)
			}
		}
	}
	s.good = next
	return s.swap(values)
}

// acceptable returns a layer's values that can be parsed and are within bounds; for the others the last good one.
func (s *Store) acceptable(layer Layer) map[int]entry {
	out := make(map[int]entry, len(s.offered[layer]))
	var scratch Values
	for _, at := range slices.Sorted(maps.Keys(s.offered[layer])) {
		offer := s.offered[layer][at]
		err := table[at].set(&scratch, offer.value)
		if err == nil {
			out[at] = offer
			continue
		}
		s.problems[layer] = append(s.problems[layer], table[at].problem(layer, offer, err))
		if last, ok := s.good[layer][at]; ok {
			out[at] = last
		}
	}
	return out
}

func (d *definition) problem(layer Layer, offer entry, err error) Problem {
	return Problem{
		Setting: d.name, Layer: layer, Source: offer.source, Value: offer.value,
		Reason: err.Error(), Allowed: d.allowed,
	}
}

func (d *definition) inForce(v *Values) string {
	if shown := d.show(v); shown != "" {
		return shown
	}
	return "nothing"
}

// build lays the layers over each other. Every entry parses: acceptable saw to it.
func build(all *[layers]map[int]entry) *Values {
	v := Default()
	for _, layer := range all {
		for at, e := range layer {
			_ = table[at].set(v, e.value)
		}
	}
	return v
}

// swap puts new values in force and tells the subscribers, unless nothing changed.
func (s *Store) swap(next *Values) []Change {
	old := s.current.Load()
	var changes []Change
	for at := range table {
		was, is := table[at].show(old), table[at].show(next)
		if was != is {
			changes = append(changes, Change{Name: table[at].name, Old: was, New: is, Layer: s.layerOf(at)})
		}
	}
	if len(changes) == 0 {
		return nil
	}
	s.current.Store(next)
	for sub := range s.subscribers {
		sub.call(next, changes)
	}
	return changes
}

// layerOf returns the highest layer that gives a setting.
func (s *Store) layerOf(at int) Layer {
	for layer := Annotation; layer > Defaults; layer-- {
		if _, ok := s.good[layer][at]; ok {
			return layer
		}
	}
	return Defaults
}

// Subscribe calls f after every change of the values in force, in order and one at a time, until cancel is called. f
// must be quick and must not call the store, save Current.
func (s *Store) Subscribe(f func(now *Values, changes []Change)) (cancel func()) {
	sub := &subscriber{call: f}
	s.mu.Lock()
	s.subscribers[sub] = struct{}{}
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		delete(s.subscribers, sub)
		s.mu.Unlock()
	}
}

// Problems returns what is refused at present, lowest layer first.
func (s *Store) Problems() []Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Concat(s.problems[:]...)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
