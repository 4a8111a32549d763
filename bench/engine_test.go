package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestEngineCommandPrintsItsAddressFirst(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	out, in := io.Pipe()
	cmd := newEngineCommand()
	cmd.SetArgs([]string{"--name", "e0", "--model", "m", "--speed", "100", "--faults", `{"slow":2}`})
	cmd.SetOut(in)
	done := make(chan error, 1)
	go func() { done <- cmd.ExecuteContext(ctx) }()
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.Post("http://"+strings.TrimSpace(address)+"/v1/completions", "application/json", strings.NewReader(`{"model":"m","prompt":"hello"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK || r.Header.Get("x-served-by") != "e0" {
		t.Errorf("status %d from %q", r.StatusCode, r.Header.Get("x-served-by"))
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("stopped with %v", err)
	}
}

func TestEngineCommandNamesTheBadFlag(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--profile", "abacus"}, `got "abacus", expected one of`},
		{[]string{"--faults", `{"hnag":true}`}, `--faults: json: unknown field "hnag"`},
		{[]string{"--runtime", "ollama"}, `runtime: got "ollama"`},
		{[]string{"--kv-tokens", "10"}, "KV cache of 10 tokens"},
		{[]string{"stray"}, "unknown command"},
	} {
		cmd := newEngineCommand()
		cmd.SetArgs(c.args)
		cmd.SetOut(io.Discard)
		cmd.SetErr(io.Discard)
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: error %v, want %q", c.args, err, c.want)
		}
	}
}
