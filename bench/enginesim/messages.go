package enginesim

import (
	"encoding/json"
)

type messagesBody struct {
	Model     string          `json:"model"`
	MaxTokens *int            `json:"max_tokens"`
	System    json.RawMessage `json:"system"`
	Messages  []message       `json:"messages"`
	Tools     json.RawMessage `json:"tools"`
	Stream    bool            `json:"stream"`
	CacheSalt string          `json:"cache_salt"`
	IgnoreEOS bool            `json:"ignore_eos"`
}

func (s *Server) parseMessages(body []byte) (*call, dialect, *apiError) {
	var b messagesBody
	if err := json.Unmarshal(body, &b); err != nil {
		return nil, nil, badJSON(err)
	}
	if len(b.Messages) == 0 {
		return nil, nil, badRequest("messages", "messages: expected at least one")
	}
	if b.MaxTokens == nil {
		return nil, nil, badRequest("max_tokens", "max_tokens: required")
	}
	if len(b.System) > 0 {
		b.Messages = append([]message{{Role: "system", Content: b.System}}, b.Messages...)
	}
	prompt, err := renderChat(b.Tools, b.Messages)
	if err != nil {
		return nil, nil, badJSON(err)
	}
	c, failed := s.newCall("msg_", &ask{
		model: b.Model, salt: b.CacheSalt, prompt: prompt, stream: b.Stream,
		maxTokens: b.MaxTokens, ignoreEOS: b.IgnoreEOS,
	})
	if failed != nil {
		return nil, nil, failed
	}
	return c, messages{}, nil
}

// messages is the dialect of Anthropic's /v1/messages: one text block, no tools.
type messages struct{}

func (d messages) whole(c *call) any {
	o := d.message(c)
	o["content"] = []any{object{"type": "text", "text": string(c.answer)}}
	o["stop_reason"] = d.stopReason(c)
	o["usage"] = d.usage(c, c.tokens())
	return o
}

func (messages) message(c *call) object {
	return object{"id": c.id, "type": "message", "role": "assistant", "model": c.model, "content": []any{}, "stop_reason": nil, "stop_sequence": nil}
}

// usage counts cached tokens apart from input_tokens, as Anthropic's API defines it.
func (messages) usage(c *call, output int) object {
	return object{
		"input_tokens":                c.request.PromptTokens - c.request.Cached,
		"cache_read_input_tokens":     c.request.Cached,
		"cache_creation_input_tokens": 0,
		"output_tokens":               output,
	}
}

func (messages) stopReason(c *call) string {
	if c.finish == "length" {
		return "max_tokens"
	}
	return "end_turn"
}

func (d messages) begin(e *events, c *call) {
	start := d.message(c)
	start["usage"] = d.usage(c, 0)
	d.send(e, "message_start", object{"message": start})
	d.send(e, "content_block_start", object{"index": 0, "content_block": object{"type": "text", "text": ""}})
}

func (d messages) token(e *events, c *call, i int) {
	d.send(e, "content_block_delta", object{"index": 0, "delta": object{"type": "text_delta", "text": string(c.piece(i))}})
}

func (d messages) end(e *events, c *call) {
	d.send(e, "content_block_stop", object{"index": 0})
	d.send(e, "message_delta", object{
		"delta": object{"stop_reason": d.stopReason(c), "stop_sequence": nil},
		"usage": d.usage(c, c.tokens()),
	})
	d.send(e, "message_stop", object{})
}

func (messages) send(e *events, kind string, o object) {
	o["type"] = kind
	e.named(kind, marshal(o))
}
