package enginesim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pilotfish-epp/pilotfish/bench/trace"
)

func TestChat(t *testing.T) {
	s := start(t, Options{Name: "e0", Speed: 100})
	status, header, body := post(t, s, "/v1/chat/completions", `{"model":"sim","messages":[{"role":"user","content":"hello"}],"max_tokens":7}`)
	if status != 200 || header.Get("x-served-by") != "e0" || header.Get("Content-Type") != "application/json" {
		t.Fatalf("status %d, header %v", status, header)
	}
	answer := decode[chatAnswer](t, body)
	choice := answer.Choices[0]
	if answer.Object != "chat.completion" || answer.Model != "sim" || choice.Message.Role != "assistant" || choice.Finish != "length" {
		t.Errorf("answer %s", body)
	}
	// <|im_start|>user, newline, hello, <|im_end|>, newline, <|im_start|>assistant, newline: 55 characters
	if u := answer.Usage; u.Prompt != 13 || u.Completion != 7 || u.Total != 20 || len(choice.Message.Content) != 7*charsPerToken {
		t.Errorf("usage %+v, content %q", u, choice.Message.Content)
	}
}

func TestChatStreamed(t *testing.T) {
	s := start(t, Options{Speed: 100})
	const request = `{"model":"sim","messages":[{"role":"user","content":"hello"}],"max_tokens":7`
	_, _, body := post(t, s, "/v1/chat/completions", request+"}")
	want := decode[chatAnswer](t, body).Choices[0].Message.Content

	_, header, body := post(t, s, "/v1/chat/completions", request+`,"stream":true,"stream_options":{"include_usage":true}}`)
	if got := header.Get("Content-Type"); got != "text/event-stream; charset=utf-8" {
		t.Errorf("content type %q", got)
	}
	chunks, last := readEvents(t, body)
	if len(chunks) != 1+7+1 || last != "[DONE]" {
		t.Fatalf("%d chunks, then %q; want a role, seven tokens, usage and [DONE]", len(chunks), last)
	}
	if role := chunks[0].Choices[0]; role.Delta.Role != "assistant" || role.Delta.Content != "" || role.Finish != "" {
		t.Errorf("first chunk %+v", role)
	}
	var text strings.Builder
	for i, c := range chunks[1:8] {
		text.WriteString(c.Choices[0].Delta.Content)
		if finish := c.Choices[0].Finish; (finish == "length") != (i == 6) {
			t.Errorf("token %d: finish_reason %q", i, finish)
		}
	}
	if text.String() != want {
		t.Errorf("streamed %q, in one piece it was %q", text.String(), want)
	}
	if usage := chunks[8]; len(usage.Choices) != 0 || usage.Usage == nil || usage.Usage.Completion != 7 {
		t.Errorf("usage chunk %+v", usage)
	}

	_, _, body = post(t, s, "/v1/chat/completions", request+`,"stream":true}`)
	chunks, _ = readEvents(t, body)
	if len(chunks) != 8 {
		t.Errorf("%d chunks without include_usage, want 8", len(chunks))
	}
	for _, c := range chunks {
		if c.Usage != nil {
			t.Error("usage that wasn't asked for")
		}
	}
}

func TestCachedTokens(t *testing.T) {
	s := start(t, Options{Speed: 100, Adapters: []string{"lora"}})
	long := strings.Repeat("abcd", 100) // 100 tokens
	ask := func(body string) int {
		t.Helper()
		_, _, answer := post(t, s, "/v1/completions", body)
		return decode[openAIAnswer](t, answer).Usage.Details.Cached
	}
	for _, c := range []struct {
		name, body string
		want       int
	}{
		{"first time", `{"prompt":"` + long + `"}`, 0},
		{"again: six full blocks", `{"prompt":"` + long + `"}`, 96},
		{"longer", `{"prompt":"` + long + `and more"}`, 96},
		{"other from the third block on", `{"prompt":"` + long[:32*charsPerToken] + strings.Repeat("x", 400) + `"}`, 32},
		{"other first character", `{"prompt":"x` + long + `"}`, 0},
		{"under a salt", `{"prompt":"` + long + `","cache_salt":"s"}`, 0},
		{"under the same salt", `{"prompt":"` + long + `","cache_salt":"s"}`, 96},
		{"by an adapter", `{"model":"lora","prompt":"` + long + `"}`, 0},
		{"by the same adapter", `{"model":"lora","prompt":"` + long + `"}`, 96},
		{"as a list", `{"prompt":["` + long + `"]}`, 96},
		{"exactly six blocks: the last token is always computed", `{"prompt":"` + long[:96*charsPerToken] + `"}`, 80},
		{"without ASCII, 100 tokens", `{"prompt":"` + strings.Repeat("äöü€", 100) + `"}`, 0},
		{"the same escaped", `{"prompt":"` + strings.Repeat(`\u00e4\u00f6\u00fc\u20ac`, 100) + `"}`, 96},
	} {
		if got := ask(c.body); got != c.want {
			t.Errorf("%s: %d cached tokens, want %d", c.name, got, c.want)
		}
	}
	if stats := s.Stats(); stats.CachedTokens != 96+96+32+96+96+96+80+96 || stats.Requests != 13 || stats.Finished != 13 {
		t.Errorf("stats %+v", stats)
	}
}

// TestNextTurnFindsTheAnswer: an answer that comes back as a part of the next prompt is in the cache.
func TestNextTurnFindsTheAnswer(t *testing.T) {
	s := start(t, Options{Speed: 100})
	_, _, body := post(t, s, "/v1/chat/completions", `{"messages":[{"role":"user","content":"hello"}],"max_tokens":100}`)
	first := decode[chatAnswer](t, body)
	said := first.Choices[0].Message.Content
	_, _, body = post(t, s, "/v1/chat/completions", `{"messages":[{"role":"user","content":"hello"},{"role":"assistant","content":"`+said+`"},{"role":"user","content":"go on"}]}`)
	// The KV of the last token of the answer was never computed, so the blocks before it count.
	want := (first.Usage.Total - 1) / BlockTokens * BlockTokens
	if got := decode[chatAnswer](t, body).Usage.Details.Cached; got != want {
		t.Errorf("%d cached tokens, want %d of %d", got, want, first.Usage.Total)
	}
}

// TestTraceAsTextFindsWhatItsIdsSay: a trace sent as text gives the cached tokens that its block ids promise.
func TestTraceAsTextFindsWhatItsIdsSay(t *testing.T) {
	workload, err := trace.OpenMooncake("../trace/testdata/mooncake_conversation_50.jsonl", trace.MooncakeBlock)
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, Options{Speed: 1e6, KVTokens: 1 << 20})
	seen := map[uint64]bool{}
	for i, r := range workload.Requests {
		want := 0
		for _, chunk := range workload.AppendChunks(nil, i, BlockTokens) {
			if seen[chunk] && want+BlockTokens < r.Input {
				want += BlockTokens
			}
			seen[chunk] = true
		}
		_, _, body := post(t, s, "/v1/completions", `{"max_tokens":1,"prompt":"`+string(workload.AppendText(nil, i))+`"}`)
		if u := decode[openAIAnswer](t, body).Usage; u.Prompt != r.Input || u.Details.Cached != want {
			t.Errorf("request %d: %d tokens with %d cached, want %d with %d", i, u.Prompt, u.Details.Cached, r.Input, want)
		}
	}
	if n := s.Stats(); n.Evictions != 0 {
		t.Errorf("%d blocks were evicted from a cache that holds all", n.Evictions)
	}
}

func TestAnswerLength(t *testing.T) {
	s := start(t, Options{Speed: 1000, AnswerTokens: 40, MaxModelLen: 500})
	for _, c := range []struct {
		options, finish string
		want            int
	}{
		{`"max_tokens":100`, "stop", 40},
		{`"max_tokens":40`, "length", 40},
		{`"max_tokens":10`, "length", 10},
		{`"max_tokens":100,"ignore_eos":true`, "length", 100},
		{`"max_tokens":100,"min_tokens":60`, "stop", 60},
		{`"max_tokens":50,"min_tokens":60`, "length", 50},
		{`"stream":false`, "length", 16},
	} {
		_, _, body := post(t, s, "/v1/completions", `{"prompt":"hello, world",`+c.options+`}`)
		answer := decode[struct {
			Choices []completionChoice
			Usage   openAIUsage
		}](t, body)
		if got := answer.Choices[0]; answer.Usage.Completion != c.want || len(got.Text) != c.want*charsPerToken || got.Finish != c.finish {
			t.Errorf("%s: %d tokens, finish %q; want %d, %q", c.options, answer.Usage.Completion, got.Finish, c.want, c.finish)
		}
	}
	_, _, body := post(t, s, "/v1/chat/completions", `{"messages":[{"role":"user","content":"hello"}],"ignore_eos":true}`)
	if u := decode[chatAnswer](t, body).Usage; u.Total != 500 {
		t.Errorf("without a limit and an end the answer goes on to %d tokens, want the model's 500", u.Total)
	}
}

func TestErrors(t *testing.T) {
	s := start(t, Options{Speed: 100, MaxModelLen: 200, Aliases: []string{"tiny"}})
	long := strings.Repeat("abcd", 200)
	const chat, text = "/v1/chat/completions", "/v1/completions"
	for _, c := range []struct {
		name, path, body string
		want             string
	}{
		{"unknown model", chat, `{"model":"nope","messages":[{"role":"user","content":"hi"}]}`, "404 NotFoundError model: The model `nope` does not exist. Valid aliases: sim, tiny."},
		{"cut JSON", chat, `{"model":`, "400 BadRequestError <nil>: JSON decode error at byte 9: unexpected end of JSON input"},
		{"empty body", chat, ``, "400 BadRequestError <nil>: JSON decode error at byte 0: unexpected end of JSON input"},
		{"wrong type", chat, `{"stream":"yes"}`, "400 BadRequestError stream: stream at byte 15: got a JSON string, expected bool"},
		{"no messages", chat, `{"model":"sim"}`, "400 BadRequestError messages: messages: expected at least one"},
		{"too long", text, `{"prompt":"` + long + `"}`, "400 BadRequestError input_tokens: This model's maximum context length is 200 tokens, but the input has 200 tokens."},
		{"too much asked for", text, `{"prompt":"abcd","max_tokens":200}`, "400 BadRequestError max_tokens: This model's maximum context length is 200 tokens, but 200 were requested for the answer after an input of 1 tokens."},
		{"no tokens", text, `{"prompt":"abcd","max_tokens":0}`, "400 BadRequestError max_tokens: max_tokens must be at least 1, got 0."},
		{"no prompt", text, `{}`, "400 BadRequestError prompt: prompt: expected a string, a list of one string, or token ids"},
		{"two prompts", text, `{"prompt":["a","b"]}`, "400 BadRequestError prompt: prompt: this simulated engine takes one prompt for each request"},
		{"two choices", text, `{"prompt":"a","n":2}`, "400 BadRequestError n: this simulated engine gives one choice: n must be 1"},
		{"no input", "/v1/responses", `{}`, "400 BadRequestError input: input: expected a string or a list of items"},
		{"no limit", "/v1/messages", `{"messages":[{"role":"user","content":"hi"}]}`, "400 BadRequestError max_tokens: max_tokens: required"},
		{"unknown tool", chat, `{"messages":[{"role":"user","content":"hi"}],"tools":[{"function":{"name":"f"}}],"tool_choice":{"type":"function","function":{"name":"g"}}}`, "400 BadRequestError tool_choice: tool_choice: no tool is named g"},
		{"unknown path", "/v1/nothing", `{}`, "404 NotFoundError <nil>: no such path: /v1/nothing"},
		{"LoRA is off", "/v1/load_lora_adapter", `{"lora_name":"a"}`, "400 BadRequestError <nil>: LoRA is off: the engine was started without adapters and without a maximum of them"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, _, body := post(t, s, c.path, c.body)
			e := decode[struct {
				Error struct {
					Message, Type string
					Param         any
					Code          int
				}
			}](t, body).Error
			if got := fmt.Sprintf("%d %s %v: %s", e.Code, e.Type, e.Param, e.Message); got != c.want || status != e.Code {
				t.Errorf("status %d\ngot  %s\nwant %s", status, got, c.want)
			}
		})
	}
	status, _, _ := send(t, s, http.MethodGet, chat, "", nil)
	if status != http.StatusMethodNotAllowed {
		t.Errorf("GET: status %d", status)
	}
}

func TestTokenIDs(t *testing.T) {
	s := start(t, Options{Speed: 100})
	ids, _ := json.Marshal(make([]int, 100))
	for _, want := range []int{0, 96} {
		_, _, body := post(t, s, "/v1/completions", `{"prompt":`+string(ids)+`}`)
		if u := decode[openAIAnswer](t, body).Usage; u.Prompt != 100 || u.Details.Cached != want {
			t.Errorf("usage %+v, want 100 tokens with %d cached", u, want)
		}
	}
}

func TestToolCalls(t *testing.T) {
	s := start(t, Options{Speed: 100})
	const tools = `"tools":[{"type":"function","function":{"name":"get_weather","parameters":{"type":"object","required":["city","when"],` +
		`"properties":{"city":{"type":"string"},"when":{"enum":["today","tomorrow"]},"days":{"type":"integer"}}}}},` +
		`{"type":"function","function":{"name":"größe","parameters":{"type":"object","properties":{"größe":{"type":"array","items":{"type":"number"}}}}}}]`
	const weather = `get_weather {"city":"Lisbon","when":"today"}`
	for _, c := range []struct{ name, said, choice, want string }{
		{"nobody asks", "hello", `"auto"`, ""},
		{"named in the message", "please get_weather", `"auto"`, weather},
		{"any tool", "use a tool", `"auto"`, weather},
		{"required", "hello", `"required"`, weather},
		{"required, and named in the message", "what größe", `"required"`, `größe {"größe":[1.5]}`},
		{"named by the choice", "hello", `{"type":"function","function":{"name":"größe"}}`, `größe {"größe":[1.5]}`},
		{"forbidden", "use a tool", `"none"`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			request := `{"messages":[{"role":"user","content":"` + c.said + `"}],` + tools + `,"tool_choice":` + c.choice
			_, _, body := post(t, s, "/v1/chat/completions", request+"}")
			choice := decode[chatAnswer](t, body).Choices[0]
			if got := call1(t, choice.Message.ToolCalls); got != c.want || (choice.Finish == "tool_calls") != (c.want != "") {
				t.Errorf("called %q, finish %q, want %q", got, choice.Finish, c.want)
			}
			_, _, body = post(t, s, "/v1/chat/completions", request+`,"stream":true}`)
			chunks, _ := readEvents(t, body)
			var joined []toolDelta
			for _, chunk := range chunks {
				for _, d := range chunk.Choices[0].Delta.ToolCalls {
					if d.ID != "" {
						joined = append(joined, d)
					} else {
						joined[0].Function.Arguments += d.Function.Arguments
					}
				}
			}
			if got := call1(t, joined); got != c.want {
				t.Errorf("called %q in the stream, want %q", got, c.want)
			}
		})
	}
}

func TestResponses(t *testing.T) {
	s := start(t, Options{Speed: 100, AnswerTokens: 5})
	_, _, body := post(t, s, "/v1/responses", `{"model":"sim","input":"hello"}`)
	whole := decode[responseObject](t, body)
	if whole.Status != "completed" || len(whole.Output[0].Content[0].Text) != 20 || whole.Usage.Input != 13 || whole.Usage.Output != 5 {
		t.Errorf("answer %s", body)
	}
	_, _, body = post(t, s, "/v1/responses", `{"model":"sim","instructions":"Be brief.","input":[{"role":"user","content":[{"type":"input_text","text":"hello"}]}],"stream":true,"max_output_tokens":2}`)
	var kinds []string
	var text string
	for line := range strings.Lines(body) {
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			e := decode[struct {
				Type, Delta string
				Response    responseObject
			}](t, data)
			kinds = append(kinds, strings.TrimPrefix(e.Type, "response."))
			text += e.Delta
			if e.Type == "response.completed" && (e.Response.Output[0].Content[0].Text != text || e.Response.Incomplete.Reason != "max_output_tokens") {
				t.Errorf("completed with %+v after %q", e.Response, text)
			}
		}
	}
	want := "created in_progress output_item.added content_part.added output_text.delta output_text.delta output_text.done content_part.done output_item.done completed"
	if got := strings.Join(kinds, " "); got != want {
		t.Errorf("events %s\nwant   %s", got, want)
	}
}

func TestMessages(t *testing.T) {
	s := start(t, Options{Speed: 100, AnswerTokens: 3})
	request := `{"model":"sim","max_tokens":10,"system":"` + strings.Repeat("abcd", 64) + `","messages":[{"role":"user","content":[{"type":"text","text":"hello"}]}]`
	var total int
	for _, cached := range []int{0, 80} {
		_, _, body := post(t, s, "/v1/messages", request+"}")
		m := decode[messageObject](t, body)
		if m.Type != "message" || len(m.Content[0].Text) != 12 || m.Stop != "end_turn" || m.Usage.Cached != cached {
			t.Errorf("answer %s", body)
		}
		total = m.Usage.Input + m.Usage.Cached
	}
	_, _, body := post(t, s, "/v1/messages", request+`,"stream":true}`)
	var kinds []string
	for line := range strings.Lines(body) {
		if kind, ok := strings.CutPrefix(line, "event: "); ok {
			kinds = append(kinds, strings.TrimSpace(kind))
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			if e := decode[struct {
				Type    string
				Message messageObject
			}](t, data); e.Type == "message_start" && e.Message.Usage.Input+e.Message.Usage.Cached != total {
				t.Errorf("message_start %s", data)
			}
		}
	}
	want := "message_start content_block_start content_block_delta content_block_delta content_block_delta content_block_stop message_delta message_stop"
	if got := strings.Join(kinds, " "); got != want {
		t.Errorf("events %s\nwant   %s", got, want)
	}
}

func TestAdapters(t *testing.T) {
	s := start(t, Options{Speed: 100, Adapters: []string{"known"}, MaxAdapters: 2})
	models := func() string {
		_, _, body := send(t, s, http.MethodGet, "/v1/models", "", nil)
		var names []string
		for _, m := range decode[struct {
			Data []struct{ ID, Parent string }
		}](t, body).Data {
			names = append(names, m.ID+"<"+m.Parent)
		}
		return strings.Join(names, " ")
	}
	if got := models(); got != "sim< known<sim" {
		t.Errorf("models %s", got)
	}
	const ask = `{"model":"new","prompt":"hello"}`
	for _, c := range []struct {
		path, body string
		want       int
	}{
		{"/v1/completions", ask, 404},
		{"/v1/load_lora_adapter", `{"lora_name":"new","lora_path":"/any"}`, 200},
		{"/v1/load_lora_adapter", `{"lora_name":"new","lora_path":"/any"}`, 400},
		{"/v1/load_lora_adapter", `{}`, 400},
		{"/v1/completions", ask, 200},
		{"/v1/unload_lora_adapter", `{"lora_name":"new"}`, 200},
		{"/v1/unload_lora_adapter", `{"lora_name":"new"}`, 404},
		{"/v1/completions", ask, 404},
	} {
		if status, _, body := post(t, s, c.path, c.body); status != c.want {
			t.Errorf("%s %s: status %d, want %d: %s", c.path, c.body, status, c.want, body)
		}
	}
}

func TestClientThatLeavesIsAborted(t *testing.T) {
	s := start(t, Options{Speed: 1, MaxSeqs: 1})
	for _, stream := range []bool{true, false} {
		before := s.Stats().Aborted
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan struct{})
		for range 2 { // one runs, one waits
			go func() {
				defer func() { left <- struct{}{} }()
				body := fmt.Sprintf(`{"prompt":"hello","max_tokens":100000,"ignore_eos":true,"stream":%t}`, stream)
				r, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.Addr()+"/v1/completions", strings.NewReader(body))
				if answer, err := http.DefaultClient.Do(r); err == nil {
					_, _ = io.Copy(io.Discard, answer.Body)
					_ = answer.Body.Close()
				}
			}()
		}
		eventually(t, "one runs and one waits", func() bool { n := s.Stats(); return n.Running == 1 && n.Waiting == 1 })
		leave()
		<-left
		<-left
		eventually(t, "both are aborted", func() bool {
			n := s.Stats()
			return n.Aborted == before+2 && n.Running == 0 && n.Waiting == 0 && n.KVUsage == 0
		})
	}
	if n := s.Stats(); n.MaxWaiting < 1 || n.MaxRunning != 1 {
		t.Errorf("stats %+v", n)
	}
}

// TestTime holds answers to the step model: engine time divided by the factor, on a clock that costs nothing.
func TestTime(t *testing.T) {
	for _, speed := range []float64{1, 10} {
		synctest.Test(t, func(t *testing.T) {
			// A step takes 10 ms, and 1 ms for each prefilled token.
			s, client := startInMemory(t, Options{Speed: speed, Profile: Profile{
				Steps: StepModel{Base: 10, Token: 1}, KVTokens: 16_000, MaxBatchedTokens: 50, MaxSeqs: 8, MaxModelLen: 4_000,
			}})
			began := time.Now()
			r, err := client.Post("http://sim/v1/completions", "application/json",
				strings.NewReader(`{"prompt":"`+strings.Repeat("abcd", 120)+`","max_tokens":3,"stream":true}`))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			if waited := time.Since(began); waited != 0 {
				t.Errorf("headers after %v, want them at once", waited)
			}
			lines := bufio.NewScanner(r.Body)
			var at []time.Duration
			for lines.Scan() {
				if strings.HasPrefix(lines.Text(), "data: {") {
					at = append(at, time.Since(began))
				}
			}
			// Three chunks of 50, 50 and 20 tokens, then two decode steps.
			for i, want := range []time.Duration{150, 160, 170} {
				want = time.Duration(float64(want*time.Millisecond) / speed)
				if off := (at[i] - want).Abs(); off > time.Microsecond {
					t.Errorf("factor %g: token %d after %v, want %v", speed, i, at[i], want)
				}
			}
			if n := s.Stats(); n.Steps != 5 {
				t.Errorf("%d steps, want 5", n.Steps)
			}
		})
	}
}

// TestEngineThatCannotKeepUp: a factor beyond what the machine can do makes engine time slip, but answers still come.
func TestEngineThatCannotKeepUp(t *testing.T) {
	s := start(t, Options{Speed: 1e9})
	status, _, body := post(t, s, "/v1/completions", `{"prompt":"hello","max_tokens":20000,"ignore_eos":true}`)
	if status != 200 || decode[openAIAnswer](t, body).Usage.Completion != 20_000 {
		t.Errorf("status %d", status)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, c := range []struct {
		opt  Options
		want string
	}{
		{Options{Name: "e1", Runtime: "ollama"}, `engine e1: runtime: got "ollama", expected vllm, sglang or trt-llm`},
		{Options{Speed: -1}, "engine engine: speed: got -1, expected more than 0"},
		{Options{MaxModelLen: 1_000_000}, "engine engine: longest request: got 1000000 tokens, expected 2 to 467264 (the KV cache)"},
		{Options{KVTokens: 5}, "engine: engine: KV cache of 5 tokens, expected at least 32"},
		{Options{Faults: Faults{Metrics: "purple"}}, `fault metrics: got "purple", expected "", "error", "html", "empty", "endless" or "slow"`},
	} {
		if _, err := New(c.opt); err == nil || err.Error() != c.want {
			t.Errorf("error %v\nwant  %s", err, c.want)
		}
	}
}

func TestAddressInUse(t *testing.T) {
	s := start(t, Options{})
	other, err := New(Options{Name: "second"})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(s.Addr()); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "second: listen tcp "+s.Addr()) {
		t.Errorf("error %v", err)
	}
}

func TestCloseCutsConnections(t *testing.T) {
	s := start(t, Options{Speed: 1})
	r, err := http.Post("http://"+s.Addr()+"/v1/completions", "application/json", strings.NewReader(`{"prompt":"hello","max_tokens":100000,"ignore_eos":true,"stream":true}`))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r.Body); err == nil {
		t.Error("the answer ended as if it were whole")
	}
	if conn, err := net.Dial("tcp", s.Addr()); err == nil {
		_ = conn.Close()
		t.Error("still listening")
	}
	if err := s.Close(); err != nil {
		t.Error("closing again: ", err)
	}
}

// start runs a server for the length of a test.
func start(t *testing.T, opt Options) *Server {
	t.Helper()
	s, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// startInMemory runs a server on connections that need no network, and gives a client for it.
func startInMemory(t *testing.T, opt Options) (*Server, *http.Client) {
	t.Helper()
	s, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	if err := s.Serve(l); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: l.dial}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, &http.Client{Transport: transport}
}

// pipes is a listener of in-memory connections.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { close(p.done); return nil }

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }

func post(t *testing.T, s *Server, path, body string) (int, http.Header, string) {
	t.Helper()
	return send(t, s, http.MethodPost, path, body, nil)
}

func send(t *testing.T, s *Server, method, path, body string, header http.Header) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.Addr()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = header
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, answer.Header, string(text)
}

// eventually polls a condition that other goroutines bring about.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("after 20 s it is still not so that %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func decode[T any](t *testing.T, body string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return v
}

// readEvents reads a chat stream: its chunks, and what came after them.
func readEvents(t *testing.T, body string) (chunks []chatChunk, last string) {
	t.Helper()
	for event := range strings.SplitSeq(strings.TrimSuffix(body, "\n\n"), "\n\n") {
		data, ok := strings.CutPrefix(event, "data: ")
		if !ok {
			t.Fatalf("event %q", event)
		}
		if strings.HasPrefix(data, "{") {
			chunks = append(chunks, decode[chatChunk](t, data))
		} else {
			last = data
		}
	}
	return chunks, last
}

type chatAnswer struct {
	ID, Object, Model string
	Choices           []struct {
		Message struct {
			Role, Content string
			ToolCalls     []toolDelta `json:"tool_calls"`
		}
		Finish string `json:"finish_reason"`
	}
	Usage openAIUsage
}

type chatChunk struct {
	Choices []struct {
		Delta struct {
			Role, Content string
			ToolCalls     []toolDelta `json:"tool_calls"`
		}
		Finish string `json:"finish_reason"`
	}
	Usage *openAIUsage
}

type toolDelta struct {
	ID       string
	Function struct{ Name, Arguments string }
}

// call1 writes the one call there is as name and arguments, with escapes resolved.
func call1(t *testing.T, calls []toolDelta) string {
	t.Helper()
	if len(calls) == 0 {
		return ""
	}
	if len(calls) > 1 || calls[0].ID == "" {
		t.Fatalf("calls %+v", calls)
	}
	return calls[0].Function.Name + " " + string(marshal(decode[any](t, calls[0].Function.Arguments)))
}

type responseObject struct {
	Status string
	Output []struct {
		Content []struct{ Text string }
	}
	Usage struct {
		Input  int `json:"input_tokens"`
		Output int `json:"output_tokens"`
	}
	Incomplete struct{ Reason string } `json:"incomplete_details"`
}

type messageObject struct {
	Type    string
	Content []struct{ Text string }
	Stop    string `json:"stop_reason"`
	Usage   struct {
		Input  int `json:"input_tokens"`
		Cached int `json:"cache_read_input_tokens"`
		Output int `json:"output_tokens"`
	}
}
