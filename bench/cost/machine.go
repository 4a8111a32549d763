package cost

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

// Machine is what a run ran on. It names no host.
type Machine struct {
	CPU     string    `json:"cpu"`
	Cores   int       `json:"cores"`
	Memory  string    `json:"memory"`
	OS      string    `json:"os"`
	Go      string    `json:"go"`
	Envoy   string    `json:"envoy,omitempty"`
	Commit  string    `json:"commit,omitempty"`
	Date    time.Time `json:"date"`
	Load    string    `json:"load"`     // average number of runnable tasks over 1, 5 and 15 minutes before the run
	LoadEnd string    `json:"load_end"` // the same after it
}

// thisMachine describes the machine. What it can't find out it leaves empty.
func thisMachine(ctx context.Context) Machine {
	return Machine{
		CPU:    valueOf("/proc/cpuinfo", "model name"),
		Cores:  runtime.NumCPU(),
		Memory: memorySize(),
		OS:     operatingSystem(),
		Go:     runtime.Version(),
		Envoy:  envoyVersion(ctx),
		Commit: commit(ctx),
		Date:   time.Now().UTC().Truncate(time.Second),
		Load:   loadAverage(),
	}
}

func (m *Machine) text(b *strings.Builder) {
	fmt.Fprintf(b, "machine  %d cores, %s, %s memory, %s\n", m.Cores, m.CPU, m.Memory, m.OS)
	fmt.Fprintf(b, "software %s, Envoy %s, commit %s\n", m.Go, orUnknown(m.Envoy), orUnknown(m.Commit))
	fmt.Fprintf(b, "run      %s, load average before %s, after %s\n", m.Date.Format(time.RFC3339), m.Load, m.LoadEnd)
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// valueOf finds the first "key : value" line of a file.
func valueOf(file, key string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range bytes.Lines(b) {
		if name, value, ok := strings.Cut(string(line), ":"); ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func memorySize() string {
	kb, err := strconv.ParseInt(strings.TrimSuffix(valueOf("/proc/meminfo", "MemTotal"), " kB"), 10, 64)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%.0f GB", float64(kb)/(1<<20))
}

func operatingSystem() string {
	name := runtime.GOOS
	if b, err := os.ReadFile("/etc/os-release"); err == nil {
		for line := range bytes.Lines(b) {
			if v, ok := strings.CutPrefix(string(line), "PRETTY_NAME="); ok {
				name = strings.Trim(strings.TrimSpace(v), `"`)
			}
		}
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		release, _, _ := strings.Cut(strings.TrimSpace(string(b)), "-")
		name += ", kernel " + release
	}
	return name
}

func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	f := strings.Fields(string(b))
	return strings.Join(f[:min(3, len(f))], " ")
}

func envoyVersion(ctx context.Context) string {
	binary, err := stack.EnvoyBinary(ctx)
	if err != nil {
		return ""
	}
	out, err := exec.CommandContext(ctx, binary, "--version").Output()
	if err != nil {
		return ""
	}
	// "envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL"
	if parts := strings.Split(string(out), "/"); len(parts) > 1 {
		for _, p := range parts {
			if strings.Count(p, ".") == 2 && p[0] >= '0' && p[0] <= '9' {
				return p
			}
		}
	}
	return ""
}

// commit names the state of the checkout, with a plus sign when it has changes.
func commit(ctx context.Context) string {
	root, err := stack.Root()
	if err != nil {
		return ""
	}
	git := func(args ...string) string {
		cmd := exec.CommandContext(ctx, "git", args...)
		cmd.Dir = root
		out, err := cmd.Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	id := git("rev-parse", "--short", "HEAD")
	if id != "" && git("status", "--porcelain", "--untracked-files=no") != "" {
		id += "+"
	}
	return id
}
