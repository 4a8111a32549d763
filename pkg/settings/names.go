package settings

import (
	"slices"
	"strings"
)

// Annotation prefixes. A key is a prefix and the variable's name in kebab-case.
const (
	// SpecificPrefix is that of the settings that users know as a part of the pool.
	SpecificPrefix = "inference.networking.x-k8s.io/"
	// EnvironmentPrefix is the generic one: every setting can be given with it.
	EnvironmentPrefix = "inference-epp-env.networking.x-k8s.io/"
	// overlay is the one annotation of ours that is no setting.
	overlay = SpecificPrefix + "epp-overlay"
)

// FromEnvironment picks the known settings out of an environment ("NAME=value", as os.Environ returns it). Everything
// else is someone else's, and so are METRICS_PORT=tcp://10.0.0.1:80 and its like, which Kubernetes sets in every pod for
// a Service that happens to be called metrics. An empty value is as good as unset, since manifests often leave one.
func FromEnvironment(environ []string) map[string]string {
	out := make(map[string]string)
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if strings.TrimSpace(value) == "" {
			continue
		}
		at, known := lookup(name)
		if known && table[at].kind == "port" && strings.Contains(value, "://") {
			continue
		}
		if known || slices.Contains(ignored, name) {
			out[name] = value
		}
	}
	return out
}

// FromAnnotations picks the settings out of a pool's annotations, keyed by annotation as Store.Apply takes them for the
// annotation layer: a key of either prefix names the variable whose name is the key's last part in upper snake case.
// Keys without a setting come along under the generic prefix, so that Store.Apply can report them; under the specific
// prefix, which others use too, they come along only when they look like a misspelt setting. Where both prefixes give
// one setting the specific one counts, and the other is returned as a Problem.
func FromAnnotations(annotations map[string]string) (map[string]string, []Problem) {
	out := make(map[string]string)
	specific := make(map[int]string) // row → key
	for key, value := range annotations {
		name, ours := variableOf(key)
		if !ours {
			continue
		}
		out[key] = value
		if at, known := lookup(name); known && strings.HasPrefix(key, SpecificPrefix) {
			specific[at] = key
		}
	}
	var problems []Problem
	for _, key := range sortedKeys(out) {
		at, known := lookup(lastPart(key))
		if !known || strings.HasPrefix(key, SpecificPrefix) || specific[at] == "" {
			continue
		}
		problems = append(problems, Problem{
			Setting: table[at].name, Layer: Annotation, Source: key, Value: out[key],
			Reason: "given twice", Allowed: "nothing beside " + specific[at] + ", which counts",
		})
		delete(out, key)
	}
	return out, problems
}

func lastPart(key string) string { return key[strings.LastIndexByte(key, '/')+1:] }

func variableOf(key string) (name string, ours bool) {
	if last, ok := strings.CutPrefix(key, EnvironmentPrefix); ok {
		return snake(last), true
	}
	last, ok := strings.CutPrefix(key, SpecificPrefix)
	if !ok || key == overlay {
		return "", false
	}
	name = snake(last)
	if _, known := lookup(name); known || slices.Contains(ignored, name) {
		return name, true
	}
	_, near := nearest(name)
	return name, near
}

// AnnotationKey returns the key of the annotation that gives a setting, and whether there is such a setting.
func AnnotationKey(name string) (string, bool) {
	at, ok := lookup(name)
	if !ok {
		return "", false
	}
	return table[at].annotation(), true
}

func (d *definition) annotation() string {
	if d.specific {
		return SpecificPrefix + kebab(d.name)
	}
	return EnvironmentPrefix + kebab(d.name)
}

// lookup finds a setting by its present or an older name, in snake or kebab case.
func lookup(name string) (int, bool) {
	name = snake(name)
	for i := range table {
		if table[i].name == name || slices.Contains(table[i].older, name) {
			return i, true
		}
	}
	return 0, false
}

func snake(kebab string) string { return strings.ToUpper(strings.ReplaceAll(kebab, "-", "_")) }
func kebab(snake string) string { return strings.ToLower(strings.ReplaceAll(snake, "_", "-")) }

// nearest returns the setting that a misspelt name most likely means.
func nearest(name string) (string, bool) {
	names := make([]string, 0, len(table))
	for i := range table {
		names = append(append(names, table[i].name), table[i].older...)
	}
	return Nearest(snake(name), names)
}

// Nearest returns the name closest to a misspelt one, if any is close enough to be meant: at most one edit for every
// three letters, or two in short names, where two letters may have changed places.
func Nearest(name string, names []string) (string, bool) {
	best, least := "", max(3, len(name)/3+1)
	for _, candidate := range names {
		if d := distance(name, candidate); d < least {
			best, least = candidate, d
		}
	}
	return best, best != ""
}

// distance is the Levenshtein distance of two names, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			above := row[j+1]
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(above+1, row[j]+1, diagonal+cost)
			diagonal = above
		}
	}
	return row[len(b)]
}
