package metrics

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/pilotfish-epp/pilotfish/pkg/runtime"
)

// maxPage is the most bytes of a page that are read. A real one is 50 to 200 KB.
const maxPage = 4 << 20

const (
	startBuffer = 64 << 10
	keepBuffer  = 256 << 10 // larger buffers aren't kept for the next page
)

// A workspace reads pages one after the other and reuses its memory. It is for one page at a time.
type workspace struct {
	buffer []byte
	kept   []byte // the lines that matter
	shape  shape
	head   []byte // the beginning of the page, to name what came instead
	parser expfmt.TextParser
}

func newWorkspace() *workspace {
	return &workspace{buffer: make([]byte, startBuffer), parser: expfmt.NewTextParser(model.UTF8Validation)}
}

// read reads one page of server to its end and gives its numbers. m belongs to the page's pod. c takes the CPU time
// spent on the bytes.
func (w *workspace) read(body io.Reader, server *runtime.Server, f *filter, m *memory, c *clock) (runtime.Reading, error) {
	if err := w.filter(body, f, c); err != nil {
		return runtime.Reading{}, err
	}
	var reading runtime.Reading
	var err error
	c.run(func() { reading, err = w.reading(server, m) })
	return reading, err
}

// filter fills w.kept with the lines that matter.
func (w *workspace) filter(body io.Reader, f *filter, c *clock) error {
	w.kept = w.kept[:0]
	w.head = w.head[:0]
	size, pending := 0, 0
	for {
		if pending == len(w.buffer) { // a line that is longer than the buffer
			w.buffer = append(w.buffer, make([]byte, len(w.buffer))...)
		}
		n, err := body.Read(w.buffer[pending:])
		if size += n; size > maxPage {
			return failure(TooLarge, fmt.Errorf("expected a page of at most %d bytes, got more", maxPage))
		}
		if len(w.head) == 0 {
			w.head = append(w.head, w.buffer[:min(n, 48)]...)
		}
		c.run(func() {
			var rest int
			w.kept, rest = f.keep(w.kept, w.buffer[:pending+n])
			pending = copy(w.buffer, w.buffer[rest:pending+n])
		})
		if errors.Is(err, io.EOF) {
			w.lastLine(f, pending)
			return nil
		}
		if err != nil {
			return failure(classify(err), err)
		}
	}
}

// lastLine takes a last line without line break.
func (w *workspace) lastLine(f *filter, pending int) {
	if pending > 0 {
		w.kept, _ = f.keep(w.kept, append(w.buffer[:pending], '\n'))
	}
}

func (w *workspace) reading(server *runtime.Server, m *memory) (runtime.Reading, error) {
	page, err := w.families(m)
	if err != nil {
		return runtime.Reading{}, err
	}
	reading, err := server.Read(page)
	if err != nil {
		return runtime.Reading{}, failure(Foreign, fmt.Errorf("%w in %s", err, w.beginning()))
	}
	return reading, nil
}

func (w *workspace) families(m *memory) (runtime.Page, error) {
	plain := w.shape.take(w.kept)
	if plain && m.recall(&w.shape) {
		return m.page, nil
	}
	page, err := w.parse(w.kept)
	if err == nil && plain {
		m.remember(page, &w.shape)
	}
	return page, err
}

func (w *workspace) parse(text []byte) (runtime.Page, error) {
	page, err := w.parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		var syntax expfmt.ParseError
		if errors.As(err, &syntax) { // its line number counts kept lines only
			err = errors.New(syntax.Msg)
		}
		return nil, failure(Malformed, fmt.Errorf("expected Prometheus text, got a line that is none: %w", err))
	}
	return page, nil
}

func (w *workspace) beginning() string {
	if len(w.head) == 0 {
		return "an empty page"
	}
	return fmt.Sprintf("a page that begins with %q", w.head)
}

// tidy lets go of memory that only an unusual page needed.
func (w *workspace) tidy() {
	if len(w.buffer) > keepBuffer {
		w.buffer = make([]byte, startBuffer)
	}
	if cap(w.kept) > keepBuffer {
		w.kept, w.shape = nil, shape{}
	}
}
