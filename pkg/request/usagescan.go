package request

import (
	"encoding/binary"
	"math/bits"
)

// A usageScanner follows the structure of JSON byte by byte, as far as it takes to know which member a number or a string
// belongs to. It keeps the names of the outer members only as what they mean here.
type usageScanner struct {
	counts  [countCount]int
	present bool // any count was read
	text    bool // a generated text that isn't empty was read

	started  bool // anything was written since restart
	state    jsonState
	isKey    bool                  // the string under way is a member's name
	wantKey  bool                  // the next string in an object is a member's name
	depth    int                   // open arrays and objects
	objects  [maxDepth / 64]uint64 // one bit for each of them: 1 is an object
	path     [8]jsonName           // the member under way in each of the outer objects, from depth 1 at index 0
	usageAt  int                   // depth of the usage object under way; 0 is none
	name     [32]byte              // the name under way
	nameLen  int                   // its length; above len(name) it is no name that matters
	number   int                   // the number under way; -1 if it isn't a natural number
	numberOf countName
}

type jsonState uint8

const (
	jsonBetween jsonState = iota
	jsonString
	jsonEscape
	jsonNumber
	jsonLost // too deep, or too many closing brackets: nothing more is read
)

// A jsonName is what a member's name means here.
type jsonName uint8

const (
	nameUnknown jsonName = iota
	nameUsage
	nameMetaInfo
	nameOuter // an object that holds a usage, but no text of its own
	nameTokenDetails
	nameChoices
	nameItem
	nameText
	nameFunction
	nameCounts // the first of the names of counts: nameCounts + countName
)

type countName uint8

const (
	countNone countName = iota
	countPrompt
	countCompletion
	countCached    // a part of countPrompt
	countCacheRead // not in countPrompt: Anthropic counts its cache apart
	countCacheMade
	countCount
)

func meaning(name []byte) jsonName {
	switch string(name) {
	case "usage":
		return nameUsage
	case "meta_info":
		return nameMetaInfo
	case "response", "message":
		return nameOuter
	case "prompt_tokens_details", "input_tokens_details":
		return nameTokenDetails
	case "choices":
		return nameChoices
	case "item", "content_block":
		return nameItem
	case "content", "text", "delta", "reasoning_content", "reasoning", "thinking", "refusal", "arguments", "partial_json", "text_output":
		return nameText
	case "name":
		return nameFunction
	case "prompt_tokens", "input_tokens":
		return nameCounts + jsonName(countPrompt)
	case "completion_tokens", "output_tokens":
		return nameCounts + jsonName(countCompletion)
	case "cached_tokens":
		return nameCounts + jsonName(countCached)
	case "cache_read_input_tokens":
		return nameCounts + jsonName(countCacheRead)
	case "cache_creation_input_tokens":
		return nameCounts + jsonName(countCacheMade)
	}
	return nameUnknown
}

// restart begins another document; the counts stay.
func (j *usageScanner) restart() {
	if j.started {
		*j = usageScanner{counts: j.counts, present: j.present, text: j.text}
	}
}

func (j *usageScanner) write(p []byte) {
	if len(p) > 0 {
		j.started = true
	}
	for i := 0; i < len(p); {
		switch j.state {
		case jsonBetween:
			j.between(p[i])
			i++
		case jsonString:
			i += j.inString(p[i:])
		case jsonEscape:
			j.state = jsonString
			i++
		case jsonNumber:
			if j.inNumber(p[i]) {
				i++
			}
		case jsonLost:
			return
		}
	}
}

// between takes a byte outside of strings and numbers that matter.
func (j *usageScanner) between(c byte) {
	switch c {
	case '"':
		j.state = jsonString
		j.isKey = j.wantKey
		j.wantKey = false
		j.nameLen = 0
	case ',':
		j.wantKey = j.inObject()
	case '{', '[':
		j.open(c == '{')
	case '}', ']':
		j.close()
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		if j.numberOf = j.countHere(); j.numberOf != countNone {
			j.state = jsonNumber
			j.number = 0
			j.inNumber(c)
		}
	}
}

func (j *usageScanner) inObject() bool {
	d := j.depth - 1
	return d >= 0 && j.objects[d>>6]>>(d&63)&1 == 1
}

func (j *usageScanner) open(object bool) {
	if j.depth >= maxDepth {
		j.state = jsonLost
		return
	}
	if object && j.usageAt == 0 && j.atUsage() {
		j.usageAt = j.depth + 1
	}
	word, bit := j.depth>>6, uint64(1)<<(j.depth&63)
	j.objects[word] &^= bit
	if object {
		j.objects[word] |= bit
	}
	if j.depth < len(j.path) {
		j.path[j.depth] = nameUnknown
	}
	j.depth++
	j.wantKey = object
}

func (j *usageScanner) close() {
	if j.depth == 0 {
		j.state = jsonLost
		return
	}
	if j.depth == j.usageAt {
		j.usageAt = 0
	}
	j.depth--
	j.wantKey = false
}

// atUsage says whether the member under way is a usage: at the top, within a response (OpenAI's events) or a message (Anthropic's).
func (j *usageScanner) atUsage() bool {
	switch j.depth {
	case 1:
		return j.path[0] == nameUsage || j.path[0] == nameMetaInfo
	case 2:
		return j.path[0] == nameOuter && j.path[1] == nameUsage
	}
	return false
}

// countHere returns which count a number here is.
func (j *usageScanner) countHere() countName {
	if j.usageAt == 0 || j.depth > j.usageAt+1 || !j.inObject() {
		return countNone
	}
	name := j.path[j.depth-1]
	if name < nameCounts {
		return countNone
	}
	count := countName(name - nameCounts)
	inDetails := j.depth == j.usageAt+1 && j.path[j.usageAt-1] == nameTokenDetails
	if j.depth == j.usageAt || inDetails && count == countCached {
		return count
	}
	return countNone
}

// inNumber takes a byte of a count and reports whether it belonged to it.
func (j *usageScanner) inNumber(c byte) bool {
	switch {
	case c-'0' <= 9:
		if j.number >= 0 && j.number < 1<<40 {
			j.number = j.number*10 + int(c-'0')
		}
		return true
	case c == '-' || c == '+' || c == '.' || c|0x20 == 'e':
		j.number = -1
		return true
	}
	if j.number >= 0 {
		j.counts[j.numberOf] = j.number
		j.present = true
	}
	j.state = jsonBetween
	return false
}

// inString takes bytes of a string and returns how many.
func (j *usageScanner) inString(p []byte) int {
	n := quoteOrSlash(p)
	if j.isKey {
		if j.nameLen+n <= len(j.name) {
			copy(j.name[j.nameLen:], p[:n])
		}
		j.nameLen += n
	} else if !j.text && (n > 0 || p[0] == '\\') {
		j.text = j.isText()
	}
	if n == len(p) {
		return n
	}
	if p[n] == '\\' {
		// No API here writes names with escapes.
		j.nameLen = len(j.name) + 1
		j.state = jsonEscape
		return n + 1
	}
	if j.isKey && j.depth <= len(j.path) {
		name := nameUnknown
		if j.nameLen <= len(j.name) {
			name = meaning(j.name[:j.nameLen])
		}
		j.path[j.depth-1] = name
	}
	j.state = jsonBetween
	return n + 1
}

// isText says whether a string here is generated text: not in objects that repeat the request, and of the names only those of
// functions that are called.
func (j *usageScanner) isText() bool {
	if !j.inObject() || j.depth > len(j.path) || j.path[0] == nameOuter {
		return false
	}
	switch j.path[j.depth-1] {
	case nameText:
		return true
	case nameFunction:
		return j.depth > 1 && (j.path[0] == nameChoices || j.path[0] == nameItem)
	}
	return false
}

// quoteOrSlash returns the offset of the first quote or backslash, or the length.
func quoteOrSlash(p []byte) int {
	i := 0
	for ; i+8 <= len(p); i += 8 {
		x := binary.LittleEndian.Uint64(p[i:])
		quote := x ^ ones*'"'
		slash := x ^ ones*'\\'
		if m := ((quote-ones)&^quote | (slash-ones)&^slash) & highs; m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
	}
	for ; i < len(p); i++ {
		if p[i] == '"' || p[i] == '\\' {
			break
		}
	}
	return i
}
