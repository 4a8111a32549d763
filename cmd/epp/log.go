package main

import (
	"io"
	"log/slog"
	"os"

	"github.com/pilotfish-epp/pilotfish/pkg/settings"
	"github.com/pilotfish-epp/pilotfish/pkg/telemetry"
)

// newLogger writes to w in the form and from the level that the settings name.
func newLogger(w io.Writer, v *settings.Values) *slog.Logger {
	level := slog.LevelInfo
	_ = level.UnmarshalText([]byte(v.LogLevel)) // the settings allow only its words
	options := &slog.HandlerOptions{Level: level}
	if v.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// isTerminal reports whether w shows colours to a person: a character device, unless NO_COLOR asks for none.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// formOf is the decision log's form that the settings ask for.
func formOf(v *settings.Values) telemetry.Form {
	switch v.DecisionLog {
	case settings.DecisionsText:
		return telemetry.Text
	case settings.DecisionsJSON:
		return telemetry.JSON
	}
	return telemetry.Off
}
