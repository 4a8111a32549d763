package metrics

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/pilotfish-epp/pilotfish/pkg/runtime"
)

func TestOnlyLinesThatMatterAreKept(t *testing.T) {
	page := `# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0"} 20.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{reason="capacity"} 20.0
vllm:num_requests_wait 1

  vllm:kv_cache_usage_perc	0.5
#	TYPE   vllm:num_requests_running	gauge
# vllm:num_requests_running is only spoken of
vllm:num_requests_running
vllm:num_requests_running 4
{"vllm:num_requests_running", engine="1"} 5
python_info{version="vllm:num_requests_running 9"} 1
`
	want := `# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0"} 20.0
  vllm:kv_cache_usage_perc	0.5
#	TYPE   vllm:num_requests_running	gauge
vllm:num_requests_running 4
{"vllm:num_requests_running", engine="1"} 5
`
	vllm, f := known(t, "vllm")
	if kept, rest := f.keep(nil, []byte(page)); rest != len(page) || !same(string(kept), want) {
		t.Errorf("kept up to %d of %d:\n%s\nwant:\n%s", rest, len(page), kept, want)
	}

	reading, err := newWorkspace().read(strings.NewReader(page), vllm, f, &memory{}, &clock{})
	if err != nil || reading.Running != 9 || reading.Waiting != 20 {
		t.Errorf("%+v, %v", reading, err)
	}
}

func same(kept, want string) bool {
	trim := func(s string) (lines []string) {
		for line := range strings.Lines(s) {
			lines = append(lines, strings.TrimLeft(line, " \t"))
		}
		return lines
	}
	return cmp.Equal(trim(kept), trim(want))
}

// A page says the same whole or filtered, in one piece or byte by byte, for every runtime.
func TestFilteredPageSaysTheSame(t *testing.T) {
	for _, page := range fixtures(t) {
		for _, name := range runtime.Names() {
			server, f := known(t, name)
			w, remembered := newWorkspace(), memory{} // used before, with a page seen before
			for _, page := range [][]byte{page, page, otherValues(page), page} {
				want, wantErr := server.Read(whole(t, page))
				for _, body := range []io.Reader{bytes.NewReader(page), iotest.OneByteReader(bytes.NewReader(page)), bytes.NewReader(bytes.TrimSuffix(page, []byte("\n")))} {
					got, err := w.read(body, server, f, &remembered, &clock{})
					if (err != nil) != (wantErr != nil) {
						t.Fatalf("%s: got %v, want %v", name, err, wantErr)
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("%s: -whole +filtered\n%s", name, diff)
					}
				}
			}
		}
	}
}

func TestLineLongerThanTheBuffer(t *testing.T) {
	page := `vllm:cache_config_info{block_size="16",note="` + strings.Repeat("x", 5*startBuffer) + `",num_gpu_blocks="10"} 1` +
		"\nvllm:num_requests_running 2\n"
	vllm, f := known(t, "vllm")
	w := newWorkspace()
	got, err := w.read(strings.NewReader(page), vllm, f, &memory{}, &clock{})
	if err != nil || got.KVTokens != 160 || got.Running != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	w.tidy()
	if len(w.buffer) != startBuffer || cap(w.kept) > keepBuffer {
		t.Errorf("%d and %d bytes are kept for the next page", len(w.buffer), cap(w.kept))
	}
}

// FuzzPage holds that no page makes the reader panic, and that a page which the parser takes whole says the same when
// only the lines that matter are parsed, also after a page of the same series.
func FuzzPage(f *testing.F) {
	for _, page := range fixtures(f) {
		if len(page) < 8<<10 {
			f.Add(page)
		}
	}
	for _, page := range []string{
		"", "\n", "#", "# TYPE", "# TYPE \n", "{", "<!DOCTYPE html>\n<html>", "vllm:num_requests_running",
		"vllm:num_requests_running 1 1700000000000\nvllm:num_requests_running{engine=\"\\\"\\\\\\n\"} 2\n",
		"# TYPE vllm:num_requests_running summary\nvllm:num_requests_running{quantile=\"0.5\"} 2\nvllm:num_requests_running_sum 2\n",
		"# TYPE vllm:num_requests_running histogram\nvllm:num_requests_running_bucket{le=\"+Inf\"} 2\n",
		"{\"vllm:num_requests_running\"} NaN\n# TYPE \"vllm:num_requests_running\" counter\n",
		"vllm:num_requests_running+2\nvllm:num_requests_waiting-.5\nvllm:kv_cache_usage_perc.5\n",
		"vllm:num_requests_waiting\t\t-Inf\r\n\xff\xfe\x00 3\n",
	} {
		f.Add([]byte(page))
	}
	f.Fuzz(func(t *testing.T, page []byte) {
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, syntax := parser.TextToMetricFamilies(bytes.NewReader(page))
		for _, name := range runtime.Names() {
			server, filter := known(t, name)
			w, remembered := newWorkspace(), memory{}
			w.read(bytes.NewReader(otherValues(page)), server, filter, &remembered, &clock{}) //nolint:errcheck // the page before
			got, err := w.read(bytes.NewReader(page), server, filter, &remembered, &clock{})
			if syntax != nil {
				continue
			}
			want, wantErr := server.Read(families)
			if (err != nil) != (wantErr != nil) {
				t.Fatalf("%s: filtered: %v; whole: %v", name, err, wantErr)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%s: -whole +filtered\n%s", name, diff)
			}
		}
	})
}

func BenchmarkPage(b *testing.B) {
	page, err := os.ReadFile("../runtime/testdata/vllm_0.32_saturated.txt")
	if err != nil {
		b.Fatal(err)
	}
	vllm, f := known(b, "vllm")
	b.Run("filter", func(b *testing.B) {
		b.SetBytes(int64(len(page)))
		var kept []byte
		for b.Loop() {
			kept, _ = f.keep(kept[:0], page)
		}
		b.ReportMetric(float64(len(kept)), "kept-B")
	})
	b.Run("read", func(b *testing.B) {
		b.SetBytes(int64(len(page)))
		b.ReportAllocs()
		w, body, remembered := newWorkspace(), bytes.NewReader(nil), memory{}
		for b.Loop() {
			body.Reset(page)
			if _, err := w.read(body, vllm, f, &remembered, &clock{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("read 200 KB", func(b *testing.B) {
		others := bytes.ReplaceAll(bytes.ReplaceAll(page, []byte("vllm:"), []byte("vllm:x_")), []byte("process_"), []byte("process_x_"))
		large := append(bytes.Repeat(others, 3), page...)
		b.SetBytes(int64(len(large)))
		w, body, remembered := newWorkspace(), bytes.NewReader(nil), memory{}
		for b.Loop() {
			body.Reset(large)
			if _, err := w.read(body, vllm, f, &remembered, &clock{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parse whole", func(b *testing.B) {
		b.SetBytes(int64(len(page)))
		b.ReportAllocs()
		parser := expfmt.NewTextParser(model.UTF8Validation)
		for b.Loop() {
			if _, err := parser.TextToMetricFamilies(bytes.NewReader(page)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func known(t testing.TB, name string) (*runtime.Server, *filter) {
	t.Helper()
	server, err := runtime.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	return server, newFilter(server)
}

func whole(t testing.TB, page []byte) runtime.Page {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	return families
}

func fixtures(t testing.TB) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob("../runtime/testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	pages := map[string][]byte{}
	for _, path := range paths {
		if pages[path], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	return pages
}
