package metrics

import (
	"context"
	"errors"
	"net"
)

// Reason says in a word why a page couldn't be read. There are few, so that it can be a label.
type Reason string

// The reasons.
const (
	Unreachable Reason = "unreachable" // no connection, or it broke
	Timeout     Reason = "timeout"     // no whole page within SCRAPE_TIMEOUT
	Status      Reason = "status"      // an answer other than 200
	TooLarge    Reason = "too_large"   // more than 4 MiB
	Malformed   Reason = "malformed"   // no Prometheus text
	Foreign     Reason = "foreign"     // a page without the metrics of the pod's runtime
	NoRuntime   Reason = "no_runtime"  // the pod names a runtime that isn't known
)

// Failure is a page that couldn't be read. Its text names what was expected and what came.
type Failure struct {
	Reason Reason
	Err    error
}

func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap gives the cause.
func (f *Failure) Unwrap() error { return f.Err }

func failure(reason Reason, err error) error { return &Failure{reason, err} }

// reasonOf gives the reason of an error that this package made.
func reasonOf(err error) Reason {
	var f *Failure
	if errors.As(err, &f) {
		return f.Reason
	}
	return classify(err)
}

// classify gives the reason for an error of the network.
func classify(err error) Reason {
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return Timeout
	}
	return Unreachable
}

// answered says whether something did answer at that address, so that the page may be at another path.
func answered(err error) bool {
	switch reasonOf(err) {
	case Status, Malformed, Foreign:
		return true
	}
	return false
}
