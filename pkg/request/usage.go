package request

// Usage is what an answer says of its tokens.
type Usage struct {
	Prompt     int  // tokens of the prompt, the cached ones included
	Cached     int  // tokens of the prompt that were cached
	Completion int  // tokens generated
	Present    bool // whether the answer says
}

// A UsageReader reads the usage from an answer as it streams by.
type UsageReader struct{}

// Reset starts an answer; sse says that it is a stream of events.
func (u *UsageReader) Reset(sse bool) {}

// Write takes the next bytes.
func (u *UsageReader) Write(chunk []byte) {}

// Usage returns what was found so far.
func (u *UsageReader) Usage() Usage { return Usage{} }

// FirstToken reports whether the first generated text was seen in a stream of events.
func (u *UsageReader) FirstToken() bool { return false }
