package enginesim

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

const anyRequestBody = `{"prompt":"hello","max_tokens":8}`

func TestRefuse(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		s := start(t, Options{Speed: 1000, Faults: Faults{Refuse: when}})
		if err := attempt(t, s, anyRequestBody); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v, want a reset connection", when, err)
		}
		if n := s.Stats(); n.Submitted != 0 || (n.Requests == 1) != (when == "after") {
			t.Errorf("%s: stats %+v", when, n)
		}
		setFaults(t, s, `{"refuse":""}`)
		if err := attempt(t, s, anyRequestBody); err != nil {
			t.Errorf("%s: still refused after the fault: %v", when, err)
		}
	}
}

func TestDieMidStream(t *testing.T) {
	s := start(t, Options{Speed: 1000, Faults: Faults{DieAfterChunks: 3}})
	r, err := http.Post("http://"+s.Addr()+"/v1/completions", "application/json", strings.NewReader(`{"prompt":"hello","max_tokens":8,"stream":true}`))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err == nil {
		t.Error("the stream ended as if it were whole")
	}
	if got := strings.Count(string(body), "data: "); got > 3 {
		t.Errorf("%d events before the reset, want at most 3", got)
	}
	if err := attempt(t, s, anyRequestBody); err == nil {
		t.Error("the answer in one piece came whole")
	}
	eventually(t, "nothing is left running", func() bool { n := s.Stats(); return n.Running == 0 && n.Finished+n.Aborted == 2 })
}

func TestLoading(t *testing.T) {
	s := start(t, Options{Name: "e7", Faults: Faults{Loading: true}})
	for _, path := range []string{"/health", "/v1/models", "/metrics", "/v1/completions"} {
		status, header, _ := send(t, s, http.MethodGet, path, "", nil)
		if status != http.StatusServiceUnavailable || header.Get("x-served-by") != "e7" {
			t.Errorf("%s: status %d from %q", path, status, header.Get("x-served-by"))
		}
	}
	setFaults(t, s, `{"loading":false}`)
	if status, _, body := send(t, s, http.MethodGet, "/health", "", nil); status != http.StatusOK || body != "" {
		t.Errorf("then: status %d, body %q", status, body)
	}
}

func TestHang(t *testing.T) {
	s := start(t, Options{Speed: 1000, Faults: Faults{Hang: true}})
	done := make(chan error)
	go func() { done <- attempt(t, s, anyRequestBody) }()
	eventually(t, "the request was read", func() bool { return s.Stats().Requests == 1 })
	if status, _, _ := send(t, s, http.MethodGet, "/metrics", "", nil); status != http.StatusOK {
		t.Errorf("metrics: status %d while requests hang", status)
	}
	if n := s.Stats(); n.Submitted != 0 {
		t.Error("a hanging request reached the engine")
	}
	setFaults(t, s, `{"hang":false}`)
	if err := <-done; err != nil {
		t.Errorf("after the fault: %v", err)
	}
}

// TestFreeze: a frozen engine makes no token and answers nothing, and goes on where it stood.
func TestFreeze(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, client := startInMemory(t, Options{Profile: Profile{
			Steps: StepModel{Base: 10}, KVTokens: 16_000, MaxBatchedTokens: 512, MaxSeqs: 8, MaxModelLen: 4_000,
		}})
		r, err := client.Post("http://sim/v1/completions", "application/json", strings.NewReader(`{"prompt":"hello","max_tokens":3,"stream":true}`))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		began := time.Now()
		lines := bufio.NewScanner(r.Body)
		lines.Scan() // the first token, after 10 ms
		if err := s.SetFaults(Faults{Freeze: true}); err != nil {
			t.Fatal(err)
		}
		ctx, giveUp := context.WithTimeout(t.Context(), time.Minute)
		defer giveUp()
		health, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://sim/health", nil)
		if answer, err := client.Do(health); err == nil {
			_ = answer.Body.Close()
			t.Error("a frozen engine answers")
		}
		if n := s.Stats(); n.GeneratedTokens != 1 {
			t.Errorf("%d tokens after a frozen minute, want 1", n.GeneratedTokens)
		}
		if err := s.SetFaults(Faults{}); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() {
			continue
		}
		if got, want := time.Since(began), time.Minute+30*time.Millisecond; (got - want).Abs() > time.Microsecond {
			t.Errorf("the answer took %v, want 30 ms and the minute", got)
		}
	})
}

func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, client := startInMemory(t, Options{Faults: Faults{Slow: 4}, Profile: Profile{
			Steps: StepModel{Base: 10}, KVTokens: 16_000, MaxBatchedTokens: 512, MaxSeqs: 8, MaxModelLen: 4_000,
		}})
		took := func() time.Duration {
			began := time.Now()
			r, err := client.Post("http://sim/v1/completions", "application/json", strings.NewReader(anyRequestBody))
			if err != nil {
				t.Fatal(err)
			}
			_ = r.Body.Close()
			return time.Since(began)
		}
		if got := took(); (got - 320*time.Millisecond).Abs() > time.Microsecond {
			t.Errorf("eight steps of 10 ms take %v when slow by 4", got)
		}
		if err := s.SetFaults(Faults{}); err != nil {
			t.Fatal(err)
		}
		if got := took(); (got - 80*time.Millisecond).Abs() > time.Microsecond {
			t.Errorf("eight steps of 10 ms take %v", got)
		}
	})
}

func TestBrokenMetrics(t *testing.T) {
	s := start(t, Options{Speed: 1000})
	for _, c := range []struct {
		fault  string
		status int
		has    string
	}{
		{"error", 500, "the metrics page is broken"},
		{"html", 200, "<html>"},
		{"empty", 200, ""},
	} {
		setFaults(t, s, `{"metrics":"`+c.fault+`"}`)
		status, _, body := send(t, s, http.MethodGet, "/metrics", "", nil)
		if status != c.status || !strings.Contains(body, c.has) || strings.Contains(body, "vllm:") {
			t.Errorf("%s: status %d, body %.100q", c.fault, status, body)
		}
	}
	setFaults(t, s, `{"metrics":"endless"}`)
	r, err := http.Get("http://" + s.Addr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.CopyN(io.Discard, r.Body, 10<<20); err != nil {
		t.Errorf("endless page ended after %d bytes: %v", n, err)
	}
	_ = r.Body.Close()
	setFaults(t, s, `{"metrics":""}`)
	scrape(t, s)
}

func TestSlowMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client := startInMemory(t, Options{Faults: Faults{Metrics: "slow"}})
		r, err := client.Get("http://sim/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		began := time.Now()
		if _, err := io.ReadFull(r.Body, make([]byte, 11)); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(began); got != 10*time.Second {
			t.Errorf("eleven bytes took %v, want one a second", got)
		}
	})
}

func TestFrozenMetrics(t *testing.T) {
	s := start(t, Options{Speed: 1000})
	setFaults(t, s, `{"freeze_metrics":true}`)
	_, _, before := send(t, s, http.MethodGet, "/metrics", "", nil)
	post(t, s, "/v1/completions", anyRequestBody)
	setFaults(t, s, `{"slow":2}`) // another fault changes nothing of it
	if _, _, after := send(t, s, http.MethodGet, "/metrics", "", nil); after != before {
		t.Error("the page changed")
	}
	setFaults(t, s, `{"freeze_metrics":false}`)
	if got := value(t, scrape(t, s), "vllm:generation_tokens_total"); got != 8 {
		t.Errorf("thawed: %g tokens, want 8", got)
	}
}

func TestFaultsByHTTP(t *testing.T) {
	s := start(t, Options{Faults: Faults{Slow: 2}})
	for _, c := range []struct {
		method, body string
		status       int
		want         Faults
	}{
		{http.MethodGet, "", 200, Faults{Slow: 2}},
		{http.MethodPost, `{"hang":true}`, 200, Faults{Slow: 2, Hang: true}},
		{http.MethodPost, `{"hnag":true}`, 400, Faults{Slow: 2, Hang: true}},
		{http.MethodPost, `{"refuse":"now"}`, 400, Faults{Slow: 2, Hang: true}},
		{http.MethodPost, `{"slow":-1}`, 400, Faults{Slow: 2, Hang: true}},
		{http.MethodPut, `{}`, 405, Faults{Slow: 2, Hang: true}},
		{http.MethodDelete, "", 200, Faults{}},
	} {
		status, _, body := send(t, s, c.method, "/faults", c.body, nil)
		if status != c.status || s.Faults() != c.want {
			t.Errorf("%s %s: status %d, faults %+v, body %s", c.method, c.body, status, s.Faults(), body)
		}
	}
	// A gateway in front of the engine is on this machine too; what it passes on is not for this path.
	status, _, _ := send(t, s, http.MethodPost, "/faults", `{"hang":true}`, http.Header{"X-Forwarded-For": {"192.0.2.1"}})
	if status != http.StatusForbidden || s.Faults().Hang {
		t.Errorf("by a proxy: status %d", status)
	}
}

// attempt sends a request and returns why no whole answer came.
func attempt(t *testing.T, s *Server, body string) error {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.Addr()+"/v1/completions", strings.NewReader(body))
	if err != nil {
		return err
	}
	r.Close = true
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}

func setFaults(t *testing.T, s *Server, body string) {
	t.Helper()
	if status, _, answer := send(t, s, http.MethodPost, "/faults", body, nil); status != http.StatusOK {
		t.Fatalf("faults %s: status %d, %s", body, status, answer)
	}
}
