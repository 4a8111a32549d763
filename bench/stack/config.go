package stack

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/pilotfish-epp/pilotfish/deploy/envoy"
)

// Places in the profiles of deploy/envoy, for Config's methods.
const (
	HCM           = "static_resources/listeners/name=gateway/filter_chains/0/filters/0/typed_config" // the HTTP connection manager
	ExtProc       = HCM + "/http_filters/name=envoy.filters.http.ext_proc/typed_config"
	Route         = HCM + "/route_config/virtual_hosts/0/routes/0/route"
	PodsCluster   = "static_resources/clusters/name=pods"
	PickerCluster = "static_resources/clusters/name=picker"
)

// Config is an Envoy bootstrap file, parsed. Its methods take a path of keys and list positions, separated by
// slashes; key=value in place of a position is the element of a list that has it. A path that leads nowhere is an
// error, so that a change of the file can't silently turn a patch into nothing. Not for concurrent use.
type Config map[string]any

// Profile parses one of the files of deploy/envoy: "lean" or "full-duplex".
func Profile(name string) (Config, error) {
	b, err := envoy.Profile(name)
	if err != nil {
		return nil, err
	}
	return ParseConfig(b)
}

// ParseConfig parses an Envoy bootstrap file in YAML or JSON.
func ParseConfig(b []byte) (Config, error) {
	var c map[string]any // not Config, which the maps inside would then be too
	if err := yaml.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("envoy configuration: %w", err)
	}
	return Config(c), nil
}

// YAML is the file that Envoy reads.
func (c Config) YAML() ([]byte, error) { return yaml.Marshal(map[string]any(c)) }

// Get returns what is at a path.
func (c Config) Get(path string) (any, error) {
	var at any = map[string]any(c)
	for step := range strings.SplitSeq(path, "/") {
		next, ok := descend(at, step)
		if !ok {
			return nil, fmt.Errorf("envoy configuration: nothing at %q of %q", step, path)
		}
		at = next
	}
	return at, nil
}

// Replace puts a value in the place of another; it is an error if there is none.
func (c Config) Replace(path string, value any) error {
	if _, err := c.Get(path); err != nil {
		return err
	}
	return c.Put(path, value)
}

// Put sets a key of a map that exists, whether or not the key does.
func (c Config) Put(path string, value any) error {
	m, key, err := c.parent(path)
	if err != nil {
		return err
	}
	m[key] = value
	return nil
}

// Delete takes a key out of a map; it is an error if it isn't there.
func (c Config) Delete(path string) error {
	if _, err := c.Get(path); err != nil {
		return err
	}
	m, key, err := c.parent(path)
	if err != nil {
		return err
	}
	delete(m, key)
	return nil
}

func (c Config) parent(path string) (m map[string]any, key string, err error) {
	var above any = map[string]any(c)
	key = path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		key = path[i+1:]
		if above, err = c.Get(path[:i]); err != nil {
			return nil, "", err
		}
	}
	m, ok := above.(map[string]any)
	if !ok {
		return nil, "", fmt.Errorf("envoy configuration: %q is no key of a map", path)
	}
	return m, key, nil
}

func descend(at any, step string) (any, bool) {
	switch at := at.(type) {
	case map[string]any:
		v, ok := at[step]
		return v, ok
	case []any:
		if key, value, ok := strings.Cut(step, "="); ok {
			for _, element := range at {
				if m, ok := element.(map[string]any); ok && m[key] == value {
					return m, true
				}
			}
			return nil, false
		}
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(at) {
			return at[i], true
		}
	}
	return nil, false
}

// SetPickers replaces the addresses of the pickers.
func (c Config) SetPickers(addrs ...netip.AddrPort) error {
	return c.Replace(PickerCluster+"/load_assignment/endpoints", hosts(addrs))
}

// SetPlaintextPicker makes Envoy speak to the picker without TLS.
func (c Config) SetPlaintextPicker() error { return c.Delete(PickerCluster + "/transport_socket") }

// SetPods gives the model servers' addresses to Envoy itself in place of asking the picker, which then need not
// serve EDS.
func (c Config) SetPods(addrs ...netip.AddrPort) error {
	if err := c.Delete(PodsCluster + "/eds_cluster_config"); err != nil {
		return err
	}
	if err := c.Replace(PodsCluster+"/type", "STATIC"); err != nil {
		return err
	}
	return c.Put(PodsCluster+"/load_assignment", map[string]any{"cluster_name": "pods", "endpoints": hosts(addrs)})
}

// RemoveExtProc takes the picker out of the requests' way, for comparisons; its cluster stays.
func (c Config) RemoveExtProc() error {
	if _, err := c.Get(ExtProc); err != nil {
		return err
	}
	v, err := c.Get(HCM + "/http_filters")
	if err != nil {
		return err
	}
	var kept []any
	for _, filter := range v.([]any) { // Get has gone through it as a list above
		if m, ok := filter.(map[string]any); !ok || m["name"] != "envoy.filters.http.ext_proc" {
			kept = append(kept, filter)
		}
	}
	return c.Replace(HCM+"/http_filters", kept)
}

// AccessLog has Envoy write a line of JSON for each request that has ended: what came, what was answered and why,
// where the picker wanted it and where it went, how often it was tried, and how long it took in milliseconds.
func (c Config) AccessLog(file string) error {
	return c.Put(HCM+"/access_log", []any{map[string]any{
		"name": "envoy.access_loggers.file",
		"typed_config": map[string]any{
			"@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
			"path":  file,
			"log_format": map[string]any{"json_format": map[string]any{
				"time":        "%START_TIME%",
				"method":      "%REQ(:METHOD)%",
				"path":        "%REQ(:PATH)%",
				"request_id":  "%REQ(X-REQUEST-ID)%",
				"received":    "%BYTES_RECEIVED%",
				"status":      "%RESPONSE_CODE%",
				"details":     "%RESPONSE_CODE_DETAILS%",
				"flags":       "%RESPONSE_FLAGS%",
				"sent":        "%BYTES_SENT%",
				"picked":      "%REQ(X-GATEWAY-DESTINATION-ENDPOINT)%",
				"served":      "%UPSTREAM_HOST%",
				"attempts":    "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
				"duration_ms": "%DURATION%",
			}},
		},
	}})
}

func (c Config) setListen(path string, addr netip.AddrPort) error {
	return c.Replace(path+"/address/socket_address", socketAddress(addr))
}

func hosts(addrs []netip.AddrPort) []any {
	list := make([]any, 0, len(addrs))
	for _, a := range addrs {
		list = append(list, map[string]any{"endpoint": map[string]any{"address": map[string]any{"socket_address": socketAddress(a)}}})
	}
	return []any{map[string]any{"lb_endpoints": list}}
}

func socketAddress(a netip.AddrPort) map[string]any {
	return map[string]any{"address": a.Addr().String(), "port_value": int(a.Port())}
}
