package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// Both strategies work through both profiles: chats are answered, streamed or not, requests that are none of the
// picker's business pass, and the picker counts each.
func TestStrategiesAndProfiles(t *testing.T) {
	for _, profile := range []string{lean, fullDuplex} {
		for _, strategy := range []string{"DEFAULT", "PREFIX_CACHE"} {
			t.Run(profile+"/"+strategy, func(t *testing.T) {
				t.Parallel()
				s := newSite(t, plan{profile: profile, engines: fastEngines(3), env: []string{"ROUTING_STRATEGY=" + strategy}})
				chatsAreAnswered(t, s)
				othersPass(t, s)
				if strategy == "PREFIX_CACHE" {
					prefixesStick(t, s)
				} else {
					loadSpreads(t, s)
				}
				s.wantIdle(t)
				s.wantNoBypass(t)
			})
		}
	}
}

func chatsAreAnswered(t *testing.T, s *site) {
	t.Helper()
	before := picks(t, s.picker())
	for _, stream := range []bool{false, true} {
		a := s.do(chat{prompt: "What does a pilotfish eat?", stream: stream, usage: stream, maxTokens: 5}.call())
		a.wantWhole(t, stream)
		if a.servedBy == "" {
			t.Errorf("no engine named itself in x-served-by: %v", a)
		}
		if stream && len(a.events()) != 1+5+1+1 { // role, five tokens, usage, [DONE]
			t.Errorf("expected 8 events, got %v", a)
		}
	}
	if got := picks(t, s.picker()) - before; got != 2 {
		t.Errorf("picks counted for 2 chats: %d", got)
	}
}

// Paths that the picker doesn't know go to a pod all the same, and so do requests without a body.
func othersPass(t *testing.T, s *site) {
	t.Helper()
	for _, r := range []struct {
		call
		status int
		want   string
	}{
		{call{path: "/v1/models"}, 200, `"id":"sim"`},
		{call{path: "/health"}, 200, ""},
		{call{path: "/v1/models", method: http.MethodHead}, 200, ""},
		{call{path: "/not/known?a=b"}, 404, "no such path: /not/known"},
		{call{path: "/not/known", body: []byte("this is no JSON {{{")}, 404, "no such path: /not/known"},
		{call{path: "/not/known", method: http.MethodDelete}, 404, "no such path"},
	} {
		a := s.do(r.call)
		if a.err != nil || a.status != r.status || !strings.Contains(string(a.body), r.want) {
			t.Errorf("%s %s: expected status %d with %q, got %v", r.method, r.path, r.status, r.want, a)
		}
		if a.servedBy == "" {
			t.Errorf("%s %s did not reach an engine", r.method, r.path)
		}
	}
}

// Requests with one long beginning go where that is cached, however they end.
func prefixesStick(t *testing.T, s *site) {
	t.Helper()
	seen := map[string]bool{}
	for family := range 6 {
		system := text(fmt.Sprintf("system prompt %d", family), 6000)
		var home string
		for question := range 6 {
			a := s.do(chat{system: system, prompt: fmt.Sprintf("question %d", question), stream: question%2 == 0}.call())
			a.wantWhole(t, question%2 == 0)
			if question == 0 {
				home = a.servedBy
			}
			if a.servedBy != home {
				t.Errorf("prompt family %d: question %d was served by %s, those before by %s", family, question, a.servedBy, home)
			}
		}
		seen[home] = true
	}
	if len(seen) < 2 {
		t.Errorf("six families of prompts all live at %v: expected them to spread over the engines", seen)
	}
	if n := metricsOf(t, s.picker()).sum("pilotfish_picks_total", "reason=prefix"); n == 0 {
		t.Error("no pick was counted as decided by a prefix")
	}
}

// Without prefixes equal requests spread.
func loadSpreads(t *testing.T, s *site) {
	t.Helper()
	prompt := text("the same for all", 6000)
	by := map[string]int{}
	for range 30 {
		a := s.do(chat{prompt: prompt}.call())
		a.wantWhole(t, false)
		by[a.servedBy]++
	}
	if len(by) != 3 {
		t.Errorf("30 equal requests, one after the other, went to %v: expected all of 3 engines", by)
	}
}
