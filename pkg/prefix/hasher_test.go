package prefix_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
	"pgregory.net/rapid"

	"github.com/pilotfish-epp/pilotfish/pkg/prefix"
	"github.com/pilotfish-epp/pilotfish/pkg/request"
	"github.com/pilotfish-epp/pilotfish/pkg/request/requesttest"
)

func hashes(blockChars, maxBlocks int, model string, identity []byte, pieces ...string) []uint64 {
	var h prefix.Hasher
	h.Reset(blockChars, maxBlocks, nil, model, identity)
	for _, p := range pieces {
		h.Text([]byte(p))
	}
	return h.Sum()
}

func TestHashes(t *testing.T) {
	long := strings.Repeat("The quick brown fox jumps over the lazy dog. ", 40)
	for _, tc := range []struct {
		name                  string
		blockChars, maxBlocks int
		model, identity, text string
		blocks                int
	}{
		{"no text", 4, 10, "m", "", "", 0},
		{"the last block isn't full", 4, 10, "m", "", "abcdefg", 1},
		{"full blocks", 4, 10, "m", "", "abcdefgh", 2},
		{"more than wanted", 4, 2, "m", "", "abcdefghijklmnop", 2},
		{"none wanted", 4, 0, "m", "", "abcdefgh", 0},
		{"characters, not bytes", 4, 10, "m", "", "äöüß€uro😀😀😀😀", 3},
		{"blocks of one", 1, 10, "m", "", "aé😀", 3},
		{"identity", 4, 10, "m", "s12345678", "abcd", 1},
		{"usual block size", 64, 128, "meta-llama/Llama-3.1-8B-Instruct", "", long, 28},
		{"odd block size", 37, 1000, "m", "", long + "日本語" + long, 97},
		{"large blocks", 1000, 128, "m", "", long, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := hashes(tc.blockChars, tc.maxBlocks, tc.model, []byte(tc.identity), tc.text)
			want := slowHashes(tc.blockChars, tc.maxBlocks, tc.model, []byte(tc.identity), tc.text)
			if !slices.Equal(got, want) || len(got) != tc.blocks {
				t.Errorf("got %x\nwant %x (%d blocks)", got, want, tc.blocks)
			}
		})
	}
}

// The first hash covers the model by itself, so that other pickers of the family, given the same blocks, find the same hashes.
func TestFirstHash(t *testing.T) {
	block := []byte("abcd")
	h0 := xxhash.Sum64String("m")
	for i := range 8 {
		block = append(block, byte(h0>>(8*i)))
	}
	if got, want := hashes(4, 1, "m", nil, "abcd"), xxhash.Sum64(block); got[0] != want {
		t.Errorf("got %x, want %x", got[0], want)
	}
	if slices.Equal(hashes(4, 1, "m", []byte("x"), "abcd"), hashes(4, 1, "mx", nil, "abcd")) {
		t.Error("an identity is taken for a part of the model's name")
	}
}

func TestTextSaysWhenItHasEnough(t *testing.T) {
	var h prefix.Hasher
	h.Reset(4, 2, nil, "m", nil)
	for i, step := range []struct {
		text string
		more bool
	}{{"abc", true}, {"d", true}, {"éfg", true}, {"\xf0\x9f", true}, {"\x98\x80", false}, {"x", false}, {"", false}} {
		if more := h.Text([]byte(step.text)); more != step.more {
			t.Errorf("step %d, %q: %v, want %v", i, step.text, more, step.more)
		}
	}
	if got, want := h.Sum(), slowHashes(4, 9, "m", nil, "abcdéfg😀"); !slices.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

func TestResetReusesItsSlice(t *testing.T) {
	var h prefix.Hasher
	dst := make([]uint64, 5, 100)
	text := []byte(strings.Repeat("0123456789", 100))
	run := func() {
		h.Reset(16, 62, dst, "m", []byte("salt"))
		h.Text(text)
		dst = h.Sum()
	}
	run()
	if n := testing.AllocsPerRun(10, run); n != 0 || len(dst) != 62 {
		t.Errorf("%v allocations, %d hashes", n, len(dst))
	}
}

func TestAnyCuttingGivesTheSameHashes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOf(rapid.OneOf(rapid.Rune(), rapid.RuneFrom([]rune("abc é€😀")))).Draw(t, "text")
		text = strings.Repeat(text, rapid.IntRange(1, 20).Draw(t, "times"))
		blockChars := rapid.IntRange(1, 70).Draw(t, "blockChars")
		maxBlocks := rapid.IntRange(0, 40).Draw(t, "maxBlocks")
		var pieces []string
		for rest := text; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			pieces = append(pieces, rest[:n])
			rest = rest[n:]
		}
		want := slowHashes(blockChars, maxBlocks, "m", nil, text)
		if got := hashes(blockChars, maxBlocks, "m", nil, pieces...); !slices.Equal(got, want) {
			t.Fatalf("got %x, want %x", got, want)
		}
	})
}

// Bytes that aren't UTF-8 have no right hash, but must have the same one however they are cut.
func TestAnyCuttingOfAnyBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := string(rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "text"))
		blockChars := rapid.IntRange(1, 70).Draw(t, "blockChars")
		var bytewise []string
		for i := range len(text) {
			bytewise = append(bytewise, text[i:i+1])
		}
		whole := hashes(blockChars, 40, "m", nil, text)
		if cut := hashes(blockChars, 40, "m", nil, bytewise...); !slices.Equal(whole, cut) {
			t.Fatalf("whole %x, byte by byte %x", whole, cut)
		}
	})
}

// hashBody is what the data path does with a body.
func hashBody(t testing.TB, body []byte, blockChars, maxBlocks int) []uint64 {
	t.Helper()
	var r request.Request
	if err := r.Parse(request.Chat, "/v1/chat/completions", body, false); err != nil {
		t.Fatal(err)
	}
	var h prefix.Hasher
	h.Reset(blockChars, maxBlocks, nil, r.Model, r.Identity(nil))
	r.Prompt(&h)
	return h.Sum()
}

// slowRender decodes a chat body with encoding/json and renders its messages, whose contents are strings.
func slowRender(t testing.TB, body []byte) (model, text string) {
	t.Helper()
	var chat struct {
		Model    string `json:"model"`
		Messages []requesttest.Message
	}
	if err := json.Unmarshal(body, &chat); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, m := range chat.Messages {
		fmt.Fprintf(&b, "<|im_start|>%s\n%s<|im_end|>\n", m.Role, m.Content)
	}
	return chat.Model, b.String()
}

func TestBodiesHashLikeTheirDecodedText(t *testing.T) {
	for _, size := range []int{300, 1 << 10, 8 << 10, 64 << 10, 1 << 20} {
		body := requesttest.Chat(size, size)
		model, text := slowRender(t, body)
		for _, blockChars := range []int{1, 16, 64, 1000} {
			got := hashBody(t, body, blockChars, wholePrompt)
			if want := slowHashes(blockChars, wholePrompt, model, nil, text); !slices.Equal(got, want) {
				t.Errorf("%d bytes in blocks of %d: %d hashes, want %d", len(body), blockChars, len(got), len(want))
			}
		}
	}
}

// escapeForm writes a text as a JSON string, each character in one of the forms that stand for it.
func escapeForm(t *rapid.T, text string) string {
	short := map[rune]string{'\n': `\n`, '\t': `\t`, '\r': `\r`, '\b': `\b`, '\f': `\f`, '"': `\"`, '\\': `\\`, '/': `\/`}
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range text {
		long := fmt.Sprintf(`\u%04x`, c)
		if c > 0xffff {
			long = fmt.Sprintf(`\u%04X\u%04x`, 0xd800+(c-0x10000)>>10, 0xdc00+(c-0x10000)&0x3ff)
		}
		forms := []string{long}
		if s, ok := short[c]; ok {
			forms = append(forms, s)
		}
		if c >= ' ' && c != '"' && c != '\\' {
			forms = append(forms, string(c), string(c), string(c))
		}
		b.WriteString(rapid.SampledFrom(forms).Draw(t, "form"))
	}
	b.WriteByte('"')
	return b.String()
}

func TestAnyEscapesGiveTheSameHashes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOf(rapid.OneOf(rapid.Rune(), rapid.RuneFrom([]rune("abcdefgh \n\t\"\\/é€😀")))).Draw(t, "text")
		text = strings.ToValidUTF8(text, "\ufffd")
		blockChars := rapid.IntRange(1, 10).Draw(t, "blockChars")
		body := `{"messages":[{"role":"user","content":` + escapeForm(t, text) + `}],"model":` + escapeForm(t, "a/b") + `}`
		var r request.Request
		if err := r.Parse(request.Chat, "", []byte(body), false); err != nil {
			t.Fatal(err)
		}
		var h prefix.Hasher
		h.Reset(blockChars, wholePrompt, nil, r.Model, nil)
		r.Prompt(&h)
		want := slowHashes(blockChars, wholePrompt, "a/b", nil, "<|im_start|>user\n"+text+"<|im_end|>\n")
		if !slices.Equal(h.Sum(), want) {
			t.Fatalf("%s: got %x, want %x", body, h.Sum(), want)
		}
	})
}

// FuzzPrompt compares the hashes of chat messages and prompts with those of the text as encoding/json decodes it.
func FuzzPrompt(f *testing.F) {
	f.Add("user", `Hi\n\ud83d\ude00 \ud800 \u00e9`, uint8(4))
	f.Add("system", strings.Repeat(`0123456789 \"é\" `, 50), uint8(64))
	f.Add("\xff", "\xe2\x82", uint8(1))
	f.Fuzz(func(t *testing.T, role, content string, blockChars uint8) {
		blockChars = max(blockChars, 1)
		quotedRole, err := json.Marshal(role)
		if err != nil {
			t.Fatal(err)
		}
		body := []byte(`{"messages":[{"content":"` + content + `","role":` + string(quotedRole) + `}],"model":"m"}`)
		var decoded struct{ Messages []map[string]any }
		if json.Unmarshal(body, &decoded) != nil || len(decoded.Messages) != 1 || len(decoded.Messages[0]) != 2 {
			t.Skip("the content broke out of its quotes")
		}
		decodedRole, ok := decoded.Messages[0]["role"].(string)
		decodedContent, ok2 := decoded.Messages[0]["content"].(string)
		if !ok || !ok2 || strings.Contains(content, `"`) && !utf8.ValidString(content) {
			t.Skip("other members")
		}
		text := "<|im_start|>" + decodedRole + "\n" + decodedContent + "<|im_end|>\n"
		want := slowHashes(int(blockChars), wholePrompt, "m", nil, text)
		if got := hashBody(t, body, int(blockChars), wholePrompt); !slices.Equal(got, want) {
			t.Fatalf("%q: got %x, want %x", body, got, want)
		}
	})
}
