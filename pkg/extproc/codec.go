package extproc

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec of every other message
	"google.golang.org/grpc/mem"
)

// codec reads and writes the messages of this package where they lie, and leaves every other message (health, EDS) to
// grpc's own. It is given to one server as an option, so that nothing changes for others in the process.
type codec struct{ standard encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

// Name is that of the standard codec, since the bytes are the same.
func (codec) Name() string { return "proto" }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if out, ok := v.(*outbound); ok {
		data := out.data
		out.data = nil
		return data, nil
	}
	return c.standard.Marshal(v)
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if in, ok := v.(*inbound); ok {
		return in.decode(data)
	}
	if c.standard == nil {
		return fmt.Errorf("extproc: no codec for %T", v)
	}
	return c.standard.Unmarshal(data, v)
}
