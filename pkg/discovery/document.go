package discovery

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/pilotfish-epp/pilotfish/pkg/runtime"
	"github.com/pilotfish-epp/pilotfish/pkg/settings"
)

// document is what an endpoints file says.
type document struct {
	endpoints  []entry
	priorities *Priorities // nil: it has none
}

// entry is one item of the list, checked. Either host or ip is set.
type entry struct {
	name        string
	host        string
	ip          netip.Addr
	port        uint16
	metricsPort uint16 // 0: where the pool's runtime usually has it
	runtime     string
	labels      map[string]string
	line        int
}

// parse reads an endpoints file. The error names file, line, what was expected and what came, for all that is wrong.
func parse(file string, text []byte) (document, error) {
	p := &parser{file: file}
	root, err := p.root(text)
	if err != nil {
		return document{}, err
	}
	var d document
	var models, objectives map[string]int
	p.fields(root, "the file", map[string]func(*yaml.Node){
		"endpoints":  func(n *yaml.Node) { d.endpoints = p.endpoints(n) },
		"models":     func(n *yaml.Node) { models = p.ranks(n, "models", "a model", "criticality", p.criticality) },
		"objectives": func(n *yaml.Node) { objectives = p.ranks(n, "objectives", "an objective", "priority", p.priority) },
	}, "endpoints")
	d.priorities = NewPriorities(models, objectives)
	return d, errors.Join(p.problems...)
}

// parser collects what is wrong with a file.
type parser struct {
	file     string
	problems []error
}

func (p *parser) wrong(at *yaml.Node, format string, args ...any) {
	p.problems = append(p.problems, fmt.Errorf("%s:%d: %s", p.file, at.Line, fmt.Sprintf(format, args...)))
}

// root gives the file's one mapping.
func (p *parser) root(text []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	switch err := decoder.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s:1: expected endpoints: and a list, got an empty file; endpoints: [] stands for none", p.file)
	case err != nil:
		return nil, p.syntax(err)
	}
	switch err := decoder.Decode(&more); {
	case err == nil:
		return nil, fmt.Errorf("%s:%d: expected one YAML document, got a second one", p.file, more.Line)
	case !errors.Is(err, io.EOF):
		return nil, p.syntax(err)
	}
	return resolved(doc.Content[0]), nil
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// syntax puts file and line in front of an error of the YAML library.
func (p *parser) syntax(err error) error {
	text, line := err.Error(), "1"
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		text = strings.TrimPrefix(text, m[0])
		if m[1] != "" {
			line = m[1]
		}
	}
	return fmt.Errorf("%s:%s: expected YAML, got, at this line or the next: %s", p.file, line, text)
}

// fields reads a mapping with known fields only, each at most once, and those required at least once.
func (p *parser) fields(n *yaml.Node, what string, known map[string]func(*yaml.Node), required ...string) {
	if n.Kind != yaml.MappingNode {
		p.wrong(n, "%s: expected fields (%s), got %s", what, sorted(known), describe(n))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], resolved(n.Content[i+1])
		read, ok := known[key.Value]
		switch {
		case !ok:
			p.wrong(key, "unknown field %q: expected %s%s", key.Value, sorted(known), meant(key.Value, known))
		case seen[key.Value] != 0:
			p.wrong(key, "%s: given twice, first in line %d", key.Value, seen[key.Value])
		default:
			read(value)
		}
		if seen[key.Value] == 0 {
			seen[key.Value] = key.Line
		}
	}
	for _, name := range required {
		if seen[name] == 0 {
			p.wrong(n, "%s: expected field %s, which is missing", what, name)
		}
	}
}

func (p *parser) isList(n *yaml.Node, section string) bool {
	if n.Kind != yaml.SequenceNode {
		p.wrong(n, "%s: expected a list, got %s; %[1]s: [] stands for none", section, describe(n))
		return false
	}
	return true
}

func (p *parser) endpoints(n *yaml.Node) []entry {
	if !p.isList(n, "endpoints") {
		return nil
	}
	var entries []entry
	for _, item := range n.Content {
		had := len(p.problems)
		if e := p.endpoint(resolved(item)); len(p.problems) == had {
			p.unique(item, e, entries)
			entries = append(entries, e)
		}
	}
	return entries
}

func (p *parser) endpoint(n *yaml.Node) entry {
	e := entry{line: n.Line}
	p.fields(n, "an endpoint", map[string]func(*yaml.Node){
		"name":        func(n *yaml.Node) { e.name = p.text(n, "name") },
		"address":     func(n *yaml.Node) { e.ip, e.host = p.address(n) },
		"port":        func(n *yaml.Node) { e.port = p.port(n, "port") },
		"metricsPort": func(n *yaml.Node) { e.metricsPort = p.port(n, "metricsPort") },
		"runtime":     func(n *yaml.Node) { e.runtime = p.runtime(n) },
		"labels":      func(n *yaml.Node) { e.labels = p.labels(n) },
	}, "address", "port")
	if e.name == "" {
		e.name = e.at()
	}
	if server, err := runtime.Lookup(e.runtime); err == nil && e.metricsPort == 0 {
		e.metricsPort = server.MetricsPort(e.port)
	}
	return e
}

// at is the address and port as written in the file.
func (e *entry) at() string {
	if e.host != "" {
		return e.host + ":" + strconv.Itoa(int(e.port))
	}
	return netip.AddrPortFrom(e.ip, e.port).String()
}

func (p *parser) unique(n *yaml.Node, e entry, before []entry) {
	for _, b := range before {
		if b.at() == e.at() {
			p.wrong(n, "address and port: %s is already in line %d", e.at(), b.line)
			return
		}
		if b.name == e.name {
			p.wrong(n, "name: %q is already in line %d", e.name, b.line)
			return
		}
	}
}

func (p *parser) text(n *yaml.Node, field string) string {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || strings.TrimSpace(n.Value) == "" {
		p.wrong(n, "%s: expected a text, got %s", field, describe(n))
		return ""
	}
	return n.Value
}

func (p *parser) port(n *yaml.Node, field string) uint16 {
	port, err := strconv.ParseUint(n.Value, 10, 16)
	if n.Kind != yaml.ScalarNode || err != nil || port == 0 {
		p.wrong(n, "%s: expected a number of 1..65535, got %s", field, describe(n))
		return 0
	}
	return uint16(port)
}

func (p *parser) runtime(n *yaml.Node) string {
	name := p.text(n, "runtime")
	if name == "" {
		return ""
	}
	if _, err := runtime.Lookup(name); err != nil {
		p.wrong(n, "runtime: expected one of %s, got %q", strings.Join(runtime.Names(), ", "), name)
	}
	return name
}

func (p *parser) labels(n *yaml.Node) map[string]string {
	if n.Kind != yaml.MappingNode {
		p.wrong(n, "labels: expected names with texts, as in {zone: a}, got %s", describe(n))
		return nil
	}
	labels := make(map[string]string, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], resolved(n.Content[i+1])
		if _, twice := labels[key.Value]; twice {
			p.wrong(key, "labels: %s is given twice", key.Value)
		}
		if value.Kind != yaml.ScalarNode {
			p.wrong(value, "labels: %s: expected a text, got %s", key.Value, describe(value))
		}
		labels[key.Value] = value.Value
	}
	return labels
}

func (p *parser) address(n *yaml.Node) (netip.Addr, string) {
	text := p.text(n, "address")
	if text == "" {
		return netip.Addr{}, ""
	}
	if ip, err := netip.ParseAddr(unbracket(text)); err == nil {
		return p.ip(n, ip), ""
	}
	if reason := noHostName(text); reason != "" {
		p.wrong(n, "address: expected an IP address or a host name, got %q: %s", text, reason)
	}
	return netip.Addr{}, strings.ToLower(strings.TrimSuffix(text, "."))
}

func (p *parser) ip(n *yaml.Node, ip netip.Addr) netip.Addr {
	switch {
	case ip.Zone() != "":
		p.wrong(n, "address: expected an address that the proxy can reach too, got %q: its zone has a meaning on this machine only", n.Value)
	case ip.IsUnspecified(), ip.IsMulticast():
		p.wrong(n, "address: expected the address of one server, got %q", n.Value)
	}
	return ip.Unmap()
}

func unbracket(text string) string {
	if inner, ok := strings.CutPrefix(text, "["); ok {
		return strings.TrimSuffix(inner, "]")
	}
	return text
}

var hostLabel = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?$`)

// noHostName says why text can't be a host name, or nothing.
func noHostName(text string) string {
	if strings.Contains(text, "://") {
		return "an address has no scheme"
	}
	if host, port, found := strings.Cut(text, ":"); found && host != "" && !strings.Contains(port, ":") {
		return "the port has a field of its own"
	}
	labels := strings.Split(strings.TrimSuffix(text, "."), ".")
	for _, label := range labels {
		if !hostLabel.MatchString(label) || len(text) > 253 {
			return "it is neither"
		}
	}
	if _, err := strconv.Atoi(labels[len(labels)-1]); err == nil {
		return "it is neither, since a host name doesn't end in a number"
	}
	return ""
}

// resolved gives what an alias stands for.
func resolved(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "fields"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!null" && n.Value == "", n.Value == "":
		return "nothing"
	}
	return strconv.Quote(n.Value)
}

func sorted[V any](known map[string]V) string {
	return strings.Join(slices.Sorted(maps.Keys(known)), ", ")
}

// meant names the known field that is nearest to an unknown one, when one is near.
func meant[V any](unknown string, known map[string]V) string {
	name, ok := settings.Nearest(unknown, slices.Sorted(maps.Keys(known)))
	if !ok {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", name)
}
