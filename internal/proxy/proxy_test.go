package proxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/proxy"
	"windrose.dev/windrose/internal/record"
	"windrose.dev/windrose/internal/telemetry"
	"windrose.dev/windrose/internal/upstream"
)

// gateway is a proxy on loopback with the parts of a test.
type gateway struct {
	t       testing.TB
	proxy   *proxy.Proxy
	builder *plan.Builder
	table   *upstream.Table
	hub     *telemetry.Hub
	addr    string
	log     *lockedBuffer
	watch   atomic.Pointer[func(*record.Record)] // is told of each record
	cancel  context.CancelFunc                   // ends the loops
}

func freeAddr(tb testing.TB) netip.AddrPort {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	return netip.MustParseAddrPort(ln.Addr().String())
}

// start runs a gateway with one HTTP listener and the given parts.
func start(tb testing.TB, loops int, parts ...plan.Part) *gateway {
	tb.Helper()
	return startWith(tb, loops, nil, parts...)
}

// startWith is start with a way for spans.
func startWith(tb testing.TB, loops int, traces *telemetry.Traces, parts ...plan.Part) *gateway {
	tb.Helper()
	g := &gateway{t: tb, builder: plan.NewBuilder(), log: &lockedBuffer{}}
	logs := telemetry.NewLog(g.log, 0)
	hub := telemetry.NewHub(telemetry.Config{Log: logs, Traces: traces})
	p, err := proxy.New(proxy.Config{Loops: loops, Hub: hub, Log: func(m string, args ...any) { tb.Log(append([]any{m}, args...)...) }})
	if err != nil {
		tb.Fatal(err)
	}
	g.proxy, g.hub = p, hub
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	p.Watch(func(r *record.Record) {
		wantOrder(tb, r)
		if f := g.watch.Load(); f != nil {
			(*f)(r)
		}
	})
	logged := make(chan error, 1)
	logCtx, endLog := context.WithCancel(context.Background())
	go func() { logged <- logs.Run(logCtx) }()
	g.table = upstream.NewTable(ctx, upstream.Config{Changed: func() {}})
	addr := freeAddr(tb)
	g.addr = addr.String()
	g.use(append([]plan.Part{
		{Key: plan.Key{Kind: plan.KindSocket, Name: plan.SocketName(addr)}, Socket: &plan.Socket{Addr: addr}},
		{Key: plan.Key{Kind: plan.KindListener, Name: "l"}, Listener: &plan.Listener{Sockets: []string{plan.SocketName(addr)}, Protocol: plan.HTTP}},
	}, parts...)...)
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
		endLog()
		<-logged
	})
	return g
}

func (g *gateway) use(parts ...plan.Part) {
	g.t.Helper()
	g.apply(parts)
}

// drop removes a part.
func (g *gateway) drop(kind plan.Kind, name string) {
	g.t.Helper()
	g.apply(nil, plan.Key{Kind: kind, Name: name})
}

func (g *gateway) apply(parts []plan.Part, removed ...plan.Key) {
	g.t.Helper()
	next, problems := g.builder.Apply(parts, removed)
	for _, p := range problems {
		g.t.Logf("problem: %v", p)
	}
	for _, p := range g.proxy.Use(next, g.table.Use(next)) {
		g.t.Fatalf("use: %v", p)
	}
}

func route(name string, rules ...plan.Rule) plan.Part {
	return plan.Part{Key: plan.Key{Kind: plan.KindRoute, Name: name}, Route: &plan.Route{Attach: []plan.Attachment{{Listener: "l"}}, Rules: rules}}
}

func all(backends ...plan.Backend) plan.Rule {
	return plan.Rule{Matches: []plan.Match{{PathType: plan.PathPrefix, Path: "/"}}, Backends: backends}
}

func service(name string, addrs ...string) plan.Part {
	s := &plan.Service{Protocol: plan.HTTP}
	for _, a := range addrs {
		s.Endpoints = append(s.Endpoints, plan.Endpoint{Addr: netip.MustParseAddrPort(a)})
	}
	return plan.Part{Key: plan.Key{Kind: plan.KindService, Name: name}, Service: s}
}

func backend(tb testing.TB, h http.HandlerFunc) string {
	tb.Helper()
	s := httptest.NewServer(h)
	tb.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// raw sends text on a new connection and returns all that comes back until the
// gateway closes.
func (g *gateway) raw(text string) string {
	g.t.Helper()
	c, err := net.Dial("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		g.t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		g.t.Fatalf("read: %v after %q", err, b)
	}
	return string(b)
}

func TestRequestIsForwardedAndAnswered(t *testing.T) {
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s host=%s for=%s proto=%s id=%d body=%q", r.Method, r.URL, r.Host,
			r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"), len(r.Header.Get("X-Request-Id")), body)
	})
	g := start(t, 1, route("r", all(plan.Backend{Service: "s", Weight: 1})), service("s", b))
	for _, c := range []struct{ name, request, want string }{
		{"a plain GET", "GET /a?b=c HTTP/1.1\r\nhost: x.example\r\nconnection: close\r\n\r\n", `GET /a?b=c host=x.example for=127.0.0.1 proto=http id=32 body=""`},
		{"a forged X-Forwarded-For is replaced", "GET / HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 1.2.3.4\r\nconnection: close\r\n\r\n", "for=127.0.0.1 "},
		{"a body with its length", "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello", `body="hello"`},
		{"a chunked body", "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", `body="hello"`},
		{"HTTP/1.0 without a host", "GET / HTTP/1.0\r\n\r\n", "200 OK"},
		{"a path is normalised", "GET /a/%2e%2e/%62 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "GET /b "},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := g.raw(c.request); !strings.Contains(got, c.want) {
				t.Errorf("got %q, want it to contain %q", got, c.want)
			}
		})
	}
}

func TestKeepAliveAndPipelining(t *testing.T) {
	b := backend(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) })
	g := start(t, 1, route("r", all(plan.Backend{Service: "s", Weight: 1})), service("s", b))
	var text strings.Builder
	const n = 200
	for i := range n {
		fmt.Fprintf(&text, "GET /%d HTTP/1.1\r\nhost: x\r\n\r\n", i)
	}
	c, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, text.String()); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	for i := range n {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		body, _ := io.ReadAll(resp.Body)
		if want := fmt.Sprintf("/%d", i); string(body) != want {
			t.Fatalf("answer %d: got %q, want %q", i, body, want)
		}
	}
}
