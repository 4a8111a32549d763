package stack

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// heldPort is a port that belongs to a stack until its end, also while nothing listens on it.
type heldPort struct{ lock *os.File }

func (p *heldPort) release() {
	// The file stays: removing it would let two holders lock two files of one name.
	_ = p.lock.Close()
}

// FreePort gives a TCP port that nothing listens on and that no other stack on this machine is given before this one
// is closed; so a process can be stopped and started again on its port. It is taken from below the range that the
// system uses for outgoing connections, since one of these could take it in between.
func (s *Stack) FreePort() (uint16, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("pilotfish-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, fmt.Errorf("free port: %w", err)
	}
	low, high := listenRange()
	for range 1000 {
		port := uint16(low + rand.IntN(high-low))
		held, err := holdPort(dir, port)
		if err != nil {
			return 0, fmt.Errorf("free port: %w", err)
		}
		if held == nil {
			continue
		}
		s.mu.Lock()
		s.ports = append(s.ports, held)
		s.mu.Unlock()
		return port, nil
	}
	return 0, fmt.Errorf("no free port found between %d and %d", low, high)
}

// holdPort locks a port for this process; nil when another has it or something listens there.
func holdPort(dir string, port uint16) (*heldPort, error) {
	f, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(int(port))), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		_ = f.Close()
		return nil, nil
	}
	return &heldPort{lock: f}, l.Close()
}

// listenRange is where ports are taken from: 12,000 below the range of outgoing connections.
func listenRange() (low, high int) {
	high = 32768 // Linux's default
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		if fields := strings.Fields(string(b)); len(fields) == 2 {
			if n, err := strconv.Atoi(fields[0]); err == nil && n >= 14000 {
				high = n
			}
		}
	}
	return high - 12000, high
}

// PortHolder says who listens on a TCP port of this machine, such as "nginx (process 812)": as much as /proc tells,
// "" if nothing. It is for messages to people.
func PortHolder(port uint16) string {
	inodes := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range bytes.Lines(b) {
			if inode, ok := listening(line, port); ok {
				inodes["socket:["+inode+"]"] = true
			}
		}
	}
	if len(inodes) == 0 {
		return ""
	}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is well-formed
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil || !inodes[target] {
			continue
		}
		proc := filepath.Dir(filepath.Dir(fd))
		name, _ := os.ReadFile(filepath.Join(proc, "comm"))
		return fmt.Sprintf("%s (process %s)", bytes.TrimSpace(name), filepath.Base(proc))
	}
	return ""
}

// listening reads one line of /proc/net/tcp: the inode of the socket if it listens on the port.
func listening(line []byte, port uint16) (inode string, ok bool) {
	const listenState, stateField, inodeField = "0A", 3, 9
	f := strings.Fields(string(line))
	if len(f) <= inodeField || f[stateField] != listenState {
		return "", false
	}
	_, hex, _ := strings.Cut(f[1], ":")
	n, err := strconv.ParseUint(hex, 16, 16)
	return f[inodeField], err == nil && uint16(n) == port
}

// loopback is a port of 127.0.0.1.
func loopback(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
}
