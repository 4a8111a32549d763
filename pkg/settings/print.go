package settings

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// Row is one setting as a person or a program reads it.
type Row struct {
	Name       string   `json:"name"` // environment variable
	Value      string   `json:"value"`
	Layer      Layer    `json:"layer"` // where the value comes from
	Default    string   `json:"default"`
	Kind       string   `json:"kind"`
	Unit       string   `json:"unit,omitempty"`
	Allowed    string   `json:"allowed"`
	Doc        string   `json:"doc"`
	Hot        bool     `json:"hot"` // may change while the process runs
	Flag       string   `json:"flag"`
	Annotation string   `json:"annotation,omitempty"` // only where the setting may come by annotation
	Older      []string `json:"older,omitempty"`      // older names still read
}

// Table returns every setting in the table's order.
func (s *Store) Table() []Row {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.current.Load()
	rows := make([]Row, len(table))
	for at := range table {
		rows[at] = table[at].row(v, s.layerOf(at))
	}
	return rows
}

func (d *definition) row(v *Values, layer Layer) Row {
	r := Row{
		Name: d.name, Value: d.show(v), Layer: layer, Default: d.fallback, Kind: d.kind, Unit: d.unit,
		Allowed: d.allowed, Doc: d.doc, Hot: d.hot, Flag: "--" + kebab(d.name), Older: slices.Clone(d.older),
	}
	if d.hot {
		r.Annotation = d.annotation()
	}
	return r
}

// WriteText prints rows as an aligned table for a terminal.
func WriteText(w io.Writer, rows []Row) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NAME\tVALUE\tFROM\tDEFAULT\tWHAT IT DOES")
	for _, r := range rows {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", r.Name, dash(r.Value), r.Layer, dash(r.Default), strings.ReplaceAll(r.Doc, "`", ""))
	}
	return tw.Flush()
}

// WriteMarkdown prints the reference of all settings for the documentation: names, defaults, bounds, and how each can
// be given. Values in force play no part in it.
func WriteMarkdown(w io.Writer, rows []Row) error {
	var b strings.Builder
	b.WriteString("| variable | default | allowed | hot | meaning |\n|---|---|---|---|---|\n")
	for _, r := range rows {
		hot := "no"
		if r.Hot {
			hot = "yes"
		}
		doc := r.Doc
		if len(r.Older) > 0 {
			doc += " (older name: `" + strings.Join(r.Older, "`, `") + "`)"
		}
		initial := "none"
		if r.Default != "" {
			initial = "`" + r.Default + "`"
		}
		if r.Unit != "" && r.Unit != r.Kind {
			initial += " " + r.Unit
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", r.Name, initial, r.Allowed, hot, strings.ReplaceAll(doc, "|", "\\|"))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
