package stack

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// CPU is the processor time that the process has used since its start, user and system, all threads; its children
// are not in it. While it runs the resolution is that of the kernel's clock (nanoseconds). Linux only.
func (p *Process) CPU() (time.Duration, error) {
	select {
	case <-p.done:
		state := p.cmd.ProcessState
		return state.UserTime() + state.SystemTime(), nil
	default:
	}
	d, err := processCPU(p.Pid())
	if err != nil {
		return 0, fmt.Errorf("%s: CPU time: %w", p.Name(), err)
	}
	return d, nil
}

// RssAnon is the memory, in bytes, that the process holds and shares with no file: its heap and stacks. Linux only.
func (p *Process) RssAnon() (int64, error) {
	n, err := rssAnon(p.Pid())
	if err != nil {
		return 0, fmt.Errorf("%s: memory: %w", p.Name(), err)
	}
	return n, nil
}

// processCPU reads the CPU clock of a process. /proc/<pid>/stat has the same figure in hundredths of a second, which
// is too coarse for a picker that takes 100 µs for a request.
func processCPU(pid int) (time.Duration, error) {
	const schedClock = 2 // CPUCLOCK_SCHED of the kernel's posix-timers.h; the upper bits are the inverted id
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|schedClock, &ts); err != nil {
		return 0, err
	}
	return time.Duration(ts.Nano()), nil
}

func rssAnon(pid int) (int64, error) {
	path := fmt.Sprintf("/proc/%d/status", pid)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		value, ok := bytes.CutPrefix(line, []byte("RssAnon:"))
		if !ok {
			continue
		}
		fields := bytes.Fields(value)
		if len(fields) != 2 || string(fields[1]) != "kB" {
			return 0, fmt.Errorf("%s: expected a number of kB, got %q", path, line)
		}
		kb, err := strconv.ParseInt(string(fields[0]), 10, 64)
		return kb << 10, err
	}
	return 0, errors.New(path + " has no RssAnon")
}
