package plan

import (
	"bytes"
	"regexp"
)

// Request is what matching looks at. The owner may use one Request for many
// requests, one after the other; that keeps its scratch space.
type Request struct {
	Method []byte
	Host   []byte // as sent: any case, may carry a port
	Path   []byte // normalised, see Normalize
	Query  []byte // without the question mark; as sent
	// Header gives the value of a field by its name in lower case. The values
	// of a repeated field are joined by a comma, in order (RFC 9110, 5.3). Nil
	// means that there are no fields.
	Header func(name string) ([]byte, bool)

	// Exhausted says of the last match that the regular expressions which had to be
	// tried came to more than one request may cost: it found nothing.
	Exhausted bool

	work    int    // of regular expressions: their steps times the bytes they looked at
	scratch []byte // for values that must be decoded
}

// maxWork bounds the work of one request's regular expressions, which hold up
// all others of a loop: some tens of milliseconds.
const maxWork = 4 << 20

// affords says whether the request may have an expression look at so many bytes.
func (r *Request) affords(steps, bytes int) bool {
	if r.work += steps * bytes; r.work > maxWork {
		r.Exhausted = true
	}
	return !r.Exhausted
}

// Hit is the rule that takes a request.
type Hit struct {
	Route *BoundRoute
	Rule  *BoundRule
	Match int // which of the rule's matches
	// Prefix is how much of the path the match took: what replaces the prefix
	// in a rewrite replaces so many bytes. It never ends in a slash. An exact
	// path or a regular expression takes all of the path.
	Prefix int
}

// A condition is what a match asks besides the path.
type condition struct {
	method  string
	headers []valueMatch
	query   []valueMatch
}

type valueMatch struct {
	name  string
	value string
	re    *regexp.Regexp // instead of value, if not nil
	steps int            // of re
}

// Match finds the rule that takes a request, among the routes that are attached
// to the listener. Hosts are tried from the most specific to the least; if no
// rule of one takes the request, the next is tried, since Gateway API asks for
// precedence between hosts and not for isolation. It allocates nothing.
//
// A listener that carries bytes or datagrams takes no request: on a socket that
// it shares with HTTPS, a Host header must not lead to its services.
func (l *BoundListener) Match(p *Plan, r *Request) (Hit, bool) {
	if l.Protocol != HTTP && l.Protocol != HTTPS {
		return Hit{}, false
	}
	return l.match(p, r)
}

// Stream finds the rule that takes a connection of a TLS or TCP listener, or a
// flow of a UDP listener. The server name is empty where there is none. It
// allocates nothing.
func (l *BoundListener) Stream(p *Plan, serverName []byte) (Hit, bool) {
	return l.match(p, &Request{Host: serverName, Path: rootPath[:]})
}

// rootPath is never written to. It is here because a regular expression keeps
// what it is given, as far as the compiler can tell.
var rootPath = [1]byte{'/'}

func (l *BoundListener) match(p *Plan, r *Request) (Hit, bool) {
	r.work, r.Exhausted = 0, false
	tables := p.tablesOf(l)
	if tables == nil {
		return Hit{}, false
	}
	var buf [maxHost + 1]byte
	w := walkHost(Host(buf[:0], r.Host))
	for i := tables.hosts.next(&w); i >= 0; i = tables.hosts.next(&w) {
		for _, t := range tables.tables[i].tiers {
			if e, prefix, ok := t.table.match(r, w.single); ok {
				route := p.routes[e.route]
				return Hit{Route: route, Rule: &route.Rules[e.rule], Match: int(e.match), Prefix: prefix}, true
			}
		}
	}
	return Hit{}, false
}

// tablesOf is what is attached to a listener, also if the listener is of an
// older plan; nil if this plan does not have it any more.
func (p *Plan) tablesOf(l *BoundListener) *hostTables {
	if l.Index >= len(p.hosts) {
		return nil
	}
	tables := p.hosts[l.Index]
	if tables == nil || tables.listener != l.Name {
		return nil
	}
	return tables
}

// match finds the first entry that takes the request. Single says that a
// wildcard host stands for one label.
func (t *pathTable) match(r *Request, single bool) (entry, int, bool) {
	if i := t.exact.findExact(r.Path); i >= 0 {
		if e := firstFit(t.exact.lists[i], r, single); e != nil {
			return *e, len(r.Path), true
		}
	}
	for i := range t.regex {
		e := &t.regex[i]
		if !e.fits(r, single) || !hasPrefix(r.Path, e.literal) {
			continue
		}
		if r.affords(e.steps, len(r.Path)) && e.re.Match(r.Path) {
			return e.entry, len(r.Path), true
		}
	}
	for i := t.prefix.findPrefix(r.Path); i >= 0; i = int(t.prefix.parents[i]) {
		if e := firstFit(t.prefix.lists[i], r, single); e != nil {
			return *e, len(t.prefix.names[i]), true
		}
	}
	return entry{}, 0, false
}

func firstFit(list []entry, r *Request, single bool) *entry {
	for i := range list {
		if list[i].fits(r, single) && !r.Exhausted {
			return &list[i]
		}
	}
	return nil
}

func (e *entry) fits(r *Request, single bool) bool {
	if e.flags&oneLabel != 0 && !single {
		return false
	}
	return e.cond == nil || e.cond.fits(r)
}

func (c *condition) fits(r *Request) bool {
	if c.method != "" && c.method != string(r.Method) {
		return false
	}
	for i := range c.headers {
		if !c.headers[i].fitsHeader(r) {
			return false
		}
	}
	for i := range c.query {
		if !c.query[i].fitsQuery(r) {
			return false
		}
	}
	return true
}

func (m *valueMatch) fitsHeader(r *Request) bool {
	if r.Header == nil {
		return false
	}
	value, ok := r.Header(m.name)
	return ok && m.fits(r, value)
}

func (m *valueMatch) fits(r *Request, value []byte) bool {
	if m.re != nil {
		return r.affords(m.steps, len(value)) && m.re.Match(value)
	}
	return m.value == string(value)
}

// fitsQuery compares the first parameter of the name. Names and values are
// decoded as forms are: %XX, and "+" for a space; what is not valid encoding
// stays as it is.
func (m *valueMatch) fitsQuery(r *Request) bool {
	for rest := r.Query; len(rest) > 0; {
		var pair []byte
		pair, rest = cutByte(rest, '&')
		name, value := cutByte(pair, '=')
		if string(r.decode(name)) == m.name {
			return m.fits(r, r.decode(value))
		}
	}
	return false
}

// decode is the decoded form of a name or value, valid until the next call.
func (r *Request) decode(s []byte) []byte {
	if bytes.IndexByte(s, '%') < 0 && bytes.IndexByte(s, '+') < 0 {
		return s
	}
	out := r.scratch[:0]
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '+':
			out = append(out, ' ')
		case c == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			out = append(out, unhex(s[i+1])<<4|unhex(s[i+2]))
			i += 2
		default:
			out = append(out, c)
		}
	}
	r.scratch = out
	return out
}

// cutByte splits s at the first sep. Unlike bytes.Cut it gives nil after it if
// there is none.
func cutByte(s []byte, sep byte) (before, after []byte) {
	if i := bytes.IndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:]
	}
	return s, nil
}

func hasPrefix(s []byte, prefix string) bool {
	return len(s) >= len(prefix) && string(s[:len(prefix)]) == prefix
}
