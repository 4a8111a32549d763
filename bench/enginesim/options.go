package enginesim

import (
	"fmt"
	"time"
)

// Runtimes whose metrics page a Server can show.
const (
	VLLM   = "vllm"
	SGLang = "sglang"
	TRTLLM = "trt-llm"
)

// Options is what a Server is built from. The zero value is a vLLM named "engine" that serves the model "sim" with the
// profile h100-llama8b in real time.
type Options struct {
	Name    string   // told in the response header x-served-by; default "engine"
	Model   string   // default "sim"
	Aliases []string // further names of the same model
	Runtime string   // VLLM, SGLang or TRTLLM: which metrics page; default VLLM

	Profile          Profile // default h100-llama8b
	Speed            float64 // engine milliseconds for each real one; default 1
	KVTokens         int     // 0 = the profile's, as the next three
	MaxBatchedTokens int
	MaxSeqs          int
	MaxModelLen      int // tokens of prompt and answer; default also bounded by the KV cache
	AnswerTokens     int // natural length of an answer; 0 = 32 to 159, by the prompt's hash

	Adapters    []string      // LoRA adapters known from the start; more come by POST /v1/load_lora_adapter
	MaxAdapters int           // adapters in one batch; default 4 when Adapters are given, else 0 (LoRA off)
	AdapterLoad time.Duration // engine time to make an adapter resident

	MetricsAddress string // own listener for /metrics; empty = the API's
	MetricsBytes   int    // metrics pages are padded to this length
	DisableORCA    bool   // never answer endpoint-load-metrics-format (only vLLM does at all)
	Faults         Faults // in force from the start
}

func (o Options) withDefaults() Options {
	if o.Name == "" {
		o.Name = "engine"
	}
	if o.Model == "" {
		o.Model = "sim"
	}
	if o.Runtime == "" {
		o.Runtime = VLLM
	}
	if o.Profile == (Profile{}) {
		o.Profile, _ = ProfileNamed("h100-llama8b")
	}
	if o.Speed == 0 {
		o.Speed = 1
	}
	if o.MaxAdapters == 0 && len(o.Adapters) > 0 {
		o.MaxAdapters = 4
	}
	if o.KVTokens != 0 {
		o.Profile.KVTokens = o.KVTokens
	}
	if o.MaxSeqs != 0 {
		o.Profile.MaxSeqs = o.MaxSeqs
	}
	if o.MaxBatchedTokens != 0 {
		o.Profile.MaxBatchedTokens = o.MaxBatchedTokens
	}
	if o.MaxModelLen == 0 {
		o.MaxModelLen = min(o.Profile.MaxModelLen, o.Profile.KVTokens-o.Profile.KVTokens%BlockTokens-BlockTokens)
	}
	return o
}

func (o Options) validate(capacity int) error {
	switch {
	case o.Runtime != VLLM && o.Runtime != SGLang && o.Runtime != TRTLLM:
		return fmt.Errorf("engine %s: runtime: got %q, expected vllm, sglang or trt-llm", o.Name, o.Runtime)
	case o.Speed <= 0:
		return fmt.Errorf("engine %s: speed: got %g, expected more than 0", o.Name, o.Speed)
	case o.MaxModelLen < 2 || o.MaxModelLen > capacity:
		return fmt.Errorf("engine %s: longest request: got %d tokens, expected 2 to %d (the KV cache)", o.Name, o.MaxModelLen, capacity)
	case o.AnswerTokens < 0:
		return fmt.Errorf("engine %s: answer: got %d tokens, expected 0 or more", o.Name, o.AnswerTokens)
	case o.MetricsBytes < 0:
		return fmt.Errorf("engine %s: metrics page: got %d bytes, expected 0 or more", o.Name, o.MetricsBytes)
	}
	return o.Faults.validate()
}
