package settings

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// definition is one row of the table. set parses, checks bounds and stores; on an error the Values are untouched.
type definition struct {
	name     string // environment variable, upper snake case; the flag and the annotation key are derived from it
	kind     string // what a person calls the type
	unit     string // empty where the number has none
	fallback string // the default, as text
	allowed  string // what set accepts, in words
	doc      string // one line
	hot      bool   // may change while the process runs
	specific bool   // its annotation has the specific prefix
	older    []string

	set  func(*Values, string) error
	show func(*Values) string
}

var (
	errSyntax = errors.New("not of the expected form")
	errBounds = errors.New("out of bounds")
)

// count is a whole number within lo..hi.
func count(name, unit string, fallback, lo, hi int, at func(*Values) *int, doc string) definition {
	return definition{
		name: name, kind: "integer", unit: unit, fallback: strconv.Itoa(fallback), doc: doc, hot: true,
		allowed: fmt.Sprintf("a whole number from %d to %d", lo, hi),
		set: func(v *Values, text string) error {
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return errSyntax
			}
			if n < int64(lo) || n > int64(hi) {
				return errBounds
			}
			*at(v) = int(n)
			return nil
		},
		show: func(v *Values) string { return strconv.Itoa(*at(v)) },
	}
}

// port is a TCP port; 0 asks the system for a free one.
func port(name string, fallback int, at func(*Values) *int, doc string) definition {
	d := count(name, "", fallback, 0, math.MaxUint16, at, doc)
	d.kind, d.allowed, d.hot = "port", "a port from 0 to 65535 (0 takes any free port)", false
	return d
}

// size is a number of bytes, plain or with one of the suffixes Ki, Mi, Gi.
func size(name string, fallback, lo, hi int64, at func(*Values) *int64, doc string) definition {
	return definition{
		name: name, kind: "bytes", unit: "bytes", fallback: strconv.FormatInt(fallback, 10), doc: doc, hot: true,
		allowed: fmt.Sprintf("a number of bytes from %d to %d, plain or with Ki, Mi or Gi (32Mi)", lo, hi),
		set: func(v *Values, text string) error {
			n, err := parseSize(text)
			if err != nil {
				return err
			}
			if n < lo || n > hi {
				return errBounds
			}
			*at(v) = n
			return nil
		},
		show: func(v *Values) string { return strconv.FormatInt(*at(v), 10) },
	}
}

func parseSize(text string) (int64, error) {
	shift := 0
	for i, suffix := range []string{"Ki", "Mi", "Gi"} {
		if digits, ok := strings.CutSuffix(text, suffix); ok {
			text, shift = digits, 10*(i+1)
			break
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, errSyntax
	}
	if n > math.MaxInt64>>shift || n < math.MinInt64>>shift {
		return 0, errBounds
	}
	return n << shift, nil
}

// number is a decimal number within lo..hi; NaN and infinities lie outside of every bounds.
func number(name, unit string, fallback, lo, hi float64, at func(*Values) *float64, doc string) definition {
	plain := func(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
	return definition{
		name: name, kind: "number", unit: unit, fallback: plain(fallback), doc: doc, hot: true,
		allowed: fmt.Sprintf("a number from %s to %s", plain(lo), plain(hi)),
		set: func(v *Values, text string) error {
			f, err := strconv.ParseFloat(text, 64)
			if err != nil && !errors.Is(err, strconv.ErrRange) {
				return errSyntax
			}
			if !(f >= lo && f <= hi) { // written so that NaN fails
				return errBounds
			}
			*at(v) = f
			return nil
		},
		show: func(v *Values) string { return plain(*at(v)) },
	}
}

// span is a Go duration within lo..hi.
func span(name string, fallback, lo, hi time.Duration, at func(*Values) *time.Duration, doc string) definition {
	return definition{
		name: name, kind: "duration", fallback: brief(fallback), doc: doc, hot: true,
		allowed: fmt.Sprintf("a duration with its unit from %s to %s (300ms, 1.5h, 2h45m)", brief(lo), brief(hi)),
		set: func(v *Values, text string) error {
			d, err := time.ParseDuration(text)
			if err != nil {
				return errSyntax
			}
			if d < lo || d > hi {
				return errBounds
			}
			*at(v) = d
			return nil
		},
		show: func(v *Values) string { return brief(*at(v)) },
	}
}

// brief prints a duration without the zero units that Duration.String appends: 1h, not 1h0m0s.
func brief(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// choice is one of a few words, whatever their case; the word is kept as the table spells it.
func choice(name string, words []string, at func(*Values) *string, doc string) definition {
	return definition{
		name: name, kind: "word", fallback: words[0], doc: doc, hot: true,
		allowed: "one of " + strings.Join(words, ", "),
		set: func(v *Values, text string) error {
			for _, word := range words {
				if strings.EqualFold(word, text) {
					*at(v) = word
					return nil
				}
			}
			return errSyntax
		},
		show: func(v *Values) string { return *at(v) },
	}
}

// flip is true or false, printed as on and off say.
func flip(name, on, off string, fallback bool, at func(*Values) *bool, doc string) definition {
	show := func(b bool) string {
		if b {
			return on
		}
		return off
	}
	allowed := "true or false"
	if on != "true" {
		allowed = fmt.Sprintf("%s or %s (or true, false)", on, off)
	}
	return definition{
		name: name, kind: "switch", fallback: show(fallback), doc: doc, hot: true, allowed: allowed,
		set: func(v *Values, text string) error {
			switch strings.ToLower(text) {
			case "true", "1", on:
				*at(v) = true
			case "false", "0", off:
				*at(v) = false
			default:
				return errSyntax
			}
			return nil
		},
		show: func(v *Values) string { return show(*at(v)) },
	}
}

// free is any text on one line.
func free(name, allowed string, fallback string, at func(*Values) *string, doc string) definition {
	return definition{
		name: name, kind: "text", fallback: fallback, doc: doc, hot: true, allowed: allowed,
		set: func(v *Values, text string) error {
			if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				return errSyntax
			}
			*at(v) = text
			return nil
		},
		show: func(v *Values) string { return *at(v) },
	}
}

// address is an IP address without a port, or nothing.
func address(name string, at func(*Values) *string, doc string) definition {
	d := free(name, "an IPv4 or IPv6 address, or nothing", "", at, doc)
	d.kind = "address"
	d.set = func(v *Values, text string) error {
		if text != "" {
			ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"))
			if err != nil {
				return errSyntax
			}
			text = ip.String()
		}
		*at(v) = text
		return nil
	}
	return d
}

// headerName is the name of an HTTP header, kept in lower case, or nothing.
func headerName(name string, at func(*Values) *string, doc string) definition {
	d := free(name, "the name of an HTTP header of at most 64 characters, or nothing", "", at, doc)
	d.kind = "header"
	d.set = func(v *Values, text string) error {
		const marks = "!#$%&'*+-.^_`|~" // of RFC 9110's tokens
		if len(text) > 64 || strings.ContainsFunc(text, func(r rune) bool {
			return !('a' <= r|0x20 && r|0x20 <= 'z' || '0' <= r && r <= '9' || strings.ContainsRune(marks, r))
		}) {
			return errSyntax
		}
		*at(v) = strings.ToLower(text)
		return nil
	}
	return d
}

// process marks a setting that is read once, at start.
func process(d definition) definition {
	d.hot = false
	return d
}

// formerly adds names under which the setting is still read.
func formerly(d definition, names ...string) definition {
	d.older = names
	return d
}

// specifically marks a setting whose annotation has the specific prefix.
func specifically(d definition) definition {
	d.specific = true
	return d
}
