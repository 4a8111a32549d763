package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pilotfish-epp/pilotfish/pkg/settings"
)

// flags are the settings given on the command line, and what was given in vain.
type flags struct {
	settings map[string]string // setting → value, as settings.New takes it
	vain     map[string]string // flag of another picker → why it does nothing here
	known    *pflag.FlagSet
}

func newFlags() *flags {
	return &flags{settings: make(map[string]string), vain: make(map[string]string)}
}

// sameSetting are flags of other pickers whose setting has another name here.
func sameSetting() map[string]string {
	return map[string]string{
		"metrics-staleness-threshold": "sd-metrics-staleness-threshold",
	}
}

// foreign are flags of other pickers that do nothing here, with what a person should know instead. A trailing "="
// marks a switch, which takes no value of its own.
func foreign() map[string]string {
	const (
		log     = "see --log-level and --log-format"
		names   = "the names of metrics follow from --model-server-runtime"
		page    = "the endpoints file says where a pod's metrics page is"
		plugins = "strategies are settings here, see --routing-strategy"
		ha      = "every replica serves here, without a leader"
		pool    = "this build reads endpoints from a file"
	)
	return map[string]string{
		"v": log, "zap-devel=": log, "zap-encoder": log, "zap-log-level": log, "zap-stacktrace-level": log, "zap-time-encoding": log,
		"kv-cache-usage-percentage-metric": names, "total-queued-requests-metric": names, "total-running-requests-metric": names,
		"lora-info-metric": names, "cache-info-metric": names,
		"model-server-metrics-port": page, "model-server-metrics-path": page, "model-server-metrics-scheme": page,
		"model-server-metrics-https-insecure-skip-verify=": page,
		"config-file": plugins, "config-text": plugins,
		"ha-enable-leader-election=": ha, "leader-elect=": ha,
		"pool-group": pool, "endpoint-selector": pool, "endpoint-target-ports": pool, "kubeconfig": pool,
		"disable-k8s-crd-reconcile=":                   pool,
		"health-checking=":                             "gRPC health is always served",
		"enable-pprof=":                                "DEBUG_ENDPOINTS=true serves /debug/pprof",
		"tracing=":                                     "there are no traces yet",
		"metrics-endpoint-auth=":                       "the metrics port asks for no token",
		"enable-cert-reload=":                          "certificates are always reloaded",
		"refresh-prometheus-metrics-interval":          "gauges are read when the page is fetched",
		"destination-endpoint-hint-key":                "the destination's header is fixed by the protocol",
		"destination-endpoint-hint-metadata-namespace": "the destination's namespace is fixed by the protocol",
		"emit-endpoint-scores=":                        "costs are in the decision log, see --decision-log",
	}
}

// addTo defines a flag for every setting, and hidden ones for those of other pickers. Names may also be written
// as grpcPort or grpc_port.
func (f *flags) addTo(set *pflag.FlagSet) {
	f.known = set
	set.SortFlags = false
	set.SetNormalizeFunc(anySpelling)
	for _, row := range defaults() {
		name := strings.TrimPrefix(row.Flag, "--")
		f.add(set, name, row, false)
		for _, older := range row.Older {
			f.add(set, kebab(strings.ToLower(older)), row, true)
		}
		for theirs, ours := range sameSetting() {
			if ours == name {
				f.add(set, theirs, row, true)
			}
		}
	}
	all := foreign()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		bare, isSwitch := strings.CutSuffix(name, "=")
		short := ""
		if bare == "v" {
			short = "v"
		}
		flag := set.VarPF(&vainValue{into: f.vain, name: bare, why: all[name]}, bare, short, "does nothing here: "+all[name])
		flag.Hidden = true
		if isSwitch {
			flag.NoOptDefVal = "true"
		}
	}
}

// anySpelling takes grpcPort and grpc_port for grpc-port.
func anySpelling(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	return pflag.NormalizedName(kebab(name))
}

func (f *flags) add(set *pflag.FlagSet, name string, row settings.Row, hidden bool) {
	value := &settingValue{into: f.settings, name: strings.TrimPrefix(row.Flag, "--"), kind: row.Kind, text: row.Default}
	// A back-quoted word would become the value's name in the help.
	flag := set.VarPF(value, name, "", strings.ReplaceAll(row.Doc, "`", ""))
	flag.Hidden = hidden
	if row.Kind == "switch" {
		flag.NoOptDefVal = "true"
	}
}

func defaults() []settings.Row {
	store, err := settings.New(nil, nil)
	if err != nil {
		panic(err) // the defaults are tested
	}
	return store.Table()
}

// settingValue takes a flag's text into the flag layer. What is allowed is the settings' business, so that a flag is
// refused in the same words as a variable.
type settingValue struct {
	into             map[string]string
	name, kind, text string
}

func (v *settingValue) Set(text string) error { v.text, v.into[v.name] = text, text; return nil }
func (v *settingValue) String() string        { return v.text }
func (v *settingValue) Type() string          { return v.kind }

// vainValue remembers that a flag of another picker was given.
type vainValue struct {
	into      map[string]string
	name, why string
}

func (v *vainValue) Set(string) error { v.into[v.name] = v.why; return nil }
func (v *vainValue) String() string   { return "" }
func (v *vainValue) Type() string     { return "text" }

// warnings tells which flags did nothing, and why.
func (f *flags) warnings() []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(f.vain)) {
		out = append(out, fmt.Sprintf("--%s does nothing here: %s", name, f.vain[name]))
	}
	return out
}

// doubleDashes lets known long flags be written with one dash, as manifests of older pickers do (-poolName).
func (f *flags) doubleDashes(args []string) []string {
	known := pflag.NewFlagSet("", pflag.ContinueOnError)
	newFlags().addTo(known)
	out := append([]string{}, args...) // never nil: cobra would read the process's own arguments
	for i, arg := range out {
		if arg == "--" {
			break
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(arg, "-"), "=")
		if strings.HasPrefix(arg, "-") && len(name) > 1 && name[0] != '-' && known.Lookup(name) != nil {
			out[i] = "-" + arg
		}
	}
	return out
}

// explain adds to the error about an unknown flag the known name that is nearest to it.
func (f *flags) explain(_ *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return err
	}
	name := unknown.GetSpecifiedName()
	if short := unknown.GetSpecifiedShortnames(); short != "" {
		return fmt.Errorf("unknown flag -%s: epp --help lists those that there are", short)
	}
	var names []string
	f.known.VisitAll(func(flag *pflag.Flag) { names = append(names, flag.Name) })
	if near, ok := settings.Nearest(kebab(name), names); ok {
		return fmt.Errorf("unknown flag --%s: did you mean --%s?", name, near)
	}
	return fmt.Errorf("unknown flag --%s: epp --help lists those that there are", name)
}

// kebab writes grpcPort, GRPCPort and grpc_port as grpc-port.
func kebab(name string) string {
	var b strings.Builder
	letters := []rune(name)
	for i, r := range letters {
		switch {
		case r == '_':
			b.WriteByte('-')
			continue
		case unicode.IsUpper(r) && i > 0 && letters[i-1] != '_' && letters[i-1] != '-':
			startsWord := i+1 < len(letters) && unicode.IsLower(letters[i+1])
			if unicode.IsLower(letters[i-1]) || unicode.IsUpper(letters[i-1]) && startsWord {
				b.WriteByte('-')
			}
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
