package enginesim

import (
	"encoding/json"
	"strings"
)

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

// sampling is what the OpenAI bodies share.
type sampling struct {
	Model         string         `json:"model"`
	Stream        bool           `json:"stream"`
	StreamOptions *streamOptions `json:"stream_options"`
	MaxTokens     *int           `json:"max_tokens"`
	MinTokens     int            `json:"min_tokens"`
	IgnoreEOS     bool           `json:"ignore_eos"`
	CacheSalt     string         `json:"cache_salt"`
	N             *int           `json:"n"`
}

func (b *sampling) ask(prompt []byte) *ask {
	return &ask{
		model: b.Model, salt: b.CacheSalt, prompt: prompt,
		stream: b.Stream, usage: b.StreamOptions != nil && b.StreamOptions.IncludeUsage,
		maxTokens: b.MaxTokens, minTokens: b.MinTokens, ignoreEOS: b.IgnoreEOS,
	}
}

func (b *sampling) check() *apiError {
	if b.N != nil && *b.N != 1 {
		return badRequest("n", "this simulated engine gives one choice: n must be 1")
	}
	return nil
}

type chatBody struct {
	sampling
	Messages            []message       `json:"messages"`
	MaxCompletionTokens *int            `json:"max_completion_tokens"`
	Tools               json.RawMessage `json:"tools"`
	ToolChoice          json.RawMessage `json:"tool_choice"`
}

func (s *Server) parseChat(body []byte) (*call, dialect, *apiError) {
	var b chatBody
	if err := json.Unmarshal(body, &b); err != nil {
		return nil, nil, badJSON(err)
	}
	if failed := b.check(); failed != nil {
		return nil, nil, failed
	}
	if len(b.Messages) == 0 {
		return nil, nil, badRequest("messages", "messages: expected at least one")
	}
	if b.MaxCompletionTokens != nil {
		b.MaxTokens = b.MaxCompletionTokens
	}
	if string(b.Tools) == "null" {
		b.Tools = nil
	}
	prompt, err := renderChat(b.Tools, b.Messages)
	if err != nil {
		return nil, nil, badJSON(err)
	}
	a := b.ask(prompt)
	if failed := chooseTool(a, &b); failed != nil {
		return nil, nil, failed
	}
	c, failed := s.newCall("chatcmpl-", a)
	if failed != nil {
		return nil, nil, failed
	}
	if c.tool != nil {
		c.tool.id = strings.Replace(c.id, "chatcmpl-", "call_", 1)
	}
	return c, newChat(c), nil
}

// chat is the dialect of /v1/chat/completions.
type chat struct {
	head []byte // of a chunk, up to the delta
}

func newChat(c *call) *chat {
	head, err := json.Marshal(struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		Created int64  `json:"created"`
		Model   string `json:"model"`
	}{c.id, "chat.completion.chunk", c.created, c.model})
	if err != nil {
		panic(err) // strings and numbers marshal
	}
	return &chat{head: append(head[:len(head)-1], `,"choices":`...)}
}

func (d *chat) whole(c *call) object {
	message := object{"role": "assistant", "content": string(c.answer), "refusal": nil, "tool_calls": []any{}}
	if c.tool != nil {
		message["content"] = nil
		message["tool_calls"] = []any{object{
			"id": c.tool.id, "type": "function",
			"function": object{"name": c.tool.name, "arguments": string(c.answer)},
		}}
	}
	return object{
		"id": c.id, "object": "chat.completion", "created": c.created, "model": c.model,
		"choices": []any{object{
			"index": 0, "message": message, "logprobs": nil, "finish_reason": c.finish, "stop_reason": nil,
		}},
		"usage": c.openAIUsage(), "system_fingerprint": nil, "service_tier": nil,
	}
}

func (d *chat) begin(e *events, c *call) {
	e.data(d.head, []byte(`[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}`))
	if c.tool != nil {
		e.data(d.head, []byte(`[{"index":0,"delta":{"tool_calls":[{"index":0,"id":`), quote(c.tool.id),
			[]byte(`,"type":"function","function":{"name":`), quote(c.tool.name),
			[]byte(`,"arguments":""}}]},"logprobs":null,"finish_reason":null}]}`))
	}
}

func (d *chat) token(e *events, c *call, i int) {
	delta, end := []byte(`[{"index":0,"delta":{"content":`), []byte(`}`)
	if c.tool != nil {
		delta, end = []byte(`[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":`), []byte(`}}]}`)
	}
	e.data(d.head, delta, quote(string(c.piece(i))), end, []byte(`,"logprobs":null,"finish_reason":`), finishAt(c, i), []byte(`}]}`))
}

func (d *chat) end(e *events, c *call) { endOpenAI(e, c, d.head) }

// finishAt is the finish_reason of the chunk of the i-th token; the last one carries it, as vLLM's does.
func finishAt(c *call, i int) []byte {
	if i < c.tokens()-1 {
		return []byte("null")
	}
	return append(quote(c.finish), `,"stop_reason":null`...)
}

func endOpenAI(e *events, c *call, head []byte) {
	if c.usage {
		usage, err := json.Marshal(c.openAIUsage())
		if err != nil {
			panic(err) // numbers marshal
		}
		e.data(head, []byte(`[],"usage":`), usage, []byte(`}`))
	}
	e.data([]byte("[DONE]"))
}
