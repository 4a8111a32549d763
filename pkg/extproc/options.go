package extproc

import (
	"crypto/tls"
	"math"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// Keepalive: a proxy that vanished is noticed within a minute, and one that asks often is not sent away.
const (
	keepaliveTime    = 40 * time.Second
	keepaliveTimeout = 20 * time.Second
	keepaliveMinimum = time.Second
)

// streamWorkers is how many goroutines stay between streams. A new goroutine's stack is copied two or three times until
// it has the size that a stream needs: a tenth of the CPU of a stream with a small body. When all are busy, as with
// long answers, a stream gets a goroutine of its own as ever.
const streamWorkers = 32

// Windows of flow control. They are fixed, which saves the pings that estimate them, and large enough for a whole prompt;
// what a stream that nobody reads can pile up is bounded by its own.
const (
	streamWindow     = 1 << 20
	connectionWindow = 4 << 20
)

// ServerOptions are the options of a grpc.Server that serves ext_proc, and anything else beside it: the codec of this
// package's messages, no bound on the size of messages and the number of streams, keepalive, and TLS if security is
// not nil.
//
// Bodies have bounds of their own (MAX_REQUEST_BODY, MAX_BUFFERED), which are answered instead of breaking the stream.
// grpc hands a message over when it has it whole, so one message that is far above them takes its size in memory until
// it is answered; how much a proxy puts into one message is bounded there (Envoy's per_connection_buffer_limit_bytes).
func ServerOptions(security *tls.Config) []grpc.ServerOption {
	options := []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(math.MaxInt32),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxConcurrentStreams(math.MaxUint32),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connectionWindow),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveMinimum, PermitWithoutStream: true}),
	}
	if security != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(security)))
	}
	return options
}
