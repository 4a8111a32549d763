package stack

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pilotfish-epp/pilotfish/deploy/envoy"
)

func TestConfigPaths(t *testing.T) {
	parse := func(t *testing.T) Config {
		t.Helper()
		c, err := ParseConfig([]byte("a: {list: [{name: x, v: 1}, {name: y, v: 2}]}"))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, tc := range []struct {
		name    string
		do      func(Config) error
		want    string // the file afterwards
		wantErr string
	}{
		{"replace by name", func(c Config) error { return c.Replace("a/list/name=y/v", 3) }, "{name: x, v: 1}, {name: y, v: 3}", ""},
		{"replace by position", func(c Config) error { return c.Replace("a/list/0/v", 3) }, "{name: x, v: 3}, {name: y, v: 2}", ""},
		{"put a new key", func(c Config) error { return c.Put("a/list/0/w", 3) }, "{name: x, v: 1, w: 3}, {name: y, v: 2}", ""},
		{"delete", func(c Config) error { return c.Delete("a/list/1/v") }, "{name: x, v: 1}, {name: y}", ""},
		{"replace what isn't there", func(c Config) error { return c.Replace("a/list/0/w", 3) }, "", `nothing at "w"`},
		{"delete what isn't there", func(c Config) error { return c.Delete("a/b") }, "", `nothing at "b"`},
		{"no element of that name", func(c Config) error { return c.Put("a/list/name=z/v", 3) }, "", `nothing at "name=z"`},
		{"position beyond the end", func(c Config) error { return c.Put("a/list/2/v", 3) }, "", `nothing at "2"`},
		{"put into a list", func(c Config) error { return c.Put("a/list/0", 3) }, "", "no key of a map"},
		{"put below a number", func(c Config) error { return c.Put("a/list/0/v/w", 3) }, "", "no key of a map"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := parse(t)
			err := tc.do(c)
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Fatalf("expected an error with %q, got %v", tc.wantErr, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want, err := ParseConfig([]byte("a: {list: [" + tc.want + "]}"))
			if err != nil {
				t.Fatal(err)
			}
			if got, want := text(t, c), text(t, want); got != want {
				t.Errorf("got\n%sexpected\n%s", got, want)
			}
		})
	}
}

func TestUnknownProfile(t *testing.T) {
	_, err := Profile("fat")
	if err == nil || !strings.Contains(err.Error(), `"fat": expected one of full-duplex, lean`) {
		t.Errorf("got %v", err)
	}
}

// What the files of deploy/envoy promise, with everything that this package can change in them, must be accepted by
// the real Envoy.
func TestEnvoyAcceptsTheProfiles(t *testing.T) {
	binary, err := EnvoyBinary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pickers := []netip.AddrPort{loopback(19002), netip.MustParseAddrPort("[::1]:19003")}
	for _, profile := range envoy.Profiles() {
		for name, options := range map[string]EnvoyOptions{
			"as with make run": {Pickers: pickers[:1]},
			"changed": {
				Pickers: pickers, Plaintext: true, Pods: pickers, AccessLog: "/dev/null",
				Mutate: Config.RemoveExtProc,
			},
		} {
			t.Run(profile+", "+name, func(t *testing.T) {
				options.Profile, options.GatewayPort, options.AdminPort = profile, 18080, 19901
				config, err := options.config()
				if err != nil {
					t.Fatal(err)
				}
				validate(t, binary, config)
			})
		}
		t.Run(profile+", as it stands", func(t *testing.T) {
			file, err := envoy.Profile(profile)
			if err != nil {
				t.Fatal(err)
			}
			validate(t, binary, file)
		})
	}
}

func validate(t *testing.T, binary string, config []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), binary, "--mode", "validate", "-c", file).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if strings.Contains(string(out), "deprecated") {
		t.Errorf("Envoy warns of deprecated fields:\n%s", out)
	}
}

func text(t *testing.T, c Config) string {
	t.Helper()
	b, err := c.YAML()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
