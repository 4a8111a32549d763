package metrics

import (
	goruntime "runtime"
	"time"

	"golang.org/x/sys/unix"
)

// onCPU runs f, which must not block, and gives the CPU time that it took: time during which the machine did something
// else isn't counted.
func onCPU(f func()) time.Duration {
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	before := threadTime()
	f()
	return threadTime() - before
}

func threadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
