package queue

import (
	"fmt"
	"testing"
	"time"
)

// TestNoGarbage: once warm, nothing is allocated, though flows, lanes and priorities come and go.
func TestNoGarbage(t *testing.T) {
	const waiting, flows = 500, 2000
	q := New[int](waiting*10, time.Hour)
	items := make([]Item[int], 4*flows)
	for i := range items {
		items[i] = Item[int]{Priority: i % 3, Flow: fmt.Sprint(i % flows), Lane: uint64(i % 5), Bytes: 10, Tokens: i % 100}
	}
	now, i, slots := start, 0, 0
	try := func(it *Item[int]) Try {
		switch {
		case it.Lane == 3 && i%2 == 0:
			return LaneFull
		case slots == 0:
			return AllFull
		}
		slots--
		return Taken
	}
	ignore := func(*Item[int]) {}
	turn := func() {
		now = now.Add(time.Millisecond)
		for range 10 {
			i++
			if it := &items[i%len(items)]; !it.Waiting() {
				q.Push(now, it, ignore)
			}
		}
		slots = 8
		q.Dispatch(now, try)
		q.Remove(&items[(i+len(items)-waiting/4)%len(items)])
		q.Expire(now, ignore)
		q.Deadline()
	}
	for range len(items) {
		turn()
	}
	if allocated := testing.AllocsPerRun(10_000, turn); allocated != 0 {
		t.Errorf("%v allocations for each turn, expected none", allocated)
	}
	if q.Len() == 0 {
		t.Error("nobody waits; the test shows nothing")
	}
}

// TestPanics: a callback that panics leaves the queue whole.
func TestPanics(t *testing.T) {
	q := New[int](100, time.Hour)
	push := func(value int, flow string, lane uint64) {
		q.Push(start, &Item[int]{Value: value, Flow: flow, Lane: lane, Bytes: 10}, func(*Item[int]) { panic("discarded") })
	}
	for i := range 10 {
		push(i, fmt.Sprint(i%2), uint64(i%3))
	}
	catch := func(what string, do func()) {
		t.Helper()
		defer func() {
			t.Helper()
			if p := recover(); p != what {
				t.Errorf("recovered %v, expected %s", p, what)
			}
			if problem := q.inconsistency(); problem != "" {
				t.Errorf("after %s: %s", what, problem)
			}
		}()
		do()
	}
	tried := 0
	catch("try", func() {
		q.Dispatch(start, func(it *Item[int]) Try {
			if tried++; tried > 4 {
				panic("try")
			}
			if it.Lane == 1 {
				return LaneFull
			}
			return Taken
		})
	})
	for i := range 3 {
		push(10+i, "more", 0)
	}
	length := q.Len()
	catch("discarded", func() { push(20, "one too many", 0) })
	if q.Len() != length-1 {
		t.Errorf("%d wait, expected %d: one discarded, and the newcomer not in yet", q.Len(), length-1)
	}
	catch("expired", func() {
		q.Expire(start.Add(time.Hour), func(*Item[int]) { panic("expired") })
	})
	if taken := q.Dispatch(start, func(*Item[int]) Try { return Taken }); taken != length-2 {
		t.Errorf("%d were taken in the end, expected %d", taken, length-2)
	}
}

// TestPushTwice: to push what waits is a mistake of the caller's that would tear the lists.
func TestPushTwice(t *testing.T) {
	q := New[int](100, time.Hour)
	it := &Item[int]{}
	q.Push(start, it, nil)
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
		if q.Len() != 1 || q.inconsistency() != "" {
			t.Error("the queue isn't what it was")
		}
	}()
	q.Push(start, it, nil)
}

// TestLimits: the largest numbers there are.
func TestLimits(t *testing.T) {
	const most = 1<<63 - 1
	q := New[int](most, most)
	now := time.Now()
	q.Expire(now.Add(-time.Hour), nil)
	for i := range 3 {
		discarded := 0
		q.Push(now, &Item[int]{Value: i, Bytes: most, Tokens: most, Lane: 1<<64 - 1, Priority: most}, func(*Item[int]) { discarded++ })
		if want := min(i, 1); discarded != want || q.Bytes() != most {
			t.Errorf("push %d: %d discarded, %d bytes wait", i, discarded, q.Bytes())
		}
	}
	if verdict := q.Push(now, &Item[int]{Bytes: most, Priority: -most - 1}, nil); verdict != NoRoom {
		t.Errorf("%v, expected %v", verdict, NoRoom)
	}
	if deadline, ok := q.Deadline(); !ok || deadline.Sub(now) < most-time.Hour {
		t.Errorf("the deadline is %v, %v", deadline, ok)
	}
	if ahead, ok := q.DrainTime(now, most); ok {
		t.Errorf("%v to drain a queue that nobody left", ahead)
	}
}
