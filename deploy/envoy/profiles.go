// Package envoy holds the Envoy configurations of this folder for programs that run them: lean.yaml and
// full-duplex.yaml, complete bootstrap files with fixed addresses, as documented at their heads. The files are the
// product; this package only carries them. It does no I/O and costs their size, about 20 KB.
package envoy

import (
	"embed"
	"fmt"
	"strings"
)

//go:embed *.yaml
var files embed.FS

// Profiles names the configurations, in alphabetical order.
func Profiles() []string {
	entries, err := files.ReadDir(".")
	if err != nil {
		panic(err) // an embedded folder is always readable
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return names
}

// Profile returns the YAML of a configuration by its name, such as "lean".
func Profile(name string) ([]byte, error) {
	b, err := files.ReadFile(name + ".yaml")
	if err != nil {
		return nil, fmt.Errorf("no Envoy profile %q: expected one of %s", name, strings.Join(Profiles(), ", "))
	}
	return b, nil
}
