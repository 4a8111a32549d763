// Package runtime knows what each model server calls its metrics, and turns a parsed metrics page into numbers.
//
// It promises that numbers mean the same for every runtime (requests, tokens, shares of 0..1), summed or averaged over
// all engines of a page; that a value which can't be (NaN, negative, absurdly large) counts as not said; and that a page
// of something else is an error and never an idle server. It does no I/O and costs a few map look-ups a page.
// A new runtime is one file and one line in all.
package runtime

import (
	"fmt"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
)

// Page is a parsed metrics page: families by name. It needs to hold only the families of the runtime.
type Page map[string]*dto.MetricFamily

// Server describes one kind of model server. It never changes and is safe to share.
type Server struct {
	Name     string   // the value of MODEL_SERVER_RUNTIME and of an endpoint's runtime
	Families []string // every metric family that Read looks at
	Paths    []string // where the page may be, the usual place first

	metricsPort uint16 // 0: the port that serves requests
	read        func(*sheet) Reading
}

// Reading is what one page said. A number that the page didn't have is 0 and its metric is in Missing or Absent.
type Reading struct {
	Waiting, Running int     // requests, summed over engines
	KVUsage          float64 // share of the KV cache in use, 0..1, mean over engines
	BlockSize        int     // tokens in a KV block
	KVTokens         int     // tokens that the KV cache holds, summed over engines
	MaxAdapters      int     // LoRA adapters that fit at once
	Adapters         []string
	Started          float64 // start of the server process, Unix seconds
	Asleep           bool    // the server says that all its engines sleep: it can't serve now

	Missing []string // metrics that every server of this kind should have
	Absent  []string // metrics that a healthy server may well not have
}

// MetricsPort gives the usual port of the metrics page for a server that takes requests at port.
func (s *Server) MetricsPort(port uint16) uint16 {
	if s.metricsPort != 0 {
		return s.metricsPort
	}
	return port
}

// Read gives the numbers of page. It fails when the page says neither how many requests wait nor how many run: then it
// is another server's page, and taking it for an idle one would send it everything.
func (s *Server) Read(page Page) (Reading, error) {
	sh := &sheet{page: page}
	r := s.read(sh)
	r.Started = sh.optional("process_start_time_seconds").largest()
	r.Missing, r.Absent = sh.missing, sh.absent
	if !sh.load {
		return Reading{}, fmt.Errorf("expected %s of a %s server, found %s", strings.Join(sh.wanted, " or "), s.Name, found(page))
	}
	return r, nil
}

func found(page Page) string {
	if len(page) == 0 {
		return "none of its metrics"
	}
	names := make([]string, 0, len(page))
	for name := range page {
		names = append(names, name)
	}
	slices.Sort(names)
	return "only " + strings.Join(names, ", ")
}

// all lists the runtimes. The first one is the default.
func all() []*Server {
	return []*Server{
		vllm(),
		sglang(),
		trtllm(),
	}
}

// Lookup gives the runtime called name. It is meant for start-up and changes, not for every request.
func Lookup(name string) (*Server, error) {
	servers := all()
	for _, s := range servers {
		if s.Name == name {
			return s, nil
		}
	}
	return nil, fmt.Errorf("expected a model server runtime of %s, got %q", strings.Join(Names(), ", "), name)
}

// Names lists the names that Lookup knows.
func Names() []string {
	servers := all()
	names := make([]string, len(servers))
	for i, s := range servers {
		names[i] = s.Name
	}
	return names
}
