package proxy_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"windrose.dev/windrose/internal/plan"
)

// covers: HTTPRouteRequestHeaderModifier HTTPRouteResponseHeaderModifier HTTPRouteRewriteHost HTTPRouteRewritePath
func TestEditsEndToEnd(t *testing.T) {
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Drop", "1")
		w.Header().Set("X-Set", "theirs")
		fmt.Fprintf(w, "%s%s drop=%q set=%q add=%q", r.Host, r.URL, r.Header["X-Drop"], r.Header["X-Set"], r.Header["X-Add"])
	})
	edit := &plan.HeaderEdit{
		Set:    []plan.Header{{Name: "X-Set", Value: "ours"}},
		Add:    []plan.Header{{Name: "X-Add", Value: "more"}},
		Remove: []string{"x-drop"},
	}
	to := func(path string, filters []plan.Filter, backend ...plan.Filter) plan.Rule {
		return plan.Rule{Matches: []plan.Match{{PathType: plan.PathPrefix, Path: path}}, Filters: filters, Backends: []plan.Backend{{Service: "s", Weight: 1, Filters: backend}}}
	}
	g := start(t, 1, service("s", b), route("r",
		to("/request", []plan.Filter{{RequestHeaders: edit}}),
		to("/response", []plan.Filter{{ResponseHeaders: edit}}),
		to("/backend", nil, plan.Filter{RequestHeaders: edit}, plan.Filter{ResponseHeaders: edit}),
		to("/prefix", []plan.Filter{{Rewrite: &plan.Rewrite{Host: "new.example", Path: &plan.PathEdit{Prefix: new("/n")}}}}),
		to("/full", []plan.Filter{{Rewrite: &plan.Rewrite{Path: &plan.PathEdit{Full: new("/all/new")}}}}),
		to("/move", []plan.Filter{{Redirect: &plan.Redirect{Scheme: "https", Host: "new.example", Path: &plan.PathEdit{Prefix: new("/to")}, Status: 308}}}),
	))
	for _, c := range []struct {
		path, want string
		headers    map[string][]string
	}{
		{path: "/request", want: `x/request drop=[] set=["ours"] add=["theirs" "more"]`},
		{path: "/response", want: `x/response drop=["1"] set=["theirs"] add=["theirs"]`, headers: map[string][]string{"X-Drop": nil, "X-Set": {"ours"}, "X-Add": {"more"}}},
		{path: "/backend", want: `x/backend drop=[] set=["ours"] add=["theirs" "more"]`, headers: map[string][]string{"X-Drop": nil, "X-Set": {"ours"}, "X-Add": {"more"}}},
		{path: "/prefix/a?b", want: `new.example/n/a?b drop=["1"] set=["theirs"] add=["theirs"]`},
		{path: "/full/a?b", want: `x/all/new?b drop=["1"] set=["theirs"] add=["theirs"]`},
		{path: "/move/a?b", headers: map[string][]string{"Location": {"https://new.example/to/a?b"}}},
	} {
		t.Run(c.path, func(t *testing.T) {
			p := g.dial()
			p.send("GET " + c.path + " HTTP/1.1\r\nhost: x\r\nx-drop: 1\r\nx-set: theirs\r\nx-add: theirs\r\n\r\n")
			resp, body := p.answer("GET")
			if body != c.want {
				t.Errorf("the endpoint saw %q, want %q", body, c.want)
			}
			for name, want := range c.headers {
				if got := resp.Header[name]; !slices.Equal(got, want) {
					t.Errorf("%s: got %q, want %q", name, got, want)
				}
			}
		})
	}
}

// Whoever writes a route cannot write into the message around the field.
func TestEditsCannotSplitAHead(t *testing.T) {
	const evil = "a\r\nset-cookie: evil=1\r\n\r\nHTTP/1.1 200 OK\r\n"
	b := answering(t, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
	for name, f := range map[string]plan.Filter{
		"response header value": {ResponseHeaders: &plan.HeaderEdit{Set: []plan.Header{{Name: "x", Value: evil}}}},
		"response header name":  {ResponseHeaders: &plan.HeaderEdit{Add: []plan.Header{{Name: evil, Value: "x"}}}},
		"request header value":  {RequestHeaders: &plan.HeaderEdit{Add: []plan.Header{{Name: "x", Value: evil}}}},
		"path":                  {Rewrite: &plan.Rewrite{Path: &plan.PathEdit{Full: new("/ HTTP/1.1\r\nx: y\r\n\r\n")}}},
		"prefix":                {Rewrite: &plan.Rewrite{Path: &plan.PathEdit{Prefix: new("/ x")}}},
		"host":                  {Rewrite: &plan.Rewrite{Host: evil}},
		"location":              {Redirect: &plan.Redirect{Host: evil, Status: 302}},
	} {
		t.Run(name, func(t *testing.T) {
			r := all(plan.Backend{Service: "s", Weight: 1})
			r.Filters = []plan.Filter{f}
			onBackend := all(plan.Backend{Service: "s", Weight: 1, Filters: []plan.Filter{f}})
			onBackend.Matches[0].Path = "/b"
			g := start(t, 1, route("r", r, onBackend), service("s", b))
			for _, path := range []string{"/", "/b"} {
				p := g.dial()
				p.send("GET " + path + " HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
				got := p.rest()
				if !strings.HasPrefix(got, "HTTP/1.1 500 ") || strings.Contains(got, "evil") {
					t.Errorf("%s: got %q, want 500 without a trace of the edit", path, got)
				}
			}
		})
	}
}

// Framing and routing are not for edits to change.
func TestEditsCannotFrame(t *testing.T) {
	b := endpoint(t, func(p *peer) {
		head := p.head()
		if strings.Contains(head, "content-length: 5") || strings.Contains(head, "chunked") || strings.Count(head, "\r\nhost:") != 1 {
			t.Errorf("the endpoint got %q", head)
		}
		p.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
	})
	edit := &plan.HeaderEdit{Set: []plan.Header{{Name: "Content-Length", Value: "5"}, {Name: "Transfer-Encoding", Value: "chunked"}, {Name: "Connection", Value: "close"}, {Name: "Host", Value: "y"}}}
	r := all(plan.Backend{Service: "s", Weight: 1})
	r.Filters = []plan.Filter{{RequestHeaders: edit}, {ResponseHeaders: edit}}
	g := start(t, 1, route("r", r), service("s", b))
	p := g.dial()
	p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
	if resp, body := p.answer("GET"); body != "ok" || resp.Close || resp.ContentLength != 2 {
		t.Errorf("got %q close=%v length=%d, want the framing to be windrose's", body, resp.Close, resp.ContentLength)
	}
}
