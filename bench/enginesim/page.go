package enginesim

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// page builds a metrics page in the Prometheus text format, with numbers as Python's client writes them.
type page struct {
	buf    []byte
	labels string // on every sample, "a="b",c="d"" without braces
}

func (p *page) family(name, kind, help string) {
	p.buf = fmt.Appendf(p.buf, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// sample adds a line; labels are joined with the page's.
func (p *page) sample(name, labels string, v float64) {
	p.buf = append(append(p.buf, name...), '{')
	p.buf = append(p.buf, p.labels...)
	if labels != "" && p.labels != "" {
		p.buf = append(p.buf, ',')
	}
	p.buf = append(append(p.buf, labels...), "} "...)
	p.buf = appendFloat(p.buf, v)
	p.buf = append(p.buf, '\n')
}

func (p *page) gauge(name, help string, v float64) {
	p.family(name, "gauge", help)
	p.sample(name, "", v)
}

// counter adds name_total, and name_created as Python's client does.
func (p *page) counter(name, help string, created time.Time, v float64) {
	p.family(name+"_total", "counter", help)
	p.sample(name+"_total", "", v)
	p.gauge(name+"_created", help, unixSeconds(created))
}

// series is one labelled value of a family.
type series struct {
	labels string
	v      float64
}

func (p *page) counters(name, help string, created time.Time, values ...series) {
	p.family(name+"_total", "counter", help)
	for _, s := range values {
		p.sample(name+"_total", s.labels, s.v)
	}
	p.family(name+"_created", "gauge", help)
	for _, s := range values {
		p.sample(name+"_created", s.labels, unixSeconds(created))
	}
}

func (p *page) gauges(name, help string, values ...series) {
	p.family(name, "gauge", help)
	for _, s := range values {
		p.sample(name, s.labels, s.v)
	}
}

func (p *page) histogram(name, help string, created time.Time, h *histogram) {
	p.family(name, "histogram", help)
	var below uint64
	for i, n := range h.counts {
		below += n
		bound := "+Inf"
		if i < len(h.bounds) {
			bound = string(appendFloat(nil, h.bounds[i]))
		}
		p.sample(name+"_bucket", `le="`+bound+`"`, float64(below))
	}
	p.sample(name+"_count", "", float64(below))
	p.sample(name+"_sum", "", h.sum)
	p.gauge(name+"_created", help, unixSeconds(created))
}

// pad fills the page with samples of no meaning, and the rest of the last line with a comment, to exactly n bytes. A
// page that is longer, or too short of it by less than a comment, stays.
func (p *page) pad(n int) {
	const line = 80
	if n-len(p.buf) > 2*line {
		p.family("sim_padding", "gauge", "Fills the page.")
	}
	for i := 0; n-len(p.buf) > 2*line; i++ {
		p.sample("sim_padding", `n="`+strconv.Itoa(i)+`"`, 0)
	}
	if left := n - len(p.buf); left >= 2 {
		p.buf = append(p.buf, '#')
		p.buf = append(p.buf, strings.Repeat("-", left-2)...)
		p.buf = append(p.buf, '\n')
	}
}

func unixSeconds(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

func appendFloat(dst []byte, v float64) []byte {
	if math.IsInf(v, 1) {
		return append(dst, "+Inf"...)
	}
	from := len(dst)
	dst = strconv.AppendFloat(dst, v, 'g', -1, 64)
	for _, c := range dst[from:] {
		if c == '.' || c == 'e' {
			return dst
		}
	}
	return append(dst, ".0"...)
}

func label(name, value string) string {
	if strings.ContainsAny(value, "\\\"\n") {
		value = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(value)
	}
	return name + `="` + value + `"`
}

// metricsPage renders the page of the server's runtime as of now.
func (s *Server) metricsPage() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance()
	p := &page{buf: make([]byte, 0, max(60_000, s.opt.MetricsBytes))}
	switch s.opt.Runtime {
	case SGLang:
		s.sglangPage(p)
	case TRTLLM:
		s.tritonPage(p)
	default:
		s.vllmPage(p)
	}
	if s.opt.MetricsBytes > 0 {
		p.pad(s.opt.MetricsBytes)
	}
	return p.buf
}

func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request) {
	const text = "text/plain; version=0.0.4; charset=utf-8"
	body := s.frozenPage.Load()
	if body == nil {
		body = new(s.metricsPage())
	}
	switch s.Faults().Metrics {
	case "error":
		writeError(w, &apiError{Status: http.StatusInternalServerError, Type: "InternalServerError", Message: "the metrics page is broken"})
		return
	case "html":
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<!doctype html><html><body><h1>It works!</h1></body></html>\n")
		return
	case "empty":
		w.Header().Set("Content-Type", text)
		return
	case "endless":
		w.Header().Set("Content-Type", text)
		endless(w, r, *body)
		return
	case "slow":
		w.Header().Set("Content-Type", text)
		drip(w, r, *body)
		return
	}
	w.Header().Set("Content-Type", text)
	w.Header().Set("Content-Length", strconv.Itoa(len(*body)))
	_, _ = w.Write(*body) // a scraper that has left needs nothing
}

// endless sends the page over and over until the client has enough.
func endless(w http.ResponseWriter, r *http.Request, body []byte) {
	for r.Context().Err() == nil {
		if _, err := w.Write(body); err != nil {
			return
		}
	}
}

// drip sends one byte a second until the client has enough.
func drip(w http.ResponseWriter, r *http.Request, body []byte) {
	control := http.NewResponseController(w)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for i := range body {
		if _, err := w.Write(body[i : i+1]); err != nil || control.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// addLoadHeader answers a request for a load report (ORCA) as vLLM does, on answers that are not streamed.
func (s *Server) addLoadHeader(w http.ResponseWriter, r *http.Request) {
	if s.opt.DisableORCA || s.opt.Runtime != VLLM {
		return
	}
	s.mu.Lock()
	load := s.engine.Load()
	s.mu.Unlock()
	waiting, usage := appendFloat(nil, float64(load.Waiting)), appendFloat(nil, load.KVUsage)
	switch format := r.Header.Get("endpoint-load-metrics-format"); strings.ToUpper(format) {
	case "JSON":
		w.Header().Set("endpoint-load-metrics", fmt.Sprintf(`JSON {"named_metrics": {"num_requests_waiting": %s, "kv_cache_usage_perc": %s}}`, waiting, usage))
	case "TEXT":
		w.Header().Set("endpoint-load-metrics", fmt.Sprintf(`TEXT named_metrics.num_requests_waiting=%s, named_metrics.kv_cache_usage_perc=%s`, waiting, usage))
	}
}
