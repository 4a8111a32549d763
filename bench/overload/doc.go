// Package overload measures what requests of each priority get when more of them come than the model servers can
// answer: through a real Envoy and the picker, over simulated engines, below capacity, above it with queueing, and
// above it without.
//
// Load is open-loop: arrivals don't wait for answers, and are the same for the same seed. Every request is followed to
// its end and counted once. The figures are those that queueing promises; bench/README.md says how to read them.
package overload
