package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/pilotfish-epp/pilotfish/pkg/telemetry"
)

// Set when a release is linked: -ldflags "-X main.version=v1.2.3 -X main.commit=…". Nothing else writes to them.
var version, commit string

// build is which build of the picker this is.
type build struct {
	telemetry.Build
	modified bool // the source had changes that are not in the commit
}

// thisBuild reads what was linked in, and what the Go toolchain knows where nothing was.
func thisBuild() build {
	b := build{Build: telemetry.Build{Version: version, Commit: commit}}
	if info, ok := debug.ReadBuildInfo(); ok {
		if b.Version == "" {
			b.Version = info.Main.Version
		}
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision" && b.Commit == "":
				b.Commit = s.Value
			case s.Key == "vcs.modified":
				b.modified = s.Value == "true"
			}
		}
	}
	if b.Version == "" {
		b.Version = "(devel)"
	}
	if b.Commit == "" {
		b.Commit = "unknown"
	}
	return b
}

// String is the line that `epp version` prints.
func (b build) String() string {
	state := ""
	if b.modified {
		state = ", modified"
	}
	return fmt.Sprintf("epp %s (commit %s%s, %s, %s/%s)", b.Version, b.Commit, state, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
