package overload

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/cost"
	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

// thisMachine describes the machine as the other reports do. What it can't find out it leaves empty.
func thisMachine(ctx context.Context) cost.Machine {
	m := cost.Machine{
		CPU: firstValue("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(), OS: runtime.GOOS, Go: runtime.Version(),
		Date: time.Now().UTC().Truncate(time.Second), Load: loadAverage(),
	}
	if kb, err := strconv.ParseInt(strings.TrimSuffix(firstValue("/proc/meminfo", "MemTotal"), " kB"), 10, 64); err == nil {
		m.Memory = fmt.Sprintf("%.0f GB", float64(kb)/(1<<20))
	}
	if name := firstValue("/etc/os-release", "PRETTY_NAME"); name != "" {
		m.OS = strings.Trim(name, `"`)
	}
	if binary, err := stack.EnvoyBinary(ctx); err == nil {
		m.Envoy = regexp.MustCompile(`\d+\.\d+\.\d+`).FindString(output(ctx, binary, "--version"))
	}
	m.Commit = output(ctx, "git", "rev-parse", "--short", "HEAD")
	if m.Commit != "" && output(ctx, "git", "status", "--porcelain", "--untracked-files=no") != "" {
		m.Commit += "+"
	}
	return m
}

// firstValue finds the first "key : value" or "key=value" line of a file.
func firstValue(file, key string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range bytes.Lines(b) {
		at := strings.IndexAny(string(line), ":=")
		if at >= 0 && strings.TrimSpace(string(line[:at])) == key {
			return strings.TrimSpace(string(line[at+1:]))
		}
	}
	return ""
}

func output(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	f := strings.Fields(string(b))
	return strings.Join(f[:min(3, len(f))], " ")
}
