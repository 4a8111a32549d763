package discovery

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pilotfish-epp/pilotfish/pkg/pool"
)

// resolveTimeout bounds one look-up of a host name.
const resolveTimeout = 3 * time.Second

// Resolver finds the addresses of a host name; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// hosts knows the addresses of host names as they were last found. One goroutine owns it.
type hosts struct {
	resolver Resolver
	logger   *slog.Logger
	known    map[string][]netip.Addr // last good answer, sorted
	failing  map[string]bool         // hosts whose last look-up failed
	names    map[place]string        // names given to endpoints, so that they stay
}

// place is one address of one entry.
type place struct {
	entry string
	ip    netip.Addr
}

func newHosts(resolver Resolver, logger *slog.Logger) *hosts {
	return &hosts{
		resolver: resolver, logger: logger,
		known: map[string][]netip.Addr{}, failing: map[string]bool{}, names: map[place]string{},
	}
}

// refresh looks up the hosts of entries, all at once. A host that can't be found keeps the addresses that it had.
func (h *hosts) refresh(ctx context.Context, entries []entry) {
	wanted := map[string]bool{}
	for _, e := range entries {
		if e.host != "" {
			wanted[e.host] = true
		}
	}
	for host := range h.known {
		if !wanted[host] {
			delete(h.known, host)
			delete(h.failing, host)
		}
	}
	var all sync.WaitGroup
	var mu sync.Mutex // guards h while look-ups end
	for host := range wanted {
		all.Go(func() {
			ips, err := h.lookup(ctx, host)
			mu.Lock()
			defer mu.Unlock()
			h.answer(ctx, host, ips, err)
		})
	}
	all.Wait()
}

func (h *hosts) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	ips, err := h.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var good []netip.Addr
	for _, ip := range ips {
		if ip = ip.Unmap(); ip.IsValid() && ip.Zone() == "" && !ip.IsUnspecified() {
			good = append(good, ip)
		}
	}
	if len(good) == 0 {
		return nil, errors.New("the answer has no address that can be used")
	}
	slices.SortFunc(good, netip.Addr.Compare)
	return slices.Compact(good), nil
}

func (h *hosts) answer(ctx context.Context, host string, ips []netip.Addr, err error) {
	switch {
	case ctx.Err() != nil:
	case err != nil && !h.failing[host]:
		h.failing[host] = true
		h.logger.Warn("host name can't be resolved; its last known addresses stay", "host", host, "addresses", h.known[host], "error", reason(err))
	case err == nil:
		if h.failing[host] {
			delete(h.failing, host)
			h.logger.Info("host name is resolved again", "host", host, "addresses", ips)
		}
		h.known[host] = ips
	}
}

// reason leaves out of a resolver's error what the log line says already.
func reason(err error) string {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return cmp.Or(dns.Err, err.Error())
	}
	return err.Error()
}

// endpoints gives an endpoint for each address of each entry, with ip and port only.
func (h *hosts) endpoints(entries []entry) []pool.Endpoint {
	var out []pool.Endpoint
	for _, e := range entries {
		ips := []netip.Addr{e.ip}
		if e.host != "" {
			ips = h.known[e.host]
		}
		for _, ip := range ips {
			out = append(out, pool.Endpoint{
				Name: h.name(e.name, ip, len(ips)), Address: netip.AddrPortFrom(ip, e.port),
				MetricsPort: e.metricsPort, Runtime: e.runtime, Labels: e.labels,
			})
		}
	}
	return out
}

// name gives the name of an entry's address: with the address, when the entry has several. A name once given stays, so
// that a pod isn't taken for another one when its neighbours come and go.
func (h *hosts) name(name string, ip netip.Addr, several int) string {
	at := place{name, ip}
	if given, ok := h.names[at]; ok {
		return given
	}
	given := name
	if several > 1 || h.taken(name) {
		given = name + "-" + ip.String()
	}
	h.names[at] = given
	return given
}

// taken says whether an address that still counts has the entry's plain name.
func (h *hosts) taken(name string) bool {
	for at, given := range h.names {
		if at.entry == name && given == name {
			return true
		}
	}
	return false
}

// forget drops the names of addresses that are no longer there.
func (h *hosts) forget(entries []entry) {
	now := map[place]bool{}
	for _, e := range entries {
		now[place{e.name, e.ip}] = true
		for _, ip := range h.known[e.host] {
			now[place{e.name, ip}] = true
		}
	}
	for at := range h.names {
		if !now[at] {
			delete(h.names, at)
		}
	}
}

// unknown says whether a host of entries was never resolved.
func (h *hosts) unknown(entries []entry) bool {
	for _, e := range entries {
		if e.host != "" && h.known[e.host] == nil {
			return true
		}
	}
	return false
}

// failures lists the hosts whose last look-up failed.
func (h *hosts) failures() []string { return slices.Sorted(maps.Keys(h.failing)) }
