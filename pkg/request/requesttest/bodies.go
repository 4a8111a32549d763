// Package requesttest makes request bodies for tests and benchmarks: conversations of prose, code and tool results, with the
// escapes and the few characters beyond ASCII that real ones have.
package requesttest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// A Message is one turn of a conversation.
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

var turns = [...]Message{
	{"user", "Our nightly export has been failing since Tuesday. The job log ends with \"permission denied\" when it opens the " +
		"archive, though nobody changed the bucket's policy as far as I know.\n\nCan you tell me where to look first?"},
	{"assistant", "Three things are worth a look, in this order:\n\n1. **Who runs the job.** `ps -o user= -p $(pgrep export)` names the " +
		"account.\n2. **What that account may do.** Policies are inherited, so a change one level up is enough.\n3. **Whether " +
		"the archive is locked.** A previous run that died may have left `export.lock` behind.\n\nWhich account do you see?"},
	{"user", "It runs as svc-export. I ran your command and then this:\n\n```go\nfunc open(path string) (*os.File, error) {\n\tf, err := " +
		"os.OpenFile(path, os.O_RDWR, 0o600)\n\tif err != nil {\n\t\treturn nil, fmt.Errorf(\"open %q: %w\", path, err)\n\t}\n\treturn f, nil\n}\n```\n" +
		"It prints: open \"C:\\\\exports\\\\2024-11-19.zip\": permission denied."},
	{"assistant", "That narrows it down: the file is opened for writing (`O_RDWR`), yet an archive of a finished day is read-only. So " +
		"the job worked as long as it reopened only today's archive. On Tuesday the retention rule – ninety days – began to " +
		"rewrite older ones.\n\nOpen it with `os.O_RDONLY` unless the caller means to append. Then the café branch's files, " +
		"which are named in UTF-8 (\"Zürich – Übersicht.csv\"), are read as well."},
	{"tool", "{\"status\": \"ok\", \"rows\": [{\"id\": 4711, \"name\": \"Zürich – Übersicht.csv\", \"bytes\": 1048576, \"owner\": \"svc-export\"}, " +
		"{\"id\": 4712, \"name\": \"totals.csv\", \"bytes\": 20480, \"owner\": \"root\"}], \"next\": null}"},
}

// Chat returns the body of a chat completion request of about size bytes: a system prompt and turns that all differ. Equal sizes and
// seeds give equal bodies, and the bodies of one seed share a prefix.
func Chat(size, seed int) []byte {
	messages := []Message{{"system", "You are the support assistant of a storage company. Answer briefly, quote commands in backticks, and never guess."}}
	length := 200
	for i := 0; length < size; i++ {
		m := turns[i%len(turns)]
		m.Content = fmt.Sprintf("(%d.%d) %s", seed, i, m.Content)
		if over := length + len(m.Content) - size; over > 0 {
			m.Content = strings.ToValidUTF8(m.Content[:max(len(m.Content)-over, 1)], "")
		}
		messages = append(messages, m)
		length += len(m.Content) + 40 + strings.Count(m.Content, "\n") + strings.Count(m.Content, `"`)
	}
	return ChatOf("meta-llama/Llama-3.1-8B-Instruct", messages)
}

// ChatOf returns a chat completion request as the usual clients write it.
func ChatOf(model string, messages any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(map[string]any{
		"model": model, "messages": messages, "temperature": 0.7, "max_tokens": 256, "stream": true,
		"stream_options": map[string]any{"include_usage": true},
	})
	if err != nil {
		panic(err) // only for messages that can't be JSON
	}
	return bytes.TrimSpace(b.Bytes())
}
