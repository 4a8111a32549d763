package metrics

import (
	"bytes"
	"strings"

	"github.com/pilotfish-epp/pilotfish/pkg/runtime"
)

// filter tells the few lines of a metrics page that matter from the many that don't, at a few nanoseconds a line, so
// that only those are parsed. It never changes and is safe to share.
type filter struct {
	names [][]byte
	at    int           // the position at which the names differ most
	by    [256][][]byte // names by their byte at that position
}

func newFilter(server *runtime.Server) *filter {
	f := &filter{}
	shortest := len(server.Families[0])
	for _, name := range server.Families {
		f.names = append(f.names, []byte(name))
		shortest = min(shortest, len(name))
	}
	best := 0
	for at := range shortest {
		if n := f.distinct(at); n > best {
			best, f.at = n, at
		}
	}
	for _, name := range f.names {
		f.by[name[f.at]] = append(f.by[name[f.at]], name)
	}
	return f
}

func (f *filter) distinct(at int) int {
	var seen [256]bool
	n := 0
	for _, name := range f.names {
		if !seen[name[at]] {
			seen[name[at]] = true
			n++
		}
	}
	return n
}

// keep adds the lines of page that matter to kept. What follows the last line break is left for later: it begins at
// rest. At the page's end the caller adds the line break.
func (f *filter) keep(kept, page []byte) (all []byte, rest int) {
	for {
		n := bytes.IndexByte(page[rest:], '\n')
		if n < 0 {
			return kept, rest
		}
		if line := page[rest : rest+n+1]; f.matters(line) {
			kept = append(kept, line...)
		}
		rest += n + 1
	}
}

// matters says whether line, which ends with its line break, is a sample of a wanted family or tells its type. Help
// texts don't matter. A quoted name is rare, so it is left to the parser.
func (f *filter) matters(line []byte) bool {
	subject := skipBlanks(line)
	if subject[0] == '#' {
		var tells bool
		if subject, tells = typed(subject[1:]); !tells {
			return false
		}
	}
	return quoted(subject) || f.find(subject) != nil
}

// quoted says whether the name of the sample or type that begins with subject is in quotes.
func quoted(subject []byte) bool { return subject[0] == '{' || subject[0] == '"' }

// typed gives what follows TYPE in a comment that tells a type.
func typed(comment []byte) (subject []byte, tells bool) {
	comment, tells = bytes.CutPrefix(skipBlanks(comment), []byte("TYPE"))
	if !tells || !blank(comment[0]) {
		return nil, false
	}
	return skipBlanks(comment), true
}

// afterName are the bytes that may follow a sample's name: its labels, a blank, or its value right away, as far as that
// can't be read as more of the name.
const afterName = "{ \t+-."

// find gives the wanted name with which line begins, or nil.
func (f *filter) find(line []byte) []byte {
	if len(line) <= f.at {
		return nil
	}
	for _, name := range f.by[line[f.at]] {
		if bytes.HasPrefix(line, name) {
			if strings.IndexByte(afterName, line[len(name)]) >= 0 {
				return name
			}
		}
	}
	return nil
}

// skipBlanks drops leading blanks of a line that ends with its line break, which is never dropped.
func skipBlanks(line []byte) []byte {
	for blank(line[0]) {
		line = line[1:]
	}
	return line
}

func blank(b byte) bool { return b == ' ' || b == '\t' }
