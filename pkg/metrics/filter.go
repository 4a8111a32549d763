package metrics

import (
	"bytes"
	"slices"

	"github.com/pilotfish-epp/pilotfish/pkg/runtime"
)

// filter tells the few lines of a metrics page that matter from the many that don't, at a few nanoseconds a line, so
// that only those are parsed. It never changes and is safe to share.
type filter struct {
	names  [][]byte
	steady []bool     // whether the family of that name says the same on nearly every page
	at     int        // the position at which the names differ most
	by     [256][]int // names by their byte at that position
}

// lines are what a filter kept of a page.
type lines struct {
	all            []byte // in their order
	steady, moving []byte // the same lines, by kind
	odd            bool   // some lines can't be told to be of either kind
}

func (l *lines) reset() { *l = lines{all: l.all[:0], steady: l.steady[:0], moving: l.moving[:0]} }

func newFilter(server *runtime.Server) *filter {
	f := &filter{}
	shortest := len(server.Families[0])
	for _, name := range server.Families {
		f.names = append(f.names, []byte(name))
		f.steady = append(f.steady, slices.Contains(server.Steady, name))
		shortest = min(shortest, len(name))
	}
	best := 0
	for at := range shortest {
		if n := f.distinct(at); n > best {
			best, f.at = n, at
		}
	}
	for i, name := range f.names {
		f.by[name[f.at]] = append(f.by[name[f.at]], i)
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

// keep adds the lines of page that matter to l. What follows the last line break is left for later: it begins at rest.
// At the page's end the caller adds the line break.
func (f *filter) keep(l *lines, page []byte) (rest int) {
	for {
		n := bytes.IndexByte(page[rest:], '\n')
		if n < 0 {
			return rest
		}
		f.take(l, page[rest:rest+n+1])
		rest += n + 1
	}
}

// take adds line, which ends with its line break, if it is a sample of a wanted family or tells its type. Help texts
// don't matter.
func (f *filter) take(l *lines, line []byte) {
	subject := skipBlanks(line)
	if subject[0] == '#' {
		var tells bool
		if subject, tells = typed(subject[1:]); !tells {
			return
		}
	}
	if subject[0] == '{' || subject[0] == '"' { // a quoted name; rare, so it is left to the parser
		l.odd = true
		l.all = append(l.all, line...)
		return
	}
	name := f.find(subject)
	if name < 0 {
		return
	}
	l.all = append(l.all, line...)
	if f.steady[name] {
		l.steady = append(l.steady, line...)
	} else {
		l.moving = append(l.moving, line...)
	}
}

// typed gives what follows TYPE in a comment that tells a type.
func typed(comment []byte) (subject []byte, tells bool) {
	comment, tells = bytes.CutPrefix(skipBlanks(comment), []byte("TYPE"))
	if !tells || !blank(comment[0]) {
		return nil, false
	}
	return skipBlanks(comment), true
}

// find gives the wanted name with which line begins, or -1.
func (f *filter) find(line []byte) int {
	if len(line) <= f.at {
		return -1
	}
	for _, i := range f.by[line[f.at]] {
		if name := f.names[i]; bytes.HasPrefix(line, name) {
			if after := line[len(name)]; after == '{' || blank(after) {
				return i
			}
		}
	}
	return -1
}

// skipBlanks drops leading blanks of a line that ends with its line break, which is never dropped.
func skipBlanks(line []byte) []byte {
	for blank(line[0]) {
		line = line[1:]
	}
	return line
}

func blank(b byte) bool { return b == ' ' || b == '\t' }
