package plan

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// naive is the rule that takes a request, found by looking at everything: the
// text of the API as code, to compare the tables with.
func naive(parts []Part, r *Request) string {
	type candidate struct {
		host, original string
		part           *Part
		rule, match    int
		m              *Match
	}
	var fit []candidate
	host, _, _ := strings.Cut(strings.ToLower(string(r.Host)), ":")
	host = strings.TrimSuffix(host, ".")
	for i := range parts {
		if parts[i].Route == nil {
			continue
		}
		for _, at := range parts[i].Route.Attach {
			if !naiveHost(at, host) {
				continue
			}
			for j := range parts[i].Route.Rules {
				for k := range parts[i].Route.Rules[j].Matches {
					if m := &parts[i].Route.Rules[j].Matches[k]; naiveMatch(m, r) {
						fit = append(fit, candidate{at.Host, at.Original, &parts[i], j, k, m})
					}
				}
			}
		}
	}
	if len(fit) == 0 {
		return "none"
	}
	best := slices.MinFunc(fit, func(a, b candidate) int {
		rank := map[PathType]int{PathExact: 0, PathRegex: 1, PathPrefix: 2}
		method := func(m *Match) int { return min(len(m.Method), 1) }
		return cmp.Or(
			naiveSpecific(a.host, b.host), naiveSpecific(a.original, b.original),
			cmp.Compare(rank[a.m.PathType], rank[b.m.PathType]),
			cmp.Compare(len(b.m.Path), len(a.m.Path)),
			cmp.Compare(method(b.m), method(a.m)),
			cmp.Compare(len(b.m.Headers), len(a.m.Headers)),
			cmp.Compare(len(b.m.Query), len(a.m.Query)),
			cmp.Compare(a.part.Route.Created, b.part.Route.Created),
			strings.Compare(a.part.Key.Name, b.part.Key.Name),
			cmp.Compare(a.rule, b.rule), cmp.Compare(a.match, b.match),
		)
	})
	return fmt.Sprintf("%s %d", strings.TrimPrefix(best.part.Key.Name, "HTTPRoute/default/"), best.rule)
}

// naiveSpecific: exact names first, then the longer.
func naiveSpecific(a, b string) int {
	class := func(h string) int {
		switch {
		case h == "":
			return 2
		case h[0] == '*':
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(class(a), class(b)), cmp.Compare(len(b), len(a)))
}

func naiveHost(at Attachment, host string) bool {
	suffix, wild := strings.CutPrefix(at.Host, "*")
	if !wild {
		return at.Host == "" || at.Host == host
	}
	label, ok := strings.CutSuffix(host, suffix)
	return ok && label != "" && (!at.OneLabel || !strings.Contains(label, "."))
}

func naiveMatch(m *Match, r *Request) bool {
	path := string(r.Path)
	switch m.PathType {
	case PathExact:
		if path != m.Path {
			return false
		}
	case PathPrefix:
		if !strings.HasPrefix(path+"/", strings.TrimSuffix(m.Path, "/")+"/") {
			return false
		}
	case PathRegex:
		if !regexp.MustCompile("^(?:" + m.Path + ")$").MatchString(path) {
			return false
		}
	}
	if m.Method != "" && m.Method != string(r.Method) {
		return false
	}
	for _, h := range m.Headers {
		if v, ok := r.Header(h.Name); !ok || string(v) != h.Value {
			return false
		}
	}
	query, _ := url.ParseQuery(string(r.Query))
	for _, q := range m.Query {
		if v, ok := query[q.Name]; !ok || v[0] != q.Value {
			return false
		}
	}
	return true
}

// The words of random routes and requests: few, so that they meet.
var (
	randomHosts   = []string{"", "a.example", "b.example", "*.example", "*.a.example", "x.a.example", "*.test"}
	randomPaths   = []string{"/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/ab", "/b", "/b/a", "/a/b/c/d/e", "/c", "/d", "/e", "/f/g"}
	randomRegexes = []string{"/a.*", "/[ab]/.*", "/(a|b)", "^/a/b$", "/.*/c", "/a/b/c|/b", ".*"}
)

func pick(r *rand.Rand, list []string) string { return list[r.IntN(len(list))] }

func randomMatch(r *rand.Rand) Match {
	m := Match{PathType: PathPrefix, Path: pick(r, randomPaths)}
	switch r.IntN(6) {
	case 0, 1:
		m.PathType = PathExact
	case 2:
		m.PathType, m.Path = PathRegex, pick(r, randomRegexes)
	}
	if r.IntN(4) == 0 {
		m.Method = pick(r, []string{"GET", "POST"})
	}
	for _, name := range []string{"x", "y"} {
		if r.IntN(6) == 0 {
			m.Headers = append(m.Headers, NameMatch{Name: name, Value: pick(r, []string{"1", "2"})})
		}
		if r.IntN(8) == 0 {
			m.Query = append(m.Query, NameMatch{Name: name, Value: pick(r, []string{"1", "2"})})
		}
	}
	return m
}

func randomRoute(r *rand.Rand, name string) Part {
	route := &Route{Created: int64(r.IntN(3))}
	for range 1 + r.IntN(2) {
		host := pick(r, randomHosts)
		at := Attachment{Listener: testListener, Host: host, Original: host, OneLabel: r.IntN(4) == 0}
		if host != "" && r.IntN(3) == 0 {
			at.Original = pick(r, []string{"", "*.example", host})
		}
		route.Attach = append(route.Attach, at)
	}
	for range 1 + r.IntN(3) {
		rule := Rule{}
		for range 1 + r.IntN(2) {
			rule.Matches = append(rule.Matches, randomMatch(r))
		}
		route.Rules = append(route.Rules, rule)
	}
	return Part{Key: Key{KindRoute, "HTTPRoute/default/" + name}, Route: route}
}

func randomRequest(tb testing.TB, r *rand.Rand) *Request {
	s := pick(r, []string{"GET", "POST"}) + " " + pick(r, []string{"a.example", "b.example", "c.example", "x.a.example", "y.a.example", "z.y.a.example", "other", "q.TEST:80", "example"})
	s += pick(r, append(randomPaths, "/zz", "/a/b/c/d", "/a//b", "/f/g/h"))
	sep := "?"
	for _, name := range []string{"x", "y"} {
		if r.IntN(3) == 0 {
			s += sep + name + "=" + pick(r, []string{"1", "2", "%31", "1&" + name + "=2"})
			sep = "&"
		}
	}
	for _, name := range []string{"x", "y"} {
		if r.IntN(2) == 0 {
			s += " " + name + ":" + pick(r, []string{"1", "2"})
		}
	}
	return request(tb, s)
}

// compareWithNaive applies random changes in random order and compares where
// random requests land.
func compareWithNaive(t *testing.T, seed uint64, steps int) {
	r := rand.New(rand.NewPCG(seed, 1))
	b := NewBuilder()
	b.Apply(base(), nil)
	live := map[string]Part{}
	for range steps {
		var changes []Part
		var removed []Key
		for range 1 + r.IntN(4) {
			name := fmt.Sprintf("r%d", r.IntN(12))
			if r.IntN(4) == 0 {
				removed = append(removed, Key{KindRoute, "HTTPRoute/default/" + name})
				delete(live, name)
				changes = slices.DeleteFunc(changes, func(part Part) bool { return part.Key.Name == "HTTPRoute/default/"+name })
				continue
			}
			part := randomRoute(r, name)
			changes = append(changes, part)
			live[name] = part
		}
		p, _ := b.Apply(changes, removed)
		var parts []Part
		for _, part := range live {
			parts = append(parts, part)
		}
		for range 30 {
			q := randomRequest(t, r)
			if got, want := land(p, q), naive(parts, q); got != want {
				t.Fatalf("seed %d: %s %s%s?%s: got %s, want %s", seed, q.Method, q.Host, q.Path, q.Query, got, want)
			}
			checkExplained(t, p, q)
		}
	}
}

// checkExplained: Explain and Match tell the same winner.
func checkExplained(t *testing.T, p *Plan, q *Request) {
	t.Helper()
	l := p.Bound(testSocket).Listener(q.Host)
	hit, ok := l.Match(p, q)
	won := 0
	for _, c := range l.Explain(p, q) {
		if !c.Won {
			if c.Why == "" {
				t.Fatalf("%s rule %d lost for no reason", c.Route.Name, c.Rule.Index)
			}
			continue
		}
		won++
		if c.Route != hit.Route || c.Rule != hit.Rule || c.Match != hit.Match {
			t.Fatalf("explained %s rule %d match %d, matched %s rule %d match %d", c.Route.Name, c.Rule.Index, c.Match, hit.Route.Name, hit.Rule.Index, hit.Match)
		}
	}
	if ok != (won == 1) {
		t.Fatalf("matched %v, explained %d winners", ok, won)
	}
}

func TestMatchAsNaive(t *testing.T) {
	for seed := range uint64(60) {
		compareWithNaive(t, seed, 25)
	}
}

func FuzzMatch(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) { compareWithNaive(t, seed, 8) })
}

// FuzzRequest sends any bytes; nothing may panic, and the naive way agrees on
// the host.
func FuzzRequest(f *testing.F) {
	r := rand.New(rand.NewPCG(7, 7))
	parts := base()
	for i := range 30 {
		parts = append(parts, randomRoute(r, fmt.Sprintf("r%02d", i)))
	}
	p, _ := NewBuilder().Apply(parts, nil)
	f.Add("GET", "a.example:80", "/a/b", "x=1")
	f.Add("", "[::1]:80", "*", "&=&%")
	f.Add("POST", "..example", "//", "x=%3")
	f.Fuzz(func(t *testing.T, method, host, path, query string) {
		r := &Request{Method: []byte(method), Host: []byte(host), Path: []byte(path), Query: []byte(query)}
		l := p.Bound(testSocket).Listener(r.Host)
		hit, ok := l.Match(p, r)
		if ok && (hit.Rule == nil || hit.Prefix > len(path)) {
			t.Errorf("got %+v", hit)
		}
		checkExplained(t, p, r)
	})
}
