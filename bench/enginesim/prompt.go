package enginesim

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
)

// blockChars is the text of one KV block: 16 tokens of 4 characters.
const blockChars = BlockTokens * charsPerToken

const charsPerToken = 4

// tokensOf counts tokens as whole groups of four characters, so that a prompt and the answer that follows it count the
// same apart and together; the shortest prompt still is one token.
func tokensOf(chars int) int { return max(1, chars/charsPerToken) }

// blockHashes returns the chained hashes of the full blocks of text, and its length in characters (code points). The
// chain starts from what else decides whether cached content may be used: model or adapter, and the cache salt.
func blockHashes(model, salt string, text []byte) (hashes []uint64, chars int) {
	previous := xxhash.Sum64String(strconv.Quote(model) + strconv.Quote(salt))
	hashes = make([]uint64, 0, len(text)/blockChars)
	var d xxhash.Digest
	for len(text) > 0 {
		size, n := leading(text, blockChars)
		chars += n
		if n == blockChars {
			d.ResetWithSeed(previous)
			_, _ = d.Write(text[:size]) // never fails
			previous = d.Sum64()
			hashes = append(hashes, previous)
		}
		text = text[size:]
	}
	return hashes, chars
}

// leading returns the bytes of the first limit characters of text and how many there are.
func leading(text []byte, limit int) (size, chars int) {
	for chars < limit && size < len(text) {
		if text[size] < utf8.RuneSelf {
			size++
		} else {
			_, n := utf8.DecodeRune(text[size:])
			size += n
		}
		chars++
	}
	return size, chars
}

// message is a chat message as it is rendered.
type message struct {
	Role       string          `json:"role"`
	Content    json.RawMessage `json:"content"`
	Name       string          `json:"name"`
	ToolCalls  json.RawMessage `json:"tool_calls"`
	ToolCallID string          `json:"tool_call_id"`
}

// text appends the message's content: a string, or parts of which other kinds than text stand as their JSON.
func (m *message) text(dst []byte) ([]byte, error) { return appendContent(dst, m.Content) }

func appendContent(dst []byte, content json.RawMessage) ([]byte, error) {
	content = bytes.TrimSpace(content)
	switch {
	case len(content) == 0 || bytes.Equal(content, []byte("null")):
		return dst, nil
	case content[0] == '"':
		return appendString(dst, content)
	case content[0] != '[':
		return append(dst, content...), nil
	}
	var parts []json.RawMessage
	if err := json.Unmarshal(content, &parts); err != nil {
		return dst, err
	}
	for _, part := range parts {
		var err error
		if dst, err = appendPart(dst, part); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

func appendPart(dst []byte, part json.RawMessage) ([]byte, error) {
	if bytes.HasPrefix(bytes.TrimSpace(part), []byte(`"`)) {
		return appendString(dst, part)
	}
	var p struct {
		Text *string `json:"text"`
	}
	if err := json.Unmarshal(part, &p); err != nil {
		return dst, err
	}
	if p.Text != nil {
		return append(dst, *p.Text...), nil
	}
	return append(dst, part...), nil
}

func appendString(dst []byte, raw json.RawMessage) ([]byte, error) {
	var s string
	err := json.Unmarshal(raw, &s)
	return append(dst, s...), err
}

// renderChat is the chat template: tools as a system message, every message between its marks, and the mark that asks
// the assistant to speak.
func renderChat(tools json.RawMessage, messages []message) ([]byte, error) {
	var dst []byte
	if len(tools) > 0 {
		dst = append(dst, "<|im_start|>system\n# Tools\n"...)
		dst = append(dst, tools...)
		dst = append(dst, "<|im_end|>\n"...)
	}
	for i := range messages {
		m := &messages[i]
		dst = append(dst, "<|im_start|>"...)
		dst = append(dst, m.Role...)
		dst = append(dst, '\n')
		var err error
		if dst, err = m.text(dst); err != nil {
			return nil, err
		}
		dst = append(dst, m.ToolCalls...)
		dst = append(dst, m.ToolCallID...)
		dst = append(dst, "<|im_end|>\n"...)
	}
	return append(dst, "<|im_start|>assistant\n"...), nil
}

// appendTokenIDs renders token ids so that each is one token of four characters.
func appendTokenIDs(dst []byte, ids []uint32) []byte {
	const digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"
	for _, id := range ids {
		dst = append(dst, digits[id>>18&63], digits[id>>12&63], digits[id>>6&63], digits[id&63])
	}
	return dst
}
