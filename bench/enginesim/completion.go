package enginesim

import (
	"bytes"
	"encoding/json"
)

type completionBody struct {
	sampling
	Prompt json.RawMessage `json:"prompt"`
}

func (s *Server) parseCompletion(body []byte) (*call, dialect, *apiError) {
	var b completionBody
	if err := json.Unmarshal(body, &b); err != nil {
		return nil, nil, badJSON(err)
	}
	if failed := b.check(); failed != nil {
		return nil, nil, failed
	}
	prompt, failed := renderPrompt(b.Prompt)
	if failed != nil {
		return nil, nil, failed
	}
	a := b.ask(prompt)
	if a.maxTokens == nil {
		a.maxTokens = new(16) // OpenAI's default for this path
	}
	c, failed := s.newCall("cmpl-", a)
	if failed != nil {
		return nil, nil, failed
	}
	return c, newCompletion(c), nil
}

// renderPrompt takes a string, a list with one string, or token ids, also in a list of one.
func renderPrompt(raw json.RawMessage) ([]byte, *apiError) {
	expected := badRequest("prompt", "prompt: expected a string, a list of one string, or token ids")
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return nil, expected
	}
	if raw[0] == '"' {
		prompt, err := appendString(nil, raw)
		if err != nil {
			return nil, badJSON(err)
		}
		return prompt, nil
	}
	var ids []uint32
	if json.Unmarshal(raw, &ids) == nil && len(ids) > 0 {
		return appendTokenIDs(nil, ids), nil
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil || len(list) == 0 {
		return nil, expected
	}
	if len(list) > 1 {
		return nil, badRequest("prompt", "prompt: this simulated engine takes one prompt for each request")
	}
	return renderPrompt(list[0])
}

// completion is the dialect of /v1/completions.
type completion struct {
	head []byte
}

func newCompletion(c *call) *completion {
	return &completion{head: answerHead{c.id, "text_completion", c.created, c.model}.open()}
}

type completionChoice struct {
	Index    int     `json:"index"`
	Text     string  `json:"text"`
	Logprobs *string `json:"logprobs"`
	Finish   string  `json:"finish_reason"`
	Stop     *string `json:"stop_reason"`
}

func (d *completion) whole(c *call) any {
	return openAIAnswer{
		answerHead: answerHead{c.id, "text_completion", c.created, c.model},
		Choices:    []any{completionChoice{Text: string(c.answer), Finish: c.finish}},
		Usage:      c.openAIUsage(),
	}
}

func (d *completion) begin(*events, *call) {}

func (d *completion) token(e *events, c *call, i int) {
	e.data(d.head, []byte(`[{"index":0,"text":`), quote(string(c.piece(i))), []byte(`,"logprobs":null,"finish_reason":`), finishAt(c, i), []byte(`}]}`))
}

func (d *completion) end(e *events, c *call) { endOpenAI(e, c, d.head) }
