package proxy_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"windrose.dev/windrose/internal/h2"
	"windrose.dev/windrose/internal/plan"
)

func asking(a plan.Auth) plan.Filter { return plan.Filter{Auth: &a} }

// guarded is a rule to service s with filters.
func guarded(filters ...plan.Filter) plan.Rule {
	r := all(plan.Backend{Service: "s", Weight: 1})
	r.Filters = filters
	return r
}

// guardedListener has the gateway's listener ask before rules are looked at.
func (g *gateway) guardedListener(auths ...plan.Auth) {
	g.t.Helper()
	l := &plan.Listener{Sockets: []string{"tcp/" + g.addr}, Protocol: plan.HTTP}
	for _, a := range auths {
		l.Filters = append(l.Filters, asking(a))
	}
	g.use(plan.Part{Key: plan.Key{Kind: plan.KindListener, Name: "l"}, Listener: l})
}

// repeater answers with what it got.
func repeater(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %s %s body=%d%.10s", r.Method, r.URL, r.Host, len(body), body)
	for _, name := range []string{"X-User", "X_user", "X-Static", "X-Late", "X-Group", "Content-Type", "X-Extra", "Authorization"} {
		if v, ok := r.Header[name]; ok {
			fmt.Fprintf(w, " %s=%q", name, v)
		}
	}
	fmt.Fprintf(w, " trailer=%q", r.Trailer.Get("X-User"))
}

// authoriser is an authoriser by HTTP that keeps what it was asked.
type authoriser struct {
	mu     sync.Mutex
	asked  []string
	answer http.HandlerFunc
}

func (a *authoriser) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	names := slices.Sorted(maps.Keys(r.Header))
	names = slices.DeleteFunc(names, func(name string) bool { return name == "Content-Length" })
	a.mu.Lock()
	a.asked = append(a.asked, fmt.Sprintf("%s %s %s length=%d body=%q %v", r.Method, r.URL, r.Host, r.ContentLength, body, names))
	a.mu.Unlock()
	a.answer(w, r)
}

func (a *authoriser) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked := a.asked
	a.asked = nil
	return asked
}

func authService(tb testing.TB, name string, second bool, h http.Handler) plan.Part {
	if second {
		return h2cService(name, h2cBackend(tb, h.ServeHTTP))
	}
	return service(name, backend(tb, h.ServeHTTP))
}

func clients() map[string]*http.Client {
	return map[string]*http.Client{"HTTP/1": {Timeout: patience, Transport: &http.Transport{}}, "HTTP/2": h2cClient()}
}

func do(t *testing.T, c *http.Client, req *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func newRequest(t *testing.T, method, url, body string, fields ...string) *http.Request {
	t.Helper()
	req, err := http.NewRequest(method, url, io.MultiReader(strings.NewReader(body)))
	if body == "" {
		req, err = http.NewRequest(method, url, http.NoBody)
	}
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "shop.example"
	for i := 0; i < len(fields); i += 2 {
		req.Header.Add(fields[i], fields[i+1])
	}
	return req
}

func TestAuthByHTTP(t *testing.T) {
	for name, client := range clients() {
		for _, second := range []bool{false, true} {
			a := &authoriser{answer: func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-User", "ann")
				w.Header().Add("X-Group", "g1")
				w.Header().Add("X-Group", "g2")
				w.Header().Set("Content-Type", "text/strange")
				w.Header().Set("X-Seen", r.Header.Get("X-Static")+r.Header.Get("X-Forwarded-For")+r.Header.Get("Cookie"))
				_, _ = io.WriteString(w, "fine")
			}}
			filters := []plan.Filter{
				{RequestHeaders: &plan.HeaderEdit{Set: []plan.Header{{Name: "X-Static", Value: "1"}}, Remove: []string{"x-user"}}},
				{Rewrite: &plan.Rewrite{Host: "inner", Path: &plan.PathEdit{Full: new("/inner")}}},
				asking(plan.Auth{Service: "a", Path: "/check/", Headers: []string{"x-static", "x-forwarded-for", "cookie"}}),
				{RequestHeaders: &plan.HeaderEdit{Set: []plan.Header{{Name: "X-Late", Value: "1"}}}},
			}
			g := start(t, 1, route("r", guarded(filters...)), service("s", backend(t, repeater)), authService(t, "a", second, a))
			req := newRequest(t, "PUT", "http://"+g.addr+"/a/%2e/b?c=d", "hello", "X-User", "eve", "Content-Type", "a/b", "Authorization", "me", "Cookie", "c=1", "X-Forwarded-For", "9.9.9.9", "X-Late", "no")
			resp, body := do(t, client, req)
			want := `PUT /inner?c=d inner body=5hello X-User=["ann"] X-Static=["1"] X-Late=["1"] X-Group=["g1" "g2"] Content-Type=["a/b"] Authorization=["me"] trailer=""`
			if resp.StatusCode != 200 || body != want {
				t.Errorf("%s, %v: got %d %s\nwant %s", name, second, resp.StatusCode, body, want)
			}
			asked := a.take()
			wantAsked := `PUT /check/a/b?c=d shop.example length=0 body="" [Authorization Cookie X-Forwarded-For X-Static]`
			if len(asked) != 1 || asked[0] != wantAsked {
				t.Errorf("%s, %v: the authoriser was asked %q, want %q", name, second, asked, wantAsked)
			}
			if n := g.metric("windrose_requests_active"); n != 0 {
				t.Errorf("%v requests are active", n)
			}
			client.CloseIdleConnections()
		}
	}
}

// What only the authoriser may say, a client cannot.
func TestAuthGrantsCannotBeForged(t *testing.T) {
	a := &authoriser{answer: func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/known" {
			w.Header().Set("X-User", "ann")
		}
		w.Header().Set("X-Extra", "not granted")
		w.Header().Set("Transfer-Encoding", "identity")
		w.Header().Set("X-Request-Id", "forged")
	}}
	auth := plan.Auth{Service: "a", Grants: []string{"x-user", "connection", "transfer-encoding", "x-request-id"}}
	for _, pre := range []bool{false, true} {
		for name, client := range clients() {
			g := start(t, 1, service("s", backend(t, repeater)), service("a", backend(t, a.ServeHTTP)))
			if pre {
				g.guardedListener(auth)
				g.use(route("r", guarded()))
			} else {
				g.use(route("r", guarded(asking(auth))))
			}
			for path, want := range map[string]string{"/known": ` X-User=["ann"] trailer=""`, "/unknown": ` trailer=""`} {
				req := newRequest(t, "POST", "http://"+g.addr+path, "hello", "X-User", "eve", "X-User", "eve2", "X_User", "eve")
				req.Trailer = http.Header{"X-User": {"eve"}}
				resp, body := do(t, client, req)
				if want := "POST " + path + " shop.example body=5hello" + want; resp.StatusCode != 200 || body != want {
					t.Errorf("%s, %v: got %d %s\nwant %s", name, pre, resp.StatusCode, body, want)
				}
			}
			client.CloseIdleConnections()
		}
	}
}

func TestAuthDenies(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		status int
		body   string
		fields map[string]string
		fault  string
	}{
		"401": {
			answer: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", "Basic")
				w.Header().Set("Content-Type", "text/html")
				w.Header().Set("X-Windrose-Fault", "forged")
				w.WriteHeader(401)
				_, _ = io.WriteString(w, "<p>who?")
			},
			status: 401, body: "<p>who?", fault: "denied",
			fields: map[string]string{"Www-Authenticate": "Basic", "Content-Type": "text/html", "X-Windrose-Fault": "denied", "Server": "windrose"},
		},
		"a redirect to a login": {
			answer: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/login", http.StatusFound) },
			status: 302, body: "<a href=\"/login\">Found</a>.\n\n", fault: "denied", fields: map[string]string{"Location": "/login"},
		},
		"a body without end": {
			answer: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Encoding", "br")
				w.WriteHeader(403)
				for range 1000 {
					if _, err := w.Write(make([]byte, 10_000)); err != nil {
						return
					}
				}
			},
			status: 403, body: "denied", fault: "denied", fields: map[string]string{"Content-Encoding": "", "Content-Type": "text/plain; charset=utf-8"},
		},
		"204 is no yes": {answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, status: 403, body: "denied", fault: "denied"},
		"500":           {answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, status: 503, body: "auth-failed", fault: "auth-failed"},
		"breaks off":    {answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, status: 503, body: "auth-failed", fault: "auth-failed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var reached, copied atomic.Int32
			main := service("s", backend(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
			m := service("m", backend(t, func(http.ResponseWriter, *http.Request) { copied.Add(1) }))
			rule := guarded(plan.Filter{Mirror: &plan.Mirror{Service: "m", Num: 1, Den: 1}}, asking(plan.Auth{Service: "a"}),
				plan.Filter{CORS: &plan.CORS{Origins: []string{"*"}}})
			g := start(t, 1, route("r", rule), main, m, service("a", backend(t, c.answer)))
			for proto, client := range clients() {
				client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
				resp, body := do(t, client, newRequest(t, "GET", "http://"+g.addr+"/", "", "Origin", "https://page.example"))
				if resp.StatusCode != c.status || !strings.HasPrefix(body, c.body) {
					t.Errorf("%s: got %d %q, want %d %q", proto, resp.StatusCode, body, c.status, c.body)
				}
				for field, want := range c.fields {
					if got := resp.Header.Get(field); got != want {
						t.Errorf("%s: %s is %q, want %q", proto, field, got, want)
					}
				}
				if got := resp.Header.Get("Access-Control-Allow-Origin"); got != "*" {
					t.Errorf("%s: a page may not see it: %q", proto, got)
				}
				resp, _ = do(t, client, newRequest(t, "OPTIONS", "http://"+g.addr+"/", "", "Origin", "https://page.example", "Access-Control-Request-Method", "GET"))
				if resp.StatusCode != 204 {
					t.Errorf("%s: a preflight got %d", proto, resp.StatusCode)
				}
				client.CloseIdleConnections()
			}
			for _, l := range g.wantLines(4) {
				if l.Method == "GET" && (l.Fault != c.fault || !strings.Contains(l.Reason, "authoriser a ")) {
					t.Errorf("the log says %+v", l)
				}
			}
			if reached.Load()+copied.Load() > 0 {
				t.Errorf("%d requests and %d copies went out", reached.Load(), copied.Load())
			}
		})
	}
}

// An authoriser that cannot be asked is no yes.
func TestAuthFailsClosed(t *testing.T) {
	hang := endpoint(t, func(p *peer) { p.request(); _, _ = p.r.ReadByte() })
	ok := answering(t, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
	for name, c := range map[string]struct {
		auth    plan.Part
		grpc    bool
		timeout time.Duration
		status  int
		fault   string
	}{
		"refuses":            {auth: service("a", closedAddr(t)), status: 503, fault: "auth-failed"},
		"no endpoint":        {auth: service("a"), status: 503, fault: "auth-failed"},
		"not there":          {auth: service("other"), status: 503, fault: "auth-failed"},
		"nonsense":           {auth: service("a", once(t, "hello?\r\n\r\n")), status: 503, fault: "auth-failed"},
		"breaks off":         {auth: service("a", once(t, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")), status: 503, fault: "auth-failed"},
		"two lengths":        {auth: service("a", once(t, "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n")), status: 503, fault: "auth-failed"},
		"switches protocols": {auth: service("a", once(t, "HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")), status: 503, fault: "auth-failed"},
		"hangs":              {auth: service("a", hang), timeout: 50 * time.Millisecond, status: 504, fault: "request-timeout"},
		"hangs for too long": {auth: service("a", hang), status: 503, fault: "auth-failed"},
		"gRPC that is HTTP":  {auth: h2cService("a", ok), grpc: true, status: 503, fault: "auth-failed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var reached atomic.Int32
			rule := guarded(asking(plan.Auth{Service: "a", GRPC: c.grpc}))
			rule.Timeouts.Request = c.timeout
			g := start(t, 1, route("r", rule), service("s", backend(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })), c.auth,
				settings(plan.Settings{AuthTimeout: 300 * time.Millisecond}))
			for proto, client := range clients() {
				resp, _ := do(t, client, newRequest(t, "GET", "http://"+g.addr+"/", ""))
				if resp.StatusCode != c.status || resp.Header.Get("X-Windrose-Fault") != c.fault {
					t.Errorf("%s: got %d %s, want %d %s", proto, resp.StatusCode, resp.Header.Get("X-Windrose-Fault"), c.status, c.fault)
				}
				client.CloseIdleConnections()
			}
			if reached.Load() > 0 {
				t.Error("a request went out")
			}
		})
	}
}

// A filter that cannot be carried out breaks what it is for.
func TestAuthThatCannotBeCarriedOut(t *testing.T) {
	g := start(t, 1, route("r", guarded(asking(plan.Auth{Service: "a", Path: "no slash"}))), service("s", backend(t, repeater)), service("a", backend(t, repeater)))
	if got := g.raw("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"); !strings.Contains(got, "500 ") || !strings.Contains(got, "rule-broken") {
		t.Errorf("got %q", got)
	}
	l := &plan.Listener{Sockets: []string{"tcp/" + g.addr}, Protocol: plan.HTTP, Filters: []plan.Filter{{RequestHeaders: &plan.HeaderEdit{}}}}
	g.use(route("r", guarded()), plan.Part{Key: plan.Key{Kind: plan.KindListener, Name: "l"}, Listener: l})
	if got := g.raw("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"); !strings.Contains(got, "500 ") || !strings.Contains(got, "rule-broken") {
		t.Errorf("got %q", got)
	}
}

func TestAuthIsToldTheBody(t *testing.T) {
	a := &authoriser{answer: func(http.ResponseWriter, *http.Request) {}}
	g := start(t, 1, route("r", guarded(asking(plan.Auth{Service: "a", MaxBody: 10}))), service("s", backend(t, repeater)), service("a", backend(t, a.ServeHTTP)))
	for name, client := range clients() {
		for _, size := range []int{0, 5, 10, 11, 200_000} {
			for _, length := range []bool{false, true} {
				text := strings.Repeat("x", size)
				req := newRequest(t, "POST", "http://"+g.addr+"/", text)
				if length {
					req = newRequest(t, "POST", "http://"+g.addr+"/", "")
					req.Body, req.ContentLength = io.NopCloser(strings.NewReader(text)), int64(size)
				}
				resp, body := do(t, client, req)
				if size > 10 {
					if resp.StatusCode != 413 || resp.Header.Get("X-Windrose-Fault") != "body-too-large" || len(a.take()) > 0 {
						t.Errorf("%s, %d, %v: got %d %s", name, size, length, resp.StatusCode, body)
					}
					continue
				}
				want := fmt.Sprintf("POST / shop.example body=%d%s trailer=%q", size, text, "")
				if resp.StatusCode != 200 || body != want {
					t.Errorf("%s, %d, %v: got %d %s, want %s", name, size, length, resp.StatusCode, body, want)
				}
				wantAsked := fmt.Sprintf("POST / shop.example length=%d body=%q ", size, text)
				if asked := a.take(); len(asked) != 1 || !strings.HasPrefix(asked[0], wantAsked) {
					t.Errorf("%s, %d, %v: asked %q, want %q", name, size, length, asked, wantAsked)
				}
			}
		}
		client.CloseIdleConnections()
	}
	// A client that waits to be told is told by windrose.
	p := g.dial()
	p.send("POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
	p.exactly("HTTP/1.1 100 Continue\r\n\r\n")
	p.send("hello")
	if resp, body := p.answer("POST"); resp.StatusCode != 200 || !strings.Contains(body, "body=5hello") {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
	// The connection is still good for another request.
	p.send("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /next HTTP/1.1\r\nhost: x\r\n\r\n")
	if resp, body := p.answer("POST"); resp.StatusCode != 200 || !strings.Contains(body, "body=3abc") {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
	if resp, body := p.answer("GET"); resp.StatusCode != 200 || !strings.HasPrefix(body, "GET /next ") {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
}

// A body that the authoriser is not told comes through whole.
func TestAuthWithALargeBody(t *testing.T) {
	a := &authoriser{answer: func(http.ResponseWriter, *http.Request) {}}
	g := start(t, 1, route("r", guarded(asking(plan.Auth{Service: "a"}))), service("s", backend(t, repeater)), service("a", backend(t, a.ServeHTTP)))
	for name, client := range clients() {
		resp, body := do(t, client, newRequest(t, "POST", "http://"+g.addr+"/", strings.Repeat("y", 1_000_000)))
		if want := `POST / shop.example body=1000000yyyyyyyyyy trailer=""`; resp.StatusCode != 200 || body != want {
			t.Errorf("%s: got %d %s", name, resp.StatusCode, body)
		}
		client.CloseIdleConnections()
	}
}

func TestAuthBeforeATunnel(t *testing.T) {
	allowed := "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
	up := endpoint(t, func(p *peer) {
		p.head()
		p.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
		p.exactly("ping")
		p.send("pong")
	})
	g := start(t, 1, route("r", guarded(asking(plan.Auth{Service: "a"}))), service("s", up), service("a", answering(t, allowed)))
	p := g.dial()
	p.send("GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
	if head := p.head(); !strings.HasPrefix(head, "HTTP/1.1 101 ") {
		t.Fatalf("got %q", head)
	}
	p.send("ping")
	p.exactly("pong")
}

// A client that leaves has its question given up; nothing is left behind.
func TestAuthWithoutClient(t *testing.T) {
	asked, gone := make(chan bool, 2), make(chan bool, 2)
	hang := endpoint(t, func(p *peer) { p.request(); asked <- true; _, _ = p.r.ReadByte(); gone <- true })
	g := start(t, 1, route("r", guarded(asking(plan.Auth{Service: "a"}))), service("s", backend(t, repeater)), service("a", hang))
	for name, client := range clients() {
		client.Timeout = 0
		req := newRequest(t, "GET", "http://"+g.addr+"/", "")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan bool)
		go func() {
			if resp, err := client.Do(req.WithContext(ctx)); err == nil {
				resp.Body.Close()
				t.Errorf("%s: got %d", name, resp.StatusCode)
			}
			close(done)
		}()
		<-asked
		cancel()
		<-done
		<-gone
		client.CloseIdleConnections()
	}
	for _, l := range g.wantLines(2) {
		if l.Fault != "client-gone" {
			t.Errorf("the log says %+v", l)
		}
	}
	if n := g.metric("windrose_requests_active"); n != 0 {
		t.Errorf("%v requests are active", n)
	}
}

// A listener's authoriser is asked before the rule is looked for, and what it says
// is matched.
// covers: GatewayListenerFilters
func TestAuthBeforeRouting(t *testing.T) {
	first := &authoriser{answer: func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(403)
			return
		}
		w.Header().Set("X-User", "t1")
	}}
	second := &authoriser{answer: func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Group", r.Header.Get("X-User")+"+") }}
	name := func(name string) string {
		return backend(t, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, name, " ", r.Header["X-User"], r.Header["X-Group"], r.Header["X-Static"])
		})
	}
	rule := guarded(plan.Filter{RequestHeaders: &plan.HeaderEdit{Set: []plan.Header{{Name: "X-Static", Value: "1"}}}})
	rule.Matches[0].Headers = []plan.NameMatch{{Name: "x-group", Value: "t1+"}}
	other := all(plan.Backend{Service: "other", Weight: 1})
	g := start(t, 1, route("r", rule, other), service("s", name("s")), service("other", name("other")),
		service("a", backend(t, first.ServeHTTP)), service("b", backend(t, second.ServeHTTP)))
	g.guardedListener(plan.Auth{Service: "a"}, plan.Auth{Service: "b", Headers: []string{"x-user"}})
	for proto, client := range clients() {
		resp, body := do(t, client, newRequest(t, "GET", "http://"+g.addr+"/", "", "X-User", "t2", "X-Group", "forged"))
		if want := "s [t1] [t1+] [1]"; resp.StatusCode != 200 || body != want {
			t.Errorf("%s: got %d %s, want %s", proto, resp.StatusCode, body, want)
		}
		first.take()
		second.take()
		resp, _ = do(t, client, newRequest(t, "GET", "http://"+g.addr+"/no", ""))
		if resp.StatusCode != 403 || len(first.take()) != 1 || len(second.take()) != 0 {
			t.Errorf("%s: got %d, and the second was asked", proto, resp.StatusCode)
		}
		client.CloseIdleConnections()
	}
	g.drop(plan.KindRoute, "r")
	if got := g.raw("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"); !strings.Contains(got, "404 ") || len(first.take()) != 1 {
		t.Errorf("got %q", got)
	}
	g.drop(plan.KindService, "a")
	if got := g.raw("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"); !strings.Contains(got, "503 ") {
		t.Errorf("got %q", got)
	}
}

// A backend's authoriser is asked only for the backend's share.
func TestAuthOfABackend(t *testing.T) {
	a := &authoriser{answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }}
	rule := all(plan.Backend{Service: "s", Weight: 1}, plan.Backend{Service: "s", Weight: 1, Filters: []plan.Filter{asking(plan.Auth{Service: "a"})}})
	g := start(t, 1, route("r", rule), service("s", backend(t, repeater)), service("a", backend(t, a.ServeHTTP)))
	codes := map[int]int{}
	for range 6 {
		resp, _ := do(t, http.DefaultClient, newRequest(t, "GET", "http://"+g.addr+"/", ""))
		codes[resp.StatusCode]++
	}
	if codes[200] != 3 || codes[403] != 3 {
		t.Errorf("got %v", codes)
	}
}

// Many at once: each gets its own answer, and nothing is held afterwards.
func TestAuthFlood(t *testing.T) {
	a := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "7") {
			w.WriteHeader(403)
			return
		}
		w.Header().Set("X-User", r.URL.Path)
	}))
	defer a.Close()
	g := start(t, 2, route("r", guarded(asking(plan.Auth{Service: "a", MaxBody: 1000}))), service("s", backend(t, repeater)), service("a", a.Listener.Addr().String()))
	for proto, client := range clients() {
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				path := fmt.Sprintf("/%d", i)
				resp, body := do(t, client, newRequest(t, "POST", "http://"+g.addr+path, path))
				if i%10 == 7 {
					if resp.StatusCode != 403 {
						t.Errorf("%s %s: got %d", proto, path, resp.StatusCode)
					}
					return
				}
				if want := fmt.Sprintf("X-User=[%q]", path); resp.StatusCode != 200 || !strings.Contains(body, want) {
					t.Errorf("%s %s: got %d %s", proto, path, resp.StatusCode, body)
				}
			})
		}
		wg.Wait()
		client.CloseIdleConnections()
	}
	if n := g.metric("windrose_authorizations_total"); n != 400 {
		t.Errorf("%v questions, want 400", n)
	}
	if n := g.metric("windrose_requests_active"); n != 0 {
		t.Errorf("%v requests are active", n)
	}
	if n := g.proxy.Gated(); n != 0 {
		t.Errorf("%d bytes are held", n)
	}
}

// A WebSocket over HTTP/2 is asked about as the GET that it stands for; what comes
// behind the request is no body, and waits.
func TestAuthBeforeAWebSocketOverH2(t *testing.T) {
	a := &authoriser{answer: func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.WriteHeader(401)
		}
	}}
	auth := service("a", backend(t, a.ServeHTTP))
	sockets(t, func(t *testing.T, parts []plan.Part) {
		parts[0] = route("r", guarded(asking(plan.Auth{Service: "a", MaxBody: 100})))
		g := start(t, 1, append(parts, auth)...)
		m := g.dialH2()
		m.connect("websocket")
		if e := m.until(h2.Head); e.status != 401 {
			t.Fatalf("got %+v, want 401", e)
		}
		m = g.dialH2()
		id := m.connect("websocket", "authorization", "me")
		m.push(id, "ping", false)
		if e := m.until(h2.Head); e.status != 200 {
			t.Fatalf("got %+v, want 200", e)
		}
		if got := m.pull(id, 4); got != "ping" {
			t.Fatalf("got %q, want ping", got)
		}
		if asked := a.take(); len(asked) != 2 || !strings.HasPrefix(asked[1], `GET /chat?a=b x length=0 body="" `) {
			t.Errorf("asked %q", asked)
		}
	})
}

// What many clients send for authorisers to be told is held within bounds, and
// given up with them.
func TestAuthHoldsWithinBounds(t *testing.T) {
	t.Parallel()
	g := start(t, 1, route("r", guarded(asking(plan.Auth{Service: "a", MaxBody: 8 << 20}))), service("s", backend(t, repeater)), service("a", backend(t, repeater)))
	piece := strings.Repeat("x", 7<<20)
	refused := make(chan string, 16)
	var peers []*peer
	for range 12 {
		p := g.dial()
		peers = append(peers, p)
		p.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 8000000\r\n\r\n")
		go func() {
			_, _ = io.WriteString(p, piece)
			head, _ := p.r.ReadString('\n')
			refused <- head
		}()
	}
	if head := <-refused; !strings.HasPrefix(head, "HTTP/1.1 503 ") {
		t.Errorf("got %q, want 503", head)
	}
	if n := g.proxy.Gated(); n > 65<<20 {
		t.Errorf("%d bytes are held", n)
	}
	for _, p := range peers {
		p.reset()
	}
	eventually(t, "nothing is held any more", func() bool { return g.proxy.Gated() == 0 && g.metric("windrose_requests_active") == 0 })
}

// A large body is told whole where the filter wants that.
func TestAuthIsToldALargeBody(t *testing.T) {
	a := &authoriser{answer: func(http.ResponseWriter, *http.Request) {}}
	for _, second := range []bool{false, true} {
		g := start(t, 1, route("r", guarded(asking(plan.Auth{Service: "a", MaxBody: 2 << 20}))), service("s", backend(t, repeater)), authService(t, "a", second, a))
		for name, client := range clients() {
			resp, body := do(t, client, newRequest(t, "POST", "http://"+g.addr+"/", strings.Repeat("z", 1_500_000)))
			if resp.StatusCode != 200 || body != `POST / shop.example body=1500000zzzzzzzzzz trailer=""` {
				t.Errorf("%s: got %d %s", name, resp.StatusCode, body)
			}
			if asked := a.take(); len(asked) != 1 || !strings.HasPrefix(asked[0], "POST / shop.example length=1500000 body=\"zzz") {
				t.Errorf("%s: asked %d times, or about another body: %.60q", name, len(asked), asked)
			}
			client.CloseIdleConnections()
		}
	}
}

// What an authoriser sends behind its answer is nobody's yes.
func TestAuthAnswersAreNotMixed(t *testing.T) {
	yes := "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
	for name, behind := range map[string]string{
		"in the same piece":      yes + yes,
		"in a body":              "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nHTTP" + yes,
		"behind a body too long": "HTTP/1.1 200 OK\r\ncontent-length: 70000\r\n\r\n" + strings.Repeat("x", 70_000) + yes,
		"behind a 304":           "HTTP/1.1 304 Not Modified\r\ncontent-length: 38\r\n\r\n" + yes,
	} {
		t.Run(name, func(t *testing.T) {
			var conns atomic.Int32
			auth := endpoint(t, func(p *peer) {
				first := conns.Add(1) == 1
				for {
					if req, _ := p.request(); req == nil {
						return
					}
					text := "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"
					if first {
						text, first = behind, false
					}
					if _, err := io.WriteString(p, text); err != nil {
						return
					}
				}
			})
			g := start(t, 1, route("r", guarded(asking(plan.Auth{Service: "a"}))), service("s", backend(t, repeater)), service("a", auth))
			p := g.dial()
			for i := range 4 {
				p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
				if resp, body := p.answer("GET"); i > 0 && resp.StatusCode != 403 {
					t.Errorf("request %d: got %d %s, want 403", i, resp.StatusCode, body)
				}
			}
		})
	}
}

// An authoriser that is spoken to under TLS is believed only with its certificate.
func TestAuthUnderTLS(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	for _, second := range []bool{false, true} {
		addr, _ := secureBackend(t, ca.certificate("auth.example", "", time.Hour), second, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-User", "ann") })
		protocol := plan.HTTP
		if second {
			protocol = plan.H2C
		}
		for believed, want := range map[*authority]int{ca: 200, other: 503} {
			auth := over(protocol, plan.BackendTLS{Hostname: "auth.example", Authorities: believed.pem()}, addr)
			auth.Key.Name = "a"
			g := start(t, 1, route("r", guarded(asking(plan.Auth{Service: "a"}))), service("s", backend(t, repeater)), auth)
			resp, body := do(t, http.DefaultClient, newRequest(t, "GET", "http://"+g.addr+"/", ""))
			if resp.StatusCode != want || strings.Contains(body, `X-User=["ann"]`) != (want == 200) || strings.Contains(body, "auth-failed") != (want == 503) {
				t.Errorf("HTTP/2 %v: got %d %s, want %d", second, resp.StatusCode, body, want)
			}
		}
	}
}

// Requests of HTTP/3 are asked about like others.
func TestAuthOverH3(t *testing.T) {
	a := &authoriser{answer: func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.WriteHeader(401)
		}
		w.Header().Set("X-User", "ann")
	}}
	rule := guarded(asking(plan.Auth{Service: "a", MaxBody: 100_000}))
	large := guarded(asking(plan.Auth{Service: "a"}))
	large.Matches = []plan.Match{{PathType: plan.PathPrefix, Path: "/large"}}
	g, addr := overQUIC(t, 1, service("s", backend(t, repeater)), service("a", backend(t, a.ServeHTTP)))
	g.use(plan.Part{Key: plan.Key{Kind: plan.KindRoute, Name: "r2"}, Route: &plan.Route{Attach: []plan.Attachment{{Listener: "tls"}}, Rules: []plan.Rule{rule, large}}})
	client := h3Client(t, addr)
	for _, c := range []struct {
		path   string
		size   int
		user   string
		status int
		want   string
	}{
		{"/a", 0, "", 401, ""},
		{"/a", 50_000, "", 401, ""},
		{"/a", 0, "me", 200, `POST /a shop.example body=0 X-User=["ann"]`},
		{"/a", 50_000, "me", 200, `POST /a shop.example body=50000hhhhhhhhhh X-User=["ann"]`},
		{"/a", 200_000, "me", 413, "body-too-large"},
		{"/large", 500_000, "me", 200, `POST /large shop.example body=500000hhhhhhhhhh X-User=["ann"]`},
	} {
		req := newRequest(t, "POST", "https://shop.example"+c.path, strings.Repeat("h", c.size), "X-User", "eve")
		if c.user != "" {
			req.Header.Set("Authorization", c.user)
		}
		resp, body := do(t, client, req)
		if resp.StatusCode != c.status || !strings.HasPrefix(body, c.want) {
			t.Errorf("%+v: got %d %s", c, resp.StatusCode, body)
		}
	}
	eventually(t, "nothing is held", func() bool { return g.proxy.Gated() == 0 && g.metric("windrose_requests_active") == 0 })
}
