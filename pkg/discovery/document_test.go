package discovery

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDocument(t *testing.T) {
	doc, err := parse("e.yaml", []byte(`
endpoints:
- name: engine-0            # optional, default address:port
  address: 127.0.0.1        # IPv4, IPv6 or host name
  port: 8000                # number or string
  metricsPort: 8001         # optional, default: port; 8002 for trt-llm
  runtime: vllm             # optional
  labels: {zone: a, rank: 3}
- {address: "::1", port: "8000"}
- {address: "[fd00::2]", port: 8000, runtime: sglang}
- {address: "::ffff:10.0.0.7", port: 8000}
- &triton
  address: Triton.Example.com.
  port: 8000
  runtime: trt-llm
- {address: gpu_1, port: 65535, runtime: trt-llm, metricsPort: 9000}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []entry{
		{name: "engine-0", ip: netip.MustParseAddr("127.0.0.1"), port: 8000, metricsPort: 8001, runtime: "vllm", labels: map[string]string{"zone": "a", "rank": "3"}, line: 3},
		{name: "[::1]:8000", ip: netip.MustParseAddr("::1"), port: 8000, line: 9},
		{name: "[fd00::2]:8000", ip: netip.MustParseAddr("fd00::2"), port: 8000, metricsPort: 8000, runtime: "sglang", line: 10},
		{name: "10.0.0.7:8000", ip: netip.MustParseAddr("10.0.0.7"), port: 8000, line: 11},
		{name: "triton.example.com:8000", host: "triton.example.com", port: 8000, metricsPort: 8002, runtime: "trt-llm", line: 12},
		{name: "gpu_1:65535", host: "gpu_1", port: 65535, metricsPort: 9000, runtime: "trt-llm", line: 16},
	}
	if diff := cmp.Diff(want, doc.endpoints, cmp.AllowUnexported(entry{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestNoEndpointsIsAllowedWhenSaid(t *testing.T) {
	doc, err := parse("e.yaml", []byte("endpoints: []\n"))
	if err != nil || len(doc.endpoints) != 0 {
		t.Errorf("%v, %v", doc, err)
	}
}

// Every error names file and line, what was expected and what came.
func TestBadDocuments(t *testing.T) {
	tests := []struct{ text, want string }{
		{"", "e.yaml:1: expected endpoints: and a list, got an empty file; endpoints: [] stands for none"},
		{"# nothing yet\n", "e.yaml:1: expected endpoints: and a list, got an empty file; endpoints: [] stands for none"},
		{"{}\n", "e.yaml:1: the file: expected field endpoints, which is missing"},
		{"- a\n", "e.yaml:1: the file: expected fields (endpoints, models, objectives), got a list"},
		{"endpoints:\n", "e.yaml:1: endpoints: expected a list, got nothing; endpoints: [] stands for none"},
		{"endpoints: {a: b}\n", "e.yaml:1: endpoints: expected a list, got fields; endpoints: [] stands for none"},
		{"endpoints: []\nendpoint: []\n", `e.yaml:2: unknown field "endpoint": expected endpoints, models, objectives; did you mean endpoints?`},
		{"endpoints: []\nendpoints: []\n", "e.yaml:2: endpoints: given twice, first in line 1"},
		{"endpoints: []\npools: []\n", `e.yaml:2: unknown field "pools": expected endpoints, models, objectives`},
		{"endpoints: []\n---\nendpoints: []\n", "e.yaml:2: expected one YAML document, got a second one"},
		{"endpoints:\n- name: a\n\tport: 1\n", "e.yaml:2: expected YAML, got, at this line or the next: found a tab character that violates indentation"},
		{"endpoints:\n- 10.0.0.1:8000\n", `e.yaml:2: an endpoint: expected fields (address, labels, metricsPort, name, port, runtime), got "10.0.0.1:8000"`},
		{"endpoints:\n- port: 1\n", "e.yaml:2: an endpoint: expected field address, which is missing"},
		{"endpoints:\n- address: a\n", "e.yaml:2: an endpoint: expected field port, which is missing"},
		{one("adress: a"), `e.yaml:4: unknown field "adress": expected address, labels, metricsPort, name, port, runtime; did you mean address?`},
		{one("metricsport: 1"), `e.yaml:4: unknown field "metricsport": expected address, labels, metricsPort, name, port, runtime; did you mean metricsPort?`},
		{one("weight: 1"), `e.yaml:4: unknown field "weight": expected address, labels, metricsPort, name, port, runtime`},
		{one("name: "), "e.yaml:4: name: expected a text, got nothing"},
		{one("name: [a]"), "e.yaml:4: name: expected a text, got a list"},
		{one("metricsPort: 0"), `e.yaml:4: metricsPort: expected a number of 1..65535, got "0"`},
		{one("metricsPort: 65536"), `e.yaml:4: metricsPort: expected a number of 1..65535, got "65536"`},
		{one("metricsPort: http"), `e.yaml:4: metricsPort: expected a number of 1..65535, got "http"`},
		{one("metricsPort: 80.0"), `e.yaml:4: metricsPort: expected a number of 1..65535, got "80.0"`},
		{one("metricsPort: {}"), "e.yaml:4: metricsPort: expected a number of 1..65535, got fields"},
		{one("runtime: vlm"), `e.yaml:4: runtime: expected one of vllm, sglang, trt-llm, got "vlm"`},
		{one("labels: [a]"), "e.yaml:4: labels: expected names with texts, as in {zone: a}, got a list"},
		{one("labels: {a: {b: c}}"), "e.yaml:4: labels: a: expected a text, got fields"},
		{one("labels: {a: b, a: c}"), "e.yaml:4: labels: a is given twice"},
		{at("10.0.0.1:8000"), `e.yaml:2: address: expected an IP address or a host name, got "10.0.0.1:8000": the port has a field of its own`},
		{at("http://a"), `e.yaml:2: address: expected an IP address or a host name, got "http://a": an address has no scheme`},
		{at("10.0.0.256"), `e.yaml:2: address: expected an IP address or a host name, got "10.0.0.256": it is neither, since a host name doesn't end in a number`},
		{at("a b"), `e.yaml:2: address: expected an IP address or a host name, got "a b": it is neither`},
		{at("fe80::1%eth0"), `e.yaml:2: address: expected an address that the proxy can reach too, got "fe80::1%eth0": its zone has a meaning on this machine only`},
		{at("0.0.0.0"), `e.yaml:2: address: expected the address of one server, got "0.0.0.0"`},
		{one("name: x") + "- {address: a, port: 8000}\n", "e.yaml:5: address and port: a:8000 is already in line 2"},
		{"endpoints:\n- {address: \"::ffff:10.0.0.1\", port: 1}\n- {address: 10.0.0.1, port: \"1\"}\n", "e.yaml:3: address and port: 10.0.0.1:1 is already in line 2"},
		{one("name: x") + "- {address: b, port: 8000, name: x}\n", `e.yaml:5: name: "x" is already in line 2`},
		{
			"endpoints:\n- {address: a, port: 0}\n- {address: b, prot: 1}\n",
			"e.yaml:2: port: expected a number of 1..65535, got \"0\"\n" +
				"e.yaml:3: unknown field \"prot\": expected address, labels, metricsPort, name, port, runtime; did you mean port?\n" +
				"e.yaml:3: an endpoint: expected field port, which is missing",
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

func one(field string) string { return "endpoints:\n- address: a\n  port: 8000\n  " + field + "\n" }

func at(address string) string { return "endpoints:\n- address: \"" + address + "\"\n  port: 8000\n" }

func FuzzDocument(f *testing.F) {
	for _, text := range []string{one("labels: {a: b}"), at("::1"), "a: &a [*a]\n", "endpoints: &e [*e]\n", "? {a: b}\n: c\n", ranked, "endpoints: []\nmodels: &m [{name: *m}]\n", "endpoints: [{<<: &x {port: 1}}]"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		doc, err := parse("f", text)
		if err != nil && !strings.HasPrefix(err.Error(), "f:") {
			t.Errorf("doesn't say where: %v", err)
		}
		for _, e := range doc.endpoints {
			if e.port == 0 || e.name == "" || e.host == "" && !e.ip.IsValid() {
				t.Errorf("incomplete: %+v", e)
			}
		}
		if doc.priorities.Of("", "") != Standard {
			t.Errorf("a name is empty: %+v", doc.priorities)
		}
	})
}
