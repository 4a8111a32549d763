package extproc

import (
	"bytes"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	modev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
)

// reading is what a message says, in a form that both ways of reading it can be brought to.
type reading struct {
	Kind                      kind
	EndOfStream               bool
	Headers                   [][2]string
	Body                      string
	HasModes                  bool
	RequestMode, ResponseMode bodyMode
	Observability             bool
	HasSubset                 bool
	Subset                    []string
	Served                    string
}

func readingOf(m *inbound) reading {
	r := reading{
		Kind: m.kind, EndOfStream: m.endOfStream, HasModes: m.hasModes, RequestMode: m.requestMode, ResponseMode: m.responseMode,
		Observability: m.observability, HasSubset: m.hasSubset, Served: string(m.served),
	}
	for _, h := range m.headers {
		r.Headers = append(r.Headers, [2]string{string(h.name), string(h.value)})
	}
	for _, part := range m.body {
		r.Body += string(part.bytes())
	}
	for _, item := range m.subset {
		r.Subset = append(r.Subset, string(item))
	}
	return r
}

func readingOfGenerated(p *extprocv3.ProcessingRequest) reading {
	r := reading{Observability: p.ObservabilityMode}
	head := func(k kind, h *extprocv3.HttpHeaders) {
		r.Kind, r.EndOfStream = k, h.GetEndOfStream()
		for _, h := range h.GetHeaders().GetHeaders() {
			value := h.Value
			if len(h.RawValue) > 0 {
				value = string(h.RawValue)
			}
			r.Headers = append(r.Headers, [2]string{h.Key, value})
		}
	}
	body := func(k kind, b *extprocv3.HttpBody) {
		r.Kind, r.Body, r.EndOfStream = k, string(b.GetBody()), b.GetEndOfStream() || b.GetEndOfStreamWithoutMessage()
	}
	switch m := p.Request.(type) {
	case *extprocv3.ProcessingRequest_RequestHeaders:
		head(requestHeaders, m.RequestHeaders)
	case *extprocv3.ProcessingRequest_ResponseHeaders:
		head(responseHeaders, m.ResponseHeaders)
	case *extprocv3.ProcessingRequest_RequestBody:
		body(requestBody, m.RequestBody)
	case *extprocv3.ProcessingRequest_ResponseBody:
		body(responseBody, m.ResponseBody)
	case *extprocv3.ProcessingRequest_RequestTrailers:
		r.Kind = requestTrailers
	case *extprocv3.ProcessingRequest_ResponseTrailers:
		r.Kind = responseTrailers
	}
	if c := p.ProtocolConfig; c != nil {
		r.HasModes = true
		r.RequestMode, r.ResponseMode = modeOf(uint64(c.RequestBodyMode)), modeOf(uint64(c.ResponseBodyMode))
	}
	if v, ok := p.GetMetadataContext().GetFilterMetadata()[metadataSubset].GetFields()[keySubset]; ok {
		r.HasSubset = true
		switch v := v.GetKind().(type) {
		case *structpb.Value_StringValue:
			r.Subset = []string{v.StringValue}
		case *structpb.Value_ListValue:
			for _, item := range v.ListValue.GetValues() {
				if s, ok := item.GetKind().(*structpb.Value_StringValue); ok {
					r.Subset = append(r.Subset, s.StringValue)
				}
			}
		}
	}
	r.Served = p.GetMetadataContext().GetFilterMetadata()[metadataLB].GetFields()[keyServed].GetStringValue()
	return r
}

// seeds are messages of every kind, whole and in pieces that have to be merged.
func seeds() [][]byte {
	var all [][]byte
	add := func(messages ...*extprocv3.ProcessingRequest) {
		var b []byte
		for _, m := range messages {
			b, _ = proto.MarshalOptions{}.MarshalAppend(b, m)
		}
		all = append(all, b)
	}
	messages := conversation(chatBody(100))
	for _, m := range messages {
		add(m)
	}
	add(messages[0], messages[0])
	add(messages[0], messages[1], messages[2])
	add(messages[1], messages[2])
	add(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestTrailers{
		RequestTrailers: &extprocv3.HttpTrailers{Trailers: headers("a", "b")},
	}})
	add(&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseBody{
		ResponseBody: &extprocv3.HttpBody{EndOfStreamWithoutMessage: true},
	}, ObservabilityMode: true})
	for _, v := range []*structpb.Value{
		structpb.NewStringValue("10.0.0.1:8000,10.0.0.2:8000"), structpb.NewNullValue(), structpb.NewBoolValue(true),
		structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{
			structpb.NewStringValue("10.0.0.1:8000"), structpb.NewNumberValue(3), structpb.NewStringValue(""),
		}}),
	} {
		m := &extprocv3.ProcessingRequest{Attributes: map[string]*structpb.Struct{"x": {}}}
		hint(m, metadataSubset, keySubset, v)
		hint(m, metadataLB, keyServed, v)
		hint(m, "envoy.other", "x", v)
		add(m)
		add(m, m)
	}
	return all
}

// FuzzDecode holds the decoder to the generated types: whatever they take is taken and means the same, however it is
// cut into buffers. They take less: they look into fields that nothing is wanted of, and want UTF-8.
func FuzzDecode(f *testing.F) {
	for _, seed := range seeds() {
		f.Add(seed, uint8(0))
		f.Add(seed, uint8(5))
	}
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		var generated extprocv3.ProcessingRequest
		refused := proto.Unmarshal(data, &generated)

		var whole, cut inbound
		wholeErr := whole.decode(mem.BufferSlice{mem.SliceBuffer(data)})
		var parts mem.BufferSlice
		for part := range slices.Chunk(data, max(1, int(size))) {
			parts = append(parts, mem.SliceBuffer(part))
		}
		cutErr := cut.decode(parts)
		if (wholeErr == nil) != (cutErr == nil) {
			t.Fatalf("whole: %v; cut: %v", wholeErr, cutErr)
		}
		if diff := cmp.Diff(readingOf(&whole), readingOf(&cut)); diff != "" {
			t.Fatalf("cut into pieces it means something else:\n%s", diff)
		}
		if refused != nil {
			return
		}
		if wholeErr != nil {
			t.Fatalf("refused what the generated types take: %v", wholeErr)
		}
		if diff := cmp.Diff(readingOfGenerated(&generated), readingOf(&whole)); diff != "" {
			t.Fatalf("-generated +decoded:\n%s", diff)
		}
	})
}

func TestDecodeRefuses(t *testing.T) {
	whole, err := proto.Marshal(conversation(chatBody(100))[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"a field number of 0":                    {0x02, 0x00},
		"a length beyond the message":            {0x12, 0x05, 0x0a},
		"a length of 2^63":                       {0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"a varint without end":                   {0x50, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
		"a wire type that is none":               {0x57, 0x00},
		"an end of a group that never began":     {0x54},
		"a group without end":                    {0x53, 0x08, 0x01},
		"a fixed field cut short":                {0x55, 0x00, 0x00},
		"a body beyond its message":              {0x22, 0x02, 0x0a, 0x05, 'a', 'b', 'c', 'd', 'e'},
		"headers cut short":                      whole[:len(whole)/2],
		"an unknown field beyond the body's end": {0x22, 0x02, 0x7a, 0x04, 0, 0, 0, 0},
	} {
		var m inbound
		if err := m.decode(mem.BufferSlice{mem.SliceBuffer(data)}); err == nil {
			t.Errorf("%s is taken: %+v", name, readingOf(&m))
		}
		if proto.Unmarshal(data, &extprocv3.ProcessingRequest{}) == nil {
			t.Errorf("%s: the generated types take it", name)
		}
	}
}

// FuzzEncode holds the encoder to the generated types: what it writes reads as what they would have written.
func FuzzEncode(f *testing.F) {
	f.Add(uint8(2), uint8(0xff), "10.0.0.1:8000", "x-gateway-inference-objective", []byte("body"), true)
	f.Add(uint8(4), uint8(0x00), "", "", []byte{}, false)
	f.Add(uint8(5), uint8(0x13), "[fd00::1]:8000", "x", bytes.Repeat([]byte("b"), 70000), true)
	f.Fuzz(func(t *testing.T, which, features uint8, destination, name string, body []byte, endOfStream bool) {
		k := kind(which%6) + requestHeaders
		m := &mutation{clearRouteCache: features&1 != 0}
		common := &extprocv3.CommonResponse{ClearRouteCache: m.clearRouteCache}
		want := &extprocv3.ProcessingResponse{}
		if features&2 != 0 {
			m.set = []set{{name, destination}, {"second", "value"}}
			m.remove = []string{name, "other"}
			common.HeaderMutation = &extprocv3.HeaderMutation{
				SetHeaders: []*corev3.HeaderValueOption{setting(name, destination), setting("second", "value")}, RemoveHeaders: m.remove,
			}
		}
		if features&4 != 0 && destination != "" {
			m.destination = destination
			want.DynamicMetadata = destinationOf(destination).DynamicMetadata
		}
		if features&8 != 0 {
			m.override = &modeOverride{requestMode: modeBuffered, responseMode: modeStreamed}
			want.ModeOverride = &modev3.ProcessingMode{
				ResponseHeaderMode: modev3.ProcessingMode_SEND, RequestBodyMode: modev3.ProcessingMode_BUFFERED,
				ResponseBodyMode: modev3.ProcessingMode_STREAMED, ResponseTrailerMode: modev3.ProcessingMode_SEND,
			}
		}
		var e encoder
		var data mem.BufferSlice
		views := []mem.Buffer{mem.SliceBuffer(body[:len(body)/3]), mem.SliceBuffer(body[len(body)/3:])}
		isBody := k == requestBody || k == responseBody
		switch {
		case isBody && features&16 != 0:
			data = e.chunk(k, views, len(body), endOfStream, m)
			common.BodyMutation = streamed(body, endOfStream).BodyMutation
		case isBody && features&32 != 0:
			data = e.replaced(k, views, len(body), m)
			common.BodyMutation = &extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_Body{Body: body}}
			if len(body) == 0 {
				common.BodyMutation = &extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_ClearBody{ClearBody: true}}
			}
		default:
			data = e.answer(k, m)
		}
		switch k {
		case requestHeaders:
			want.Response = &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{Response: common}}
		case responseHeaders:
			want.Response = &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extprocv3.HeadersResponse{Response: common}}
		case requestBody:
			want.Response = &extprocv3.ProcessingResponse_RequestBody{RequestBody: &extprocv3.BodyResponse{Response: common}}
		case responseBody:
			want.Response = &extprocv3.ProcessingResponse_ResponseBody{ResponseBody: &extprocv3.BodyResponse{Response: common}}
		case requestTrailers:
			want.Response = &extprocv3.ProcessingResponse_RequestTrailers{RequestTrailers: &extprocv3.TrailersResponse{}}
		case responseTrailers:
			want.Response = &extprocv3.ProcessingResponse_ResponseTrailers{ResponseTrailers: &extprocv3.TrailersResponse{}}
		}
		// Brought to bytes first: what the generated types can't write, they can't be compared with.
		canonical := proto.MarshalOptions{Deterministic: true}
		expected, err := canonical.Marshal(want)
		if err != nil {
			t.Skip()
		}
		var got extprocv3.ProcessingResponse
		if err := proto.Unmarshal(data.Materialize(), &got); err != nil {
			t.Fatalf("an answer that is none: %v", err)
		}
		again, err := canonical.Marshal(&got)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again, expected) {
			t.Fatalf("got %v\nwant %v", &got, want)
		}
	})
}

func setting(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: name, RawValue: []byte(value)},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

func TestPlainAnswers(t *testing.T) {
	for k := requestHeaders; k <= responseTrailers; k++ {
		var e encoder
		var plain, empty extprocv3.ProcessingResponse
		if err := proto.Unmarshal(e.answer(k, nil).Materialize(), &plain); err != nil {
			t.Fatal(err)
		}
		if err := proto.Unmarshal(e.answer(k, &mutation{}).Materialize(), &empty); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(&plain, &empty) {
			t.Errorf("kind %d: plain %v, changing nothing %v", k, &plain, &empty)
		}
	}
}
