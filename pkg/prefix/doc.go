// Package prefix remembers which pod was sent which prompt prefix: it hashes prompts in chained blocks and finds, for every
// pod at once, the longest prefix that the pod was sent.
//
// It knows texts, hashes and small pod numbers only, does no I/O, starts no goroutine and reads no clock. Hashing runs at
// memory speed and doesn't allocate; a match costs a few dozen look-ups however long the prompt; a remembered block costs
// about 33 bytes for each pod that holds it, bounded by the capacity for each pod.
package prefix
