package plan

import (
	"slices"
	"testing"
)

func TestAppendPath(t *testing.T) {
	// Prefix is what the match of a rule was written as.
	tests := []struct{ path, prefix, replace, want string }{
		// The table of HTTPPathModifier.
		{"/foo/bar", "/foo", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo", "/xyz/", "/xyz/bar"},
		{"/foo/bar", "/foo/", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo/", "/xyz/", "/xyz/bar"},
		{"/foo", "/foo", "/xyz", "/xyz"},
		{"/foo/", "/foo", "/xyz", "/xyz/"},
		{"/foo/bar", "/foo", "", "/bar"},
		{"/foo/", "/foo", "", "/"},
		{"/foo", "/foo", "", "/"},
		{"/foo/", "/foo", "/", "/"},
		{"/foo", "/foo", "/", "/"},
		// And the root.
		{"/", "/", "/xyz", "/xyz/"},
		{"/bar", "/", "/xyz", "/xyz/bar"},
		{"/bar", "/", "/", "/bar"},
		{"/bar", "/", "", "/bar"},
		{"/foo/bar", "/foo", "xyz", "/xyz/bar"},
		{"/foo%2Fx/bar", "/foo%2Fx", "/y", "/y/bar"},
	}
	for _, tt := range tests {
		p, problems := NewBuilder().Apply(append(base(), servicePart("default/v1:80"), routePart("r", "", Match{PathType: PathPrefix, Path: tt.prefix})), nil)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		r := request(t, "GET a"+tt.path)
		hit, ok := p.Bound(testSocket).Listener(r.Host).Match(p, r)
		if !ok {
			t.Fatalf("%s does not match %s", tt.path, tt.prefix)
		}
		if got := string(AppendPath(nil, r.Path, &PathEdit{Prefix: &tt.replace}, hit.Prefix)); got != tt.want {
			t.Errorf("%s, prefix %s by %q: got %s, want %s", tt.path, tt.prefix, tt.replace, got, tt.want)
		}
	}
}

func TestAppendPathOther(t *testing.T) {
	for _, tt := range []struct {
		edit   *PathEdit
		prefix int
		want   string
	}{
		{nil, 4, "/foo/bar"},
		{&PathEdit{}, 4, "/foo/bar"},
		{&PathEdit{Full: new("/new")}, 4, "/new"},
		{&PathEdit{Full: new("new")}, 4, "/new"},
		{&PathEdit{Full: new("")}, 4, "/"},
		{&PathEdit{Prefix: new("/p")}, 8, "/p"},
		{&PathEdit{Prefix: new("/p")}, 100, "/p"},
		{&PathEdit{Prefix: new("/p")}, -1, "/p/foo/bar"},
		{&PathEdit{Prefix: new("/p")}, 2, "/p/oo/bar"},
	} {
		if got := string(AppendPath([]byte("GET "), []byte("/foo/bar"), tt.edit, tt.prefix)); got != "GET "+tt.want {
			t.Errorf("%+v: got %s, want %s", tt.edit, got, tt.want)
		}
	}
}

func TestAppendLocation(t *testing.T) {
	from := func(scheme, host string, port uint16) Target {
		return Target{Scheme: scheme, Host: []byte(host), Port: port, Path: []byte("/a/b"), Prefix: 2}
	}
	tests := []struct {
		name string
		to   Redirect
		from Target
		want string
	}{
		{"same, known port", Redirect{}, from("http", "x.example", 80), "http://x.example/a/b"},
		{"same, listener's port", Redirect{}, from("http", "x.example", 8080), "http://x.example:8080/a/b"},
		{"https listener", Redirect{}, from("https", "x.example", 443), "https://x.example/a/b"},
		{"https listener on another port", Redirect{}, from("https", "x.example", 8443), "https://x.example:8443/a/b"},
		{"http on 443", Redirect{}, from("http", "x.example", 443), "http://x.example:443/a/b"},
		{"the port of the Host header counts for nothing", Redirect{}, from("http", "x.example:9999", 80), "http://x.example/a/b"},
		{"scheme gives the port", Redirect{Scheme: "https"}, from("http", "x.example", 8080), "https://x.example/a/b"},
		{"scheme back", Redirect{Scheme: "http"}, from("https", "x.example", 8443), "http://x.example/a/b"},
		{"unknown scheme, listener's port", Redirect{Scheme: "ftp"}, from("http", "x.example", 80), "ftp://x.example:80/a/b"},
		{"port wins", Redirect{Port: 8443}, from("http", "x.example", 80), "http://x.example:8443/a/b"},
		{"port and scheme", Redirect{Scheme: "https", Port: 8443}, from("http", "x.example", 80), "https://x.example:8443/a/b"},
		{"port known for the scheme", Redirect{Scheme: "https", Port: 443}, from("http", "x.example", 80), "https://x.example/a/b"},
		{"port 443 of http", Redirect{Scheme: "http", Port: 443}, from("http", "x.example", 80), "http://x.example:443/a/b"},
		{"port 80", Redirect{Port: 80}, from("http", "x.example", 8080), "http://x.example/a/b"},
		{"host", Redirect{Host: "y.example"}, from("http", "x.example", 80), "http://y.example/a/b"},
		{"host keeps the listener's port", Redirect{Host: "y.example"}, from("http", "x.example", 8080), "http://y.example:8080/a/b"},
		{"IPv6", Redirect{Port: 81}, from("http", "[::1]:8080", 8080), "http://[::1]:81/a/b"},
		{"IPv6 without port", Redirect{}, from("http", "[::1]", 80), "http://[::1]/a/b"},
		{"no host at all", Redirect{}, from("http", "", 80), "/a/b"},
		{"full path", Redirect{Path: &PathEdit{Full: new("/new")}}, from("http", "x", 80), "http://x/new"},
		{"prefix", Redirect{Path: &PathEdit{Prefix: new("/new")}}, from("http", "x", 80), "http://x/new/b"},
	}
	for _, tt := range tests {
		if got := string(AppendLocation(nil, &tt.to, &tt.from)); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
		tt.from.Query = []byte("q=1&r=%20")
		if got := string(AppendLocation(nil, &tt.to, &tt.from)); got != tt.want+"?q=1&r=%20" {
			t.Errorf("%s, with query: got %s", tt.name, got)
		}
	}
}

func TestHeaderEdits(t *testing.T) {
	// The examples of HTTPHeaderFilter, and what follows from the order set,
	// add, remove and from steps one after the other.
	edit := func(list ...HeaderEdit) []Step {
		var steps []Step
		for i := range list {
			steps = append(steps, Step{Kind: StepRequestHeaders, Headers: &list[i]})
		}
		return steps
	}
	h := func(pairs ...string) (list []Header) {
		for i := 0; i < len(pairs); i += 2 {
			list = append(list, Header{pairs[i], pairs[i+1]})
		}
		return list
	}
	tests := []struct {
		name  string
		in    []Header
		steps []Step
		want  []Header
	}{
		{"set replaces", h("My-Header", "foo", "other", "x"), edit(HeaderEdit{Set: h("my-header", "bar")}), h("other", "x", "my-header", "bar")},
		{"set replaces all", h("a", "1", "A", "2"), edit(HeaderEdit{Set: h("a", "3")}), h("a", "3")},
		{"add stands beside", h("my-header", "foo"), edit(HeaderEdit{Add: h("my-header", "bar,baz")}), h("my-header", "foo", "my-header", "bar,baz")},
		{"remove", h("My-Header1", "foo", "my-header2", "bar"), edit(HeaderEdit{Remove: []string{"my-header1"}}), h("my-header2", "bar")},
		{"set then add", nil, edit(HeaderEdit{Set: h("a", "1"), Add: h("A", "2")}), h("a", "1", "A", "2")},
		{"remove takes what set and add brought", h("a", "0"), edit(HeaderEdit{Set: h("A", "1"), Add: h("a", "2"), Remove: []string{"a"}}), nil},
		{"a later step sets again", nil, edit(HeaderEdit{Set: h("a", "1")}, HeaderEdit{Set: h("A", "2")}), h("A", "2")},
		{"a later step removes", nil, edit(HeaderEdit{Set: h("a", "1", "b", "1")}, HeaderEdit{Remove: []string{"a"}}), h("b", "1")},
		{"a later step adds", nil, edit(HeaderEdit{Set: h("a", "1")}, HeaderEdit{Add: h("a", "2")}), h("a", "1", "a", "2")},
		{"a later step adds what was removed", h("a", "0"), edit(HeaderEdit{Remove: []string{"a"}}, HeaderEdit{Add: h("a", "2")}), h("a", "2")},
		{"punctuation has no case", h("a@", "1", "a`", "2"), edit(HeaderEdit{Remove: []string{"a`"}}), h("a@", "1")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []Header
			for _, field := range tt.in {
				if !Drops(tt.steps, StepRequestHeaders, []byte(field.Name)) {
					got = append(got, field)
				}
			}
			Fields(tt.steps, StepRequestHeaders, func(h Header) { got = append(got, h) })
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if Drops(tt.steps, StepResponseHeaders, []byte("a")) {
				t.Error("the response is edited too")
			}
		})
	}
}
