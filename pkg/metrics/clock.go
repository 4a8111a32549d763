package metrics

import (
	"sync/atomic"
	"time"
)

// clock adds up the CPU time of one pod's attempts, while it is on. Reading the CPU's clock takes a system call, so it
// is on for one attempt in some.
type clock struct {
	on    atomic.Bool
	spent atomic.Int64 // ns; the transport reads in a goroutine of its own
}

// run runs f, which must not block.
func (c *clock) run(f func()) {
	if !c.on.Load() {
		f()
		return
	}
	c.spent.Add(int64(onCPU(f)))
}

// restart sets the clock to nothing, on or off.
func (c *clock) restart(on bool) {
	c.spent.Store(0)
	c.on.Store(on)
}

// time gives what was added up, and whether the clock was on.
func (c *clock) time() (time.Duration, bool) { return time.Duration(c.spent.Load()), c.on.Load() }
