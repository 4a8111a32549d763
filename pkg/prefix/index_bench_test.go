package prefix_test

import (
	"fmt"
	"runtime"
	"slices"
	"sort"
	"testing"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/pilotfish-epp/pilotfish/pkg/prefix"
)

// fill gives every pod conversations that share a system prompt of 32 blocks, until it holds about blocks blocks.
func fill(x *prefix.Index, pods, blocks int) (system []uint64) {
	system = chain(nil, 0, 1, 32)
	for pod := range pods {
		for n := 0; n*96 < blocks; n++ {
			x.Add(uint32(pod), chain(system, 32, uint64(pod*1000000+n+2), 128))
		}
	}
	return system
}

// BenchmarkMatch measures a match against pods of 10,000 blocks each. In all but "nobody" every pod shares a system prompt:
//
//	nobody     no pod has even the first block
//	diverge    all pods share the system prompt, one pod has all of the rest
//	quarter    a quarter of the pods has all of the rest
//	staircase  every pod leaves the chain at another depth: the worst there is
func BenchmarkMatch(b *testing.B) {
	for _, pods := range []int{8, 64, 256} {
		for _, blocks := range []int{128, 8192} {
			x := prefix.New(50000)
			system := fill(x, pods, 10000)
			diverge := chain(system, 32, 900000001, blocks)
			x.Add(uint32(pods/2), diverge)
			quarter := chain(system, 32, 900000002, blocks)
			staircase := chain(nil, 0, 900000003, blocks)
			for pod := range pods {
				if pod%4 == 0 {
					x.Add(uint32(pod), quarter)
				}
				x.Add(uint32(pod), staircase[:blocks*(pod+1)/pods])
			}
			depth := make([]int32, pods)
			for _, c := range []struct {
				name   string
				hashes []uint64
			}{
				{"nobody", chain(nil, 0, 900000004, blocks)},
				{"diverge", diverge},
				{"quarter", quarter},
				{"staircase", staircase},
			} {
				b.Run(fmt.Sprintf("pods=%d/blocks=%d/%s", pods, blocks, c.name), func(b *testing.B) {
					b.ReportAllocs()
					defer measureCPU(b, 0)()
					for b.Loop() {
						x.Match(c.hashes, depth)
					}
				})
			}
		}
	}
}

// BenchmarkAdd measures the addition of chains of 128 blocks to 64 pods at their capacity, so that every new block evicts one: of
// conversations that grow by 8 blocks with every turn, and of prompts that share nothing.
func BenchmarkAdd(b *testing.B) {
	const pods, capacity, length = 64, 10000, 128
	for _, fresh := range []int{0, 8, length} {
		b.Run(fmt.Sprintf("new=%dof%d", fresh, length), func(b *testing.B) {
			x := prefix.New(capacity)
			for pod := range pods {
				x.Add(uint32(pod), chain(nil, 0, uint64(pod+1), capacity))
			}
			var chains [4096][]uint64
			for i := range chains {
				base := chain(nil, 0, uint64(i%pods)*7919+11, length)
				chains[i] = chain(base, length-fresh, uint64(i+1000000), length)
				x.Add(uint32(i%pods), base)
			}
			b.ReportAllocs()
			start := cpuTime(b)
			i := 0
			for b.Loop() {
				x.Add(uint32(i%pods), chains[i%len(chains)])
				i++
			}
			b.ReportMetric(float64((cpuTime(b)-start).Nanoseconds())/float64(b.N)/length, "cpu-ns/block")
		})
	}
}

func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// lruIndex is the same content kept with golang-lru: one cache for each pod, and beside them who holds a block, without which a match must
// look into every pod's cache.
type lruIndex struct {
	pods    []*lru.Cache[uint64, struct{}]
	holders map[uint64][]uint32
}

func newLRUIndex(b *testing.B, pods, capacity int, withHolders bool) *lruIndex {
	b.Helper()
	x := &lruIndex{holders: map[uint64][]uint32{}}
	for pod := range uint32(pods) {
		evicted := func(h uint64, _ struct{}) {
			x.holders[h] = slices.DeleteFunc(x.holders[h], func(p uint32) bool { return p == pod })
			if len(x.holders[h]) == 0 {
				delete(x.holders, h)
			}
		}
		if !withHolders {
			evicted = nil
		}
		cache, err := lru.NewWithEvict(capacity, evicted)
		if err != nil {
			b.Fatal(err)
		}
		x.pods = append(x.pods, cache)
	}
	return x
}

func (x *lruIndex) add(pod uint32, hashes []uint64, withHolders bool) {
	for _, h := range slices.Backward(hashes) {
		if withHolders && !x.pods[pod].Contains(h) {
			x.holders[h] = append(x.holders[h], pod)
		}
		x.pods[pod].Add(h, struct{}{})
	}
}

// match asks each pod's cache by halving, since heads outlive tails there too.
func (x *lruIndex) match(hashes []uint64, depth []int32) {
	for pod, cache := range x.pods {
		depth[pod] = int32(sort.Search(len(hashes), func(i int) bool { return !cache.Contains(hashes[i]) }))
	}
}

// BenchmarkMemory prints the live heap for each (pod, block) of the index, of golang-lru with one cache for each pod and nothing else, and
// of golang-lru with the holders of each block. With distinct blocks nothing is shared; each pod is filled to its capacity one
// block at a time, as in use, and the capacities lie between powers of two and just above one, where a table that doubles is fullest and emptiest.
func BenchmarkMemory(b *testing.B) {
	const pods = 64
	for _, each := range []int{16500, 25000} {
		for _, content := range []string{"distinct", "shared"} {
			chainOf := func(pod int) []uint64 {
				if content == "shared" {
					pod = 0
				}
				return chain(nil, 0, uint64(pod+1), each)
			}
			report := func(b *testing.B, before uint64) {
				b.Helper()
				b.ReportMetric(float64(liveHeap()-before)/float64(pods*each), "B/block")
			}
			name := fmt.Sprintf("blocks=%d/%s/", each, content)
			b.Run(name+"index", func(b *testing.B) {
				for b.Loop() {
					before := liveHeap()
					x := prefix.New(each)
					for pod := range pods {
						x.Add(uint32(pod), chainOf(pod))
					}
					report(b, before)
					runtime.KeepAlive(x)
				}
			})
			for _, withHolders := range []bool{false, true} {
				library := "golang-lru"
				if withHolders {
					library = "golang-lru+holders"
				}
				b.Run(name+library, func(b *testing.B) {
					for b.Loop() {
						before := liveHeap()
						x := newLRUIndex(b, pods, each, withHolders)
						for pod := range pods {
							x.add(uint32(pod), chainOf(pod), withHolders)
						}
						report(b, before)
						runtime.KeepAlive(x)
					}
				})
			}
		}
	}
}

// BenchmarkMatchGolangLRU is BenchmarkMatch's case "diverge" for 256 pods with golang-lru alone.
func BenchmarkMatchGolangLRU(b *testing.B) {
	const pods = 256
	x := newLRUIndex(b, pods, 50000, false)
	system := chain(nil, 0, 1, 32)
	for pod := range uint32(pods) {
		for n := range uint64(100) {
			x.add(pod, chain(system, 32, uint64(pod)*1000000+n+2, 128), false)
		}
	}
	hashes := chain(system, 32, 900000001, 128)
	x.add(pods/2, hashes, false)
	depth := make([]int32, pods)
	b.ReportAllocs()
	defer measureCPU(b, 0)()
	for b.Loop() {
		x.match(hashes, depth)
	}
}
