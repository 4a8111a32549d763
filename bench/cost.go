package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pilotfish-epp/pilotfish/bench/cost"
)

func newCostCommand() *cobra.Command {
	var o cost.Options
	var output, file string
	cmd := &cobra.Command{
		Use:   "cost",
		Short: "Measure what the picker costs: CPU and memory, beside references of the same run",
		Long: `Measures the picker's CPU for an ext_proc stream and for a request through a real Envoy, its CPU for scraping, its
memory, and its parts by their Go benchmarks, each beside its reference and its budget, variants in turn over several
rounds. Run it inside the repository, on a machine with nothing else to do; all of it takes about ten minutes.
bench/README.md says what each figure means.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output: expected text or json, got %q", output)
			}
			return runCost(cmd, o, output, file)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.Only, "only", nil, "measure these sections only: "+strings.Join(cost.Names(), ", "))
	f.IntVar(&o.Rounds, "rounds", 0, "turns of all variants (default 5, or 2 with --quick)")
	f.BoolVar(&o.Quick, "quick", false, "an eighth of the work: to see that it runs, not to quote")
	f.StringVarP(&output, "output", "o", "text", "text or json")
	f.StringVar(&file, "json", "", "also write the report as JSON to this file")
	f.StringVar(&o.Binary, "epp", "", "the picker to measure (default: ./cmd/epp is built)")
	f.StringArrayVar(&o.Env, "env", nil, "a setting for the picker beside those of the measurement, KEY=value; can be repeated")
	f.StringArrayVar(&o.Others, "other", nil, "another build to measure beside it in the stream section, NAME=PATH; can be repeated")
	f.StringVar(&o.Profiles, "profiles", "", "write CPU profiles of the picker in the stream section to this folder")
	cmd.AddCommand(newCostChildCommand())
	return cmd
}

func runCost(cmd *cobra.Command, o cost.Options, output, file string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	o.Self = []string{self, "cost", "child"}
	o.Progress = cmd.ErrOrStderr()
	report, err := cost.Run(cmd.Context(), o)
	if err != nil {
		return err
	}
	if file != "" {
		if err := writeJSON(report, file); err != nil {
			return err
		}
	}
	if output == "json" {
		return report.WriteJSON(cmd.OutOrStdout())
	}
	return report.WriteText(cmd.OutOrStdout())
}

func writeJSON(report *cost.Report, file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(report.WriteJSON(f), f.Close())
}

// newCostChildCommand is what `bench cost` starts of itself: servers that are measured, or that must not be.
func newCostChildCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "child",
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return cost.Child(cmd.Context(), cmd.OutOrStdout(), args)
		},
	}
}
