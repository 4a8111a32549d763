package e2e

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

// The openai package for Python, as people use it, meets nothing that it doesn't expect.
func TestOpenAIClient(t *testing.T) {
	python := clientPython(t)
	for _, profile := range []string{lean, fullDuplex} {
		t.Run(profile, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, plan{profile: profile, engines: fastEngines(2), env: []string{"ROUTING_STRATEGY=PREFIX_CACHE", "USAGE_SAMPLE=1"}})
			root, err := stack.Root()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), python, filepath.Join(root, "test", "clients", "openai_client.py"), s.url())
			cmd.Env = []string{"PYTHONUNBUFFERED=1"}
			out, err := cmd.CombinedOutput()
			t.Logf("%s", out)
			if err != nil {
				t.Errorf("the client found fault: %v", err)
			}
			if n := strings.Count(string(out), "ok "); n < 9 {
				t.Errorf("%d scenarios were run, expected 9", n)
			}
			s.wantIdle(t)
			s.wantNoBypass(t)
		})
	}
}

// clientPython gives a Python that has the client packages of test/clients.
func clientPython(t *testing.T) string {
	t.Helper()
	root, err := stack.Root()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(root, "test", "clients", "setup.sh"))
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("no Python with the client packages: %v\n%s", err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}
