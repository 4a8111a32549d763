package trace

import (
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"time"
)

// Session is one conversation of a coding agent with its model: each turn's prompt keeps most of the turn before.
// Replay it as a closed loop: a turn starts Think after the answer to the one before it.
type Session struct {
	ID          string
	BlockTokens int
	Tools       int // tokens of the tool definitions at the head of the prompt
	System      int // tokens of the system prompt after them
	Start       time.Duration
	Turns       []Turn
	Agents      []Session // sub-agents that it started, Start after its own start

	shared span   // local ids of the head that other sessions with the same Tools and System have too
	number uint64 // of the line, for ids that are the session's own
}

// Turn is one call of the model within a session.
type Turn struct {
	At     time.Duration // since the session's start
	Model  string
	Input  int           // prompt tokens
	Output int           // generated tokens
	Think  time.Duration // between the answer before and this call; 0 when not recorded
	API    time.Duration // how long the recorded call took; 0 when not recorded
	keep   int           // blocks that it keeps of the turn before
	add    []span        // blocks that follow
}

// span is a range of block ids.
type span struct{ first, count uint64 }

// OpenSessions reads a file of sessions; see ReadSessions.
func OpenSessions(path string) ([]Session, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadSessions(f, path)
}

// ReadSessions reads one JSON object a line, each a session. Block ids are local to a session in the file; here they
// are made global: the tools and the system prompt are shared between sessions that have as many tokens of both.
func ReadSessions(r io.Reader, name string) ([]Session, error) {
	var sessions []Session
	err := eachLine(r, name, func(line []byte, number int) error {
		var raw rawSession
		if err := json.Unmarshal(line, &raw); err != nil {
			return err
		}
		s, err := raw.session(uint64(len(sessions)))
		sessions = append(sessions, s)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(sessions) == 0 {
		return nil, fmt.Errorf("%s: no sessions", name)
	}
	return sessions, nil
}

// Prompts yields each turn with the ids of its prompt's full blocks, which stay valid until the next turn.
func (s *Session) Prompts() iter.Seq2[*Turn, []uint64] {
	return func(yield func(*Turn, []uint64) bool) {
		var blocks []uint64
		for i := range s.Turns {
			t := &s.Turns[i]
			blocks = blocks[:t.keep]
			for _, a := range t.add {
				for id := a.first; id < a.first+a.count; id++ {
					blocks = append(blocks, s.global(id))
				}
			}
			if !yield(t, blocks) {
				return
			}
		}
	}
}

// global makes a local id unique among all sessions, or common to those that share their head.
func (s *Session) global(id uint64) uint64 {
	if at := id - s.shared.first; id >= s.shared.first && at < s.shared.count {
		return 1<<56 | uint64(s.Tools)<<36 | uint64(s.System)<<16 | at
	}
	return (s.number+1)<<32 | id
}

type rawSession struct {
	ID          string    `json:"id"`
	BlockTokens *int      `json:"block_size"`
	Tools       *int      `json:"tool_tokens"`
	System      *int      `json:"system_tokens"`
	Requests    []rawTurn `json:"requests"`
}

type rawTurn struct {
	rawSession          // a sub-agent's, when Type says so
	Type       string   `json:"type"`
	AgentID    string   `json:"agent_id"`
	At         *float64 `json:"t"`
	Model      string   `json:"model"`
	Input      *int     `json:"in"`
	Output     *int     `json:"out"`
	Think      float64  `json:"think_time"`
	API        float64  `json:"api_time"`
	Keep       *int     `json:"keep"`
	Add        []uint64 `json:"add"`
}

func (raw *rawSession) session(number uint64) (Session, error) {
	s := Session{ID: raw.ID, number: number}
	switch {
	case raw.ID == "":
		return s, missing("id")
	case raw.BlockTokens == nil:
		return s, missing("block_size")
	case *raw.BlockTokens < 1:
		return s, fmt.Errorf("block_size is %d, expected at least 1", *raw.BlockTokens)
	case raw.Tools == nil:
		return s, missing("tool_tokens")
	case raw.System == nil:
		return s, missing("system_tokens")
	case *raw.Tools < 0 || *raw.Tools >= 1<<20 || *raw.System < 0 || *raw.System >= 1<<20:
		return s, fmt.Errorf("tool_tokens %d and system_tokens %d, expected 0 to 1048575 each", *raw.Tools, *raw.System)
	}
	s.BlockTokens, s.Tools, s.System = *raw.BlockTokens, *raw.Tools, *raw.System
	blocks := 0
	for i := range raw.Requests {
		r := &raw.Requests[i]
		if err := s.add(r, &blocks); err != nil {
			return s, fmt.Errorf("session %s: request %d: %w", s.ID, i, err)
		}
	}
	if len(s.Turns) > 0 && len(s.Turns[0].add) > 0 {
		s.shared = s.Turns[0].add[0]
		s.shared.count = min(s.shared.count, uint64((s.Tools+s.System)/s.BlockTokens), 1<<16)
	}
	return s, nil
}

// add takes a request over: a turn, or a sub-agent with turns of its own.
func (s *Session) add(r *rawTurn, blocks *int) error {
	if r.At == nil {
		return missing("t")
	}
	at := seconds(*r.At)
	if r.Type == "subagent" {
		r.ID, r.BlockTokens = s.ID+"/"+r.AgentID, &s.BlockTokens
		agent, err := r.session(s.number)
		agent.Start = at
		s.Agents = append(s.Agents, agent)
		return err
	}
	t, err := r.turn(*blocks, s.BlockTokens)
	t.At = at
	s.Turns = append(s.Turns, t)
	*blocks = t.blocks()
	return err
}

func (r *rawTurn) turn(before, blockTokens int) (Turn, error) {
	switch {
	case r.Input == nil:
		return Turn{}, missing("in")
	case r.Output == nil:
		return Turn{}, missing("out")
	case r.Keep == nil:
		return Turn{}, missing("keep")
	case r.Add == nil:
		return Turn{}, missing("add")
	case *r.Keep < 0 || *r.Keep > before || *r.Keep > *r.Input/blockTokens:
		return Turn{}, fmt.Errorf("keep is %d, expected 0 to the %d blocks of the request before, and to what %d tokens hold", *r.Keep, before, *r.Input)
	case len(r.Add)%2 != 0:
		return Turn{}, fmt.Errorf("add has %d numbers, expected pairs of first id and count", len(r.Add))
	}
	t := Turn{
		Model: r.Model, Input: *r.Input, Output: *r.Output,
		Think: seconds(r.Think), API: seconds(r.API), keep: *r.Keep,
	}
	if err := checkLengths("in", t.Input, "out", t.Output); err != nil {
		return t, err
	}
	room := uint64(t.Input/blockTokens + 1 - t.keep)
	for i := 0; i < len(r.Add); i += 2 {
		first, count := r.Add[i], r.Add[i+1]
		if count > room {
			return t, fmt.Errorf("keep and add give more blocks of %d tokens than fit into %d tokens", blockTokens, t.Input)
		}
		room -= count
		t.add = append(t.add, span{first: first, count: count})
	}
	return t, nil
}

func (t *Turn) blocks() int {
	n := t.keep
	for _, a := range t.add {
		n += int(a.count)
	}
	return n
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
