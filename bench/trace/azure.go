package trace

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"
)

// OpenAzure reads a file in Azure's format; see ReadAzure.
func OpenAzure(path string) (*Trace, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadAzure(f, path)
}

// ReadAzure reads a CSV with the columns TIMESTAMP, ContextTokens and GeneratedTokens, in any order. The trace tells
// arrivals and lengths but no prefixes, so no two of its prompts share text. name stands in errors.
func ReadAzure(r io.Reader, name string) (*Trace, error) {
	rows := csv.NewReader(r)
	rows.ReuseRecord = true
	columns, err := azureColumns(rows)
	if err != nil {
		return nil, fmt.Errorf("%s:1: %w", name, err)
	}
	t := &Trace{Name: name}
	var lines []int
	var origin time.Time
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err) // it names the line
		}
		line, _ := rows.FieldPos(0)
		at, request, err := parseAzure(row, columns)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, line, err)
		}
		if origin.IsZero() {
			origin = at
		}
		request.At = at.Sub(origin)
		t.Requests = append(t.Requests, request)
		lines = append(lines, line)
	}
	if len(t.Requests) == 0 {
		return nil, fmt.Errorf("%s: no requests", name)
	}
	t.sortByTime(lines)
	return t, nil
}

// azureFields are the columns in the order in which parseAzure wants them.
func azureFields() [3]string { return [3]string{"TIMESTAMP", "ContextTokens", "GeneratedTokens"} }

func azureColumns(rows *csv.Reader) (columns [3]int, err error) {
	head, err := rows.Read()
	if errors.Is(err, io.EOF) {
		return columns, fmt.Errorf("empty, expected the columns %q", azureFields())
	}
	if err != nil {
		return columns, err
	}
	for i, field := range azureFields() {
		columns[i] = slices.Index(head, field)
		if columns[i] < 0 {
			return columns, fmt.Errorf("column %q is missing, got %q", field, head)
		}
	}
	return columns, nil
}

func parseAzure(row []string, columns [3]int) (time.Time, Request, error) {
	at, err := time.Parse("2006-01-02 15:04:05.9999999", row[columns[0]])
	if err != nil {
		return at, Request{}, fmt.Errorf("TIMESTAMP is %q, expected a time like %q", row[columns[0]], "2023-11-16 18:17:03.9799600")
	}
	input, err := strconv.Atoi(row[columns[1]])
	if err != nil {
		return at, Request{}, fmt.Errorf("ContextTokens is %q, expected a number", row[columns[1]])
	}
	output, err := strconv.Atoi(row[columns[2]])
	if err != nil {
		return at, Request{}, fmt.Errorf("GeneratedTokens is %q, expected a number", row[columns[2]])
	}
	return at, Request{Input: input, Output: output}, checkLengths("ContextTokens", input, "GeneratedTokens", output)
}
