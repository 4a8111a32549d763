package cost

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
)

// chats is a supply of chat-completion bodies of about one size, as a service with several applications gets them: all
// sessions of an application share its system prompt, a session's turns share its history, and each body ends in a
// user message that nobody sent before. Safe for concurrent use by fewer takers than there are bodies.
type chats struct {
	bodies []chat
	taken  atomic.Uint64
}

// chat is one body. The digits at serial make its last message new whenever it is taken.
type chat struct {
	body   []byte
	serial int
}

const (
	applications  = 16
	serialDigits  = 12
	turnsMeasured = 4
)

// newChats writes bodies for sessions × turnsMeasured requests of size bytes on average. Equal seeds give equal bodies.
func newChats(seed uint64, size, sessions int, stream bool) *chats {
	c := &chats{bodies: make([]chat, sessions*turnsMeasured)}
	for s := range sessions {
		rng := rand.New(rand.NewPCG(seed, uint64(s)))
		system := prose(rand.New(rand.NewPCG(seed, 1<<32+uint64(s%applications))), size*3/10)
		history := prose(rng, size*115/100)
		for turn := range turnsMeasured {
			// Turns grow from 0.85 to 1.15 of the size.
			target := size * (85 + 10*turn) / 100
			// All sessions' first turns come first, as when they run side by side.
			c.bodies[turn*sessions+s] = newChat(system, history, target, stream)
		}
	}
	return c
}

// newChat renders a conversation: the system prompt, messages out of the history, and a last user message.
func newChat(system, history string, target int, stream bool) chat {
	const (
		head = `{"model":"meta-llama/Llama-3.1-8B-Instruct","messages":[{"role":"system","content":"`
		last = `"},{"role":"user","content":"Request `
	)
	tail := `"}],"temperature":0.7,"max_tokens":256}`
	if stream {
		tail = `"}],"temperature":0.7,"max_tokens":256,"stream":true,"stream_options":{"include_usage":true}}`
	}
	var b strings.Builder
	b.WriteString(head)
	b.WriteString(system)
	question := min(240, target/8)
	rest := history
	roles := [2]string{"user", "assistant"}
	for i := 0; ; i++ {
		left := target - b.Len() - len(last) - serialDigits - question - len(tail)
		n := min(left, 160+i%2*480, len(rest))
		if n < 40 {
			break
		}
		n = wordEnd(rest, n)
		fmt.Fprintf(&b, `"},{"role":"%s","content":"%s`, roles[i%2], rest[:n])
		rest = rest[n:]
	}
	b.WriteString(last)
	serial := b.Len()
	b.WriteString(strings.Repeat("0", serialDigits))
	b.WriteString(": ")
	b.WriteString(rest[:wordEnd(rest, min(question, len(rest)))])
	b.WriteString(tail)
	return chat{body: []byte(b.String()), serial: serial}
}

// wordEnd moves n back to just after a space, so that no escape or character is cut; to 0 if there is none.
func wordEnd(s string, n int) int { return strings.LastIndexByte(s[:n], ' ') + 1 }

// prose writes about n bytes of text as it stands in JSON: words, now and then a new line, a quotation, a word with an
// accent.
func prose(rng *rand.Rand, n int) string {
	var b strings.Builder
	for words := 0; b.Len() < n; words++ {
		switch rng.IntN(40) {
		case 0:
			b.WriteString(`.\n`)
		case 1:
			b.WriteString(`\"`)
			word(&b, rng)
			b.WriteString(`\"`)
		case 2:
			b.WriteString("café")
		default:
			word(&b, rng)
		}
		b.WriteByte(' ')
	}
	return b.String()
}

func word(b *strings.Builder, rng *rand.Rand) {
	const letters = "etaoinshrdlucmfwypvbgk"
	for range 2 + rng.IntN(8) {
		// The lower of two draws: common letters are common.
		b.WriteByte(letters[min(rng.IntN(len(letters)), rng.IntN(len(letters)))])
	}
}

// take gives the next body, valid until as many were taken as there are.
func (c *chats) take() []byte {
	n := c.taken.Add(1)
	chat := c.bodies[n%uint64(len(c.bodies))]
	digits := chat.body[chat.serial : chat.serial+serialDigits]
	for i := range digits {
		digits[len(digits)-1-i] = byte('0' + n%10)
		n /= 10
	}
	return chat.body
}
