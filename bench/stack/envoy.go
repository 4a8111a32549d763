package stack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// EnvoyOptions say how to run an Envoy.
type EnvoyOptions struct {
	Name        string           // default "envoy"; unique within the stack
	Profile     string           // default "lean"
	Pickers     []netip.AddrPort // the pickers' ext_proc addresses; needed
	Plaintext   bool             // the pickers speak no TLS
	Pods        []netip.AddrPort // if set, the model servers, in place of asking the picker by EDS
	GatewayPort uint16           // default a free one
	AdminPort   uint16           // default a free one
	Concurrency int              // worker threads; default one for each processor
	LogLevel    string           // default "warning"
	AccessLog   string           // if set, the file of an access log, see Config.AccessLog

	// Mutate, if set, changes the configuration after all of the above.
	Mutate func(Config) error
	// OnLine is as in Spec.
	OnLine func(line string)
}

// Envoy is a running Envoy.
type Envoy struct {
	*Process
	Gateway netip.AddrPort // where requests go
	Admin   netip.AddrPort // the admin interface
}

// Envoy writes the configuration and starts Envoy with it. It returns when the gateway accepts connections; endpoints
// that come from a picker may still be on their way (see AwaitHosts).
func (s *Stack) Envoy(ctx context.Context, o EnvoyOptions) (*Envoy, error) {
	e, spec, err := s.prepareEnvoy(ctx, o)
	if err != nil {
		return nil, err
	}
	if e.Process, err = s.Start(ctx, spec); err != nil {
		return nil, err
	}
	return e, nil
}

func (s *Stack) prepareEnvoy(ctx context.Context, o EnvoyOptions) (*Envoy, Spec, error) {
	if o.Name == "" {
		o.Name = "envoy"
	}
	binary, err := EnvoyBinary(ctx)
	if err != nil {
		return nil, Spec{}, err
	}
	for _, port := range []*uint16{&o.GatewayPort, &o.AdminPort} {
		if err := s.defaultPort(port); err != nil {
			return nil, Spec{}, err
		}
	}
	config, err := o.config()
	if err != nil {
		return nil, Spec{}, fmt.Errorf("%s: %w", o.Name, err)
	}
	file := filepath.Join(s.dir, o.Name+".yaml")
	if err := os.WriteFile(file, config, 0o644); err != nil {
		return nil, Spec{}, fmt.Errorf("%s: %w", o.Name, err)
	}
	e := &Envoy{Gateway: loopback(o.GatewayPort), Admin: loopback(o.AdminPort)}
	return e, Spec{
		Name:   o.Name,
		Path:   binary,
		Args:   o.args(file),
		OnLine: o.OnLine,
		Ready: func(ctx context.Context) error {
			if _, err := e.admin(ctx, "/ready"); err != nil {
				return err
			}
			return dial(ctx, e.Gateway)
		},
	}, nil
}

func (o EnvoyOptions) args(file string) []string {
	level := o.LogLevel
	if level == "" {
		level = "warning"
	}
	args := []string{
		"-c", file, "--log-level", level,
		"--disable-hot-restart",             // it would keep a second Envoy from starting on this machine
		"--file-flush-interval-msec", "200", // of the access log; the default of 10 s is long for who waits for a line
	}
	if o.Concurrency > 0 {
		args = append(args, "--concurrency", strconv.Itoa(o.Concurrency))
	}
	return args
}

// config is the profile with the options put in.
func (o EnvoyOptions) config() ([]byte, error) {
	profile := o.Profile
	if profile == "" {
		profile = "lean"
	}
	if len(o.Pickers) == 0 {
		return nil, errors.New("no picker's address is given")
	}
	c, err := Profile(profile)
	if err != nil {
		return nil, err
	}
	errs := []error{
		c.setListen("admin", loopback(o.AdminPort)),
		c.setListen("static_resources/listeners/name=gateway", loopback(o.GatewayPort)),
		c.SetPickers(o.Pickers...),
	}
	if o.Plaintext {
		errs = append(errs, c.SetPlaintextPicker())
	}
	if o.Pods != nil {
		errs = append(errs, c.SetPods(o.Pods...))
	}
	if o.AccessLog != "" {
		errs = append(errs, c.AccessLog(o.AccessLog))
	}
	if o.Mutate != nil {
		errs = append(errs, o.Mutate(c))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return c.YAML()
}

// EnvoyBinary returns the path of an Envoy, by hack/fetch-envoy.sh of this repository: $ENVOY, the PATH, the cache,
// or fetched.
func EnvoyBinary(ctx context.Context) (string, error) {
	if path := os.Getenv("ENVOY"); path != "" {
		return path, nil
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(root, "hack", "fetch-envoy.sh"))
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("no Envoy: %w\n%s", err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// Root is the folder of the repository: the nearest one with a go.mod, upwards from the working directory.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("no go.mod in %s or above: run this inside the repository", dir)
		}
	}
}

// URL is the address of a path at the gateway.
func (e *Envoy) URL(path string) string { return "http://" + e.Gateway.String() + path }

// Stats reads Envoy's counters and gauges whose names match a regular expression, such as `^cluster\.pods\.`.
func (e *Envoy) Stats(ctx context.Context, filter string) (map[string]int64, error) {
	body, err := e.admin(ctx, "/stats?format=json&histogram_buckets=none&filter="+url.QueryEscape(filter))
	if err != nil {
		return nil, err
	}
	var page struct {
		Stats []struct {
			Name  string
			Value json.Number
		}
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return nil, fmt.Errorf("%s: stats: %w", e.Name(), err)
	}
	stats := make(map[string]int64, len(page.Stats))
	for _, s := range page.Stats {
		if n, err := s.Value.Int64(); err == nil { // histograms and texts have none
			stats[s.Name] = n
		}
	}
	return stats, nil
}

// Hosts lists the endpoints of a cluster as Envoy knows them now, healthy or not.
func (e *Envoy) Hosts(ctx context.Context, cluster string) ([]netip.AddrPort, error) {
	body, err := e.admin(ctx, "/clusters?format=json")
	if err != nil {
		return nil, err
	}
	var page struct {
		ClusterStatuses []struct {
			Name         string
			HostStatuses []struct {
				Address struct {
					SocketAddress struct {
						Address   string
						PortValue uint16 `json:"port_value"`
					} `json:"socket_address"`
				}
			} `json:"host_statuses"`
		} `json:"cluster_statuses"`
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return nil, fmt.Errorf("%s: clusters: %w", e.Name(), err)
	}
	for _, c := range page.ClusterStatuses {
		if c.Name != cluster {
			continue
		}
		hosts := make([]netip.AddrPort, 0, len(c.HostStatuses))
		for _, h := range c.HostStatuses {
			a := h.Address.SocketAddress
			ip, err := netip.ParseAddr(a.Address)
			if err != nil {
				return nil, fmt.Errorf("%s: cluster %s: %w", e.Name(), cluster, err)
			}
			hosts = append(hosts, netip.AddrPortFrom(ip, a.PortValue))
		}
		return hosts, nil
	}
	return nil, fmt.Errorf("%s has no cluster %q", e.Name(), cluster)
}

// AwaitHosts waits until a cluster has exactly n endpoints.
func (e *Envoy) AwaitHosts(ctx context.Context, cluster string, n int) error {
	return e.await(ctx, fmt.Sprintf("told of %d %s", n, cluster), func(ctx context.Context) error {
		hosts, err := e.Hosts(ctx, cluster)
		if err != nil {
			return err
		}
		if len(hosts) != n {
			return fmt.Errorf("it knows %d: %v", len(hosts), hosts)
		}
		return nil
	})
}

func (e *Envoy) admin(ctx context.Context, path string) ([]byte, error) {
	return get(ctx, "http://"+e.Admin.String()+path)
}

// get reads a page and takes any status but 200 for an error.
func get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Close = true // these are seldom, and a kept connection would outlive a restart
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: status %s: %.200s", url, resp.Status, body)
	}
	return body, nil
}

// dial says whether something accepts connections.
func dial(ctx context.Context, addr netip.AddrPort) error {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return err
	}
	return conn.Close()
}
