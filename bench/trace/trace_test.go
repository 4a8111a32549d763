package trace

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const sample = "testdata/mooncake_conversation_50.jsonl"

func TestMooncakeSample(t *testing.T) {
	tr, err := OpenMooncake(sample, MooncakeBlock)
	if err != nil {
		t.Fatal(err)
	}
	if len(tr.Requests) != 50 || tr.Warning != "" {
		t.Fatalf("%d requests, warning %q", len(tr.Requests), tr.Warning)
	}
	first := tr.Requests[0]
	if first.At != 0 || first.Input != 6758 || first.Output != 500 || len(first.Blocks) != 14 {
		t.Errorf("first request: %+v", first)
	}
}

func TestTextHasTheTraceTokensAndPrefixes(t *testing.T) {
	tr, err := OpenMooncake(sample, MooncakeBlock)
	if err != nil {
		t.Fatal(err)
	}
	texts := make([][]byte, len(tr.Requests))
	for i, r := range tr.Requests {
		texts[i] = tr.AppendText(nil, i)
		if len(texts[i]) != r.Input*TokenBytes {
			t.Errorf("request %d: %d bytes of text, want %d tokens of %d", i, len(texts[i]), r.Input, TokenBytes)
		}
	}
	for i := range texts {
		for j := range texts[:i] {
			want := MooncakeBlock * TokenBytes * sharedBlocks(tr, i, j)
			if got := commonPrefix(texts[i], texts[j]); got < want || got > want+TokenBytes {
				t.Fatalf("requests %d and %d share %d bytes of text, want %d", i, j, got, want)
			}
		}
	}
}

func TestChunksAreEqualWhereTheTextIs(t *testing.T) {
	const size = 16
	tr, err := OpenMooncake(sample, MooncakeBlock)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range tr.Requests {
		a := tr.AppendChunks(nil, i, size)
		if len(a) != r.Input/size {
			t.Fatalf("request %d: %d chunks, want %d", i, len(a), r.Input/size)
		}
		for j := range i {
			b := tr.AppendChunks(nil, j, size)
			want := sharedBlocks(tr, i, j) * MooncakeBlock / size
			got := 0
			for got < min(len(a), len(b)) && a[got] == b[got] {
				got++
			}
			if got != want {
				t.Fatalf("requests %d and %d share %d chunks, want %d", i, j, got, want)
			}
		}
	}
}

func TestSpreadTies(t *testing.T) {
	times := func(seed uint64) []time.Duration {
		tr, err := OpenMooncake(sample, MooncakeBlock)
		if err != nil {
			t.Fatal(err)
		}
		tr.SpreadTies(seed)
		var at []time.Duration
		for i, r := range tr.Requests {
			at = append(at, r.At)
			if recorded := recordedTimes(t)[i]; r.At < recorded || r.At >= recorded+3*time.Second {
				t.Errorf("request %d moved from %v to %v", i, recorded, r.At)
			}
		}
		return at
	}
	one, again, other := times(1), times(1), times(2)
	if !slices.Equal(one, again) {
		t.Error("the same seed gave other times")
	}
	if slices.Equal(one, other) {
		t.Error("another seed gave the same times")
	}
	if !slices.IsSorted(one) {
		t.Error("times are out of order")
	}
	if len(slices.Compact(slices.Clone(one))) != len(one) {
		t.Error("ties are left")
	}
}

func TestUnsortedTimesAreSortedAndSaid(t *testing.T) {
	const in = `{"timestamp": 3000, "input_length": 1, "output_length": 1, "hash_ids": [1]}
{"timestamp": 1000, "input_length": 2, "output_length": 1, "hash_ids": [2]}
{"timestamp": 3000, "input_length": 3, "output_length": 1, "hash_ids": [3]}
{"timestamp": 2000, "input_length": 4, "output_length": 1, "hash_ids": [4]}
`
	tr, err := ReadMooncake(strings.NewReader(in), "t.jsonl", 16)
	if err != nil {
		t.Fatal(err)
	}
	if want := "t.jsonl:2: time goes back from 3s to 1s; sorted the requests by time"; tr.Warning != want {
		t.Errorf("warning %q, want %q", tr.Warning, want)
	}
	var order []int
	for _, r := range tr.Requests {
		order = append(order, r.Input)
	}
	if want := []int{2, 4, 1, 3}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v: by time, and in file order where equal", order, want)
	}
	if tr.Requests[0].At != 0 || tr.Requests[3].At != 2*time.Second {
		t.Errorf("times start at %v and end at %v", tr.Requests[0].At, tr.Requests[3].At)
	}
}

func TestBrokenFilesNameTheLine(t *testing.T) {
	mooncake := func(in string) error { _, err := ReadMooncake(strings.NewReader(in), "f", 512); return err }
	azure := func(in string) error { _, err := ReadAzure(strings.NewReader(in), "f"); return err }
	sessions := func(in string) error { _, err := ReadSessions(strings.NewReader(in), "f"); return err }
	const good = `{"timestamp": 0, "input_length": 10, "output_length": 1, "hash_ids": [1]}` + "\n"
	const head = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
	const session = `{"id":"a","block_size":64,"tool_tokens":1,"system_tokens":1,"requests":[`
	for _, c := range []struct {
		name string
		read func(string) error
		in   string
		want string
	}{
		{"mooncake, empty", mooncake, "", "f: no requests"},
		{"mooncake, no JSON", mooncake, good + "oops\n", "f:2: invalid character 'o' looking for beginning of value"},
		{"mooncake, cut", mooncake, good + "\n" + `{"timestamp": 1`, "f:3: unexpected end of JSON input"},
		{"mooncake, missing", mooncake, `{"timestamp": 1, "input_length": 2, "hash_ids": []}`, `f:1: field "output_length" is missing`},
		{"mooncake, wrong type", mooncake, `{"timestamp": "1"}`, "f:1: json: cannot unmarshal string into Go struct field .timestamp of type float64"},
		{"mooncake, no prompt", mooncake, `{"timestamp": 1, "input_length": 0, "output_length": 1, "hash_ids": []}`, "f:1: input_length is 0, expected at least 1"},
		{"mooncake, blocks", mooncake, `{"timestamp": 1, "input_length": 1024, "output_length": 1, "hash_ids": [1]}`, "f:1: 1 hash_ids for 1024 tokens, expected 2 or 3 of 512 tokens each"},
		{"azure, empty", azure, "", `f:1: empty, expected the columns ["TIMESTAMP" "ContextTokens" "GeneratedTokens"]`},
		{"azure, column", azure, "TIMESTAMP,ContextTokens\n", `f:1: column "GeneratedTokens" is missing, got ["TIMESTAMP" "ContextTokens"]`},
		{"azure, only the head", azure, head, "f: no requests"},
		{"azure, time", azure, head + "yesterday,1,1\n", `f:2: TIMESTAMP is "yesterday", expected a time like "2023-11-16 18:17:03.9799600"`},
		{"azure, number", azure, head + "2023-11-16 18:17:03.9799600,1,1\n2023-11-16 18:17:03.9799600,x,1\n", `f:3: ContextTokens is "x", expected a number`},
		{"azure, fields", azure, head + "2023-11-16 18:17:03.9799600,1\n", "f: record on line 2: wrong number of fields"},
		{"sessions, empty", sessions, "", "f: no sessions"},
		{"sessions, missing", sessions, `{"id":"a"}`, `f:1: field "block_size" is missing`},
		{"sessions, turn", sessions, session + `{"t":0,"in":1,"out":1,"add":[]}]}`, `f:1: session a: request 0: field "keep" is missing`},
		{"sessions, keep", sessions, session + `{"t":0,"in":64,"out":1,"keep":1,"add":[1,1]}]}`, "f:1: session a: request 0: keep is 1, expected 0 to the 0 blocks of the request before, and to what 64 tokens hold"},
		{"sessions, add", sessions, session + `{"t":0,"in":64,"out":1,"keep":0,"add":[1]}]}`, "f:1: session a: request 0: add has 1 numbers, expected pairs of first id and count"},
		{"sessions, too much", sessions, session + `{"t":0,"in":64,"out":1,"keep":0,"add":[1,99999999999]}]}`, "f:1: session a: request 0: keep and add give more blocks of 64 tokens than fit into 64 tokens"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.read(c.in); err == nil || err.Error() != c.want {
				t.Errorf("error %v\nwant  %s", err, c.want)
			}
		})
	}
}

func TestAzure(t *testing.T) {
	tr, err := ReadAzure(strings.NewReader("TIMESTAMP,GeneratedTokens,ContextTokens\n"+
		"2023-11-16 18:17:03.9799600,10,4808\n2023-11-16 18:17:04.0319600,8,3180\n"), "a.csv")
	if err != nil {
		t.Fatal(err)
	}
	want := Request{At: 52 * time.Millisecond, Input: 3180, Output: 8}
	if got := tr.Requests[1]; got.At != want.At || got.Input != want.Input || got.Output != want.Output || got.Blocks != nil {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if a, b := tr.AppendText(nil, 0), tr.AppendText(nil, 1); commonPrefix(a, b) > 2*TokenBytes {
		t.Error("prompts without known prefixes share text")
	}
}

func TestSessions(t *testing.T) {
	// Tools and system prompt are 192 tokens, so three blocks, in both sessions; the sub-agent has its own.
	const in = `{"id":"a","block_size":64,"tool_tokens":128,"system_tokens":64,"requests":[` +
		`{"t":0,"model":"m","in":330,"out":5,"keep":0,"add":[1,5]},` +
		`{"t":1.5,"type":"subagent","agent_id":"x","tool_tokens":64,"system_tokens":0,"requests":[{"t":0,"in":128,"out":1,"keep":0,"add":[900,2]}]},` +
		`{"t":9,"model":"m","in":400,"out":5,"keep":4,"add":[6,1,9,1],"think_time":2.5,"api_time":3}]}
{"id":"b","block_size":64,"tool_tokens":128,"system_tokens":64,"requests":[{"t":0,"in":256,"out":1,"keep":0,"add":[1,4]}]}
`
	sessions, err := ReadSessions(strings.NewReader(in), "s.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	a, b := prompts(&sessions[0]), prompts(&sessions[1])
	if len(a) != 2 || len(a[0]) != 5 || len(a[1]) != 6 {
		t.Fatalf("session a has prompts %v", a)
	}
	if !slices.Equal(a[0][:4], a[1][:4]) || a[0][4] == a[1][4] {
		t.Errorf("the second turn keeps four blocks of the first: %v", a)
	}
	if !slices.Equal(a[0][:3], b[0][:3]) || a[0][3] == b[0][3] {
		t.Errorf("sessions share tools and system prompt, and nothing more: %v and %v", a[0], b[0])
	}
	if turn := sessions[0].Turns[1]; turn.At != 9*time.Second || turn.Think != 2500*time.Millisecond || turn.API != 3*time.Second {
		t.Errorf("second turn: %+v", turn)
	}
	agent := &sessions[0].Agents[0]
	if agent.ID != "a/x" || agent.Start != 1500*time.Millisecond || len(prompts(agent)[0]) != 2 {
		t.Errorf("sub-agent: %+v", agent)
	}
	if prompts(agent)[0][0] == a[0][0] {
		t.Error("the sub-agent shares the session's head, though it has other tools")
	}
}

func TestGzip(t *testing.T) {
	plain, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "any.name")
	if err := os.WriteFile(path, packed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	tr, err := OpenMooncake(path, MooncakeBlock)
	if err != nil {
		t.Fatal(err)
	}
	if len(tr.Requests) != 50 {
		t.Errorf("%d requests, want 50", len(tr.Requests))
	}
	if err := os.WriteFile(path, packed.Bytes()[:packed.Len()/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenMooncake(path, MooncakeBlock); err == nil {
		t.Error("a cut file is read without an error")
	}
}

// TestPublishedTraces checks the readers against the known totals of the whole files, where those are at hand.
func TestPublishedTraces(t *testing.T) {
	const dir = "../../../shared/traces/"
	if _, err := os.Stat(dir); err != nil {
		t.Skip("the full traces are not here: ", err)
	}
	mooncake, err := OpenMooncake(dir+"mooncake_conversation.jsonl.gz", MooncakeBlock)
	if err != nil {
		t.Fatal(err)
	}
	azure, err := OpenAzure(dir + "azure_2023_code.csv.gz")
	if err != nil {
		t.Fatal(err)
	}
	sessions, err := OpenSessions(dir + "claude_code_sessions.jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	turns := 0
	for i := range sessions {
		turns += len(sessions[i].Turns)
		for turn, blocks := range sessions[i].Prompts() {
			if len(blocks) != turn.Input/64 {
				t.Fatalf("session %s: %d blocks for %d tokens", sessions[i].ID, len(blocks), turn.Input)
			}
		}
	}
	if len(mooncake.Requests) != 12_031 || len(azure.Requests) != 8_819 || len(sessions) != 355 || turns != 23_491 {
		t.Errorf("read %d, %d, %d sessions with %d turns", len(mooncake.Requests), len(azure.Requests), len(sessions), turns)
	}
}

func prompts(s *Session) [][]uint64 {
	var all [][]uint64
	for _, blocks := range s.Prompts() {
		all = append(all, slices.Clone(blocks))
	}
	return all
}

func recordedTimes(t *testing.T) []time.Duration {
	t.Helper()
	tr, err := OpenMooncake(sample, MooncakeBlock)
	if err != nil {
		t.Fatal(err)
	}
	var at []time.Duration
	for _, r := range tr.Requests {
		at = append(at, r.At)
	}
	return at
}

// sharedBlocks counts the full blocks that two prompts have in common.
func sharedBlocks(t *Trace, i, j int) int {
	a, b := t.Requests[i], t.Requests[j]
	n := 0
	for n < min(a.Input, b.Input)/t.BlockTokens && a.Blocks[n] == b.Blocks[n] {
		n++
	}
	return n
}

func commonPrefix(a, b []byte) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}
