package settings

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEveryDefaultIsAllowedAndShownAsWritten(t *testing.T) {
	seen := make(map[string]bool)
	for _, d := range table {
		var v Values
		if err := d.set(&v, d.fallback); err != nil {
			t.Errorf("%s: default %q: %v", d.name, d.fallback, err)
		}
		if got := d.show(&v); got != d.fallback {
			t.Errorf("%s: default %q is shown as %q", d.name, d.fallback, got)
		}
		if d.doc == "" || strings.ContainsAny(d.doc, "\n\t") {
			t.Errorf("%s: doc must be one line: %q", d.name, d.doc)
		}
		for _, name := range append([]string{d.name}, d.older...) {
			if seen[name] {
				t.Errorf("%s is in the table twice", name)
			}
			seen[name] = true
		}
	}
	if broken := firstBroken(Default()); broken != nil {
		t.Errorf("the defaults break the rule of %v", broken.settings)
	}
}

func TestEverySettingReachesItsOwnField(t *testing.T) {
	// A row whose accessor points at another row's field would show here: each setting is moved off its default alone,
	// and no other may move with it.
	other := map[string]string{
		"word": "", "integer": "7", "port": "7", "bytes": "64Mi", "number": "0.5", "duration": "5s", "switch": "",
		"text": "x", "address": "127.0.0.1", "header": "x-tenant",
	}
	for _, d := range table {
		value := other[d.kind]
		switch {
		case d.kind == "word":
			words := strings.Split(strings.TrimPrefix(d.allowed, "one of "), ", ")
			value = words[1]
		case d.kind == "switch" && d.fallback == "true":
			value = "false"
		case d.kind == "switch":
			value = "true"
		case d.name == "MAX_BUFFERED":
			value = "1Gi"
		}
		s, err := New(map[string]string{d.name: value}, nil)
		if err != nil {
			t.Errorf("%s: %v", d.name, err)
			continue
		}
		var moved []string
		for _, r := range s.Table() {
			if r.Value != r.Default {
				moved = append(moved, r.Name)
			}
		}
		if !slices.Equal(moved, []string{d.name}) {
			t.Errorf("%s=%s moved %v", d.name, value, moved)
		}
	}
}

func TestValuesAreParsedWithBoundsAndUnits(t *testing.T) {
	const refused = "refused"
	for _, tc := range []struct{ name, value, want string }{
		{"ROUTING_STRATEGY", "prefix_cache", "PREFIX_CACHE"},
		{"ROUTING_STRATEGY", "", refused},
		{"ROUTING_STRATEGY", "RANDOM", refused},
		{"PREFIX_CACHE_HASH_BLOCK_SIZE", " 128 ", "128"},
		{"PREFIX_CACHE_HASH_BLOCK_SIZE", "0", refused},
		{"PREFIX_CACHE_HASH_BLOCK_SIZE", "65537", refused},
		{"PREFIX_CACHE_HASH_BLOCK_SIZE", "99999999999999999999", refused},
		{"PREFIX_CACHE_HASH_BLOCK_SIZE", "64.0", refused},
		{"PREFIX_CACHE_MAX_PREFIX_BLOCKS", "0", "0"},
		{"QUEUEING", "Enabled", "enabled"},
		{"QUEUEING", "true", "enabled"},
		{"QUEUEING", "on", refused},
		{"TOTAL_QUEUE_CAPACITY", "1Gi", "1073741824"},
		{"TOTAL_QUEUE_CAPACITY", "512Ki", "524288"},
		{"TOTAL_QUEUE_CAPACITY", "1.5Gi", refused},
		{"TOTAL_QUEUE_CAPACITY", "1GB", refused},
		{"TOTAL_QUEUE_CAPACITY", "-1", refused},
		{"TOTAL_QUEUE_CAPACITY", "9223372036854775807Gi", refused},
		{"QUEUE_TTL", "2h45m", refused}, // an hour at most
		{"QUEUE_TTL", "300ms", "300ms"},
		{"QUEUE_TTL", "30", refused}, // no unit
		{"QUEUE_TTL", "1h", "1h"},
		{"QUEUE_TTL", "90s", "1m30s"},
		{"QUEUE_TTL", "-30s", refused},
		{"KV_CACHE_SCORE_WEIGHT", "2.5", "2.5"},
		{"KV_CACHE_SCORE_WEIGHT", "NaN", refused},
		{"KV_CACHE_SCORE_WEIGHT", "+Inf", refused},
		{"KV_CACHE_SCORE_WEIGHT", "1e400", refused},
		{"SD_KV_CACHE_UTIL_THRESHOLD", "80%", refused},
		{"BIND_ADDRESS", "::1", "::1"},
		{"BIND_ADDRESS", "localhost", refused},
		{"GRPC_PORT", "0", "0"},
		{"GRPC_PORT", "tcp://10.0.0.1:80", refused},
		{"EDS", "TRUE", "true"},
		{"SHUTDOWN_GRACE", "0s", "0s"},
	} {
		s, err := New(map[string]string{tc.name: tc.value}, nil)
		got := refused
		if err == nil {
			got = row(t, s, tc.name).Value
		}
		if got != tc.want {
			t.Errorf("%s=%q: got %s, want %s (%v)", tc.name, tc.value, got, tc.want, err)
		}
	}
}

func TestStartNamesEveryBadValue(t *testing.T) {
	_, err := New(
		map[string]string{"ROUTING_STRATEGY": "FASTEST", "QUEUE_TTL": "30"},
		map[string]string{"metrics-port": "99999"})
	if err == nil {
		t.Fatal("started with bad values")
	}
	want := strings.Join([]string{
		`ROUTING_STRATEGY: "FASTEST": not of the expected form; allowed: one of DEFAULT, PREFIX_CACHE`,
		`QUEUE_TTL: "30": not of the expected form; allowed: a duration with its unit from 1ms to 1h (300ms, 1.5h, 2h45m)`,
		`--metrics-port: "99999": out of bounds; allowed: a port from 0 to 65535 (0 takes any free port)`,
	}, "\n")
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error(diff)
	}
}

func TestEnvironmentOfOthersIsLeftAlone(t *testing.T) {
	got := FromEnvironment([]string{
		"HOME=/root", "ROUTING_STRATEGY=PREFIX_CACHE", "KV_CACHE_THRESHOLD=0.5", "QUEUE_TTL=", "broken", "A=b=c",
		"EXPERIMENTAL_USE_SCHEDULER_V2=true", "METRICS_PORT=tcp://10.0.0.1:80", "GRPC_PORT=9999",
	})
	want := map[string]string{
		"ROUTING_STRATEGY": "PREFIX_CACHE", "KV_CACHE_THRESHOLD": "0.5", "EXPERIMENTAL_USE_SCHEDULER_V2": "true", "GRPC_PORT": "9999",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestOlderNamesAreReadWhereThePresentOnesAreUnset(t *testing.T) {
	s := start(t, map[string]string{
		"EXPERIMENTAL_USE_QUEUEING": "true", "EXPERIMENTAL_USE_SCHEDULER_V2": "true", "QUEUE_THRESHOLD_CRITICAL": "9",
		"KV_CACHE_THRESHOLD": "0.5", "SD_KV_CACHE_UTIL_THRESHOLD": "0.7",
	})
	v := s.Current()
	if !v.Queueing || v.SDQueueDepthThreshold != 9 || v.SDKVCacheUtilThreshold != 0.7 {
		t.Errorf("queueing %v, depth %d, KV %v; want true, 9, 0.7", v.Queueing, v.SDQueueDepthThreshold, v.SDKVCacheUtilThreshold)
	}
}

func TestLayersCoverAndUncoverEachOther(t *testing.T) {
	s, err := New(map[string]string{"QUEUE_TTL": "10s"}, map[string]string{"queue-ttl": "20s"})
	if err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		layer  Layer
		values map[string]string
		want   string
		from   Layer
	}{
		{File, nil, "20s", Flag},
		{File, map[string]string{"QUEUE_TTL": "30s"}, "30s", File},
		{Annotation, map[string]string{"queue-ttl": "40s"}, "40s", Annotation},
		{File, map[string]string{"QUEUE_TTL": "35s"}, "40s", Annotation},
		{Annotation, map[string]string{}, "35s", File},
		{File, nil, "20s", Flag},
		{Flag, nil, "10s", Environment},
		{Environment, nil, "30s", Defaults},
	}
	for i, step := range steps {
		if _, problems := s.Apply(step.layer, step.values); problems != nil {
			t.Fatalf("step %d: %v", i, problems)
		}
		if r := row(t, s, "QUEUE_TTL"); r.Value != step.want || r.Layer != step.from {
			t.Errorf("step %d: %s from %s, want %s from %s", i, r.Value, r.Layer, step.want, step.from)
		}
	}
}

func TestBadValueKeepsTheLayersLastGoodOne(t *testing.T) {
	s := start(t, nil)
	s.Apply(Annotation, map[string]string{"queue-ttl": "5s"})

	changes, problems := s.Apply(Annotation, map[string]string{
		SpecificPrefix + "queueing":               "enabled",
		EnvironmentPrefix + "queue-ttl":           "soon",
		EnvironmentPrefix + "scrape-budget":       "lots", // never had a good value: the layer below counts
		EnvironmentPrefix + "grpc-port":           "9999",
		EnvironmentPrefix + "queue-score-weigth":  "2",
		EnvironmentPrefix + "ld-preload":          "evil.so",
		EnvironmentPrefix + "usage-sample":        "1",
		EnvironmentPrefix + "destination-fallbac": "x",
	})

	wantChanges := []Change{
		{"QUEUEING", "disabled", "enabled", Annotation},
		{"USAGE_SAMPLE", "0.05", "1", Annotation},
	}
	if diff := cmp.Diff(wantChanges, changes); diff != "" {
		t.Error("changes:", diff)
	}
	wantProblems := []string{
		`inference-epp-env.networking.x-k8s.io/queue-ttl: "soon": not of the expected form; allowed: a duration with its unit from 1ms to 1h (300ms, 1.5h, 2h45m); in force: 5s`,
		`inference-epp-env.networking.x-k8s.io/scrape-budget: "lots": not of the expected form; allowed: a number from 0 to 64; in force: 0.25`,
		`inference-epp-env.networking.x-k8s.io/destination-fallbac: "x": no such setting, did you mean inference-epp-env.networking.x-k8s.io/destination-fallbacks?`,
		`inference-epp-env.networking.x-k8s.io/grpc-port: "9999": read only when the process starts; allowed: the environment variable GRPC_PORT or the flag --grpc-port; in force: 9002`,
		`inference-epp-env.networking.x-k8s.io/ld-preload: "evil.so": no such setting`,
		`inference-epp-env.networking.x-k8s.io/queue-score-weigth: "2": no such setting, did you mean inference-epp-env.networking.x-k8s.io/queue-score-weight?`,
	}
	if diff := cmp.Diff(wantProblems, texts(problems)); diff != "" {
		t.Error("problems:", diff)
	}
	if v := s.Current(); v.QueueTTL != 5*time.Second || v.GRPCPort != 9002 {
		t.Errorf("TTL %v, port %d; want 5s, 9002", v.QueueTTL, v.GRPCPort)
	}

	// Given up altogether, the last good value goes too.
	if _, problems := s.Apply(Annotation, nil); problems != nil {
		t.Error(problems)
	}
	if v := s.Current(); v.QueueTTL != 30*time.Second {
		t.Errorf("TTL %v after removal, want the default", v.QueueTTL)
	}
}

func TestSettingsThatContradictEachOtherAreTakenBackTogether(t *testing.T) {
	s := start(t, map[string]string{"MAX_BUFFERED": "64Mi"})

	changes, problems := s.Apply(File, map[string]string{"MAX_REQUEST_BODY": "128Mi", "QUEUE_TTL": "1s"})
	if len(changes) != 1 || changes[0].Name != "QUEUE_TTL" {
		t.Errorf("changes %v, want QUEUE_TTL alone", changes)
	}
	want := []string{`MAX_REQUEST_BODY: "128Mi": contradicts another setting; allowed: MAX_BUFFERED (now 67108864) at least MAX_REQUEST_BODY (now 134217728); in force: 33554432`}
	if diff := cmp.Diff(want, texts(problems)); diff != "" {
		t.Error(diff)
	}

	// What was refused applies as soon as another layer makes room for it.
	changes, _ = s.Apply(Annotation, map[string]string{"max-buffered": "256Mi"})
	if len(changes) != 2 || s.Current().MaxRequestBody != 128*mebi || len(s.Problems()) != 0 {
		t.Errorf("changes %v, body %d, problems %v", changes, s.Current().MaxRequestBody, s.Problems())
	}

	// A value that another setting stands on is not given up.
	_, problems = s.Apply(Annotation, nil)
	if len(problems) != 1 || s.Current().MaxBuffered != 256*mebi {
		t.Errorf("problems %v, buffered %d", problems, s.Current().MaxBuffered)
	}
	if changes, _ = s.Apply(File, nil); s.Current().MaxBuffered != 64*mebi || len(s.Problems()) != 0 {
		t.Errorf("buffered %d, problems %v, changes %v; want what the environment says", s.Current().MaxBuffered, s.Problems(), changes)
	}

	if _, err := New(map[string]string{"GRPC_PORT": "9090"}, nil); err == nil {
		t.Error("two servers on one port were accepted")
	}
}

func TestAnnotationKeys(t *testing.T) {
	for name, want := range map[string]string{
		"ROUTING_STRATEGY":               "inference.networking.x-k8s.io/routing-strategy",
		"QUEUEING":                       "inference.networking.x-k8s.io/queueing",
		"MODEL_SERVER_RUNTIME":           "inference.networking.x-k8s.io/model-server-runtime",
		"PREFIX_CACHE_HASH_BLOCK_SIZE":   "inference-epp-env.networking.x-k8s.io/prefix-cache-hash-block-size",
		"PREFIX_CACHE_MAX_PREFIX_BLOCKS": "inference-epp-env.networking.x-k8s.io/prefix-cache-max-prefix-blocks",
		"PREFIX_CACHE_LRU_CAPACITY":      "inference-epp-env.networking.x-k8s.io/prefix-cache-lru-capacity",
		"TOTAL_QUEUE_CAPACITY":           "inference-epp-env.networking.x-k8s.io/total-queue-capacity",
		"QUEUE_TTL":                      "inference-epp-env.networking.x-k8s.io/queue-ttl",
	} {
		if got, ok := AnnotationKey(name); !ok || got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if key, ok := AnnotationKey("NO_SUCH"); ok {
		t.Errorf("NO_SUCH has the key %q", key)
	}
}

func TestAnnotationsOfAPool(t *testing.T) {
	got, problems := FromAnnotations(map[string]string{
		SpecificPrefix + "routing-strategy":             "PREFIX_CACHE",
		EnvironmentPrefix + "routing-strategy":          "DEFAULT",
		SpecificPrefix + "epp-overlay":                  "my-overlay",
		SpecificPrefix + "export":                       "ClusterSet", // someone else's
		SpecificPrefix + "model-server-runtme":          "sglang",     // surely meant for us
		EnvironmentPrefix + "experimental-use-queueing": "true",
		EnvironmentPrefix + "no-such-thing":             "1",
		"kubectl.kubernetes.io/last-applied":            "{}",
	})
	want := []string{
		EnvironmentPrefix + "experimental-use-queueing", EnvironmentPrefix + "no-such-thing",
		SpecificPrefix + "model-server-runtme", SpecificPrefix + "routing-strategy",
	}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(got))); diff != "" {
		t.Error(diff)
	}
	wantProblems := []string{`inference-epp-env.networking.x-k8s.io/routing-strategy: "DEFAULT": given twice; allowed: nothing beside inference.networking.x-k8s.io/routing-strategy, which counts`}
	if diff := cmp.Diff(wantProblems, texts(problems)); diff != "" {
		t.Error(diff)
	}

	s := start(t, nil)
	if _, problems := s.Apply(Annotation, got); len(problems) != 2 {
		t.Errorf("problems %v, want those of the two unknown keys", problems)
	}
	if v := s.Current(); v.RoutingStrategy != "PREFIX_CACHE" || !v.Queueing {
		t.Errorf("strategy %s, queueing %v", v.RoutingStrategy, v.Queueing)
	}
}

func TestSubscribersHearOfChangesInOrder(t *testing.T) {
	s := start(t, nil)
	var heard []string
	cancel := s.Subscribe(func(now *Values, changes []Change) {
		if now != s.Current() {
			t.Error("told of values that are not in force")
		}
		for _, c := range changes {
			heard = append(heard, c.Name+"="+c.New)
		}
	})
	s.Apply(File, map[string]string{"PREFIX_CACHE_LRU_CAPACITY": "10"})
	s.Apply(File, map[string]string{"PREFIX_CACHE_LRU_CAPACITY": "10"}) // nothing new
	s.Apply(File, map[string]string{"PREFIX_CACHE_LRU_CAPACITY": "many"})
	s.Apply(File, nil)
	cancel()
	s.Apply(File, map[string]string{"PREFIX_CACHE_LRU_CAPACITY": "11"})
	if diff := cmp.Diff([]string{"PREFIX_CACHE_LRU_CAPACITY=10", "PREFIX_CACHE_LRU_CAPACITY=50000"}, heard); diff != "" {
		t.Error(diff)
	}
}

func TestReadersSeeWholeSetsWhileLayersChange(t *testing.T) {
	s := start(t, nil)
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if v := s.Current(); v.MaxBuffered < v.MaxRequestBody {
					t.Errorf("half a change seen: %d < %d", v.MaxBuffered, v.MaxRequestBody)
					return
				}
			}
		})
	}
	for range 500 {
		s.Apply(Annotation, map[string]string{"max-buffered": "4Mi", "max-request-body": "2Mi"})
		s.Apply(Annotation, map[string]string{"max-buffered": "800Mi", "max-request-body": "600Mi"})
	}
	close(done)
	wg.Wait()
}

func TestEDSIsServedInFileModeUnlessSaidOtherwise(t *testing.T) {
	for _, tc := range []struct {
		eds, endpoints string
		want           bool
	}{
		{"auto", "", false},
		{"auto", "f.yaml", true},
		{"true", "", true},
		{"false", "f.yaml", false},
	} {
		s := start(t, map[string]string{"EDS": tc.eds, "ENDPOINTS": tc.endpoints})
		if got := s.Current().ServeEDS(); got != tc.want {
			t.Errorf("EDS=%s ENDPOINTS=%q: %v, want %v", tc.eds, tc.endpoints, got, tc.want)
		}
	}
}

func TestPrintedForms(t *testing.T) {
	s := start(t, map[string]string{"QUEUE_TTL": "5s"})
	rows := s.Table()

	var text strings.Builder
	if err := WriteText(&text, rows); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text.String(), "QUEUE_TTL                             5s         environment  30s") {
		t.Errorf("no aligned row of QUEUE_TTL in\n%s", text.String())
	}

	var md strings.Builder
	if err := WriteMarkdown(&md, rows); err != nil {
		t.Fatal(err)
	}
	want := "| `SD_QUEUE_DEPTH_THRESHOLD` | `5` requests | a whole number from 1 to 1000000 | yes |" +
		" Waiting requests from which a pod is saturated (older name: `QUEUE_THRESHOLD_CRITICAL`) |\n"
	if !strings.Contains(md.String(), want) {
		t.Errorf("no row\n%s in\n%s", want, md.String())
	}
	for _, line := range strings.Split(strings.TrimSpace(md.String()), "\n") {
		if strings.Count(line, "|") != 6 {
			t.Errorf("not five columns: %s", line)
		}
	}

	data, err := json.Marshal(row(t, s, "QUEUE_TTL"))
	if err != nil {
		t.Fatal(err)
	}
	wantJSON := `{"name":"QUEUE_TTL","value":"5s","layer":"environment","default":"30s","kind":"duration",` +
		`"allowed":"a duration with its unit from 1ms to 1h (300ms, 1.5h, 2h45m)",` +
		`"doc":"Longest wait of one request; past it the request is dropped","hot":true,"flag":"--queue-ttl",` +
		`"annotation":"inference-epp-env.networking.x-k8s.io/queue-ttl"}`
	if string(data) != wantJSON {
		t.Errorf("got  %s\nwant %s", data, wantJSON)
	}
	var back Row
	if err := json.Unmarshal(data, &back); err != nil || back.Layer != Environment {
		t.Errorf("a row read back: layer %v, %v", back.Layer, err)
	}
}

func FuzzApplyNeverLeavesBadValuesInForce(f *testing.F) {
	for _, d := range table {
		f.Add(d.name, d.fallback)
	}
	f.Add("queue-ttl", "9223372036854775807h")
	f.Add("KV_CACHE_SCORE_WEIGHT", "nan")
	f.Fuzz(func(t *testing.T, name, value string) {
		s := start(t, nil)
		for layer := Environment; layer < layers; layer++ {
			s.Apply(layer, map[string]string{name: value, "MAX_BUFFERED": value})
		}
		for _, r := range s.Table() {
			if err := table[must(lookup(r.Name))].set(new(Values), r.Value); err != nil {
				t.Errorf("%s=%q is in force and not allowed: %v", r.Name, r.Value, err)
			}
		}
		if broken := firstBroken(s.Current()); broken != nil {
			t.Errorf("%v contradict each other", broken.settings)
		}
	})
}

func BenchmarkCurrent(b *testing.B) {
	s, err := New(nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if s.Current() == nil {
			b.Fatal("no values")
		}
	}
}

func must(at int, _ bool) int { return at }

func start(t *testing.T, environment map[string]string) *Store {
	t.Helper()
	s, err := New(environment, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func row(t *testing.T, s *Store, name string) Row {
	t.Helper()
	for _, r := range s.Table() {
		if r.Name == name {
			return r
		}
	}
	t.Fatalf("no setting %s", name)
	return Row{}
}

func texts(problems []Problem) []string {
	out := make([]string, len(problems))
	for i, p := range problems {
		out[i] = p.Error()
	}
	return out
}
