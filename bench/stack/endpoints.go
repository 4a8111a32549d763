package stack

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"
)

// Endpoint is one model server in a picker's endpoints file.
type Endpoint struct {
	Name        string            `yaml:"name,omitempty"`
	Address     string            `yaml:"address"`
	Port        uint16            `yaml:"port"`
	MetricsPort uint16            `yaml:"metricsPort,omitempty"`
	Runtime     string            `yaml:"runtime,omitempty"`
	Labels      map[string]string `yaml:"labels,omitempty"`
}

// At is an endpoint at an address.
func At(name string, addr netip.AddrPort) Endpoint {
	return Endpoint{Name: name, Address: addr.Addr().String(), Port: addr.Port()}
}

// WriteEndpoints writes an endpoints file in one step, so that a picker that watches it never reads half of it.
func WriteEndpoints(file string, endpoints ...Endpoint) error {
	b, err := yaml.Marshal(map[string][]Endpoint{"endpoints": endpoints})
	if err != nil {
		return fmt.Errorf("endpoints file: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".endpoints-*")
	if err != nil {
		return fmt.Errorf("endpoints file: %w", err)
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(b); err != nil {
		return fmt.Errorf("endpoints file: %w", err)
	}
	if err := tmp.Close(); err != nil {
		return fmt.Errorf("endpoints file: %w", err)
	}
	return os.Rename(tmp.Name(), file)
}
