package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// edits are ways to change a file that people and tools have.
var edits = []struct {
	name string
	edit func(file string, content []byte) error
}{
	{"replaced by a rename", func(file string, content []byte) error {
		tmp := file + ".new"
		if err := os.WriteFile(tmp, content, 0o644); err != nil {
			return err
		}
		return os.Rename(tmp, file)
	}},
	{"written in place", func(file string, content []byte) error {
		return os.WriteFile(file, content, 0o644)
	}},
	{"written in place in two halves", func(file string, content []byte) error {
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_TRUNC, 0o644)
		if err != nil {
			return err
		}
		_, err1 := f.Write(content[:len(content)/2])
		_, err2 := f.Write(content[len(content)/2:])
		return errors.Join(err1, err2, f.Close())
	}},
	{"removed and made anew", func(file string, content []byte) error {
		if err := os.Remove(file); err != nil {
			return err
		}
		return os.WriteFile(file, content, 0o644)
	}},
}

// An edit of the endpoints file, however it is made, is in force at Envoy within a second and costs no request.
func TestEndpointsEditedUnderLoad(t *testing.T) {
	t.Parallel()
	s := newSite(t, plan{engines: slowEngines(4)})
	l := startLoad(t, s.url(), 8, chats)
	for i, e := range edits {
		t.Run(e.name, func(t *testing.T) {
			l.await(t, 10)
			without := s.engines[i]
			s.edit(t, e.edit, slices.Concat(s.engines[:i], s.engines[i+1:]))
			idle := without.stats(t).Submitted
			l.await(t, 30)
			// Those under way to it when the edit was made may still have come.
			if n := without.stats(t).Submitted; n > idle+8 {
				t.Errorf("%s is no longer listed, but got %d requests since", without.Name(), n-idle)
			}
			s.edit(t, e.edit, s.engines)
			eventually(t, answerLimit, without.Name()+" to serve again", func() error {
				if without.stats(t).Submitted < idle+12 {
					return errors.New("it gets nothing")
				}
				return nil
			})
		})
	}
	wantNoFailure(t, l.stop())
	s.wantIdle(t)
}

// edit lists engines in the endpoints file and waits until Envoy knows just these, a second at most.
func (s *site) edit(t *testing.T, edit func(string, []byte) error, engines []*engine) {
	t.Helper()
	if err := edit(s.endpoints, endpointsOf(engines)); err != nil {
		t.Fatal(err)
	}
	s.wantHosts(t, time.Second, engines)
}

func endpointsOf(engines []*engine) []byte {
	var b strings.Builder
	b.WriteString("endpoints:\n")
	for _, e := range engines {
		fmt.Fprintf(&b, "- name: %s\n  address: %s\n  port: %d\n", e.Name(), e.Addr.Addr(), e.Addr.Port())
	}
	return []byte(b.String())
}

// wantHosts waits until Envoy knows these engines and no others.
func (s *site) wantHosts(t *testing.T, within time.Duration, engines []*engine) {
	t.Helper()
	var want []string
	for _, e := range engines {
		want = append(want, e.Addr.String())
	}
	slices.Sort(want)
	start := time.Now()
	eventually(t, within, "Envoy to know just the engines listed", func() error {
		hosts, err := s.envoy.Hosts(context.Background(), "pods")
		if err != nil {
			return err
		}
		var got []string
		for _, h := range hosts {
			got = append(got, h.String())
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("it knows %v, expected %v", got, want)
		}
		return nil
	})
	t.Logf("Envoy knew after %v", time.Since(start).Round(time.Millisecond))
}

// A mounted ConfigMap is a link to a link to a folder that is swapped as a whole.
func TestEndpointsInConfigMap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	publish := func(version string, content []byte) {
		t.Helper()
		err := errors.Join(
			os.Mkdir(filepath.Join(dir, version), 0o755),
			os.WriteFile(filepath.Join(dir, version, "endpoints.yaml"), content, 0o644),
			os.Symlink(version, filepath.Join(dir, "..data_tmp")),
			os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")),
		)
		if err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "endpoints.yaml")
	s := newSite(t, plan{
		engines: slowEngines(3),
		endpoints: func(content []byte) string {
			publish("..2026_01", content)
			if err := os.Symlink("..data/endpoints.yaml", file); err != nil {
				t.Fatal(err)
			}
			return file
		},
	})
	l := startLoad(t, s.url(), 6, chats)
	for i := range s.engines {
		l.await(t, 10)
		some := slices.Concat(s.engines[:i], s.engines[i+1:])
		publish(fmt.Sprintf("..2026_1%d", i), endpointsOf(some))
		s.wantHosts(t, time.Second, some)
		if err := os.RemoveAll(filepath.Join(dir, "..2026_01")); err != nil { // as kubelet does, once
			t.Fatal(err)
		}
	}
	wantNoFailure(t, l.stop())
}

// A host name stands for each of its addresses; Envoy and engines only meet ip:port.
func TestEndpointByHostName(t *testing.T) {
	t.Parallel()
	s := newSite(t, plan{engines: slowEngines(2)})
	l := startLoad(t, s.url(), 4, chats)
	l.await(t, 10)
	named := s.engines[0]
	content := fmt.Sprintf("endpoints:\n- address: localhost\n  port: \"%d\"\n", named.Addr.Port())
	if err := os.WriteFile(s.endpoints, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "Envoy to know the address of localhost", func() error {
		hosts, err := s.envoy.Hosts(context.Background(), "pods")
		if err != nil {
			return err
		}
		for _, h := range hosts {
			if h.Port() != named.Addr.Port() || !h.Addr().IsLoopback() {
				return fmt.Errorf("it knows %v", hosts)
			}
		}
		if !slices.Contains(hosts, named.Addr) {
			return fmt.Errorf("it knows %v", hosts)
		}
		return nil
	})
	before := named.stats(t).Submitted
	l.await(t, 20)
	wantNoFailure(t, l.stop())
	if n := named.stats(t).Submitted - before; n < 10 {
		t.Errorf("the engine behind the host name served %d of the last 20 requests", n)
	}
}

// A bad endpoints file changes nothing, and the picker says which line is wrong and why.
func TestBadEndpointsFile(t *testing.T) {
	t.Parallel()
	s := newSite(t, plan{engines: slowEngines(2)})
	l := startLoad(t, s.url(), 4, chats)
	good := string(endpointsOf(s.engines))
	for _, bad := range []struct {
		name, content string
		want          []string // in what /healthz says
	}{
		{"not YAML", good + "- name: [\n", []string{"endpoints.yaml:8"}},
		{"a port that is none", good + "- name: third\n  address: 127.0.0.1\n  port: 70000\n", []string{"endpoints.yaml:10:", "70000"}},
		{"no address", good + "- name: third\n  port: 8000\n", []string{"endpoints.yaml:8:", "address"}},
		{"a key that is none", good + "- adress: 127.0.0.1\n  port: 8000\n", []string{"endpoints.yaml:8:", "adress"}},
		{"a runtime that is none", good + "- address: 127.0.0.1\n  port: 8000\n  runtime: llama\n", []string{"endpoints.yaml:10:", "llama", "vllm"}},
		{"nothing", "", []string{"endpoints.yaml"}},
	} {
		t.Run(bad.name, func(t *testing.T) {
			if err := os.WriteFile(s.endpoints, []byte(bad.content), 0o644); err != nil {
				t.Fatal(err)
			}
			eventually(t, 5*time.Second, "/healthz to say what is wrong", func() error {
				said, status := s.health(t)
				for _, want := range bad.want {
					if !strings.Contains(said, want) {
						return fmt.Errorf("status %d, nothing of %q in: %s", status, want, said)
					}
				}
				if status != 200 {
					t.Fatalf("a bad file makes the picker unhealthy (%d): %s", status, said)
				}
				return nil
			})
			l.await(t, 10)
			s.wantHosts(t, time.Second, s.engines)
			if err := os.WriteFile(s.endpoints, []byte(good), 0o644); err != nil {
				t.Fatal(err)
			}
			eventually(t, 5*time.Second, "/healthz to forget it", func() error {
				if said, _ := s.health(t); strings.Contains(said, bad.want[0]) {
					return errors.New(said)
				}
				return nil
			})
		})
	}
	wantNoFailure(t, l.stop())
}

// health is what the picker's /healthz says, and with which status.
func (s *site) health(t *testing.T) (string, int) {
	t.Helper()
	a := do(context.Background(), s.client, "http://"+s.picker().Metrics.String(), call{path: "/healthz"})
	if a.err != nil {
		t.Fatal(a.err)
	}
	return string(a.body), a.status
}
