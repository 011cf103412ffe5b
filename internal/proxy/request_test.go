package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"windrose.dev/windrose/internal/plan"
)

func TestExpectContinue(t *testing.T) {
	b := endpoint(t, func(p *peer) {
		for {
			head := p.head()
			if strings.Contains(head, "/no ") {
				p.send("HTTP/1.1 417 No\r\ncontent-length: 0\r\n\r\n")
				return
			}
			p.send("HTTP/1.1 100 Continue\r\n\r\n")
			p.exactly("hello")
			p.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
			if strings.Contains(head, "/last ") {
				return
			}
		}
	})
	g := start(t, 1, to(b)...)
	p := g.dial()
	p.send("PUT /last HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
	p.exactly("HTTP/1.1 100 Continue\r\n\r\n")
	p.send("hello")
	if resp, _ := p.answer("PUT"); resp.StatusCode != 200 {
		t.Errorf("got %d, want 200", resp.StatusCode)
	}
	// The body is not wanted: the connection cannot go on, as the client may send
	// it or not.
	p.send("PUT /no HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
	resp, _ := p.answer("PUT")
	if resp.StatusCode != 417 || !resp.Close {
		t.Errorf("got %d close=%v, want 417 and close", resp.StatusCode, resp.Close)
	}
	if rest := p.rest(); rest != "" {
		t.Errorf("got %q behind the answer", rest)
	}
	g.wantLines(2)
}

func TestRequestTrailersPass(t *testing.T) {
	b := endpoint(t, func(p *peer) {
		if head := p.head(); !strings.Contains(head, "trailer: x-t\r\n") || !strings.Contains(head, "te: trailers\r\n") {
			t.Errorf("head is %q, want trailer and te in it", head)
		}
		p.exactly("3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n")
		p.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
	})
	g := start(t, 1, to(b)...)
	p := g.dial()
	p.send("POST / HTTP/1.1\r\nhost: x\r\nte: trailers\r\nconnection: te\r\ntrailer: x-t\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-t: 1\r\nhost: evil\r\n\r\n")
	if resp, _ := p.answer("POST"); resp.StatusCode != 200 {
		t.Errorf("got %d, want 200", resp.StatusCode)
	}
}

func TestPipeliningAcrossBodiesAndFaults(t *testing.T) {
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %q", r.URL.Path, body)
	})
	r := all(plan.Backend{Service: "s", Weight: 1})
	r.Matches[0].Path = "/ok"
	g := start(t, 1, route("r", r), service("s", b))
	p := g.dial()
	p.send("POST /ok/1 HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc" +
		"GET /none HTTP/1.1\r\nhost: x\r\n\r\n" +
		"POST /ok/2 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n" +
		"HEAD /none HTTP/1.1\r\nhost: x\r\n\r\n" +
		"GET /ok/3 HTTP/1.1\r\nhost: x\r\n\r\n" +
		"BAD\r\n\r\nGET /ok/never HTTP/1.1\r\nhost: x\r\n\r\n")
	for i, want := range []struct {
		method string
		status int
		body   string
	}{{"POST", 200, `/ok/1 "abc"`}, {"GET", 404, ""}, {"POST", 200, `/ok/2 "de"`}, {"HEAD", 404, ""}, {"GET", 200, `/ok/3 ""`}, {"GET", 400, ""}} {
		resp, body := p.answer(want.method)
		if resp.StatusCode != want.status || want.body != "" && body != want.body {
			t.Fatalf("answer %d: got %d %q, want %d %q", i, resp.StatusCode, body, want.status, want.body)
		}
	}
	if rest := p.rest(); rest != "" {
		t.Errorf("got %q behind the last answer", rest)
	}
	g.wantLines(6)
}

func TestFaults(t *testing.T) {
	gone := plan.Backend{Service: "gone", Weight: 1, Broken: &plan.Broken{Status: 500, Reason: "service default/gone:80 does not exist"}}
	at := func(path string, r plan.Rule) plan.Rule {
		r.Matches = []plan.Match{{PathType: plan.PathPrefix, Path: path}}
		return r
	}
	g := start(t, 1, route("r",
		at("/gone", plan.Rule{Backends: []plan.Backend{gone}}),
		at("/broken", plan.Rule{Broken: &plan.Broken{Status: 500, Reason: "rule 2 has a filter of type ExtensionRef"}}),
		at("/none", plan.Rule{}),
		at("/zero", plan.Rule{Backends: []plan.Backend{{Service: "empty", Weight: 0}}}),
		at("/empty", plan.Rule{Backends: []plan.Backend{{Service: "empty", Weight: 1}}}),
		at("/refused", plan.Rule{Backends: []plan.Backend{{Service: "refused", Weight: 1}}}),
	), service("empty"), service("refused", closedAddr(t), closedAddr(t)),
		settings(plan.Settings{MaxHeaderBytes: 2048, MaxURIBytes: 200, MaxHeaders: 20}))
	const host = " HTTP/1.1\r\nhost: x\r\n"
	for _, c := range []struct {
		name, request string
		status        int
		flag, text    string
	}{
		{"no rule", "GET /nowhere" + host + "\r\n", 404, "no-route", "no rule of listener l"},
		{"missing service", "GET /gone" + host + "\r\n", 500, "backend-missing", "service default/gone:80 does not exist"},
		{"broken rule", "GET /broken" + host + "\r\n", 500, "rule-broken", "rule 2 has a filter"},
		{"no backend", "GET /none" + host + "\r\n", 500, "no-backend", "weight above zero"},
		{"weight zero", "GET /zero" + host + "\r\n", 500, "no-backend", "weight above zero"},
		{"no endpoint", "GET /empty" + host + "\r\n", 503, "no-endpoint", "service empty has no ready endpoint"},
		{"all refuse", "GET /refused" + host + "\r\n", 503, "connect-failed", "no endpoint of service refused accepted a connection; the last was 127.0.0.1:"},
		{"CONNECT", "CONNECT x:1 HTTP/1.1\r\nhost: x:1\r\n\r\n", 501, "not-supported", "CONNECT"},
		{"long target", "GET /" + strings.Repeat("a", 300) + host + "\r\n", 414, "uri-too-long", "target"},
		{"large head", "GET /" + host + "a: " + strings.Repeat("a", 3000) + "\r\n\r\n", 431, "headers-too-large", "larger"},
		{"many headers", "GET /" + host + strings.Repeat("a: b\r\n", 30) + "\r\n", 431, "headers-too-large", ""},
		{"bad path", "GET /%00" + host + "\r\n", 400, "bad-request", ""},
		{"TLS on a plain port", "\x16\x03\x01\x02\x00\x01", 400, "bad-request", "TLS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := g.dial()
			p.send(c.request)
			resp, body := p.answer("GET")
			if resp.StatusCode != c.status || resp.Header.Get("X-Windrose-Fault") != c.flag {
				t.Errorf("got %d %q, want %d %q", resp.StatusCode, resp.Header.Get("X-Windrose-Fault"), c.status, c.flag)
			}
			if !strings.HasPrefix(body, c.flag+": ") || !strings.Contains(body, c.text) || !strings.Contains(body, resp.Header.Get("X-Request-Id")) {
				t.Errorf("body is %q, want flag, %q and the request id", body, c.text)
			}
		})
	}
	lines := g.wantLines(13)
	for _, i := range []int{9, 10} { // what of a refused head was understood is in the log
		if l := lines[i]; l.Method != "GET" || l.Path != "/" {
			t.Errorf("record: got %+v, want GET /", l)
		}
	}
}

// covers: HTTPRouteTimeoutRequest HTTPRouteTimeoutBackendRequest
func TestTimeouts(t *testing.T) {
	silent := endpoint(t, func(p *peer) { p.head(); _, _ = io.Copy(io.Discard, p.r) })
	half := endpoint(t, func(p *peer) {
		p.head()
		p.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
		_, _ = io.Copy(io.Discard, p.r)
	})
	const short, long = 60 * time.Millisecond, time.Minute
	times := func(b string, request, backend time.Duration) []plan.Part {
		r := all(plan.Backend{Service: "s", Weight: 1})
		r.Timeouts = plan.Timeouts{Request: request, Backend: backend}
		return []plan.Part{route("r", r), service("s", b)}
	}
	for _, c := range []struct {
		name     string
		parts    []plan.Part
		settings plan.Settings
		send     string
		status   int
		flag     string
		cut      bool // in the middle of the answer
	}{
		{name: "headers that do not end", settings: plan.Settings{HeaderTimeout: short}, send: "GET / HTTP/1.1\r\nho", status: 408, flag: "header-timeout"},
		{name: "body falls silent", parts: to(silent), settings: plan.Settings{BodyTimeout: short}, send: "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab", status: 408, flag: "body-timeout"},
		{name: "endpoint says nothing", parts: to(silent), settings: plan.Settings{BodyTimeout: short}, send: "GET / HTTP/1.1\r\nhost: x\r\n\r\n", status: 504, flag: "backend-timeout"},
		{name: "timeouts.request", parts: times(silent, short, long), send: "GET / HTTP/1.1\r\nhost: x\r\n\r\n", status: 504, flag: "request-timeout"},
		{name: "timeouts.backendRequest", parts: times(silent, long, short), send: "GET / HTTP/1.1\r\nhost: x\r\n\r\n", status: 504, flag: "backend-timeout"},
		{name: "answer falls silent", parts: to(half), settings: plan.Settings{BodyTimeout: short}, send: "GET / HTTP/1.1\r\nhost: x\r\n\r\n", status: 200, flag: "backend-timeout", cut: true},
		{name: "timeouts.request within the answer", parts: times(half, short, 0), send: "GET / HTTP/1.1\r\nhost: x\r\n\r\n", status: 200, flag: "request-timeout", cut: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := start(t, 1, append(c.parts, settings(c.settings))...)
			p := g.dial()
			p.send(c.send)
			resp, err := http.ReadResponse(p.r, nil)
			if err == nil && !c.cut && (resp.StatusCode != c.status || resp.Header.Get("X-Windrose-Fault") != c.flag) {
				t.Errorf("got %d %q, want %d %q", resp.StatusCode, resp.Header.Get("X-Windrose-Fault"), c.status, c.flag)
			}
			if err == nil {
				_, err = io.ReadAll(resp.Body)
			}
			if cutOff(err) != c.cut {
				t.Errorf("end of the answer: %v, want cut off=%v", err, c.cut)
			}
			if l := g.wantLines(1)[0]; l.Status != c.status || l.Fault != c.flag {
				t.Errorf("record: got %+v, want %d %s", l, c.status, c.flag)
			}
		})
	}
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	g := start(t, 1, append(to(answering(t, "")), settings(plan.Settings{IdleTimeout: 50 * time.Millisecond, HeaderTimeout: 50 * time.Millisecond}))...)
	silent, used := g.dial(), g.dial()
	used.send("GET /next HTTP/1.1\r\nhost: x\r\n\r\n")
	used.answer("GET")
	for name, p := range map[string]*peer{"before its first request": silent, "between requests": used} {
		if rest := p.rest(); rest != "" {
			t.Errorf("%s: got %q, want the end without a word", name, rest)
		}
	}
	eventually(t, "no connection is left", func() bool { return g.proxy.Connections() == 0 })
	g.wantLines(1)
}

func TestClientThatLeavesCancelsItsRequest(t *testing.T) {
	for _, c := range []struct {
		name  string
		leave func(p *peer)
	}{
		{"closing", func(p *peer) { p.Close() }},
		{"with a reset", (*peer).reset},
	} {
		t.Run(c.name, func(t *testing.T) {
			came, left := make(chan struct{}), make(chan struct{})
			b := endpoint(t, func(p *peer) {
				p.head()
				close(came)
				_, _ = io.Copy(io.Discard, p.r)
				close(left)
			})
			g := start(t, 1, to(b)...)
			p := g.dial()
			p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
			<-came
			c.leave(p)
			<-left
			if l := g.wantLines(1)[0]; l.Status != 499 || l.Fault != "client-gone" {
				t.Errorf("record: got %+v, want 499 client-gone", l)
			}
		})
	}
}

func TestNextEndpointIsAskedWhereOneRefuses(t *testing.T) {
	b := backend(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	g := start(t, 1, to(closedAddr(t), b)...)
	for range 20 {
		p := g.dial()
		p.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello")
		if resp, body := p.answer("POST"); resp.StatusCode != 200 || body != "hello" {
			t.Fatalf("got %d %q, want 200 hello", resp.StatusCode, body)
		}
	}
}

// A listening socket whose queue is full lets connections hang.
func TestConnectTimeoutAsksTheNextEndpoint(t *testing.T) {
	hole := fullQueue(t)
	b := backend(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") })
	g := start(t, 1, append(to(hole, b), settings(plan.Settings{ConnectTimeout: 50 * time.Millisecond}))...)
	for range 10 {
		p := g.dial()
		p.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
		if resp, body := p.answer("POST"); resp.StatusCode != 200 || body != "ok" {
			t.Fatalf("got %d %q, want 200 ok", resp.StatusCode, body)
		}
	}
	g.use(service("s", hole))
	p := g.dial()
	p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
	if resp, _ := p.answer("GET"); resp.StatusCode != 503 || resp.Header.Get("X-Windrose-Fault") != "connect-failed" {
		t.Errorf("got %d %q, want 503 connect-failed", resp.StatusCode, resp.Header.Get("X-Windrose-Fault"))
	}
}

// closing is an endpoint that answers the first request of each connection and
// closes the connection upon the second without a word. It counts requests.
func closing(tb testing.TB, seen *atomic.Int64) string {
	return endpoint(tb, func(p *peer) {
		for i := range 2 {
			req, _ := p.request()
			if req == nil {
				return
			}
			seen.Add(1)
			if i == 0 {
				p.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
			}
		}
	})
}

func TestPooledConnectionClosedUponUse(t *testing.T) {
	for _, c := range []struct {
		name, request string
		status        int
		seen          int64
	}{
		{"a GET is repeated once", "GET / HTTP/1.1\r\nhost: x\r\n\r\n", 200, 3},
		{"a PUT with its body is repeated once", "PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nab", 200, 3},
		{"a POST is never sent twice", "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nab", 502, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			var seen atomic.Int64
			g := start(t, 1, to(closing(t, &seen))...)
			p := g.dial()
			p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
			p.answer("GET")
			p.send(c.request)
			if resp, _ := p.answer("GET"); resp.StatusCode != c.status {
				t.Errorf("got %d, want %d", resp.StatusCode, c.status)
			}
			if got := seen.Load(); got != c.seen {
				t.Errorf("the endpoint saw %d requests, want %d", got, c.seen)
			}
			g.wantLines(2)
		})
	}
}

// An endpoint that restarts has closed all pooled connections: nobody notices.
func TestPoolOfARestartedEndpoint(t *testing.T) {
	var conns sync.Map
	b := endpoint(t, func(p *peer) {
		conns.Store(p, true)
		for {
			if req, _ := p.request(); req == nil {
				return
			}
			p.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
		}
	})
	g := start(t, 1, to(b)...)
	for range 5 {
		var wg sync.WaitGroup
		for range 8 {
			p := g.dial()
			wg.Go(func() {
				for range 5 {
					p.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\na")
					if resp, _ := p.answer("POST"); resp.StatusCode != 200 {
						t.Errorf("got %d, want 200", resp.StatusCode)
					}
				}
			})
		}
		wg.Wait()
		conns.Range(func(p, _ any) bool { conns.Delete(p); p.(*peer).Close(); return true })
	}
	g.wantLines(200)
}

// What an endpoint says unasked on an idle connection must not become the
// answer to somebody's next request.
func TestUnaskedAnswerIsNotUsed(t *testing.T) {
	b := endpoint(t, func(p *peer) {
		if req, _ := p.request(); req == nil {
			return
		}
		p.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nmineHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")
		p.request()
	})
	g := start(t, 1, to(b)...)
	p := g.dial()
	for range 50 {
		p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
		if _, body := p.answer("GET"); body != "mine" {
			t.Fatalf("got %q, want %q", body, "mine")
		}
	}
}

func TestAbsoluteForm(t *testing.T) {
	b := backend(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Host, " ", r.URL) })
	g := start(t, 1, to(b)...)
	p := g.dial()
	p.send("GET http://a.example/x?y HTTP/1.1\r\nhost: b.example\r\n\r\n")
	if _, body := p.answer("GET"); body != "a.example /x?y" {
		t.Errorf("got %q, want %q", body, "a.example /x?y")
	}
}

// The body of a pipelined request may come while the request before is served.
func TestBodyThatComesWhileAnotherRequestIsServed(t *testing.T) {
	came, answer := make(chan struct{}), make(chan struct{})
	b := endpoint(t, func(p *peer) {
		p.request()
		close(came)
		<-answer
		p.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
		_, body := p.request()
		p.send(fmt.Sprintf("HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s", len(body), body))
	})
	g := start(t, 1, to(b)...)
	p := g.dial()
	p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\nPOST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n")
	<-came
	p.send("hello")
	p.waitSent()
	close(answer)
	p.answer("GET")
	if _, body := p.answer("POST"); body != "hello" {
		t.Errorf("got %q, want %q", body, "hello")
	}
}
