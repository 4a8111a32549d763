package metrics

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

const (
	whole200   = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\npage\n"
	chunked200 = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\npa\r\n3\r\nge\n\r\n0\r\n\r\n"
	hangUp     = "" // instead of an answer
)

// Each connection of a server has a script: its answers, after which the server hangs up. The client asks until all
// scripts are played, and reads a page each time.
func TestConnections(t *testing.T) {
	tests := []struct {
		name    string
		scripts [][]string
	}{
		{"one for all pages", [][]string{{whole200, whole200, chunked200, chunked200, whole200}}},
		{"another one when the server closed it", [][]string{{whole200}, {chunked200}, {whole200, whole200}}},
		{"another one when the server closed it while it was asked", [][]string{{whole200, hangUp}, {whole200}}},
		{"another one when the server says that it waited for too long", [][]string{{whole200, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"}, {whole200}}},
		{"another one when the server says that it closes it", [][]string{{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\npage\n", "never"}, {whole200}}},
		{"another one after a page without a length", [][]string{{"HTTP/1.1 200 OK\r\n\r\npage\n"}, {"HTTP/1.0 200 OK\r\n\r\npage\n"}, {whole200}}},
		{"another one when more came than the page", [][]string{{whole200 + "HTTP/1.1 500 What\r\n\r\n", "never"}, {whole200}}},
		{"early hints are passed over", [][]string{{"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n" + whole200, "HTTP/1.1 100 Continue\r\n\r\n" + whole200}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := play(t, test.scripts...)
			c := server.client()
			defer c.close()
			for !server.played() {
				if text, err := readPage(t.Context(), c, server.address); err != nil || text != "page\n" {
					t.Fatalf("got %q, %v", text, err)
				}
			}
		})
	}
}

func TestAnswersThatAreNoPage(t *testing.T) {
	tests := []struct {
		name, answer string
		reason       Reason
		text         string
	}{
		{"endless head", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2*maxHead), Unreachable, "expected a head of at most 65536 bytes, got more"},
		{"endless hints", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", maxHead/10), Unreachable, "expected a head of at most 65536 bytes, got more"},
		{"no HTTP", "SSH-2.0-OpenSSH_9.9\r\n", Unreachable, "malformed HTTP response"},
		{"half a head", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", Unreachable, "unexpected EOF"},
		{"half a page", "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\npage\n", Unreachable, "unexpected EOF"},
		{"half a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\npa", Unreachable, "unexpected EOF"},
		{"hang-up", hangUp, Unreachable, "EOF"},
		{"another protocol", "HTTP/1.1 101 Switching Protocols\r\n\r\n", Status, "expected 200 OK, got 101 Switching Protocols"},
		{"408 to the first request", "HTTP/1.1 408 Request Timeout\r\n\r\n", Status, "expected 200 OK, got 408 Request Timeout"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := play(t, []string{test.answer}, []string{whole200})
			c := server.client()
			defer c.close()
			_, err := readPage(t.Context(), c, server.address)
			if err == nil || reasonOf(err) != test.reason || !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %v, want %s: %s", err, test.reason, test.text)
			}
			if text, err := readPage(t.Context(), c, server.address); err != nil || text != "page\n" {
				t.Errorf("asked again: %q, %v", text, err)
			}
		})
	}
}

// A page that can't be read is no reason to ask for it again at once: only a kept connection may have been closed.
func TestAnotherConnectionIsTriedOnce(t *testing.T) {
	server := play(t, []string{whole200, hangUp}, []string{hangUp}, []string{whole200})
	c := server.client()
	defer c.close()
	for i, want := range []bool{true, false, true} {
		if _, err := readPage(t.Context(), c, server.address); (err == nil) != want {
			t.Errorf("page %d: %v", i+1, err)
		}
	}
}

func TestQuestion(t *testing.T) {
	c := newClient(nil, &clock{})
	if err := c.prepare(netip.MustParseAddrPort("[fe80::1%eth0]:8000"), "/metrics"); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(string(c.question))))
	if err != nil {
		t.Fatal(err)
	}
	if r.Method != http.MethodGet || r.URL.Path != "/metrics" || r.Host != "[fe80::1]:8000" || r.ProtoMinor != 1 || r.Close {
		t.Errorf("%q", c.question)
	}
	if r.Header.Get("Accept") != "text/plain;version=0.0.4" || r.Header.Get("Accept-Encoding") != "" {
		t.Errorf("%v", r.Header)
	}
}

func TestEndOfContextBreaksOff(t *testing.T) {
	client, server := net.Pipe()
	defer server.Close() //nolint:errcheck // all that counts is the other end
	ctx, cancel := context.WithCancel(t.Context())
	c := newClient(func(context.Context, string, string) (net.Conn, error) { return client, nil }, &clock{})
	go func() {
		http.ReadRequest(bufio.NewReader(server)) //nolint:errcheck // it is asked, and doesn't answer
		cancel()
	}()
	if _, err := c.get(ctx, time.Now().Add(time.Hour), netip.MustParseAddrPort("10.0.0.1:1"), "/metrics"); err == nil {
		t.Error("there is a page")
	}
	if _, err := client.Write(nil); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the connection is open: %v", err)
	}
}

func readPage(ctx context.Context, c *client, address netip.AddrPort) (string, error) {
	body, err := c.get(ctx, time.Now().Add(10*time.Second), address, "/metrics")
	if err != nil {
		return "", err
	}
	defer body.Close() //nolint:errcheck // read to its end, or given up
	text, err := io.ReadAll(body)
	return string(text), err
}

// player is a server that plays scripts.
type player struct {
	address netip.AddrPort
	left    chan []string // scripts to play
	playing chan bool     // holds one for each script that isn't played to its end
}

func play(t *testing.T, scripts ...[]string) *player {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &player{address: l.Addr().(*net.TCPAddr).AddrPort(), left: make(chan []string, len(scripts)), playing: make(chan bool, len(scripts))}
	for _, script := range scripts {
		p.left <- script
		p.playing <- true
	}
	close(p.left)
	ended := make(chan bool)
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.serve(conn, <-p.left)
		}
	}()
	t.Cleanup(func() {
		l.Close() //nolint:errcheck // it ends
		<-ended
	})
	return p
}

func (p *player) serve(conn net.Conn, script []string) {
	defer conn.Close() //nolint:errcheck // the script is over
	in := bufio.NewReader(conn)
	for i, answer := range script {
		if _, err := http.ReadRequest(in); err != nil {
			break
		}
		if i == len(script)-1 || script[i+1] == "never" {
			<-p.playing
		}
		fmt.Fprint(conn, answer)
	}
}

func (p *player) played() bool { return len(p.playing) == 0 }

func (p *player) client() *client {
	return newClient((&net.Dialer{}).DialContext, &clock{})
}
