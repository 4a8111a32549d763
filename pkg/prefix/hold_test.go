package prefix

import (
	"slices"
	"testing"
	"time"
)

// BenchmarkHold measures how long the write lock is held at a time, in an index of 800,000 blocks, by additions of new blocks that each
// evict one and by the forgetting of pods. The longest times of a busy machine are those in which it did something else.
func BenchmarkHold(b *testing.B) {
	const pods, capacity = 16, 50000
	x := New(capacity)
	next := uint64(1)
	fresh := func(n int) []uint64 {
		hashes := make([]uint64, n)
		for i := range hashes {
			next = next*6364136223846793005 + 1442695040888963407
			hashes[i] = next ^ next>>29
		}
		return hashes
	}
	fill := func(pod uint32) { x.Add(pod, fresh(capacity)) }
	for pod := range uint32(pods) {
		fill(pod)
	}
	hashes := fresh(batch)
	forgetting := uint32(0)
	for _, c := range []struct {
		name    string
		prepare func(i int)
		hold    func(i int)
	}{
		{"add", func(int) { hashes = fresh(batch) }, func(i int) { x.addSome(uint32(i%pods), hashes, 0) }},
		{"forget", func(int) {
			if x.PodBlocks(forgetting) == 0 && x.pods[forgetting].n == 0 {
				fill(forgetting)
				forgetting = (forgetting + 1) % pods
			}
		}, func(int) { x.forgetSome(forgetting) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			var times []time.Duration
			for i := 0; b.Loop(); i++ {
				c.prepare(i)
				start := time.Now()
				c.hold(i)
				times = append(times, time.Since(start))
			}
			slices.Sort(times)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(times[len(times)/2].Nanoseconds())/1e3, "median-µs")
			b.ReportMetric(float64(times[len(times)*99/100].Nanoseconds())/1e3, "p99-µs")
		})
		x.Forget(forgetting)
		fill(forgetting)
	}
}
