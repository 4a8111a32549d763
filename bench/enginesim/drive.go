package enginesim

import (
	"time"
)

// maxCatchUp bounds the steps that are made up for at once. An engine that is further behind (the factor is too high
// for this machine, or the process was stopped) lets its time slip instead of blocking everyone.
const maxCatchUp = 512

// drive runs the engine by the clock until Close.
func (s *Server) drive() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-s.kick:
		case <-timer.C:
		}
		s.mu.Lock()
		s.advance()
		wait := time.Hour
		if due, ok := s.engine.Next(); ok && !s.clock.paused {
			wait = s.clock.wait(due)
		}
		s.mu.Unlock()
		timer.Reset(wait)
	}
}

func (s *Server) wakeDriver() {
	select {
	case s.kick <- struct{}{}:
	default: // it is awake already
	}
}

// advance makes all steps that are due. Caller holds mu.
func (s *Server) advance() {
	for range maxCatchUp {
		due, ok := s.engine.Next()
		if !ok || due > s.clock.now() {
			return
		}
		for _, e := range s.engine.Step(due) {
			s.deliver(e)
		}
		s.seen.step(s.engine)
	}
	if due, ok := s.engine.Next(); ok && due < s.clock.now() {
		s.clock.set(due)
	}
}

// deliver tells the request's handler that a token was made. Caller holds mu.
func (s *Server) deliver(e Event) {
	r := e.Request
	s.seen.token(r)
	c := r.Data.(*call)
	if !c.stream && !e.Finished {
		return
	}
	if e.Finished {
		s.seen.finished(c)
	}
	c.made.Store(int32(r.Generated))
	select {
	case c.wake <- struct{}{}:
	default: // it has not looked since the last signal
	}
}

// submit hands a call to the engine.
func (s *Server) submit(c *call) *apiError {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance()
	if err := s.engine.Submit(s.clock.now(), &c.request); err != nil {
		return badRequest("", err.Error())
	}
	s.wakeDriver()
	return nil
}

// abandon aborts what has not finished: the client has left.
func (s *Server) abandon(c *call) {
	if int(c.made.Load()) == c.tokens() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance()
	s.engine.Abort(&c.request)
}

// Stats are totals since the start, for tests and reports.
type Stats struct {
	Name            string  `json:"name"`
	Requests        uint64  `json:"requests"` // inference requests that came, whatever became of them
	Submitted       uint64  `json:"submitted"`
	Finished        uint64  `json:"finished"`
	Aborted         uint64  `json:"aborted"`
	PromptTokens    uint64  `json:"prompt_tokens"` // of admitted requests
	CachedTokens    uint64  `json:"cached_tokens"`
	GeneratedTokens uint64  `json:"generated_tokens"`
	Steps           uint64  `json:"steps"`
	Preemptions     uint64  `json:"preemptions"`
	Evictions       uint64  `json:"evictions"` // blocks of known content given away
	Running         int     `json:"running"`
	Waiting         int     `json:"waiting"`
	MaxWaiting      int     `json:"max_waiting"`
	MaxRunning      int     `json:"max_running"`
	KVUsage         float64 `json:"kv_usage"` // 0..1
}

// Stats returns the totals as of now.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance()
	n, load := s.engine.Counters(), s.engine.Load()
	return Stats{
		Name: s.opt.Name, Requests: s.requests.Load(),
		Submitted: n.Submitted, Finished: n.Finished, Aborted: n.Aborted,
		PromptTokens: n.PromptTokens, CachedTokens: n.CachedTokens, GeneratedTokens: n.GeneratedTokens,
		Steps: n.Steps, Preemptions: n.Preemptions, Evictions: n.Evictions,
		Running: load.Running, Waiting: load.Waiting, MaxWaiting: n.MaxWaiting, MaxRunning: n.MaxRunning,
		KVUsage: load.KVUsage,
	}
}
