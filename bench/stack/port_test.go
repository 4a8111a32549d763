package stack

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
)

func TestPortsAreGivenOnce(t *testing.T) {
	a, b := newStack(t), newStack(t)
	seen := map[uint16]bool{}
	for range 200 {
		for _, s := range []*Stack{a, b} {
			port, err := s.FreePort()
			if err != nil {
				t.Fatal(err)
			}
			if seen[port] {
				t.Fatalf("port %d was given twice", port)
			}
			seen[port] = true
		}
	}
}

func TestAPortInUseIsNotGiven(t *testing.T) {
	s := newStack(t)
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if held, err := holdPort(dir, portOf(l)); held != nil || err != nil {
		t.Errorf("port %d of a listener was given: %v", portOf(l), err)
	}
	port, err := s.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	own, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatalf("a free port is not free: %v", err)
	}
	_ = own.Close() // of a test's listener
}

func TestPortHolder(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Logf("%s: %v", addr, err) // no IPv6 here
			continue
		}
		want := fmt.Sprintf("(process %d)", os.Getpid())
		if got := PortHolder(portOf(l)); !strings.Contains(got, want) {
			t.Errorf("%s: held by %q, expected %q", addr, got, want)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if got := PortHolder(portOf(l)); got != "" {
			t.Errorf("%s: a closed port is held by %q", addr, got)
		}
	}
}

func portOf(l net.Listener) uint16 { return uint16(l.Addr().(*net.TCPAddr).Port) }
