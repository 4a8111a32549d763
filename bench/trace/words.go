package trace

// TokenBytes is the length of the text of one token: three letters and a space. Whoever counts tokens as characters
// divided by four gets the counts of the trace back.
const TokenBytes = 4

// AppendWords appends the text of tokens words that seed determines: equal seeds give equal text, and a shorter text
// of the same seed is a prefix of a longer one. The text is lower-case ASCII, so JSON carries it unescaped.
func AppendWords(dst []byte, seed uint64, tokens int) []byte {
	state := seed
	for range tokens {
		bits := next(&state)
		dst = append(dst, 'a'+byte(bits%26), 'a'+byte((bits>>8)%26), 'a'+byte((bits>>16)%26), ' ')
	}
	return dst
}

// next is SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): any seed is a good one, also 0, 1, 2, ….
func next(state *uint64) uint64 {
	*state += 0x9E3779B97F4A7C15
	z := *state
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}
