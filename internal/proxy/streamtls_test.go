package proxy_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"windrose.dev/windrose/internal/plan"
)

// veiled is a service of bytes that is spoken to under TLS.
func veiled(believed plan.BackendTLS, addrs ...string) plan.Part {
	p := service("bytes", addrs...)
	p.Service.Protocol, p.Service.TLS = plan.TCP, &believed
	return p
}

// tlsEcho is an endpoint that speaks TLS and sends back what it gets.
func tlsEcho(tb testing.TB, cfg *tls.Config) (string, *atomic.Int64) {
	tb.Helper()
	good := &atomic.Int64{}
	return endpoint(tb, func(p *peer) {
		c := tls.Server(p.Conn, cfg)
		if c.Handshake() != nil {
			return
		}
		good.Add(1)
		_, _ = io.Copy(onlyWriter{c}, c)
		_ = c.CloseWrite()
	}), good
}

func TestStreamUnderTLS(t *testing.T) {
	ca := newAuthority(t)
	b, _ := tlsEcho(t, ca.certificate("b.example", "", time.Hour))
	g := start(t, 1, veiled(plan.BackendTLS{Hostname: "b.example", Authorities: ca.pem()}, b))
	addr := g.carry(plan.Listener{Protocol: plan.TCP})
	p := dialTCP(t, addr)
	for i := range 3 {
		text := fmt.Sprint("hello ", i)
		p.send(text)
		p.exactly(text)
	}
	p.closeWrite()
	if got := p.rest(); got != "" {
		t.Errorf("got %q behind the end", got)
	}
	if l := g.streamLines(1)[0]; l.BytesIn != 21 || l.BytesOut != 21 || l.Fault != "" || l.Endpoint != b {
		t.Errorf("record: got %+v", l)
	}
	// Much at once is not spliced past the session.
	const size = 8 << 20
	big := dialTCP(t, addr)
	go func() {
		_, _ = io.Copy(onlyWriter{big.Conn}, io.LimitReader(zeroes{}, size))
		big.closeWrite()
	}()
	if n, err := io.Copy(io.Discard, big.r); n != size || err != nil {
		t.Errorf("got %d bytes back (%v), want %d", n, err, size)
	}
	if n := g.proxy.Spliced(); n != 0 {
		t.Errorf("%d bytes were spliced", n)
	}
}

func TestStreamUnderTLSVerifiesItsEndpoint(t *testing.T) {
	ca := newAuthority(t)
	bad, served := tlsEcho(t, ca.certificate("other.example", "", time.Hour))
	good, _ := tlsEcho(t, ca.certificate("b.example", "", time.Hour))
	silent := endpoint(t, func(p *peer) { _, _ = io.Copy(io.Discard, p.r) })
	believed := plan.BackendTLS{Hostname: "b.example", Authorities: ca.pem()}
	g := start(t, 1, veiled(believed, bad), settings(plan.Settings{ConnectTimeout: 300 * time.Millisecond}))
	addr := g.carry(plan.Listener{Protocol: plan.TCP})
	if c, err := net.Dial("tcp", addr); err == nil { // it may be reset before it is told that it stands
		defer c.Close()
	}
	if l := g.streamLines(1)[0]; l.Fault != "connect-failed" || !strings.Contains(l.Reason, "not b.example") {
		t.Errorf("record: got %+v, want connect-failed because of the name", l)
	}
	if n := served.Load(); n != 0 {
		t.Errorf("%d handshakes went well", n)
	}
	// Another is tried, and one whose handshake never ends is given up.
	all := veiled(believed, silent, bad, good)
	all.Service.Balance = plan.RoundRobin
	g.use(all)
	for range 6 {
		p := dialTCP(t, addr)
		p.send("hello")
		p.exactly("hello")
		p.Close()
	}
}

// A route can hang on a listener that passes TLS through, and on one that ends
// it: only then TLS is windrose's to speak.
func TestStreamMixedUnderTLS(t *testing.T) {
	ca := newAuthority(t)
	b, _ := tlsEcho(t, ca.certificate("pass.example", "", time.Hour))
	g := start(t, 1, veiled(plan.BackendTLS{Hostname: "pass.example", Authorities: ca.pem()}, b))
	addr := g.carry(plan.Listener{Protocol: plan.TLS, Hostname: "pass.example", Passthrough: true})
	g.use(certificate(t, "end", false, "end.example"),
		plan.Part{Key: plan.Key{Kind: plan.KindListener, Name: "end"}, Listener: &plan.Listener{Sockets: []string{"tcp/" + addr}, Protocol: plan.TLS, Hostname: "end.example", Certificates: []string{"end"}}},
		plan.Part{Key: plan.Key{Kind: plan.KindRoute, Name: "TLSRoute/default/mixed"}, Route: &plan.Route{
			Attach: []plan.Attachment{{Listener: "bytes"}, {Listener: "end"}}, Rules: []plan.Rule{all(plan.Backend{Service: "bytes", Weight: 1})},
		}})
	for name, issuer := range map[string]string{"pass.example": "authority", "end.example": "end"} {
		p := dialTLS(t, addr, &tls.Config{ServerName: name})
		if got := p.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Issuer.CommonName; got != issuer {
			t.Errorf("%s: got a certificate by %q, want by %q", name, got, issuer)
		}
		p.send("hello " + name)
		p.exactly("hello " + name)
	}
}

// Two listeners that show different certificates reach one service, over
// connections and TLS sessions of their own.
func TestListenersShowCertificates(t *testing.T) {
	ca := newAuthority(t)
	clients := x509.NewCertPool()
	one, two := certificate(t, "one", false, "one.example"), certificate(t, "two", true, "two.example")
	clients.AppendCertsFromPEM(one.Certificate.Chain)
	clients.AppendCertsFromPEM(two.Certificate.Chain)
	for _, protocol := range []plan.Protocol{plan.HTTP, plan.H2C} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(fmt.Sprintf("%s/%s", protocol, tls.VersionName(version)), func(t *testing.T) {
				cfg := ca.certificate("b.example", "", time.Hour)
				cfg.ClientAuth, cfg.ClientCAs, cfg.MaxVersion = tls.VerifyClientCertIfGiven, clients, version
				b, count := secureBackend(t, cfg, protocol == plan.H2C, func(w http.ResponseWriter, r *http.Request) {
					name := "nobody"
					if len(r.TLS.PeerCertificates) > 0 {
						name = r.TLS.PeerCertificates[0].Subject.CommonName
					}
					fmt.Fprintf(w, "from %s resumed=%v", name, r.TLS.DidResume)
				})
				g := start(t, 1, append(toService(over(protocol, plan.BackendTLS{Hostname: "b.example", Authorities: ca.pem()}, b)), one, two)...)
				attach := route("r", all(plan.Backend{Service: "s", Weight: 1}))
				addrs := map[string]string{}
				for _, name := range []string{"one", "two", "nobody"} {
					l := plan.Listener{Protocol: plan.HTTP}
					if name != "nobody" {
						l.Shows = name
					}
					addrs[name] = g.listen(name, l)
					attach.Route.Attach = append(attach.Route.Attach, plan.Attachment{Listener: name})
				}
				g.use(attach)
				for range 3 {
					for _, name := range []string{"one", "nobody", "two"} {
						p := dialTCP(t, addrs[name])
						p.send(simpleGet)
						if got, want := p.rest(), "from "+name+" resumed=false"; !strings.HasSuffix(got, want) {
							t.Errorf("got %q, want it to end with %q", got, want)
						}
					}
				}
				if n := count.Load(); n != 3 {
					t.Errorf("got %d connections, want 3", n)
				}
				// A renewed certificate is shown at once, on connections of its own.
				renewed := certificate(t, "one", false, "new.example")
				renewed.Certificate.Chain, renewed.Certificate.Key = two.Certificate.Chain, two.Certificate.Key
				g.use(renewed)
				p := dialTCP(t, addrs["one"])
				p.send(simpleGet)
				if got := p.rest(); !strings.Contains(got, "from two") {
					t.Errorf("after the renewal: got %q", got)
				}
			})
		}
	}
}

// Handshakes with endpoints are counted by how they ended, whatever is carried.
func TestHandshakesWithEndpointsAreCounted(t *testing.T) {
	ca := newAuthority(t)
	believed := plan.BackendTLS{Hostname: "b.example", Authorities: ca.pem()}
	silent := endpoint(t, func(p *peer) { _, _ = io.Copy(io.Discard, p.r) })
	plain := endpoint(t, func(p *peer) { p.send("SSH-2.0-none\r\n"); _, _ = io.Copy(io.Discard, p.r) })
	for _, protocol := range []plan.Protocol{plan.HTTP, plan.H2C, plan.TCP} {
		good, _ := secureBackend(t, ca.certificate("b.example", "", time.Hour), protocol == plan.H2C, func(http.ResponseWriter, *http.Request) {})
		bad, _ := secureBackend(t, ca.certificate("other.example", "", time.Hour), protocol == plan.H2C, func(http.ResponseWriter, *http.Request) {})
		for result, addr := range map[string]string{"ok": good, "certificate-refused": bad, "timeout": silent, "not-tls": plain} {
			t.Run(fmt.Sprintf("%s/%s", protocol, result), func(t *testing.T) {
				p := over(protocol, believed, addr)
				wait := 20 * time.Second // on a busy machine handshakes take their time
				if result == "timeout" {
					wait = 100 * time.Millisecond
				}
				g := start(t, 1, append(toService(p), settings(plan.Settings{ConnectTimeout: wait}))...)
				if protocol == plan.TCP {
					c, err := net.Dial("tcp", g.carry(plan.Listener{Protocol: plan.TCP}, plan.Backend{Service: "s", Weight: 1}))
					if err == nil {
						defer c.Close()
					}
				} else {
					g.raw(simpleGet)
				}
				series := `windrose_upstream_tls_handshakes_total{result="` + result + `"} 1`
				eventually(t, series, func() bool {
					return strings.Contains(string(g.hub.AppendMetrics(t.Context(), nil)), series+"\n") && g.metric("windrose_upstream_tls_handshakes_total") == 1
				})
			})
		}
	}
}
