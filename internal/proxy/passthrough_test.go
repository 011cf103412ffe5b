package proxy_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/telemetry"
)

// tlsParrot is an endpoint that speaks TLS and sends back what it gets.
func tlsParrot(tb testing.TB, part plan.Part) string {
	tb.Helper()
	cert, err := tls.X509KeyPair(part.Certificate.Chain, part.Certificate.Key)
	if err != nil {
		tb.Fatal(err)
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"echo/1"}}
	return endpoint(tb, func(p *peer) {
		c := tls.Server(p.Conn, cfg)
		_, _ = io.Copy(onlyWriter{c}, c)
		_ = c.CloseWrite()
	})
}

// shared is a gateway with one socket for three listeners: HTTPS for
// web.example, TLS that ends here for *.end.example, and TLS that passes through
// for pass.example and *.pass.example.
func shared(t *testing.T, loops int, more ...plan.Part) (*gateway, string) {
	t.Helper()
	inner := certificate(t, "inner", false, "pass.example")
	web := answering(t, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nweb")
	g := start(t, loops, append(more, service("web", web), service("plain", parrot(t)), service("secure", tlsParrot(t, inner)), service("none"))...)
	addr := g.listen("web", plan.Listener{Protocol: plan.HTTPS, Hostname: "web.example", Certificates: []string{"web"}}, certificate(t, "web", false, "web.example"))
	sockets := []string{"tcp/" + addr}
	attach := func(name, listener, host, service string) plan.Part {
		return plan.Part{Key: plan.Key{Kind: plan.KindRoute, Name: name}, Route: &plan.Route{
			Attach: []plan.Attachment{{Listener: listener, Host: host}}, Rules: []plan.Rule{all(plan.Backend{Service: service, Weight: 1})},
		}}
	}
	listener := func(name string, l plan.Listener) plan.Part {
		l.Sockets = sockets
		return plan.Part{Key: plan.Key{Kind: plan.KindListener, Name: name}, Listener: &l}
	}
	g.use(
		certificate(t, "end", false, "*.end.example"),
		listener("end", plan.Listener{Protocol: plan.TLS, Hostname: "*.end.example", Certificates: []string{"end"}}),
		listener("pass", plan.Listener{Protocol: plan.TLS, Hostname: "pass.example", Passthrough: true}),
		listener("any", plan.Listener{Protocol: plan.TLS, Hostname: "*.pass.example", Passthrough: true}),
		attach("web", "web", "web.example", "web"), attach("end", "end", "*.end.example", "plain"),
		attach("pass", "pass", "pass.example", "secure"), attach("any", "any", "a.pass.example", "secure"), attach("none", "any", "none.pass.example", "none"),
	)
	return g, addr
}

// covers: TLSRouteSimpleSameNamespace TLSRouteMixedTerminationSameNamespace
func TestTLSByServerName(t *testing.T) {
	g, addr := shared(t, 2)
	g.hub.Use(1, telemetry.Names{Sockets: []string{"tcp/" + addr}}, telemetry.Names{})
	t.Run("passthrough", func(t *testing.T) {
		for _, name := range []string{"pass.example", "a.pass.example", "A.Pass.Example"} {
			p := dialTLS(t, addr, &tls.Config{ServerName: name, NextProtos: []string{"echo/1"}})
			state := p.Conn.(*tls.Conn).ConnectionState()
			if got := state.PeerCertificates[0].Subject.CommonName; got != "inner" || state.NegotiatedProtocol != "echo/1" {
				t.Errorf("%s: got certificate %q and protocol %q, want the service's", name, got, state.NegotiatedProtocol)
			}
			p.send("through")
			p.exactly("through")
			_ = p.Conn.(*tls.Conn).CloseWrite()
			if got := p.rest(); got != "" {
				t.Errorf("got %q behind the end", got)
			}
			p.Close()
		}
		for _, l := range g.streamLines(3) {
			if l.Protocol != "TLS" || l.TLS != "" || !strings.EqualFold(strings.TrimPrefix(l.Host, "a."), "pass.example") && !strings.EqualFold(l.Host, "a.pass.example") || l.Service != "secure" || l.BytesIn < 200 || l.Fault != "" {
				t.Errorf("record: got %+v", l)
			}
		}
	})
	t.Run("ended here", func(t *testing.T) {
		p := dialTLS(t, addr, &tls.Config{ServerName: "x.end.example", NextProtos: []string{"nobody/7"}})
		state := p.Conn.(*tls.Conn).ConnectionState()
		if got := state.PeerCertificates[0].Subject.CommonName; got != "end" || state.NegotiatedProtocol != "" {
			t.Errorf("got certificate %q and protocol %q", got, state.NegotiatedProtocol)
		}
		p.send("in the clear behind")
		p.exactly("in the clear behind")
		_ = p.Conn.(*tls.Conn).CloseWrite()
		if got := p.rest(); got != "" {
			t.Errorf("got %q behind the end", got)
		}
		if l := g.streamLines(4)[3]; l.Protocol != "TLS" || l.TLS != "TLS1.3" || l.Host != "x.end.example" || l.BytesIn != 19 || l.BytesOut != 19 || l.Fault != "" {
			t.Errorf("record: got %+v", l)
		}
	})
	t.Run("HTTPS beside them", func(t *testing.T) {
		p := dialTLS(t, addr, &tls.Config{ServerName: "web.example"})
		for range 3 {
			p.send("GET / HTTP/1.1\r\nhost: web.example\r\n\r\n")
			if resp, body := p.answer("GET"); resp.StatusCode != 200 || body != "web" {
				t.Fatalf("got %d %q", resp.StatusCode, body)
			}
		}
		// A Host header must not lead around the handshake.
		for _, host := range []string{"pass.example", "x.end.example"} {
			q := dialTLS(t, addr, &tls.Config{ServerName: "web.example"})
			q.send("GET / HTTP/1.1\r\nhost: " + host + "\r\n\r\n")
			if resp, _ := q.answer("GET"); resp.StatusCode != 421 {
				t.Errorf("host %s: got %d, want 421", host, resp.StatusCode)
			}
		}
	})
	if n := g.metric("windrose_connections_accepted_total"); n != 7 {
		t.Errorf("accepted: got %v, want 7: one that is handed over counts once", n)
	}
}

func TestTLSNobodyServes(t *testing.T) {
	t.Parallel()
	g, addr := shared(t, 1)
	for i, c := range []struct{ name, sni, alert, fault string }{
		{"an unknown name", "who.example", "unrecognized name", "no-route"},
		{"no name", "", "unrecognized name", "no-route"},
		{"a listener without a route for it", "b.pass.example", "internal error", "no-route"},
		{"a service without endpoints", "none.pass.example", "internal error", "no-endpoint"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := tls.Dial("tcp", addr, &tls.Config{ServerName: c.sni, InsecureSkipVerify: true})
			if err == nil || !strings.Contains(err.Error(), c.alert) {
				t.Errorf("the client saw %v, want the alert %q", err, c.alert)
			}
			if l := g.streamLines(i + 1)[i]; l.Fault != c.fault || l.Host != c.sni || l.Protocol != "TLS" {
				t.Errorf("record: got %+v", l)
			}
		})
	}
	eventually(t, "nothing is left", func() bool { return g.proxy.Connections() == 0 })
}

func TestTLSNotTLS(t *testing.T) {
	g, addr := shared(t, 1)
	p := dialTCP(t, addr)
	p.send("GET / HTTP/1.1\r\nhost: pass.example\r\n\r\n")
	if _, err := p.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the client saw %v", err)
	}
	if l := g.streamLines(1)[0]; l.Fault != "bad-request" {
		t.Errorf("record: got %+v", l)
	}
}

// A hello that comes in pieces is waited for, within the handshake timeout.
func TestTLSHelloInPieces(t *testing.T) {
	t.Parallel()
	_, addr := shared(t, 1)
	client, wire := net.Pipe()
	defer client.Close()
	done := make(chan error, 1)
	secure := tls.Client(client, &tls.Config{ServerName: "pass.example", InsecureSkipVerify: true})
	go func() { done <- secure.Handshake() }()
	p := dialTCP(t, addr)
	first := make([]byte, 1<<14)
	n, err := wire.Read(first)
	if err != nil {
		t.Fatal(err)
	}
	for piece := first[:n]; len(piece) > 0; {
		m := min(len(piece), max(1, n/40))
		if _, err := p.Write(piece[:m]); err != nil {
			t.Fatal(err)
		}
		p.waitSent()
		piece = piece[m:]
	}
	go func() { _, _ = io.Copy(wire, p.Conn) }()
	go func() { _, _ = io.Copy(onlyWriter{p.Conn}, wire) }()
	if err := <-done; err != nil {
		t.Errorf("handshake: %v", err)
	}
}

func TestTLSHelloTimeout(t *testing.T) {
	t.Parallel()
	g, addr := shared(t, 1, settings(plan.Settings{HandshakeTimeout: 100 * time.Millisecond}))
	p := dialTCP(t, addr)
	_, _ = p.Write([]byte{22, 3, 1, 2, 0, 1, 0})
	if _, err := p.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the client saw %v", err)
	}
	if l := g.streamLines(1)[0]; l.Fault != "header-timeout" {
		t.Errorf("record: got %+v", l)
	}
	q := dialTCP(t, addr)
	_, _ = q.Write([]byte{22, 3, 1, 2, 0, 1, 0})
	q.Close() // leaves no record: it never came to be anything
	eventually(t, "nothing is left", func() bool { return g.proxy.Connections() == 0 })
	if n := len(g.lines()); n != 1 {
		t.Errorf("got %d records, want 1", n)
	}
}

// Much goes both ways through a handshake that is made here, and its end comes
// through with nothing lost.
func TestTLSEndedHereBulk(t *testing.T) {
	g, addr := shared(t, 2)
	p := dialTLS(t, addr, &tls.Config{ServerName: "x.end.example"})
	data := make([]byte, 32<<20)
	_, _ = (&noise{}).Read(data)
	_ = p.SetDeadline(time.Now().Add(time.Minute))
	sent := make(chan error, 1)
	go func() {
		_, err := p.Write(data)
		_ = p.Conn.(*tls.Conn).CloseWrite()
		sent <- err
	}()
	got, err := io.ReadAll(p.r)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d bytes back (%v) that are not the %d sent", len(got), err, len(data))
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if l := g.streamLines(1)[0]; l.BytesIn != int64(len(data)) || l.BytesOut != int64(len(data)) || l.Fault != "" {
		t.Errorf("record: got %+v", l)
	}
}

// An endpoint that resets must not look to a TLS client like a goodbye.
func TestTLSEndedHereReset(t *testing.T) {
	g, addr := shared(t, 1)
	g.use(service("plain", endpoint(t, func(p *peer) {
		p.exactly("go")
		p.send("half")
		p.waitSent()
		p.reset()
	})))
	p := dialTLS(t, addr, &tls.Config{ServerName: "x.end.example"})
	p.send("go")
	if got, err := io.ReadAll(p.r); !cutOff(err) {
		t.Errorf("the client saw %q and %v, want that it was cut off", got, err)
	}
	if l := g.streamLines(1)[0]; l.Fault != "upstream-reset" {
		t.Errorf("record: got %+v", l)
	}
}

// A socket with HTTPS alone learns to look at server names when a TLS listener
// comes, and connections that it had go on.
func TestTLSListenerComesAndGoes(t *testing.T) {
	g, addr := secure(t, 2)
	old := dialTLS(t, addr, &tls.Config{ServerName: "exact.example"})
	use := func() {
		t.Helper()
		old.send("GET / HTTP/1.1\r\nhost: exact.example\r\n\r\n")
		if resp, _ := old.answer("GET"); resp.StatusCode != 200 {
			t.Fatalf("got %d on the old connection", resp.StatusCode)
		}
	}
	use()
	inner := certificate(t, "inner", false, "pass.example")
	g.use(service("secure", tlsParrot(t, inner)),
		plan.Part{Key: plan.Key{Kind: plan.KindListener, Name: "pass"}, Listener: &plan.Listener{
			Sockets: []string{"tcp/" + addr}, Protocol: plan.TLS, Hostname: "pass.example", Passthrough: true,
		}},
		plan.Part{Key: plan.Key{Kind: plan.KindRoute, Name: "TLSRoute/default/pass"}, Route: &plan.Route{
			Attach: []plan.Attachment{{Listener: "pass", Host: "pass.example"}}, Rules: []plan.Rule{all(plan.Backend{Service: "secure", Weight: 1})},
		}})
	use()
	p := dialTLS(t, addr, &tls.Config{ServerName: "pass.example"})
	p.send("x")
	p.exactly("x")
	g.drop(plan.KindListener, "pass")
	use()
	p.send("y")
	p.exactly("y")
	q := dialTLS(t, addr, &tls.Config{ServerName: "pass.example"})
	if got := q.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName; got == "inner" {
		t.Error("a listener that is gone passes through")
	}
}

// A request of HTTP whose host is a TLS listener's is for nobody: that listener's
// services get bytes, and no HTTP that somebody made of a request. Without a
// server name, nothing else tells.
func TestHTTPForAHostOfATLSListener(t *testing.T) {
	g, addr := shared(t, 1)
	g.use(certificate(t, "rest", false, "rest.example"), plan.Part{Key: plan.Key{Kind: plan.KindListener, Name: "rest"}, Listener: &plan.Listener{
		Sockets: []string{"tcp/" + addr}, Protocol: plan.HTTPS, Certificates: []string{"rest"},
	}})
	for _, host := range []string{"a.end.example", "pass.example"} {
		p := dialTLS(t, addr, &tls.Config{})
		p.send("GET / HTTP/1.1\r\nhost: " + host + "\r\n\r\n")
		if resp, body := p.answer("GET"); resp.StatusCode != 404 {
			t.Errorf("%s: got %d %q, want 404", host, resp.StatusCode, body)
		}
	}
}
