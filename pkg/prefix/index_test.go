package prefix_test

import (
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/pilotfish-epp/pilotfish/pkg/prefix"
)

// chain returns n block hashes of a conversation that leaves its parent after a number of blocks.
func chain(parent []uint64, shared int, seed uint64, n int) []uint64 {
	hashes := slices.Clone(parent[:shared])
	state := seed*0x9e3779b97f4a7c15 + 1
	if shared > 0 {
		state += parent[shared-1]
	}
	for len(hashes) < n {
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		hashes = append(hashes, state)
	}
	return hashes
}

func match(x *prefix.Index, hashes []uint64, pods int) []int32 {
	depth := make([]int32, pods)
	for i := range depth {
		depth[i] = -1 // Match has to overwrite it
	}
	x.Match(hashes, depth)
	return depth
}

func wantMatch(t *testing.T, x *prefix.Index, hashes []uint64, want ...int32) {
	t.Helper()
	if got := match(x, hashes, len(want)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestMatchFindsTheLongestPrefixOfEveryPod(t *testing.T) {
	system := chain(nil, 0, 1, 10)
	alice := chain(system, 10, 2, 30)
	bob := chain(system, 10, 3, 30)
	x := prefix.New(1000)
	x.Add(0, alice)
	x.Add(1, bob)
	x.Add(2, alice[:17])
	x.Add(3, system)
	wantMatch(t, x, alice, 30, 10, 17, 10, 0)
	wantMatch(t, x, bob, 10, 30, 10, 10, 0)
	wantMatch(t, x, chain(nil, 0, 4, 30), 0, 0, 0, 0, 0)
	wantMatch(t, x, nil, 0, 0)
	wantMatch(t, x, alice, 30, 10) // pods beyond the slice are passed over
}

func TestHeadsOutliveTails(t *testing.T) {
	x := prefix.New(10)
	old := chain(nil, 0, 1, 8)
	x.Add(0, old)
	x.Add(0, chain(nil, 0, 2, 5))
	wantMatch(t, x, old, 5)

	long := chain(nil, 0, 3, 500)
	x.Add(0, long)
	wantMatch(t, x, long, 10)
}

func TestForgetAndReset(t *testing.T) {
	x := prefix.New(1000)
	a := chain(nil, 0, 1, 300)
	x.Add(0, a)
	x.Add(1, a)
	x.Forget(0)
	x.Forget(7) // never seen
	wantMatch(t, x, a, 0, 300)
	x.Add(0, a[:5]) // another pod that was given the number
	wantMatch(t, x, a, 5, 300)
	x.Reset()
	wantMatch(t, x, a, 0, 0)
	if s := x.Stats(); s.Blocks != 0 || s.Distinct != 0 || s.Pods != 0 {
		t.Errorf("after Reset: %+v", s)
	}
}

func TestSetCapacity(t *testing.T) {
	x := prefix.New(1000)
	a := chain(nil, 0, 1, 900)
	x.Add(0, a)
	x.Add(1, a[:50])
	x.SetCapacity(100)
	wantMatch(t, x, a, 100, 50)
	if s := x.Stats(); s.Blocks != 150 || s.Distinct != 100 || s.Pods != 2 || s.Evictions != 800 {
		t.Errorf("%+v", s)
	}
	x.SetCapacity(2000)
	x.Add(0, a)
	wantMatch(t, x, a, 900, 50)
	x.SetCapacity(0) // at least one
	wantMatch(t, x, a, 1, 1)
}

func TestStatsAndMemoryGivenBack(t *testing.T) {
	x := prefix.New(10000)
	empty := x.Stats().Bytes
	for pod := range uint32(20) {
		x.Add(pod, chain(nil, 0, uint64(pod), 8000))
	}
	s := x.Stats()
	if s.Blocks != 160000 || s.Distinct != 160000 || s.Pods != 20 || s.Evictions != 0 || x.PodBlocks(3) != 8000 || x.PodBlocks(99) != 0 {
		t.Errorf("%+v", s)
	}
	for pod := range uint32(20) {
		x.Forget(pod)
	}
	if left := x.Stats().Bytes; left-empty > s.Bytes/50 {
		t.Errorf("%d of %d bytes are left after all pods are gone", left, s.Bytes)
	}
}

// Many pods that leave a chain at many depths, in groups of several sizes, added in several orders.
func TestMatchStaircase(t *testing.T) {
	const pods = 300
	for _, group := range []int{1, 2, 5, 50} {
		for _, stride := range []int{1, 7, 299} {
			x := prefix.New(1000)
			a := chain(nil, 0, 1, pods)
			want := make([]int32, pods)
			for i := range pods {
				pod := i * stride % pods
				want[pod] = int32(pod/group*group + 1)
				x.Add(uint32(pod), a[:want[pod]])
			}
			wantMatch(t, x, a, want...)
			wantMatch(t, x, a, want[:200]...)
			x.Forget(5)
			want[5] = 0
			wantMatch(t, x, a, want...)
		}
	}
}

func TestAnyUseAgreesWithTheSlowIndex(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const pods = 6
		capacity := rapid.IntRange(1, 400).Draw(t, "capacity")
		x, slow := prefix.New(capacity), newSlowIndex(capacity)
		chains := [][]uint64{chain(nil, 0, 1, rapid.SampledFrom([]int{3, 40, 200}).Draw(t, "first"))}
		pod := rapid.Uint32Range(0, pods-1)
		t.Repeat(map[string]func(*rapid.T){
			"converse": func(t *rapid.T) {
				parent := rapid.SampledFrom(chains).Draw(t, "parent")
				shared := rapid.IntRange(0, len(parent)).Draw(t, "shared")
				grow := rapid.SampledFrom([]int{1, 5, 70, 150}).Draw(t, "grow")
				chains = append(chains, chain(parent, shared, uint64(len(chains)+1), shared+grow))
			},
			"add": func(t *rapid.T) {
				c := rapid.SampledFrom(chains).Draw(t, "chain")
				p := pod.Draw(t, "pod")
				x.Add(p, c)
				slow.add(p, c)
			},
			"forget": func(t *rapid.T) {
				p := pod.Draw(t, "pod")
				x.Forget(p)
				delete(slow.pods, p)
			},
			"setCapacity": func(t *rapid.T) {
				capacity := rapid.IntRange(1, 400).Draw(t, "capacity")
				x.SetCapacity(capacity)
				slow.setCapacity(capacity)
			},
			"": func(t *rapid.T) {
				c := rapid.SampledFrom(chains).Draw(t, "chain")
				if got, want := match(x, c, pods), slow.match(c, pods); !slices.Equal(got, want) {
					t.Fatalf("got %v, want %v", got, want)
				}
				checkStats(t, x, slow)
			},
		})
	})
}

func checkStats(t *rapid.T, x *prefix.Index, slow *slowIndex) {
	blocks, holding, distinct := 0, 0, map[uint64]bool{}
	for pod, list := range slow.pods {
		if got := x.PodBlocks(pod); got != len(list) {
			t.Fatalf("pod %d holds %d blocks, want %d", pod, got, len(list))
		}
		blocks += len(list)
		if len(list) > 0 {
			holding++
		}
		for _, h := range list {
			distinct[h] = true
		}
	}
	if s := x.Stats(); s.Blocks != blocks || s.Distinct != len(distinct) || s.Pods != holding {
		t.Fatalf("%+v, want %d blocks, %d distinct, %d pods", s, blocks, len(distinct), holding)
	}
}

// Whatever goes on at the same time, a pod's depth is that of a chain's head, and in the end everything is as if done in turn.
func TestConcurrentUse(t *testing.T) {
	const pods = 8
	x := prefix.New(600)
	system := chain(nil, 0, 1, 100)
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			depth := make([]int32, pods)
			for i := range 150 {
				c := chain(system, 100, uint64(worker*1000+i), 400)
				pod := uint32(worker*2 + i%2)
				x.Add(pod, c)
				x.Match(c, depth)
				if depth[pod] != 400 && i%50 != 0 {
					t.Errorf("a chain just added to pod %d, which nobody else uses, is matched %d deep", pod, depth[pod])
				}
				if i%50 == 49 {
					x.Forget(pod)
				}
				if worker == 0 && i%40 == 0 {
					x.SetCapacity(500 + i)
				}
				x.Stats()
			}
		})
	}
	wg.Wait()
	for pod := range uint32(pods) {
		x.Forget(pod)
	}
	if s := x.Stats(); s.Blocks != 0 || s.Distinct != 0 {
		t.Errorf("%+v after everything was forgotten", s)
	}
}

// Several callers that add to one pod, while it is forgotten and everything is reset, never break the lists.
func TestConcurrentAddsToOnePod(t *testing.T) {
	x := prefix.New(300)
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range 200 {
				x.Add(uint32(i%2), chain(nil, 0, uint64(worker*1000+i%30), 350))
				switch {
				case i%20 == worker:
					x.Forget(uint32(i % 2))
				case worker == 3 && i%90 == 0:
					x.Reset()
				}
			}
		})
	}
	wg.Wait()
	a := chain(nil, 0, 5, 300)
	x.Add(0, a)
	wantMatch(t, x, a, 300)
	x.Forget(0)
	x.Forget(1)
	if s := x.Stats(); s.Blocks != 0 || s.Distinct != 0 {
		t.Errorf("%+v after everything was forgotten", s)
	}
}
