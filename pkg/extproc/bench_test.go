package extproc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/pilotfish-epp/pilotfish/pkg/pool"
	"github.com/pilotfish-epp/pilotfish/pkg/routing"
)

// serverVariable makes the test binary a server of the kind that it names instead of running tests.
const serverVariable = "PILOTFISH_BENCH_SERVER"

func TestMain(m *testing.M) {
	if variant := os.Getenv(serverVariable); variant != "" {
		if err := serveVariant(variant); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

const (
	benchStreams     = 16 // at once
	benchConnections = 2  // one for each worker of an Envoy on two cores
	benchRound       = 2 * time.Second
	benchRounds      = 4
	benchPrompts     = 256 // different bodies
)

// BenchmarkStream measures the CPU that a server process takes for one whole stream over loopback TCP: request headers,
// a chat body, its end, response headers, a JSON answer, its end, in full duplex both ways. The variants run as
// processes of their own, in turn, in several rounds; the figures are medians of microseconds of user and system time:
//
//	echo       grpc-go with the generated types, echoing the same messages
//	fixed      this package, with a router that knows one answer
//	routed     this package with the real router: 64 pods, PREFIX_CACHE
//	routed/256 the same with 256 pods
func BenchmarkStream(b *testing.B) {
	for _, size := range []struct {
		name  string
		bytes int
	}{{"1KB", 1 << 10}, {"8KB", 8 << 10}, {"64KB", 64 << 10}} {
		b.Run(size.name, func(b *testing.B) {
			for range b.N {
				compare(b, size.bytes)
			}
		})
	}
}

func compare(b *testing.B, size int) {
	variants := []string{"echo", "fixed", "routed/64", "routed/256"}
	if only := os.Getenv("PILOTFISH_BENCH_VARIANTS"); only != "" {
		variants = strings.Split(only, ",")
	}
	servers := make([]*benchServer, len(variants))
	for i, name := range variants {
		servers[i] = startServer(b, name)
	}
	load := newLoad(b, size)
	took := make([][]float64, len(variants))
	for round := range benchRounds + 1 {
		for i, server := range servers {
			cost := load.measure(b, server)
			if round > 0 { // the first one warms up
				took[i] = append(took[i], cost)
			}
		}
	}
	base := 0.0
	for i, name := range variants {
		slices.Sort(took[i])
		m := (took[i][benchRounds/2] + took[i][(benchRounds-1)/2]) / 2
		b.ReportMetric(m, name+"-cpu-µs/stream")
		if name == "echo" {
			base = m
		} else if base > 0 {
			b.ReportMetric(m/base, name+"-ratio")
		}
		servers[i].stop(b)
	}
	b.ReportMetric(0, "ns/op")
}

// benchServer is a server in a process of its own.
type benchServer struct {
	command *exec.Cmd
	stdin   io.Closer
	address string
	clients []*grpc.ClientConn
	next    atomic.Int64
}

func startServer(b *testing.B, variant string) *benchServer {
	b.Helper()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), serverVariable+"="+variant)
	command.Stderr = os.Stderr
	stdin, err := command.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := command.Start(); err != nil {
		b.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		b.Fatalf("the server %s did not start: %v", variant, err)
	}
	s := &benchServer{command: command, stdin: stdin, address: strings.TrimSpace(line)}
	for range benchConnections {
		client, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})))
		if err != nil {
			b.Fatal(err)
		}
		s.clients = append(s.clients, client)
	}
	return s
}

// stop ends the server by closing its standard input.
func (s *benchServer) stop(b *testing.B) {
	b.Helper()
	for _, client := range s.clients {
		_ = client.Close()
	}
	_ = s.stdin.Close()
	if err := s.command.Wait(); err != nil {
		b.Errorf("the server ended with %v", err)
	}
}

// cpu is the user and system time of the server process so far.
func (s *benchServer) cpu(b *testing.B) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.command.Process.Pid))
	if err != nil {
		b.Skipf("no /proc: %v", err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const utime, stime = 11, 12 // counted from the state, proc(5)
	ticks := 0
	for _, field := range []string{fields[utime], fields[stime]} {
		n, err := strconv.Atoi(field)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100
}

// rawCodec sends messages that are encoded already and leaves answers as they are.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*int) = data.Len()
	return nil
}

// load is what a proxy sends, encoded beforehand.
type load struct {
	size    int
	streams [][2][][]byte // the messages of the request and of the response
	chunks  int           // answers to a request body
}

func newLoad(b *testing.B, size int) *load {
	b.Helper()
	l := &load{size: size}
	for i := range benchPrompts {
		body := bytes.Replace(chatBody(size), []byte("the 0-th"), fmt.Appendf(nil, "the %04d", i), 1)
		l.chunks = (len(body) + chunkLimit - 1) / chunkLimit
		var both [2][][]byte
		for at, m := range conversation(body) {
			encoded, err := proto.Marshal(m)
			if err != nil {
				b.Fatal(err)
			}
			both[at/3] = append(both[at/3], encoded)
		}
		l.streams = append(l.streams, both)
	}
	return l
}

// measure runs streams against the server for a round and gives the CPU time for each, in microseconds.
func (l *load) measure(b *testing.B, s *benchServer) float64 {
	b.Helper()
	var done atomic.Int64
	var wait sync.WaitGroup
	before, until := s.cpu(b), time.Now().Add(benchRound)
	for range benchStreams {
		wait.Go(func() {
			for time.Now().Before(until) {
				n := s.next.Add(1)
				if err := l.stream(s.clients[n%benchConnections], l.streams[n%benchPrompts]); err != nil {
					b.Errorf("stream: %v", err)
					return
				}
				done.Add(1)
			}
		})
	}
	wait.Wait()
	return float64((s.cpu(b) - before).Microseconds()) / float64(done.Load())
}

func (l *load) stream(client *grpc.ClientConn, messages [2][][]byte) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel() // as Envoy ends its streams
	desc := &grpc.StreamDesc{StreamName: "Process", ServerStreams: true, ClientStreams: true}
	stream, err := client.NewStream(ctx, desc, "/"+ServiceName+"/Process")
	if err != nil {
		return err
	}
	for i, expected := range []int{1 + l.chunks, 3} {
		for _, m := range messages[i] {
			if err := stream.SendMsg(m); err != nil {
				return err
			}
		}
		for range expected {
			var n int
			if err := stream.RecvMsg(&n); err != nil {
				return err
			}
		}
	}
	return nil
}

// serveVariant serves until standard input ends.
func serveVariant(name string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var g *grpc.Server
	variant, pods, _ := strings.Cut(name, "/")
	switch variant {
	case "echo":
		g = grpc.NewServer()
		extprocv3.RegisterExternalProcessorServer(g, echoServer{})
	case "fixed":
		g = grpc.NewServer(ServerOptions(nil)...)
		newServer(fixedRouter{to: "10.0.0.1:8000"}, newStore(&testing.B{}, nil), nil).Register(g)
	case "routed":
		n, err := strconv.Atoi(pods)
		if err != nil {
			return err
		}
		g = grpc.NewServer(ServerOptions(nil)...)
		store := newStore(&testing.B{}, map[string]string{"ROUTING_STRATEGY": "PREFIX_CACHE"})
		r := routing.New(routing.Options{Pool: somePods(n), Settings: store})
		NewServer(Options{Router: r, Settings: store}).Register(g)
	default:
		return fmt.Errorf("no server %q", name)
	}
	stop, err := profile(variant)
	if err != nil {
		return err
	}
	defer stop()
	go func() { _ = g.Serve(listener) }()
	defer g.Stop()
	fmt.Println(listener.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// profile writes a CPU profile for each variant into the folder that PILOTFISH_BENCH_PROFILE names.
func profile(variant string) (stop func(), err error) {
	folder := os.Getenv("PILOTFISH_BENCH_PROFILE")
	if folder == "" {
		return func() {}, nil
	}
	file, err := os.Create(folder + "/" + variant + ".cpu")
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		_ = file.Close()
		if heap, err := os.Create(folder + "/" + variant + ".allocs"); err == nil {
			_ = pprof.Lookup("allocs").WriteTo(heap, 0)
			_ = heap.Close()
		}
	}, nil
}

// somePods is a pool of n pods, each with a report.
func somePods(n int) *pool.Pool {
	p := pool.New()
	var endpoints []pool.Endpoint
	for i := range n {
		address := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 8000)
		endpoints = append(endpoints, pool.Endpoint{Name: fmt.Sprint("pod-", i), Address: address, MetricsPort: 8000})
	}
	now := time.Now()
	p.Set(now, endpoints)
	for _, pod := range p.Snapshot().Pods {
		p.Report(now, pod, pool.Report{Taken: pool.At(now), Running: 3, KVUsage: 0.2, BlockSize: 16, KVTokens: 400_000})
	}
	return p
}

// echoServer is the naive server that this package is measured against: it knows where to send everything and echoes
// what it gets with the generated types.
type echoServer struct {
	extprocv3.UnimplementedExternalProcessorServer
}

func (echoServer) Process(stream extprocv3.ExternalProcessor_ProcessServer) error {
	var body []byte
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch m := in.Request.(type) {
		case *extprocv3.ProcessingRequest_RequestHeaders:
		case *extprocv3.ProcessingRequest_RequestBody:
			body = append(body, m.RequestBody.Body...)
			if !m.RequestBody.EndOfStream {
				continue
			}
			if err := stream.Send(destinationOf("10.0.0.1:8000")); err != nil {
				return err
			}
			for part := range slices.Chunk(body, chunkLimit) {
				last := &part[len(part)-1] == &body[len(body)-1]
				if err := stream.Send(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestBody{
					RequestBody: &extprocv3.BodyResponse{Response: streamed(part, last)},
				}}); err != nil {
					return err
				}
			}
		case *extprocv3.ProcessingRequest_ResponseHeaders:
			if err := stream.Send(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseHeaders{
				ResponseHeaders: &extprocv3.HeadersResponse{Response: &extprocv3.CommonResponse{}},
			}}); err != nil {
				return err
			}
		case *extprocv3.ProcessingRequest_ResponseBody:
			if err := stream.Send(&extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseBody{
				ResponseBody: &extprocv3.BodyResponse{Response: streamed(m.ResponseBody.Body, m.ResponseBody.EndOfStream)},
			}}); err != nil {
				return err
			}
		}
	}
}

func streamed(body []byte, endOfStream bool) *extprocv3.CommonResponse {
	return &extprocv3.CommonResponse{BodyMutation: &extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_StreamedResponse{
		StreamedResponse: &extprocv3.StreamedBodyResponse{Body: body, EndOfStream: endOfStream},
	}}}
}

func destinationOf(address string) *extprocv3.ProcessingResponse {
	return &extprocv3.ProcessingResponse{
		Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{
			Response: &extprocv3.CommonResponse{
				ClearRouteCache: true,
				HeaderMutation: &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{{
					Header:       &corev3.HeaderValue{Key: keyDestination, RawValue: []byte(address)},
					AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
				}}},
			},
		}},
		DynamicMetadata: &structpb.Struct{Fields: map[string]*structpb.Value{
			metadataLB: structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{
				keyDestination: structpb.NewStringValue(address),
			}}),
		}},
	}
}

// loopWire sends the same message again and again and takes every answer.
type loopWire struct {
	next func() mem.BufferSlice
	left int
}

func (*loopWire) Context() context.Context { return context.Background() }

func (w *loopWire) RecvMsg(m any) error {
	if w.left--; w.left < 0 {
		return io.EOF
	}
	return m.(*inbound).decode(w.next())
}

func (w *loopWire) SendMsg(m any) error {
	data, err := codec{}.Marshal(m)
	data.Free()
	return err
}

// BenchmarkEvent is one event of a streamed answer in full duplex, from the message's bytes to those of its answer,
// without grpc: passed on, and passed on with usage read.
func BenchmarkEvent(b *testing.B) {
	event := []byte(`data: {"id":"chatcmpl-9f4c1b8e","object":"chat.completion.chunk","created":1767225600,"model":"llama",` +
		`"choices":[{"index":0,"delta":{"content":" story"},"logprobs":null,"finish_reason":null}]}` + "\n\n")
	encode := func(m *extprocv3.ProcessingRequest) mem.BufferSlice {
		encoded, err := proto.Marshal(m)
		if err != nil {
			b.Fatal(err)
		}
		return mem.BufferSlice{mem.SliceBuffer(encoded)}
	}
	messages := conversation(chatBody(1000))
	answered := encode(&extprocv3.ProcessingRequest{
		Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: &extprocv3.HttpHeaders{
			Headers: headers(":status", "200", "content-type", "text/event-stream"),
		}},
	})
	chunk := encode(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseBody{
		ResponseBody: &extprocv3.HttpBody{Body: event},
	}})
	for name, path := range map[string]string{"passed": "/v1/other", "read": "/v1/chat/completions"} {
		b.Run(name, func(b *testing.B) {
			s := newServer(fixedRouter{to: "10.0.0.1:8000"}, newStore(b, nil), nil)
			messages[0].GetRequestHeaders().Headers.Headers[1].RawValue = []byte(path)
			head := []mem.BufferSlice{encode(messages[0]), encode(messages[1]), encode(messages[2]), answered}
			at := 0
			w := &loopWire{left: len(head) + b.N, next: func() mem.BufferSlice {
				if at++; at <= len(head) {
					return head[at-1]
				}
				return chunk
			}}
			b.ReportAllocs()
			b.SetBytes(int64(len(event)))
			if err := s.process(w); err != nil {
				b.Fatal(err)
			}
		})
	}
}
