// Package extproc speaks Envoy's ext_proc: one gRPC stream is one HTTP request and its answer.
//
// It promises an answer to every message in the form that the body mode of its direction asks for, that bodies pass
// byte for byte, and that a request which can't be served ends in an ImmediateResponse: a gRPC error is left for
// messages that are no protobuf. Whatever happens, the request's ticket is finished exactly once. Request bodies are
// held until the pick, up to a bound for each and for the process; response bodies are never held. It costs no
// goroutine beside grpc's own, and bytes of bodies are copied only where they have to be joined.
//
// Who owns bytes: an inbound holds references to the buffers that its message came in, from decode to release, and all
// that it gives out are views that end with it. A body takes a reference of its own or a copy, and gives it up in free.
// Views that go into an answer hold references of their own, which pass to grpc with the answer: grpc frees them when
// the bytes are on the wire. So a buffer goes back to its pool as soon as nobody needs it, whoever that was.
package extproc
