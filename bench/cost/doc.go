// Package cost measures what the picker costs: CPU for an ext_proc stream and for a request through a real Envoy, CPU
// of scraping, memory, and the figures of the Go benchmarks of parsing, matching and picking.
//
// Each figure stands beside its reference, which is measured in the same run on the same machine: variants take turns
// within a round, a ratio is formed within each round, and medians and ranges over the rounds are what is told. CPU is
// user plus system time of the measured process alone; load generators, backends and pods are other processes. It imports
// nothing of pkg: what is measured is the binary that users run.
package cost
