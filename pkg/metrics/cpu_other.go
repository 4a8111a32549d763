//go:build !linux

package metrics

import "time"

// onCPU runs f and gives the time that it took. Where threads have no CPU clock that is the time on the wall, which is
// never less.
func onCPU(f func()) time.Duration {
	before := time.Now()
	f()
	return time.Since(before)
}
