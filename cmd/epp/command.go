package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pilotfish-epp/pilotfish/pkg/settings"
)

// run is the whole program: args are those after its name, env is the environment as os.Environ gives it. It returns
// when the command is done or ctx has ended and everything started has stopped.
func run(ctx context.Context, args, env []string, stdout, stderr io.Writer) error {
	given := newFlags()
	cmd := newCommand(given, settings.FromEnvironment(env), stdout, stderr)
	cmd.SetArgs(given.doubleDashes(args))
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	return cmd.ExecuteContext(ctx)
}

func newCommand(given *flags, environment map[string]string, stdout, stderr io.Writer) *cobra.Command {
	serve := func(cmd *cobra.Command, _ []string) error {
		store, err := settings.New(environment, given.settings)
		if err != nil {
			return fmt.Errorf("settings refused:\n%w", err)
		}
		return serve(cmd.Context(), store, given.warnings(), stdout, stderr)
	}
	root := &cobra.Command{
		Use:           "epp",
		Short:         "Endpoint picker for LLM inference behind Envoy",
		Long:          "Endpoint picker for LLM inference behind Envoy. Without a command it serves.\n\nEvery setting can be given as a flag or as the environment variable of the same name in upper case.",
		Args:          noArgs,
		RunE:          serve,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	given.addTo(root.PersistentFlags())
	root.SetGlobalNormalizationFunc(anySpelling)
	root.SetFlagErrorFunc(given.explain)
	root.AddCommand(
		&cobra.Command{Use: "serve", Short: "Run the picker", Args: noArgs, RunE: serve},
		&cobra.Command{
			Use: "version", Short: "Tell which build this is", Args: noArgs,
			Run: func(*cobra.Command, []string) { fmt.Fprintln(stdout, thisBuild()) },
		},
		newSettingsCommand(given, environment, stdout),
	)
	root.CompletionOptions.HiddenDefaultCmd = true
	return root
}

// noArgs refuses arguments that are neither a flag nor a command, and says what a switch with a blank may have meant.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if args[0] == "true" || args[0] == "false" {
		return fmt.Errorf("unexpected argument %q: the value of a switch stands behind =, as in --secure-serving=%s", args[0], args[0])
	}
	return fmt.Errorf("unexpected argument %q: expected flags or one of the commands serve, settings, version", args[0])
}

// settingsPage is what /settings and `epp settings -o json` say.
type settingsPage struct {
	Settings []settings.Row     `json:"settings"`
	Problems []settings.Problem `json:"problems"`
}

func newSettingsCommand(given *flags, environment map[string]string, stdout io.Writer) *cobra.Command {
	var form, url string
	cmd := &cobra.Command{
		Use:   "settings",
		Short: "Print every setting: value, where it comes from, default, meaning",
		Long:  "Print every setting, as this environment and these flags make it, or with --url as it is in a running picker.",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if url != "" {
				page, err := fetchSettings(cmd.Context(), url)
				if err != nil {
					return err
				}
				return writeSettings(stdout, form, page)
			}
			store, err := settings.New(environment, given.settings)
			if err != nil {
				return fmt.Errorf("settings refused:\n%w", err)
			}
			return writeSettings(stdout, form, pageOf(store))
		},
	}
	cmd.Flags().StringVarP(&form, "output", "o", "table", "form: table, json or markdown")
	cmd.Flags().StringVar(&url, "url", "", "ask the picker whose admin port is there, such as http://127.0.0.1:9090")
	return cmd
}

func pageOf(store *settings.Store) settingsPage {
	page := settingsPage{Settings: store.Table(), Problems: store.Problems()}
	if page.Problems == nil {
		page.Problems = []settings.Problem{}
	}
	return page
}

func writeSettings(w io.Writer, form string, page settingsPage) error {
	switch form {
	case "table":
		if err := settings.WriteText(w, page.Settings); err != nil {
			return err
		}
		for _, p := range page.Problems {
			if _, err := fmt.Fprintln(w, "refused:", p); err != nil {
				return err
			}
		}
		return nil
	case "json":
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false) // nobody reads it as HTML
		return encoder.Encode(page)
	case "markdown":
		return settings.WriteMarkdown(w, page.Settings)
	}
	return fmt.Errorf("output %q: expected table, json or markdown", form)
}

// fetchSettings asks a running picker.
func fetchSettings(ctx context.Context, url string) (settingsPage, error) {
	if !strings.Contains(url, "://") {
		url = "http://" + url
	}
	url = strings.TrimSuffix(url, "/")
	if !strings.HasSuffix(url, "/settings") {
		url += "/settings"
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return settingsPage{}, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return settingsPage{}, fmt.Errorf("no picker answers: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return settingsPage{}, fmt.Errorf("%s: expected 200, got %s: is that a picker's metrics port?", url, response.Status)
	}
	var page settingsPage
	if err := json.NewDecoder(io.LimitReader(response.Body, 4<<20)).Decode(&page); err != nil {
		return settingsPage{}, fmt.Errorf("%s: expected a picker's settings as JSON: %w", url, err)
	}
	if len(page.Settings) == 0 {
		return settingsPage{}, errors.New(url + ": expected a picker's settings, got none")
	}
	return page, nil
}
