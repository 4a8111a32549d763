package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pilotfish-epp/pilotfish/bench/stack"
)

// simulatedEngines is how many model servers there are without an endpoints file.
const simulatedEngines = 4

func newRunCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Run model servers, the picker and Envoy on this machine until Ctrl-C",
		Long: `Run model servers, the picker and Envoy on this machine until Ctrl-C.

It is what make run does, and takes its variables from the environment: GATEWAY_PORT (8080), PROFILE (lean or
full-duplex), ENDPOINTS (a file of your own model servers; without it four are simulated), GRPC_PORT (9002),
GRPC_HEALTH_PORT (9003), METRICS_PORT (9090), ENVOY_ADMIN_PORT (9901), ACCESS_LOG (a file for Envoy's access log, as
JSON), and every setting of the picker. The picker is the epp beside this program, or EPP.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := runOptionsFrom(os.Getenv)
			if err != nil {
				return err
			}
			return run(cmd.Context(), cmd.OutOrStdout(), o)
		},
	}
}

// runOptions is what the environment says, checked.
type runOptions struct {
	profile   string
	endpoints string // absolute; empty: simulated engines
	accessLog string // absolute; empty: none
	epp       string // the picker's binary
	plaintext bool   // the picker speaks no TLS
	ports     runPorts
}

// runPorts are the ports that people know, each changed by a variable.
type runPorts struct{ gateway, grpc, health, metrics, admin portUse }

type portUse struct {
	variable, purpose string
	port              uint16
}

func (p *runPorts) all() []*portUse {
	return []*portUse{&p.gateway, &p.grpc, &p.health, &p.metrics, &p.admin}
}

func runOptionsFrom(getenv func(string) string) (runOptions, error) {
	o := runOptions{
		profile: getenv("PROFILE"),
		epp:     getenv("EPP"),
		ports: runPorts{
			gateway: portUse{"GATEWAY_PORT", "the gateway, where requests go", 8080},
			grpc:    portUse{"GRPC_PORT", "the picker's ext_proc", 9002},
			health:  portUse{"GRPC_HEALTH_PORT", "the picker's health service", 9003},
			metrics: portUse{"METRICS_PORT", "the picker's metrics and settings", 9090},
			admin:   portUse{"ENVOY_ADMIN_PORT", "Envoy's admin pages", 9901},
		},
	}
	if o.profile == "" {
		o.profile = "lean"
	}
	var errs []error
	if _, err := stack.Profile(o.profile); err != nil {
		errs = append(errs, fmt.Errorf("PROFILE: %w", err))
	}
	for _, p := range o.ports.all() {
		errs = append(errs, p.read(getenv(p.variable)))
	}
	for name, file := range map[string]*string{"ENDPOINTS": &o.endpoints, "ACCESS_LOG": &o.accessLog} {
		if v := getenv(name); v != "" {
			path, err := filepath.Abs(v)
			errs = append(errs, err)
			*file = path
		}
	}
	if o.endpoints != "" {
		if _, err := os.Stat(o.endpoints); err != nil {
			errs = append(errs, fmt.Errorf("ENDPOINTS: %w", err))
		}
	}
	if secure, err := strconv.ParseBool(getenv("SECURE_SERVING")); err == nil {
		o.plaintext = !secure
	}
	if o.epp == "" {
		self, err := os.Executable()
		errs = append(errs, err)
		o.epp = filepath.Join(filepath.Dir(self), "epp")
	}
	if _, err := os.Stat(o.epp); err != nil {
		errs = append(errs, fmt.Errorf("the picker: %w (make build builds it)", err))
	}
	return o, errors.Join(errs...)
}

func (p *portUse) read(value string) error {
	if value == "" {
		return nil
	}
	n, err := strconv.ParseUint(value, 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("%s: expected a port from 1 to 65535, got %q", p.variable, value)
	}
	p.port = uint16(n)
	return nil
}

// check says which ports are taken, by whom, and which variables would help.
func (p *runPorts) check() error {
	var taken, variables []string
	uses := map[uint16]*portUse{}
	for _, use := range p.all() {
		why := ""
		if other := uses[use.port]; other != nil {
			why = fmt.Sprintf("is that of %s too (%s)", other.purpose, other.variable)
		} else if !free(use.port) {
			why = "is in use"
			if holder := stack.PortHolder(use.port); holder != "" {
				why += " by " + holder
			}
		}
		if why == "" {
			uses[use.port] = use
			continue
		}
		taken = append(taken, fmt.Sprintf("port %d, for %s, %s", use.port, use.purpose, why))
		next := use.port + 1
		for next != 0 && (uses[next] != nil || !free(next)) {
			next++
		}
		uses[next] = use
		variables = append(variables, fmt.Sprintf("%s=%d", use.variable, next))
	}
	if taken == nil {
		return nil
	}
	return fmt.Errorf("%s\nfree ones would be: make run %s", strings.Join(taken, "\n"), strings.Join(variables, " "))
}

func free(port uint16) bool {
	for _, addr := range []string{"127.0.0.1", ""} {
		l, err := net.Listen("tcp", net.JoinHostPort(addr, strconv.Itoa(int(port))))
		if err != nil {
			return false
		}
		_ = l.Close() // nothing was accepted
	}
	return true
}

// fleet is what runs, and where it speaks to the person in front of it.
type fleet struct {
	runOptions
	*stack.Stack
	picker *stack.Picker
	envoy  *stack.Envoy

	mu       sync.Mutex
	out      io.Writer
	shown    bool // all of the picker's lines are passed on, not only warnings
	stopping bool
}

// run starts everything, shows what the picker decides, and ends with a signal or with Envoy. A first signal stops in
// order, a second one kills.
func run(ctx context.Context, out io.Writer, o runOptions) error {
	if err := errors.Join(stack.CheckPicker(ctx, o.pickerOptions()), o.ports.check()); err != nil {
		return err
	}
	s, err := stack.New(stack.Options{})
	if err != nil {
		return err
	}
	f := &fleet{runOptions: o, Stack: s, out: out}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	forget := f.onSignal(cancel)
	defer forget()

	err = f.start(ctx)
	if err == nil {
		f.introduce(ctx)
		select {
		case <-ctx.Done():
		case <-f.envoy.Done():
			err = errors.New("nothing can be served: Envoy has ended")
		}
	}
	interrupted := ctx.Err() != nil
	f.stop()
	if interrupted {
		return nil // what a person stopped has not failed
	}
	return err
}

// onSignal cancels at the first signal and kills everything at the second.
func (f *fleet) onSignal(cancel func()) (forget func()) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			case <-signals:
			}
			if n == 0 {
				cancel()
				continue
			}
			for _, p := range f.Processes() {
				_ = p.Signal(syscall.SIGKILL) // one that has ended is what is wanted
			}
			_ = f.Kill() // the same; this also removes the files
			os.Exit(1)
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}

func (f *fleet) start(ctx context.Context) error {
	file := f.endpoints
	if file == "" {
		var err error
		if file, err = f.startEngines(ctx); err != nil {
			return err
		}
	}
	if err := f.startPicker(ctx, file); err != nil {
		return err
	}
	f.say("starting Envoy, profile %s ...", f.profile)
	var err error
	f.envoy, err = f.Envoy(ctx, stack.EnvoyOptions{
		Profile:     f.profile,
		Pickers:     []netip.AddrPort{f.picker.GRPC},
		Plaintext:   f.plaintext,
		GatewayPort: f.ports.gateway.port,
		AdminPort:   f.ports.admin.port,
		AccessLog:   f.accessLog,
	})
	if err != nil {
		return err
	}
	for _, p := range f.Processes() {
		go f.watch(p)
	}
	return nil
}

// startEngines starts simulated model servers and returns their endpoints file.
func (f *fleet) startEngines(ctx context.Context) (file string, err error) {
	f.say("starting %d simulated model servers ...", simulatedEngines)
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	var endpoints []stack.Endpoint
	for i := range simulatedEngines {
		name := fmt.Sprintf("engine-%d", i)
		e, err := f.Engine(ctx, stack.EngineOptions{
			Name:   name,
			Binary: self,
			Args: func(addr netip.AddrPort) []string {
				return []string{"engine", "--name", name, "--address", addr.String()}
			},
		})
		if err != nil {
			return "", err
		}
		endpoints = append(endpoints, e.Endpoint())
	}
	file = filepath.Join(f.Dir(), "endpoints.yaml")
	return file, stack.WriteEndpoints(file, endpoints...)
}

// pickerOptions say how to run the picker, all but its endpoints.
func (o *runOptions) pickerOptions() stack.PickerOptions {
	return stack.PickerOptions{
		Binary: o.epp,
		// What the environment says comes last and wins.
		Env: append([]string{
			"DECISION_LOG=text",
			"ROUTING_STRATEGY=PREFIX_CACHE",
			"DESTINATION_FALLBACKS=2",
		}, os.Environ()...),
		GRPCPort:    o.ports.grpc.port,
		HealthPort:  o.ports.health.port,
		MetricsPort: o.ports.metrics.port,
	}
}

func (f *fleet) startPicker(ctx context.Context, endpoints string) error {
	f.say("starting the picker ...")
	o := f.pickerOptions()
	o.EndpointsFile, o.OnLine = endpoints, f.pickerLine
	var err error
	f.picker, err = f.Picker(ctx, o)
	return err
}

// introduce waits until a request can pass, and tells where to send it.
func (f *fleet) introduce(ctx context.Context) {
	got, err := f.firstAnswer(ctx)
	if ctx.Err() != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.shown = true
	url := f.envoy.URL("")
	fmt.Fprintf(f.out, "\nSend requests to %s (profile %s). Ctrl-C stops everything.\n\n", url, f.profile)
	switch {
	case err != nil:
		fmt.Fprintf(f.out, "No model server has answered through the gateway yet: %v\n\n", err)
	case got.model == "":
		fmt.Fprintf(f.out, "A model server answers, but names no model: %s. Put the name in place of MODEL.\n\n", got.what)
	}
	fmt.Fprintf(f.out, "  curl -s %s/v1/chat/completions -H 'Content-Type: application/json' -d '%s'\n\n", url, example(got.model))
	fmt.Fprintf(f.out, "settings http://%s/settings   metrics http://%s/metrics   Envoy http://%s   endpoints %s\n\n",
		f.picker.Metrics, f.picker.Metrics, f.envoy.Admin, f.endpointsText())
}

func (f *fleet) endpointsText() string {
	if f.endpoints != "" {
		return f.endpoints
	}
	return filepath.Join(f.Dir(), "endpoints.yaml")
}

// firstAnswer asks for the models through the whole path until a model server answers, whatever it says, for ten seconds.
func (f *fleet) firstAnswer(ctx context.Context) (got answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = stack.Await(ctx, "an answer", func(ctx context.Context) error {
		got, err = askModels(ctx, f.envoy.URL("/v1/models"))
		return err
	})
	return got, err
}

// answer is what a model server said when it was asked for its models.
type answer struct {
	model string // the first one; empty: it named none
	what  string // what was asked and what came
}

// askModels returns an error unless a model server answered. What Envoy says by itself, when it reaches none, is no
// answer; it lacks the header that Envoy adds to those of servers.
func askModels(ctx context.Context, url string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return answer{}, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return answer{}, fmt.Errorf("GET %s: %w", url, err)
	}
	said := strings.Join(strings.Fields(string(body)), " ")
	got := answer{what: fmt.Sprintf("GET %s gave %s, %#.200q", url, resp.Status, said)}
	if resp.Header.Get("x-envoy-upstream-service-time") == "" {
		return answer{}, errors.New(got.what + ", from the gateway and not from a server")
	}
	var list struct{ Data []struct{ ID string } }
	if resp.StatusCode == http.StatusOK && json.Unmarshal(body, &list) == nil && len(list.Data) > 0 {
		got.model = list.Data[0].ID
	}
	return got, nil
}

// example is a chat request whose system prompt fills some blocks, so that a second one shows what the index knows.
func example(model string) string {
	if model == "" {
		model = "MODEL"
	}
	type message struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	b, err := json.Marshal(struct {
		Model     string    `json:"model"`
		Messages  []message `json:"messages"`
		MaxTokens int       `json:"max_tokens"`
	}{model, []message{
		{"system", "You are a pilot who brings ships into the harbour. You know every rock and every current, and you answer in one calm sentence."},
		{"user", "Which way?"},
	}, 40})
	if err != nil {
		panic(err) // strings and a number can always be encoded
	}
	return strings.ReplaceAll(string(b), "'", `'\''`) // for the shell's single quotes
}

func (f *fleet) pickerLine(line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shown || warning(line) {
		fmt.Fprintln(f.out, line)
	}
}

// warning says whether a line of the picker's log, in either form, is a warning or worse: those are shown before the
// introduction and after the end too.
func warning(line string) bool {
	for _, level := range []string{"WARN", "ERROR"} {
		text, json := " level="+level+" ", `,"level":"`+level+`",`
		if strings.HasPrefix(line, "time=") && strings.Contains(line, text) || strings.HasPrefix(line, `{"time":`) && strings.Contains(line, json) {
			return true
		}
	}
	return false
}

func (f *fleet) say(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fmt.Fprintf(f.out, format+"\n", args...)
}

// watch tells of a process that ends before it should. The others go on: to see what happens then is one use of this.
func (f *fleet) watch(p *stack.Process) {
	<-p.Done()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopping {
		return
	}
	how := "exit status 0"
	if err := p.Err(); err != nil {
		how = err.Error()
	}
	fmt.Fprintf(f.out, "\n%s has ended (%s); its last lines:\n%s\n\n", p.Name(), how, indent(p.Tail(10)))
}

func (f *fleet) stop() {
	f.mu.Lock()
	f.stopping, f.shown = true, false
	fmt.Fprintln(f.out, "\nstopping ...")
	f.mu.Unlock()
	if err := f.Close(); err != nil {
		f.say("%v", err)
	}
}

func indent(text string) string { return "  " + strings.ReplaceAll(text, "\n", "\n  ") }
