package cost

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

const (
	idlePods       = 4
	idleBudgetMB   = 40
	memoryRequests = 100_000
	indexPods      = 8
	indexCapacity  = 50_000 // blocks of one pod: PREFIX_CACHE_LRU_CAPACITY's default
	indexBudget    = 64     // bytes a block
)

// memory measures what the picker holds: idle, after many requests, and for each block that it remembers.
func (b *bench) memory(ctx context.Context, out *Section) error {
	out.Title = "memory of the picker"
	out.Conditions = []string{
		"MB are of 2^20 bytes; RssAnon is the resident memory that is not files: heap, stacks, what the runtime keeps",
		fmt.Sprintf("index: a pool of %d pods, driven until each holds %d blocks; heap in use after three collections, less what it was before", indexPods, indexCapacity),
	}
	pods, err := newPods(indexPods, podPage)
	if err != nil {
		return err
	}
	defer pods.Close()
	return onStack(func(s *stack.Stack) error {
		if err := b.resident(ctx, s, pods, out); err != nil {
			return err
		}
		return b.indexed(ctx, s, pods, out)
	})
}

// resident measures RssAnon before and after requests.
func (b *bench) resident(ctx context.Context, s *stack.Stack, pods *pods, out *Section) error {
	p, err := b.startPicker(ctx, s, "idle", pods.Addrs()[:idlePods])
	if err != nil {
		return err
	}
	defer p.Stop(5 * time.Second) //nolint:errcheck // the stack ends it if this didn't
	if err := pause(ctx, 2*time.Second); err != nil {
		return err
	}
	idle, err := b.rss(ctx, p)
	if err != nil {
		return err
	}
	f := Figure{Case: fmt.Sprintf("RssAnon, idle with %d pods", idlePods), Unit: "MB", Value: idle}
	f.limit(idleBudgetMB)
	out.Figures = append(out.Figures, f)

	d, err := newDriver(p.GRPC.String(), newChats(3, 8<<10, 256, false))
	if err != nil {
		return err
	}
	defer d.Close()
	n := b.some(memoryRequests)
	if _, err := d.run(ctx, n); err != nil {
		return fmt.Errorf("%w\n%s", err, p.Tail(5))
	}
	busy, err := b.rss(ctx, p)
	if err != nil {
		return err
	}
	out.Figures = append(out.Figures, Figure{
		Case: fmt.Sprintf("RssAnon, after %s requests of 8 KB, %d at a time", group(int64(n)), lanes), Unit: "MB", Value: busy,
	})
	return nil
}

// rss samples the resident memory a few times.
func (b *bench) rss(ctx context.Context, p *stack.Picker) (Spread, error) {
	var samples []float64
	for range b.Rounds {
		n, err := p.RssAnon()
		if err != nil {
			return Spread{}, err
		}
		samples = append(samples, float64(n)/(1<<20))
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return Spread{}, err
		}
	}
	s := spread(samples)
	b.progress("memory %s: RssAnon %s MB", p.Name(), s)
	return s, nil
}

// indexed measures the live heap that remembered blocks take.
func (b *bench) indexed(ctx context.Context, s *stack.Stack, pods *pods, out *Section) error {
	p, err := b.startPicker(ctx, s, "index", pods.Addrs(), "DEBUG_ENDPOINTS=true", fmt.Sprintf("PREFIX_CACHE_LRU_CAPACITY=%d", indexCapacity))
	if err != nil {
		return err
	}
	d, err := newDriver(p.GRPC.String(), strangers())
	if err != nil {
		return err
	}
	defer d.Close()
	// What connections and streams keep should be there before, too.
	if _, err := d.run(ctx, 10*lanes); err != nil {
		return fmt.Errorf("%w\n%s", err, p.Tail(5))
	}
	heapBefore, err := liveHeap(ctx, p)
	if err != nil {
		return err
	}
	blocksBefore, err := indexBlocks(ctx, p)
	if err != nil {
		return err
	}
	const full = indexPods * indexCapacity
	blocks := blocksBefore
	for range 40 { // each adds about a tenth of it
		if blocks > full*999/1000 {
			break
		}
		if _, err := d.run(ctx, full/10/128); err != nil {
			return fmt.Errorf("%w\n%s", err, p.Tail(5))
		}
		if blocks, err = indexBlocks(ctx, p); err != nil {
			return err
		}
	}
	heap, err := liveHeap(ctx, p)
	if err != nil {
		return err
	}
	b.progress("memory index: %.0f blocks, live heap %.0f bytes more", blocks, heap-heapBefore)
	total := Figure{Case: fmt.Sprintf("live heap of %s remembered blocks", group(int64(blocks))), Unit: "MB", Value: spread([]float64{(heap - heapBefore) / (1 << 20)})}
	each := Figure{Case: "live heap of one (pod, block)", Unit: "bytes", Value: spread([]float64{(heap - heapBefore) / (blocks - blocksBefore)})}
	each.limit(indexBudget)
	out.Figures = append(out.Figures, total, each)
	return nil
}

// strangers are prompts that have no block in common and fill the window of 128 blocks.
func strangers() *chats {
	const head = `{"model":"meta-llama/Llama-3.1-8B-Instruct","messages":[{"role":"user","content":"`
	c := &chats{bodies: make([]chat, 4*lanes)}
	for i := range c.bodies {
		text := strings.Repeat("word ", 129*64/5)
		c.bodies[i] = chat{
			body:   []byte(head + strings.Repeat("0", serialDigits) + " " + text + `"}],"max_tokens":16}`),
			serial: len(head),
		}
	}
	return c
}

// liveHeap collects the picker's garbage and gives the bytes that are left.
func liveHeap(ctx context.Context, p *stack.Picker) (float64, error) {
	var page []byte
	for range 3 { // pools of free buffers are emptied by the second
		var err error
		if page, err = p.AdminPage(ctx, "/debug/pprof/heap?gc=1&debug=1"); err != nil {
			return 0, err
		}
	}
	for line := range bytes.Lines(page) {
		if v, ok := bytes.CutPrefix(line, []byte("# HeapAlloc = ")); ok {
			return strconv.ParseFloat(string(bytes.TrimSpace(v)), 64)
		}
	}
	return 0, fmt.Errorf("%s: no HeapAlloc on its heap profile", p.Name())
}

// indexBlocks reads how many blocks the picker remembers.
func indexBlocks(ctx context.Context, p *stack.Picker) (float64, error) {
	const family = "inference_extension_prefix_indexer_size "
	page, err := p.AdminPage(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(page) {
		if v, ok := bytes.CutPrefix(line, []byte(family)); ok {
			return strconv.ParseFloat(string(bytes.TrimSpace(v)), 64)
		}
	}
	return 0, fmt.Errorf("%s: no %son its metrics page", p.Name(), family)
}
