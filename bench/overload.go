package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pilotfish-epp/pilotfish/bench/overload"
)

func newOverloadCommand() *cobra.Command {
	o := overload.Options{Shape: overload.DefaultShape()}
	var output, file string
	var live bool
	cmd := &cobra.Command{
		Use:   "overload",
		Short: "Measure what queueing does when more requests come than the model servers can answer",
		Long: `Measures what requests of each priority get through a real Envoy, over simulated engines: below their capacity, above
it with queueing, and above it without, with the same requests. Each figure stands beside what is asked of it.
Run it inside the repository, on a machine with nothing else to do; all of it takes about fifteen minutes.
bench/README.md says what each figure means.

With --live it overfills the engines until Ctrl-C instead, and prints a line each second.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output: expected text or json, got %q", output)
			}
			o.Progress = cmd.ErrOrStderr()
			if live {
				return overload.Live(cmd.Context(), cmd.OutOrStdout(), o)
			}
			return runOverload(cmd, o, output, file)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&live, "live", false, "put load on and print a line each second, until Ctrl-C or for --duration")
	f.DurationVar(&o.Duration, "duration", 0, "of sending in each phase (default 1m, or 6s with --quick)")
	f.DurationVar(&o.RunIn, "run-in", 0, "of sending before that, whose times to the first token don't count (default 5s, or 1s with --quick)")
	f.IntVar(&o.Rounds, "rounds", 0, "rounds of all phases, each with other requests (default 3, or 1 with --quick)")
	f.BoolVar(&o.Quick, "quick", false, "a minute of work: to see that it runs, not to quote")
	f.IntVar(&o.Engines, "engines", overload.DefaultEngines, "simulated engines")
	f.StringVar(&o.Profile, "profile", "", "step times of an engine: "+strings.Join(profileNames(), ", ")+" (default rtx4090-llama8b)")
	f.IntVar(&o.MaxSeqs, "max-num-seqs", 0, "sequences that an engine runs at once (default 16)")
	f.IntVar(&o.KVTokens, "kv-tokens", 0, "tokens that an engine's KV cache holds (default 20480)")
	f.Float64Var(&o.Under, "under", 0.5, "the load below capacity, as a part of it")
	f.Float64Var(&o.Over, "load", 3, "the load above capacity, as a multiple of it")
	f.Float64Var(&o.Capacity, "capacity", 0, "take this for the capacity, in requests/s, and don't measure it")
	f.Float64Var(&o.Shape.CriticalShare, "critical", o.Shape.CriticalShare, "share of Critical requests, 0 to 1")
	f.Float64Var(&o.Shape.StandardShare, "standard", o.Shape.StandardShare, "share of Standard requests, 0 to 1; the rest is Sheddable")
	f.Uint64Var(&o.Seed, "seed", 1, "of the first round's requests")
	f.Int64Var(&o.QueueBytes, "queue-capacity", 0, "TOTAL_QUEUE_CAPACITY in bytes (default 6 MiB, so that it is reached; 512 KiB with --quick)")
	f.DurationVar(&o.TTL, "queue-ttl", 0, "QUEUE_TTL (default 30s, or 3s with --quick)")
	f.StringArrayVar(&o.Env, "env", nil, "a setting for the picker beside those of the measurement, KEY=value; can be repeated")
	f.StringVar(&o.Binary, "epp", "", "the picker to measure (default: ./cmd/epp is built)")
	f.StringVarP(&output, "output", "o", "text", "text or json")
	f.StringVar(&file, "json", "", "also write the report as JSON to this file")
	return cmd
}

func runOverload(cmd *cobra.Command, o overload.Options, output, file string) error {
	report, err := overload.Run(cmd.Context(), o)
	if err != nil {
		return err
	}
	if file != "" {
		f, err := os.Create(file)
		if err != nil {
			return err
		}
		if err := errors.Join(report.WriteJSON(f), f.Close()); err != nil {
			return err
		}
	}
	if output == "json" {
		return report.WriteJSON(cmd.OutOrStdout())
	}
	return report.WriteText(cmd.OutOrStdout())
}
