package queue

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestAgainstSlowQueue does whatever comes to a Queue and to its slow model, and sees the same.
func TestAgainstSlowQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		capacity := rapid.Int64Range(0, 60).Draw(t, "capacity")
		ttl := time.Duration(rapid.IntRange(0, 20).Draw(t, "ttl"))
		p := &pair{
			fast: New[int](capacity, ttl),
			slow: newSlowQueue(capacity, ttl),
			now:  time.Unix(1000, 0),
			// Few values make meetings likely.
			priority: rapid.IntRange(-1, rapid.IntRange(-1, 2).Draw(t, "highest")),
			flow:     rapid.SampledFrom([]string{"", "a", "b", "c", "d"}[:rapid.IntRange(1, 5).Draw(t, "flows")]),
			lane:     rapid.Uint64Range(0, rapid.Uint64Range(0, 3).Draw(t, "lanes")),
		}
		p.slow.now = p.now
		p.fast.Expire(p.now, nil)
		t.Repeat(map[string]func(*rapid.T){
			"push":     p.push,
			"pushMore": p.push,
			"pushMany": func(t *rapid.T) {
				for range 8 {
					p.push(t)
				}
			},
			"dispatch":     p.dispatch,
			"dispatchMore": p.dispatch,
			"remove":       p.remove,
			"expire":       p.expire,
			"setCapacity":  p.setCapacity,
			"setTTL":       p.setTTL,
			"tick":         func(t *rapid.T) { p.now = p.now.Add(time.Duration(rapid.IntRange(-30, 30).Draw(t, "tick"))) },
			"":             p.compare,
		})
	})
}

// A pair is a queue and its model.
type pair struct {
	fast     *Queue[int]
	slow     *slowQueue
	now      time.Time
	items    []*Item[int]
	priority *rapid.Generator[int]
	flow     *rapid.Generator[string]
	lane     *rapid.Generator[uint64]
}

// record returns a callback that notes whom it was called with.
func record(into *[]int) func(*Item[int]) {
	return func(it *Item[int]) { *into = append(*into, it.Value) }
}

func same(t *rapid.T, what string, fast, slow any) {
	t.Helper()
	if diff := cmp.Diff(slow, fast); diff != "" {
		t.Fatalf("%s differs (-expected +got):\n%s", what, diff)
	}
}

func (p *pair) push(t *rapid.T) {
	it := &Item[int]{
		Value:    len(p.items),
		Priority: p.priority.Draw(t, "priority"),
		Flow:     p.flow.Draw(t, "flow"),
		Lane:     p.lane.Draw(t, "lane"),
		Bytes:    rapid.Int64Range(0, 20).Draw(t, "bytes"),
		Tokens:   rapid.IntRange(0, 9).Draw(t, "tokens"),
	}
	// One that has left may come again.
	if n := len(p.items); n > 0 && rapid.IntRange(0, 9).Draw(t, "again") == 0 {
		if old := p.items[rapid.IntRange(0, n-1).Draw(t, "item")]; !old.Waiting() {
			it = old
		}
	}
	var fast, slow []int
	verdict := p.slow.push(p.now, it, record(&slow))
	same(t, "verdict", p.fast.Push(p.now, it, record(&fast)), verdict)
	same(t, "discarded", fast, slow)
	if it.Value == len(p.items) {
		p.items = append(p.items, it)
	}
}

// dispatch goes on while slots last. Some lanes are full from the start for some priority and those below.
func (p *pair) dispatch(t *rapid.T) {
	slots := rapid.IntRange(0, 6).Draw(t, "slots")
	full := map[uint64]int{}
	for lane := range uint64(4) {
		full[lane] = p.priority.Draw(t, "full at")
		if rapid.Bool().Draw(t, "open") {
			full[lane] = -2
		}
	}
	try := func(into *[]int) func(*Item[int]) Try {
		left := slots
		return func(it *Item[int]) Try {
			*into = append(*into, it.Value)
			switch {
			case it.Priority <= full[it.Lane]:
				return LaneFull
			case left == 0:
				return AllFull
			}
			left--
			return Taken
		}
	}
	var fast, slow []int
	taken := p.slow.dispatch(p.now, try(&slow))
	same(t, "taken", p.fast.Dispatch(p.now, try(&fast)), taken)
	same(t, "tried", fast, slow)
}

func (p *pair) remove(t *rapid.T) {
	if len(p.items) == 0 {
		return
	}
	it := p.items[rapid.IntRange(0, len(p.items)-1).Draw(t, "item")]
	removed := p.slow.remove(it)
	same(t, "removed", p.fast.Remove(it), removed)
}

func (p *pair) expire(t *rapid.T) {
	var fast, slow []int
	p.slow.expire(p.now, record(&slow))
	p.fast.Expire(p.now, record(&fast))
	same(t, "expired", fast, slow)
}

func (p *pair) setCapacity(t *rapid.T) {
	capacity := rapid.Int64Range(0, 60).Draw(t, "capacity")
	var fast, slow []int
	p.slow.setCapacity(p.now, capacity, record(&slow))
	p.fast.SetCapacity(p.now, capacity, record(&fast))
	same(t, "discarded", fast, slow)
}

func (p *pair) setTTL(t *rapid.T) {
	ttl := time.Duration(rapid.IntRange(0, 20).Draw(t, "ttl"))
	p.slow.setTTL(p.now, ttl)
	p.fast.SetTTL(p.now, ttl)
}

func (p *pair) compare(t *rapid.T) {
	same(t, "length", p.fast.Len(), len(p.slow.waiting))
	same(t, "bytes", p.fast.Bytes(), p.slow.bytes())
	same(t, "stats", p.fast.Stats(nil), p.slow.stats())
	fast, fastOK := p.fast.Deadline()
	slow, slowOK := p.slow.deadline()
	same(t, "deadline", []any{fast, fastOK}, []any{slow, slowOK})
	for priority := -2; priority <= 3; priority++ {
		atOrAbove := 0
		for _, it := range p.slow.waiting {
			if it.Priority >= priority {
				atOrAbove++
			}
		}
		same(t, "at or above", p.fast.AtOrAbove(priority), atOrAbove)
		for lane := range uint64(4) {
			same(t, "ahead", p.fast.Ahead(priority, lane), p.slow.ahead(priority, lane))
		}
	}
	for _, it := range p.items {
		same(t, "waiting", it.Waiting(), p.slow.find(it) != nil)
	}
	if problem := p.fast.inconsistency(); problem != "" {
		t.Fatal(problem)
	}
}
