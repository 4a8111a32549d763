package trace

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// MooncakeBlock is the number of tokens of a block in Mooncake's published traces.
const MooncakeBlock = 512

// OpenMooncake reads a file in Mooncake's format; see ReadMooncake.
func OpenMooncake(path string, blockTokens int) (*Trace, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadMooncake(f, path, blockTokens)
}

// ReadMooncake reads one JSON object a line: timestamp (milliseconds, also fractions), input_length, output_length and
// hash_ids, one for each block of blockTokens tokens, the last one possibly partial. name stands in errors.
func ReadMooncake(r io.Reader, name string, blockTokens int) (*Trace, error) {
	if blockTokens < 1 {
		return nil, fmt.Errorf("%s: blocks of %d tokens, expected at least 1", name, blockTokens)
	}
	t := &Trace{Name: name, BlockTokens: blockTokens}
	var lines []int
	err := eachLine(r, name, func(line []byte, number int) error {
		request, err := parseMooncake(line, blockTokens)
		t.Requests = append(t.Requests, request)
		lines = append(lines, number)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(t.Requests) == 0 {
		return nil, fmt.Errorf("%s: no requests", name)
	}
	t.sortByTime(lines)
	return t, nil
}

func parseMooncake(line []byte, blockTokens int) (Request, error) {
	var m struct {
		Timestamp *float64 `json:"timestamp"`
		Input     *int     `json:"input_length"`
		Output    *int     `json:"output_length"`
		Blocks    []uint64 `json:"hash_ids"`
	}
	if err := json.Unmarshal(line, &m); err != nil {
		return Request{}, err
	}
	switch {
	case m.Timestamp == nil:
		return Request{}, missing("timestamp")
	case m.Input == nil:
		return Request{}, missing("input_length")
	case m.Output == nil:
		return Request{}, missing("output_length")
	case m.Blocks == nil:
		return Request{}, missing("hash_ids")
	case *m.Timestamp < 0:
		return Request{}, fmt.Errorf("timestamp is %g, expected 0 or more", *m.Timestamp)
	}
	if err := checkLengths("input_length", *m.Input, "output_length", *m.Output); err != nil {
		return Request{}, err
	}
	if full := *m.Input / blockTokens; len(m.Blocks) < full || len(m.Blocks) > full+1 {
		return Request{}, fmt.Errorf("%d hash_ids for %d tokens, expected %d or %d of %d tokens each", len(m.Blocks), *m.Input, full, full+1, blockTokens)
	}
	at := time.Duration(*m.Timestamp * float64(time.Millisecond))
	return Request{At: at, Input: *m.Input, Output: *m.Output, Blocks: m.Blocks}, nil
}

func missing(field string) error { return fmt.Errorf("field %q is missing", field) }

func checkLengths(inputName string, input int, outputName string, output int) error {
	if input < 1 {
		return fmt.Errorf("%s is %d, expected at least 1", inputName, input)
	}
	if output < 0 {
		return fmt.Errorf("%s is %d, expected 0 or more", outputName, output)
	}
	return nil
}
