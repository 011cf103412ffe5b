package plan

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

const (
	testSocket   = "tcp/[::]:80"
	testListener = "Gateway/default/gw/http"
)

// base are the parts that most tests need: a socket and a listener for all
// hosts.
func base() []Part {
	return []Part{
		{Key: Key{KindSocket, testSocket}, Socket: &Socket{Addr: netip.MustParseAddrPort("[::]:80")}},
		listenerPart(testListener, ""),
	}
}

func listenerPart(name, hostname string) Part {
	return Part{Key: Key{KindListener, name}, Listener: &Listener{Sockets: []string{testSocket}, Protocol: HTTP, Hostname: hostname}}
}

// routePart is a route attached to the test's listener under host, with one
// rule for each match.
func routePart(name, host string, matches ...Match) Part {
	r := &Route{Attach: []Attachment{{Listener: testListener, Host: host, Original: host}}}
	for _, m := range matches {
		r.Rules = append(r.Rules, Rule{Matches: []Match{m}, Backends: []Backend{{Service: "default/v1:80", Weight: 1}}})
	}
	return Part{Key: Key{KindRoute, "HTTPRoute/default/" + name}, Route: r}
}

func servicePart(name string) Part {
	return Part{Key: Key{KindService, name}, Service: &Service{Protocol: HTTP, Endpoints: []Endpoint{{Addr: netip.MustParseAddrPort("10.0.0.1:8080")}}}}
}

// parseMatch reads "exact /foo", "prefix /foo GET h:name=value q:name=value",
// with "~" instead of "=" for a regular expression.
func parseMatch(s string) Match {
	fields := strings.Fields(s)
	m := Match{PathType: PathType(fields[0]), Path: fields[1]}
	for _, f := range fields[2:] {
		kind, rest, ok := strings.Cut(f, ":")
		if !ok {
			m.Method = f
			continue
		}
		var v NameMatch
		if v.Name, v.Value, ok = strings.Cut(rest, "="); !ok {
			v.Name, v.Value, _ = strings.Cut(rest, "~")
			v.Regex = true
		}
		if kind == "h" {
			m.Headers = append(m.Headers, v)
		} else {
			m.Query = append(m.Query, v)
		}
	}
	return m
}

func parseMatches(list ...string) []Match {
	var out []Match
	for _, s := range list {
		out = append(out, parseMatch(s))
	}
	return out
}

// request reads "GET host/path?query name:value ...".
func request(tb testing.TB, s string) *Request {
	tb.Helper()
	fields := strings.Fields(s)
	method, target := fields[0], fields[1]
	host, path, _ := strings.Cut(target, "/")
	path, query, _ := strings.Cut("/"+path, "?")
	normal, err := Normalize(nil, []byte(path))
	if err != nil {
		tb.Fatalf("path %q: %v", path, err)
	}
	headers := map[string][]byte{}
	for _, f := range fields[2:] {
		name, value, _ := strings.Cut(f, ":")
		headers[name] = []byte(value)
	}
	return &Request{
		Method: []byte(method), Host: []byte(host), Path: normal, Query: []byte(query),
		Header: func(name string) ([]byte, bool) { v, ok := headers[name]; return v, ok },
	}
}

// land says where a request lands: the route's short name and the rule.
func land(p *Plan, r *Request) string {
	l := p.Bound(testSocket).Listener(r.Host)
	if l == nil {
		return "no listener"
	}
	hit, ok := l.Match(p, r)
	if !ok {
		return "none"
	}
	return fmt.Sprintf("%s %d", hit.Route.Name[strings.LastIndexByte(hit.Route.Name, '/')+1:], hit.Rule.Index)
}

func TestMatchPaths(t *testing.T) {
	// The rules of one route, and where requests land: the number of the rule.
	tests := []struct {
		name  string
		rules []string
		want  map[string]string
	}{
		{"exact before prefix, longest prefix first", []string{
			"prefix /", "prefix /match", "prefix /match/", "exact /match", "prefix /match/prefix/one", "exact /match/exact",
		}, map[string]string{
			"GET a/":                     "r 0",
			"GET a/matches":              "r 0",
			"GET a/match":                "r 3",
			"GET a/match/":               "r 2",
			"GET a/match/x":              "r 2",
			"GET a/match/prefix":         "r 2",
			"GET a/match/prefix/one":     "r 4",
			"GET a/match/prefix/one/two": "r 4",
			"GET a/match/prefix/onetwo":  "r 2",
			"GET a/match/exact":          "r 5",
			"GET a/match/exact/":         "r 2",
			"GET a/%6datch":              "r 3",
			"GET a/x/../match":           "r 3",
			"GET a/match%2Fexact":        "r 0",
			"GET a//match":               "r 0",
			"GET a/Match":                "r 0",
		}},
		{"no rule for all", []string{"prefix /foo/", "exact /bar"}, map[string]string{
			"GET a/":     "none",
			"GET a/foo":  "r 0",
			"GET a/foo/": "r 0",
			"GET a/fooo": "none",
			"GET a/bar":  "r 1",
			"GET a/bar/": "none",
		}},
		{"regular expressions are anchored, after exact, before prefix, longest first", []string{
			"prefix /api/v1", "regex /api/v[0-9]+", "regex /api/v[0-9]+/users", "exact /api/v2", "regex /(a|b)pi.*",
		}, map[string]string{
			"GET a/api/v1":       "r 1",
			"GET a/api/v2":       "r 3",
			"GET a/api/v1/users": "r 2",
			"GET a/api/v1/x":     "r 4",
			"GET a/bpi":          "r 4",
			"GET a/x/api/v1":     "none",
		}},
		{"method, headers, query, in this order", []string{
			"prefix /", "prefix / q:a=1", "prefix / h:x=1", "prefix / GET", "prefix / h:x=1 h:y=2", "prefix / GET q:a=1", "prefix / h:x=1 q:a=1",
		}, map[string]string{
			"POST a/":             "r 0",
			"POST a/?a=1":         "r 1",
			"POST a/?a=1 x:1":     "r 6",
			"POST a/ x:1":         "r 2",
			"POST a/?a=1 x:1 y:2": "r 4",
			"GET a/ x:1 y:2":      "r 3",
			"GET a/?a=1 x:1":      "r 5",
		}},
		{"conditions fall to a shorter prefix", []string{"prefix /", "prefix /a POST", "exact /a h:x=1"}, map[string]string{
			"GET a/a":      "r 0",
			"POST a/a":     "r 1",
			"GET a/a x:1":  "r 2",
			"POST a/a x:1": "r 2",
		}},
		{"first rule wins", []string{"prefix /a", "prefix /a", "prefix /a/"}, map[string]string{"GET a/a": "r 2"}},
		{"query parameters", []string{"prefix / q:a=b+c", "prefix / q:a=b", "prefix / q:x~[0-9]+", "prefix / q:n="}, map[string]string{
			"GET a/?a=b":       "r 1",
			"GET a/?z=1&a=b":   "r 1",
			"GET a/?a=c&a=b":   "none",
			"GET a/?a=%62":     "r 1",
			"GET a/?%61=b":     "r 1",
			"GET a/?a=b%2Bc":   "r 0",
			"GET a/?a=b+c":     "none",
			"GET a/?x=12":      "r 2",
			"GET a/?x=%312":    "r 2",
			"GET a/?x=12a":     "none",
			"GET a/?n":         "r 3",
			"GET a/?n=":        "r 3",
			"GET a/?a=%zz":     "none",
			"GET a/?&&a=b&&":   "r 1",
			"GET a/?a=b%00":    "none",
			"GET a/?A=b":       "none",
			"GET a/?a=b;x=12":  "none",
			"GET a/?a=b?x&x=1": "r 2",
		}},
		{"headers", []string{"prefix / h:x=a,b", "prefix / h:x~a.*", "prefix / h:x=B"}, map[string]string{
			"GET a/ x:a,b": "r 0",
			"GET a/ x:abc": "r 1",
			"GET a/ x:ca":  "none",
			"GET a/ x:b":   "none",
			"GET a/ x:B":   "r 2",
			"GET a/":       "none",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, problems := NewBuilder().Apply(append(base(), servicePart("default/v1:80"), routePart("r", "", parseMatches(tt.rules...)...)), nil)
			if len(problems) > 0 {
				t.Fatalf("problems: %v", problems)
			}
			for req, want := range tt.want {
				if got := land(p, request(t, req)); got != want {
					t.Errorf("%s: got %s, want %s", req, got, want)
				}
			}
		})
	}
}

func TestMatchPrefixLength(t *testing.T) {
	p, _ := NewBuilder().Apply(append(base(), routePart("r", "", parseMatches("prefix /", "prefix /foo/", "exact /e/x", "regex /r.*")...)), nil)
	for req, want := range map[string]int{"GET a/": 0, "GET a/b": 0, "GET a/foo": 4, "GET a/foo/bar": 4, "GET a/e/x": 4, "GET a/rest": 5} {
		r := request(t, req)
		hit, ok := p.Bound(testSocket).Listener(r.Host).Match(p, r)
		if !ok || hit.Prefix != want {
			t.Errorf("%s: got %d, %v, want %d", req, hit.Prefix, ok, want)
		}
	}
}

func TestMatchHosts(t *testing.T) {
	p, _ := NewBuilder().Apply(append(base(),
		routePart("any", "", parseMatch("prefix /")),
		routePart("exact", "shop.example.com", parseMatch("prefix /exact")),
		routePart("wild", "*.example.com", parseMatch("prefix /"), parseMatch("exact /wild")),
		routePart("deeper", "*.shop.example.com", parseMatch("prefix /")),
	), nil)
	for req, want := range map[string]string{
		"GET other/":                    "any 0",
		"GET shop.example.com/exact":    "exact 0",
		"GET SHOP.Example.com/exact":    "exact 0",
		"GET shop.example.com:80/exact": "exact 0",
		"GET shop.example.com./exact":   "exact 0",
		"GET shop.example.com/":         "wild 0", // no rule of the exact host takes it
		"GET shop.example.com/wild":     "wild 1",
		"GET a.shop.example.com/":       "deeper 0",
		"GET a.b.shop.example.com/":     "deeper 0",
		"GET a.b.example.com/":          "wild 0",
		"GET example.com/":              "any 0",
		"GET .example.com/":             "any 0",
		"GET xexample.com/":             "any 0",
		"GET [::1]:8080/":               "any 0",
		"GET [::1]/":                    "any 0",
		"GET /":                         "any 0",
	} {
		if got := land(p, request(t, req)); got != want {
			t.Errorf("%s: got %s, want %s", req, got, want)
		}
	}
}

func TestMatchOneLabel(t *testing.T) {
	ingress := routePart("ingress", "*.example.com", parseMatch("prefix /"))
	ingress.Route.Attach[0].OneLabel = true
	p, _ := NewBuilder().Apply(append(base(), ingress), nil)
	for req, want := range map[string]string{"GET a.example.com/": "ingress 0", "GET a.b.example.com/": "none", "GET example.com/": "none"} {
		if got := land(p, request(t, req)); got != want {
			t.Errorf("%s: got %s, want %s", req, got, want)
		}
	}
}

func TestMatchBetweenRoutes(t *testing.T) {
	attach := func(p Part, host, original string, created int64) Part {
		p.Route.Attach[0].Host, p.Route.Attach[0].Original, p.Route.Created = host, original, created
		return p
	}
	match := parseMatch("prefix /")
	tests := []struct {
		name   string
		routes []Part
		want   string
	}{
		{"older wins", []Part{attach(routePart("a", "", match), "", "", 2), attach(routePart("b", "", match), "", "", 1)}, "b 0"},
		{"then the name", []Part{routePart("b", "", match), routePart("a", "", match)}, "a 0"},
		{"the original hostname before the age", []Part{
			attach(routePart("none", "", match), "x.example.com", "", 1),
			attach(routePart("wild", "", match), "x.example.com", "*.example.com", 2),
			attach(routePart("exact", "", match), "x.example.com", "x.example.com", 3),
		}, "exact 0"},
		{"the original hostname before the path", []Part{
			attach(routePart("none", "", parseMatch("exact /")), "x.example.com", "", 1),
			attach(routePart("wild", "", match), "x.example.com", "*.example.com", 2),
		}, "wild 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, _ := NewBuilder().Apply(append(base(), tt.routes...), nil)
			if got := land(p, request(t, "GET x.example.com/")); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// Expressions that cost too much in sum take no request, and none falls through
// to what comes after them.
func TestRegularExpressionsHaveABudget(t *testing.T) {
	var parts []Part
	for i := range 128 {
		parts = append(parts, routePart(fmt.Sprintf("slow%d", i), "", Match{PathType: PathRegex, Path: fmt.Sprintf("/(a?){0,400}b%d", i)}))
	}
	parts = append(parts, routePart("rest", "", Match{PathType: PathPrefix, Path: "/"}),
		routePart("exact", "", Match{PathType: PathExact, Path: "/" + strings.Repeat("a", 16000)}))
	p, problems := NewBuilder().Apply(append(append(base(), servicePart("default/v1:80")), parts...), nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	l := p.Bound(testSocket).Listeners()[0]
	r := &Request{Method: []byte("GET"), Host: []byte("x"), Path: []byte("/" + strings.Repeat("a", 15000))}
	if hit, ok := l.Match(p, r); ok || !r.Exhausted {
		t.Errorf("got %v, exhausted %v; want no hit, and that", hit, r.Exhausted)
	}
	// The next request of the same owner has a budget of its own.
	r.Path = []byte("/x")
	if hit, ok := l.Match(p, r); !ok || r.Exhausted || hit.Route.Name != "HTTPRoute/default/rest" {
		t.Errorf("got %v, %v, exhausted %v; want the rest", hit, ok, r.Exhausted)
	}
	r.Path = []byte("/" + strings.Repeat("a", 16000))
	if hit, ok := l.Match(p, r); !ok || r.Exhausted || hit.Route.Name != "HTTPRoute/default/exact" {
		t.Errorf("got %v, %v, exhausted %v; want the exact path, which is tried first", hit, ok, r.Exhausted)
	}
}
