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
	w.start(s, r.walker())
	switch r.Kind {
	case Chat:
		w.messages(r.fields[fieldMessages].span, "user")
	case Responses:
		w.preamble(r.fields[fieldInstructions].span)
		w.messages(r.fields[fieldInput].span, "user")
	case Messages:
		w.preamble(r.fields[fieldSystem].span)
		w.messages(r.fields[fieldMessages].span, "user")
	case Embeddings:
		w.prompts(r.fields[fieldInput].span)
		w.messages(r.fields[fieldMessages].span, "user")
	case Completions:
		w.prompts(r.fields[fieldPrompt].span)
	case TritonGenerate:
		w.prompts(r.fields[fieldTextInput].span)
	case SGLangGenerate:
		w.prompts(r.fields[fieldText].span)
		w.prompts(r.fields[fieldInputIDs].span)
	}
	w.finish()
}

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
func (w *writer) preamble(value span) {
	switch w.first(value) {
	case '"', '[':
		w.openMessage("system")
		w.contents(value, 0)
		w.plain(messageEnd)
	}
}

// messages writes a list of messages; a string is one message of the role alone.
func (w *writer) messages(value span, alone string) {
	if w.first(value) == '"' {
		w.openMessage(alone)
		w.text(value)
		w.plain(messageEnd)
		return
	}
	for it := w.array(value); !w.full && it.next(); {
		if w.first(it.value) == '{' {
			it.i = w.message(it.value)
			continue
		}
		w.openMessage(alone)
		w.text(it.value)
		w.plain(messageEnd)
	}
}

// message writes one message, or one of the items that stand among messages in Responses, and returns its end.
func (w *writer) message(value span) int {
	var m struct {
		role, kind, content, reasoning, refusal, calls, call, name, arguments, output, summary span
	}
	it := w.object(value)
	for it.next() {
		switch it.name {
		case memberRole:
			m.role = it.value
		case memberType:
			m.kind = it.value
		case memberContent:
			m.content = it.value
		case memberReasoning:
			m.reasoning = it.value
		case memberRefusal:
			m.refusal = it.value
		case memberToolCalls:
			m.calls = it.value
		case memberFunctionCall:
			m.call = it.value
		case memberName:
			m.name = it.value
		case memberArguments:
			m.arguments = it.value
		case memberOutput:
			m.output = it.value
		case memberSummary:
			m.summary = it.value
		}
	}
	w.plain(messageStart)
	if m.role.none() && m.kind.none() {
		w.stopAtCut(it.i)
	}
	switch {
	case w.first(m.role) == '"':
		w.text(m.role)
	case w.is(m.kind, `"function_call"`):
		w.plain("assistant")
	case w.is(m.kind, `"function_call_output"`):
		w.plain("tool")
	}
	w.plain("\n")
	w.contents(m.summary, 0)
	w.contents(m.reasoning, 0)
	w.contents(m.content, 0)
	w.contents(m.refusal, 0)
	for calls := w.array(m.calls); !w.full && calls.next(); {
		if w.first(calls.value) == '{' {
			calls.i = w.toolCall(calls.value)
		}
	}
	w.function(m.call)
	if !m.arguments.none() {
		w.text(m.name)
		w.text(m.arguments)
	}
	w.contents(m.output, 0)
	w.stopAtCut(it.i)
	w.plain(messageEnd)
	return it.i
}

// toolCall writes a call such as {"id": …, "type": "function", "function": {"name": …, "arguments": …}} and returns its end.
func (w *writer) toolCall(value span) int {
	var function span
	it := w.object(value)
	for it.next() {
		if it.name == memberFunction {
			function = it.value
		}
	}
	w.function(function)
	return it.i
}

func (w *writer) function(value span) {
	var name, arguments span
	for it := w.object(value); it.next(); {
		switch it.name {
		case memberName:
			name = it.value
		case memberArguments, memberInput:
			arguments = it.value
		}
	}
	w.text(name)
	w.text(arguments)
}

// maxContents is how deep contents lie within contents: parts within the result of a tool.
const maxContents = 2

// contents writes a string, or a list of parts.
func (w *writer) contents(value span, depth int) {
	if w.first(value) != '[' {
		w.text(value)
		return
	}
	for it := w.array(value); !w.full && it.next(); {
		if w.first(it.value) == '{' {
			it.i = w.part(it.value, depth+1)
		} else {
			w.text(it.value)
		}
	}
}

// part writes one part of a content and returns its end.
func (w *writer) part(value span, depth int) int {
	var p struct {
		kind, text, name, input, content, media span
	}
	it := w.object(value)
	for it.next() {
		switch it.name {
		case memberType:
			p.kind = it.value
		case memberText, memberRefusal:
			p.text = it.value
		case memberName:
			p.name = it.value
		case memberInput:
			p.input = it.value
		case memberContent:
			p.content = it.value
		case memberMedia, memberFile:
			p.media = it.value
		}
	}
	switch {
	case w.first(p.text) == '"':
		w.text(p.text)
		w.stopAtCut(it.i)
	case it.i >= len(w.b):
		w.full = true // nobody knows what this part was to be
	case !p.media.none():
		w.media(w.payload(p.media))
	case w.is(p.kind, `"tool_use"`):
		w.text(p.name)
		w.text(p.input)
	case !p.content.none() && depth < maxContents:
		w.contents(p.content, depth)
	default:
		w.media(w.b[value.off:it.i])
	}
	return it.i
}

// payload returns what tells one image, sound or file from another: its URL, its data or its id, else all that is said of it.
func (w *writer) payload(value span) []byte {
	if w.first(value) == '"' {
		return content(value.of(w.b))
	}
	found := value.of(w.b)
	for it := w.object(value); it.next(); {
		switch it.name {
		case memberPayload, memberFile:
			if w.first(it.value) == '"' {
				found = content(it.value.of(w.b))
			}
		}
	}
	return found
}

// prompts writes a text, a list of token ids, or a list of those.
func (w *writer) prompts(value span) {
	if w.first(value) != '[' {
		w.text(value)
		return
	}
	first := true
	ids := false
	for it := w.array(value); !w.full && it.next(); {
		c := w.first(it.value)
		isID := isNumber(c)
		switch {
		case first:
		case ids && isID:
			w.plain(",")
		default:
			w.plain("\n")
		}
		first, ids = false, isID
		switch c {
		case '[':
			w.tokenIDs(it.value)
		case '{':
			it.i = w.part(it.value, maxContents)
		default:
			w.text(it.value)
		}
	}
}

// tokenIDs writes one of several lists of token ids.
func (w *writer) tokenIDs(value span) {
	separator := ""
	for it := w.array(value); !w.full && it.next(); {
		w.plain(separator)
		separator = ","
		if w.first(it.value) == '{' {
			it.i = w.part(it.value, maxContents)
		} else {
			w.text(it.value)
		}
	}
}
