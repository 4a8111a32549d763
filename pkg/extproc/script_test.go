package extproc

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	modev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/pilotfish-epp/pilotfish/pkg/request"
	"github.com/pilotfish-epp/pilotfish/pkg/routing"
	"github.com/pilotfish-epp/pilotfish/pkg/settings"
)

var update = flag.Bool("update", false, "rewrite the transcripts in testdata")

// TestScripts plays each file of testdata message by message. Lines that start with "->" are what the proxy sends;
// "<-" is what the picker answers and ".." what it tells the router, as they must come. Lines before the first message
// set the scene:
//
//	set NAME=VALUE        a setting
//	pods ADDRESS...       endpoints, the first allowed one is picked
//	model NAME            the model name that the router asks for
//	refuse STATUS CODE    the router refuses
//	panic WHERE           the router panics: in route or in responded
//	sample                every draw says yes
//	opened                another stream's answer in events is being looked at
//	held BYTES            other streams hold so many bytes of bodies
//	pieces                messages come in buffers of 7 bytes
//
// A message is "-> KIND [eos] [WORD=VALUE...] [body]", with modes=REQUEST/RESPONSE, subset=, subsetlist=, served=, and
// for headers name:value words, where a quoted word may hold spaces and name::value uses the field value instead of
// raw_value. A body is made of quoted strings and CHARACTER*COUNT.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			old, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(old))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(old) {
				t.Errorf("transcript differs; got:\n%s", got)
			}
		})
	}
}

func play(t *testing.T, script string) string {
	t.Helper()
	w := &scriptedWire{t: t, router: &scriptedRouter{}, environment: map[string]string{}}
	w.router.say = w.say
	for line := range strings.Lines(script) {
		line = strings.TrimRight(line, "\n")
		if !strings.HasPrefix(line, "<-") && !strings.HasPrefix(line, "..") {
			w.lines = append(w.lines, line)
		}
	}
	w.scene()
	store, err := settings.New(w.environment, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(w.router, store, slog.New(slog.DiscardHandler))
	s.draw = func(float64) bool { return w.sampled }
	s.buffered.Store(w.held)
	if w.opened {
		s.opened.Store(time.Now().UnixNano())
	}
	pool := &countingPool{}
	st := newStream(s, pool)
	whole, err := s.guarded(st, w)
	if err != nil {
		w.say("<- gRPC error %v", status.Code(err))
	} else {
		w.say("<- closed")
	}
	if whole {
		st.reset()
	}
	if n := w.pool.out + pool.out; n != 0 {
		t.Errorf("%d pooled buffers are still held at the end", n)
	}
	if s.opened.Load() != 0 != w.opened {
		t.Errorf("at the end an answer is being looked at: %v, expected %v", !w.opened, w.opened)
	}
	if held := s.buffered.Load() - w.held; held != 0 {
		t.Errorf("%d bytes are still counted as held at the end", held)
	}
	w.rest()
	return w.transcript.String()
}

// scriptedWire is a gRPC stream whose messages come from a script.
type scriptedWire struct {
	t           *testing.T
	lines       []string
	transcript  strings.Builder
	environment map[string]string
	router      *scriptedRouter
	opened      bool
	sampled     bool
	held        int64
	pieces      bool
	pool        countingPool

	bodies map[kind][]byte // what the proxy sent so far
	echoed map[kind]int
}

func (w *scriptedWire) say(format string, args ...any) {
	fmt.Fprintf(&w.transcript, format+"\n", args...)
}

// next copies lines to the transcript up to and with the next message, and gives that.
func (w *scriptedWire) next() (string, bool) {
	for len(w.lines) > 0 {
		line := w.lines[0]
		w.lines = w.lines[1:]
		w.say("%s", line)
		if strings.HasPrefix(line, "->") {
			return strings.TrimSpace(line[2:]), true
		}
	}
	return "", false
}

func (w *scriptedWire) rest() {
	for {
		line, ok := w.next()
		if !ok {
			return
		}
		w.say(".. too late: %s", strings.Fields(line)[0])
	}
}

func (w *scriptedWire) scene() {
	for _, line := range w.lines {
		if strings.HasPrefix(line, "->") {
			return
		}
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		switch words[0] {
		case "set":
			name, value, _ := strings.Cut(words[1], "=")
			w.environment[name] = value
		case "pods":
			for _, pod := range words[1:] {
				w.router.pods = append(w.router.pods, netip.MustParseAddrPort(pod))
			}
		case "model":
			w.router.model = words[1]
		case "refuse":
			code, _ := strconv.Atoi(words[1])
			w.router.refusal = &routing.Refusal{
				Status: code, Code: words[2], Message: "no room", Reason: routing.ReasonSaturated, RetryAfter: 1500 * time.Millisecond,
			}
		case "wait":
			w.router.wait, _ = time.ParseDuration(words[1])
		case "panic":
			w.router.panics = words[1]
		case "held":
			w.held, _ = strconv.ParseInt(words[1], 10, 64)
		case "sample":
			w.sampled = true
		case "opened":
			w.opened = true
		case "pieces":
			w.pieces = true
		default:
			w.t.Fatalf("unknown line in a script: %s", line)
		}
	}
}

func (w *scriptedWire) Context() context.Context { return context.Background() }

func (w *scriptedWire) RecvMsg(m any) error {
	line, ok := w.next()
	if !ok || line == "cancel" {
		return status.Error(codes.Canceled, "context canceled")
	}
	switch line {
	case "half-close":
		return io.EOF
	case "garbage":
		return status.Error(codes.Internal, m.(*inbound).decode(mem.BufferSlice{mem.SliceBuffer{0x12, 0xff}}).Error())
	}
	encoded, err := proto.Marshal(w.message(line))
	if err != nil {
		w.t.Fatal(err)
	}
	data := w.buffers(encoded)
	defer data.Free()
	return m.(*inbound).decode(data)
}

// buffers lays out a message as grpc does: in pooled buffers, of which a long message takes several.
func (w *scriptedWire) buffers(encoded []byte) mem.BufferSlice {
	size := 16384
	if w.pieces {
		size = 7
	}
	var data mem.BufferSlice
	for part := range slices.Chunk(encoded, size) {
		b := w.pool.Get(max(len(part), 2048)) // above the size below which mem does not count
		copy(*b, part)
		whole := mem.NewBuffer(b, &w.pool)
		data = append(data, whole.Slice(0, len(part)))
		whole.Free()
	}
	return data
}

func (w *scriptedWire) SendMsg(m any) error {
	data, err := newCodec().Marshal(m)
	if err != nil {
		return err
	}
	var answer extprocv3.ProcessingResponse
	if err := proto.Unmarshal(data.Materialize(), &answer); err != nil {
		w.t.Fatalf("an answer that is no ProcessingResponse: %v", err)
	}
	data.Free()
	if unknown := answer.ProtoReflect().GetUnknown(); len(unknown) > 0 {
		w.t.Errorf("an answer with unknown fields % x", unknown)
	}
	w.say("<- %s", w.describe(&answer))
	return nil
}

// message builds what one line of a script says.
func (w *scriptedWire) message(line string) *extprocv3.ProcessingRequest {
	words := split(w.t, line)
	p := &extprocv3.ProcessingRequest{}
	var body []byte
	var headers []*corev3.HeaderValue
	eos := false
	for _, word := range words[1:] {
		name, value, assigned := strings.Cut(word, "=")
		switch {
		case word == "eos":
			eos = true
		case word == "observability":
			p.ObservabilityMode = true
		case assigned && name == "modes":
			p.ProtocolConfig = modes(w.t, value)
		case assigned && name == "subset":
			hint(p, metadataSubset, keySubset, structpb.NewStringValue(value))
		case assigned && name == "subsetlist":
			list := &structpb.ListValue{}
			for item := range strings.FieldsSeq(strings.ReplaceAll(value, ";", " ")) {
				list.Values = append(list.Values, structpb.NewStringValue(item))
			}
			hint(p, metadataSubset, keySubset, structpb.NewListValue(list))
		case assigned && name == "subsetnumber":
			hint(p, metadataSubset, keySubset, structpb.NewNumberValue(1))
		case assigned && name == "served":
			hint(p, metadataLB, keyServed, structpb.NewStringValue(value))
		case strings.HasPrefix(word, `"`):
			text, err := strconv.Unquote(word)
			if err != nil {
				w.t.Fatalf("%s: %v", word, err)
			}
			body = append(body, text...)
		case len(word) > 2 && word[1] == '*':
			n, err := strconv.Atoi(word[2:])
			if err != nil {
				w.t.Fatalf("%s: %v", word, err)
			}
			body = append(body, bytes.Repeat([]byte{word[0]}, n)...)
		default:
			headers = append(headers, headerOf(w.t, word))
		}
	}
	w.variant(p, words[0], headers, body, eos)
	return p
}

func (w *scriptedWire) variant(p *extprocv3.ProcessingRequest, name string, headers []*corev3.HeaderValue, body []byte, eos bool) {
	all := &corev3.HeaderMap{Headers: headers}
	switch name {
	case "request_headers":
		p.Request = &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{Headers: all, EndOfStream: eos}}
	case "response_headers":
		p.Request = &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: &extprocv3.HttpHeaders{Headers: all, EndOfStream: eos}}
	case "request_body":
		w.sent(requestBody, body)
		p.Request = &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{Body: body, EndOfStream: eos}}
	case "response_body":
		w.sent(responseBody, body)
		p.Request = &extprocv3.ProcessingRequest_ResponseBody{ResponseBody: &extprocv3.HttpBody{Body: body, EndOfStream: eos}}
	case "request_trailers":
		p.Request = &extprocv3.ProcessingRequest_RequestTrailers{RequestTrailers: &extprocv3.HttpTrailers{Trailers: all}}
	case "response_trailers":
		p.Request = &extprocv3.ProcessingRequest_ResponseTrailers{ResponseTrailers: &extprocv3.HttpTrailers{Trailers: all}}
	default:
		w.t.Fatalf("unknown message %q", name)
	}
}

func (w *scriptedWire) sent(k kind, body []byte) {
	if w.bodies == nil {
		w.bodies, w.echoed = map[kind][]byte{}, map[kind]int{}
	}
	w.bodies[k] = append(w.bodies[k], body...)
}

func split(t *testing.T, line string) []string {
	t.Helper()
	var words []string
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		if line[0] == '"' {
			quoted, err := strconv.QuotedPrefix(line)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			words, line = append(words, quoted), line[len(quoted):]
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		words, line = append(words, word), rest
	}
	return words
}

func headerOf(t *testing.T, word string) *corev3.HeaderValue {
	t.Helper()
	at := strings.IndexByte(word[1:], ':') + 1
	if at == 0 {
		t.Fatalf("neither a header nor anything else: %s", word)
	}
	name, value := word[:at], word[at+1:]
	if strings.HasPrefix(value, ":") {
		return &corev3.HeaderValue{Key: name, Value: value[1:]}
	}
	return &corev3.HeaderValue{Key: name, RawValue: []byte(value)}
}

func modes(t *testing.T, text string) *extprocv3.ProtocolConfiguration {
	t.Helper()
	of := func(name string) modev3.ProcessingMode_BodySendMode {
		v, ok := modev3.ProcessingMode_BodySendMode_value[name]
		if !ok {
			t.Fatalf("no mode %q", name)
		}
		return modev3.ProcessingMode_BodySendMode(v)
	}
	in, out, _ := strings.Cut(text, "/")
	return &extprocv3.ProtocolConfiguration{RequestBodyMode: of(in), ResponseBodyMode: of(out)}
}

func hint(p *extprocv3.ProcessingRequest, namespace, key string, v *structpb.Value) {
	if p.MetadataContext == nil {
		p.MetadataContext = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{}}
	}
	p.MetadataContext.FilterMetadata[namespace] = &structpb.Struct{Fields: map[string]*structpb.Value{key: v}}
}

// describe writes an answer down in one line.
func (w *scriptedWire) describe(p *extprocv3.ProcessingResponse) string {
	var b strings.Builder
	switch r := p.Response.(type) {
	case *extprocv3.ProcessingResponse_RequestHeaders:
		b.WriteString("request_headers" + w.common(requestHeaders, r.RequestHeaders.Response))
	case *extprocv3.ProcessingResponse_ResponseHeaders:
		b.WriteString("response_headers" + w.common(responseHeaders, r.ResponseHeaders.Response))
	case *extprocv3.ProcessingResponse_RequestBody:
		b.WriteString("request_body" + w.common(requestBody, r.RequestBody.Response))
	case *extprocv3.ProcessingResponse_ResponseBody:
		b.WriteString("response_body" + w.common(responseBody, r.ResponseBody.Response))
	case *extprocv3.ProcessingResponse_RequestTrailers:
		b.WriteString("request_trailers" + w.headers(r.RequestTrailers.HeaderMutation))
	case *extprocv3.ProcessingResponse_ResponseTrailers:
		b.WriteString("response_trailers" + w.headers(r.ResponseTrailers.HeaderMutation))
	case *extprocv3.ProcessingResponse_ImmediateResponse:
		i := r.ImmediateResponse
		fmt.Fprintf(&b, "immediate %d%s details=%s %s", i.Status.Code, w.headers(i.Headers), i.Details, strings.TrimSpace(string(i.Body)))
	case nil:
		if p.OverrideMessageTimeout == nil {
			w.t.Errorf("an answer to nothing: %v", p)
		}
		fmt.Fprintf(&b, "wait %v", p.OverrideMessageTimeout.AsDuration())
	default:
		w.t.Errorf("an answer of no known kind: %v", p)
	}
	if p.DynamicMetadata != nil {
		for namespace, inner := range p.DynamicMetadata.Fields {
			for key, value := range inner.GetStructValue().GetFields() {
				fmt.Fprintf(&b, " metadata %s %s=%s", namespace, key, value.GetStringValue())
			}
		}
	}
	if o := p.ModeOverride; o != nil {
		fmt.Fprintf(&b, " override request %v response %v/%v/%v",
			o.RequestBodyMode, o.ResponseHeaderMode, o.ResponseBodyMode, o.ResponseTrailerMode)
	}
	return b.String()
}

func (w *scriptedWire) common(k kind, r *extprocv3.CommonResponse) string {
	if r == nil {
		w.t.Error("an answer without a CommonResponse")
		return ""
	}
	text := w.headers(r.HeaderMutation)
	if r.ClearRouteCache {
		text += " clear_route_cache"
	}
	switch m := r.BodyMutation.GetMutation().(type) {
	case *extprocv3.BodyMutation_StreamedResponse:
		text += " streamed " + w.passed(k, m.StreamedResponse.Body)
		if m.StreamedResponse.EndOfStream {
			text += " eos"
		}
	case *extprocv3.BodyMutation_Body:
		text += fmt.Sprintf(" body %q", m.Body)
	case *extprocv3.BodyMutation_ClearBody:
		text += " clear_body"
	}
	return text
}

// passed describes bytes of a body: short ones as they are, others by where they stand in what the proxy sent.
func (w *scriptedWire) passed(k kind, body []byte) string {
	at := w.echoed[k]
	w.echoed[k] = at + len(body)
	if len(body) < 200 {
		return strconv.Quote(string(body))
	}
	if sent := w.bodies[k]; at+len(body) <= len(sent) && bytes.Equal(body, sent[at:at+len(body)]) {
		return fmt.Sprintf("bytes %d..%d", at, at+len(body))
	}
	return fmt.Sprintf("%d other bytes", len(body))
}

func (w *scriptedWire) headers(m *extprocv3.HeaderMutation) string {
	var text string
	for _, set := range m.GetSetHeaders() {
		if set.Header.Value != "" || set.AppendAction != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
			w.t.Errorf("header %s is not set by raw_value, overwriting", set.Header.Key)
		}
		value := string(set.Header.RawValue)
		if set.Header.Key == headerRequestID && len(value) == 36 {
			value = "(uuid)"
		}
		text += fmt.Sprintf(" set %s=%s", set.Header.Key, value)
	}
	for _, name := range m.GetRemoveHeaders() {
		text += " remove " + name
	}
	return text
}

// scriptedRouter picks the first pod that is allowed, and writes down what it hears.
type scriptedRouter struct {
	say     func(format string, args ...any)
	pods    []netip.AddrPort
	model   string
	refusal *routing.Refusal
	wait    time.Duration // every request has to wait, for so long at most
	panics  string
}

func (r *scriptedRouter) newTicket() ticket { return &scriptedTicket{router: r} }

func (r *scriptedRouter) route(_ context.Context, a *routing.Arrival, t ticket) *routing.Refusal {
	text := fmt.Sprintf(".. route %d bytes", a.BodyBytes)
	if a.HeldBytes != a.BodyBytes {
		text += fmt.Sprintf(" (%d held)", a.HeldBytes)
	}
	if a.Body != nil {
		text += fmt.Sprintf(" %v model=%s", a.Body.Kind, a.Body.Model)
	}
	for _, word := range []struct{ name, value string }{
		{"objective", a.Objective}, {"fairness", a.Fairness}, {"rewrite", a.Rewrite},
	} {
		if word.value != "" {
			text += fmt.Sprintf(" %s=%s", word.name, word.value)
		}
	}
	if a.HasSubset {
		text += fmt.Sprintf(" subset=%v", a.Subset)
	}
	if len(a.Steer) > 0 {
		text += fmt.Sprintf(" steer=%v", a.Steer)
	}
	r.say("%s", text)
	if r.wait > 0 {
		a.Waits(r.wait)
	}
	if r.panics == "route" {
		*t.(*scriptedTicket) = scriptedTicket{router: r}
		panic("no way")
	}
	if r.refusal != nil {
		return r.refusal
	}
	for _, pod := range r.pods {
		if !a.HasSubset || slices.Contains(a.Subset, pod) {
			*t.(*scriptedTicket) = scriptedTicket{router: r, destination: pod.String(), rewrite: a.Rewrite}
			return nil
		}
	}
	return &routing.Refusal{Status: 503, Code: "no_endpoints", Message: "no endpoint can serve this request", Reason: routing.ReasonNoEndpoints}
}

func (*scriptedRouter) RefuseWaiting() {}

func (r *scriptedRouter) Refused(a *routing.Arrival, no *routing.Refusal) {
	id := a.RequestID
	if len(id) == 36 {
		id = "(uuid)"
	}
	text := fmt.Sprintf(".. refused %d %s request_id=%s", no.Status, no.Code, id)
	if a.Body != nil {
		text += " model=" + a.Body.Model
	}
	r.say("%s", text)
}

type scriptedTicket struct {
	router      *scriptedRouter
	destination string
	rewrite     string
	finished    int
}

func (t *scriptedTicket) Destination() string { return t.destination }

func (t *scriptedTicket) Model() string {
	if t.rewrite != "" {
		return t.rewrite
	}
	return t.router.model
}

func (t *scriptedTicket) Responded(code int, served netip.AddrPort, streaming bool) {
	if t.router.panics == "responded" {
		panic("no way")
	}
	from := "unknown"
	if served.IsValid() {
		from = served.String()
	}
	t.router.say(".. responded %d by %s streaming=%v", code, from, streaming)
}
func (t *scriptedTicket) FirstToken()          { t.router.say(".. first token") }
func (t *scriptedTicket) Used(u request.Usage) { t.router.say(".. used %+v", u) }
func (t *scriptedTicket) ResponseBytes(int)    {}

func (t *scriptedTicket) Finish(e routing.End) {
	names := map[routing.End]string{
		routing.Completed: "completed", routing.ClientGone: "client gone", routing.Unfollowed: "unfollowed",
		routing.ShuttingDown: "shutting down",
	}
	t.finished++
	if t.finished > 1 {
		t.router.say(".. finished AGAIN")
	}
	t.router.say(".. finished: %s", names[e])
}

// countingPool counts the buffers that it gave out and did not get back. Not safe for concurrent use.
type countingPool struct{ out, gets int }

func (p *countingPool) Get(n int) *[]byte {
	p.out++
	p.gets++
	b := make([]byte, n, max(n, 2048))
	return &b
}

func (p *countingPool) Put(b *[]byte) {
	p.out--
	for i := range (*b)[:cap(*b)] { // whoever still looks sees garbage
		(*b)[:cap(*b)][i] = '#'
	}
}
