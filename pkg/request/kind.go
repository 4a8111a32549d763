package request

import (
	"net/url"
	"strings"
)

// A Kind is the API that a request's path belongs to, which decides where its body holds the prompt.
type Kind uint8

// The kinds, by the server whose API it is.
const (
	Other          Kind = iota // not an inference API that is known here: the body isn't read
	Chat                       // OpenAI …/chat/completions
	Completions                // OpenAI …/completions
	Responses                  // OpenAI /v1/responses
	Embeddings                 // OpenAI …/embeddings
	Messages                   // Anthropic /v1/messages
	TritonGenerate             // Triton /v2/models/{model}[/versions/{version}]/generate and generate_stream
	SGLangGenerate             // SGLang /generate
)

var kindNames = [...]string{"other", "chat", "completions", "responses", "embeddings", "messages", "triton-generate", "sglang-generate"}

// String returns a short name in lower case, fit for a metric's label.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return kindNames[Other]
}

// KindOf tells the kind of a request from its path, which may have a prefix and a query.
func KindOf(path string) Kind {
	p := trimPath(path)
	p, last := cutLast(p)
	switch last {
	case "completions":
		if _, before := cutLast(p); before == "chat" {
			return Chat
		}
		return Completions
	case "embeddings":
		return Embeddings
	case "responses":
		if isVersion(p) {
			return Responses
		}
	case "messages":
		// Elsewhere this name is common: /threads/{id}/messages, for one.
		if isVersion(p) {
			return Messages
		}
	case "generate":
		if tritonModel(p) != "" {
			return TritonGenerate
		}
		return SGLangGenerate
	case "generate_stream":
		if tritonModel(p) != "" {
			return TritonGenerate
		}
	}
	return Other
}

func trimPath(path string) string {
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		path = path[:i]
	}
	return strings.TrimSuffix(path, "/")
}

// cutLast cuts a path before its last segment.
func cutLast(p string) (before, last string) {
	i := strings.LastIndexByte(p, '/')
	if i < 0 {
		return "", p
	}
	return p[:i], p[i+1:]
}

// isVersion says whether a path ends in a version such as v1, or is empty.
func isVersion(p string) bool {
	_, last := cutLast(p)
	return last == "" || len(last) >= 2 && last[0] == 'v' && last[1] >= '0' && last[1] <= '9'
}

// tritonModel returns the model, as it stands in a path …/v2/models/{model}[/versions/{version}], or "".
func tritonModel(p string) string {
	if before, _ := cutLast(p); strings.HasSuffix(before, "/versions") {
		p = strings.TrimSuffix(before, "/versions")
	}
	before, model := cutLast(p)
	if !strings.HasSuffix(before, "/v2/models") {
		return ""
	}
	return model
}

// pathModel returns the model that a Triton path names, unescaped, and whether the path asks for a stream.
func pathModel(path string) (model string, stream bool) {
	p, last := cutLast(trimPath(path))
	model = tritonModel(p)
	if plain, err := url.PathUnescape(model); err == nil {
		model = plain
	}
	return strings.ToValidUTF8(model, "\uFFFD"), last == "generate_stream"
}
