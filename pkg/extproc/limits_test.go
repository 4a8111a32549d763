package extproc

import (
	"context"
	"errors"
	"io"
	"runtime"
	"testing"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/pilotfish-epp/pilotfish/pkg/routing"
)

// open starts a stream that ends with the test at the latest.
func open(t *testing.T, client extprocv3.ExternalProcessorClient) extprocv3.ExternalProcessor_ProcessClient {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	stream, err := client.Process(ctx, grpc.MaxCallSendMsgSize(1<<30))
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func send(t *testing.T, stream extprocv3.ExternalProcessor_ProcessClient, messages ...*extprocv3.ProcessingRequest) {
	t.Helper()
	for _, m := range messages {
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
}

func receive(t *testing.T, stream extprocv3.ExternalProcessor_ProcessClient) *extprocv3.ProcessingResponse {
	t.Helper()
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// eventually waits for a condition that other goroutines bring about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(until) {
			t.Fatalf("never: %s", what)
		}
	}
}

func chunkOf(body []byte, endOfStream bool) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{
		RequestBody: &extprocv3.HttpBody{Body: body, EndOfStream: endOfStream},
	}}
}

// post is the start of a chat request whose length is not told.
func post() *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{
		Headers: headers(":method", "POST", ":path", "/v1/chat/completions"),
	}}}
}

// TestHundredMegabytes: a body far above the bound, in one message, is answered 413 while another request goes on, and
// leaves nothing behind.
func TestHundredMegabytes(t *testing.T) {
	s := newServer(fixedRouter{to: "10.0.0.1:8000"}, newStore(t, nil), nil)
	_, client := serve(t, s)
	other := open(t, client)
	messages := conversation(chatBody(1000))
	send(t, other, messages[0])

	large := open(t, client)
	send(t, large, post(), chunkOf(make([]byte, 100<<20), true))
	if code := receive(t, large).GetImmediateResponse().GetStatus().GetCode(); code != 413 {
		t.Errorf("answered %v, want 413", code)
	}
	if _, err := large.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v, want a clean end", err)
	}

	send(t, other, messages[1:]...)
	if receive(t, other).GetRequestHeaders() == nil || receive(t, other).GetRequestBody() == nil {
		t.Error("another request was not answered as ever")
	}
	eventually(t, "nothing is held any more", func() bool { return s.Stats().BufferedBytes == 0 })
}

// TestManyTinyChunks: the work for a chunk does not grow with the body, nor does what is held with the number of
// chunks.
func TestManyTinyChunks(t *testing.T) {
	const chunks = 100_000
	s := newServer(fixedRouter{to: "10.0.0.1:8000"}, newStore(t, nil), nil)
	_, client := serve(t, s)
	stream := open(t, client)
	send(t, stream, post())
	body := []byte(`{"prompt":"`)
	send(t, stream, chunkOf(body, false))
	tiny := chunkOf([]byte("x"), false)
	for range chunks {
		send(t, stream, tiny)
	}
	eventually(t, "all chunks are held", func() bool { return s.Stats().BufferedBytes == int64(len(body)+chunks) })
	send(t, stream, chunkOf([]byte(`"}`), true))
	if receive(t, stream).GetRequestHeaders() == nil {
		t.Fatal("no destination")
	}
	got := 0
	for answers := 1; ; answers++ {
		chunk := receive(t, stream).GetRequestBody().GetResponse().GetBodyMutation().GetStreamedResponse()
		got += len(chunk.GetBody())
		if chunk.GetEndOfStream() {
			if answers != 2 {
				t.Errorf("the body came back in %d chunks, want 2", answers)
			}
			break
		}
	}
	if want := len(body) + chunks + 2; got != want {
		t.Errorf("%d bytes came back, want %d", got, want)
	}
}

func TestBodyGrowsByDoubling(t *testing.T) {
	pool := &countingPool{}
	b := body{pool: pool}
	piece := &inbound{body: []span{{mem.SliceBuffer("sixteen bytes ok"), 0, 16}}, bodyLen: 16}
	for range 1 << 16 {
		b.add(piece)
	}
	if b.len() != 1<<20 {
		t.Fatalf("%d bytes, want %d", b.len(), 1<<20)
	}
	if pool.gets > 20 {
		t.Errorf("a body of 2^20 bytes took %d buffers, want no more than doublings", pool.gets)
	}
	b.free()
	if pool.out != 0 {
		t.Errorf("%d buffers are still held", pool.out)
	}
}

// TestMalformedMessage: bytes that are no message are the one thing that ends a stream with a gRPC error.
func TestMalformedMessage(t *testing.T) {
	s := newServer(fixedRouter{to: "10.0.0.1:8000"}, newStore(t, nil), nil)
	_, client := run(t, s, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	stream, err := client.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/"+ServiceName+"/Process")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendMsg([]byte{0x12, 0xff}); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := stream.RecvMsg(&n); status.Code(err) != codes.Internal {
		t.Errorf("got %v, want an error of code Internal", err)
	}
	eventually(t, "it is counted", func() bool { return s.Stats().Malformed == 1 })
}

// waitingRouter lets requests wait until it is told to refuse them.
type waitingRouter struct {
	fixedRouter
	waiting, refusing chan struct{}
}

func (r waitingRouter) route(_ context.Context, a *routing.Arrival, _ ticket) *routing.Refusal {
	a.Waits(time.Minute)
	r.waiting <- struct{}{}
	<-r.refusing
	return &routing.Refusal{Status: 503, Code: "shutting_down", Reason: routing.ReasonShuttingDown}
}

func (r waitingRouter) RefuseWaiting() { close(r.refusing) }

// TestShutdown: streams under way may finish; when time is up, those that wait for a pod are told so.
func TestShutdown(t *testing.T) {
	r := waitingRouter{waiting: make(chan struct{}, 1), refusing: make(chan struct{})}
	s := newServer(r, newStore(t, map[string]string{"QUEUEING": "enabled"}), nil)
	g, client := serve(t, s)
	stream := open(t, client)
	send(t, stream, conversation(chatBody(1000))[:3]...)
	<-r.waiting

	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan bool)
	go func() { result <- s.Shutdown(ctx, g) }()
	cancel()
	answer := receive(t, stream).GetImmediateResponse()
	if answer.GetStatus().GetCode() != 503 {
		t.Errorf("answered %v, want 503", answer)
	}
	var reason string
	for _, h := range answer.GetHeaders().GetSetHeaders() {
		if h.Header.Key == headerDropped {
			reason = string(h.Header.RawValue)
		}
	}
	if reason != routing.ReasonShuttingDown {
		t.Errorf("reason %q, want %q", reason, routing.ReasonShuttingDown)
	}
	if <-result {
		t.Error("Shutdown says that all streams finished by themselves")
	}
}

func TestShutdownOfAnIdleServer(t *testing.T) {
	s := newServer(fixedRouter{}, newStore(t, nil), nil)
	g, _ := serve(t, s)
	if !s.Shutdown(context.Background(), g) {
		t.Error("Shutdown says that streams were cut")
	}
}

func TestStats(t *testing.T) {
	s := newServer(fixedRouter{to: "10.0.0.1:8000"}, newStore(t, map[string]string{"MAX_REQUEST_BODY": "2048"}), nil)
	_, client := serve(t, s)
	stream := open(t, client)
	send(t, stream, post(), chunkOf(make([]byte, 2000), false))
	eventually(t, "the body is held", func() bool { return s.Stats().BufferedBytes == 2000 })
	if n := s.Stats().Streams; n != 1 {
		t.Errorf("%d streams, want 1", n)
	}
	send(t, stream, chunkOf(make([]byte, 100), false))
	receive(t, stream)
	eventually(t, "the stream has ended", func() bool { return s.Stats().Streams == 0 })
	stats := s.Stats()
	if stats.Refused["request_too_large"] != 1 || stats.BufferedBytes != 0 ||
		stats.Modes[Modes{"FULL_DUPLEX_STREAMED", "FULL_DUPLEX_STREAMED"}] != 1 {
		t.Errorf("got %+v", stats)
	}
}
