package cost

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// pods are model servers that do no work: each listens on a port of its own, serves a metrics page, and answers
// completions with a fixed JSON body or a paced stream of events. They write to the connection what was made before, so
// that they leave the processors to what is measured.
type pods struct {
	page      []byte // the whole HTTP response
	listeners []net.Listener
	conns     sync.Map // net.Conn, for Close
	pages     atomic.Int64
}

// eventGap is the time between two events of a streamed answer: that of a fast model, and long enough that a proxy gets
// each by itself.
const (
	events   = 128
	eventGap = 4 * time.Millisecond
)

// servedPath answers with the number of metrics pages that were written.
const servedPath = "/served"

// newPods starts n pods with metrics pages of about pageBytes. Close ends them.
func newPods(n, pageBytes int) (*pods, error) {
	page := metricsPage(pageBytes)
	p := &pods{page: fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s", len(page), page)}
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			p.Close()
			return nil, fmt.Errorf("pod: %w", err)
		}
		p.listeners = append(p.listeners, l)
		go p.accept(l)
	}
	return p, nil
}

// Addrs are where the pods listen.
func (p *pods) Addrs() []netip.AddrPort {
	addrs := make([]netip.AddrPort, len(p.listeners))
	for i, l := range p.listeners {
		addrs[i] = l.Addr().(*net.TCPAddr).AddrPort()
	}
	return addrs
}

// Close ends the pods with their connections.
func (p *pods) Close() {
	for _, l := range p.listeners {
		_ = l.Close() // nobody connects any more, whatever it says
	}
	p.conns.Range(func(c, _ any) bool {
		_ = c.(net.Conn).Close()
		return true
	})
}

func (p *pods) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		p.conns.Store(c, nil)
		go func() {
			defer p.conns.Delete(c)
			defer c.Close() //nolint:errcheck // the peer is gone
			p.serve(c)
		}()
	}
}

// serve answers one request after the other until the peer leaves.
func (p *pods) serve(c net.Conn) {
	in := bufio.NewReaderSize(c, 16<<10)
	var body []byte
	for {
		method, path, length, err := readHead(in)
		if err != nil {
			return
		}
		if body, err = readN(in, body, length); err != nil {
			return
		}
		switch {
		case method == http.MethodGet && path == "/metrics":
			_, err = c.Write(p.page)
			p.pages.Add(1)
		case method == http.MethodGet && path == servedPath:
			count := strconv.FormatInt(p.pages.Load(), 10)
			_, err = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(count), count)
		case bytes.Contains(body, []byte(`"stream":true`)):
			err = writeEvents(c)
		default:
			_, err = io.WriteString(c, completion)
		}
		if err != nil {
			return
		}
	}
}

var completion = fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(jsonAnswer), jsonAnswer)

const (
	eventsHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
	lastEvent  = "data: [DONE]\n\n"
)

// writeEvents writes an answer of `events` chunks of a completion, and the line that ends it.
func writeEvents(w io.Writer) error {
	if _, err := io.WriteString(w, eventsHead); err != nil {
		return err
	}
	tick := time.NewTicker(eventGap)
	defer tick.Stop()
	const event = `data: {"id":"chatcmpl-7f3a2c9e51b84d06","object":"chat.completion.chunk","created":1763800000,"model":"meta-llama/Llama-3.1-8B-Instruct","choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}` + "\n\n"
	chunk := httpChunk(event)
	for range events {
		if _, err := w.Write(chunk); err != nil {
			return err
		}
		<-tick.C
	}
	_, err := w.Write(append(httpChunk(lastEvent), "0\r\n\r\n"...))
	return err
}

func httpChunk(s string) []byte { return fmt.Appendf(nil, "%x\r\n%s\r\n", len(s), s) }

// readHead reads the head of a request.
func readHead(in *bufio.Reader) (method, path string, length int, err error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return "", "", 0, err
	}
	f := strings.Fields(string(line))
	if len(f) != 3 {
		return "", "", 0, fmt.Errorf("expected a request line, got %q", line)
	}
	method, path = f[0], f[1]
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return "", "", 0, err
		}
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			return method, path, length, nil
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return "", "", 0, err
			}
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			length = chunkedBody
		}
	}
}

// chunkedBody in place of a length: the body comes in chunks.
const chunkedBody = -1

// readN reads a body into buf, which grows as needed.
func readN(in *bufio.Reader, buf []byte, length int) ([]byte, error) {
	buf = buf[:0]
	if length != chunkedBody {
		return readInto(in, buf, length)
	}
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return buf, err
		}
		n, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 32)
		if err != nil {
			return buf, err
		}
		if buf, err = readInto(in, buf, int(n)+len("\r\n")); err != nil {
			return buf, err
		}
		if n == 0 {
			return buf, nil
		}
	}
}

func readInto(in *bufio.Reader, buf []byte, n int) ([]byte, error) {
	at := len(buf)
	for cap(buf) < at+n {
		buf = append(buf[:cap(buf)], 0)
	}
	buf = buf[:at+n]
	_, err := io.ReadFull(in, buf[at:])
	return buf, err
}

// metricsPage writes a vLLM metrics page of about size bytes: what a picker reads, and around it, as far as there is
// room, the counters and histograms that a real page has.
func metricsPage(size int) []byte {
	var b bytes.Buffer
	const labels = `engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"`
	family := func(name, kind, help string) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
	}
	sample := func(name, value string) { fmt.Fprintf(&b, "%s{%s} %s\n", name, labels, value) }

	if size > 4<<10 { // what the Python client itself adds stands first
		for _, name := range []string{"python_gc_objects_collected_total", "python_gc_objects_uncollectable_total", "python_gc_collections_total"} {
			family(name, "counter", "Objects and collections of the garbage collector, by generation")
			for generation := range 3 {
				fmt.Fprintf(&b, "%s{generation=%q} %d.0\n", name, strconv.Itoa(generation), 15539>>generation)
			}
		}
	}
	family("vllm:num_requests_running", "gauge", "Number of requests in model execution batches.")
	sample("vllm:num_requests_running", "4.0")
	family("vllm:num_requests_waiting", "gauge", "Number of requests waiting to be processed.")
	sample("vllm:num_requests_waiting", "0.0")
	family("vllm:kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage.")
	sample("vllm:kv_cache_usage_perc", "0.2371")
	family("vllm:cache_config_info", "gauge", "Information of the LLMEngine CacheConfig")
	fmt.Fprintf(&b, `vllm:cache_config_info{block_size="16",cache_dtype="auto",enable_prefix_caching="True",engine="0",gpu_memory_utilization="0.92",num_cpu_blocks="None",num_gpu_blocks="27432",prefix_caching_hash_algo="sha256",sliding_window="None"} 1.0`+"\n")
	for _, name := range []string{"prefix_cache_queries", "prefix_cache_hits", "num_preemptions", "prompt_tokens", "generation_tokens"} {
		if b.Len() > size {
			break
		}
		family("vllm:"+name+"_total", "counter", "Number of "+strings.ReplaceAll(name, "_", " ")+".")
		sample("vllm:"+name+"_total", "1.8271934e+07")
		family("vllm:"+name+"_created", "gauge", "Number of "+strings.ReplaceAll(name, "_", " ")+".")
		sample("vllm:"+name+"_created", "1.795379220668646e+09")
	}
	for i := 0; b.Len() < size; i++ {
		histogram(&b, histogramNames[i%len(histogramNames)], labels, i/len(histogramNames))
	}
	return b.Bytes()
}

var histogramNames = [...]string{
	"time_to_first_token_seconds", "inter_token_latency_seconds", "request_time_per_output_token_seconds", "e2e_request_latency_seconds",
	"request_queue_time_seconds", "request_inference_time_seconds", "request_prefill_time_seconds", "request_decode_time_seconds",
	"request_prompt_tokens", "request_generation_tokens", "iteration_tokens_total", "request_max_num_generation_tokens",
	"request_params_n", "request_params_max_tokens", "request_num_preemptions", "request_prefill_kv_computed_tokens",
}

func histogram(b *bytes.Buffer, name, labels string, extra int) {
	name = "vllm:" + name
	if extra > 0 { // a name stands on a page only once
		name += strconv.Itoa(extra)
	}
	fmt.Fprintf(b, "# HELP %s Histogram of what the name says.\n# TYPE %s histogram\n", name, name)
	count := 0
	for i, le := range []string{"0.005", "0.01", "0.02", "0.04", "0.06", "0.08", "0.1", "0.25", "0.5", "0.75", "1.0", "2.5", "5.0", "7.5", "10.0", "20.0", "40.0", "80.0", "160.0", "640.0", "2560.0", "+Inf"} {
		count += i * 37 % 101
		fmt.Fprintf(b, "%s_bucket{%s,le=%q} %d.0\n", name, labels, le, count)
	}
	fmt.Fprintf(b, "%s_count{%s} %d.0\n%s_sum{%s} 1519.1214084625244\n", name, labels, count, name, labels)
	fmt.Fprintf(b, "# HELP %s_created Histogram of what the name says.\n# TYPE %s_created gauge\n%s_created{%s} 1.795379220668646e+09\n", name, name, name, labels)
}
