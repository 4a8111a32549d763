package enginesim

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "write what the scripts in testdata give into them")

// TestScripts runs the scripts of testdata: commands, a line of dashes, and what they print, up to a blank line.
//
//	engine blocks=B budget=T seqs=N   a new engine of B usable blocks; a step takes 10 ms unless costs are given
//	submit NAME prompt=P output=O     now; hashes=a,b,c..f names the content of its blocks
//	abort NAME
//	step [n]                          n times: what ended, what started, and what is left
//	wait 5ms                          time passes in an idle engine
//	cached a..f                       which of these contents are findable
//	count                             the counters
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts in testdata: ", err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			old, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(old))
			if *rewrite {
				if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			} else if got != string(old) {
				t.Errorf("%s gives now:\n%s\n(go test -run TestScripts -rewrite takes it over)", path, got)
			}
		})
	}
}

// runScript returns the script with the output that its commands give.
func runScript(t *testing.T, text string) string {
	t.Helper()
	var out strings.Builder
	s := &script{named: map[string]*Request{}}
	for _, paragraph := range strings.Split(strings.TrimRight(text, "\n"), "\n\n") {
		commands, _, isTest := strings.Cut(paragraph, "\n----")
		out.WriteString(commands + "\n")
		if isTest {
			out.WriteString("----\n")
			for _, line := range strings.Split(commands, "\n") {
				if line, _, _ = strings.Cut(line, "#"); strings.TrimSpace(line) != "" {
					out.WriteString(s.run(t, strings.Fields(line)))
				}
			}
		}
		out.WriteString("\n")
	}
	return strings.TrimRight(out.String(), "\n") + "\n"
}

// script is an engine under test with names for its requests.
type script struct {
	engine *Engine
	now    time.Duration
	named  map[string]*Request
	order  []string
}

func (s *script) run(t *testing.T, command []string) string {
	t.Helper()
	switch command[0] {
	case "engine":
		return s.start(t, command[1:])
	case "submit":
		return s.submit(t, command[1], command[2:])
	case "abort":
		s.engine.Abort(s.named[command[1]])
		return s.left()
	case "step":
		n := 1
		if len(command) > 1 {
			n = number(t, command[1])
		}
		var out strings.Builder
		for range n {
			out.WriteString(s.step())
		}
		return out.String()
	case "wait":
		d, err := time.ParseDuration(command[1])
		if err != nil {
			t.Fatal(err)
		}
		s.now += d
		return ""
	case "cached":
		return s.cached(t, command[1])
	case "count":
		return fmt.Sprintf("%+v\n", s.engine.Counters())
	}
	t.Fatalf("unknown command %q", command)
	return ""
}

func (s *script) start(t *testing.T, args []string) string {
	t.Helper()
	cfg := Config{Profile: Profile{Steps: StepModel{Base: 10}, MaxBatchedTokens: 64, MaxSeqs: 8}}
	for key, value := range pairs(args) {
		switch key {
		case "blocks":
			cfg.Profile.KVTokens = (number(t, value) + 1) * BlockTokens
		case "budget":
			cfg.Profile.MaxBatchedTokens = number(t, value)
		case "seqs":
			cfg.Profile.MaxSeqs = number(t, value)
		case "adapters":
			cfg.MaxAdapters = number(t, value)
		case "load":
			cfg.AdapterLoad = time.Duration(number(t, value)) * time.Millisecond
		case "token":
			cfg.Profile.Steps.Token = float64(number(t, value))
		case "pair":
			cfg.Profile.Steps.Pair = float64(number(t, value))
		case "context":
			cfg.Profile.Steps.Context = float64(number(t, value))
		case "sequence":
			cfg.Profile.Steps.Sequence = float64(number(t, value))
		default:
			t.Fatalf("unknown option %q", key)
		}
	}
	engine, err := NewEngine(cfg)
	if err != nil {
		return err.Error() + "\n"
	}
	*s = script{engine: engine, named: map[string]*Request{}}
	return ""
}

func (s *script) submit(t *testing.T, name string, args []string) string {
	t.Helper()
	r := &Request{Data: name}
	for key, value := range pairs(args) {
		switch key {
		case "prompt":
			r.PromptTokens = number(t, value)
		case "output":
			r.OutputTokens = number(t, value)
		case "adapter":
			r.Adapter = value
		case "hashes":
			r.Hashes = contents(t, value)
		default:
			t.Fatalf("unknown option %q", key)
		}
	}
	if err := s.engine.Submit(s.now, r); err != nil {
		return err.Error() + "\n"
	}
	s.named[name] = r
	s.order = append(s.order, name)
	return ""
}

// step lets the step that is due end and the next one begin.
func (s *script) step() string {
	due, ok := s.engine.Next()
	if !ok {
		return "idle\n"
	}
	s.now = due
	var ended, started []string
	for _, e := range s.engine.Step(due) {
		text := fmt.Sprintf("%s#%d", e.Request.Data, e.Request.Generated)
		if e.Finished {
			text += "."
		}
		ended = append(ended, text)
	}
	if s.engine.stepping {
		for _, r := range s.engine.batch {
			started = append(started, fmt.Sprintf("%s[%d:%d]", r.Data, r.computed, r.computed+r.chunk))
		}
	}
	return fmt.Sprintf("%v: made %s; computes %s; %s", due, list(ended), list(started), s.left())
}

func (s *script) left() string {
	load := s.engine.Load()
	var waiting []string
	for i := range s.engine.queue.len() {
		waiting = append(waiting, s.engine.queue.at(i).Data.(string))
	}
	return fmt.Sprintf("%d run, waiting %s, %d blocks free\n", load.Running, list(waiting), s.engine.kv.free)
}

func (s *script) cached(t *testing.T, names string) string {
	t.Helper()
	var found []string
	for _, hash := range contents(t, names) {
		if s.engine.kv.find(hash) != none {
			found = append(found, string(rune(hash)))
		}
	}
	return "cached: " + list(found) + "\n"
}

// contents are block hashes written as letters: "a,b,e..h".
func contents(t *testing.T, text string) []uint64 {
	t.Helper()
	var hashes []uint64
	for _, part := range strings.Split(text, ",") {
		from, to, isRange := strings.Cut(part, "..")
		if !isRange {
			to = from
		}
		if len(from) != 1 || len(to) != 1 {
			t.Fatalf("content %q is no letter", part)
		}
		for c := from[0]; c <= to[0]; c++ {
			hashes = append(hashes, uint64(c))
		}
	}
	return hashes
}

func pairs(args []string) map[string]string {
	m := map[string]string{}
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		m[key] = value
	}
	return m
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func list(items []string) string {
	if len(items) == 0 {
		return "-"
	}
	return strings.Join(items, " ")
}
