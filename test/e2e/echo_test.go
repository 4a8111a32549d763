package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
)

// mirror is a model server that answers every request with what it got, and remembers it.
type mirror struct {
	name    string
	address netip.AddrPort

	mu   sync.Mutex
	seen []sight
}

// sight is a request as it reached a mirror.
type sight struct {
	Server string      `json:"server"`
	Method string      `json:"method"`
	Path   string      `json:"path"`
	Header http.Header `json:"header"`
	Bytes  int64       `json:"bytes"`
	Sum    string      `json:"sum"` // SHA-256 of the body
	Error  string      `json:"error,omitempty"`
}

// newMirror starts a mirror; its metrics page is that of an idle vLLM.
func newMirror(t *testing.T, name string) *mirror {
	t.Helper()
	m := &mirror{name: name}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 0\n"+
			"# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting 0\n"+
			"# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc 0\n")
	})
	mux.HandleFunc("/", m.serve)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	m.address = server.Listener.Addr().(*net.TCPAddr).AddrPort()
	return m
}

func (m *mirror) serve(w http.ResponseWriter, r *http.Request) {
	sum := sha256.New()
	n, err := io.Copy(sum, r.Body)
	s := sight{
		Server: m.name, Method: r.Method, Path: r.URL.RequestURI(), Header: r.Header,
		Bytes: n, Sum: hex.EncodeToString(sum.Sum(nil)),
	}
	if err != nil {
		s.Error = err.Error()
	}
	m.mu.Lock()
	m.seen = append(m.seen, s)
	m.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("x-served-by", m.name)
	_ = json.NewEncoder(w).Encode(s) // a client that has left is no concern of the mirror
}

// requests gives what was seen so far.
func (m *mirror) requests() []sight {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]sight(nil), m.seen...)
}

// sighted reads the answer of a mirror.
func (a *answer) sighted(t *testing.T) sight {
	t.Helper()
	if !a.ok() {
		t.Fatalf("expected a mirror's answer, got %v", a)
	}
	var s sight
	if err := json.Unmarshal(a.body, &s); err != nil {
		t.Fatalf("a mirror's answer: %v: %v", err, a)
	}
	return s
}

// wantSame checks that a body arrived byte by byte.
func (s sight) wantSame(t *testing.T, body []byte) {
	t.Helper()
	sum := sha256.Sum256(body)
	if s.Error != "" || s.Bytes != int64(len(body)) || s.Sum != hex.EncodeToString(sum[:]) {
		t.Errorf("body at the server: expected %d bytes with SHA-256 %x, got %d bytes with %s (error %q)", len(body), sum, s.Bytes, s.Sum, s.Error)
	}
}
