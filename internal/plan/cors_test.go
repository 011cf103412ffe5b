package plan_test

import (
	"strings"
	"testing"

	"windrose.dev/windrose/internal/plan"
)

// corsOf compiles a filter as a builder does; nil if it refuses it.
func corsOf(tb testing.TB, f plan.CORS) *plan.BoundCORS {
	tb.Helper()
	part := plan.Part{Key: plan.Key{Kind: plan.KindRoute, Name: "r"}, Route: &plan.Route{Rules: []plan.Rule{{Filters: []plan.Filter{{CORS: &f}}}}}}
	p, _ := plan.NewBuilder().Apply([]plan.Part{part}, nil)
	rule := &p.Route(0).Rules[0]
	if (rule.Broken == nil) != (rule.CORS != nil) {
		tb.Fatalf("broken is %v and the filter %v", rule.Broken, rule.CORS)
	}
	return rule.CORS
}

func TestCORSAllowsOrigins(t *testing.T) {
	for _, c := range []struct {
		allowed string
		yes, no string // separated by spaces
	}{
		{"https://www.foo.com", "https://www.foo.com HTTPS://WWW.foo.com https://www.foo.com:443", "http://www.foo.com https://foo.com https://www.foo.com:8443 https://www.foo.com.evil.com https://www.foo.com/ null www.foo.com"},
		{"http://foo.com:8080", "http://foo.com:8080", "http://foo.com http://foo.com:80 http://foo.com:080800"},
		{"https://*.bar.com", "https://www.bar.com https://a.b.bar.com https://a.bar.com:443", "https://bar.com https://.bar.com https://evilbar.com https://a.bar.com.evil.com https://evil.com/.bar.com https://*.bar.com"},
		{"https://*.bar.com:8443", "https://a.bar.com:8443", "https://a.bar.com"},
		{"http://*", "http://a http://a.b.c", "https://a http://a:81"},
		{"https://a*b*.com", "https://ab.com https://axbyb.com https://a.b.com", "https://ba.com https://ab.org"},
		{"http://[::1]:8080", "http://[::1]:8080", "http://[::1]"},
		{"*", "https://any.where http://x:1 null https://WHAT.ever", "https:// foo https://a/b https://a,https://b"},
		{"https://a.com https://b.com", "https://a.com https://b.com", "https://c.com"},
	} {
		cors := corsOf(t, plan.CORS{Origins: strings.Fields(c.allowed)})
		if cors == nil {
			t.Errorf("%q was refused", c.allowed)
			continue
		}
		for origin := range strings.FieldsSeq(c.yes) {
			if !cors.Allows([]byte(origin)) {
				t.Errorf("%q does not take %q", c.allowed, origin)
			}
		}
		for origin := range strings.FieldsSeq(c.no) {
			if cors.Allows([]byte(origin)) {
				t.Errorf("%q takes %q", c.allowed, origin)
			}
		}
	}
}

func TestCORSFields(t *testing.T) {
	const vary, varyAll = "vary: Origin\n", "vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\n"
	lists := plan.CORS{
		Origins: []string{"https://a.com"}, Methods: []string{"GET", "PUT"}, Headers: []string{"x-1", "x-2"},
		Expose: []string{"x-3", "x-4"}, Credentials: true, MaxAge: 3600,
	}
	stars := plan.CORS{Origins: []string{"*"}, Methods: []string{"*"}, Headers: []string{"*"}, Expose: []string{"*"}}
	trusting := stars
	trusting.Credentials = true
	for _, c := range []struct {
		name            string
		filter          plan.CORS
		method, headers string
		wantPreflight   string
		want            string
		wantForeign     string // without an origin that is allowed
	}{
		{
			name: "lists", filter: lists, method: "DELETE", headers: "x-9",
			wantPreflight: varyAll + "access-control-allow-origin: https://a.com\naccess-control-allow-credentials: true\naccess-control-expose-headers: x-3, x-4\n" +
				"access-control-allow-methods: GET, PUT\naccess-control-allow-headers: x-1, x-2\naccess-control-max-age: 3600\n",
			want:        vary + "access-control-allow-origin: https://a.com\naccess-control-allow-credentials: true\naccess-control-expose-headers: x-3, x-4\n",
			wantForeign: vary,
		},
		{
			name: "stars", filter: stars, method: "PUT", headers: "x-9",
			wantPreflight: varyAll + "access-control-allow-origin: *\naccess-control-expose-headers: *\naccess-control-allow-methods: *\naccess-control-allow-headers: *\naccess-control-max-age: 5\n",
			want:          "access-control-allow-origin: *\naccess-control-expose-headers: *\n",
			wantForeign:   "access-control-allow-origin: *\naccess-control-expose-headers: *\n",
		},
		{
			name: "stars with credentials are never said", filter: trusting, method: "PUT", headers: "x-9, x-8",
			wantPreflight: varyAll + "access-control-allow-origin: https://a.com\naccess-control-allow-credentials: true\naccess-control-allow-methods: PUT\naccess-control-allow-headers: x-9, x-8\naccess-control-max-age: 5\n",
			want:          vary + "access-control-allow-origin: https://a.com\naccess-control-allow-credentials: true\n",
			wantForeign:   vary,
		},
		{
			name: "stars with credentials and nothing asked", filter: trusting,
			wantPreflight: varyAll + "access-control-allow-origin: https://a.com\naccess-control-allow-credentials: true\naccess-control-max-age: 5\n",
			want:          vary + "access-control-allow-origin: https://a.com\naccess-control-allow-credentials: true\n",
			wantForeign:   vary,
		},
		{
			name: "origins alone", filter: plan.CORS{Origins: []string{"https://a.com"}}, method: "GET",
			wantPreflight: varyAll + "access-control-allow-origin: https://a.com\naccess-control-max-age: 5\n",
			want:          vary + "access-control-allow-origin: https://a.com\n", wantForeign: vary,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			cors := corsOf(t, c.filter)
			var got strings.Builder
			yield := func(name string, value []byte) { got.WriteString(name + ": " + string(value) + "\n") }
			for _, step := range []struct {
				what, want string
				f          func()
			}{
				{"preflight", c.wantPreflight, func() {
					cors.Preflight(&plan.Preflight{Origin: []byte("https://a.com"), Method: []byte(c.method), Headers: []byte(c.headers)}, yield)
				}},
				{"answer", c.want, func() { cors.Fields([]byte("https://a.com"), yield) }},
				{"answer to others", c.wantForeign, func() { cors.Fields(nil, yield) }},
			} {
				got.Reset()
				step.f()
				if got.String() != step.want {
					t.Errorf("%s: got\n%swant\n%s", step.what, got.String(), step.want)
				}
			}
		})
	}
}

func TestCORSThatCannotBeWrittenBreaksTheRule(t *testing.T) {
	for name, f := range map[string]plan.CORS{
		"no origin":         {Origins: []string{"a.com"}},
		"port":              {Origins: []string{"https://a.com:x"}},
		"path":              {Origins: []string{"https://a.com/b"}},
		"line break":        {Methods: []string{"GET\r\nx: y"}},
		"two in one header": {Headers: []string{"a, b"}},
		"empty":             {Expose: []string{""}},
	} {
		if corsOf(t, f) != nil {
			t.Errorf("%s: %+v was taken", name, f)
		}
		if filter := (plan.Filter{CORS: &f}); filter.Safe() {
			t.Errorf("%s: %+v is called safe", name, f)
		}
	}
	backend := plan.Backend{Service: "s", Filters: []plan.Filter{{CORS: &plan.CORS{Origins: []string{"*"}}}}}
	part := plan.Part{Key: plan.Key{Kind: plan.KindRoute, Name: "r"}, Route: &plan.Route{Rules: []plan.Rule{{Backends: []plan.Backend{backend}}}}}
	s := plan.Part{Key: plan.Key{Kind: plan.KindService, Name: "s"}, Service: &plan.Service{}}
	p, _ := plan.NewBuilder().Apply([]plan.Part{s, part}, nil)
	if p.Route(0).Rules[0].Backends[0].Broken == nil {
		t.Error("a backend has the filter, and is not broken")
	}
}

func FuzzCORSOrigin(f *testing.F) {
	f.Add("https://*.a.com", "https://b.a.com")
	f.Add("https://a*b*c*d*", "https://aabbccdd:1")
	f.Fuzz(func(t *testing.T, pattern, origin string) {
		part := plan.Part{Key: plan.Key{Kind: plan.KindRoute, Name: "r"}, Route: &plan.Route{Rules: []plan.Rule{{Filters: []plan.Filter{{CORS: &plan.CORS{Origins: []string{pattern}}}}}}}}
		p, _ := plan.NewBuilder().Apply([]plan.Part{part}, nil)
		cors := p.Route(0).Rules[0].CORS
		if cors == nil || !cors.Allows([]byte(origin)) {
			return
		}
		if strings.ContainsAny(origin, "\r\n ,*") {
			t.Errorf("%q takes %q", pattern, origin)
		}
	})
}
