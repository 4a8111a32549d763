// Package prefix remembers which pod was sent which prompt prefix: it hashes prompts in chained blocks and finds, for every
// pod at once, the longest prefix that the pod was sent.
//
// It knows texts, hashes and small pod numbers only, does no I/O, starts no goroutine and reads no clock. Hashing runs at
// memory speed and doesn't allocate; a match costs a few dozen look-ups however long the prompt; a remembered block costs
// about 33 bytes for each pod that holds it, bounded by the capacity for each pod.
//
// The index is a structure of its own and not golang-lru, one cache for each pod: with distinct blocks such caches and the holders of each block, which a
// match needs, take 148 to 187 bytes where the index takes 32 to 33 (the caches alone 88 to 100, and then a match has to look into every
// cache). BenchmarkMemory and BenchmarkMatchGolangLRU measure both.
package prefix
