package request_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pilotfish-epp/pilotfish/pkg/request"
	"github.com/pilotfish-epp/pilotfish/pkg/request/requesttest"
)

func TestKindOf(t *testing.T) {
	for path, want := range map[string]request.Kind{
		"/v1/chat/completions":                     request.Chat,
		"/v1/chat/completions/":                    request.Chat,
		"/team-a/v1/chat/completions?api-version=": request.Chat,
		"/openai/deployments/x/chat/completions":   request.Chat,
		"/v1/completions":                          request.Completions,
		"/v1/responses":                            request.Responses,
		"/v1/responses/resp_1/cancel":              request.Other,
		"/v1/embeddings":                           request.Embeddings,
		"/v1/messages":                             request.Messages,
		"/anthropic/v1/messages?beta=true":         request.Messages,
		"/v1/messages/count_tokens":                request.Other,
		"/v1/threads/thread_1/messages":            request.Other,
		"/v2/models/llama/generate":                request.TritonGenerate,
		"/v2/models/llama/generate_stream":         request.TritonGenerate,
		"/v2/models/llama/versions/3/generate":     request.TritonGenerate,
		"/v2/models/llama/infer":                   request.Other,
		"/generate":                                request.SGLangGenerate,
		"/generate_stream":                         request.Other,
		"/v1/models":                               request.Other,
		"/":                                        request.Other,
		"":                                         request.Other,
	} {
		if got := request.KindOf(path); got != want {
			t.Errorf("KindOf(%q) = %v, want %v", path, got, want)
		}
	}
}

type promptText struct {
	text []byte
	stop int // no more is wanted from this length on; 0: everything is
}

func (p *promptText) Text(b []byte) bool {
	p.text = append(p.text, b...)
	return p.stop == 0 || len(p.text) < p.stop
}

func promptOf(r *request.Request) string {
	var p promptText
	r.Prompt(&p)
	return string(p.text)
}

// seen is what a test looks at in a parsed request.
type seen struct {
	Model     string
	Stream    bool
	MaxTokens int
	Bytes     int
	Tokens    int
	Salt      string
	Prompt    string
}

func see(r *request.Request) seen {
	return seen{r.Model, r.Stream, r.MaxTokens, r.PromptBytes, r.PromptTokens, string(r.CacheSalt), promptOf(r)}
}

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name, path, body string
		want             seen
	}{
		{
			"chat", "/v1/chat/completions",
			`{"model":"m","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi\n\"you\""}],"stream":true,"max_tokens":5}`,
			seen{"m", true, 5, 30, 0, "", "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi\n\"you\"<|im_end|>\n"},
		},
		{
			"the newer limit counts", "/v1/chat/completions",
			`{"max_tokens":5,"max_completion_tokens":7.0,"stream":false}`,
			seen{MaxTokens: 7},
		},
		{
			"members in any order and with escapes", "/v1/chat/completions",
			`{"messa\u0067es":[{"content":"Hi","rol\u0065":"us\u0065r"}],"\u006dodel":"\u006d"}`,
			seen{"m", false, 0, 11, 0, "", "<|im_start|>user\nHi<|im_end|>\n"},
		},
		{
			"parts", "/v1/chat/completions",
			`{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"refusal","refusal":"b"},"c",null]}]}`,
			seen{"m", false, 0, 4 + 4 + 1 + 7 + 1 + 1, 0, "", "<|im_start|>user\nabc<|im_end|>\n"},
		},
		{
			"tool calls", "/v1/chat/completions",
			`{"model":"m","messages":[{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}}]},{"role":"tool","tool_call_id":"1","content":"2"}]}`,
			seen{"m", false, 0, 9 + 1 + 8 + 1 + 9 + 4 + 1 + 1, 0, "", "<|im_start|>assistant\nf{\"x\":1}<|im_end|>\n<|im_start|>tool\n2<|im_end|>\n"},
		},
		{
			"the last of equal members counts", "/v1/chat/completions",
			`{"model":"a","stream":true,"messages":[{"role":"x","content":"long"}],"model":"b","stream":false,"messages":[{"role":"u","content":"1","content":"2"}]}`,
			seen{"b", false, 0, 3, 0, "", "<|im_start|>u\n2<|im_end|>\n"},
		},
		{"prompt", "/v1/completions", `{"model":"m","prompt":"a\u00e9\ud83d\ude00","max_tokens":16}`, seen{"m", false, 16, 19, 0, "", "aé😀"}},
		{"prompts", "/v1/completions", `{"model":"m","prompt":["a","b"]}`, seen{"m", false, 0, 2, 0, "", "a\nb"}},
		{"token ids", "/v1/completions", `{"model":"m","prompt":[1, 22 ,333]}`, seen{"m", false, 0, 6, 3, "", "1,22,333"}},
		{"lists of token ids", "/v1/completions", `{"model":"m","prompt":[[1,2],[3]]}`, seen{"m", false, 0, 3, 3, "", "1,2\n3"}},
		{"cache salt", "/v1/completions", `{"model":"m","prompt":"","cache_salt":"a\"b"}`, seen{"m", false, 0, 0, 0, `a\"b`, ""}},
		{"embeddings", "/v1/embeddings", `{"model":"m","input":["a"]}`, seen{"m", false, 0, 1, 0, "", "a"}},
		{
			"responses", "/v1/responses",
			`{"model":"m","instructions":"Be brief.","input":"Hi","max_output_tokens":9}`,
			seen{"m", false, 9, 11, 0, "", "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"},
		},
		{
			"responses' items", "/v1/responses",
			`{"model":"m","input":[{"role":"user","content":[{"type":"input_text","text":"Hi"}]},{"type":"function_call","name":"f","arguments":"{}"},{"type":"function_call_output","output":"4"}]}`,
			seen{"m", false, 0, 4 + 10 + 2 + 13 + 1 + 2 + 20 + 1, 0, "", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nf{}<|im_end|>\n<|im_start|>tool\n4<|im_end|>\n"},
		},
		{
			"Anthropic", "/v1/messages",
			`{"model":"m","max_tokens":3,"system":[{"type":"text","text":"S","cache_control":{"type":"ephemeral"}}],"messages":[{"role":"user","content":"Hi"},
			{"role":"assistant","content":[{"type":"tool_use","id":"t","name":"f","input":{"x": "\u0041"}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":[{"type":"text","text":"R"}]}]}]}`,
			seen{
				"m", false, 3, 4 + 1 + 9 + 4 + 2 + 9 + 8 + 1 + 1 + 6 + 4 + 11 + 1 + 4 + 1, 0, "",
				"<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nf{\"x\": \"A\"}<|im_end|>\n<|im_start|>user\nR<|im_end|>\n",
			},
		},
		{"Triton", "/v2/models/my%2Fllama/generate_stream", `{"text_input":"Hi","parameters":{"max_tokens":4}}`, seen{"my/llama", true, 4, 2, 0, "", "Hi"}},
		{"SGLang", "/generate", `{"text":"Hi","sampling_params":{"max_new_tokens":4},"stream":true}`, seen{"", true, 4, 2, 0, "", "Hi"}},
		{"SGLang's ids", "/generate", `{"input_ids":[[5,6]]}`, seen{Tokens: 2, Bytes: 2, Prompt: "5,6"}},

		{"model of another type", "/v1/completions", `{"model":5,"prompt":"Hi"}`, seen{Bytes: 2, Prompt: "Hi"}},
		{"messages of another type", "/v1/chat/completions", `{"model":"m","messages":"Hi"}`, seen{"m", false, 0, 2, 0, "", "<|im_start|>user\nHi<|im_end|>\n"}},
		{"nothing of the expected type", "/v1/chat/completions", `{"model":[],"messages":{"a":[1]},"stream":"yes","max_tokens":"9","cache_salt":1}`, seen{}},
		{"no object", "/v1/chat/completions", ` [1] `, seen{}},
		{"numbers as they stand", "/v1/completions", `{"model":"m","seed":9007199254740993,"max_tokens":1e2}`, seen{Model: "m", MaxTokens: 100}},
		{"lone surrogate, broken UTF-8", "/v1/completions", "{\"prompt\":\"\\ud800x\xff\"}", seen{Bytes: 8, Prompt: "\ufffdx\ufffd"}},
		{"byte order mark", "/v1/completions", "\xef\xbb\xbf{\"model\":\"m\"}", seen{Model: "m"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var r request.Request
			if err := r.Parse(request.KindOf(tc.path), tc.path, []byte(tc.body), false); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, see(&r)); diff != "" {
				t.Error(diff)
			}
			if r.HasModel != (tc.want.Model != "") {
				t.Errorf("HasModel = %v", r.HasModel)
			}
		})
	}
}

func TestOtherKindsAreNotRead(t *testing.T) {
	var r request.Request
	if err := r.Parse(request.Other, "/v1/files", []byte("no JSON"), false); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(seen{}, see(&r)); diff != "" {
		t.Error(diff)
	}
}

// An image, a sound or a file stands in its place as the hash of what it is, however that is written, and doesn't count as text.
func TestMedia(t *testing.T) {
	part := func(part string) string {
		t.Helper()
		var r request.Request
		body := `{"messages":[{"role":"user","content":[{"type":"text","text":"a"},` + part + `,{"type":"text","text":"b"}]}]}`
		if err := r.Parse(request.Chat, "", []byte(body), false); err != nil {
			t.Fatal(err)
		}
		if r.PromptBytes > 50 {
			t.Errorf("%d bytes of text in %s", r.PromptBytes, body)
		}
		return promptOf(&r)
	}
	long := strings.Repeat("QUJD/x", 100)
	cat := part(`{"type":"image_url","image_url":{"url":"data:image/png;base64,` + long + `"}}`)
	if !strings.HasPrefix(cat, "<|im_start|>user\na<|media:") || !strings.HasSuffix(cat, "|>b<|im_end|>\n") || len(cat) != 56 {
		t.Errorf("image: %q", cat)
	}
	for name, same := range map[string]string{
		"escapes":     `{"type":"image_url","image_url":{"url":"data:image\/png;base64,` + strings.ReplaceAll(long, "/", `\/`) + `"}}`,
		"order":       `{"image_url":{"detail":"low","url":"data:image/png;base64,` + long + `"},"type":"image_url"}`,
		"plain":       `{"type":"input_image","image_url":"data:image/png;base64,` + long + `"}`,
		"raw escapes": `{"type":"image_url","image_url":{"\u0075rl":"data:\u0069mage/png;base64,` + long + `"}}`,
	} {
		if got := part(same); got != cat {
			t.Errorf("%s: %q, want %q", name, got, cat)
		}
	}
	different := map[string]bool{cat: true}
	for _, other := range []string{
		`{"type":"image_url","image_url":{"url":"data:image/png;base64,` + long + `x"}}`,
		`{"type":"input_audio","input_audio":{"data":"` + long + `","format":"wav"}}`,
		`{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + long + `y"}}`,
		`{"type":"file","file":{"file_id":"f-1"}}`,
		`{"type":"hologram","volume":[1,2,3]}`,
		`{"type":"hologram","volume":[1,2,4]}`,
	} {
		got := part(other)
		if different[got] || !strings.Contains(got, "<|media:") {
			t.Errorf("%s: %q", other, got)
		}
		different[got] = true
	}
}

func TestIdentity(t *testing.T) {
	identity := func(kind request.Kind, body string) string {
		t.Helper()
		var r request.Request
		if err := r.Parse(kind, "", []byte(body), false); err != nil {
			t.Fatal(err)
		}
		return string(r.Identity(nil))
	}
	for _, none := range []string{`{"model":"m"}`, `{"tools":null}`, `{"cache_salt":null}`, `{"lora_path":"x"}`} {
		if got := identity(request.Chat, none); got != "" {
			t.Errorf("%s: %q, want none", none, got)
		}
	}
	seen := map[string]string{}
	for _, body := range []string{
		`{"cache_salt":"a"}`, `{"cache_salt":"b"}`, `{"cache_salt":""}`, `{"tools":[]}`, `{"tools":[{}]}`, `{"functions":[{}]}`,
		`{"cache_salt":"a","tools":[]}`, `{"cache_salt":"[]","tools":"a"}`,
	} {
		got := identity(request.Chat, body)
		if other, ok := seen[got]; ok {
			t.Errorf("%s and %s have the same identity", body, other)
		}
		seen[got] = body
	}
	if identity(request.Chat, `{"cache_salt":"\u0061"}`) != identity(request.Chat, `{"cache_salt":"a"}`) {
		t.Error("an escape in cache_salt changes the identity")
	}
	if identity(request.SGLangGenerate, `{"lora_path":"x"}`) == identity(request.SGLangGenerate, `{}`) {
		t.Error("lora_path isn't part of SGLang's identity")
	}
}

func TestSyntaxErrors(t *testing.T) {
	deep := strings.Repeat(`[`, 600)
	for _, tc := range []struct {
		body, want   string
		line, column int
	}{
		{``, "malformed JSON at byte 0: expected a value, got an empty body", 1, 1},
		{"{\n  \"model\": \"m\"\n  \"stream\": true}", "malformed JSON at byte 19: expected ',' or '}' after a member, got '\"'", 3, 3},
		{`{"model":"m",}`, "malformed JSON at byte 13: expected a member's name in double quotes, got '}'", 1, 14},
		{`{"model" "m"}`, "malformed JSON at byte 9: expected ':' after a member's name, got '\"'", 1, 10},
		{`{"model":'m'}`, "malformed JSON at byte 9: expected a value, got '''", 1, 10},
		{`{"prompt":[1 2]}`, "malformed JSON at byte 13: expected ',' or ']' after an element, got '2'", 1, 14},
		{`{"prompt":[1,]}`, "malformed JSON at byte 13: expected a value, got ']'", 1, 14},
		{`{"prompt":"abc`, "malformed JSON at byte 14: expected '\"' at the end of a string, got the end of the body", 1, 15},
		{"{\"prompt\":\"a\nb\"}", "malformed JSON at byte 12: expected an escape instead of a control character in a string, got byte 0x0a", 1, 13},
		{`{"prompt":"\x"}`, "malformed JSON at byte 12: expected one of \"\\/bfnrtu after a backslash, got 'x'", 1, 13},
		{`{"prompt":"\u00g0"}`, "malformed JSON at byte 15: expected four hexadecimal digits after \\u, got 'g'", 1, 16},
		{`{"a":tru}`, `malformed JSON at byte 5: expected a value, got "tru"`, 1, 6},
		{`{"a":tru`, "malformed JSON at byte 8: expected true, got the end of the body", 1, 9},
		{`{"a":01}`, "malformed JSON at byte 6: expected ',' or '}' after a member, got '1'", 1, 7},
		{`{"a":-}`, "malformed JSON at byte 6: expected a digit, got '}'", 1, 7},
		{`{"a":1.}`, "malformed JSON at byte 7: expected a digit, got '}'", 1, 8},
		{`{"a":NaN}`, `malformed JSON at byte 5: expected a value, got "NaN"`, 1, 6},
		{`{"a":True}`, `malformed JSON at byte 5: expected a value, got "True"`, 1, 6},
		{`{"a":x}`, `malformed JSON at byte 5: expected a value, got "x"`, 1, 6},
		{`{"a":` + strings.Repeat("n", 20) + `}`, `malformed JSON at byte 5: expected a value, got "nnnnnnnnnnnnnnnnnnnn"`, 1, 6},
		{`{"a":` + strings.Repeat("n", 21) + `}`, `malformed JSON at byte 5: expected a value, got "nnnnnnnnnnnnnnnnnnnn"...`, 1, 6},
		{`{} x`, "malformed JSON at byte 3: expected the end of the body, got 'x'", 1, 4},
		{`{"a":` + deep, "malformed JSON at byte 516: expected at most 512 nested arrays and objects, got '['", 1, 517},
		{`no healthy upstream`, `malformed JSON at byte 0: expected a value, got "no"`, 1, 1},
		{`model=m`, `malformed JSON at byte 0: expected a value, got "model"`, 1, 1},
	} {
		var r request.Request
		err := r.Parse(request.Chat, "", []byte(tc.body), false)
		var syntax *request.SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("%.40s: %v, want a syntax error", tc.body, err)
			continue
		}
		if err.Error() != tc.want {
			t.Errorf("%.40s:\n got %s\nwant %s", tc.body, err, tc.want)
		}
		if line, column := syntax.Position([]byte(tc.body)); line != tc.line || column != tc.column {
			t.Errorf("%.40s: at %d:%d, want %d:%d", tc.body, line, column, tc.line, tc.column)
		}
		if err := r.Parse(request.Chat, "", []byte(tc.body), true); err != nil {
			t.Errorf("%.40s, truncated: %v", tc.body, err)
		}
	}
}

// Of a body that was cut anywhere, the prompt is the beginning of the whole prompt, and nothing else is guessed.
func TestTruncated(t *testing.T) {
	body := []byte(`{"model":"m","max_tokens":17,"stream":true,"cache_salt":"s","messages":[{"role":"user","content":"\"Hi\" \ud83d\ude00 ` +
		strings.Repeat("text ", 30) + `"},{"role":"user","content":[{"type":"text","text":"more"}]}]}`)
	var r request.Request
	if err := r.Parse(request.Chat, "", body, false); err != nil {
		t.Fatal(err)
	}
	whole := see(&r)
	longest := 0
	for n := range body {
		if err := r.Parse(request.Chat, "", body[:n], true); err != nil {
			t.Fatalf("%s: %v", body[:n], err)
		}
		got := see(&r)
		if !strings.HasPrefix(whole.Prompt, strings.TrimSuffix(got.Prompt, "\ufffd")) {
			t.Fatalf("%s:\n got %q\nwant a beginning of %q", body[:n], got.Prompt, whole.Prompt)
		}
		longest = max(longest, len(got.Prompt))
		if got.Model != "" && got.Model != "m" || got.MaxTokens != 0 && got.MaxTokens != 17 || got.Salt != "" && got.Salt != "s" {
			t.Fatalf("%s: %+v", body[:n], got)
		}
	}
	if longest < 200 {
		t.Errorf("at most %d bytes of the prompt were found in truncated bodies", longest)
	}
}

func TestPromptStopsWhenTheSinkHasEnough(t *testing.T) {
	body := requesttest.Chat(1<<20, 1)
	var r request.Request
	if err := r.Parse(request.Chat, "", body, false); err != nil {
		t.Fatal(err)
	}
	all := promptOf(&r)
	p := promptText{stop: 8192}
	r.Prompt(&p)
	if len(p.text) < 8192 || len(p.text) > 8192+4096 || !strings.HasPrefix(all, string(p.text)) {
		t.Errorf("%d bytes were rendered, of %d", len(p.text), len(all))
	}
}

func TestPatchModel(t *testing.T) {
	for _, tc := range []struct{ name, path, body, want string }{
		{"in its place", "/v1/chat/completions", ` { "model" : "old" , "seed":9007199254740993, "z":1, "a":1.0} `, ` { "model" : "new\"\\\u000a é" , "seed":9007199254740993, "z":1, "a":1.0} `},
		{"the one that counts", "/v1/completions", `{"model":"a","model":"b"}`, `{"model":"a","model":"new\"\\\u000a é"}`},
		{"not elsewhere", "/v1/completions", `{"metadata":{"model":"x"},"prompt":"\"model\":\"y\""}`, ``},
		{"not another type", "/v1/completions", `{"model":1}`, ``},
		{"not Triton, whose path names it", "/v2/models/m/generate", `{"model":"x","text_input":"a"}`, ``},
		{"not another kind", "/v1/files", `{"model":"x"}`, ``},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var r request.Request
			if err := r.Parse(request.KindOf(tc.path), tc.path, []byte(tc.body), false); err != nil {
				t.Fatal(err)
			}
			head, model, tail := r.PatchModel("new\"\\\n é")
			if tc.want == "" {
				if model != nil || tail != nil || string(head) != tc.body {
					t.Errorf("patched to %s%s%s", head, model, tail)
				}
				return
			}
			if got := string(head) + string(model) + string(tail); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestParseAllocatesNothing(t *testing.T) {
	body := requesttest.Chat(64<<10, 1)
	var r request.Request
	var p promptText
	dst := make([]byte, 0, 64)
	run := func() {
		if err := r.Parse(request.Chat, "", body, false); err != nil {
			t.Fatal(err)
		}
		p.text = p.text[:0]
		r.Prompt(&p)
		dst = r.Identity(dst[:0])
		r.PatchModel("another")
	}
	run()
	if n := testing.AllocsPerRun(20, run); n != 0 {
		t.Errorf("%v allocations for a body like the one before, want 0", n)
	}
}

func FuzzParse(f *testing.F) {
	for _, body := range []string{
		`{"model":"m","messages":[{"role":"user","content":"Hi\n"}],"stream":true,"max_tokens":5,"tools":[{}],"cache_salt":"x"}`,
		`{"model":"a","model":"\ud83d\ude00b","prompt":[[1,2],[3]]}`,
		`{"mod\u0065l":"a","input":[{"type":"input_text","text":"x"}]}`,
		`{"messages":[{"content":[{"type":"image_url","image_url":{"url":"u"}}]}]}`,
		`[{"a":[1,-2.5e+7,true,false,null]}]`, "\xef\xbb\xbf{}", `{"prompt":"\xff\ud800"}`, `{"a":"` + strings.Repeat("é", 40) + `"}`,
	} {
		f.Add([]byte(body), uint8(request.Chat))
	}
	f.Fuzz(func(t *testing.T, body []byte, kindByte uint8) {
		kind := request.Kind(kindByte % 8)
		var r request.Request
		if err := r.Parse(kind, "/v2/models/m/generate", body, true); err != nil {
			t.Fatalf("truncated: %v", err)
		}
		r.Prompt(&promptText{})
		err := r.Parse(kind, "/v2/models/m/generate", body, false)
		r.Prompt(&promptText{})
		r.Identity(nil)
		head, model, tail := r.PatchModel("new")
		if model == nil && !bytes.Equal(head, body) {
			t.Fatal("an unpatched body changed")
		}
		if kind == request.Other {
			return
		}
		checkValidity(t, body, err)
		if err == nil && kind != request.TritonGenerate && !bytes.HasPrefix(body, []byte("\xef\xbb\xbf")) {
			checkModel(t, body, &r, bytes.Join([][]byte{head, model, tail}, nil))
		}
	})
}

// checkValidity compares the verdict with encoding/json's, which allows deeper nesting and no byte order mark.
func checkValidity(t *testing.T, body []byte, err error) {
	t.Helper()
	var syntax *request.SyntaxError
	if errors.As(err, &syntax) {
		if syntax.Offset < 0 || syntax.Offset > len(body) {
			t.Fatalf("offset %d of %d bytes", syntax.Offset, len(body))
		}
		if strings.Contains(syntax.Expected, "nested") {
			return
		}
	}
	plain := bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	if valid := json.Valid(plain); valid != (err == nil) {
		t.Fatalf("encoding/json says %v, Parse %v: %q", valid, err, body)
	}
}

// checkModel compares the model with what encoding/json reads, in the body and in the patched one.
func checkModel(t *testing.T, body []byte, r *request.Request, patched []byte) {
	t.Helper()
	before, after := map[string]any{}, map[string]any{}
	if json.Unmarshal(body, &before) != nil {
		return // no object
	}
	model, isString := before["model"].(string)
	if r.HasModel != isString && len(model) < 600 {
		t.Fatalf("HasModel = %v, model %v: %q", r.HasModel, before["model"], body)
	}
	if !r.HasModel {
		return
	}
	if r.Model != model {
		t.Fatalf("model %q, want %q: %q", r.Model, model, body)
	}
	if err := json.Unmarshal(patched, &after); err != nil {
		t.Fatalf("patched body: %v: %q", err, patched)
	}
	if after["model"] != "new" {
		t.Fatalf("patched model is %v: %q", after["model"], patched)
	}
	after["model"] = model
	if diff := cmp.Diff(before, after); diff != "" {
		t.Fatal(diff)
	}
}
