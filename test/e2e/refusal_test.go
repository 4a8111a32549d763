package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/enginesim"
	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

const reasonHeader = "x-llm-d-request-dropped-reason"

// wantNoEndpoint checks the refusal of a request that no pod can take.
func (a *answer) wantNoEndpoint(t *testing.T, retryHelps bool) {
	t.Helper()
	e := a.wantError(t, http.StatusServiceUnavailable)
	if e.Code != "no_endpoints" {
		t.Errorf("code of the error: expected no_endpoints, got %v", a)
	}
	if got := a.header.Get(reasonHeader); got != "rejected-no-endpoints" {
		t.Errorf("%s: expected rejected-no-endpoints, got %q", reasonHeader, got)
	}
	seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
	if retryHelps && (err != nil || seconds < 1) {
		t.Errorf("Retry-After: expected seconds, got %q", a.header.Get("Retry-After"))
	}
}

// Without endpoints requests are refused at once, in the form that clients know, and served when there are some.
func TestNoEndpoints(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, plan{profile: profile, engines: fastEngines(1)})
			if err := os.WriteFile(s.endpoints, []byte("endpoints: []\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			s.wantHosts(t, time.Second, nil)
			for _, r := range []call{chat{prompt: "hello"}.call(), {path: "/v1/models"}, {path: "/upload", body: []byte("bytes")}} {
				s.do(r).wantNoEndpoint(t, true)
			}
			if err := os.WriteFile(s.endpoints, endpointsOf(s.engines), 0o644); err != nil {
				t.Fatal(err)
			}
			s.wantHosts(t, time.Second, s.engines)
			s.do(chat{prompt: "hello"}.call()).wantWhole(t, false)
			if n := metricsOf(t, s.picker()).sum("pilotfish_refusals_total", "reason=no_endpoints"); n != 3 {
				t.Errorf("refusals counted: %v, expected 3", n)
			}
			s.wantIdle(t)
			s.wantNoBypass(t)
		})
	}
}

// When all model servers are dead a request ends soon, with an error and not with silence.
func TestAllEndpointsDead(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, plan{profile: profile, engines: fastEngines(3)})
			s.do(chat{prompt: "hello"}.call()).wantWhole(t, false)
			for _, e := range s.engines {
				if err := e.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			for range 10 {
				if a := s.do(chat{prompt: "hello?"}.call()); a.err != nil || a.status != http.StatusServiceUnavailable || a.took > 5*time.Second {
					t.Errorf("expected status 503 soon, got %v", a)
				}
			}
			for _, e := range s.engines {
				if err := e.Restart(context.Background(), s.Stack); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, answerLimit, "requests to be served again", func() error {
				if a := s.do(chat{prompt: "hello"}.call()); !a.ok() {
					return fmt.Errorf("%v", a)
				}
				return nil
			})
			s.wantIdle(t)
		})
	}
}

// A filter before the picker may say which endpoints are allowed. It is obeyed by ip and port, and if none is left the
// request is refused.
func TestSubset(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			mirrors := []*mirror{newMirror(t, "mirror-0"), newMirror(t, "mirror-1"), newMirror(t, "mirror-2")}
			var others []stack.Endpoint
			for _, m := range mirrors {
				others = append(others, stack.At(m.name, m.address))
			}
			only := mirrors[1].address.String()
			for _, c := range []struct {
				name   string
				subset any
				served bool
			}{
				{"a list", []any{"127.0.0.1:1", only}, true},
				{"commas", "127.0.0.1:1, " + only, true},
				{"an empty list", []any{}, false},
				{"none of ours", []any{"127.0.0.1:1", "127.0.0.9:" + strconv.Itoa(int(mirrors[1].address.Port()))}, false},
			} {
				s := newSite(t, plan{profile: profile, others: others, mutate: func(cfg stack.Config) error { return hint(cfg, c.subset) }})
				for _, r := range []call{chat{prompt: "hello"}.call(), {path: "/v1/models"}, {path: "/upload", body: []byte("bytes")}} {
					for range 4 {
						a := s.do(r)
						if !c.served {
							a.wantNoEndpoint(t, false)
						} else if got := a.sighted(t).Server; got != "mirror-1" {
							t.Errorf("%s, %s: served by %s, which is not allowed", c.name, r.path, got)
						}
					}
				}
			}
		})
	}
}

// hint puts a filter before the picker that sets the subset for every request.
func hint(c stack.Config, subset any) error {
	v, err := c.Get(stack.HCM + "/http_filters")
	if err != nil {
		return err
	}
	return c.Replace(stack.HCM+"/http_filters", append([]any{map[string]any{
		"name": "subset",
		"typed_config": map[string]any{
			"@type": "type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config",
			"metadata": []any{map[string]any{
				"metadata_namespace": "envoy.lb.subset_hint",
				"value":              map[string]any{"x-gateway-destination-endpoint-subset": subset},
			}},
		},
	}}, v.([]any)...))
}

// Odd bodies are either refused with the place of the fault, or reach the engine as they came.
func TestOddBodies(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			only := newMirror(t, "mirror")
			s := newSite(t, plan{profile: profile, others: []stack.Endpoint{stack.At("mirror", only.address)}, env: []string{"ROUTING_STRATEGY=PREFIX_CACHE"}})
			chatIs := func(content string) string {
				return `{"model":"sim","messages":[{"role":"user","content":` + content + `}]}`
			}
			for _, c := range []struct {
				name, body string
				refused    []string // what the error says; nil: not refused
			}{
				{"an object cut short", `{"model":"sim",`, []string{"byte 15", "line 1"}},
				{"a comma too many, on line 3", "{\n\"model\":\"sim\",\n\"messages\":[1,]}", []string{"line 3, column 15"}},
				{"text", `hello`, []string{"byte 0"}},
				{"two values", chatIs(`"x"`) + `{}`, []string{"byte 58"}},
				{"a form", `model=sim&prompt=x`, []string{"byte 0"}},
				{"an empty body", ``, []string{"byte 0", "no body"}},
				{"nothing but space", `   `, []string{"byte 3"}},
				{"nesting of 100,000", strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000), []string{"nested"}},
				{"nesting within", chatIs(strings.Repeat("[", 400) + strings.Repeat("]", 400)), nil},
				{"a newline in a string", chatIs("\"a\nb\""), []string{"byte "}},
				{"broken UTF-8", chatIs("\"\xff\xfe \xc3\x28 \xed\xa0\x80\""), nil},
				{"a lone surrogate", chatIs(`"\ud800 \udc00"`), nil},
				{"a NUL", chatIs(`"\u0000"`), nil},
				{"wrong types", `{"model":{"a":1},"messages":7,"stream":"yes","max_tokens":"many"}`, nil},
				{"numbers as they are", `{"model":"sim","messages":[],"seed":9007199254740993,"t":1.0e-5000}`, nil},
				{"duplicate keys", `{"model":"a","messages":[],"model":"sim","messages":[{"role":"user","content":"x"}]}`, nil},
				{"no model", `{"messages":[{"role":"user","content":"x"}]}`, nil},
				{"an empty object", `{}`, nil},
				{"a long model name", `{"model":"` + strings.Repeat("m", 100_000) + `"}`, nil},
				{"a byte order mark", "\xef\xbb\xbf" + chatIs(`"x"`), nil},
			} {
				t.Run(c.name, func(t *testing.T) {
					for _, path := range []string{chatPath, "/v1/completions"} {
						a := s.do(call{path: path, body: []byte(c.body), method: http.MethodPost})
						if c.refused == nil {
							a.sighted(t).wantSame(t, []byte(c.body))
							continue
						}
						e := a.wantError(t, http.StatusBadRequest)
						for _, want := range c.refused {
							if !strings.Contains(e.Message, want) {
								t.Errorf("%s: expected the error to say %q, got %q", path, want, e.Message)
							}
						}
					}
				})
			}
			s.wantIdle(t)
			s.wantNoBypass(t)
		})
	}
}

// Bodies above the bound are refused, whether their length is told or not, and disturb nobody.
func TestBodyTooLarge(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, plan{profile: profile, engines: fastEngines(2), env: []string{"MAX_REQUEST_BODY=256Ki"}})
			l := startLoad(t, s.url(), 2, chats)
			large := chat{prompt: text("a book", 2<<20)}.body()
			for _, chunks := range []bool{false, true} {
				e := s.do(call{path: chatPath, body: large, chunks: chunks}).wantError(t, http.StatusRequestEntityTooLarge)
				if !strings.Contains(e.Message, "262144") || !strings.Contains(e.Message, "MAX_REQUEST_BODY") {
					t.Errorf("expected the error to name the bound, got %q", e.Message)
				}
			}
			s.do(call{path: chatPath, body: chat{prompt: text("nearly", 256<<10-200)}.body()}).wantWhole(t, false)
			// Also one that is above Envoy's own bound.
			huge := chat{prompt: text("a library", 100<<20)}.body()
			a := do(context.Background(), newClient(), s.url(), call{path: chatPath, body: huge})
			if a.err == nil && a.status != http.StatusRequestEntityTooLarge {
				t.Errorf("a body of 100 MB: expected status 413, got %v", a)
			}
			if a.err != nil {
				t.Logf("a body of 100 MB: %v", a.err) // the gateway closed the connection before all was sent
			}
			wantNoFailure(t, l.stop())
			s.wantIdle(t)
		})
	}
}

// The bodies that the picker holds at once are bounded too. What is above waits with its client; others pass.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	s := newSite(t, plan{profile: fullDuplex, engines: fastEngines(2), env: []string{"MAX_REQUEST_BODY=256Ki", "MAX_BUFFERED=512Ki"}})
	const part = 250_000
	body := chat{prompt: text("slowly", part)}.body()
	held := make([]*slowBody, 2)
	answers := make(chan *http.Response, len(held))
	for i := range held {
		held[i] = sendSlowly(t, s, body, part, answers)
	}
	eventually(t, answerLimit, "the picker to hold both bodies", func() error {
		m, err := readMetrics(s.picker())
		if err != nil {
			return err
		}
		if n := m.sum("pilotfish_buffered_bytes"); n < 2*part {
			return fmt.Errorf("it holds %v bytes", n)
		}
		return nil
	})
	third := s.do(call{path: chatPath, body: body})
	if e := third.wantError(t, http.StatusServiceUnavailable); e.Code != "buffers_full" || third.header.Get("Retry-After") == "" {
		t.Errorf("expected code buffers_full with Retry-After, got %v", third)
	}
	for range 20 {
		s.do(chat{prompt: "short"}.call()).wantWhole(t, false)
		if a := s.do(call{path: "/upload", body: body}); a.status != http.StatusNotFound || a.servedBy == "" {
			t.Errorf("a body that nobody has to hold: expected the engine's 404, got %v", a)
		}
	}
	for _, b := range held {
		b.finish()
	}
	for range held {
		resp := <-answers
		if resp == nil || resp.StatusCode != http.StatusOK {
			t.Errorf("a request that came slowly: got %v", resp)
		}
	}
	s.wantIdle(t)
	s.do(call{path: chatPath, body: body}).wantWhole(t, false)
}

// slowBody is a request whose body stops before its end.
type slowBody struct {
	rest []byte
	w    *io.PipeWriter
}

func sendSlowly(t *testing.T, s *site, body []byte, now int, answers chan<- *http.Response) *slowBody {
	t.Helper()
	r, w := io.Pipe()
	t.Cleanup(func() { _ = w.CloseWithError(io.ErrUnexpectedEOF) })
	ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url()+chatPath, r)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = int64(len(body))
	go func() {
		resp, err := s.client.Do(req)
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
		answers <- resp
	}()
	go func() { _, _ = w.Write(body[:now]) }()
	return &slowBody{rest: body[now:], w: w}
}

func (b *slowBody) finish() {
	_, _ = b.w.Write(b.rest)
	_ = b.w.Close()
}

// A metrics page that is no use stops no traffic, not even to that engine.
func TestMetricsPagesAreOdd(t *testing.T) {
	t.Parallel()
	engines := fastEngines(6)
	for i, fault := range []string{"error", "html", "empty", "endless", "slow"} {
		engines[i].Faults.Metrics = fault
	}
	s := newSite(t, plan{engines: engines})
	l := startLoad(t, s.url(), 6, chats)
	l.await(t, 300)
	eventually(t, answerLimit, "failed readings to be counted for each bad page", func() error {
		m, err := readMetrics(s.picker())
		if err != nil {
			return err
		}
		for _, e := range s.engines[:5] {
			name := e.Name()
			if name == "engine-2" {
				continue // an empty page can be read; it just tells nothing
			}
			if n := m.sum("pilotfish_scrape_errors_total", "model_server_pod="+name); n < 3 {
				return fmt.Errorf("%s: %v", name, n)
			}
		}
		return nil
	})
	l.await(t, 300)
	all := l.stop()
	wantNoFailure(t, all)
	by := servedBy(all)
	t.Logf("served by %v", by)
	for _, e := range s.engines {
		if by[e.Name()] < len(all)/20 {
			t.Errorf("%s served %d of %d requests", e.Name(), by[e.Name()], len(all))
		}
	}
	if n := s.total(t, func(e enginesim.Stats) uint64 { return e.Requests }); n != uint64(len(all)) {
		t.Errorf("%d requests, the engines saw %d", len(all), n)
	}
	s.wantIdle(t)
}

// A body in a million chunks arrives like any other.
func TestMillionChunks(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			only := newMirror(t, "mirror")
			s := newSite(t, plan{profile: profile, others: []stack.Endpoint{stack.At("mirror", only.address)}, env: []string{"ROUTING_STRATEGY=PREFIX_CACHE"}})
			body := chat{prompt: text("bit by bit", 2_000_000)}.body()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url()+chatPath, &sips{bytes.NewReader(body), 2})
			if err != nil {
				t.Fatal(err)
			}
			l := startLoad(t, s.url(), 2, func(client, n int) call { return chat{prompt: fmt.Sprint(client, n)}.call() })
			resp, err := s.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			a := &answer{status: resp.StatusCode, header: resp.Header}
			a.body, a.err = io.ReadAll(resp.Body)
			a.sighted(t).wantSame(t, body)
			wantNoFailure(t, l.stop())
			s.wantIdle(t)
			s.wantNoBypass(t)
		})
	}
}

// sips gives a few bytes at each reading, which Go's HTTP client sends as a chunk each.
type sips struct {
	of   io.Reader
	most int
}

func (s *sips) Read(p []byte) (int, error) { return s.of.Read(p[:min(len(p), s.most)]) }
