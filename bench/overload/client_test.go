package overload

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// gateway answers each request with a text as it is, on as many connections as come.
type gateway struct {
	addr        string
	connections atomic.Int64
}

func answering(t *testing.T, text string) *gateway {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // the clients are done
	g := &gateway{addr: l.Addr().String()}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			g.connections.Add(1)
			go serve(conn, text)
		}
	}()
	return g
}

func serve(conn net.Conn, text string) {
	defer conn.Close() //nolint:errcheck // all that is to come has come
	in := bufio.NewReader(conn)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		if _, err := io.WriteString(conn, text); err != nil || strings.Contains(text, "Connection: close") {
			return
		}
	}
}

func whole(status, headers, body string) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s", status, headers, len(body), body)
}

// events is a stream with a role chunk, n tokens, and what follows.
func events(n int, end string) string {
	chunk := func(content string) string { return `data: {"choices":[{"delta":{"content":"` + content + "\"}}]}\n\n" }
	return chunk("") + strings.Repeat(chunk("abc "), n) + end
}

func TestEveryEndOfARequestIsTold(t *testing.T) {
	const done = "data: [DONE]\n\n"
	refusal := `{"error":{"message":"too much","code":"queue_full"}}`
	for _, tc := range []struct {
		name, answer string
		want         Outcome
		fault        string
	}{
		{"whole", whole("200 OK", "", events(3, done)), Served, ""},
		{"too short", whole("200 OK", "", events(2, done)), Broken, "ended after 2 of 3 tokens, [DONE] seen: true"},
		{"too long", whole("200 OK", "", events(4, done)), Broken, "ended after 4 of 3 tokens"},
		{"without its end", whole("200 OK", "", events(3, "")), Broken, "[DONE] seen: false"},
		{"cut", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 10000\r\n\r\n" + events(1, ""), Broken, "after 1 of 3 tokens: unexpected EOF"},
		{"two in one", whole("200 OK", "", events(3, done)+events(3, done)), Broken, "after [DONE] came"},
		{"two", whole("200 OK", "", events(3, done)) + whole("200 OK", "", events(3, done)), Broken, "more came after the end"},
		{"no HTTP", "hello\r\nConnection: close\r\n\r\n", Broken, "malformed"},
		{"429", whole("429 Too Many Requests", "", refusal), TooMany, ""},
		{"503", whole("503 Service Unavailable", "", refusal), Unavailable, ""},
		{"503 of a proxy", whole("503 Service Unavailable", "", "no healthy upstream"), Unavailable, `no OpenAI-style error with a code: "no healthy upstream"`},
		{"500", whole("500 Internal Server Error", "", refusal), OtherStatus, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := &client{gateway: answering(t, tc.answer).addr}
			defer c.close()
			a := c.ask(t.Context(), &Request{Priority: Critical, Prompt: 8, Answer: 3})
			if a.Outcome != tc.want || !strings.Contains(a.Fault, tc.fault) || (a.Fault == "") != (tc.fault == "") {
				t.Errorf("got %v, %q; want %v, %q", a.Outcome, a.Fault, tc.want, tc.fault)
			}
			if a.Priority != Critical || (a.First > 0) != (tc.want == Served || strings.Contains(a.Fault, "token") || strings.Contains(tc.name, "two")) || a.First > a.Total {
				t.Errorf("%+v", a)
			}
			if n := c.open.Load(); n != 0 {
				t.Errorf("%d requests are still counted as open", n)
			}
		})
	}
}

func TestReasonsOfRefusalsAreKept(t *testing.T) {
	c := &client{gateway: answering(t, whole("429 Too Many Requests", "x-llm-d-request-dropped-reason: evicted-queue-pressure\r\n", `{"error":{"message":"m","code":"c"}}`)).addr}
	defer c.close()
	if a := c.ask(t.Context(), &Request{Prompt: 1, Answer: 1}); a.Reason != "evicted-queue-pressure" || a.Status != 429 {
		t.Errorf("%+v", a)
	}
}

func TestAConnectionServesOneRequestAfterTheOther(t *testing.T) {
	g := answering(t, whole("200 OK", "", events(2, "data: [DONE]\n\n")))
	c := &client{gateway: g.addr}
	defer c.close()
	for range 3 {
		if a := c.ask(t.Context(), &Request{Prompt: 1, Answer: 2}); a.Outcome != Served {
			t.Fatal(a.Fault)
		}
	}
	if n := g.connections.Load(); n != 1 {
		t.Errorf("three requests took %d connections", n)
	}
}

func TestWhatIsGivenUpIsUnanswered(t *testing.T) {
	c := &client{gateway: answering(t, "").addr}
	defer c.close()
	ctx, cancel := context.WithCancel(t.Context())
	answer := make(chan Answer)
	go func() { answer <- c.ask(ctx, &Request{Prompt: 1, Answer: 1}) }()
	cancel()
	if a := <-answer; a.Outcome != Unanswered || !strings.Contains(a.Fault, "given up") {
		t.Errorf("%+v", a)
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c := &client{gateway: addr}
	if a := c.ask(t.Context(), &Request{Prompt: 1, Answer: 1}); a.Outcome != Broken || !strings.Contains(a.Fault, "refused") {
		t.Errorf("%+v", a)
	}
}
