package enginesim

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/pilotfish-epp/pilotfish/bench/trace"
)

// call is one inference request, whatever API it came by.
type call struct {
	id      string
	created int64
	model   string // as the client named it
	stream  bool
	usage   bool // the stream ends with a usage chunk
	tool    *toolCall
	answer  []byte // four bytes a token, the last token may have less
	finish  string // "stop", "length" or "tool_calls"

	request Request
	lastAt  time.Duration // engine time of the latest token; the server's mutex guards it
	made    atomic.Int32  // tokens that may be sent
	wake    chan struct{} // holds a signal when made has changed
}

// toolCall is a function call that the model "decides" on.
type toolCall struct {
	id, name string
}

// ask is what every API's body comes down to.
type ask struct {
	model     string
	salt      string
	prompt    []byte
	stream    bool
	usage     bool
	maxTokens *int
	minTokens int
	ignoreEOS bool
	call      *toolCall // answer with this call …
	arguments []byte    // … and these arguments
}

// newCall resolves the model, measures the prompt and settles the answer.
func (s *Server) newCall(prefix string, a *ask) (*call, *apiError) {
	model, adapter, failed := s.resolveModel(a.model)
	if failed != nil {
		return nil, failed
	}
	hashes, chars := blockHashes(model, a.salt, a.prompt)
	c := &call{
		id: fmt.Sprintf("%s%s-%08x", prefix, s.opt.Name, s.serial.Add(1)), created: s.unixNow(),
		model: a.model, stream: a.stream, usage: a.usage, tool: a.call,
		wake: make(chan struct{}, 1),
	}
	if c.model == "" {
		c.model = s.opt.Model
	}
	c.request = Request{PromptTokens: tokensOf(chars), Adapter: adapter, Data: c}
	limit, failed := s.answerLimit(c.request.PromptTokens, a)
	if failed != nil {
		return nil, failed
	}
	s.settleAnswer(c, a, limit)
	c.request.Hashes = hashes
	if a.call == nil {
		// What was said is found again when it comes back as a part of the next prompt.
		c.request.Hashes, _ = blockHashes(model, a.salt, slices.Concat(a.prompt, c.answer))
	}
	return c, nil
}

// resolveModel returns the name that stands for the cached content, and the adapter if it is one.
func (s *Server) resolveModel(name string) (model, adapter string, failed *apiError) {
	if name == "" || name == s.opt.Model || slices.Contains(s.opt.Aliases, name) {
		return s.opt.Model, "", nil
	}
	s.mu.Lock()
	known := slices.Contains(s.adapters, name)
	s.mu.Unlock()
	if known {
		return name, name, nil
	}
	valid := strings.Join(append([]string{s.opt.Model}, s.opt.Aliases...), ", ")
	return "", "", &apiError{
		Status: 404, Type: "NotFoundError", Param: "model",
		Message: fmt.Sprintf("The model `%s` does not exist. Valid aliases: %s.", name, valid),
	}
}

// answerLimit is the most tokens that the answer may have.
func (s *Server) answerLimit(prompt int, a *ask) (int, *apiError) {
	room := s.opt.MaxModelLen - prompt
	if room < 1 {
		return 0, badRequest("input_tokens", fmt.Sprintf("This model's maximum context length is %d tokens, but the input has %d tokens.", s.opt.MaxModelLen, prompt))
	}
	if a.maxTokens == nil {
		return room, nil
	}
	switch most := *a.maxTokens; {
	case most < 1:
		return 0, badRequest("max_tokens", fmt.Sprintf("max_tokens must be at least 1, got %d.", most))
	case most > room:
		return 0, badRequest("max_tokens", fmt.Sprintf("This model's maximum context length is %d tokens, but %d were requested for the answer after an input of %d tokens.", s.opt.MaxModelLen, most, prompt))
	default:
		return most, nil
	}
}

// settleAnswer fixes text and length of the answer from the prompt alone, so that every replica gives the same.
func (s *Server) settleAnswer(c *call, a *ask, limit int) {
	seed := xxhash.Sum64(a.prompt)
	text := a.arguments
	length := (len(text) + charsPerToken - 1) / charsPerToken
	c.finish = "tool_calls"
	if a.call == nil {
		c.finish = "stop"
		length = s.naturalLength(seed)
		if a.ignoreEOS {
			length = limit + 1
		}
		length = max(length, a.minTokens)
	}
	if length > limit || (length == limit && c.finish == "stop") {
		length, c.finish = limit, "length"
	}
	if a.call == nil {
		text = trace.AppendWords(make([]byte, 0, length*trace.TokenBytes), seed, length)
	}
	c.answer = text[:min(len(text), length*charsPerToken)]
	c.request.OutputTokens = max(1, length)
}

func (s *Server) naturalLength(seed uint64) int {
	if s.opt.AnswerTokens > 0 {
		return s.opt.AnswerTokens
	}
	return 32 + int(seed%128)
}

// piece is the text of the i-th token.
func (c *call) piece(i int) []byte {
	from := min(len(c.answer), i*charsPerToken)
	return c.answer[from:min(len(c.answer), from+charsPerToken)]
}

func (c *call) tokens() int { return c.request.OutputTokens }

func quote(s string) []byte { return marshal(s) }

// marshal encodes values made here: strings, numbers, and structs and maps of them.
func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
