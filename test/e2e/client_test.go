package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// answerLimit bounds every request of a test, so that one that nobody answers is a failure and not a hang.
const answerLimit = 30 * time.Second

// newClient gives an HTTP client as a load generator needs it: as many connections as requests, none of the environment's
// proxies, and bytes as they come.
func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 4000,
		DisableCompression:  true,
	}}
}

// answer is what a client got for one request.
type answer struct {
	status   int // 0: no response headers came
	header   http.Header
	servedBy string // the engine, as it names itself
	body     []byte // as far as it came
	err      error  // of the connection, before or after the headers
	took     time.Duration
}

// ok says that the answer is a 200 that came to its end.
func (a *answer) ok() bool { return a.err == nil && a.status == http.StatusOK }

// began says that response headers of an engine came: from there on a gateway can't retry.
func (a *answer) began() bool { return a.status == http.StatusOK }

// String is for failure messages.
func (a *answer) String() string {
	return fmt.Sprintf("status %d from %q after %v, error %v, body %.300q", a.status, a.servedBy, a.took.Round(time.Millisecond), a.err, a.body)
}

// call is one HTTP request; the zero method is POST with a body and GET without.
type call struct {
	method string
	path   string
	header map[string]string
	body   []byte
	chunks bool // send the body without its length
}

// do sends a request to base, such as http://127.0.0.1:8080, and reads the answer to its end.
func do(ctx context.Context, c *http.Client, base string, r call) *answer {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	start := time.Now()
	method := r.method
	if method == "" {
		method = http.MethodPost
		if r.body == nil {
			method = http.MethodGet
		}
	}
	var body io.Reader
	switch {
	case r.body == nil:
	case r.chunks:
		body = io.MultiReader(bytes.NewReader(r.body)) // hides the length
	default:
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, method, base+r.path, body)
	if err != nil {
		return &answer{err: err}
	}
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, value := range r.header {
		req.Header.Set(name, value)
	}
	resp, err := c.Do(req)
	if err != nil {
		return &answer{err: err, took: time.Since(start)}
	}
	defer func() { _ = resp.Body.Close() }()
	a := &answer{status: resp.StatusCode, header: resp.Header, servedBy: resp.Header.Get("x-served-by")}
	a.body, a.err = io.ReadAll(resp.Body)
	a.took = time.Since(start)
	return a
}

// chat is the body of a chat request to the model "sim".
type chat struct {
	prompt    string
	system    string
	model     string // default "sim"
	stream    bool
	usage     bool // in a stream: with include_usage
	maxTokens int  // default 4
	ignoreEOS bool // go on until maxTokens
}

const chatPath = "/v1/chat/completions"

func (c chat) body() []byte {
	type message struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	var messages []message
	if c.system != "" {
		messages = append(messages, message{"system", c.system})
	}
	messages = append(messages, message{"user", c.prompt})
	m := map[string]any{"model": c.model, "messages": messages, "max_tokens": c.maxTokens}
	if c.model == "" {
		m["model"] = model
	}
	if c.maxTokens == 0 {
		m["max_tokens"] = 4
	}
	if c.stream {
		m["stream"] = true
	}
	if c.ignoreEOS {
		m["ignore_eos"] = true
	}
	if c.usage {
		m["stream_options"] = map[string]any{"include_usage": true}
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // only strings and numbers
	}
	return b
}

func (c chat) call() call { return call{path: chatPath, body: c.body()} }

// events gives the data of the server-sent events of an answer.
func (a *answer) events() []string {
	var events []string
	lines := bufio.NewScanner(bytes.NewReader(a.body))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			events = append(events, data)
		}
	}
	return events
}

// wantWhole checks that a chat answer is a 200, whole and of the right form.
func (a *answer) wantWhole(t *testing.T, stream bool) {
	t.Helper()
	if !a.ok() {
		t.Fatalf("expected an answer with status 200, got %v", a)
	}
	if stream {
		events := a.events()
		if len(events) < 2 || events[len(events)-1] != "[DONE]" {
			t.Fatalf("expected server-sent events that end with [DONE], got %v", a)
		}
		return
	}
	var got struct {
		Choices []struct {
			Message struct{ Content *string } `json:"message"`
		} `json:"choices"`
	}
	if err := json.Unmarshal(a.body, &got); err != nil || len(got.Choices) != 1 || got.Choices[0].Message.Content == nil {
		t.Fatalf("expected a chat completion with one choice (%v), got %v", err, a)
	}
}

// apiError is the error of an answer in OpenAI's form, as the picker and engines give it.
type apiError struct {
	Message string `json:"message"`
	Type    string `json:"type"`
	Code    any    `json:"code"`
}

// wantError checks that an answer is a refusal with a status and an OpenAI-style error, and gives the error.
func (a *answer) wantError(t *testing.T, status int) apiError {
	t.Helper()
	if a.err != nil || a.status != status {
		t.Fatalf("expected status %d with a JSON error, got %v", status, a)
	}
	var got struct{ Error *apiError }
	if err := json.Unmarshal(a.body, &got); err != nil || got.Error == nil || got.Error.Message == "" {
		t.Fatalf(`expected {"error": {"message": …}} (%v), got %v`, err, a)
	}
	if ct := a.header.Get("Content-Type"); !strings.HasPrefix(ct, "application/json") {
		t.Errorf("content-type of the error: expected application/json, got %q", ct)
	}
	return *got.Error
}

// text gives n bytes of words that differ from those of other seeds from the first block on.
func text(seed string, n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%s %d lorem ipsum dolor ", seed, i)
	}
	return b.String()[:n]
}
