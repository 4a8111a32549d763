package discovery

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/pool"
)

func TestFileIsFollowedHoweverItIsWritten(t *testing.T) {
	s := begin(t, list("10.0.0.1"))
	s.until("10.0.0.1:8000")

	s.write(list("10.0.0.1", "10.0.0.2")) // in place
	s.until("10.0.0.1:8000", "10.0.0.2:8000")

	s.replace(list("10.0.0.3")) // by rename, as editors do
	s.until("10.0.0.3:8000")
	s.replace(list("10.0.0.4")) // and once more: the watch is still there
	s.until("10.0.0.4:8000")

	check(t, os.Remove(s.path)) // gone, and there again
	s.problem("no such file")
	s.until("10.0.0.4:8000")
	s.write(list("10.0.0.5"))
	s.until("10.0.0.5:8000")
	s.problem("")

	s.write("endpoints: []\n")
	s.until()
}

func TestConfigMapSwap(t *testing.T) {
	dir := t.TempDir()
	version := func(name, text string) {
		check(t, os.Mkdir(filepath.Join(dir, name), 0o755))
		check(t, os.WriteFile(filepath.Join(dir, name, "endpoints.yaml"), []byte(text), 0o644))
	}
	swap := func(name string) {
		check(t, os.Symlink(name, filepath.Join(dir, "..data_tmp")))
		check(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	version("..2026_1", list("10.0.0.1"))
	swap("..2026_1")
	path := filepath.Join(dir, "endpoints.yaml")
	check(t, os.Symlink("..data/endpoints.yaml", path))
	s := observe(t, path, Options{})
	s.until("10.0.0.1:8000")

	for i, address := range []string{"10.0.0.2", "10.0.0.3"} {
		name := []string{"..2026_2", "..2026_3"}[i]
		version(name, list(address))
		swap(name)
		check(t, os.RemoveAll(filepath.Join(dir, []string{"..2026_1", "..2026_2"}[i])))
		s.until(address + ":8000")
	}
}

func TestSymlinkToAFileElsewhere(t *testing.T) {
	real := filepath.Join(t.TempDir(), "real.yaml")
	check(t, os.WriteFile(real, []byte(list("10.0.0.1")), 0o644))
	path := filepath.Join(t.TempDir(), "endpoints.yaml")
	check(t, os.Symlink(real, path))
	s := observe(t, path, Options{})
	s.until("10.0.0.1:8000")
	check(t, os.WriteFile(real, []byte(list("10.0.0.2")), 0o644))
	s.until("10.0.0.2:8000")
}

// A directory that is swapped as a whole tells nobody: the slow look sees it.
func TestSlowLook(t *testing.T) {
	dir := t.TempDir()
	for name, address := range map[string]string{"a": "10.0.0.1", "b": "10.0.0.2"} {
		check(t, os.Mkdir(filepath.Join(dir, name), 0o755))
		check(t, os.WriteFile(filepath.Join(dir, name, "e.yaml"), []byte(list(address)), 0o644))
	}
	check(t, os.Symlink("a", filepath.Join(dir, "now")))
	s := observe(t, filepath.Join(dir, "now", "e.yaml"), Options{Again: 20 * time.Millisecond})
	s.until("10.0.0.1:8000")
	check(t, os.Symlink("b", filepath.Join(dir, "next")))
	check(t, os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "now")))
	s.until("10.0.0.2:8000")
	check(t, os.WriteFile(filepath.Join(dir, "b", "e.yaml"), []byte(list("10.0.0.3")), 0o644))
	s.until("10.0.0.3:8000")
}

func TestBadFileKeepsTheLastGoodOne(t *testing.T) {
	s := begin(t, list("10.0.0.1"))
	s.until("10.0.0.1:8000")
	version := s.pool.Snapshot().Version

	s.write("endpoints:\n- address: 10.0.0.2\n  prot: 8000\n")
	s.problem(s.path + `:3: unknown field "prot": expected address, labels, metricsPort, name, port, runtime; did you mean port?`)
	s.until("10.0.0.1:8000")
	if got := s.pool.Snapshot().Version; got != version {
		t.Errorf("the pool was changed: version %d, was %d", got, version)
	}

	s.write(list("10.0.0.2"))
	s.until("10.0.0.2:8000")
	s.problem("")
	if told := s.told(); len(told) != 3 || told[0] != nil || told[1] == nil || told[2] != nil {
		t.Errorf("told %v; want good, bad, good", told)
	}
}

func TestBadFileAtTheStartIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "endpoints.yaml")
	run := func() error {
		return NewFile(path, Options{Pool: pool.New()}).Run(t.Context())
	}
	if err := run(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	check(t, os.WriteFile(path, []byte("endpoints: 3\n"), 0o644))
	if err := run(); err == nil || !strings.HasPrefix(err.Error(), path+":1: endpoints: expected a list, got \"3\"") {
		t.Errorf("bad file: %v", err)
	}
}

func TestPodsThatStayKeepTheirPast(t *testing.T) {
	s := begin(t, list("10.0.0.1"))
	s.until("10.0.0.1:8000")
	id := s.pool.Snapshot().Pods[0].ID
	s.write(strings.Replace(list("10.0.0.2", "10.0.0.1"), "port: 8000}\n-", "port: 8000, labels: {zone: a}}\n-", 1))
	s.until("10.0.0.1:8000", "10.0.0.2:8000")
	if got := s.pool.Snapshot().At(netip.MustParseAddrPort("10.0.0.1:8000")); got.ID != id {
		t.Errorf("ID %d, was %d", got.ID, id)
	}
}

func TestHostNames(t *testing.T) {
	dns := &resolver{answers: map[string][]string{"engines": {"10.0.0.1"}, "other": {"::ffff:10.1.0.1"}}}
	path := filepath.Join(t.TempDir(), "endpoints.yaml")
	check(t, os.WriteFile(path, []byte("endpoints:\n- {name: e, address: engines, port: 8000}\n- {name: o, address: other, port: 9000}\n"), 0o644))
	s := observe(t, path, Options{Resolver: dns, Again: 20 * time.Millisecond})
	s.until("10.0.0.1:8000", "10.1.0.1:9000")
	s.names("e", "o")

	dns.set("engines", "10.0.0.2", "10.0.0.1", "10.0.0.1") // one more: the first keeps its name, and so its past
	s.until("10.0.0.1:8000", "10.0.0.2:8000", "10.1.0.1:9000")
	s.names("e", "e-10.0.0.2", "o")

	dns.set("other") // resolution fails: the last good answer stays
	s.eventually("the failure", func() bool { return slices.Equal(s.file.Status().Failing, []string{"other"}) })
	s.until("10.0.0.1:8000", "10.0.0.2:8000", "10.1.0.1:9000")

	dns.set("other", "10.1.0.9")
	s.until("10.0.0.1:8000", "10.0.0.2:8000", "10.1.0.9:9000")
	s.eventually("that it is over", func() bool { return len(s.file.Status().Failing) == 0 })

	s.write("endpoints:\n- {name: t, address: third, port: 1}\n- {address: 10.9.9.9, port: 2}\n") // one that is never found
	s.until("10.9.9.9:2")
	dns.set("third", "10.3.0.1", "10.3.0.2")
	s.until("10.3.0.1:1", "10.3.0.2:1", "10.9.9.9:2")
	s.names("10.9.9.9:2", "t-10.3.0.1", "t-10.3.0.2")
}

// A pool that is empty because no name could be resolved yet isn't known to be empty: who asks waits.
func TestNotSyncedUntilSomethingIsKnown(t *testing.T) {
	dns := &resolver{answers: map[string][]string{}}
	path := filepath.Join(t.TempDir(), "endpoints.yaml")
	check(t, os.WriteFile(path, []byte("endpoints: [{address: engines, port: 8000}]\n"), 0o644))
	s := observe(t, path, Options{Resolver: dns, Again: 20 * time.Millisecond})
	s.eventually("the failure", func() bool { return len(s.file.Status().Failing) == 1 })
	select {
	case <-s.file.Synced():
		t.Error("synced with nothing known")
	default:
	}
	if version := s.pool.Snapshot().Version; version != 0 {
		t.Errorf("the pool was set %d times", version)
	}
	dns.set("engines", "10.0.0.1")
	s.until("10.0.0.1:8000")
	<-s.file.Synced()

	s.write("endpoints: [{address: engnies, port: 8000}]\n") // a name that isn't there: better the old ones than none
	s.eventually("the failure", func() bool { return slices.Equal(s.file.Status().Failing, []string{"engnies"}) })
	s.until("10.0.0.1:8000")
}

func TestEmptyListIsSetToo(t *testing.T) {
	s := begin(t, "endpoints: []\n")
	<-s.file.Synced()
	if version := s.pool.Snapshot().Version; version != 1 {
		t.Errorf("the pool was set %d times", version)
	}
}

// resolver answers as it is told; a host without addresses isn't found.
type resolver struct {
	mu      sync.Mutex
	answers map[string][]string
}

func (r *resolver) set(host string, addresses ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers[host] = addresses
}

func (r *resolver) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ips []netip.Addr
	for _, a := range r.answers[host] {
		ips = append(ips, netip.MustParseAddr(a))
	}
	if len(ips) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return ips, nil
}

// scene is a file that is being followed.
type scene struct {
	t    *testing.T
	path string
	pool *pool.Pool
	file *File

	mu      sync.Mutex
	reloads []error
}

func begin(t *testing.T, text string) *scene {
	t.Helper()
	return beginWith(t, text, Options{Again: time.Hour}) // no slow look: events alone
}

func beginWith(t *testing.T, text string, o Options) *scene {
	t.Helper()
	path := filepath.Join(t.TempDir(), "endpoints.yaml")
	check(t, os.WriteFile(path, []byte(text), 0o644))
	return observe(t, path, o)
}

func observe(t *testing.T, path string, o Options) *scene {
	t.Helper()
	s := &scene{t: t, path: path, pool: pool.New()}
	o.Pool = s.pool
	o.Reloaded = func(err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.reloads = append(s.reloads, err)
	}
	s.file = NewFile(path, o)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.file.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

func (s *scene) write(text string) {
	s.t.Helper()
	check(s.t, os.WriteFile(s.path, []byte(text), 0o644))
}

func (s *scene) replace(text string) {
	s.t.Helper()
	check(s.t, os.WriteFile(s.path+".tmp", []byte(text), 0o644))
	check(s.t, os.Rename(s.path+".tmp", s.path))
}

// until waits until the pool has these addresses.
func (s *scene) until(want ...string) {
	s.t.Helper()
	var got []string
	deadline := time.Now().Add(20 * time.Second)
	for {
		got = nil
		for _, pod := range s.pool.Snapshot().Pods {
			got = append(got, pod.Authority)
		}
		slices.Sort(got)
		if slices.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("pool has %v, want %v; status %+v", got, want, s.file.Status())
		}
		time.Sleep(time.Millisecond)
	}
}

func (s *scene) names(want ...string) {
	s.t.Helper()
	var got []string
	for _, pod := range s.pool.Snapshot().Pods {
		got = append(got, pod.Name)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		s.t.Errorf("names %v, want %v", got, want)
	}
}

// problem waits until the file's problem has this text in it; none, when the text is empty.
func (s *scene) problem(text string) {
	s.t.Helper()
	s.eventually("problem "+text, func() bool {
		err := s.file.Status().Problem
		return text == "" && err == nil || text != "" && err != nil && strings.Contains(err.Error(), text)
	})
}

func (s *scene) eventually(what string, is func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("never saw %s; status %+v", what, s.file.Status())
		}
	}
}

func (s *scene) told() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.reloads)
}

func list(addresses ...string) string {
	var b strings.Builder
	b.WriteString("endpoints:\n")
	for _, a := range addresses {
		b.WriteString("- {address: " + a + ", port: 8000}\n")
	}
	return b.String()
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
