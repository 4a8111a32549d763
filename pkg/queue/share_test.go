package queue

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Unix(1000, 0)

// next takes the next item, nil if there is none.
func next(q *Queue[int], now time.Time) (it *Item[int]) {
	q.Dispatch(now, func(offered *Item[int]) Try {
		if it != nil {
			return AllFull
		}
		it = offered
		return Taken
	})
	return it
}

// TestShares: flows that wait all the time are never further apart than 1.5 times the largest request, in tokens, however big
// their requests, whatever the lanes, and whoever else comes and goes.
func TestShares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := New[int](1<<40, time.Hour)
		flows := rapid.IntRange(2, 5).Draw(t, "flows")
		served := make([]int, flows)
		limits := make([]int, flows)
		largest := 0
		push := func(flow int) {
			it := &Item[int]{Value: flow, Flow: fmt.Sprint(flow), Lane: rapid.Uint64Range(0, 2).Draw(t, "lane")}
			it.Tokens = rapid.IntRange(1, limits[flow]).Draw(t, "tokens")
			largest = max(largest, it.Tokens)
			q.Push(start, it, nil)
		}
		for flow := range flows {
			limits[flow] = rapid.SampledFrom([]int{1, 10, 1000, 1_000_000}).Draw(t, "limit")
			push(flow)
			push(flow)
		}
		for range rapid.IntRange(1, 200).Draw(t, "requests") {
			if rapid.IntRange(0, 4).Draw(t, "guest") == 0 {
				q.Push(start, &Item[int]{Value: -1, Flow: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "name"), Tokens: 100}, nil)
			}
			it := next(q, start)
			if it.Value < 0 {
				continue
			}
			served[it.Value] += it.Tokens
			push(it.Value)
			for i := range served {
				for j := range served {
					if 2*(served[i]-served[j]) > 3*largest {
						t.Fatalf("flow %d was served %d tokens, flow %d %d, and the largest request has %d", i, served[i], j, served[j], largest)
					}
				}
			}
		}
	})
}

// TestShareOfOneWhoNeverWaitsTwice: a tenant with one request at a time gets its share, and no more, against one that always has many
// waiting: it is served its tokens for as many of the other's, whether it comes again at once or later.
func TestShareOfOneWhoNeverWaitsTwice(t *testing.T) {
	for _, c := range []struct {
		tokens, others int
		pause          int // how many others are served before it comes again
	}{{1000, 10, 0}, {1000, 10, 50}, {10, 1000, 0}, {70, 30, 1}, {1_000_000, 1, 7}} {
		t.Run(fmt.Sprintf("%d against %d after %d", c.tokens, c.others, c.pause), func(t *testing.T) {
			q := New[int](1<<40, time.Hour)
			for range 2 {
				q.Push(start, &Item[int]{Flow: "steady", Tokens: c.others}, nil)
			}
			single := &Item[int]{Value: 1, Flow: "single", Tokens: c.tokens}
			var mine, theirs, absent int
			for range 20_000 {
				if absent--; !single.Waiting() && absent < 0 {
					q.Push(start, single, nil)
				}
				if it := next(q, start); it == single {
					mine += c.tokens
					absent = c.pause
				} else {
					theirs += c.others
					q.Push(start, it, nil)
				}
				if mine > theirs+c.tokens+c.others {
					t.Fatalf("served %d tokens while the other was served %d", mine, theirs)
				}
			}
			if allowed := c.tokens + c.others; c.pause == 0 && mine < theirs-allowed {
				t.Errorf("served %d tokens while the other was served %d", mine, theirs)
			}
		})
	}
}

// TestNewcomersStarveNobody: a flow in debt is served in the end, though flows that nobody has seen before keep coming.
func TestNewcomersStarveNobody(t *testing.T) {
	for _, atOnce := range []int{1, 2, 10, 100} {
		for _, tokens := range []int{1, 100, 5000} {
			t.Run(fmt.Sprintf("%d of %d tokens", atOnce, tokens), func(t *testing.T) {
				const debt = 1000
				q := New[int](1<<40, time.Hour)
				tenant := &Item[int]{Flow: "tenant", Tokens: debt}
				q.Push(start, tenant, nil)
				next(q, start)
				q.Push(start, tenant, nil)
				newcomers := 0
				for tenant.Waiting() {
					for q.Len() <= atOnce {
						newcomers++
						q.Push(start, &Item[int]{Flow: fmt.Sprint(newcomers), Tokens: tokens}, nil)
					}
					// Each round of newcomers takes the smaller half request off the debt.
					if allowed := atOnce * (2*debt/min(tokens, debt) + 3); newcomers > allowed {
						t.Fatalf("%d newcomers went first, expected %d at most", newcomers, allowed)
					}
					next(q, start)
				}
			})
		}
	}
}

// TestDebtsAreBounded: tenants that come and go by the thousands are forgotten, those with the smallest debts first.
func TestDebtsAreBounded(t *testing.T) {
	q := New[int](1<<40, time.Hour)
	serve := func(flow string, tokens int) {
		q.Push(start, &Item[int]{Flow: flow, Tokens: tokens}, nil)
		next(q, start)
	}
	serve("heavy", 500)
	for i := range 3 * maxDebts {
		serve(fmt.Sprint(i), 1+i%100)
	}
	if known := len(q.flows.records); known != maxDebts {
		t.Errorf("%d flows are known, expected %d", known, maxDebts)
	}
	if problem := q.inconsistency(); problem != "" {
		t.Error(problem)
	}
	q.Push(start, &Item[int]{Value: 1, Flow: "heavy", Tokens: 500}, nil)
	q.Push(start, &Item[int]{Value: 2, Flow: "light", Tokens: 500}, nil)
	if it := next(q, start); it.Value != 2 {
		t.Error("the largest debt was forgotten")
	}
	// Priorities that nobody uses any more go with their last debt.
	for i := range 2 * maxDebts {
		q.Push(start, &Item[int]{Priority: i, Tokens: 1000}, nil)
		next(q, start)
	}
	if known := len(q.bands.records); known > maxDebts+1 {
		t.Errorf("%d priorities are known, expected %d at most", known, maxDebts+1)
	}
	if problem := q.inconsistency(); problem != "" {
		t.Error(problem)
	}
}

// TestManyAtOnce: everything that can be many is many, and comes out right; and what was taken for it is given back.
func TestManyAtOnce(t *testing.T) {
	const n = 200_000
	q := New[int](1<<40, time.Hour)
	random := rand.New(rand.NewPCG(1, 2))
	items := make([]Item[int], n)
	for i := range items {
		items[i] = Item[int]{Priority: i % 100, Flow: fmt.Sprint(i % 150_001), Lane: uint64(i % 1009), Bytes: int64(i % 7), Tokens: i % 13}
		q.Push(start, &items[i], nil)
	}
	if problem := q.inconsistency(); problem != "" {
		t.Fatal(problem)
	}
	for _, i := range random.Perm(n)[:n/2] {
		q.Remove(&items[i])
	}
	if problem := q.inconsistency(); problem != "" {
		t.Fatal(problem)
	}
	if taken := q.Dispatch(start, func(*Item[int]) Try { return Taken }); taken != n-n/2 {
		t.Errorf("%d were taken, expected %d", taken, n-n/2)
	}
	if problem := q.inconsistency(); problem != "" {
		t.Fatal(problem)
	}
	if len(q.lines.records)+len(q.sections.records)+len(q.lanes.records)+len(q.order) != 0 || q.Bytes() != 0 {
		t.Error("something is left in an empty queue")
	}
	if q.flows.peak > n/4 {
		t.Errorf("the index of flows still has room for %d", q.flows.peak)
	}
}
