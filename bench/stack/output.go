package stack

import (
	"bytes"
	"io"
	"strings"
	"sync"
)

// tailBytes is how much of a process's output is kept in memory.
const tailBytes = 64 << 10

// output takes what a process writes: all of it to a file, the end of it to memory, and each whole line to a
// function. Safe for concurrent use.
type output struct {
	file   io.WriteCloser
	onLine func(string)

	mu      sync.Mutex
	tail    []byte
	partial []byte // of a line that has not ended yet; only when there is an onLine
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tail = append(o.tail, p...)
	if n := len(o.tail); n > 2*tailBytes { // cut seldom, so that a write costs what it writes
		o.tail = append(o.tail[:0], o.tail[n-tailBytes:]...)
	}
	if o.onLine != nil {
		o.lines(p)
	}
	return o.file.Write(p)
}

func (o *output) lines(p []byte) {
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			o.partial = append(o.partial, p...)
			return
		}
		o.onLine(string(append(o.partial, p[:i]...)))
		o.partial, p = o.partial[:0], p[i+1:]
	}
}

func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.partial) > 0 {
		o.onLine(string(o.partial))
		o.partial = nil
	}
	_ = o.file.Close() // a log that could not be flushed is no fault of what is tested
}

// last returns the last n lines, joined by newlines.
func (o *output) last(n int) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	lines := strings.Split(strings.TrimRight(string(o.tail), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
