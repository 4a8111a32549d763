package pool

import "time"

// Instant is a moment: nanoseconds since 1970 as the clock stood when the process began, and by the monotonic clock since.
// It compares as fast as a number, which matters where every pick looks at every pod, and setting the clock doesn't move
// it. 0 stands for never.
type Instant int64

// The moment from which instants are counted on.
var (
	began      = time.Now()
	beganNanos = Instant(began.UnixNano())
)

// At gives the moment t.
func At(t time.Time) Instant { return beganNanos + Instant(t.Sub(began)) }

// Add gives the moment d later.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Since gives the time from before to i.
func (i Instant) Since(before Instant) time.Duration { return time.Duration(i - before) }
