package request_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pilotfish-epp/pilotfish/pkg/request"
)

func readUsage(sse bool, chunks ...string) (request.Usage, bool) {
	var u request.UsageReader
	u.Reset(sse)
	for _, c := range chunks {
		u.Write([]byte(c))
	}
	return u.Usage(), u.FirstToken()
}

var usageSamples = []struct {
	name  string
	sse   bool
	body  string
	want  request.Usage
	first bool
}{
	{
		"chat", false,
		`{"id":"c","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"}}],"usage":{"prompt_tokens":11,"total_tokens":14,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":8},"completion_tokens_details":{"reasoning_tokens":99}}}`,
		request.Usage{Prompt: 11, Cached: 8, Completion: 3, Present: true},
		false,
	},
	{"usage first, no details", false, "{\"usage\" : {\"prompt_tokens\" : 11 ,\n\"prompt_tokens_details\":null,\"completion_tokens\":3\n}}", request.Usage{Prompt: 11, Completion: 3, Present: true}, false},
	{"no usage", false, `{"object":"list","usage":null,"data":[1,2]}`, request.Usage{}, false},
	{
		"the word in generated text", false,
		`{"choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":1} \\"},"usage":{"prompt_tokens":2}}],"metadata":{"usage":{"prompt_tokens":3}}}`,
		request.Usage{},
		false,
	},
	{"responses", false, `{"object":"response","output":[],"usage":{"input_tokens":7,"input_tokens_details":{"cached_tokens":4},"output_tokens":2}}`, request.Usage{Prompt: 7, Cached: 4, Completion: 2, Present: true}, false},
	{
		"Anthropic", false, `{"type":"message","content":[{"type":"text","text":"Hi"}],"usage":{"input_tokens":5,"cache_creation_input_tokens":10,"cache_read_input_tokens":100,"output_tokens":2}}`,
		request.Usage{Prompt: 115, Cached: 100, Completion: 2, Present: true},
		false,
	},
	{"SGLang", false, `{"text":"Hi","meta_info":{"prompt_tokens":6,"completion_tokens":2,"cached_tokens":3}}`, request.Usage{Prompt: 6, Cached: 3, Completion: 2, Present: true}, false},
	{"fractions and negative numbers are no counts", false, `{"usage":{"prompt_tokens":-5,"completion_tokens":1.5}}`, request.Usage{}, false},
	{"HTML", false, `<html>"usage":{"prompt_tokens":1}}}}]]</html>`, request.Usage{}, false},
	{"empty", false, ``, request.Usage{}, false},
	{
		"chat stream", true,
		"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"usage\":null}\n\n" +
			"data: {\"choices\":[{\"delta\":{\"content\":\"Hi \\\"usage\\\":{\"}}]}\n\n: comment\n\n" +
			"data: {\"choices\":[{\"delta\":{\"content\":\"there\"},\"logprobs\":null}]}\n\n" +
			"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":3,\"prompt_tokens_details\":{\"cached_tokens\":8}}}\n\ndata: [DONE]\n\n",
		request.Usage{Prompt: 11, Cached: 8, Completion: 3, Present: true},
		true,
	},
	{"before the first token", true, "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n", request.Usage{}, false},
	{"a tool call is a token", true, "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}}]}\n\n", request.Usage{}, true},
	{"completions stream", true, "data:{\"choices\":[{\"text\":\"\\n\"}]}\r\n\r\ndata:{\"usage\":{\"prompt_tokens\":1}}\r\n\r\n", request.Usage{Prompt: 1, Present: true}, true},
	{
		"Anthropic stream", true,
		"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"content\":[],\"usage\":{\"input_tokens\":5,\"cache_read_input_tokens\":100,\"output_tokens\":1}}}\n\n" +
			"event: content_block_start\ndata: {\"type\":\"content_block_start\",\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n" +
			"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\n" +
			"event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":15}}\n\n",
		request.Usage{Prompt: 105, Cached: 100, Completion: 15, Present: true},
		true,
	},
	{
		"responses stream", true,
		"event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"tools\":[{\"name\":\"f\"}],\"text\":{\"format\":\"x\"},\"usage\":null}}\n\n" +
			"data: {\"type\":\"response.output_text.delta\",\"delta\":\"Hi\"}\n\n" +
			"data: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":7,\"input_tokens_details\":{\"cached_tokens\":4},\"output_tokens\":2}}}\n\n",
		request.Usage{Prompt: 7, Cached: 4, Completion: 2, Present: true},
		true,
	},
	{"responses before the first token", true, "data: {\"type\":\"response.created\",\"response\":{\"instructions\":\"x\",\"tools\":[{\"name\":\"f\"}],\"reasoning\":\"x\"}}\n\n", request.Usage{}, false},
	{
		"one event of several lines", true, "data: {\"choices\":[{\"text\":\"a\"}]}\n\ndata: {\"a\":1,\ndata: \"usage\":{\"prompt_tokens\":1\ndata: ,\"completion_tokens\":3}}\n\n",
		request.Usage{Prompt: 1, Completion: 3, Present: true},
		true,
	},
	{"carriage returns alone", true, "data: {\"choices\":[{\"text\":\"a\"}]}\r\rdata: {\"usage\":{\"prompt_tokens\":4}}\r\r", request.Usage{Prompt: 4, Present: true}, true},
	{"the last count stays when the stream breaks off", true, "data: {\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":1}}\n\ndata: {\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":", request.Usage{Prompt: 4, Completion: 1, Present: true}, false},
	{"not an event", true, "{\"usage\":{\"prompt_tokens\":4}}\n\n", request.Usage{}, false},
}

func TestUsage(t *testing.T) {
	for _, tc := range usageSamples {
		t.Run(tc.name, func(t *testing.T) {
			if got, first := readUsage(tc.sse, tc.body); got != tc.want || first != tc.first {
				t.Errorf("%+v, first token %v; want %+v, %v", got, first, tc.want, tc.first)
			}
			for i := range tc.body {
				if got, first := readUsage(tc.sse, tc.body[:i], tc.body[i:]); got != tc.want || first != tc.first {
					t.Fatalf("cut at %q: %+v, first token %v", tc.body[:i], got, first)
				}
			}
			if got, first := readUsage(tc.sse, strings.Split(tc.body, "")...); got != tc.want || first != tc.first {
				t.Errorf("byte by byte: %+v, first token %v", got, first)
			}
		})
	}
}

func TestUsageOfDeepAnswers(t *testing.T) {
	deep := `{"a":` + strings.Repeat("[", 500) + strings.Repeat("]", 500) + `,"usage":{"prompt_tokens":4}}`
	if got, _ := readUsage(false, deep); got.Prompt != 4 {
		t.Errorf("500 levels: %+v", got)
	}
	tooDeep := `{"a":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `,"usage":{"prompt_tokens":4}}`
	if got, _ := readUsage(false, tooDeep); got.Present {
		t.Errorf("5,000 levels: %+v", got)
	}
	within := `{"usage":` + strings.Repeat(`{"prompt_tokens":`, 20) + "9" + strings.Repeat("}", 20) + `,"usage":{"prompt_tokens":4}}`
	if got, _ := readUsage(false, within); got.Prompt != 4 {
		t.Errorf("20 levels within the usage: %+v", got)
	}
}

func TestUsageReaderAllocatesNothing(t *testing.T) {
	var u request.UsageReader
	body := []byte(usageSamples[10].body)
	if n := testing.AllocsPerRun(10, func() {
		u.Reset(true)
		u.Write(body)
		u.Usage()
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func FuzzUsage(f *testing.F) {
	for i, tc := range usageSamples {
		f.Add(tc.body, tc.sse, uint64(i))
	}
	f.Fuzz(func(t *testing.T, body string, sse bool, seed uint64) {
		whole, first := readUsage(sse, body)
		random := rand.New(rand.NewPCG(seed, 1))
		var chunks []string
		for rest := body; rest != ""; {
			n := 1 + random.IntN(min(len(rest), 1+random.IntN(64)))
			chunks = append(chunks, rest[:n])
			rest = rest[n:]
		}
		if cut, firstCut := readUsage(sse, chunks...); cut != whole || firstCut != first {
			t.Fatalf("%q: whole %+v %v, in chunks %q: %+v %v", body, whole, first, chunks, cut, firstCut)
		}
	})
}

func BenchmarkUsage(b *testing.B) {
	event := "data: {\"id\":\"chatcmpl-6f2c\",\"object\":\"chat.completion.chunk\",\"created\":1732000000,\"model\":\"meta-llama/Llama-3.1-8B-Instruct\"," +
		"\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n"
	b.Run("event", func(b *testing.B) {
		var u request.UsageReader
		u.Reset(true)
		chunk := []byte(event)
		b.ReportAllocs()
		b.SetBytes(int64(len(chunk)))
		for b.Loop() {
			u.Write(chunk)
		}
	})
	b.Run("events-with-usage", func(b *testing.B) {
		var u request.UsageReader
		u.Reset(true)
		chunk := []byte(strings.Replace(event, "\"choices\"", "\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7},\"choices\"", 1))
		b.ReportAllocs()
		b.SetBytes(int64(len(chunk)))
		for b.Loop() {
			u.Write(chunk)
		}
	})
	b.Run("json-4KB", func(b *testing.B) {
		body := []byte(`{"id":"chatcmpl-6f2c","choices":[{"message":{"role":"assistant","content":"` + strings.Repeat(`A line of an answer.\n`, 190) + `"}}],"usage":{"prompt_tokens":5}}`)
		var u request.UsageReader
		b.ReportAllocs()
		b.SetBytes(int64(len(body)))
		for b.Loop() {
			u.Reset(false)
			u.Write(body)
		}
	})
}
