package metrics

import "time"

// clock adds up the CPU time of one pod's attempts, while it is on. Reading the CPU's clock takes a system call, so it
// is on for one attempt in some. It belongs to the pod's goroutine.
type clock struct {
	on    bool
	spent time.Duration
}

// run runs f, which must not block.
func (c *clock) run(f func()) {
	if !c.on {
		f()
		return
	}
	c.spent += onCPU(f)
}

// restart sets the clock to nothing, on or off.
func (c *clock) restart(on bool) { *c = clock{on: on} }

// time gives what was added up, and whether the clock was on.
func (c *clock) time() (time.Duration, bool) { return c.spent, c.on }
