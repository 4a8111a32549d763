package queue

import "fmt"

// inconsistency says what is wrong with the queue's structure, "" if nothing is.
func (q *Queue[V]) inconsistency() string {
	waiting, lines, own, sections, lanes := 0, 0, 0, 0, map[uint64]int{}
	for _, b := range q.order {
		if b.waiting == 0 {
			return fmt.Sprintf("priority %d is in the order though nobody waits", b.priority)
		}
		waiting += b.waiting
	}
	if waiting != q.waiting {
		return fmt.Sprintf("%d wait in the bands, %d in the queue", waiting, q.waiting)
	}
	debts := 0
	for _, b := range q.bands.records {
		if b.waiting == 0 && len(b.debts) == 0 {
			return fmt.Sprintf("priority %d is known for nothing", b.priority)
		}
		debts += len(b.debts)
		if problem := inconsistent(b.debts, func(d debt[V]) int { return int(d.flow.debtPos) }); problem != "" {
			return "debts: " + problem
		}
		if len(b.debts) > 0 && b.debts[0].round <= b.round {
			return fmt.Sprintf("a debt of round %d is known in round %d", b.debts[0].round, b.round)
		}
		if problem := inconsistent(b.hoards, func(h hoard[V]) int { return int(h.flow.hoardPos) }); problem != "" {
			return "hoards: " + problem
		}
		if problem := inconsistent(b.sections, func(s *section[V]) int { return s.pos }); problem != "" {
			return "sections: " + problem
		}
	}
	if debts != q.debts {
		return fmt.Sprintf("%d debts, counted as %d", debts, q.debts)
	}
	known := debts
	for _, b := range q.order {
		known += len(b.hoards)
	}
	if known != len(q.flows.records) {
		return fmt.Sprintf("%d flows wait or owe, %d are known", known, len(q.flows.records))
	}
	for _, f := range q.flows.records {
		lines += len(f.lines)
		if f.own.section != nil {
			own++
		}
		if (f.waiting > 0) != (f.section != nil) {
			return fmt.Sprintf("flow %q of which %d wait is filed: %v", f.name, f.waiting, f.section != nil)
		}
		if f.section != nil && (f.section != f.lines[0].section || f.mixed != (len(f.lines) > 1)) {
			return fmt.Sprintf("flow %q is filed in the wrong place", f.name)
		}
		if problem := inconsistent(f.lines, func(l *line[V]) int { return l.pos }); problem != "" {
			return "lines: " + problem
		}
		if f.waiting > 0 && (f.first != f.lines[0].items.oldest.seq || f.band.hoards[f.hoardPos].first != f.first) {
			return fmt.Sprintf("flow %q has a wrong idea of its oldest", f.name)
		}
		if f.aside != nil {
			return fmt.Sprintf("flow %q has lines aside", f.name)
		}
	}
	if lines-own != len(q.lines.records) {
		return fmt.Sprintf("flows have %d lines beside their own, %d are known", lines-own, len(q.lines.records))
	}
	for _, s := range q.sections.records {
		sections += s.lines
		lanes[s.lane.id]++
		if (s.pos >= 0) != (len(s.single)+len(s.mixed) > 0) {
			return fmt.Sprintf("section of lane %d is out of its heap", s.lane.id)
		}
		for _, flows := range []heap[turn[V]]{s.single, s.mixed} {
			if problem := inconsistent(flows, func(t turn[V]) int { return int(t.flow.pos) }); problem != "" {
				return "flows: " + problem
			}
		}
	}
	if sections != lines {
		return fmt.Sprintf("%d lines in sections, %d in flows", sections, lines)
	}
	if len(lanes) != len(q.lanes.records) {
		return fmt.Sprintf("%d lanes are used, %d are known", len(lanes), len(q.lanes.records))
	}
	for i := 1; i < len(q.ttls); i++ {
		if q.ttls[i].from <= q.ttls[i-1].from || q.ttls[i].ttl <= q.ttls[i-1].ttl {
			return fmt.Sprintf("TTLs are no rising runs: %v", q.ttls)
		}
	}
	return ""
}

func inconsistent[E ranked[E]](h heap[E], pos func(E) int) string {
	for i, e := range h {
		if pos(e) != i {
			return fmt.Sprintf("what stands at %d of %d believes to stand at %d", i, len(h), pos(e))
		}
		if i > 0 && e.before(h[(i-1)/4]) {
			return fmt.Sprintf("what stands at %d of %d goes before its parent", i, len(h))
		}
	}
	return ""
}
