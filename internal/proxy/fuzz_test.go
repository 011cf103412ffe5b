package proxy_test

import (
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"windrose.dev/windrose/internal/plan"
)

// FuzzProxy sends arbitrary bytes of a client and of an endpoint through a
// gateway: nothing may break down, hang, or leave a request without its record.
func FuzzProxy(f *testing.F) {
	for _, request := range []string{
		"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
		"GET / HTTP/1.0\r\n\r\n",
		"HEAD / HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
		"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc",
		"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\n",
		"PUT /a HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n",
		upgrade + "hello",
		"GET / HTTP/1.1\r\n",
	} {
		for _, answer := range []string{
			"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
			"HTTP/1.1 200 OK\r\n\r\nuntil the end",
			"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx: y\r\n\r\n",
			"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
			"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello",
			"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nshort",
			"nonsense\r\n\r\n",
			"",
		} {
			f.Add([]byte(request), []byte(answer))
		}
	}
	const short = 20 * time.Millisecond
	var answer atomic.Pointer[[]byte]
	b := endpoint(f, func(p *peer) {
		var head [4096]byte
		if _, err := p.Read(head[:]); err != nil {
			return
		}
		_, _ = p.Write(*answer.Load())
		if len(*answer.Load())%3 == 0 {
			return // ends at once
		}
		_ = p.SetReadDeadline(time.Now().Add(short))
		_, _ = io.Copy(io.Discard, p.r)
	})
	g := start(f, 1, append(to(b), settings(plan.Settings{
		AccessLog: plan.AccessLog{Mode: plan.LogOff}, HeaderTimeout: short, IdleTimeout: short, BodyTimeout: short, TunnelTimeout: short,
	}))...)
	f.Fuzz(func(t *testing.T, request, reply []byte) {
		here := &gateway{t: t, proxy: g.proxy, hub: g.hub}
		answer.Store(&reply)
		c, err := net.Dial("tcp", g.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		go func() {
			_, _ = c.Write(request)
			if len(request)%2 == 0 {
				_ = c.(*net.TCPConn).CloseWrite()
			}
		}()
		got, err := io.ReadAll(c)
		if e, ok := err.(net.Error); ok && e.Timeout() { //nolint:errorlint // net gives it so
			t.Fatalf("the connection hangs after %q", got)
		}
		if len(got) > 0 && !strings.HasPrefix(string(got), "HTTP/1.1 ") {
			t.Errorf("got %q, which does not begin with an answer", got)
		}
		c.Close()
		eventually(t, "the connection is gone", func() bool { return g.proxy.Connections() == 0 })
		for _, name := range []string{"windrose_requests_active", "windrose_tunnels_active", "windrose_panics_total"} {
			if n := here.metric(name); n != 0 {
				t.Errorf("%s is %v, want 0", name, n)
			}
		}
	})
}
