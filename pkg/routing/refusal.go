package routing

import (
	"fmt"
	"net/http"
	"time"
)

// noPodRetry is the Retry-After of a request that found no pod: about the time in which a pool gets its first one.
const noPodRetry = 5 * time.Second

// shutdownRetry is the Retry-After of a request that meets a process that ends: others serve on.
const shutdownRetry = time.Second

// shedRetry is the Retry-After of a request that was shed, where nothing is known of how fast a queue drains.
const shedRetry = 5 * time.Second

func noEndpoints(message string) *Refusal {
	return &Refusal{
		Status: http.StatusServiceUnavailable, Code: "no_endpoints", Reason: ReasonNoEndpoints, RetryAfter: noPodRetry, Message: message,
	}
}

func saturated(priority int) *Refusal {
	return &Refusal{
		Status: http.StatusTooManyRequests, Code: "saturated", Reason: ReasonSaturated, RetryAfter: shedRetry,
		Message: fmt.Sprintf("every server is saturated, and requests of priority %d are shed then; try again later", priority),
	}
}

func shuttingDown() *Refusal {
	return &Refusal{
		Status: http.StatusServiceUnavailable, Code: "shutting_down", Reason: ReasonShuttingDown, RetryAfter: shutdownRetry,
		Message: "this endpoint picker is shutting down; try again",
	}
}

func cancelled() *Refusal {
	return &Refusal{
		Status: http.StatusServiceUnavailable, Code: "cancelled", Reason: ReasonCancelled,
		Message: "the client left while its request waited",
	}
}
