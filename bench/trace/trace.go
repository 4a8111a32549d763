// Package trace reads recorded LLM workloads and renders their requests to text.
//
// Three formats are read, plain or gzipped: Mooncake's JSON lines, sessions of coding agents (JSON lines, one session
// each) and Azure's CSV. A broken line is an error that names file and line; times out of order are sorted, stably, and
// mentioned once. Text is made of pseudo-random words, four bytes for each token: a block id always gives the same
// words, so prompts that share a prefix in the trace share it as text. Nothing here is safe for concurrent writing.
package trace

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"time"
)

// Trace is a list of requests in order of time.
type Trace struct {
	Name        string
	BlockTokens int // tokens of a prefix block; 0 when the trace tells no prefixes
	Requests    []Request
	Warning     string // what was put right while reading; empty as a rule
}

// Request is one call of the model.
type Request struct {
	At     time.Duration // since the first request of the file
	Input  int           // prompt tokens, >= 1
	Output int           // generated tokens, >= 0
	// Blocks are the ids of the prompt's blocks. Ids are chained: an equal id means an equal prompt up to the block's
	// end. The last block may be partial; its id is then not used, since its text is nobody else's.
	Blocks []uint64
}

// AppendText appends the prompt of the i-th request: Input tokens of TokenBytes bytes.
func (t *Trace) AppendText(dst []byte, i int) []byte {
	r := &t.Requests[i]
	return AppendText(dst, r.Blocks, t.BlockTokens, r.Input, uint64(i))
}

// AppendChunks appends the identities of the full chunks of size tokens of the i-th request's prompt, as an engine
// with that block size would find them: equal for equal prefixes. BlockTokens must be a multiple of size.
func (t *Trace) AppendChunks(dst []uint64, i, size int) []uint64 {
	r := &t.Requests[i]
	return AppendChunks(dst, r.Blocks, t.BlockTokens, r.Input, size, uint64(i))
}

// own marks identities that no block id has: the part of a prompt that is shared with nobody.
const own = 1 << 63

// AppendText renders a prompt: the full blocks' words, then words of its own up to the number of tokens. unique tells
// this request from all others of the run.
func AppendText(dst []byte, blocks []uint64, blockTokens, tokens int, unique uint64) []byte {
	full := fullBlocks(blocks, blockTokens, tokens)
	dst = slices.Grow(dst, tokens*TokenBytes)
	for _, id := range blocks[:full] {
		dst = AppendWords(dst, scramble(id), blockTokens)
	}
	return AppendWords(dst, scramble(own|unique), tokens-full*blockTokens)
}

// AppendChunks splits the prompt of AppendText into chunks of size tokens and names each; an incomplete last one has
// no name.
func AppendChunks(dst []uint64, blocks []uint64, blockTokens, tokens, size int, unique uint64) []uint64 {
	if blockTokens%size != 0 {
		panic(fmt.Sprintf("trace: blocks of %d tokens don't split into chunks of %d", blockTokens, size))
	}
	full := fullBlocks(blocks, blockTokens, tokens)
	children := uint64(blockTokens / size)
	for _, id := range blocks[:full] {
		for j := range children {
			dst = append(dst, id*children+j)
		}
	}
	for j := full * blockTokens / size; j < tokens/size; j++ {
		dst = append(dst, own|unique<<24|uint64(j))
	}
	return dst
}

func fullBlocks(blocks []uint64, blockTokens, tokens int) int {
	if blockTokens == 0 {
		return 0
	}
	return min(len(blocks), tokens/blockTokens)
}

// scramble makes neighbouring numbers into seeds whose words have nothing in common.
func scramble(id uint64) uint64 { return next(&id) }

// SpreadTies moves requests of the same time apart, at random within the step of the grid that the trace was rounded
// to, and keeps their order: a burst every few seconds is an artefact of recording. The step is the smallest distance
// between two times. Traces without ties don't change.
func (t *Trace) SpreadTies(seed uint64) {
	step := t.gridStep()
	rng := rand.New(rand.NewPCG(seed, 0))
	for from := 0; from < len(t.Requests); {
		to := from + 1
		for to < len(t.Requests) && t.Requests[to].At == t.Requests[from].At {
			to++
		}
		if to-from > 1 && step > 0 {
			spread(t.Requests[from:to], step, rng)
		}
		from = to
	}
}

func (t *Trace) gridStep() time.Duration {
	step := time.Duration(0)
	for i := 1; i < len(t.Requests); i++ {
		if d := t.Requests[i].At - t.Requests[i-1].At; d > 0 && (step == 0 || d < step) {
			step = d
		}
	}
	return step
}

func spread(tied []Request, step time.Duration, rng *rand.Rand) {
	offsets := make([]time.Duration, len(tied))
	for i := range offsets {
		offsets[i] = time.Duration(rng.Int64N(int64(step)))
	}
	slices.Sort(offsets)
	for i := range tied {
		tied[i].At += offsets[i]
	}
}

// sortByTime puts requests in order, says so once, and lets time start with the first one.
func (t *Trace) sortByTime(lines []int) {
	for i := 1; i < len(t.Requests); i++ {
		if before, now := t.Requests[i-1].At, t.Requests[i].At; now < before {
			t.Warning = fmt.Sprintf("%s:%d: time goes back from %v to %v; sorted the requests by time", t.Name, lines[i], before, now)
			slices.SortStableFunc(t.Requests, func(a, b Request) int { return cmp.Compare(a.At, b.At) })
			break
		}
	}
	if len(t.Requests) == 0 {
		return
	}
	start := t.Requests[0].At
	for i := range t.Requests {
		t.Requests[i].At -= start
	}
}

// open opens a file and unpacks it when it is gzipped, whatever it is called.
func open(path string) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(f, 1<<20)
	if magic, err := r.Peek(2); err != nil || magic[0] != 0x1f || magic[1] != 0x8b {
		return file{r, f}, nil // also a file of less than two bytes: its reader will say what is missing
	}
	z, err := gzip.NewReader(r)
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return file{z, f}, nil
}

type file struct {
	io.Reader
	io.Closer
}

// maxLine is longer than the longest session of the known traces.
const maxLine = 256 << 20

// eachLine calls f with every line that isn't blank and its number; an error gets file and line in front.
func eachLine(r io.Reader, name string, f func(line []byte, number int) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 1<<20), maxLine)
	number := 0
	for s.Scan() {
		number++
		if len(s.Bytes()) == 0 {
			continue
		}
		if err := f(s.Bytes(), number); err != nil {
			return fmt.Errorf("%s:%d: %w", name, number, err)
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("%s:%d: %w", name, number+1, err)
	}
	return nil
}
