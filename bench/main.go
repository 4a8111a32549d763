// Command bench holds the tools that measure Pilotfish: simulated engines, load, replay of traces and reports.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if newCommand().ExecuteContext(ctx) != nil {
		os.Exit(1) // cobra has printed the error
	}
}

// newCommand is the root with one line for each command; each lives in a file of its own.
func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:          "bench",
		Short:        "Simulated engines, load, replay and reports for Pilotfish",
		SilenceUsage: true,
	}
	root.AddCommand(newEngineCommand(), newRunCommand(), newCostCommand(), newOverloadCommand())
	return root
}
