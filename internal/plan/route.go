package plan

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// BoundRoute is a route as it serves.
type BoundRoute struct {
	Name  string // of the Route's key: KIND/NAMESPACE/NAME
	Index int    // dense, stable while the key lives
	Rules []BoundRule

	part  *Route
	shape *shape
}

// BoundRule is a rule as it serves.
type BoundRule struct {
	Index     int    // in its route
	Name      string // as the user named it; may be empty
	RouteName string
	GRPC      bool // wants a fault told as a gRPC status
	// Slot is dense and belongs to the route's key and Index as long as both
	// live: counters and the position of the split are kept under it.
	Slot     int
	Filters  []Step
	CORS     *BoundCORS // that of Filters, if there is one
	Asks     bool       // there is a StepAuth among Filters
	Backends []BoundBackend
	Timeouts Timeouts
	Retry    *Retry
	Session  *Session
	Broken   *Broken // if set, every request is this fault

	total uint64 // of the backends' shares
}

// BoundBackend is where a share of a rule's requests goes.
type BoundBackend struct {
	Service     int // slot; -1 if none is named
	ServiceName string
	Weight      int32
	Steps       []Step
	Asks        bool    // there is a StepAuth among Steps
	Broken      *Broken // if set, its share of the requests is this fault

	share uint64
}

// Route is the part that the route was made of.
func (r *BoundRoute) Route() *Route { return r.part }

// A shape is what decides which requests a route takes: it is shared between
// the versions of a route that differ only in what becomes of its requests.
type shape struct {
	matches []boundMatch
	bad     []Problem // matches that can take nothing
}

type boundMatch struct {
	kind    pathKind
	slashed bool // a prefix written with a slash at its end
	rule    uint16
	match   uint16
	path    string // normalised; of a prefix without the slash at its end; or the pattern
	cond    *condition
	regex   *pathRegex
}

// pathKind is PathType in one byte.
type pathKind uint8

const (
	exactPath pathKind = iota + 1
	prefixPath
	regexPath
)

type pathRegex struct {
	re      *regexp.Regexp
	steps   int    // of re
	literal string // every match begins with it
	pattern string // as written
}

// maxRules bounds the rules of a route and the matches of a rule. Gateway API
// allows 16 and 64; an Ingress can have more.
const maxRules = 1<<16 - 1

func sameShape(a, b *Route) bool {
	return a.Created == b.Created && slices.Equal(a.Attach, b.Attach) &&
		slices.EqualFunc(a.Rules, b.Rules, func(x, y Rule) bool {
			return slices.EqualFunc(x.Matches, y.Matches, sameMatch)
		})
}

func sameMatch(a, b Match) bool {
	return a.PathType == b.PathType && a.Path == b.Path && a.Method == b.Method &&
		slices.Equal(a.Headers, b.Headers) && slices.Equal(a.Query, b.Query)
}

// newShape compiles the matches of a route. A match that can take nothing, as
// one with a regular expression that does not compile, is left out and
// reported.
func newShape(key Key, part *Route) *shape {
	s := &shape{}
	n := 0
	for i := range part.Rules {
		n += len(part.Rules[i].Matches)
	}
	s.matches = make([]boundMatch, 0, n)
	for i := range part.Rules {
		for j := range part.Rules[i].Matches {
			if i > maxRules || j > maxRules {
				s.bad = append(s.bad, Problem{Key: key, Reason: PartInvalid, Message: fmt.Sprintf("rule %d has too many matches, or the route too many rules", i)})
				return s
			}
			m, err := compileMatch(&part.Rules[i].Matches[j])
			if err != nil {
				s.bad = append(s.bad, Problem{Key: key, Reason: PartInvalid, Message: fmt.Sprintf("rule %d, match %d takes no request: %v", i, j, err)})
				continue
			}
			m.rule, m.match = uint16(i), uint16(j)
			s.matches = append(s.matches, m)
		}
	}
	return s
}

func compileMatch(m *Match) (boundMatch, error) {
	out := boundMatch{}
	switch m.PathType {
	case PathRegex:
		re, steps, err := compileRegex(m.Path)
		if err != nil {
			return out, fmt.Errorf("path: %w", err)
		}
		out.kind, out.path = regexPath, m.Path
		out.regex = &pathRegex{re: re, steps: steps, literal: literalOf(m.Path), pattern: m.Path}
	case PathExact, PathPrefix:
		path, err := Normalize(nil, []byte(m.Path))
		if err != nil {
			return out, fmt.Errorf("path %q: %w", m.Path, err)
		}
		out.path = m.Path
		if string(path) != m.Path {
			out.path = string(path)
		}
		out.kind = exactPath
		if m.PathType == PathPrefix {
			out.kind = prefixPath
			name := prefixName(out.path)
			out.slashed = name != out.path
			out.path = name
		}
	default:
		return out, fmt.Errorf("path type %q is not known", m.PathType)
	}
	var err error
	out.cond, err = compileCondition(m)
	return out, err
}

func compileCondition(m *Match) (*condition, error) {
	if m.Method == "" && len(m.Headers) == 0 && len(m.Query) == 0 {
		return nil, nil
	}
	headers, err := compileValues(m.Headers)
	if err != nil {
		return nil, fmt.Errorf("header %w", err)
	}
	query, err := compileValues(m.Query)
	if err != nil {
		return nil, fmt.Errorf("query parameter %w", err)
	}
	return &condition{method: m.Method, headers: headers, query: query}, nil
}

func compileValues(list []NameMatch) ([]valueMatch, error) {
	if len(list) == 0 {
		return nil, nil
	}
	out := make([]valueMatch, len(list))
	for i, m := range list {
		out[i] = valueMatch{name: m.Name, value: m.Value}
		if !m.Regex {
			continue
		}
		re, steps, err := compileRegex(m.Value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Name, err)
		}
		out[i].re, out[i].steps = re, steps
	}
	return out, nil
}

// compileRegex compiles an expression that must take all of its input, and says
// how many steps it has.
func compileRegex(pattern string) (*regexp.Regexp, int, error) {
	// Alone first: "a)(b" must not close the group below.
	if _, err := regexp.Compile(pattern); err != nil {
		return nil, 0, err
	}
	pattern = `\A(?:` + pattern + `)\z`
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, 0, err
	}
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, 0, err
	}
	prog, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, 0, err
	}
	return re, len(prog.Inst), nil
}

// literalOf is what every match of an anchored pattern begins with.
func literalOf(pattern string) string {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return ""
	}
	literal, _ := re.LiteralPrefix()
	// An anchor in front hides the literal behind it, unless it is repeated.
	if rest, ok := strings.CutPrefix(pattern, "^"); ok && rest != "" && !strings.ContainsRune("*+?{", rune(rest[0])) {
		return literalOf(rest)
	}
	return literal
}

// compileRules makes the rules of a route. Slots are given to the rules from
// the old version on, so that a rule keeps its own.
func (b *Builder) compileRules(route *BoundRoute, old *BoundRoute) {
	part := route.part
	route.Rules = make([]BoundRule, min(len(part.Rules), maxRules+1))
	for i := range route.Rules {
		from := &part.Rules[i]
		rule := BoundRule{
			Index: i, Name: from.Name, RouteName: route.Name, GRPC: from.GRPC,
			Timeouts: from.Timeouts, Retry: from.Retry, Broken: from.Broken, Session: from.Session.usable(),
		}
		if old != nil && i < len(old.Rules) {
			rule.Slot = old.Rules[i].Slot
		} else {
			rule.Slot = b.ruleSlots.take()
		}
		var ok bool
		if rule.Filters, ok = compileSteps(from.Filters); !ok && rule.Broken == nil {
			rule.Broken = &Broken{Status: 500, Reason: fmt.Sprintf("%s rule %d has a filter that this windrose does not know or must not carry out", route.Name, i)}
		}
		b.bindSteps(rule.Filters)
		rule.Asks = asks(rule.Filters)
		for i := range rule.Filters {
			if rule.Filters[i].Kind == StepCORS {
				rule.CORS = rule.Filters[i].CORS
			}
		}
		if len(from.Backends) > 0 {
			rule.Backends = make([]BoundBackend, len(from.Backends))
		}
		for j := range from.Backends {
			rule.Backends[j] = b.compileBackend(&rule, &from.Backends[j])
		}
		rule.setShares()
		route.Rules[i] = rule
	}
}

func (b *Builder) compileBackend(rule *BoundRule, from *Backend) BoundBackend {
	out := BoundBackend{Service: -1, ServiceName: from.Service, Weight: from.Weight, Broken: from.Broken}
	if from.Service != "" {
		out.Service = b.services.at[from.Service]
		if b.plan.services[out.Service] == nil && out.Broken == nil {
			out.Broken = &Broken{Status: 500, Reason: fmt.Sprintf("service %s of %s rule %d does not exist", from.Service, rule.RouteName, rule.Index)}
		}
	} else if out.Broken == nil {
		out.Broken = &Broken{Status: 500, Reason: fmt.Sprintf("a backend of %s rule %d names no service", rule.RouteName, rule.Index)}
	}
	var ok bool
	if out.Steps, ok = compileSteps(from.Filters); ok {
		b.bindSteps(out.Steps)
		out.Asks = asks(out.Steps)
		// A preflight is answered before a backend is picked.
		ok = !slices.ContainsFunc(out.Steps, func(s Step) bool { return s.Kind == StepCORS })
	}
	if !ok && out.Broken == nil {
		out.Broken = &Broken{Status: 500, Reason: fmt.Sprintf("a backend of %s rule %d has a filter that this windrose does not know or must not carry out", rule.RouteName, rule.Index)}
	}
	return out
}
