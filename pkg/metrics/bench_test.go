package metrics

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/pool"
	"github.com/pilotfish-epp/pilotfish/pkg/settings"
)

// pageServer makes the test binary a server of pages, so that its CPU isn't counted as the scraper's.
const pageServer = "PILOTFISH_BENCH_PAGE_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(pageServer) != "" {
		servePages()
		return
	}
	os.Exit(m.Run())
}

// servePages serves the page whose file the environment names until its standard input ends.
func servePages() {
	text, err := os.ReadFile(os.Getenv(pageServer))
	if err != nil {
		panic(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	go func() {
		panic(http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
			w.Header().Set("Content-Length", strconv.Itoa(len(text)))
			w.Write(text) //nolint:errcheck // the scraper's failure would show
		})))
	}()
	bufio.NewReader(os.Stdin).ReadByte() //nolint:errcheck // ends with the parent
}

// BenchmarkScrape reads the pages of 256 pods for three seconds, from a server in another process, and tells the CPU of
// this process: all of net/http, the kernel and the garbage collector included. "clocked" is what the scraper's own
// clocks saw of it; the rest of a page is what unmetered stands for.
// A page read now and then costs more than one of many: each wakes a process that slept.
func BenchmarkScrape(b *testing.B) {
	tests := []struct{ name, file, interval string }{
		{"54 KB 20 times a second", "../runtime/testdata/vllm_0.32_saturated.txt", "50ms"},
		{"2 KB 20 times a second", "../runtime/testdata/vllm_0.6.4_v0.txt", "50ms"},
		{"2 KB once a second", "../runtime/testdata/vllm_0.6.4_v0.txt", "1s"},
	}
	for _, test := range tests {
		b.Run(test.name, func(b *testing.B) {
			address := startPageServer(b, test.file)
			for b.Loop() {
				cpu, clocked, pages, took := scrapeFor(b, address, test.interval, 3*time.Second)
				b.ReportMetric(cpu.Seconds()/took.Seconds(), "cores")
				b.ReportMetric(float64(pages)/took.Seconds(), "pages/s") // a busy machine doesn't get to all of them
				b.ReportMetric(float64(cpu.Nanoseconds())/1e3/float64(pages), "CPU-µs/page")
				b.ReportMetric(float64(clocked.Nanoseconds())/1e3/256, "clocked-µs/page")
			}
		})
	}
}

func scrapeFor(b *testing.B, address, interval string, span time.Duration) (cpu, clocked time.Duration, pages int64, took time.Duration) {
	b.Helper()
	store, err := settings.New(map[string]string{"REFRESH_METRICS_INTERVAL": interval, "SCRAPE_BUDGET": "0", "SCRAPE_TIMEOUT": "30s"}, nil)
	if err != nil {
		b.Fatal(err)
	}
	count := &counter{}
	p := pool.New()
	s := NewScraper(Options{Pool: p, Settings: store, Observer: count, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}})
	endpoints := make([]pool.Endpoint, 256)
	for i := range endpoints {
		endpoints[i].Address = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 8000)
	}
	p.Set(time.Now(), endpoints)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan bool)
	go func() {
		s.Run(ctx)
		close(ended)
	}()
	<-time.After(2 * time.Second) // connections are open and buffers are warm
	before, began, had := processTime(b), time.Now(), count.pages.Load()
	<-time.After(span)
	cpu, took, pages = processTime(b)-before, time.Since(began), count.pages.Load()-had
	clocked = time.Duration(s.total.Load()) - 256*unmetered
	cancel()
	<-ended
	if n := count.failed.Load(); n > 0 {
		b.Fatalf("%d pages could not be read", n)
	}
	return cpu, clocked, pages, took
}

func startPageServer(b *testing.B, file string) string {
	b.Helper()
	server := exec.Command(os.Args[0])
	server.Env = append(os.Environ(), pageServer+"="+file, "GOMAXPROCS=1")
	stdin, err := server.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := server.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := server.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stdin.Close() //nolint:errcheck // the server ends
		server.Wait() //nolint:errcheck // whichever way
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return line[:len(line)-1]
}

func processTime(b *testing.B) time.Duration {
	b.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

type counter struct{ pages, failed atomic.Int64 }

func (c *counter) Scraped(time.Duration)       { c.pages.Add(1) }
func (c *counter) ScrapeFailed(string, string) { c.failed.Add(1) }
