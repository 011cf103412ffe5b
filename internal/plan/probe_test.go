package plan

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestLand(t *testing.T) {
	match := parseMatches("prefix /")
	rule := func(change func(*Rule)) Rule {
		r := Rule{Matches: match, Backends: []Backend{{Service: "default/v1:80", Weight: 1}}}
		change(&r)
		return r
	}
	tests := []struct {
		name string
		rule Rule
		want string
	}{
		{"one backend", rule(func(*Rule) {}), "default/v1:80"},
		{"a split", rule(func(r *Rule) {
			r.Backends = []Backend{{Service: "default/v1:80", Weight: 99}, {Service: "default/v2:80", Weight: 1}, {Service: "default/v3:80"}}
		}), "default/v1:80 99, default/v2:80 (no endpoint) 1"},
		{"an absent service", rule(func(r *Rule) { r.Backends[0].Service = "default/v3:80" }), "500 service default/v3:80 of HTTPRoute/default/r rule 0 does not exist"},
		{"a broken backend", rule(func(r *Rule) { r.Backends[0].Broken = &Broken{503, "no reason"} }), "503 no reason"},
		{"a broken rule", rule(func(r *Rule) { r.Broken = &Broken{500, "the filter is unknown"} }), "500 the filter is unknown"},
		{"no backend", rule(func(r *Rule) { r.Backends = nil }), "500 no backend"},
		{"no weight", rule(func(r *Rule) { r.Backends[0].Weight = 0 }), "500 no backend"},
		{"a redirect", rule(func(r *Rule) {
			r.Filters = []Filter{{Redirect: &Redirect{Scheme: "https", Path: &PathEdit{Prefix: new("/new")}, Status: 301}}}
		}), "redirect 301 https://shop.example/new/cart?q=1"},
		{"rewrites and headers", rule(func(r *Rule) {
			r.Filters = []Filter{
				{Rewrite: &Rewrite{Host: "inner", Path: &PathEdit{Full: new("/x")}}},
				{RequestHeaders: &HeaderEdit{Set: []Header{{"A", "1"}}, Add: []Header{{"B", "2"}}, Remove: []string{"c"}}},
			}
			r.Backends[0].Filters = []Filter{{ResponseHeaders: &HeaderEdit{Remove: []string{"d"}}}}
		}), "[host inner; path /x; request set A=1, add B=2, remove c] -> default/v1:80 [response remove d]"},
		{"timeouts", rule(func(r *Rule) { r.Timeouts = Timeouts{Request: time.Second, Backend: 500 * time.Millisecond} }), "[timeout 1s] [backend timeout 500ms] -> default/v1:80"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			part := routePart("r", "", match...)
			part.Route.Rules[0] = tt.rule
			empty := servicePart("default/v2:80")
			empty.Service.Endpoints = nil
			p, _ := NewBuilder().Apply(append(base(), part, servicePart("default/v1:80"), empty), nil)
			want := "HTTPRoute default/r rule 0 "
			if !strings.Contains(tt.want, "->") {
				want += "-> "
			}
			if got := p.Land(Probe{Socket: testSocket, Host: "shop.example", Method: "GET", Path: "/cart", Query: "q=1"}); got != want+tt.want {
				t.Errorf("got  %s\nwant %s", got, want+tt.want)
			}
		})
	}
}

func TestLandNowhere(t *testing.T) {
	part := routePart("r", "a.example", parseMatches("prefix /a")...)
	part.Route.Rules[0].Name = "main"
	p, _ := NewBuilder().Apply([]Part{base()[0], listenerPart(testListener, "*.example"), part, servicePart("default/v1:80")}, nil)
	for _, tt := range []struct {
		probe Probe
		want  string
	}{
		{Probe{Socket: "tcp/[::]:81", Path: "/"}, "no socket tcp/[::]:81"},
		{Probe{Socket: testSocket, Host: "other", Path: "/"}, "404 no listener"},
		{Probe{Socket: testSocket, Host: "a.example", Path: "/.."}, "400 " + ErrPathAbove.Error()},
		{Probe{Socket: testSocket, Host: "a.example", Path: "/b"}, "404 no rule"},
		{Probe{Socket: testSocket, Host: "a.example", Path: "/a"}, "HTTPRoute default/r rule 0 (main) -> default/v1:80"},
	} {
		if got := p.Land(tt.probe); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.probe, got, tt.want)
		}
	}
}

func TestProbes(t *testing.T) {
	p, _ := NewBuilder().Apply(append(base(),
		routePart("a", "*.example", parseMatches("exact /x POST h:a=1 q:b=c+d q:e=f", "regex /v[0-9]+/(users|orders)")...),
		routePart("b", "", parseMatches("prefix /p/")...),
	), nil)
	var got []string
	for _, probe := range p.Probes() {
		got = append(got, probe.String())
	}
	want := []string{
		"GET windrose-probe.example/v0/orders",
		"GET windrose-probe.example/x",
		"POST windrose-probe.example/x?b=c%2Bd&e=f a:1",
		"GET windrose-probe.invalid/",
		"GET windrose-probe.invalid/p",
		"GET windrose-probe.invalid/p/windrose-probe",
	}
	slices.Sort(got)
	slices.Sort(want)
	if len(got) != len(want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] && !strings.Contains(got[i], "/v0/") {
			t.Errorf("got %s, want %s", got[i], want[i])
		}
	}
	// Each rule is reached by a probe.
	reached := map[string]bool{}
	for _, probe := range p.Probes() {
		reached[strings.Split(p.Land(probe), " ->")[0]] = true
	}
	for _, rule := range []string{"HTTPRoute default/a rule 0", "HTTPRoute default/a rule 1", "HTTPRoute default/b rule 0"} {
		if !reached[rule] {
			t.Errorf("no probe reaches %s", rule)
		}
	}
}

func TestSampleRegex(t *testing.T) {
	for _, pattern := range []string{
		"", "/a", "/a.*", "/[ab]/.+", "(x|y)z", "/v[0-9]+", "a{3,5}", "(?i)Foo", "/a?b*c+", `\d\w\s`, "[^a]", "[\u00e0-\u00ff]", "^/a$", `\A/b\z`, "((a)(b(c)))", "/[^/]+/x",
	} {
		if got := sampleRegex(`\A(?:` + pattern + `)\z`); !regexp.MustCompile(`\A(?:` + pattern + `)\z`).MatchString(got) {
			t.Errorf("%s: sample %q does not match", pattern, got)
		}
	}
}

func TestExplain(t *testing.T) {
	p, _ := NewBuilder().Apply(append(base(),
		routePart("a", "shop.example", parseMatches("exact /cart", "prefix /cart POST", "prefix /car", "prefix /cart h:canary=yes", "prefix /cart q:v~[0-9]+")...),
		routePart("b", "", parseMatches("prefix /", "prefix /cart")...),
	), nil)
	l := p.Bound(testSocket).Listener(nil)
	var got []string
	for _, c := range l.Explain(p, request(t, "GET shop.example/cart/1?v=x")) {
		s := "won"
		if !c.Won {
			s = c.Why
		}
		got = append(got, c.Route.Name[len("HTTPRoute/default/"):]+string(rune('0'+c.Rule.Index))+" "+s)
	}
	want := []string{
		"a1 the method is not POST",
		`a3 header canary is not "yes"`,
		`a4 query parameter v does not match [0-9]+`,
		"b1 won",
		"b0 another match goes first",
		"a0 the path is not exactly /cart",
		"a2 the path does not begin with /car as whole segments",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
	if got := l.Explain(&Plan{}, request(t, "GET a/")); got != nil {
		t.Errorf("an empty plan explains %v", got)
	}
}
