package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pilotfish-epp/pilotfish/pkg/settings"
)

func TestFlagsOfThisAndOtherPickers(t *testing.T) {
	for _, tc := range []struct {
		name string
		args string
		want map[string]string // settings that differ from their default, all from flags
	}{
		{"kebab", "--grpc-port 1 --pool-name=a --secure-serving=false", map[string]string{"GRPC_PORT": "1", "POOL_NAME": "a", "SECURE_SERVING": "false"}},
		{
			"camel", "--grpcPort 1 --grpcHealthPort=2 --metricsPort 3 --poolName a --poolNamespace b --certPath /c",
			map[string]string{"GRPC_PORT": "1", "GRPC_HEALTH_PORT": "2", "METRICS_PORT": "3", "POOL_NAME": "a", "POOL_NAMESPACE": "b", "CERT_PATH": "/c"},
		},
		{"one dash", "-poolName a -grpcPort=1 -v 4 --zap-encoder json", map[string]string{"POOL_NAME": "a", "GRPC_PORT": "1"}},
		{"a switch alone", "--conformance-headers --secureServing", map[string]string{"CONFORMANCE_HEADERS": "true"}},
		{
			"other names", "--refresh-metrics-interval=1s --refreshMetricsInterval 2s --metrics-staleness-threshold 3s --queue-threshold-critical 9",
			map[string]string{"REFRESH_METRICS_INTERVAL": "2s", "SD_METRICS_STALENESS_THRESHOLD": "3s", "SD_QUEUE_DEPTH_THRESHOLD": "9"},
		},
		{"tolerated", "--v=5 --kv-cache-usage-percentage-metric vllm:gpu_cache_usage_perc --ha-enable-leader-election --health-checking --config-file /x" +
			" --config-text y --enable-pprof --tracing=false --zap-log-level=debug --totalQueuedRequestsMetric z", map[string]string{}},
		{"any setting", "--routing-strategy prefix_cache --queue-ttl 5s", map[string]string{"ROUTING_STRATEGY": "PREFIX_CACHE", "QUEUE_TTL": "5s"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, _, err := epp(t, nil, append([]string{"settings", "-o", "json"}, strings.Fields(tc.args)...)...)
			if err != nil {
				t.Fatal(err)
			}
			got := make(map[string]string)
			for _, row := range parsePage(t, out).Settings {
				if row.Value != row.Default {
					got[row.Name] = row.Value
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWhatIsRefusedAndHow(t *testing.T) {
	for _, tc := range []struct {
		args, env, want string
	}{
		{"--grpc-prot 1", "", "unknown flag --grpc-prot: did you mean --grpc-port?"},
		{"--metricPort 1", "", "unknown flag --metricPort: did you mean --metrics-port?"},
		{"--frobnicate", "", "unknown flag --frobnicate: epp --help lists those that there are"},
		{"-x", "", "unknown flag -x: epp --help lists those that there are"},
		{"--grpc-port abc", "", `--grpc-port: "abc": not of the expected form; allowed: a port from 0 to 65535`},
		{"", "QUEUE_TTL=5", `QUEUE_TTL: "5": not of the expected form; allowed: a duration with its unit`},
		{"--secure-serving false", "", `the value of a switch stands behind =, as in --secure-serving=false`},
		{"surf", "", `unexpected argument "surf": expected flags or one of the commands serve, settings, version`},
		{"", "", "no endpoints: give --endpoints FILE"},
		{"serve --poolName llama", "", "--pool-name llama: this build can't discover pods from Kubernetes; give --endpoints FILE"},
		{"--endpoints x --cert-path /nowhere", "", "CERT_PATH: reading tls.crt and tls.key in /nowhere"},
		{"settings -o yaml", "", `output "yaml": expected table, json or markdown`},
	} {
		_, _, err := epp(t, strings.Fields(tc.env), strings.Fields(tc.args)...)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s epp %s:\n got %v\nwant %s", tc.env, tc.args, err, tc.want)
		}
	}
}

func TestFlagsOfOthersWarn(t *testing.T) {
	given := newFlags()
	cmd := newCommand(given, nil, nil, nil)
	if err := cmd.ParseFlags([]string{"--zap-encoder", "json", "--enable-pprof"}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"--enable-pprof does nothing here: DEBUG_ENDPOINTS=true serves /debug/pprof",
		"--zap-encoder does nothing here: see --log-level and --log-format",
	}
	if diff := cmp.Diff(want, given.warnings()); diff != "" {
		t.Error(diff)
	}
}

func TestFlagBeatsEnvironment(t *testing.T) {
	out, _, err := epp(t, []string{"QUEUE_TTL=5s", "PATH=/bin"}, "settings", "--queue-ttl=7s")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(out, "\n") {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] == "QUEUE_TTL" {
			if diff := cmp.Diff([]string{"QUEUE_TTL", "7s", "flag", "30s"}, fields[:4]); diff != "" {
				t.Error(diff)
			}
			return
		}
	}
	t.Errorf("no QUEUE_TTL in\n%s", out)
}

func TestSettingsOfARunningPicker(t *testing.T) {
	store, err := settings.New(map[string]string{"QUEUE_TTL": "5s"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	store.Apply(settings.File, map[string]string{"USAGE_SAMPLE": "2"})
	a := admin{settings: store}
	server := httptest.NewServer(http.HandlerFunc(a.settingsPage))
	defer server.Close()

	out, _, err := epp(t, nil, "settings", "--url", server.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"QUEUE_TTL", "environment", `refused: USAGE_SAMPLE: "2": out of bounds; allowed: a number from 0 to 1; in force: 0.05`} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}

	elsewhere := httptest.NewServer(http.NotFoundHandler())
	defer elsewhere.Close()
	if _, _, err = epp(t, nil, "settings", "--url", elsewhere.URL); err == nil || !strings.Contains(err.Error(), "expected 200, got 404") {
		t.Errorf("asking someone else: %v", err)
	}
}

func TestHelpNamesSettingsAndHidesTheFlagsOfOthers(t *testing.T) {
	out, _, err := epp(t, nil, "--help")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "--routing-strategy word") || strings.Contains(out, "zap") {
		t.Error(out)
	}
}

func TestVersion(t *testing.T) {
	out, _, err := epp(t, nil, "version")
	if err != nil || !strings.HasPrefix(out, "epp ") || !strings.Contains(out, "commit") {
		t.Errorf("%q, %v", out, err)
	}
}

func TestKebab(t *testing.T) {
	for in, want := range map[string]string{
		"grpcPort": "grpc-port", "grpc-port": "grpc-port", "GRPC_PORT": "grpc-port", "grpcHealthPort": "grpc-health-port",
		"GRPCPort": "grpc-port", "v": "v", "haEnableLeaderElection": "ha-enable-leader-election", "": "",
	} {
		if got := kebab(in); got != want {
			t.Errorf("kebab(%q) = %q, want %q", in, got, want)
		}
	}
}

// epp runs the command line to its end.
func epp(t *testing.T, env []string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, log bytes.Buffer
	err = run(context.Background(), args, env, &out, &log)
	return out.String(), log.String(), err
}

func parsePage(t *testing.T, text string) settingsPage {
	t.Helper()
	var page settingsPage
	if err := json.Unmarshal([]byte(text), &page); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return page
}
