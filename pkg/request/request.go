package request

import (
	"encoding/binary"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// maxModelName is the length in bytes, quoted, above which a string is no model's name. It bounds what a Request keeps.
const maxModelName = 4096

// maxLong is of how many long strings of a prompt the ends are kept for the walk, which looks for those of others once more.
const maxLong = 512

// A Request is what routing needs of one inference request's body.
//
// It is reused: each Parse overwrites it. Until then it keeps views of the body, which must not change meanwhile; Parse with kind Other and
// no body lets go of them. It takes about 13 KB, whatever it parses. The zero value is ready for Parse. It is for one
// goroutine at a time.
type Request struct {
	Kind         Kind
	Model        string // decoded; of Triton the one in the path
	HasModel     bool   // whether Model is a string that is there
	Stream       bool   // whether an answer in events is asked for
	MaxTokens    int    // limit of the tokens to generate; 0 when unset
	CacheSalt    []byte // content of the string as it stands in the body, with its escapes; nil when unset
	PromptBytes  int    // length of the prompt's strings and token ids as they stand in the body, less images, sounds and files
	PromptTokens int    // how many token ids the prompt consists of; 0 when it is text

	body      []byte
	long      []span
	fields    [fieldCount]field
	lastModel string
	writer    writer
	patch     []byte
}

// A field is where the body's object holds a member, the last one of that name, as most JSON readers have it.
type field struct {
	span
	textLen int
	numbers int
}

type fieldName uint8

const (
	noField fieldName = iota
	fieldModel
	fieldMessages
	fieldPrompt
	fieldInput
	fieldInstructions
	fieldSystem
	fieldText
	fieldTextInput
	fieldInputIDs
	fieldTools
	fieldFunctions
	fieldCacheSalt
	fieldLoRAPath
	fieldStream
	fieldMaxTokens
	fieldMaxCompletionTokens
	fieldMaxOutputTokens
	fieldMaxNewTokens
	fieldParameters
	fieldSamplingParams
	fieldCount
)

func fieldOf(key []byte) fieldName {
	switch string(key) {
	case "model":
		return fieldModel
	case "messages":
		return fieldMessages
	case "prompt":
		return fieldPrompt
	case "input":
		return fieldInput
	case "instructions":
		return fieldInstructions
	case "system":
		return fieldSystem
	case "text":
		return fieldText
	case "text_input":
		return fieldTextInput
	case "input_ids":
		return fieldInputIDs
	case "tools":
		return fieldTools
	case "functions":
		return fieldFunctions
	case "cache_salt":
		return fieldCacheSalt
	case "lora_path":
		return fieldLoRAPath
	case "stream":
		return fieldStream
	case "max_tokens":
		return fieldMaxTokens
	case "max_completion_tokens":
		return fieldMaxCompletionTokens
	case "max_output_tokens":
		return fieldMaxOutputTokens
	case "max_new_tokens":
		return fieldMaxNewTokens
	case "parameters":
		return fieldParameters
	case "sampling_params":
		return fieldSamplingParams
	}
	return noField
}

// holdsPrompt says whether a field is part of the prompt in bodies of a kind.
func (k Kind) holdsPrompt(f fieldName) bool {
	switch k {
	case Chat:
		return f == fieldMessages
	case Completions:
		return f == fieldPrompt
	case Responses:
		return f == fieldInstructions || f == fieldInput
	case Embeddings:
		return f == fieldInput || f == fieldMessages
	case Messages:
		return f == fieldSystem || f == fieldMessages
	case TritonGenerate:
		return f == fieldTextInput
	case SGLangGenerate:
		return f == fieldText || f == fieldInputIDs
	}
	return false
}

// takesTokenIDs says whether numbers in a prompt of a kind are token ids.
func (k Kind) takesTokenIDs() bool {
	return k == Completions || k == Embeddings || k == SGLangGenerate
}

// Parse reads a body of a kind; the path matters to Triton only, whose model it names. A body of kind Other isn't read.
//
// The error is a *SyntaxError if the body isn't JSON. JSON of an unexpected shape is no error: what is there counts, and HasModel may be
// false. If truncated, the body is the beginning of a longer one: then nothing is an error, and what is complete counts
// (of the prompt, also what isn't).
func (r *Request) Parse(kind Kind, path string, body []byte, truncated bool) error {
	r.clear(kind, body)
	if kind == Other {
		return nil
	}
	s := scanner{b: body, long: r.long[:0]}
	end := r.scan(&s)
	r.long = s.long
	r.conclude(path)
	if end < 0 && !truncated {
		return newSyntaxError(body, s.failedAt, s.expected)
	}
	return nil
}

func (r *Request) clear(kind Kind, body []byte) {
	r.Kind = kind
	r.Model, r.HasModel, r.Stream = "", false, false
	r.MaxTokens, r.PromptBytes, r.PromptTokens = 0, 0, 0
	r.CacheSalt = nil
	r.body = body
	r.fields = [fieldCount]field{}
	if r.long == nil {
		r.long = make([]span, 0, maxLong)
	}
}

func (r *Request) walker() walker { return walker{b: r.body, long: r.long} }

// scan checks the whole body and notes the fields of its object. It returns -1 where the body isn't JSON.
func (r *Request) scan(s *scanner) int {
	i := 0
	if len(s.b) >= 3 && string(s.b[:3]) == "\xef\xbb\xbf" {
		i = 3 // a byte order mark: not JSON, but what the model servers' JSON readers accept
	}
	i = s.space(i)
	if i < len(s.b) && s.b[i] == '{' {
		i = r.scanObject(s, i+1)
	} else {
		i = s.value(i, 0)
	}
	if i < 0 {
		return -1
	}
	if i = s.space(i); i < len(s.b) {
		return s.fail(i, "the end of the body")
	}
	return i
}

func (r *Request) scanObject(s *scanner, i int) int {
	i = s.space(i)
	if i < len(s.b) && s.b[i] == '}' {
		return i + 1
	}
	for {
		if i = s.member(i); i < 0 {
			return -1
		}
		if i = r.scanField(s, i); i < 0 {
			return -1
		}
		if i = s.space(i); i < len(s.b) && s.b[i] == '}' {
			return i + 1
		}
		if i >= len(s.b) || s.b[i] != ',' {
			return s.fail(i, "',' or '}' after a member")
		}
		i = s.space(i + 1)
	}
}

// scanField checks a member's value and notes it if it matters.
func (r *Request) scanField(s *scanner, i int) int {
	var plain [64]byte
	name := fieldOf(s.key.of(s.b))
	if name == noField {
		name = fieldOf(plainKey(plain[:0], s.key.of(s.b)))
	}
	if name == noField {
		return s.value(i, 1)
	}
	prompt := r.Kind.holdsPrompt(name)
	s.counting, s.countingIDs = prompt, prompt && r.Kind.takesTokenIDs()
	s.textLen, s.numbers = 0, 0
	end := s.value(i, 1)
	s.counting, s.countingIDs = false, false
	switch {
	case end >= 0 && (end < len(s.b) || !isNumber(s.b[i])):
		r.fields[name] = field{span{i, end}, s.textLen, s.numbers}
	case prompt && i < len(s.b):
		r.fields[name] = field{span{i, len(s.b)}, len(s.b) - i, s.numbers} // cut off within the prompt
	}
	return end
}

// isNumber says whether a value is a number, of which nobody knows whether it is whole where a body was cut.
func isNumber(first byte) bool { return first == '-' || first-'0' <= 9 }

// conclude works out the exported fields from those of the body.
func (r *Request) conclude(path string) {
	r.concludeModel(path)
	r.Stream = r.Stream || r.is(fieldStream, "true")
	if f := r.fields[fieldCacheSalt]; isString(f.of(r.body)) {
		r.CacheSalt = content(f.of(r.body))
	}
	r.MaxTokens = r.maxTokens()
	for name, f := range r.fields {
		if !f.none() && r.Kind.holdsPrompt(fieldName(name)) {
			r.PromptBytes += f.textLen
			r.PromptTokens += f.numbers
		}
	}
}

func (r *Request) concludeModel(path string) {
	if r.Kind == TritonGenerate {
		r.Model, r.Stream = pathModel(path)
		r.HasModel = r.Model != ""
		return
	}
	quoted := r.fields[fieldModel].of(r.body)
	if !isString(quoted) || len(quoted) > maxModelName {
		return
	}
	raw := content(quoted)
	name, used := decode(r.writer.buf[:0], raw)
	if used < len(raw) {
		return
	}
	if string(name) != r.lastModel {
		r.lastModel = string(name)
	}
	r.Model, r.HasModel = r.lastModel, true
}

func (r *Request) is(name fieldName, literal string) bool {
	return string(r.fields[name].of(r.body)) == literal
}

// maxTokens returns the first limit that is set, the newer name of a limit before the older.
func (r *Request) maxTokens() int {
	for _, name := range [...]fieldName{fieldMaxCompletionTokens, fieldMaxOutputTokens, fieldMaxNewTokens, fieldMaxTokens} {
		if n := positive(r.fields[name].of(r.body)); n > 0 {
			return n
		}
	}
	w := r.walker()
	for _, name := range [...]fieldName{fieldSamplingParams, fieldParameters} {
		limit := 0
		for it := w.object(r.fields[name].span); it.next(); {
			switch it.name {
			case memberMaxTokens:
				limit = positive(it.value.of(r.body))
			case memberStream:
				r.Stream = r.Stream || string(it.value.of(r.body)) == "true"
			}
		}
		if limit > 0 {
			return limit
		}
	}
	return 0
}

// positive reads a number, at most 2^30; 0 if it is none.
func positive(number []byte) int {
	if len(number) == 0 || len(number) > 32 || !isNumber(number[0]) {
		return 0
	}
	f, err := strconv.ParseFloat(string(number), 64)
	if err != nil || f < 1 {
		return 0
	}
	return int(min(f, 1<<30))
}

// Identity appends to dst what the first block's hash covers beside the model: cache_salt, tools (the bytes as they stand) and
// SGLang's lora_path. Each that is there gives one letter and 8 bytes of its hash, so that nothing can be taken for another, and a
// long list of tools costs no memory. It appends nothing if there is none.
func (r *Request) Identity(dst []byte) []byte {
	if r.CacheSalt != nil {
		dst = binary.LittleEndian.AppendUint64(append(dst, 's'), r.writer.hashDecoded(r.CacheSalt))
	}
	for _, f := range [...]struct {
		name   fieldName
		letter byte
	}{{fieldTools, 't'}, {fieldFunctions, 'f'}} {
		if value := r.fields[f.name].of(r.body); len(value) > 0 && string(value) != "null" {
			dst = binary.LittleEndian.AppendUint64(append(dst, f.letter), xxhash.Sum64(value))
		}
	}
	if value := r.fields[fieldLoRAPath].of(r.body); r.Kind == SGLangGenerate && isString(value) {
		dst = binary.LittleEndian.AppendUint64(append(dst, 'l'), r.writer.hashDecoded(content(value)))
	}
	return dst
}

// PatchModel returns the body with another model name, in three parts: head and tail are views of the body, model is the new
// name as a JSON string, valid until the next PatchModel or Parse. Of several members "model" the last is replaced, the one that
// counts. Where the body holds no model to replace (Triton, whose path names it; kind Other; HasModel is false) model is nil
// and head is the whole body.
func (r *Request) PatchModel(name string) (head, model, tail []byte) {
	f := r.fields[fieldModel]
	if !r.HasModel || r.Kind == TritonGenerate {
		return r.body, nil, nil
	}
	r.patch = appendQuoted(r.patch[:0], name)
	return r.body[:f.off], r.patch, r.body[f.end:]
}
