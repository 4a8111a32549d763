package extproc

import (
	"bytes"
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	modev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// chatBody is a chat request of n bytes or a little more.
func chatBody(n int) []byte {
	const head, tail = `{"model":"llama","messages":[{"role":"user","content":"`, `"}],"stream":false}`
	var b bytes.Buffer
	b.WriteString(head)
	for i := 0; b.Len() < n-len(tail); i++ {
		fmt.Fprintf(&b, "the %d-th word of a long story, ", i)
	}
	b.WriteString(tail)
	return b.Bytes()
}

func headers(pairs ...string) *corev3.HeaderMap {
	m := &corev3.HeaderMap{}
	for i := 0; i < len(pairs); i += 2 {
		m.Headers = append(m.Headers, &corev3.HeaderValue{Key: pairs[i], RawValue: []byte(pairs[i+1])})
	}
	return m
}

// conversation is what Envoy sends for one request in full duplex with a JSON answer.
func conversation(body []byte) []*extprocv3.ProcessingRequest {
	answer := []byte(`{"id":"chatcmpl-1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant",` +
		`"content":"once upon a time"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":4}}`)
	served, err := structpb.NewStruct(map[string]any{
		keyDestination: "10.0.0.1:8000", keyServed: "10.0.0.1:8000",
	})
	if err != nil {
		panic(err)
	}
	return []*extprocv3.ProcessingRequest{
		{
			Request: &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{Headers: headers(
				":authority", "gateway.example.com", ":path", "/v1/chat/completions", ":method", "POST", ":scheme", "http",
				"user-agent", "OpenAI/Python 2.6.0", "accept", "application/json", "accept-encoding", "gzip, deflate",
				"content-type", "application/json", "authorization", "Bearer EMPTY", "x-stainless-lang", "python",
				"x-stainless-os", "Linux", "x-stainless-arch", "x64", "x-stainless-runtime", "CPython",
				"content-length", fmt.Sprint(len(body)), "x-forwarded-for", "10.1.2.3", "x-forwarded-proto", "http",
				"x-request-id", "5b8f1c1e-6f0b-4b0e-8a51-0c8a4f5d9a11",
			)}},
			ProtocolConfig: &extprocv3.ProtocolConfiguration{
				RequestBodyMode:  modev3.ProcessingMode_FULL_DUPLEX_STREAMED,
				ResponseBodyMode: modev3.ProcessingMode_FULL_DUPLEX_STREAMED,
			},
		},
		{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{Body: body}}},
		{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{EndOfStream: true}}},
		{
			Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: &extprocv3.HttpHeaders{Headers: headers(
				":status", "200", "content-type", "application/json", "content-length", fmt.Sprint(len(answer)),
				"date", "Mon, 01 Jan 2029 00:00:00 GMT", "server", "uvicorn", "x-envoy-upstream-service-time", "12",
			)}},
			MetadataContext: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{metadataLB: served}},
		},
		{Request: &extprocv3.ProcessingRequest_ResponseBody{ResponseBody: &extprocv3.HttpBody{Body: answer}}},
		{Request: &extprocv3.ProcessingRequest_ResponseBody{ResponseBody: &extprocv3.HttpBody{EndOfStream: true}}},
	}
}
