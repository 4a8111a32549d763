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
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveMinimum, PermitWithoutStream: true}),
	}
	if security != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(security)))
	}
	return options
}
