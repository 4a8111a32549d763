package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"

	"github.com/pilotfish-epp/pilotfish/pkg/settings"
)

// listeners are the three open ports.
type listeners struct{ grpc, health, admin net.Listener }

// listen opens all ports or none: a picker that serves half of what it should would be harder to understand than one
// that says which port is taken.
func listen(v *settings.Values) (l listeners, err error) {
	for _, port := range []struct {
		at     *net.Listener
		number int
		name   string
	}{
		{&l.grpc, v.GRPCPort, "GRPC_PORT"},
		{&l.health, v.GRPCHealthPort, "GRPC_HEALTH_PORT"},
		{&l.admin, v.MetricsPort, "METRICS_PORT"},
	} {
		address := net.JoinHostPort(v.BindAddress, strconv.Itoa(port.number))
		if *port.at, err = net.Listen("tcp", address); err != nil {
			l.close()
			return listeners{}, explainListen(err, port.name, port.number, address)
		}
	}
	return l, nil
}

func explainListen(err error, name string, number int, address string) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s: port %d is in use by another process (%s); choose another with the variable %s or the flag --%s",
			name, number, address, name, kebab(name))
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("BIND_ADDRESS: this machine has no such address: %w", err)
	}
	return fmt.Errorf("%s: listening on %s: %w", name, address, err)
}

func (l *listeners) close() {
	for _, one := range []net.Listener{l.grpc, l.health, l.admin} {
		if one != nil {
			_ = one.Close() // nothing was served
		}
	}
}
