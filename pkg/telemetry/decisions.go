package telemetry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"
)

// Decision is the record of one request: where it was sent and why, or why nowhere. It never holds prompt text.
type Decision struct {
	Time          time.Time
	RequestID     string
	Model, Target string // as asked for, and as sent to the engine
	Bytes         int    // of the prompt's text
	Blocks        int    // of the prompt, hashed
	Matched       int    // of them, thought to be cached at the pod
	Pod, Address  string
	Reason        string  // why this pod, or why none
	Cost          float64 // estimated milliseconds
	Candidates    int     // pods that were compared
	Priority      int
	Wait          time.Duration // in the queue
	Latency       time.Duration // from the complete request to the pick, without the wait
	Status        int           // HTTP status of a refusal; 0: a pod was picked
}

// Form is how decisions are written.
type Form uint32

// The forms of the decision log.
const (
	Off Form = iota
	Text
	JSON
)

// maxBacklog bounds the bytes of lines that wait for a slow reader.
const maxBacklog = 1 << 20

// Decisions writes one line for each decision to one writer. A reader that is slow or gone never holds up a request:
// lines beyond a backlog of 1 MiB are dropped, counted, and the gap is told in the log itself. All methods are safe for
// concurrent use.
type Decisions struct {
	form    atomic.Uint32
	color   bool
	dropped func(int)

	mu      sync.Mutex
	lines   columns
	backlog bytes.Buffer
	lost    int
	closed  bool
	wake    chan struct{}
	done    chan struct{}
}

// NewDecisions writes to w, in colour if color is set, which is meant for a terminal. dropped, which may be nil, hears
// of lines that were dropped. Nothing is written before SetForm. Close ends it.
func NewDecisions(w io.Writer, color bool, dropped func(int)) *Decisions {
	d := &Decisions{color: color, dropped: dropped, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go d.drain(w)
	return d
}

// SetForm switches the log on, off, or to another form.
func (d *Decisions) SetForm(f Form) { d.form.Store(uint32(f)) }

// On reports whether decisions are written at present: the caller need not fill one otherwise. A nil Decisions is off.
func (d *Decisions) On() bool { return d != nil && Form(d.form.Load()) != Off }

// Write appends a decision's line. It keeps nothing of r.
func (d *Decisions) Write(r *Decision) {
	form := Form(d.form.Load())
	if form == Off {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	if d.backlog.Len() >= maxBacklog {
		d.lost++
		if d.dropped != nil {
			d.dropped(1)
		}
		return
	}
	if d.lost > 0 {
		d.tellGap(form)
	}
	if form == JSON {
		d.backlog.Write(r.json())
	} else {
		d.lines.write(&d.backlog, r, d.color)
	}
	d.backlog.WriteByte('\n')
	select {
	case d.wake <- struct{}{}:
	default: // it is awake
	}
}

func (d *Decisions) tellGap(form Form) {
	if form == JSON {
		fmt.Fprintf(&d.backlog, "{\"dropped\":%d}\n", d.lost)
	} else {
		fmt.Fprintf(&d.backlog, "… %d lines dropped, since this log was read too slowly\n", d.lost)
	}
	d.lost = 0
}

// drain hands the backlog to the writer. A writer that fails is written to again with the next lines.
func (d *Decisions) drain(w io.Writer) {
	defer close(d.done)
	var out bytes.Buffer
	for range d.wake {
		for {
			d.mu.Lock()
			out, d.backlog = d.backlog, out
			d.backlog.Reset()
			d.mu.Unlock()
			if out.Len() == 0 {
				break
			}
			// There is nobody to tell: this is the log.
			_, _ = w.Write(out.Bytes())
			out.Reset()
		}
	}
}

// Close writes out what waits, for at most the time given, and ends the log.
func (d *Decisions) Close(within time.Duration) {
	d.mu.Lock()
	already := d.closed
	d.closed = true
	d.mu.Unlock()
	if !already {
		close(d.wake)
	}
	select {
	case <-d.done:
	case <-time.After(within):
	}
}

func (r *Decision) json() []byte {
	line := struct {
		Time       string  `json:"time"`
		RequestID  string  `json:"requestId,omitempty"`
		Model      string  `json:"model,omitempty"`
		Target     string  `json:"target,omitempty"`
		Bytes      int     `json:"promptBytes"`
		Blocks     int     `json:"blocks"`
		Matched    int     `json:"matchedBlocks"`
		Pod        string  `json:"pod,omitempty"`
		Address    string  `json:"address,omitempty"`
		Reason     string  `json:"reason"`
		Cost       float64 `json:"costMs"`
		Candidates int     `json:"candidates"`
		Priority   int     `json:"priority,omitempty"`
		Wait       float64 `json:"waitMs"`
		Latency    float64 `json:"latencyMs"`
		Status     int     `json:"status,omitempty"`
	}{
		r.Time.UTC().Format(time.RFC3339Nano), r.RequestID, r.Model, r.Target, r.Bytes, r.Blocks, r.Matched, r.Pod, r.Address,
		r.Reason, r.Cost, r.Candidates, r.Priority, milliseconds(r.Wait), milliseconds(r.Latency), r.Status,
	}
	out, err := json.Marshal(&line)
	if err != nil { // a cost that is no number
		out, _ = json.Marshal(map[string]string{"error": err.Error()})
	}
	return out
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// columns remembers how wide each column has been, so that lines stand below each other.
type columns struct{ model, prompt, blocks, pod, reason int }

// maxColumn bounds the width that one long name can give to a column.
const maxColumn = 36

func (c *columns) write(b *bytes.Buffer, r *Decision, color bool) {
	paint := func(code, text string) string {
		if !color {
			return text
		}
		return "\x1b[" + code + "m" + text + "\x1b[0m"
	}
	model := printable(r.Model)
	if r.Target != r.Model {
		model += " as " + printable(r.Target)
	}
	b.WriteString(paint("2", r.Time.Format("15:04:05.000")))
	b.WriteString("  ")
	b.WriteString(pad(&c.model, model))
	b.WriteString("  ")
	b.WriteString(pad(&c.prompt, size(r.Bytes)))
	b.WriteString("  ")
	if r.Status != 0 {
		b.WriteString(paint("31", fmt.Sprintf("refused %d: %s", r.Status, printable(r.Reason))))
		return
	}
	matched := pad(&c.blocks, fmt.Sprintf("%d/%d blocks", r.Matched, r.Blocks))
	if r.Matched > 0 {
		matched = paint("32", matched)
	}
	b.WriteString(matched)
	b.WriteString("  → ")
	pod := printable(r.Pod)
	if r.Address != r.Pod {
		pod += " " + r.Address
	}
	b.WriteString(paint("1", pad(&c.pod, pod)))
	b.WriteString("  ")
	b.WriteString(pad(&c.reason, r.Reason))
	fmt.Fprintf(b, "  cost %s of %d", milliText(r.Cost), r.Candidates)
	if r.Priority != 0 {
		fmt.Fprintf(b, "  priority %d", r.Priority)
	}
	if r.Wait > 0 {
		fmt.Fprintf(b, "  waited %s", r.Wait.Round(time.Millisecond))
	}
	fmt.Fprintf(b, "  %s", r.Latency.Round(time.Microsecond))
}

// milliText prints milliseconds with as many decimals as tell small ones apart.
func milliText(ms float64) string {
	decimals := 1
	if ms < 1 {
		decimals = 3
	}
	return strconv.FormatFloat(ms, 'f', decimals, 64) + " ms"
}

// pad fills text up to the column's width, which grows with what it has seen.
func pad(width *int, text string) string {
	n := utf8.RuneCountInString(text)
	*width = max(*width, min(n, maxColumn))
	if n >= *width {
		return text
	}
	return text + strings.Repeat(" ", *width-n)
}

// printable makes a name that a client chose safe for a terminal: no control characters, and not endless.
func printable(name string) string {
	if name == "" {
		return "-"
	}
	const longest = 64
	clean := strings.Map(func(r rune) rune {
		if unicode.IsGraphic(r) && r != utf8.RuneError {
			return r
		}
		return '·'
	}, name[:min(len(name), 4*longest)])
	if utf8.RuneCountInString(clean) > longest {
		clean = string([]rune(clean)[:longest-1]) + "…"
	}
	return clean
}

// size prints a number of bytes with at most one decimal.
func size(n int) string {
	switch {
	case n < 1<<10:
		return strconv.Itoa(n) + " B"
	case n < 1<<20:
		return strconv.FormatFloat(float64(n)/(1<<10), 'f', 1, 64) + " KiB"
	}
	return strconv.FormatFloat(float64(n)/(1<<20), 'f', 1, 64) + " MiB"
}
