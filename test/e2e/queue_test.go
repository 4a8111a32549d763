package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

const waits = "inference_extension_flow_control_request_queue_duration_seconds"

// said is what a puppet's page says.
type said struct {
	running, waiting int
	kv               float64 // 0..1
}

var (
	idle = said{}
	busy = said{running: 8, waiting: 9, kv: .5}
	// noSpace is saturated without requests that wait, so that nothing is known of how many run there at once. With a
	// threshold of 1 it has exactly one place as soon as there is space.
	noSpace = said{kv: .9}
)

// puppet is a mirror whose metrics page says what the test wants it to, and which answers when the test lets it.
type puppet struct {
	*mirror

	mu      sync.Mutex
	says    said
	offered bool          // the next reader of the page is told that there is space
	reads   int           // of the page, since it was last changed
	held    chan struct{} // requests are answered when it is closed; nil: at once
}

func newPuppet(t *testing.T, name string) *puppet {
	t.Helper()
	p := &puppet{mirror: &mirror{name: name}, says: busy}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", p.page)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		held := p.held
		p.mu.Unlock()
		if held != nil {
			<-held
		}
		p.serve(w, r)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(func() {
		p.release()
		server.Close()
	})
	p.address = server.Listener.Addr().(*net.TCPAddr).AddrPort()
	return p
}

func (p *puppet) page(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	says := p.says
	if p.offered {
		says, p.offered, p.reads = idle, false, 0
	} else {
		p.reads++
	}
	p.mu.Unlock()
	_, _ = fmt.Fprintf(w, "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running %d\n"+
		"# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting %d\n"+
		"# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc %g\n", says.running, says.waiting, says.kv)
}

func (p *puppet) say(says said) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.says, p.reads = says, 0
}

// offer lets the next reader of the page find space, and nobody after it.
func (p *puppet) offer() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.offered, p.reads = true, 0
}

// hold keeps requests that come from now on in the puppet's hands until release.
func (p *puppet) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = make(chan struct{})
}

func (p *puppet) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held != nil {
		close(p.held)
		p.held = nil
	}
}

// says lets a puppet's page say something, and waits until the picker knows.
func (s *site) says(t *testing.T, p *puppet, says said) {
	t.Helper()
	p.say(says)
	s.awaitKnown(t, p)
}

// awaitKnown waits until the picker knows what a puppet's page says.
func (s *site) awaitKnown(t *testing.T, p *puppet) {
	t.Helper()
	eventually(t, answerLimit, fmt.Sprintf("the picker to read %+v of %s", p.says, p.name), func() error {
		for _, pod := range s.pods(t) {
			if r := pod.Report; pod.Address == p.address.String() && r != nil && (said{r.Running, r.Waiting, r.KVUsage}) == p.says {
				return nil
			}
		}
		return errors.New("it has another report")
	})
}

// oneByOne are settings by which a puppet that has noSpace, and offers some, has one place.
var oneByOne = []string{"SD_QUEUE_DEPTH_THRESHOLD=1"}

// serveInTurn gives a puppet's one place to whoever is next until it has got n requests: each when the one before has
// ended, so that the order in which they arrive is the order in which they were sent on.
func (s *site) serveInTurn(t *testing.T, p *puppet, n int) {
	t.Helper()
	eventually(t, answerLimit, fmt.Sprintf("%d requests to arrive one by one", n), func() error {
		got := len(p.requests())
		p.mu.Lock()
		reads, offered := p.reads, p.offered
		p.mu.Unlock()
		under, err := inFlight(s.picker())
		switch {
		case err != nil:
			return err
		case got >= n:
			return nil
		case !offered && reads >= 2 && under == 0: // the first page of these is in force, so nobody is sent on now
			p.offer()
		}
		return fmt.Errorf("%d so far, %d under way", got, under)
	})
}

type podState struct {
	Address  string
	Health   string
	InFlight int
	Report   *struct {
		Running, Waiting int
		KVUsage          float64
	}
}

// awaitReports waits until the picker has read the page of every model server.
func (s *site) awaitReports(t *testing.T) {
	t.Helper()
	eventually(t, answerLimit, "the picker to read every page", func() error {
		for _, pod := range s.pods(t) {
			if pod.Report == nil {
				return errors.New(pod.Address + " has no report")
			}
		}
		return nil
	})
}

// pods is what the picker's /debug/pool says.
func (s *site) pods(t *testing.T) []podState {
	t.Helper()
	return decode[struct{ Pods []podState }](t, page(t, "http://"+s.picker().Metrics.String()+"/debug/pool")).Pods
}

// queued is what the picker's /debug/queue says.
type queued struct {
	Waiting int
	Bytes   int64
	Levels  []struct {
		Priority, Waiting int
		OldestMs          float64
	}
}

func (s *site) queued(t *testing.T) queued {
	t.Helper()
	return decode[queued](t, page(t, "http://"+s.picker().Metrics.String()+"/debug/queue"))
}

func (s *site) awaitQueued(t *testing.T, n int) {
	t.Helper()
	eventually(t, answerLimit, fmt.Sprintf("%d requests to wait", n), func() error {
		if q := s.queued(t); q.Waiting != n {
			return fmt.Errorf("the queue is %+v", q)
		}
		return nil
	})
}

// wantEmptyQueue checks that nobody waits, by the metrics page too.
func (s *site) wantEmptyQueue(t *testing.T) {
	t.Helper()
	s.awaitQueued(t, 0)
	m := metricsOf(t, s.picker())
	for _, gauge := range []string{"inference_extension_flow_control_queue_size", "inference_extension_flow_control_queue_bytes"} {
		if len(m.samples(gauge, nil)) == 0 || m.sum(gauge) != 0 {
			t.Errorf("%s: expected 0 at every priority, got %v", gauge, m[gauge])
		}
	}
}

// pending are requests that were sent and may not have been answered.
type pending struct {
	site    *site
	answers []*answer
	done    sync.WaitGroup
}

func (p *pending) send(r call) {
	a := new(answer)
	p.answers = append(p.answers, a)
	p.done.Go(func() { *a = *p.site.do(r) })
}

// queue sends requests one by one, each when the one before waits.
func (p *pending) queue(t *testing.T, requests ...call) {
	t.Helper()
	for _, r := range requests {
		before := p.site.queued(t).Waiting
		p.send(r)
		p.site.awaitQueued(t, before+1)
	}
}

// all waits for the answers and gives them in the order of the requests.
func (p *pending) all() []*answer {
	p.done.Wait()
	return p.answers
}

// queueing is a site of one puppet, or of several, with the queue on. Reports never get stale there, so that a machine
// that is slow to read a page changes nothing. ranks is added to the endpoints file.
func queueing(t *testing.T, profile, ranks string, env []string, puppets ...*puppet) *site {
	t.Helper()
	p := plan{profile: profile, env: append([]string{"QUEUEING=enabled", "SD_METRICS_STALENESS_THRESHOLD=1h"}, env...)}
	for _, one := range puppets {
		p.others = append(p.others, stack.At(one.name, one.address))
	}
	p.endpoints = func([]byte) string { return writeFile(t, puppetEndpoints(ranks, puppets...)) }
	s := newSite(t, p)
	for _, one := range puppets {
		s.awaitKnown(t, one)
	}
	return s
}

// writeFile writes an endpoints file and gives its path.
func writeFile(t *testing.T, content []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "endpoints.yaml")
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func puppetEndpoints(ranks string, puppets ...*puppet) []byte {
	var b strings.Builder
	b.WriteString("endpoints:\n")
	for _, p := range puppets {
		fmt.Fprintf(&b, "- name: %s\n  address: %s\n  port: %d\n", p.name, p.address.Addr(), p.address.Port())
	}
	b.WriteString(ranks)
	return []byte(b.String())
}

// anyKind is a request of each kind that is bound to a pod at another point of its stream.
func anyKind() []call {
	return []call{
		chat{prompt: "hello"}.call(),
		{path: chatPath, body: chat{prompt: text("a book", 2<<20)}.body()},
		{path: chatPath, body: chat{prompt: "bit by bit"}.body(), chunks: true},
		{path: "/v1/models"},
		{path: "/upload", body: []byte("bytes")},
	}
}

// wantRefused checks the refusal of a request by the queue. It gives the seconds of Retry-After, 0 without one.
func (a *answer) wantRefused(t *testing.T, status int, code, reason string) int {
	t.Helper()
	e := a.wantError(t, status)
	if e.Code != code || e.Type == "" {
		t.Errorf("error: expected code %q and a type, got %v", code, a)
	}
	if got := a.header.Get(reasonHeader); got != reason {
		t.Errorf("%s: expected %q, got %q", reasonHeader, reason, got)
	}
	after := a.header.Get("Retry-After")
	if after == "" {
		return 0
	}
	seconds, err := strconv.Atoi(after)
	if err != nil || seconds < 1 || seconds > 60 {
		t.Errorf("Retry-After: expected 1 to 60 seconds, got %q", after)
	}
	return seconds
}

// A request that finds no room waits, for longer than Envoy would wait for a picker that says nothing, and goes on when a
// pod has room.
func TestRequestsWaitForRoom(t *testing.T) {
	const envoyPatience = 5 * time.Second // message_timeout of both profiles
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			only := newPuppet(t, "puppet")
			s := queueing(t, profile, "", nil, only)
			requests := anyKind()
			sent := pending{site: s}
			for _, r := range requests {
				sent.send(r)
			}
			eventually(t, answerLimit, "all to have waited for longer than Envoy's patience", func() error {
				q := s.queued(t)
				if got := only.requests(); len(got) != 0 {
					t.Fatalf("%s %s has passed the queue by", got[0].Method, got[0].Path)
				}
				if q.Waiting != len(sent.answers) || q.Levels[0].OldestMs < 1.3*float64(envoyPatience.Milliseconds()) {
					return fmt.Errorf("the queue is %+v", q)
				}
				return nil
			})
			s.says(t, only, idle)
			for i, a := range sent.all() {
				a.sighted(t).wantSame(t, requests[i].body)
				if a.took < envoyPatience {
					t.Errorf("a request that had to wait was answered after %v: %v", a.took, a)
				}
			}
			m := metricsOf(t, s.picker())
			if n := m.sum("pilotfish_queue_dispatches_total", "waited=yes", "priority=0"); int(n) != len(sent.answers) {
				t.Errorf("dispatches after a wait: expected %d, counted %v", len(sent.answers), n)
			}
			if n := m.sum(waits, "outcome=dispatched"); n < float64(len(sent.answers))*envoyPatience.Seconds() {
				t.Errorf("seconds waited by all: counted %v", n)
			}
			s.wantEmptyQueue(t)
			s.wantIdle(t)
			s.wantNoBypass(t)
		})
	}
}

// Who has waited for QUEUE_TTL is told so, in the form that clients know.
func TestWaitIsTooLong(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			only := newPuppet(t, "puppet")
			s := queueing(t, profile, "", []string{"QUEUE_TTL=1s"}, only)
			sent := pending{site: s}
			for _, r := range anyKind() {
				sent.send(r)
			}
			for _, a := range sent.all() {
				if after := a.wantRefused(t, http.StatusServiceUnavailable, "queue_timeout", "rejected-ttl-expired"); after == 0 {
					t.Errorf("Retry-After: expected seconds, got none")
				}
				if a.took < time.Second {
					t.Errorf("refused after %v", a.took)
				}
			}
			m := metricsOf(t, s.picker())
			if n := m.count(waits, "outcome=expired"); int(n) != len(sent.answers) {
				t.Errorf("waits counted as expired: expected %d, got %d", len(sent.answers), n)
			}
			if n := m.sum("pilotfish_refusals_total", "reason=queue_timeout"); int(n) != len(sent.answers) {
				t.Errorf("refusals counted: expected %d, got %v", len(sent.answers), n)
			}
			s.says(t, only, idle)
			s.do(chat{prompt: "hello"}.call()).sighted(t)
			if n := len(only.requests()); n != 1 {
				t.Errorf("the model server got %d requests, expected none of those refused", n)
			}
			s.wantEmptyQueue(t)
			s.wantIdle(t)
			s.wantNoBypass(t)
		})
	}
}

// At the queue's capacity the oldest of the lowest priority make way, never for one of lower priority, and never in vain.
func TestQueueIsFull(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			only := newPuppet(t, "puppet")
			s := queueing(t, profile, "models: [{name: gold, criticality: Critical}, {name: cheap, criticality: Sheddable}]\n",
				[]string{"TOTAL_QUEUE_CAPACITY=5000"}, only)
			sized := func(model string, bytes int) call {
				frame := len(chat{model: model}.body())
				return chat{model: model, prompt: text("sized", bytes-frame)}.call()
			}
			discarded := func(a *answer) {
				t.Helper()
				if a.wantRefused(t, http.StatusTooManyRequests, "queue_discarded", "evicted-queue-pressure") == 0 {
					t.Error("Retry-After of a discarded request: expected seconds, got none")
				}
			}
			wantBytes := func(n int64) {
				t.Helper()
				if q := s.queued(t); q.Bytes != n {
					t.Errorf("bytes in the queue: expected %d, got %+v", n, q)
				}
			}
			var standard [3]pending
			for i := range standard {
				standard[i].site = s
			}
			standard[0].queue(t, sized(model, 2000))
			standard[1].queue(t, sized(model, 2000))

			if s.do(sized("cheap", 2000)).wantRefused(t, http.StatusTooManyRequests, "queue_full", "rejected-saturated") == 0 {
				t.Error("Retry-After of a newcomer for whom nobody makes way: expected seconds, got none")
			}
			if after := s.do(sized("gold", 5001)).wantRefused(t, http.StatusTooManyRequests, "exceeds_queue", "rejected-saturated"); after != 0 {
				t.Errorf("Retry-After of a request larger than the queue: expected none, got %d", after)
			}
			wantBytes(4000)

			standard[2].send(sized(model, 2000))
			discarded(standard[0].all()[0])
			s.awaitQueued(t, 2)
			wantBytes(4000)

			gold := pending{site: s}
			gold.send(sized("gold", 5000))
			discarded(standard[1].all()[0])
			discarded(standard[2].all()[0])
			s.awaitQueued(t, 1)
			s.do(sized(model, 2000)).wantRefused(t, http.StatusTooManyRequests, "queue_full", "rejected-saturated")
			gold.queue(t, call{path: "/v1/models"}) // has no bytes, so there is a place for it
			wantBytes(5000)

			s.says(t, only, idle)
			for _, a := range gold.all() {
				a.sighted(t)
			}
			if n := len(only.requests()); n != 2 {
				t.Errorf("the model server got %d requests, expected the two that were left", n)
			}
			m := metricsOf(t, s.picker())
			if n := m.count(waits, "outcome=discarded"); n != 3 {
				t.Errorf("waits counted as discarded: expected 3, got %d", n)
			}
			if n := m.count(waits, "outcome=refused"); n != 3 {
				t.Errorf("waits counted as refused: expected 3, got %d", n)
			}
			s.wantEmptyQueue(t)
			s.wantIdle(t)
			s.wantNoBypass(t)
		})
	}
}

// Requests whose endpoints all leave wait for others: until their time is over, or until some come.
func TestEndpointsLeaveWhileRequestsWait(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			only := newPuppet(t, "puppet")
			s := queueing(t, profile, "", []string{"QUEUE_TTL=3s"}, only)
			list := func(content []byte) {
				t.Helper()
				if err := os.WriteFile(s.endpoints, content, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			sent := pending{site: s}
			sent.queue(t, chat{prompt: "hello"}.call(), call{path: "/v1/models"}, call{path: "/upload", body: []byte("bytes")})
			list([]byte("endpoints: []\n"))
			s.wantHosts(t, time.Second, nil)
			for _, a := range sent.all() {
				a.wantNoEndpoint(t, true)
				if a.took < 3*time.Second {
					t.Errorf("refused after %v, although endpoints may come back", a.took)
				}
			}

			again := pending{site: s}
			for i := range 20 {
				again.send(chat{prompt: fmt.Sprint("hello again ", i)}.call())
			}
			s.awaitQueued(t, 20)
			only.say(idle)
			list(puppetEndpoints("", only))
			for _, a := range again.all() {
				a.sighted(t)
			}
			s.wantEmptyQueue(t)
			s.wantIdle(t)
			s.wantNoBypass(t)
		})
	}
}

// named is a request that can be told from others where it arrives.
func named(name, model string, header ...string) call {
	r := chat{prompt: "the same for all", model: model}.call()
	r.header = map[string]string{"x-name": name}
	for i := 0; i < len(header); i += 2 {
		r.header[header[i]] = header[i+1]
	}
	return r
}

// arrivals gives the names of the requests that a mirror has got, in order.
func (m *mirror) arrivals() []string {
	var names []string
	for _, s := range m.requests() {
		names = append(names, s.Header.Get("x-name"))
	}
	return names
}

// Who is more important goes first, by objective or else by model, and who came first among equals.
func TestPrioritiesInTheQueue(t *testing.T) {
	t.Parallel()
	const objective = "x-gateway-inference-objective"
	only := newPuppet(t, "puppet")
	only.say(noSpace)
	s := queueing(t, lean, `models: [{name: gold, criticality: Critical}, {name: cheap, criticality: Sheddable}, {name: plain}]
objectives: [{name: batch, priority: -1}, {name: urgent, priority: 7}]
`, oneByOne, only)
	sent := pending{site: s}
	sent.queue(t,
		named("cheap", "cheap"),
		named("standard", "sim"),
		named("gold batch", "gold", objective, "batch"),
		named("gold", "gold"),
		named("unknown objective", "plain", objective, "unheard-of"),
		named("urgent cheap", "cheap", objective, "urgent"),
		named("gold, unknown objective", "gold", objective, "unheard-of"),
		named("urgent, by its other name", "sim", "x-llm-d-inference-objective", "urgent"),
		named("cheap 2", "cheap"),
	)
	want := []string{
		"urgent cheap", "urgent, by its other name", "gold", "gold, unknown objective", "standard", "unknown objective",
		"cheap", "gold batch", "cheap 2",
	}
	var levels []string
	for _, l := range s.queued(t).Levels {
		levels = append(levels, fmt.Sprint(l.Priority, ":", l.Waiting))
	}
	if got := strings.Join(levels, " "); got != "7:2 1:2 0:2 -1:3" {
		t.Errorf("/debug/queue: expected priorities and numbers 7:2 1:2 0:2 -1:3, got %s", got)
	}
	s.serveInTurn(t, only, len(want))
	for _, a := range sent.all() {
		wantNoControlHeaders(t, a.sighted(t), only.address.String())
	}
	got := only.arrivals()
	if !slices.Equal(got, want) {
		t.Errorf("order of arrival:\n     got %q\nexpected %q", got, want)
	}
	s.wantEmptyQueue(t)
	s.wantIdle(t)
	s.wantNoBypass(t)
}

// While an important request may come, others go only where none waits.
func TestLowerPrioritiesLeaveRoom(t *testing.T) {
	t.Parallel()
	only := newPuppet(t, "puppet")
	s := queueing(t, lean, "models: [{name: gold, criticality: Critical}, {name: cheap, criticality: Sheddable}]\n", nil, only)
	sent := pending{site: s}
	sent.queue(t, named("cheap", "cheap"), named("standard", "sim"), named("gold", "gold"))
	s.says(t, only, said{running: 8, waiting: 4})
	eventually(t, answerLimit, "the important one to go", func() error {
		if len(only.requests()) == 0 {
			return errors.New("nobody went")
		}
		return nil
	})
	s.says(t, only, said{running: 8, waiting: 1})
	if got := only.arrivals(); !slices.Equal(got, []string{"gold"}) {
		t.Errorf("while requests wait at the only pod: arrived %q, expected the important one alone", got)
	}
	s.awaitQueued(t, 2)
	s.says(t, only, idle)
	for _, a := range sent.all() {
		a.sighted(t)
	}
	s.wantEmptyQueue(t)
	s.wantIdle(t)
	s.wantNoBypass(t)
}

// The burst of one tenant starves no other: in turn each gets as many tokens.
func TestTenantsShareTheQueue(t *testing.T) {
	for _, c := range []struct {
		header string
		env    []string
		fair   bool
	}{
		{"x-gateway-inference-fairness-id", nil, true},
		{"x-tenant", []string{"FAIRNESS_HEADER=X-Tenant"}, true},
		{"x-tenant", nil, false},
	} {
		t.Run(fmt.Sprint(c.header, c.env), func(t *testing.T) {
			t.Parallel()
			only := newPuppet(t, "puppet")
			only.say(noSpace)
			s := queueing(t, lean, "", slices.Concat(oneByOne, c.env), only)
			sent := pending{site: s}
			const burst, few = 20, 3
			for i := range burst {
				sent.queue(t, named(fmt.Sprint("burst ", i), "sim", c.header, "burst"))
			}
			for i := range few {
				sent.queue(t, named(fmt.Sprint("few ", i), "sim", c.header, "few"))
			}
			s.serveInTurn(t, only, burst+few)
			for _, a := range sent.all() {
				a.sighted(t)
			}
			got := only.arrivals()
			t.Logf("%q", got)
			for _, tenant := range []struct {
				name  string
				count int
			}{{"burst", burst}, {"few", few}} {
				own := slices.DeleteFunc(slices.Clone(got), func(name string) bool { return !strings.HasPrefix(name, tenant.name) })
				if len(own) != tenant.count || !slices.IsSortedFunc(own, func(a, b string) int { return number(a) - number(b) }) {
					t.Errorf("requests of %s: expected %d in the order in which they came, got %q", tenant.name, tenant.count, own)
				}
			}
			last := slices.Index(got, fmt.Sprint("few ", few-1))
			if c.fair && last > 2*few {
				t.Errorf("the last of the few came at place %d, expected every second place to be theirs", last)
			}
			if !c.fair && last != burst+few-1 {
				t.Errorf("the last of the few came at place %d, but nobody said whose they are", last)
			}
			s.wantEmptyQueue(t)
			s.wantIdle(t)
			s.wantNoBypass(t)
		})
	}
}

// number is that at the end of a name.
func number(name string) int {
	n, err := strconv.Atoi(name[strings.LastIndexByte(name, ' ')+1:])
	if err != nil {
		panic(err)
	}
	return n
}

// Who hangs up while waiting is forgotten at once, and nobody computes an answer for nobody.
func TestClientsLeaveTheQueue(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			only := newPuppet(t, "puppet")
			s := queueing(t, profile, "", nil, only)
			const leave = 40
			ctx, hangUp := context.WithCancel(t.Context())
			defer hangUp()
			var gone sync.WaitGroup
			requests := anyKind()
			for i := range leave {
				r := requests[i%len(requests)]
				gone.Go(func() {
					if a := do(ctx, s.client, s.url(), r); !errors.Is(a.err, context.Canceled) {
						t.Errorf("expected no answer before the client left, got %v", a)
					}
				})
			}
			s.awaitQueued(t, leave)
			stays := pending{site: s}
			stays.queue(t, chat{prompt: "I can wait"}.call())
			hangUp()
			gone.Wait()
			s.awaitQueued(t, 1)
			eventually(t, answerLimit, "the leaving to be counted", func() error {
				m, err := readMetrics(s.picker())
				if err != nil {
					return err
				}
				if n := m.count(waits, "outcome=cancelled"); n != leave {
					return fmt.Errorf("waits counted as cancelled: %d of %d", n, leave)
				}
				if n := m.sum("pilotfish_streams"); n != 1 {
					return fmt.Errorf("streams: %v, expected that of the one who stays", n)
				}
				if held := m.sum("pilotfish_buffered_bytes"); held > 1000 {
					return fmt.Errorf("bytes held: %v", held)
				}
				return nil
			})
			s.says(t, only, idle)
			stays.all()[0].sighted(t)
			if n := len(only.requests()); n != 1 {
				t.Errorf("the model server got %d requests, expected one", n)
			}
			s.wantEmptyQueue(t)
			s.wantIdle(t)
			s.wantNoBypass(t)
		})
	}
}

// Without queueing, requests that may be shed are, while every pod is saturated. Others go on.
func TestSheddingWithoutQueueing(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			one, two := newPuppet(t, "puppet-1"), newPuppet(t, "puppet-2")
			s := queueing(t, profile, "models: [{name: cheap, criticality: Sheddable}]\n", []string{"QUEUEING=disabled"}, one, two)
			for range 4 {
				if s.do(chat{model: "cheap", prompt: "hello"}.call()).wantRefused(t, http.StatusTooManyRequests, "saturated", "rejected-saturated") == 0 {
					t.Error("Retry-After: expected seconds, got none")
				}
				s.do(chat{prompt: "hello"}.call()).sighted(t)
				s.do(call{path: "/v1/models"}).sighted(t)
			}
			s.says(t, two, idle)
			for range 4 {
				if by := s.do(chat{model: "cheap", prompt: "hello"}.call()).sighted(t).Server; by != two.name {
					t.Errorf("served by %s, which is saturated", by)
				}
			}
			if n := metricsOf(t, s.picker()).sum("pilotfish_refusals_total", "reason=saturated"); n != 4 {
				t.Errorf("refusals counted: expected 4, got %v", n)
			}
			s.wantIdle(t)
			s.wantNoBypass(t)
		})
	}
}
