package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pilotfish-epp/pilotfish/bench/enginesim"
)

func newEngineCommand() *cobra.Command {
	var (
		opt     enginesim.Options
		address string
		profile string
		faults  string
		orca    bool
	)
	cmd := &cobra.Command{
		Use:   "engine",
		Short: "Run a simulated model server until it is interrupted",
		Long: `Run a simulated model server until it is interrupted.

It schedules like vLLM (paged KV cache with prefix reuse, chunked prefill, continuous batching, preemption), speaks the
OpenAI API with streaming, and shows the metrics page of a runtime. Its first line of output is the address that it
listens on. POST /faults (from this machine) makes it misbehave, GET /stats counts what it did.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if opt.Profile, err = enginesim.ProfileNamed(profile); err != nil {
				return err
			}
			if err := parseFaults(faults, &opt.Faults); err != nil {
				return err
			}
			opt.DisableORCA = !orca
			engine, err := enginesim.New(opt)
			if err != nil {
				return err
			}
			if err := engine.Start(address); err != nil {
				return err
			}
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), engine.Addr()); err != nil {
				return err
			}
			<-cmd.Context().Done()
			return engine.Close()
		},
	}
	f := cmd.Flags()
	f.StringVar(&address, "address", "127.0.0.1:0", "address to listen on; port 0 is any free one")
	f.StringVar(&opt.MetricsAddress, "metrics-address", "", "own address for /metrics (default: the API's)")
	f.StringVar(&opt.Name, "name", "engine", "name told in the response header x-served-by")
	f.StringVar(&opt.Model, "model", "sim", "name of the model")
	f.StringSliceVar(&opt.Aliases, "alias", nil, "further names of the model")
	f.StringVar(&opt.Runtime, "runtime", enginesim.VLLM, "whose metrics page to show: vllm, sglang or trt-llm")
	f.StringVar(&profile, "profile", "h100-llama8b", "step times and limits: "+strings.Join(profileNames(), ", "))
	f.Float64Var(&opt.Speed, "speed", 1, "engine time for each unit of real time")
	f.IntVar(&opt.KVTokens, "kv-tokens", 0, "tokens that the KV cache holds (default: the profile's)")
	f.IntVar(&opt.MaxSeqs, "max-num-seqs", 0, "sequences that run at once (default: the profile's)")
	f.IntVar(&opt.MaxBatchedTokens, "max-num-batched-tokens", 0, "token budget of a step (default: the profile's)")
	f.IntVar(&opt.MaxModelLen, "max-model-len", 0, "tokens of prompt and answer (default: the profile's, within the KV cache)")
	f.IntVar(&opt.AnswerTokens, "answer-tokens", 0, "natural length of an answer in tokens (default: 32 to 159, by the prompt)")
	f.StringSliceVar(&opt.Adapters, "lora", nil, "LoRA adapters that are known from the start")
	f.IntVar(&opt.MaxAdapters, "max-loras", 0, "adapters in one batch (default: 4 with --lora, else LoRA is off)")
	f.DurationVar(&opt.AdapterLoad, "lora-load-time", 0, "engine time to make an adapter resident")
	f.IntVar(&opt.MetricsBytes, "metrics-bytes", 0, "pad the metrics page to this length")
	f.BoolVar(&orca, "orca", true, "answer the request header endpoint-load-metrics-format (vllm only)")
	f.StringVar(&faults, "faults", "", `faults from the start as JSON, e.g. '{"slow":4,"metrics":"html"}'`)
	return cmd
}

func profileNames() []string {
	var names []string
	for _, p := range enginesim.Profiles() {
		names = append(names, p.Name)
	}
	return names
}

func parseFaults(text string, f *enginesim.Faults) error {
	if text == "" {
		return nil
	}
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(f); err != nil {
		return fmt.Errorf("--faults: %w", err)
	}
	return nil
}
