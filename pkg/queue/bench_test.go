package queue_test

import (
	"fmt"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/queue"
)

type item = queue.Item[*int]

func names(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = "tenant-" + strconv.Itoa(i)
	}
	return all
}

// filled returns a queue in which the items wait, spread over flows, lanes from 0 up, and three priorities.
func filled(items []item, flows, lanes int) *queue.Queue[*int] {
	q := queue.New[*int](1<<40, time.Hour)
	now := time.Now()
	tenants := names(flows)
	for i := range items {
		it := &items[i]
		it.Flow = tenants[i%flows]
		it.Lane = uint64(i / flows % lanes)
		it.Priority = i/3%3 - 1
		it.Bytes = 1000
		it.Tokens = 100 + i*7919%4000
		q.Push(now, it, nil)
	}
	return q
}

// one returns a callback that takes one item and keeps it.
func one(kept **item) func(*item) queue.Try {
	return func(it *item) queue.Try {
		if *kept != nil {
			return queue.AllFull
		}
		*kept = it
		return queue.Taken
	}
}

// BenchmarkPushPop takes the next of 100,000 and pushes it again as the last of its flow.
func BenchmarkPushPop(b *testing.B) {
	for _, c := range []struct{ flows, lanes int }{{1, 1}, {1, 16}, {100, 1}, {100, 16}, {10_000, 1}, {10_000, 4}, {30_000, 1}} {
		b.Run(fmt.Sprintf("flows=%d/lanes=%d", c.flows, c.lanes), func(b *testing.B) {
			items := make([]item, 100_000)
			q := filled(items, c.flows, c.lanes)
			now := time.Now()
			var kept *item
			try := one(&kept)
			b.ReportAllocs()
			for b.Loop() {
				now = now.Add(time.Microsecond)
				kept = nil
				q.Dispatch(now, try)
				q.Push(now, kept, nil)
			}
			if q.Len() != len(items) {
				b.Fatalf("%d wait, expected %d", q.Len(), len(items))
			}
		})
	}
}

// BenchmarkFlowsComeAndGo has each of 10,000 flows wait with one request at a time, 1000 at once.
func BenchmarkFlowsComeAndGo(b *testing.B) {
	q := queue.New[*int](1<<40, time.Hour)
	now := time.Now()
	items := make([]item, 10_000)
	tenants := names(len(items))
	for i := range items {
		items[i] = item{Flow: tenants[i*7919%len(items)], Tokens: 100 + i*7919%4000, Bytes: 1000}
	}
	var kept *item
	try := one(&kept)
	i := 0
	turn := func() {
		now = now.Add(time.Microsecond)
		q.Push(now, &items[i%len(items)], nil)
		if i++; i > 1000 {
			kept = nil
			q.Dispatch(now, try)
		}
	}
	for range 10 * len(items) {
		turn()
	}
	b.ReportAllocs()
	for b.Loop() {
		turn()
	}
}

// BenchmarkSkipFull takes one request of lane 2 that waits behind 10,000 of lane 1, which is full.
func BenchmarkSkipFull(b *testing.B) {
	for _, c := range []struct {
		name         string
		flows, mixed int
	}{
		{"flows=1", 1, 1},
		{"flows=10000", 10_000, 0},
		{"flows=10000/elsewhere_too=100", 10_000, 100},
	} {
		b.Run(c.name, func(b *testing.B) {
			q := queue.New[*int](1<<40, time.Hour)
			now := time.Now()
			tenants := names(c.flows)
			blocked := make([]item, 10_000)
			for i := range blocked {
				blocked[i] = item{Flow: tenants[i%c.flows], Lane: 1, Bytes: 1000, Tokens: 1000}
				q.Push(now, &blocked[i], nil)
			}
			others := make([]item, c.mixed+1)
			for i := range others {
				others[i] = item{Flow: "other", Lane: 2, Bytes: 1000, Tokens: 1000}
				if i < c.mixed {
					others[i].Flow = tenants[i]
				}
				q.Push(now, &others[i], nil)
			}
			tries := 0
			var kept *item
			try := func(it *item) queue.Try {
				tries++
				switch {
				case it.Lane == 1:
					return queue.LaneFull
				case kept != nil:
					return queue.AllFull
				}
				kept = it
				return queue.Taken
			}
			b.ReportAllocs()
			for b.Loop() {
				now = now.Add(time.Microsecond)
				kept, tries = nil, 0
				q.Dispatch(now, try)
				q.Push(now, kept, nil)
			}
			b.ReportMetric(float64(tries), "tries/op")
		})
	}
}

// BenchmarkPushFull pushes into a full queue, where each newcomer discards the oldest of whoever holds most.
func BenchmarkPushFull(b *testing.B) {
	for _, flows := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprintf("flows=%d", flows), func(b *testing.B) {
			items := make([]item, 100_000)
			q := filled(items, flows, 1)
			now := time.Now()
			q.SetCapacity(now, q.Bytes(), nil)
			var gone *item
			newcomer := &item{Flow: "tenant-0", Priority: 1, Bytes: 1000, Tokens: 100}
			discarded := func(it *item) { gone = it }
			b.ReportAllocs()
			for b.Loop() {
				now = now.Add(time.Microsecond)
				q.Push(now, newcomer, discarded)
				newcomer = gone
				newcomer.Priority = 1
			}
		})
	}
}

// BenchmarkRemove takes out clients that left anywhere in the queue, and lets them come again.
func BenchmarkRemove(b *testing.B) {
	items := make([]item, 100_000)
	q := filled(items, 100, 4)
	now := time.Now()
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		i = (i + 7919) % len(items)
		q.Remove(&items[i])
		q.Push(now, &items[i], nil)
	}
}

// BenchmarkMemory measures the live heap of 1,000,000 who wait, their items included, their bodies not.
func BenchmarkMemory(b *testing.B) {
	const n = 1_000_000
	for _, flows := range []int{1, 100, 10_000, n} {
		b.Run(fmt.Sprintf("flows=%d", flows), func(b *testing.B) {
			tenants := names(flows)
			for b.Loop() {
				before := liveHeap()
				q := queue.New[*int](1<<40, time.Hour)
				now := time.Now()
				for i := range n {
					q.Push(now, &item{Flow: tenants[i%flows], Priority: i % 3, Lane: uint64(i % 4), Bytes: 1000, Tokens: 100}, nil)
				}
				b.ReportMetric(float64(liveHeap()-before)/n, "B/waiting")
				q.Expire(now.Add(2*time.Hour), func(*item) {})
				b.ReportMetric(float64(liveHeap()-before), "B-afterwards")
				runtime.KeepAlive(q)
			}
			runtime.KeepAlive(tenants)
		})
	}
}

func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
