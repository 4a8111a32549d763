package metrics

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/pool"
	"github.com/pilotfish-epp/pilotfish/pkg/settings"
)

func TestReportsReachThePool(t *testing.T) {
	s := start(t, nil)
	pages := fixtures(t)
	idle, busy := s.serve(page(pages["../runtime/testdata/vllm_0.32_idle.txt"])), s.serve(page(pages["../runtime/testdata/vllm_0.32_saturated.txt"]))
	s.set(idle, busy)

	load := s.until(busy, hasReport)
	r := load.Report
	if r.Waiting != 20 || r.Running != 4 || r.BlockSize != 32 || r.KVTokens != 19200 || r.Started == 0 {
		t.Errorf("busy pod: %+v", r)
	}
	if r.Interval < 10*time.Millisecond || pool.At(time.Now()).Since(r.Taken) > 10*time.Second {
		t.Errorf("taken %v ago, next in %v", pool.At(time.Now()).Since(r.Taken), r.Interval)
	}
	if load := s.until(idle, hasReport); load.Report.Waiting != 0 || load.Report.KVTokens != 524288 {
		t.Errorf("idle pod: %+v", load.Report)
	}
}

// A request that is sent while the page is under way may or may not be in it; it counts as sent since.
func TestRequestsInFlightAreCountedBeforeThePageIsAsked(t *testing.T) {
	s := start(t, nil)
	asked, answer := make(chan bool), make(chan bool)
	var pages atomic.Int64
	pod := s.serve(func(w http.ResponseWriter, _ *http.Request) {
		if pages.Load() < 2 {
			asked <- true
			<-answer
		}
		fmt.Fprintf(w, "vllm:num_requests_running %d\n", pages.Add(1))
	})
	s.set(pod)
	var lease pool.Lease
	<-asked
	s.pool.Assign(time.Now(), only{}, &lease)
	answer <- true
	<-asked // the second page, so that the first is in, or soon will be
	s.until(pod, func(l pool.Load) bool { return l.Report.Running == 1 && l.Report.InFlight == 0 })
	answer <- true
	s.until(pod, func(l pool.Load) bool { return l.Report.Running > 1 && l.Report.InFlight == 1 })
	s.pool.Release(&lease)
	s.until(pod, func(l pool.Load) bool { return l.Report.Running > 2 && l.Report.InFlight == 0 })
}

type only struct{}

func (only) Choose(s *pool.Snapshot) (pool.Charge, bool) { return pool.Charge{Pod: s.Pods[0]}, true }

func TestSleepingServerIsToldAsSuch(t *testing.T) {
	s := start(t, nil)
	pod := s.serve(page([]byte("vllm:num_requests_running 0\nvllm:engine_sleep_state{sleep_state=\"awake\"} 0\n")))
	s.set(pod)
	if load := s.until(pod, hasReport); !load.Report.Asleep {
		t.Errorf("%+v", load.Report)
	}
}

func TestOneConnectionForAllPages(t *testing.T) {
	s := start(t, nil)
	var served, connected atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		served.Add(1)
		fmt.Fprint(w, "vllm:num_requests_running 1\n")
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connected.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	s.set(s.endpoint(server))
	s.eventually("ten pages", func() bool { return served.Load() >= 10 })
	if connected.Load() != 1 {
		t.Errorf("%d connections for %d pages", connected.Load(), served.Load())
	}
}

// Each page that can't be read is told to the pool with what was expected and what came, and the pod beside it is read
// as ever.
func TestPagesThatCannotBeRead(t *testing.T) {
	line := []byte(`vllm:request_duration_seconds_bucket{le="1"} 1` + "\n")
	tests := []struct {
		name   string
		page   http.HandlerFunc
		reason Reason
		text   string // all parts, separated by …
	}{
		{
			"HTML", page([]byte("<!DOCTYPE html>\n<html><body>It works!</body></html>\n")), Foreign,
			"/metrics: expected vllm:num_requests_waiting or vllm:num_requests_running of a vllm server, found none of its metrics in a page that begins with \"<!DOCTYPE html>",
		},
		{"empty", page(nil), Foreign, "found none of its metrics in an empty page"},
		{"another server's", page([]byte("sglang:num_queue_reqs 3\n")), Foreign, "begins with \"sglang:num_queue_reqs 3"},
		{
			"500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, Status,
			"expected 200 OK, got 500 Internal Server Error",
		},
		{
			"redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, Status,
			"expected 200 OK, got 302 Found",
		},
		{"endless", endless(line), TooLarge, "expected a page of at most 4194304 bytes, got more"},
		{"endless line", endless(bytes.Repeat([]byte("x"), 1000)), TooLarge, "expected a page of at most 4194304 bytes, got more"},
		{"endless lines that matter", endless([]byte("vllm:num_requests_running{engine=\"1\"} 1\n")), TooLarge, "got more"},
		{
			"silent", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, Timeout,
			"expected a whole page within 100ms (SCRAPE_TIMEOUT), got: …deadline",
		},
		{"slow", func(w http.ResponseWriter, r *http.Request) {
			trickle := time.NewTicker(time.Millisecond)
			defer trickle.Stop()
			for r.Context().Err() == nil {
				w.Write([]byte("vllm:")) //nolint:errcheck // until the scraper hangs up
				w.(http.Flusher).Flush()
				<-trickle.C
			}
		}, Timeout, "expected a whole page within 100ms (SCRAPE_TIMEOUT), got: …deadline"},
		{"cut", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, "vllm:num_requests_running 1\n")
		}, Unreachable, "expected an answer, got: …EOF"},
		{"dropped", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, Unreachable, "expected an answer, got: …EOF"},
		{
			"not UTF-8", page([]byte("vllm:num_requests_running{model_name=\"\xff\xfe\"} 1\n")), Malformed,
			"expected Prometheus text, got a line that is none: invalid label value",
		},
		{"no number", page([]byte("vllm:num_requests_running many\n")), Malformed, "expected Prometheus text, got a line that is none: …many"},
		{"only values that can't be", page([]byte("vllm:num_requests_running NaN\nvllm:num_requests_waiting -1\n")), Foreign, "found only vllm:num_requests_running, vllm:num_requests_waiting"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := start(t, map[string]string{"SCRAPE_TIMEOUT": "100ms"})
			if test.reason == TooLarge {
				s.apply(map[string]string{"SCRAPE_TIMEOUT": "30s"})
			}
			bad, good := s.serve(test.page), s.serve(page([]byte("vllm:num_requests_running 7\n")))
			s.set(bad, good)
			load := s.until(bad, func(l pool.Load) bool { return l.PageFailures >= 2 })
			for _, part := range strings.Split(test.text, "…") {
				if !strings.Contains(load.PageError.Error(), part) {
					t.Errorf("got:  %v\nwant: %s", load.PageError, part)
				}
			}
			if !strings.Contains(load.PageError.Error(), "http://"+bad.Address.String()) {
				t.Errorf("doesn't say where: %v", load.PageError)
			}
			if load.HasReport {
				t.Errorf("there is a report: %+v", load.Report)
			}
			if got := s.failures(bad.Name); len(got) == 0 || got[0] != string(test.reason) {
				t.Errorf("reasons %v, want %s", got, test.reason)
			}
			load = s.until(good, func(l pool.Load) bool { return l.HasReport && pool.At(time.Now()).Since(l.Report.Taken) < time.Second })
			if load.Report.Running != 7 || load.PageFailures != 0 {
				t.Errorf("the good pod: %+v", load)
			}
		})
	}
}

func TestRefusedConnectionIsToldAsSuch(t *testing.T) {
	s := start(t, nil)
	gone := s.serve(page(nil))
	s.servers[gone.Address].Close()
	s.set(gone)
	load := s.until(gone, func(l pool.Load) bool { return l.PageFailures > 0 })
	if !errors.Is(load.PageError, syscall.ECONNREFUSED) || reasonOf(load.PageError) != Unreachable || !load.Refused {
		t.Errorf("got %v", load.PageError)
	}
}

// A pod at which nobody listens is kept aside until its page is read again, so that a long interval must not delay that.
func TestPodThatIsBackIsSeenSoonAlsoWithALongInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		address := netip.MustParseAddrPort("10.0.0.1:8000")
		var refused time.Time
		s := start(t, map[string]string{"REFRESH_METRICS_INTERVAL": "60s"}, func(context.Context, string, string) (net.Conn, error) {
			if refused.IsZero() {
				refused = time.Now()
				return nil, &net.OpError{Op: "dial", Addr: net.TCPAddrFromAddrPort(address), Err: syscall.ECONNREFUSED}
			}
			client, server := net.Pipe()
			go func() {
				defer server.Close() //nolint:errcheck // the page is written, or the scraper fails
				if _, err := http.ReadRequest(bufio.NewReader(server)); err == nil {
					fmt.Fprint(server, "HTTP/1.0 200 OK\r\n\r\nvllm:num_requests_running 1\n")
				}
			}()
			return client, nil
		})
		pod := pool.Endpoint{Name: "gone", Address: address}
		s.set(pod)
		load := s.until(pod, func(l pool.Load) bool { return l.PageFailures > 0 || l.HasReport })
		if !load.Refused {
			t.Errorf("the connection was not refused: %+v", load)
		}
		s.until(pod, hasReport)
		if took := time.Since(refused); took > longestWait*5/4+100*time.Millisecond {
			t.Errorf("seen again after %v, want at most %v", took, longestWait*5/4)
		}
		if got := s.until(pod, hasReport).Report.Interval; got != time.Minute {
			t.Errorf("next page in %v", got)
		}
	})
}

func TestPageThatCanBeReadAgain(t *testing.T) {
	s := start(t, nil)
	var broken atomic.Bool
	broken.Store(true)
	pod := s.serve(func(w http.ResponseWriter, _ *http.Request) {
		if broken.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, "vllm:num_requests_running 1\n")
	})
	s.set(pod)
	s.until(pod, func(l pool.Load) bool { return l.PageFailures >= 3 })
	broken.Store(false)
	s.until(pod, func(l pool.Load) bool { return l.HasReport && l.PageFailures == 0 && l.PageError == nil })
	if n := strings.Count(s.logged(), "can't be read"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, s.logged())
	}
	if !strings.Contains(s.logged(), "can be read again") {
		t.Errorf("recovery isn't logged:\n%s", s.logged())
	}
}

func TestMissingMetricsAreNamedOnce(t *testing.T) {
	s := start(t, nil)
	var served atomic.Int64
	pod := s.serve(func(w http.ResponseWriter, _ *http.Request) {
		served.Add(1)
		fmt.Fprint(w, "vllm:num_requests_running 1\n")
	})
	s.set(pod)
	s.eventually("some pages", func() bool { return served.Load() >= 5 })
	want := []string{"vllm:num_requests_waiting", "vllm:kv_cache_usage_perc or vllm:gpu_cache_usage_perc", "vllm:cache_config_info"}
	missing := s.until(pod, hasReport).Report.Missing
	if len(missing) < len(want) || strings.Join(missing[:len(want)], ", ") != strings.Join(want, ", ") {
		t.Errorf("missing %v", missing)
	}
	if n := strings.Count(s.logged(), "metrics page lacks"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, s.logged())
	}
}

func TestPodThatLeftIsLetGoAtOnce(t *testing.T) {
	s := start(t, map[string]string{"SCRAPE_TIMEOUT": "60s"})
	asked, dropped := make(chan bool, 1), make(chan bool)
	pod := s.serve(func(_ http.ResponseWriter, r *http.Request) {
		asked <- true
		<-r.Context().Done() // the scraper hung up
		dropped <- true
	})
	s.set(pod)
	<-asked
	s.set()
	select {
	case <-dropped:
	case <-time.After(10 * time.Second):
		t.Error("the page of a pod that left is still waited for")
	}
	if got := s.failures(pod.Name); len(got) != 0 {
		t.Errorf("counted as failed: %v", got)
	}
}

func TestRestartedServerIsANewPod(t *testing.T) {
	s := start(t, nil)
	var started atomic.Int64
	started.Store(100)
	pod := s.serve(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "vllm:num_requests_running 1\nprocess_start_time_seconds %d\n", started.Load())
	})
	s.set(pod)
	s.until(pod, hasReport)
	before := s.pool.Snapshot().Pods[0].ID
	started.Store(200)
	s.eventually("a new pod", func() bool { return s.pool.Snapshot().Pods[0].ID != before })
	first := s.until(pod, hasReport).Report.Taken
	s.until(pod, func(l pool.Load) bool { return l.Report.Taken > first && l.Report.Started == 200 })
}

func TestSettingsInForceWhileRunning(t *testing.T) {
	s := start(t, map[string]string{"REFRESH_METRICS_INTERVAL": "60s", "MODEL_SERVER_RUNTIME": "sglang"})
	pod := s.serve(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "vllm:num_requests_running 1\nsglang:num_running_reqs 2\n")
	})
	s.set(pod)
	first := s.until(pod, hasReport).Report
	if first.Running != 2 || first.Interval != time.Minute {
		t.Errorf("%d running, next in %v", first.Running, first.Interval)
	}
	s.apply(map[string]string{"REFRESH_METRICS_INTERVAL": "10ms", "MODEL_SERVER_RUNTIME": "vllm"})
	s.until(pod, func(l pool.Load) bool { return l.Report.Running == 1 })
}

func TestIntervalIsStretchedToTheBudget(t *testing.T) {
	s := start(t, map[string]string{"SCRAPE_BUDGET": "0.01"})
	var pods []pool.Endpoint
	for range 20 {
		pods = append(pods, s.serve(page([]byte("vllm:num_requests_running 1\n"))))
	}
	s.set(pods...)
	least := time.Duration(20 * float64(unmetered) / 0.01) // what clocks see comes on top
	s.until(pods[0], func(l pool.Load) bool { return l.Report.Interval > least })
	s.apply(map[string]string{"SCRAPE_BUDGET": "0"})
	s.until(pods[0], func(l pool.Load) bool { return l.Report.Interval == 10*time.Millisecond })
}

func TestMetricsPort(t *testing.T) {
	s := start(t, nil)
	pod, other := s.serve(page([]byte("vllm:num_requests_running 1\n"))), s.serve(page([]byte("vllm:num_requests_running 2\n")))
	s.set(pod)
	s.until(pod, func(l pool.Load) bool { return l.Report.Running == 1 })
	pod.MetricsPort = other.Address.Port()
	s.set(pod)
	s.until(pod, func(l pool.Load) bool { return l.Report.Running == 2 })
}

func TestPageAtTheRuntimesOtherPath(t *testing.T) {
	s := start(t, nil)
	pages := fixtures(t)
	pod := s.serve(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/metrics" {
			fmt.Fprint(w, `[{"iter":1,"kvCacheStats":{"maxNumBlocks":19960}}]`)
			return
		}
		w.Write(pages["../runtime/testdata/trtllm-serve_1.3.txt"]) //nolint:errcheck // the scraper's failure would show
	})
	pod.Runtime, pod.MetricsPort = "trt-llm", pod.Address.Port()
	s.set(pod)
	if load := s.until(pod, hasReport); load.Report.Running != 3 || load.PageFailures != 0 {
		t.Errorf("%+v", load)
	}
	if got := s.failures(pod.Name); len(got) != 0 {
		t.Errorf("failures: %v", got)
	}
}

func TestUnknownRuntime(t *testing.T) {
	s := start(t, nil)
	pod := s.serve(page(nil))
	pod.Runtime = "llamafile"
	s.set(pod)
	load := s.until(pod, func(l pool.Load) bool { return l.PageFailures > 0 })
	if want := `expected a model server runtime of vllm, sglang, trt-llm, got "llamafile"`; load.PageError.Error() != want {
		t.Errorf("got %v", load.PageError)
	}
}

func TestAThousandPods(t *testing.T) {
	s := start(t, map[string]string{"REFRESH_METRICS_INTERVAL": "1s", "SCRAPE_BUDGET": "0", "SCRAPE_TIMEOUT": "60s"})
	server := httptest.NewServer(page([]byte("vllm:num_requests_running 1\n")))
	t.Cleanup(server.Close)
	port := s.endpoint(server).Address.Port()
	endpoints := make([]pool.Endpoint, 1000)
	for i := range endpoints {
		a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, byte(i / 250), byte(1 + i%250)}), port)
		endpoints[i] = pool.Endpoint{Name: a.String(), Address: a}
	}
	s.dial = func(ctx context.Context, network, _ string) (net.Conn, error) { // a thousand addresses, one server
		return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
	}
	s.set(endpoints...)
	s.eventually("a report of each", func() bool {
		snapshot := s.pool.Snapshot()
		for _, l := range s.pool.Loads(snapshot, nil) {
			if !l.HasReport {
				return false
			}
		}
		return true
	})
	s.set()
}

func page(text []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Write(text) //nolint:errcheck // the scraper's failure would show
	}
}

func endless(line []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		chunk := bytes.Repeat(line, 100)
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
}

func hasReport(l pool.Load) bool { return l.HasReport }

// scene is a running scraper and the pods that it reads.
type scene struct {
	*Scraper
	t       *testing.T
	servers map[netip.AddrPort]*httptest.Server

	mu     sync.Mutex
	log    bytes.Buffer
	failed map[string][]string
}

func start(t *testing.T, environment map[string]string, dial ...dialer) *scene {
	t.Helper()
	env := map[string]string{"REFRESH_METRICS_INTERVAL": "10ms", "SCRAPE_BUDGET": "0"}
	for name, value := range environment {
		env[name] = value
	}
	store, err := settings.New(env, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{t: t, servers: map[netip.AddrPort]*httptest.Server{}, failed: map[string][]string{}}
	o := Options{Pool: pool.New(), Settings: store, Observer: s, Logger: slog.New(slog.NewTextHandler(s, nil))}
	for _, d := range dial {
		o.Dial = d
	}
	s.Scraper = NewScraper(o)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan bool)
	go func() {
		s.Run(ctx)
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Error("the scraper doesn't end")
		}
		if left := s.total.Load(); left != 0 {
			t.Errorf("pods that left are still counted with %d ns", left)
		}
	})
	return s
}

func (s *scene) serve(handler http.HandlerFunc) pool.Endpoint {
	s.t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.Start()
	s.t.Cleanup(server.Close)
	return s.endpoint(server)
}

func (s *scene) endpoint(server *httptest.Server) pool.Endpoint {
	address := netip.MustParseAddrPort(server.Listener.Addr().String())
	s.servers[address] = server
	return pool.Endpoint{Name: address.String(), Address: address}
}

func (s *scene) set(endpoints ...pool.Endpoint) { s.pool.Set(time.Now(), endpoints) }

func (s *scene) apply(values map[string]string) {
	s.t.Helper()
	if _, problems := s.settings.Apply(settings.Annotation, values); len(problems) > 0 {
		s.t.Fatal(problems)
	}
}

// until waits until the pod's load is as asked, and gives it.
func (s *scene) until(pod pool.Endpoint, is func(pool.Load) bool) (load pool.Load) {
	s.t.Helper()
	s.eventually("that of the pod's load", func() bool {
		snapshot := s.pool.Snapshot()
		loads := s.pool.Loads(snapshot, nil)
		for i, p := range snapshot.Pods {
			if p.Address == pod.Address {
				load = loads[i]
				return is(load)
			}
		}
		return false
	})
	return load
}

func (s *scene) eventually(what string, is func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("never saw %s\n%s", what, s.logged())
		}
	}
}

func (s *scene) Scraped(time.Duration) {}

func (s *scene) ScrapeFailed(pod, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed[pod] = append(s.failed[pod], reason)
}

func (s *scene) failures(pod string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed[pod]
}

func (s *scene) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(p)
}

func (s *scene) logged() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

var _ io.Writer = (*scene)(nil)
