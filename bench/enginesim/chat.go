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

// answerHead is what an OpenAI answer and each chunk of it begin with.
type answerHead struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	Model   string `json:"model"`
}

// open is the head as the beginning of a chunk, up to its choices.
func (h answerHead) open() []byte {
	head := marshal(h)
	return append(head[:len(head)-1], `,"choices":`...)
}

// openAIAnswer is an answer in one piece, with its fields in vLLM's order.
type openAIAnswer struct {
	answerHead
	Choices     []any       `json:"choices"`
	Tier        *string     `json:"service_tier"`
	Fingerprint *string     `json:"system_fingerprint"`
	Usage       openAIUsage `json:"usage"`
}

type openAIUsage struct {
	Prompt     int `json:"prompt_tokens"`
	Total      int `json:"total_tokens"`
	Completion int `json:"completion_tokens"`
	Details    struct {
		Cached  int `json:"cached_tokens"`
		Created int `json:"created_cache_tokens"`
	} `json:"prompt_tokens_details"`
}

// openAIUsage may be read once the request has its first token.
func (c *call) openAIUsage() openAIUsage {
	u := openAIUsage{Prompt: c.request.PromptTokens, Completion: c.tokens(), Total: c.request.PromptTokens + c.tokens()}
	u.Details.Cached = c.request.Cached
	return u
}

type chatChoice struct {
	Index    int         `json:"index"`
	Message  chatMessage `json:"message"`
	Logprobs *string     `json:"logprobs"`
	Finish   string      `json:"finish_reason"`
	Stop     *string     `json:"stop_reason"`
}

type chatMessage struct {
	Role      string  `json:"role"`
	Content   *string `json:"content"`
	Refusal   *string `json:"refusal"`
	ToolCalls []any   `json:"tool_calls"`
}

// chat is the dialect of /v1/chat/completions.
type chat struct {
	head []byte // of a chunk, up to its choices
}

func newChat(c *call) *chat {
	return &chat{head: answerHead{c.id, "chat.completion.chunk", c.created, c.model}.open()}
}

func (d *chat) whole(c *call) any {
	message := chatMessage{Role: "assistant", Content: new(string(c.answer)), ToolCalls: []any{}}
	if c.tool != nil {
		message.Content = nil
		message.ToolCalls = append(message.ToolCalls, object{
			"id": c.tool.id, "type": "function",
			"function": object{"name": c.tool.name, "arguments": string(c.answer)},
		})
	}
	return openAIAnswer{
		answerHead: answerHead{c.id, "chat.completion", c.created, c.model},
		Choices:    []any{chatChoice{Message: message, Finish: c.finish}},
		Usage:      c.openAIUsage(),
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
		e.data(head, []byte(`[],"usage":`), marshal(c.openAIUsage()), []byte(`}`))
	}
	e.data([]byte("[DONE]"))
}
