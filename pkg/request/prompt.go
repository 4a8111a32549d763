package request

// Prompt gives s the text that identifies the prompt, in pieces, until s wants no more.
//
//   - Chat, Messages and Responses: each message as <|im_start|>{role}\n{content}<|im_end|>\n, system and instructions as first message
//     of the role system. The content is the text of all its parts in order, with tool calls as the function's name and
//     arguments; an image, a sound, a file or a part of an unknown type stands there as <|media:{hash of its URL or data}|>.
//   - Completions, Embeddings, Triton, SGLang: the text. Token ids are their decimal digits, separated by commas. Where there are
//     several prompts they are separated by line feeds.
//   - Other: nothing.
//
// Where text is written with which escapes makes no difference.
func (r *Request) Prompt(s TextSink) {
	w := &r.writer
	w.start(s)
	switch r.Kind {
	case Chat:
		w.messages(r.value(fieldMessages), "")
	case Responses:
		w.preamble(r.value(fieldInstructions))
		w.messages(r.value(fieldInput), "user")
	case Messages:
		w.preamble(r.value(fieldSystem))
		w.messages(r.value(fieldMessages), "")
	case Embeddings:
		w.prompts(r.value(fieldInput))
		w.messages(r.value(fieldMessages), "")
	case Completions:
		w.prompts(r.value(fieldPrompt))
	case TritonGenerate:
		w.prompts(r.value(fieldTextInput))
	case SGLangGenerate:
		w.prompts(r.value(fieldText))
		w.prompts(r.value(fieldInputIDs))
	}
	w.finish()
}

func (r *Request) value(name fieldName) []byte { return r.fields[name].of(r.body) }

const (
	messageStart = "<|im_start|>"
	messageEnd   = "<|im_end|>\n"
)

func (w *writer) openMessage(role string) {
	w.plain(messageStart)
	w.plain(role)
	w.plain("\n")
}

// preamble writes what stands beside the messages as a first message.
func (w *writer) preamble(value []byte) {
	if len(value) == 0 || value[0] != '"' && value[0] != '[' {
		return
	}
	w.openMessage("system")
	w.contents(value, 0)
	w.plain(messageEnd)
}

// messages writes a list of messages; a string is one message of the role alone.
func (w *writer) messages(value []byte, alone string) {
	if len(value) > 0 && value[0] == '"' {
		w.openMessage(alone)
		w.decoded(content(value))
		w.plain(messageEnd)
		return
	}
	for it := (array{b: value}); !w.full && it.next(); {
		w.message(it.value)
	}
}

// message writes one message, or one of the items that stand among messages in Responses.
func (w *writer) message(value []byte) {
	if value[0] != '{' {
		w.openMessage("")
		w.contents(value, 0)
		w.plain(messageEnd)
		return
	}
	var m struct {
		role, kind, content, reasoning, refusal, calls, call, name, arguments, output, summary []byte
	}
	for it := (object{b: value}); it.next(); {
		switch string(it.key) {
		case "role":
			m.role = it.value
		case "type":
			m.kind = it.value
		case "content":
			m.content = it.value
		case "reasoning_content", "reasoning":
			m.reasoning = it.value
		case "refusal":
			m.refusal = it.value
		case "tool_calls":
			m.calls = it.value
		case "function_call":
			m.call = it.value
		case "name":
			m.name = it.value
		case "arguments":
			m.arguments = it.value
		case "output":
			m.output = it.value
		case "summary":
			m.summary = it.value
		}
	}
	w.plain(messageStart)
	switch {
	case len(m.role) > 0 && m.role[0] == '"':
		w.decoded(content(m.role))
	case string(m.kind) == `"function_call"`:
		w.plain("assistant")
	case string(m.kind) == `"function_call_output"`:
		w.plain("tool")
	}
	w.plain("\n")
	w.contents(m.summary, 0)
	w.contents(m.reasoning, 0)
	w.contents(m.content, 0)
	w.contents(m.refusal, 0)
	for it := (array{b: m.calls}); !w.full && it.next(); {
		w.toolCall(it.value)
	}
	w.function(m.call)
	if len(m.arguments) > 0 {
		w.text(m.name)
		w.text(m.arguments)
	}
	w.contents(m.output, 0)
	w.plain(messageEnd)
}

// toolCall writes a call such as {"id": …, "type": "function", "function": {"name": …, "arguments": …}}.
func (w *writer) toolCall(value []byte) {
	var function []byte
	for it := (object{b: value}); it.next(); {
		switch string(it.key) {
		case "function", "custom":
			function = it.value
		}
	}
	w.function(function)
}

func (w *writer) function(value []byte) {
	var name, arguments []byte
	for it := (object{b: value}); it.next(); {
		switch string(it.key) {
		case "name":
			name = it.value
		case "arguments", "input":
			arguments = it.value
		}
	}
	w.text(name)
	w.text(arguments)
}

// text writes a string's text; other JSON as it stands; nothing for null.
func (w *writer) text(value []byte) {
	switch {
	case len(value) == 0 || string(value) == "null":
	case value[0] == '"':
		w.decoded(content(value))
	default:
		w.decoded(value)
	}
}

// maxContents is how deep contents lie within contents: parts within the result of a tool.
const maxContents = 2

// contents writes a string, or a list of parts.
func (w *writer) contents(value []byte, depth int) {
	if len(value) == 0 || value[0] != '[' {
		w.text(value)
		return
	}
	for it := (array{b: value}); !w.full && it.next(); {
		w.part(it.value, depth+1)
	}
}

// part writes one part of a content.
func (w *writer) part(value []byte, depth int) {
	if value[0] != '{' {
		w.text(value)
		return
	}
	var p struct {
		kind, text, name, input, content, media []byte
	}
	for it := (object{b: value}); it.next(); {
		switch string(it.key) {
		case "type":
			p.kind = it.value
		case "text", "refusal", "thinking":
			p.text = it.value
		case "name":
			p.name = it.value
		case "input":
			p.input = it.value
		case "content":
			p.content = it.value
		case "image_url", "audio_url", "video_url", "input_audio", "source", "file", "file_data", "image", "file_id", "file_url":
			p.media = it.value
		}
	}
	switch {
	case len(p.text) > 0 && p.text[0] == '"':
		w.decoded(content(p.text))
	case len(p.media) > 0:
		w.media(payload(p.media))
	case string(p.kind) == `"tool_use"`:
		w.text(p.name)
		w.text(p.input)
	case len(p.content) > 0 && depth < maxContents:
		w.contents(p.content, depth)
	default:
		w.media(value)
	}
}

// payload returns what tells one image, sound or file from another: its URL, its data or its id, else all that is said of it.
func payload(value []byte) []byte {
	if value[0] == '"' {
		return content(value)
	}
	found := value
	for it := (object{b: value}); it.next(); {
		switch string(it.key) {
		case "url", "data", "file_data", "file_id":
			if it.value[0] == '"' {
				found = content(it.value)
			}
		}
	}
	return found
}

// prompts writes a text, a list of token ids, or a list of those.
func (w *writer) prompts(value []byte) {
	if len(value) == 0 || value[0] != '[' {
		w.prompt(value)
		return
	}
	first := true
	ids := false
	for it := (array{b: value}); !w.full && it.next(); {
		isID := isNumber(it.value[0])
		switch {
		case first:
		case ids && isID:
			w.plain(",")
		default:
			w.plain("\n")
		}
		first, ids = false, isID
		w.prompt(it.value)
	}
}

// prompt writes one prompt of a list.
func (w *writer) prompt(value []byte) {
	if len(value) == 0 {
		return
	}
	switch value[0] {
	case '"':
		w.decoded(content(value))
	case '[':
		separator := ""
		for it := (array{b: value}); !w.full && it.next(); {
			w.plain(separator)
			w.text(it.value)
			separator = ","
		}
	case '{':
		w.part(value, maxContents)
	default:
		w.text(value)
	}
}
