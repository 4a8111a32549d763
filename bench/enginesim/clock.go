package enginesim

import "time"

// clock maps real time to engine time: a factor, with pauses. Not safe for concurrent use.
type clock struct {
	speed  float64
	mark   time.Time     // real time at which engine time was at
	at     time.Duration // engine time
	paused bool
}

func newClock(speed float64) clock { return clock{speed: speed, mark: time.Now()} }

func (c *clock) now() time.Duration {
	if c.paused {
		return c.at
	}
	return c.at + time.Duration(float64(time.Since(c.mark))*c.speed)
}

// wait is the real time until the engine time t, at least 0.
func (c *clock) wait(t time.Duration) time.Duration {
	return max(0, time.Duration(float64(t-c.now())/c.speed))
}

// set makes t the engine time now.
func (c *clock) set(t time.Duration) { c.at, c.mark = t, time.Now() }

func (c *clock) pause(paused bool) {
	c.set(c.now())
	c.paused = paused
}
