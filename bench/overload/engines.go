package overload

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/pilotfish-epp/pilotfish/bench/enginesim"
)

// The engines that are overfilled by default: the profile whose figures agree best with the measured ones, with few
// places each, so that two cores can drive several of them. Sixteen requests of the default shape fill half the KV
// cache, and so seldom more than the 0.8 from which on a pod counts as full: the places run out first.
const (
	DefaultEngines  = 8
	defaultProfile  = "rtx4090-llama8b"
	defaultSeqs     = 16
	defaultKVTokens = 20480
)

// EngineArgs are the arguments of `bench engine` for an engine that the load of this package overfills.
func EngineArgs() []string {
	return []string{"--profile", defaultProfile, "--max-num-seqs", fmt.Sprint(defaultSeqs), "--kv-tokens", fmt.Sprint(defaultKVTokens)}
}

// engines are simulated model servers in this process.
type engines []*enginesim.Server

func startEngines(n int, profile enginesim.Profile) (engines, error) {
	var all engines
	for i := range n {
		e, err := enginesim.New(enginesim.Options{Name: fmt.Sprintf("engine-%d", i), Profile: profile})
		if err == nil {
			err = e.Start("127.0.0.1:0")
		}
		if err != nil {
			return nil, errors.Join(err, all.close())
		}
		all = append(all, e)
	}
	return all, nil
}

func (es engines) close() error {
	var errs []error
	for _, e := range es {
		errs = append(errs, e.Close())
	}
	return errors.Join(errs...)
}

func (es engines) addrs() []netip.AddrPort {
	addrs := make([]netip.AddrPort, len(es))
	for i, e := range es {
		addrs[i] = netip.MustParseAddrPort(e.Addr()) // a listener's address is well-formed
	}
	return addrs
}

// stats are what each engine says of itself now.
func (es engines) stats() []enginesim.Stats {
	all := make([]enginesim.Stats, len(es))
	for i, e := range es {
		all[i] = e.Stats()
	}
	return all
}
