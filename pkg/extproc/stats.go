package extproc

import (
	"sync"
	"sync/atomic"

	"github.com/pilotfish-epp/pilotfish/pkg/routing"
)

// Stats are the figures of a Server since its start; Streams and BufferedBytes are of this moment.
type Stats struct {
	Streams       int64            // ext_proc streams open
	BufferedBytes int64            // bytes of request bodies held
	Malformed     int64            // streams that ended in a gRPC error, since a message could not be read
	Panics        int64            // streams that a fault of the picker ended
	Modes         map[Modes]int64  // streams by the body modes of the proxy
	Refused       map[string]int64 // requests answered here, by the code in the error
}

// Modes are the body modes of a stream, by the names of ProcessingMode.BodySendMode.
type Modes struct{ Request, Response string }

const modeCount = int(modeGRPC) + 1

var modeNames = [modeCount]string{"NONE", "STREAMED", "BUFFERED", "BUFFERED_PARTIAL", "FULL_DUPLEX_STREAMED", "GRPC"}

func (b bodyMode) String() string { return modeNames[b] }

type counters struct {
	streams, malformed, panics atomic.Int64
	modes                      [modeCount][modeCount]atomic.Int64

	mu       sync.Mutex
	refusals map[string]int64 // codes are few: they come from this module alone
}

func (c *counters) mode(request, response bodyMode) { c.modes[request][response].Add(1) }

func (c *counters) refused(r *routing.Refusal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refusals == nil {
		c.refusals = map[string]int64{}
	}
	c.refusals[r.Code]++
}

// Stats gives the figures now.
func (s *Server) Stats() Stats {
	c := &s.counters
	out := Stats{
		Streams: c.streams.Load(), BufferedBytes: s.buffered.Load(), Malformed: c.malformed.Load(), Panics: c.panics.Load(),
		Modes: map[Modes]int64{}, Refused: map[string]int64{},
	}
	for request := range c.modes {
		for response := range c.modes[request] {
			if n := c.modes[request][response].Load(); n > 0 {
				out.Modes[Modes{modeNames[request], modeNames[response]}] = n
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for code, n := range c.refusals {
		out.Refused[code] = n
	}
	return out
}
