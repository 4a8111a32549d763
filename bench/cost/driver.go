package cost

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	processMethod  = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
	lbNamespace    = "envoy.lb"
	keyDestination = "x-gateway-destination-endpoint"
	keyServed      = "x-gateway-destination-endpoint-served"
)

// driver plays Envoy to an ext_proc server: whole streams, one after the other on each of a number of lanes, with the
// messages that Envoy 1.40 sends in FULL_DUPLEX_STREAMED both ways for a POST with a JSON answer. What it sends is
// marshalled once, so that it takes little of the processors that it shares with the server.
type driver struct {
	conns  []*grpc.ClientConn
	bodies *chats

	requestHeaders, end, responseBody, responseEnd []byte
	responseHeaders                                sync.Map // by the served address: []byte
}

// lanes is how many streams are under way at a time, and connections how many HTTP/2 connections they share, as the
// worker threads of an Envoy on two processors would.
const (
	lanes       = 16
	connections = 2
)

// jsonAnswer is a chat completion of about 400 bytes.
const jsonAnswer = `{"id":"chatcmpl-7f3a2c9e51b84d06","object":"chat.completion","created":1763800000,"model":"meta-llama/Llama-3.1-8B-Instruct","choices":[{"index":0,"message":{"role":"assistant","content":"Yes: the change is safe to roll out tonight, one zone at a time."},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":512,"completion_tokens":16,"total_tokens":528,"prompt_tokens_details":{"cached_tokens":384}}}`

// newDriver connects to a server. Close ends it.
func newDriver(addr string, bodies *chats) (*driver, error) {
	d := &driver{bodies: bodies}
	for range connections {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(64<<20)))
		if err != nil {
			return nil, err
		}
		d.conns = append(d.conns, conn)
	}
	d.requestHeaders = marshal(&extprocv3.ProcessingRequest{
		Request: &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: httpHeaders(
			":authority", "gateway.example:8080", ":path", "/v1/chat/completions", ":method", "POST", ":scheme", "http",
			"user-agent", "OpenAI/Python 2.7.1", "accept", "application/json", "accept-encoding", "gzip, deflate",
			"authorization", "Bearer sk-none", "content-type", "application/json", "x-stainless-lang", "python",
			"x-forwarded-proto", "http", "x-request-id", "2f1d6a38-52c4-4f0e-9f0a-6f1c2b8f4f55")},
		ProtocolConfig: &extprocv3.ProtocolConfiguration{
			RequestBodyMode:  filterv3.ProcessingMode_FULL_DUPLEX_STREAMED,
			ResponseBodyMode: filterv3.ProcessingMode_FULL_DUPLEX_STREAMED,
		},
	})
	d.end = requestBody(nil, true)
	d.responseBody = marshal(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseBody{
		ResponseBody: &extprocv3.HttpBody{Body: []byte(jsonAnswer)},
	}})
	d.responseEnd = marshal(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseBody{
		ResponseBody: &extprocv3.HttpBody{EndOfStream: true},
	}})
	return d, nil
}

func (d *driver) Close() {
	for _, c := range d.conns {
		_ = c.Close() // no stream is under way, so there is nothing to lose
	}
}

// run drives n streams and returns how long that took. The first fault of any stream ends it.
func (d *driver) run(ctx context.Context, n int) (time.Duration, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	start := time.Now()
	var begun atomic.Int64
	var wg sync.WaitGroup
	for lane := range lanes {
		wg.Go(func() {
			l := lanewise{driver: d, conn: d.conns[lane%len(d.conns)]}
			for begun.Add(1) <= int64(n) && ctx.Err() == nil {
				if err := l.stream(ctx); err != nil {
					stop(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start), context.Cause(ctx)
}

// lanewise is what one lane keeps from stream to stream.
type lanewise struct {
	*driver
	conn    *grpc.ClientConn
	message []byte // buffer of the request-body message
	reply   reply
}

var processStream = grpc.StreamDesc{StreamName: "Process", ServerStreams: true, ClientStreams: true}

// stream is one request with its answer. When everything has come back the stream is cancelled, as Envoy does.
func (l *lanewise) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := l.conn.NewStream(ctx, &processStream, processMethod)
	if err != nil {
		return fmt.Errorf("open stream: %w", err)
	}
	body := l.bodies.take()
	l.message = appendRequestBody(l.message[:0], body)
	if err := send(s, l.requestHeaders, l.message, l.end); err != nil {
		return err
	}
	destination, err := l.receive(s, replyRequestHeaders, replyRequestBody, len(body))
	if err != nil {
		return fmt.Errorf("request of %d bytes: %w", len(body), err)
	}
	if err := send(s, l.responseHeadersFrom(destination), l.responseBody, l.responseEnd); err != nil {
		return err
	}
	if _, err := l.receive(s, replyResponseHeaders, replyResponseBody, len(jsonAnswer)); err != nil {
		return fmt.Errorf("response: %w", err)
	}
	return nil
}

func send(s grpc.ClientStream, messages ...[]byte) error {
	for _, m := range messages {
		if err := s.SendMsg(m); err != nil {
			// The server has ended the stream; its status says why.
			return fmt.Errorf("send: %w", errors.Join(err, s.RecvMsg(new(reply))))
		}
	}
	return nil
}

// receive reads the answers of one direction up to the end of the body, checks that they are whole and in order, and
// gives the destination that the headers' answer names.
func (l *lanewise) receive(s grpc.ClientStream, headers, body replyKind, want int) (destination string, err error) {
	if err := s.RecvMsg(&l.reply); err != nil {
		return "", err
	}
	if l.reply.kind != headers {
		return "", fmt.Errorf("expected %v, got %v", headers, &l.reply)
	}
	destination = string(l.reply.destination)
	got := 0
	for !l.reply.end {
		if err := s.RecvMsg(&l.reply); err != nil {
			return "", err
		}
		if l.reply.kind != body {
			return "", fmt.Errorf("expected %v, got %v", body, &l.reply)
		}
		got += l.reply.body
	}
	if got != want {
		return "", fmt.Errorf("%d bytes of body came back, %d were sent", got, want)
	}
	return destination, nil
}

// responseHeadersFrom is the message with the response headers of a pod.
func (d *driver) responseHeadersFrom(pod string) []byte {
	if m, ok := d.responseHeaders.Load(pod); ok {
		return m.([]byte)
	}
	m := marshal(&extprocv3.ProcessingRequest{
		Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: httpHeaders(
			":status", "200", "date", "Sat, 22 Nov 2025 12:00:00 GMT", "server", "uvicorn", "content-type", "application/json",
			"content-length", fmt.Sprint(len(jsonAnswer)), "x-envoy-upstream-service-time", "12")},
		MetadataContext: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
			lbNamespace: {Fields: map[string]*structpb.Value{
				keyDestination: structpb.NewStringValue(pod),
				keyServed:      structpb.NewStringValue(pod),
			}},
		}},
	})
	d.responseHeaders.Store(pod, m)
	return m
}

func httpHeaders(pairs ...string) *extprocv3.HttpHeaders {
	m := &corev3.HeaderMap{}
	for i := 0; i < len(pairs); i += 2 {
		m.Headers = append(m.Headers, &corev3.HeaderValue{Key: pairs[i], RawValue: []byte(pairs[i+1])})
	}
	return &extprocv3.HttpHeaders{Headers: m}
}

func requestBody(body []byte, end bool) []byte {
	return marshal(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{
		RequestBody: &extprocv3.HttpBody{Body: body, EndOfStream: end},
	}})
}

// marshal is for messages made here, which are always valid.
func marshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

// rawCodec sends bytes as they are and reads replies.
type rawCodec struct{}

// Name is that of the codec which it stands for.
func (rawCodec) Name() string { return "proto" }

// Marshal takes a []byte that stays as it is until the message is sent.
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

// Unmarshal fills a *reply.
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error { return v.(*reply).read(data) }
