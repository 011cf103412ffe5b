package plan

import (
	"cmp"
	"fmt"
	"slices"
)

// Candidate is a match that took a request, or could have.
type Candidate struct {
	Route *BoundRoute
	Rule  *BoundRule
	Match int
	Host  string // the pattern under which the route is attached
	Won   bool
	Why   string // why it did not win; empty for the winner
}

// Bounds of what Explain gives.
const (
	maxCandidates = 20 // whose path fits
	maxNear       = 5  // whose path does not
)

// Explain tells how Match came to its answer: the matches under the request's
// hosts whose path fits, in the order in which they were tried, and a few whose
// path comes near. The winner, if any, is always among them.
func (l *BoundListener) Explain(p *Plan, r *Request) []Candidate {
	tables := p.tablesOf(l)
	if tables == nil {
		return nil
	}
	r.work, r.Exhausted = 0, false // all are tried here, whatever it costs
	x := explainer{plan: p, request: r}
	var buf [maxHost + 1]byte
	w := walkHost(Host(buf[:0], r.Host))
	for i := tables.hosts.next(&w); i >= 0; i = tables.hosts.next(&w) {
		x.host, x.single = tables.hosts.pattern(i), w.single
		for _, t := range tables.tables[i].tiers {
			x.table(t.table)
		}
	}
	slices.SortStableFunc(x.near, func(a, b nearMiss) int { return cmp.Compare(b.common, a.common) })
	for _, miss := range x.near[:min(len(x.near), maxNear)] {
		x.found = append(x.found, miss.Candidate)
	}
	return x.found
}

type explainer struct {
	plan    *Plan
	request *Request
	host    string
	single  bool
	won     bool
	found   []Candidate
	near    []nearMiss
}

type nearMiss struct {
	Candidate
	common int // bytes that its path shares with the request's
}

func (x *explainer) table(t *pathTable) {
	path := x.request.Path
	exact := t.exact.findExact(path)
	if exact >= 0 {
		x.tried(t.exact.lists[exact])
	}
	for i := range t.regex {
		e := &t.regex[i]
		if e.re.Match(path) {
			x.try(&e.entry)
			continue
		}
		x.miss(&e.entry, e.literal, fmt.Sprintf("the path does not match %s", e.pattern))
	}
	fits := map[int]bool{}
	for i := t.prefix.findPrefix(path); i >= 0; i = int(t.prefix.parents[i]) {
		x.tried(t.prefix.lists[i])
		fits[i] = true
	}
	x.misses(t.exact, "the path is not exactly %s", func(i int) bool { return i == exact })
	x.misses(t.prefix, "the path does not begin with %s as whole segments", func(i int) bool { return fits[i] })
}

func (x *explainer) tried(list []entry) {
	for i := range list {
		x.try(&list[i])
	}
}

// try notes an entry whose path fits.
func (x *explainer) try(e *entry) {
	c := x.candidate(e)
	switch {
	case !e.fits(x.request, x.single):
		c.Why = x.reason(e)
	case x.won:
		c.Why = "another match goes first"
	default:
		c.Won, x.won = true, true
	}
	if c.Won || len(x.found) < maxCandidates {
		x.found = append(x.found, c)
	}
}

func (x *explainer) candidate(e *entry) Candidate {
	route := x.plan.routes[e.route]
	return Candidate{Route: route, Rule: &route.Rules[e.rule], Match: int(e.match), Host: x.host}
}

// reason says what in an entry does not fit.
func (x *explainer) reason(e *entry) string {
	if e.flags&oneLabel != 0 && !x.single {
		return fmt.Sprintf("%s stands for one label only", x.host)
	}
	if e.cond.method != "" && e.cond.method != string(x.request.Method) {
		return fmt.Sprintf("the method is not %s", e.cond.method)
	}
	for i := range e.cond.headers {
		if m := &e.cond.headers[i]; !m.fitsHeader(x.request) {
			return "header " + m.unmet()
		}
	}
	for i := range e.cond.query {
		if m := &e.cond.query[i]; !m.fitsQuery(x.request) {
			return "query parameter " + m.unmet()
		}
	}
	return ""
}

func (m *valueMatch) unmet() string {
	if m.re != nil {
		return fmt.Sprintf("%s does not match %s", m.name, m.value)
	}
	return fmt.Sprintf("%s is not %q", m.name, m.value)
}

func (x *explainer) misses(paths *pathIndex, why string, fits func(int) bool) {
	if paths == nil {
		return
	}
	for i, name := range paths.names {
		if !fits(i) {
			x.miss(&paths.lists[i][0], name, fmt.Sprintf(why, cmp.Or(name, "/")))
		}
	}
}

// miss notes an entry whose path does not fit. More than the first segment's
// slash must be common.
func (x *explainer) miss(e *entry, path, why string) {
	common := 0
	for common < len(path) && common < len(x.request.Path) && path[common] == x.request.Path[common] {
		common++
	}
	if common < 2 {
		return
	}
	c := x.candidate(e)
	c.Why = why
	x.near = append(x.near, nearMiss{c, common})
}
