package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"windrose.dev/windrose/internal/plan"
)

// covers: HTTPRouteCORS
func TestCORSEndToEnd(t *testing.T) {
	theirs := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "https://theirs.example")
		w.Header().Set("Access-Control-Allow-Credentials", "false")
		w.Header().Set("X-Seen", r.Header.Get("Origin"))
		fmt.Fprint(w, r.Method)
	}
	one := plan.CORS{Origins: []string{"https://*.good.example"}, Methods: []string{"PUT"}, Headers: []string{"x-a"}, Expose: []string{"x-seen"}, Credentials: true, MaxAge: 60}
	rule := func(path, service string, more ...plan.Filter) plan.Rule {
		return plan.Rule{
			Matches:  []plan.Match{{PathType: plan.PathPrefix, Path: path}},
			Filters:  append(more, plan.Filter{CORS: &one}),
			Backends: []plan.Backend{{Service: service, Weight: 1}},
		}
	}
	g := start(t, 1, service("s", backend(t, theirs)), service("none"), route("r",
		rule("/x", "s"), rule("/fault", "none"),
		rule("/move", "s", plan.Filter{Redirect: &plan.Redirect{Host: "new.example", Status: 302}}),
		rule("/set", "s", plan.Filter{ResponseHeaders: &plan.HeaderEdit{Set: []plan.Header{{Name: "Access-Control-Expose-Headers", Value: "x-own"}}}}),
	))
	const good, bad = "https://a.good.example", "https://evil.example"
	for _, c := range []struct {
		method, path, origin string
		ask                  string // Access-Control-Request-Method
		status               int
		body                 string
		allow, expose        []string
		methods              []string
	}{
		{"OPTIONS", "/x", good, "PUT", 204, "", []string{good}, []string{"x-seen"}, []string{"PUT"}},
		{"OPTIONS", "/x", bad, "PUT", 403, "", nil, nil, nil},
		{"OPTIONS", "/move", good, "PUT", 204, "", []string{good}, []string{"x-seen"}, []string{"PUT"}},
		{"OPTIONS", "/fault", good, "PUT", 204, "", []string{good}, []string{"x-seen"}, []string{"PUT"}},
		{"OPTIONS", "/x", good, "", 200, "OPTIONS", []string{good}, []string{"x-seen"}, nil},
		{"OPTIONS", "/x", "", "PUT", 200, "OPTIONS", nil, nil, nil},
		{"GET", "/x", good, "PUT", 200, "GET", []string{good}, []string{"x-seen"}, nil},
		{"GET", "/x", bad, "", 200, "GET", nil, nil, nil},
		{"GET", "/x", "", "", 200, "GET", nil, nil, nil},
		{"GET", "/move", good, "", 302, "", []string{good}, []string{"x-seen"}, nil},
		{"GET", "/set", good, "", 200, "GET", []string{good}, []string{"x-own"}, nil},
		{"HEAD", "/fault", good, "", 503, "", []string{good}, []string{"x-seen"}, nil},
	} {
		for _, client := range []*http.Client{h2cClient(), {Timeout: 20 * time.Second, Transport: &http.Transport{}}} {
			client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
			req, err := http.NewRequest(c.method, "http://"+g.addr+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.origin != "" {
				req.Header.Set("Origin", c.origin)
			}
			if c.ask != "" {
				req.Header.Set("Access-Control-Request-Method", c.ask)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			client.CloseIdleConnections()
			name := fmt.Sprintf("%s %s %s of %q asking for %q", resp.Proto, c.method, c.path, c.origin, c.ask)
			if err != nil || resp.StatusCode != c.status || string(body) != c.body {
				t.Errorf("%s: got %d %q (%v), want %d %q", name, resp.StatusCode, body, err, c.status, c.body)
			}
			for field, want := range map[string][]string{
				"Access-Control-Allow-Origin": c.allow, "Access-Control-Expose-Headers": c.expose, "Access-Control-Allow-Methods": c.methods,
			} {
				if got := resp.Header[field]; !slices.Equal(got, want) {
					t.Errorf("%s: %s is %q, want %q", name, field, got, want)
				}
			}
			if credentials := resp.Header.Get("Access-Control-Allow-Credentials"); (credentials == "true") != (c.allow != nil) || credentials == "false" {
				t.Errorf("%s: credentials are %q", name, credentials)
			}
			if len(resp.Header["Vary"]) != 1 {
				t.Errorf("%s: Vary is %q", name, resp.Header["Vary"])
			}
			if c.status == 204 && resp.Header.Get("Content-Length") != "" {
				t.Errorf("%s: a 204 has a length", name)
			}
		}
	}
}
