package enginesim

import (
	"bytes"
	"encoding/json"
	"strings"
)

type responsesBody struct {
	Model           string          `json:"model"`
	Input           json.RawMessage `json:"input"`
	Instructions    string          `json:"instructions"`
	Stream          bool            `json:"stream"`
	MaxOutputTokens *int            `json:"max_output_tokens"`
	Tools           json.RawMessage `json:"tools"`
	CacheSalt       string          `json:"cache_salt"`
	IgnoreEOS       bool            `json:"ignore_eos"`
}

func (s *Server) parseResponses(body []byte) (*call, dialect, *apiError) {
	var b responsesBody
	if err := json.Unmarshal(body, &b); err != nil {
		return nil, nil, badJSON(err)
	}
	messages, failed := b.messages()
	if failed != nil {
		return nil, nil, failed
	}
	prompt, err := renderChat(b.Tools, messages)
	if err != nil {
		return nil, nil, badJSON(err)
	}
	c, failed := s.newCall("resp_", &ask{
		model: b.Model, salt: b.CacheSalt, prompt: prompt, stream: b.Stream,
		maxTokens: b.MaxOutputTokens, ignoreEOS: b.IgnoreEOS,
	})
	if failed != nil {
		return nil, nil, failed
	}
	return c, &responses{item: strings.Replace(c.id, "resp_", "msg_", 1)}, nil
}

func (b *responsesBody) messages() ([]message, *apiError) {
	var messages []message
	if b.Instructions != "" {
		messages = append(messages, message{Role: "system", Content: quote(b.Instructions)})
	}
	input := bytes.TrimSpace(b.Input)
	switch {
	case len(input) > 0 && input[0] == '"':
		return append(messages, message{Role: "user", Content: input}), nil
	case len(input) == 0 || input[0] != '[':
		return nil, badRequest("input", "input: expected a string or a list of items")
	}
	var items []message
	if err := json.Unmarshal(input, &items); err != nil {
		return nil, badJSON(err)
	}
	if len(items) == 0 {
		return nil, badRequest("input", "input: expected at least one item")
	}
	return append(messages, items...), nil
}

// responses is the dialect of /v1/responses: one text message, no tools.
type responses struct {
	item string
	seq  int
}

func (d *responses) whole(c *call) any {
	o := d.response(c, "completed", []any{d.message(c, "completed", []any{textPart(c.answer)})})
	if c.finish == "length" {
		o["status"] = "incomplete"
		o["incomplete_details"] = object{"reason": "max_output_tokens"}
	}
	o["usage"] = object{
		"input_tokens":          c.request.PromptTokens,
		"input_tokens_details":  object{"cached_tokens": c.request.Cached},
		"output_tokens":         c.tokens(),
		"output_tokens_details": object{"reasoning_tokens": 0},
		"total_tokens":          c.request.PromptTokens + c.tokens(),
	}
	return o
}

func (d *responses) response(c *call, status string, output []any) object {
	return object{
		"id": c.id, "object": "response", "created_at": c.created, "model": c.model, "status": status,
		"output": output, "error": nil, "incomplete_details": nil, "instructions": nil, "metadata": nil,
		"parallel_tool_calls": true, "temperature": 1, "top_p": 1, "tool_choice": "auto", "tools": []any{}, "usage": nil,
	}
}

func (d *responses) message(c *call, status string, content []any) object {
	return object{"id": d.item, "type": "message", "role": "assistant", "status": status, "content": content}
}

func textPart(text []byte) object {
	return object{"type": "output_text", "text": string(text), "annotations": []any{}, "logprobs": nil}
}

func (d *responses) begin(e *events, c *call) {
	d.send(e, "response.created", object{"response": d.response(c, "in_progress", []any{})})
	d.send(e, "response.in_progress", object{"response": d.response(c, "in_progress", []any{})})
	d.send(e, "response.output_item.added", object{"output_index": 0, "item": d.message(c, "in_progress", []any{})})
	d.send(e, "response.content_part.added", d.at(object{"part": textPart(nil)}))
}

func (d *responses) token(e *events, c *call, i int) {
	d.send(e, "response.output_text.delta", d.at(object{"delta": string(c.piece(i)), "logprobs": []any{}}))
}

func (d *responses) end(e *events, c *call) {
	d.send(e, "response.output_text.done", d.at(object{"text": string(c.answer), "logprobs": []any{}}))
	d.send(e, "response.content_part.done", d.at(object{"part": textPart(c.answer)}))
	d.send(e, "response.output_item.done", object{"output_index": 0, "item": d.message(c, "completed", []any{textPart(c.answer)})})
	d.send(e, "response.completed", object{"response": d.whole(c)})
}

func (d *responses) at(o object) object {
	o["item_id"], o["output_index"], o["content_index"] = d.item, 0, 0
	return o
}

func (d *responses) send(e *events, kind string, o object) {
	o["type"], o["sequence_number"] = kind, d.seq
	d.seq++
	e.named(kind, marshal(o))
}
