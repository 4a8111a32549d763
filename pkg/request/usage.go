package request

import "bytes"

// Usage is what an answer says of its tokens.
type Usage struct {
	Prompt     int  // tokens of the prompt, the cached ones included
	Cached     int  // tokens of the prompt that the engine had cached
	Completion int  // tokens generated
	Present    bool // whether the answer says anything
}

// A UsageReader reads the usage from an answer while it streams by: from one JSON document, or from the events of an SSE stream, of
// OpenAI's APIs, Anthropic's messages and SGLang's /generate. It takes chunks that are cut anywhere, holds less than 1 KiB whatever the
// answer's length, and never fails: of what isn't JSON it reads nothing.
//
// Only a member "usage" where these APIs put it counts, never the word in a generated text. Where an answer reports several times, the
// last figure of each sort counts. It is for one goroutine at a time.
type UsageReader struct {
	sse        bool
	firstToken bool
	line       lineReader
	json       usageScanner
}

// Reset starts an answer; sse says that it is a stream of events.
func (u *UsageReader) Reset(sse bool) { *u = UsageReader{sse: sse} }

// Write takes the next bytes of the answer.
func (u *UsageReader) Write(chunk []byte) {
	if !u.sse {
		u.json.write(chunk)
		return
	}
	for len(chunk) > 0 {
		chunk = u.writeEvents(chunk)
	}
}

// Usage returns what was found so far.
func (u *UsageReader) Usage() Usage {
	c := &u.json.counts
	return Usage{
		Prompt:     c[countPrompt] + c[countCacheRead] + c[countCacheMade],
		Cached:     c[countCached] + c[countCacheRead],
		Completion: c[countCompletion],
		Present:    u.json.present,
	}
}

// FirstToken reports whether a stream of events brought any generated text so far, be it content, reasoning or a tool call. It is
// always false for a JSON document.
func (u *UsageReader) FirstToken() bool { return u.firstToken }

// A lineReader is where a stream of events stands within a line.
type lineReader struct {
	state   lineState
	matched int  // bytes of dataField that the line began with
	cr      bool // the last byte was a carriage return: a line feed now belongs to it
}

type lineState uint8

const (
	lineName  lineState = iota // in the field's name
	lineSpace                  // behind "data:", where one space is ignored
	lineData
	lineOther // in a field or a comment that doesn't matter
)

const dataField = "data:"

// writeEvents takes some of the chunk and returns the rest.
func (u *UsageReader) writeEvents(chunk []byte) []byte {
	l := &u.line
	c := chunk[0]
	if l.cr {
		l.cr = false
		if c == '\n' {
			return chunk[1:]
		}
	}
	if c == '\n' || c == '\r' {
		u.endLine()
		l.cr = c == '\r'
		return chunk[1:]
	}
	switch l.state {
	case lineName:
		if c != dataField[l.matched] {
			l.state = lineOther
		} else if l.matched++; l.matched == len(dataField) {
			l.state = lineSpace
		}
		return chunk[1:]
	case lineSpace:
		l.state = lineData
		if c == ' ' {
			chunk = chunk[1:]
		}
		if n := u.idleEvent(chunk); n > 0 {
			return chunk[n:]
		}
		return chunk
	}
	end := lineEnd(chunk)
	if l.state == lineData {
		u.json.write(chunk[:end])
		u.firstToken = u.firstToken || u.json.text
	}
	return chunk[end:]
}

func (u *UsageReader) endLine() {
	l := &u.line
	if l.state == lineName && l.matched == 0 {
		u.json.restart() // an empty line ends the event
	} else if l.state == lineData {
		u.json.write([]byte{'\n'})
	}
	l.state, l.matched = lineName, 0
}

// idleEvent returns the length of the data that chunk begins with if it is a whole event that can't say anything new, else 0. Most
// events of a stream are passed over so, without a look at each byte.
func (u *UsageReader) idleEvent(chunk []byte) int {
	if !u.firstToken || u.json.started {
		return 0
	}
	end := lineEnd(chunk)
	if end+1 >= len(chunk) || chunk[end] != '\n' || chunk[end+1] != '\n' && chunk[end+1] != '\r' {
		if end+2 >= len(chunk) || chunk[end] != '\r' || chunk[end+1] != '\n' || chunk[end+2] != '\r' {
			return 0 // not known to be the event's only data
		}
	}
	if bytes.Contains(chunk[:end], []byte(`"usage"`)) || bytes.Contains(chunk[:end], []byte(`"meta_info"`)) {
		return 0
	}
	return end
}

// lineEnd returns the offset of the first line feed or carriage return, or the length.
func lineEnd(b []byte) int {
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		end = len(b)
	}
	if cr := bytes.IndexByte(b[:end], '\r'); cr >= 0 {
		end = cr
	}
	return end
}
