package plan

import (
	"cmp"
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"
)

// Probe is a sample request. Comparing where probes land in two plans tells how
// behaviour differs between them.
type Probe struct {
	Socket  string   `json:"socket"` // key's name of the socket it comes in on
	Host    string   `json:"host,omitempty"`
	Method  string   `json:"method"`
	Path    string   `json:"path"`
	Query   string   `json:"query,omitempty"`
	Headers []Header `json:"headers,omitempty"` // names in lower case
}

// String is the probe as a person would write it: GET HOST/PATH?QUERY, then the
// headers.
func (q Probe) String() string {
	var s strings.Builder
	s.WriteString(q.Method + " " + q.Host + q.Path)
	if q.Query != "" {
		s.WriteString("?" + q.Query)
	}
	for _, h := range q.Headers {
		s.WriteString(" " + h.Name + ":" + h.Value)
	}
	return s.String()
}

// Request is the probe as Match takes it.
func (q Probe) Request() (*Request, error) {
	path, err := Normalize(nil, []byte(q.Path))
	if err != nil {
		return nil, err
	}
	return &Request{
		Method: []byte(q.Method), Host: []byte(q.Host), Path: path, Query: []byte(q.Query),
		Header: func(name string) ([]byte, bool) {
			var values []string
			for _, h := range q.Headers {
				if strings.EqualFold(h.Name, name) {
					values = append(values, h.Value)
				}
			}
			return []byte(strings.Join(values, ",")), len(values) > 0
		},
	}, nil
}

// The parts of made-up requests that stand for "anything".
const (
	anyHost    = "windrose-probe.invalid"
	anyLabel   = "windrose-probe"
	anySegment = "/windrose-probe"
)

// Probes gives sample requests for every match of the plan: one that it takes,
// one below its prefix, and each without the conditions beside the path.
// Together with those of another plan they show where the two differ.
func (p *Plan) Probes() []Probe {
	var all []Probe
	for _, bound := range p.sockets {
		for _, l := range bound.listeners {
			all = append(all, Probe{Socket: bound.Name, Host: sampleHost(l.Hostname), Method: "GET", Path: "/"})
			tables := p.tablesOf(l)
			if tables == nil {
				continue
			}
			for i := range tables.tables {
				base := Probe{Socket: bound.Name, Host: sampleHost(tables.hosts.pattern(i)), Method: "GET"}
				for _, t := range tables.tables[i].tiers {
					all = t.table.probes(all, base)
				}
			}
		}
	}
	slices.SortFunc(all, compareProbes)
	return slices.CompactFunc(all, func(a, b Probe) bool { return compareProbes(a, b) == 0 })
}

func compareProbes(a, b Probe) int {
	return cmp.Or(
		strings.Compare(a.Socket, b.Socket), strings.Compare(a.Host, b.Host), strings.Compare(a.Path, b.Path),
		strings.Compare(a.Method, b.Method), strings.Compare(a.Query, b.Query),
		slices.CompareFunc(a.Headers, b.Headers, func(x, y Header) int {
			return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.Value, y.Value))
		}),
	)
}

func sampleHost(pattern string) string {
	switch {
	case pattern == "":
		return anyHost
	case pattern[0] == '*':
		return anyLabel + pattern[1:]
	}
	return pattern
}

func (t *pathTable) probes(all []Probe, base Probe) []Probe {
	if t.exact != nil {
		for i, path := range t.exact.names {
			all = appendProbes(all, base, t.exact.lists[i], path)
		}
	}
	for i := range t.regex {
		all = appendProbes(all, base, []entry{t.regex[i].entry}, sampleRegex(t.regex[i].pattern))
	}
	if t.prefix != nil {
		for i, path := range t.prefix.names {
			all = appendProbes(all, base, t.prefix.lists[i], cmp.Or(path, "/"), path+anySegment)
		}
	}
	return all
}

func appendProbes(all []Probe, base Probe, list []entry, paths ...string) []Probe {
	for _, path := range paths {
		base.Path = path
		all = append(all, base)
		for i := range list {
			if list[i].cond != nil {
				all = append(all, list[i].cond.probe(base))
			}
		}
	}
	return all
}

// probe makes a request that meets the condition.
func (c *condition) probe(q Probe) Probe {
	q.Method = cmp.Or(c.method, q.Method)
	for i := range c.headers {
		q.Headers = append(q.Headers, Header{c.headers[i].name, c.headers[i].sample()})
	}
	for i := range c.query {
		if i > 0 {
			q.Query += "&"
		}
		q.Query += escapeQuery(c.query[i].name) + "=" + escapeQuery(c.query[i].sample())
	}
	return q
}

func (m *valueMatch) sample() string {
	if m.re != nil {
		return sampleRegex(m.value)
	}
	return m.value
}

func escapeQuery(s string) string {
	var out []byte
	for i := range len(s) {
		if pathBytes[s[i]] == byteUnreserved {
			out = append(out, s[i])
			continue
		}
		out = appendEncoded(out, s[i])
	}
	return string(out)
}

// sampleRegex is a short text that an expression matches, as far as that can be
// told without searching: word boundaries and the like are not looked at.
func sampleRegex(pattern string) string {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return ""
	}
	return string(appendSample(nil, re.Simplify()))
}

func appendSample(dst []rune, re *syntax.Regexp) []rune {
	switch re.Op {
	case syntax.OpLiteral:
		return append(dst, re.Rune...)
	case syntax.OpCharClass:
		return append(dst, sampleRune(re.Rune))
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return append(dst, 'x')
	case syntax.OpCapture, syntax.OpPlus, syntax.OpConcat:
		for _, sub := range re.Sub {
			dst = appendSample(dst, sub)
		}
	case syntax.OpAlternate:
		return appendSample(dst, re.Sub[0])
	}
	return dst
}

// sampleRune takes a letter or digit of a class if it has one.
func sampleRune(ranges []rune) rune {
	for _, want := range "a0A-" {
		for i := 0; i+1 < len(ranges); i += 2 {
			if ranges[i] <= want && want <= ranges[i+1] {
				return want
			}
		}
	}
	if len(ranges) == 0 {
		return 'x'
	}
	return ranges[0]
}

// Land tells in words where a probe lands:
//
//	HTTPRoute default/shop rule 0 -> default/v1:80 99, default/v2:80 1
//	HTTPRoute default/old rule 0 -> redirect 301 https://shop.example/
//	404 no rule
//
// What filters and timeouts do is in brackets before the arrow.
func (p *Plan) Land(q Probe) string {
	bound := p.Bound(q.Socket)
	if bound == nil {
		return "no socket " + q.Socket
	}
	l := bound.Listener([]byte(q.Host))
	if l == nil {
		return "404 no listener"
	}
	r, err := q.Request()
	if err != nil {
		return "400 " + err.Error()
	}
	if l.Broken != nil {
		return fmt.Sprintf("%d %s", l.Broken.Status, l.Broken.Reason)
	}
	var asked strings.Builder
	for _, a := range l.Auths {
		asked.WriteString("[" + a.String() + "] ")
	}
	hit, ok := l.match(p, r)
	if !ok {
		return asked.String() + "404 no rule"
	}
	kind, object, _ := strings.Cut(hit.Route.Name, "/")
	s := fmt.Sprintf("%s%s %s rule %d", asked.String(), kind, object, hit.Rule.Index)
	if hit.Rule.Name != "" {
		s += " (" + hit.Rule.Name + ")"
	}
	if does := p.effects(hit.Rule.Filters, &hit, r); does != "" {
		s += " [" + does + "]"
	}
	s += timeouts(hit.Rule.Timeouts)
	if session := hit.Rule.Session; session != nil {
		s += " [session by " + session.String() + "]"
	}
	return s + " -> " + p.outcome(bound, &hit, r)
}

func timeouts(t Timeouts) string {
	s := ""
	if t.Request > 0 {
		s += fmt.Sprintf(" [timeout %v]", t.Request)
	}
	if t.Backend > 0 {
		s += fmt.Sprintf(" [backend timeout %v]", t.Backend)
	}
	return s
}

// outcome is what becomes of a request that a rule took.
func (p *Plan) outcome(bound *Bound, hit *Hit, r *Request) string {
	rule := hit.Rule
	if rule.Broken != nil {
		return fmt.Sprintf("%d %s", rule.Broken.Status, rule.Broken.Reason)
	}
	for i := range rule.Filters {
		if to := rule.Filters[i].Redirect; to != nil {
			from := Target{Scheme: "http", Host: r.Host, Port: bound.Addr.Port(), Path: r.Path, Query: r.Query, Prefix: hit.Prefix}
			if bound.TLS {
				from.Scheme = "https"
			}
			return fmt.Sprintf("redirect %d %s", to.Status, AppendLocation(nil, to, &from))
		}
	}
	if rule.total == 0 {
		return "500 no backend"
	}
	var shares []string
	for i := range rule.Backends {
		if b := &rule.Backends[i]; b.share > 0 {
			shares = append(shares, p.share(b, hit, r, len(rule.Backends) > 1))
		}
	}
	return strings.Join(shares, ", ")
}

func (p *Plan) share(b *BoundBackend, hit *Hit, r *Request, weighed bool) string {
	s := b.ServiceName
	if b.Broken != nil {
		s = fmt.Sprintf("%d %s", b.Broken.Status, b.Broken.Reason)
	} else if service := p.Service(b.Service); service != nil && len(service.Endpoints) == 0 && service.Hostname == "" {
		s += " (no endpoint)"
	}
	if weighed {
		s += fmt.Sprintf(" %d", b.Weight)
	}
	if service := p.Service(b.Service); service != nil && hit.Rule.Session == nil && service.Session != nil {
		s += " [session by " + service.Session.String() + "]"
	}
	if does := p.effects(b.Steps, hit, r); does != "" {
		s += " [" + does + "]"
	}
	return s
}

// effects is what steps do to a request and its answer.
func (p *Plan) effects(steps []Step, hit *Hit, r *Request) string {
	var list []string
	for i := range steps {
		switch step := &steps[i]; step.Kind {
		case StepRequestHeaders:
			list = append(list, "request "+editText(step.Headers))
		case StepResponseHeaders:
			list = append(list, "response "+editText(step.Headers))
		case StepRewrite:
			if step.Rewrite.Host != "" {
				list = append(list, "host "+step.Rewrite.Host)
			}
			if step.Rewrite.Path != nil {
				list = append(list, "path "+string(AppendPath(nil, r.Path, step.Rewrite.Path, hit.Prefix)))
			}
		case StepCORS:
			list = append(list, "CORS")
		case StepMirror:
			list = append(list, "mirror to "+step.Mirror.ServiceName)
		case StepAuth:
			list = append(list, step.Auth.String())
		case StepRedirect:
		}
	}
	return strings.Join(list, "; ")
}

func editText(e *HeaderEdit) string {
	var list []string
	for _, h := range e.Set {
		list = append(list, "set "+h.Name+"="+h.Value)
	}
	for _, h := range e.Add {
		list = append(list, "add "+h.Name+"="+h.Value)
	}
	for _, name := range e.Remove {
		list = append(list, "remove "+name)
	}
	return strings.Join(list, ", ")
}
