package metrics

import (
	"errors"
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// metered gives conn with every read's CPU time added to c. Copying a page out of the kernel is a good part of what it
// costs, and happens inside of the read; waiting for the page is not counted.
func metered(conn net.Conn, c *clock) net.Conn {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return conn
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return conn
	}
	return &meteredConn{TCPConn: tcp, raw: raw, clock: c}
}

type meteredConn struct {
	*net.TCPConn
	raw   syscall.RawConn
	clock *clock
}

func (c *meteredConn) Read(p []byte) (n int, err error) {
	waited := c.raw.Read(func(fd uintptr) (done bool) {
		c.clock.run(func() { n, err = readOnce(int(fd), p) })
		return !errors.Is(err, unix.EAGAIN)
	})
	switch {
	case waited != nil:
		return 0, waited
	case err != nil:
		return 0, &net.OpError{Op: "read", Net: "tcp", Addr: c.RemoteAddr(), Err: err}
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

func readOnce(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Read(fd, p)
		if err == unix.EINTR {
			continue
		}
		return max(n, 0), err
	}
}
