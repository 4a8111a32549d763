package queue

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the transcripts in testdata")

// TestScripts plays each file of testdata line by line. What is indented is what happened, as it must come. The lines:
//
//	queue CAPACITY TTL                  a new queue; must come first
//	at DURATION                         the time, since the start; it may go back
//	push NAME... [priority=N] [flow=F] [lane=N] [bytes=N] [tokens=N]
//	                                    says what became of it unless it waits, and who was discarded
//	dispatch [SLOTS] [full=LANE,...] [full=LANE:PRIORITY,...]
//	                                    one line of who goes, in order, while slots last (any number if left out); lanes are full
//	                                    for all priorities, or for some and those below
//	tries ...                           the same, saying whatever was tried
//	remove NAME...
//	expire
//	deadline
//	capacity BYTES
//	ttl TTL
//	stats
//	drain N                             how long N requests take to leave
//	ahead PRIORITY LANE
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			old, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(old))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(old) {
				t.Errorf("transcript differs; got:\n%s", got)
			}
		})
	}
}

// A scene is a queue in a script.
type scene struct {
	t     *testing.T
	queue *Queue[string]
	items map[string]*Item[string]
	start time.Time
	now   time.Time
	out   *strings.Builder
}

func play(t *testing.T, script string) string {
	t.Helper()
	var out strings.Builder
	start := time.Unix(0, 0)
	s := &scene{t: t, items: map[string]*Item[string]{}, start: start, now: start, out: &out}
	for line := range strings.Lines(script) {
		if strings.HasPrefix(line, " ") {
			continue
		}
		out.WriteString(line)
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		s.do(words[0], words[1:])
		if s.queue.inconsistency() != "" {
			t.Fatalf("after %q: %s", line, s.queue.inconsistency())
		}
	}
	return out.String()
}

func (s *scene) say(format string, args ...any) { fmt.Fprintf(s.out, "    "+format+"\n", args...) }

func (s *scene) tell(what string) func(*Item[string]) {
	return func(it *Item[string]) { s.say("%s %s", what, it.Value) }
}

func (s *scene) do(command string, args []string) {
	s.t.Helper()
	names, options := s.split(args)
	switch command {
	case "queue":
		s.queue = New[string](s.number(names[0]), s.duration(names[1]))
		s.queue.Expire(s.now, nil)
	case "at":
		s.now = s.start.Add(s.duration(names[0]))
	case "push":
		for _, name := range names {
			s.push(name, options)
		}
	case "dispatch", "tries":
		s.dispatch(names, options["full"], command == "tries")
	case "remove":
		for _, name := range names {
			if !s.queue.Remove(s.items[name]) {
				s.say("%s didn't wait", name)
			}
		}
	case "expire":
		s.queue.Expire(s.now, s.tell("expired"))
	case "deadline":
		if deadline, ok := s.queue.Deadline(); ok {
			s.say("at %v", deadline.Sub(s.start))
		} else {
			s.say("none")
		}
	case "capacity":
		s.queue.SetCapacity(s.now, s.number(names[0]), s.tell("discarded"))
	case "ttl":
		s.queue.SetTTL(s.now, s.duration(names[0]))
	case "stats":
		s.say("%d wait, %d bytes of %d", s.queue.Len(), s.queue.Bytes(), s.queue.Capacity())
		for _, p := range s.queue.Stats(nil) {
			s.say("priority %d: %d wait, %d bytes, %d flows, oldest since %v", p.Priority, p.Len, p.Bytes, p.Flows, p.Oldest.Sub(s.start))
		}
	case "drain":
		if d, ok := s.queue.DrainTime(s.now, int(s.number(names[0]))); ok {
			s.say("%v", d.Round(10*time.Millisecond))
		} else {
			s.say("unknown")
		}
	case "ahead":
		s.say("%v", s.queue.Ahead(int(s.number(names[0])), uint64(s.number(names[1]))))
	default:
		s.t.Fatalf("unknown command %q", command)
	}
}

func (s *scene) push(name string, options map[string]string) {
	it := &Item[string]{Value: name}
	for option, value := range options {
		switch option {
		case "priority":
			it.Priority = int(s.number(value))
		case "flow":
			it.Flow = value
		case "lane":
			it.Lane = uint64(s.number(value))
		case "bytes":
			it.Bytes = s.number(value)
		case "tokens":
			it.Tokens = int(s.number(value))
		default:
			s.t.Fatalf("unknown option %q", option)
		}
	}
	s.items[name] = it
	if verdict := s.queue.Push(s.now, it, s.tell("discarded")); verdict != Waiting {
		s.say("%s: %v", name, verdict)
	}
}

func (s *scene) dispatch(names []string, full string, all bool) {
	slots := -1
	if len(names) > 0 {
		slots = int(s.number(names[0]))
	}
	var said []string
	s.queue.Dispatch(s.now, func(it *Item[string]) Try {
		verdict := Taken
		switch {
		case s.full(full, it):
			verdict = LaneFull
		case slots == 0:
			verdict = AllFull
		}
		if all {
			said = append(said, it.Value+": "+verdict.String())
		} else if verdict == Taken {
			said = append(said, it.Value)
		}
		if verdict == Taken {
			slots--
		}
		return verdict
	})
	if len(said) == 0 {
		said = []string{"nobody"}
	}
	if all {
		s.say("%s", strings.Join(said, ", "))
	} else {
		s.say("%s", strings.Join(said, " "))
	}
}

func (s *scene) full(list string, it *Item[string]) bool {
	return slices.ContainsFunc(strings.Split(list, ","), func(entry string) bool {
		lane, priority, some := strings.Cut(entry, ":")
		return lane == strconv.FormatUint(it.Lane, 10) && (!some || it.Priority <= int(s.number(priority)))
	})
}

func (s *scene) split(args []string) (names []string, options map[string]string) {
	options = map[string]string{}
	for _, arg := range args {
		if name, value, ok := strings.Cut(arg, "="); ok {
			options[name] = value
		} else {
			names = append(names, arg)
		}
	}
	return names, options
}

func (s *scene) number(text string) int64 {
	s.t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *scene) duration(text string) time.Duration {
	s.t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}
