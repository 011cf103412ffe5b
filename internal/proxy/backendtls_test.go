package proxy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"windrose.dev/windrose/internal/plan"
)

// authority issues certificates for endpoints.
type authority struct {
	tb   testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(tb testing.TB) *authority {
	tb.Helper()
	a := &authority{tb: tb}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	a.cert, a.key = issue(tb, template, nil)
	return a
}

// issue signs a template; without a parent with its own key.
func issue(tb testing.TB, template *x509.Certificate, by *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return cert, key
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// certificate has a DNS name, a URI, and an end.
func (a *authority) certificate(dns, uri string, until time.Duration) *tls.Config {
	a.tb.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(until)}
	if dns != "" {
		template.DNSNames = []string{dns}
	}
	if uri != "" {
		u, err := url.Parse(uri)
		if err != nil {
			a.tb.Fatal(err)
		}
		template.URIs = []*url.URL{u}
	}
	cert, key := issue(a.tb, template, a)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}}
}

// secureBackend is an endpoint under TLS that counts its connections.
func secureBackend(tb testing.TB, cfg *tls.Config, h2 bool, h http.HandlerFunc) (string, *atomic.Int64) {
	tb.Helper()
	count := &atomic.Int64{}
	s := httptest.NewUnstartedServer(h)
	s.TLS, s.EnableHTTP2 = cfg, h2
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are what is tested
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			count.Add(1)
		}
	}
	s.StartTLS()
	tb.Cleanup(s.Close)
	return s.Listener.Addr().String(), count
}

// over is the part of a service that is spoken to under TLS.
func over(protocol plan.Protocol, believed plan.BackendTLS, addrs ...string) plan.Part {
	p := service("s", addrs...)
	p.Service.Protocol, p.Service.TLS = protocol, &believed
	return p
}

func toService(s plan.Part) []plan.Part {
	return []plan.Part{route("r", all(plan.Backend{Service: "s", Weight: 1})), s}
}

const simpleGet = "GET /p HTTP/1.1\r\nhost: x.example\r\nconnection: close\r\n\r\n"

// covers: BackendTLSPolicy BackendTLSPolicySANValidation
func TestBackendTLSVerifiesItsEndpoint(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	const spiffe = "spiffe://mesh.example/ns/a/sa/b"
	dns := func(names ...string) (list []plan.SubjectName) {
		for _, n := range names {
			list = append(list, plan.SubjectName{DNS: n})
		}
		return list
	}
	for _, c := range []struct {
		name     string
		dns, uri string
		until    time.Duration
		believed plan.BackendTLS
		want     string // in the answer
	}{
		{"the right authority and name", "b.example", "", time.Hour, plan.BackendTLS{Hostname: "b.example", Authorities: ca.pem()}, "sni=b.example"},
		{"a wildcard", "*.example", "", time.Hour, plan.BackendTLS{Hostname: "b.example", Authorities: ca.pem()}, "sni=b.example"},
		{"several authorities", "b.example", "", time.Hour, plan.BackendTLS{Hostname: "b.example", Authorities: append(other.pem(), ca.pem()...)}, "sni=b.example"},
		{"another authority", "b.example", "", time.Hour, plan.BackendTLS{Hostname: "b.example", Authorities: other.pem()}, "certificate signed by unknown authority"},
		{"no authority", "b.example", "", time.Hour, plan.BackendTLS{Hostname: "b.example"}, "certificate signed by unknown authority"},
		{"the machine's authorities", "b.example", "", time.Hour, plan.BackendTLS{Hostname: "b.example", System: true}, "certificate signed by unknown authority"},
		{"another name", "other.example", "", time.Hour, plan.BackendTLS{Hostname: "b.example", Authorities: ca.pem()}, "certificate is valid for other.example, not b.example"},
		{"expired", "b.example", "", -time.Hour, plan.BackendTLS{Hostname: "b.example", Authorities: ca.pem()}, "certificate has expired"},
		{"a name in place of the host name", "other.example", "", time.Hour, plan.BackendTLS{Hostname: "b.example", Authorities: ca.pem(), Names: dns("x.example", "other.example")}, "sni=b.example"},
		{"a wildcard in place of it", "a.other.example", "", time.Hour, plan.BackendTLS{Hostname: "b.example", Authorities: ca.pem(), Names: dns("*.other.example")}, "sni=b.example"},
		{"a wildcard is one label", "a.b.other.example", "", time.Hour, plan.BackendTLS{Hostname: "b.example", Authorities: ca.pem(), Names: dns("*.other.example")}, "has none of the names *.other.example"},
		{"the host name does not count beside names", "b.example", "", time.Hour, plan.BackendTLS{Hostname: "b.example", Authorities: ca.pem(), Names: dns("x.example")}, "has none of the names x.example"},
		{"a URI", "", spiffe, time.Hour, plan.BackendTLS{Hostname: "b.example", Authorities: ca.pem(), Names: []plan.SubjectName{{URI: spiffe}}}, "sni=b.example"},
		{"another URI", "", spiffe + "/c", time.Hour, plan.BackendTLS{Hostname: "b.example", Authorities: ca.pem(), Names: []plan.SubjectName{{URI: spiffe}}}, "has none of the names " + spiffe},
		{"names and another authority", "b.example", "", time.Hour, plan.BackendTLS{Hostname: "b.example", Authorities: other.pem(), Names: dns("b.example")}, "certificate signed by unknown authority"},
		{"names and expired", "b.example", "", -time.Hour, plan.BackendTLS{Hostname: "b.example", Authorities: ca.pem(), Names: dns("b.example")}, "certificate has expired"},
	} {
		for _, protocol := range []plan.Protocol{plan.HTTP, plan.H2C} {
			t.Run(c.name+"/"+string(protocol), func(t *testing.T) {
				b, _ := secureBackend(t, ca.certificate(c.dns, c.uri, c.until), protocol == plan.H2C, func(w http.ResponseWriter, r *http.Request) {
					fmt.Fprintf(w, "%s sni=%s", r.Proto, r.TLS.ServerName)
				})
				g := start(t, 1, toService(over(protocol, c.believed, b))...)
				got := g.raw(simpleGet)
				if !strings.Contains(got, c.want) {
					t.Errorf("got %q, want it to contain %q", got, c.want)
				}
				if !strings.HasPrefix(c.want, "sni=") && (!strings.HasPrefix(got, "HTTP/1.1 503") || !strings.Contains(got, "x-windrose-fault: connect-failed")) {
					t.Errorf("got %q, want the fault connect-failed", got)
				}
				if proto := "HTTP/2.0"; protocol == plan.H2C && strings.HasPrefix(c.want, "sni=") && !strings.Contains(got, proto) {
					t.Errorf("got %q, want %s", got, proto)
				}
			})
		}
	}
}

func TestBackendTLSNeedsHTTP2(t *testing.T) {
	ca := newAuthority(t)
	plain := ca.certificate("b.example", "", time.Hour)
	addr := endpoint(t, func(p *peer) { _ = tls.Server(p.Conn, plain).Handshake() }) // without ALPN
	g := start(t, 1, toService(over(plan.H2C, plan.BackendTLS{Hostname: "b.example", Authorities: ca.pem()}, addr))...)
	if got, want := g.raw(simpleGet), "does not offer HTTP/2"; !strings.Contains(got, want) {
		t.Errorf("got %q, want it to contain %q", got, want)
	}
}

// Session tickets come after the handshake; they do not make a connection look
// as if its endpoint had something to say.
func TestBackendTLSConnectionsArePooled(t *testing.T) {
	ca := newAuthority(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, method := range []string{"GET", "POST"} { // a POST takes none that is not silent
			t.Run(fmt.Sprintf("%s/%s", tls.VersionName(version), method), func(t *testing.T) {
				cfg := ca.certificate("b.example", "", time.Hour)
				cfg.MaxVersion = version
				b, count := secureBackend(t, cfg, false, func(w http.ResponseWriter, r *http.Request) {
					n, _ := io.Copy(io.Discard, r.Body)
					fmt.Fprint(w, n)
				})
				g := start(t, 1, toService(over(plan.HTTP, plan.BackendTLS{Hostname: "b.example", Authorities: ca.pem()}, b))...)
				c := g.dial()
				for range 50 {
					c.send(method + " / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")
					if resp, body := c.answer(method); resp.StatusCode != 200 || body != "3" {
						t.Fatalf("got %d %q, want 200 3", resp.StatusCode, body)
					}
				}
				if got := count.Load(); got != 1 {
					t.Errorf("got %d connections, want 1", got)
				}
			})
		}
	}
}

func TestBackendTLSConnectionThatEndedIsNotUsed(t *testing.T) {
	ca := newAuthority(t)
	b, count := secureBackend(t, ca.certificate("b.example", "", time.Hour), false, func(http.ResponseWriter, *http.Request) {})
	g := start(t, 1, toService(over(plan.HTTP, plan.BackendTLS{Hostname: "b.example", Authorities: ca.pem()}, b))...)
	c := g.dial()
	c.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
	c.answer("POST")
	// Another authority: what was believed before is believed no more.
	g.use(over(plan.HTTP, plan.BackendTLS{Hostname: "b.example", Authorities: newAuthority(t).pem()}, b))
	c.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
	if resp, body := c.answer("POST"); resp.StatusCode != 503 || !strings.Contains(body, "unknown authority") {
		t.Errorf("got %d %q, want 503 because of an unknown authority", resp.StatusCode, body)
	}
	g.use(over(plan.HTTP, plan.BackendTLS{Hostname: "b.example", Authorities: ca.pem()}, b))
	c.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
	if resp, body := c.answer("POST"); resp.StatusCode != 200 {
		t.Errorf("got %d %q, want 200", resp.StatusCode, body)
	}
	if got := count.Load(); got != 3 {
		t.Errorf("got %d connections, want 3", got)
	}
}

func TestBackendTLSLargeBodies(t *testing.T) {
	ca := newAuthority(t)
	for _, protocol := range []plan.Protocol{plan.HTTP, plan.H2C} {
		t.Run(string(protocol), func(t *testing.T) {
			const size = 8 << 20
			b, _ := secureBackend(t, ca.certificate("b.example", "", time.Hour), protocol == plan.H2C, func(w http.ResponseWriter, r *http.Request) {
				n, _ := io.Copy(io.Discard, r.Body)
				w.Header().Set("X-Got", fmt.Sprint(n))
				_, _ = io.Copy(w, io.LimitReader(zeroes{}, size))
			})
			g := start(t, 1, toService(over(protocol, plan.BackendTLS{Hostname: "b.example", Authorities: ca.pem()}, b))...)
			c := g.dial()
			c.send(fmt.Sprintf("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n", size))
			if _, err := io.Copy(c.Conn, io.LimitReader(zeroes{}, size)); err != nil {
				t.Fatal(err)
			}
			resp, body := c.answer("POST")
			if got := resp.Header.Get("X-Got"); got != fmt.Sprint(size) || len(body) != size {
				t.Errorf("the endpoint got %s bytes and the client %d, want %d", got, len(body), size)
			}
		})
	}
}

// The handshake counts as connecting: one that never ends is given up, and the
// request goes to another endpoint.
func TestBackendTLSHandshakeThatNeverEnds(t *testing.T) {
	ca := newAuthority(t)
	silent := endpoint(t, func(p *peer) { _, _ = io.Copy(io.Discard, p.r) })
	good, _ := secureBackend(t, ca.certificate("b.example", "", time.Hour), false, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "good") })
	believed := plan.BackendTLS{Hostname: "b.example", Authorities: ca.pem()}
	g := start(t, 1, append(toService(over(plan.HTTP, believed, silent)), settings(plan.Settings{ConnectTimeout: 50 * time.Millisecond}))...)
	if got, want := g.raw(simpleGet), "no connection within the connect timeout"; !strings.Contains(got, want) {
		t.Errorf("got %q, want it to contain %q", got, want)
	}
	both := over(plan.HTTP, believed, silent, good)
	both.Service.Balance = plan.RoundRobin
	g.use(both)
	for range 4 {
		if got := g.raw(simpleGet); !strings.HasSuffix(got, "good") {
			t.Errorf("got %q, want the answer of the other endpoint", got)
		}
	}
}

// A service with and one without TLS never share a connection.
func TestBackendTLSAndCleartextAreApart(t *testing.T) {
	ca := newAuthority(t)
	b, _ := secureBackend(t, ca.certificate("b.example", "", time.Hour), false, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "secret") })
	clear := service("clear")
	clear.Service.Endpoints = []plan.Endpoint{{Addr: netip.MustParseAddrPort(b)}}
	rule := all(plan.Backend{Service: "clear", Weight: 1})
	rule.Matches[0].Path = "/clear"
	g := start(t, 1, append(toService(over(plan.HTTP, plan.BackendTLS{Hostname: "b.example", Authorities: ca.pem()}, b)), clear, route("q", rule))...)
	for range 3 {
		if got := g.raw(simpleGet); !strings.HasSuffix(got, "secret") {
			t.Errorf("under TLS: got %q", got)
		}
		if got := g.raw("GET /clear HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"); !strings.Contains(got, " 400 ") {
			t.Errorf("in cleartext: got %q, want what an endpoint says that was spoken to in cleartext", got)
		}
	}
}

// A service's own certificate is shown whatever the listener shows; where it has
// none, nothing is; and one that cannot be read has no connection made.
func TestServicesShowTheirOwnCertificate(t *testing.T) {
	ca := newAuthority(t)
	clients := x509.NewCertPool()
	one, two := certificate(t, "one", false, "one.example"), certificate(t, "two", false, "two.example")
	clients.AppendCertsFromPEM(one.Certificate.Chain)
	clients.AppendCertsFromPEM(two.Certificate.Chain)
	client := func(p plan.Part) *plan.ClientCertificate {
		return &plan.ClientCertificate{Chain: p.Certificate.Chain, Key: p.Certificate.Key}
	}
	mixed := client(one)
	mixed.Key = two.Certificate.Key
	for _, c := range []struct {
		name   string
		client *plan.ClientCertificate
		want   string
	}{
		{"its own", client(two), "from two"},
		{"none", nil, "from nobody"},
		{"one that cannot be read", mixed, "HTTP/1.1 503"},
	} {
		for _, protocol := range []plan.Protocol{plan.HTTP, plan.H2C} {
			t.Run(fmt.Sprint(c.name, " ", protocol), func(t *testing.T) {
				cfg := ca.certificate("b.example", "", time.Hour)
				cfg.ClientAuth, cfg.ClientCAs = tls.VerifyClientCertIfGiven, clients
				b, _ := secureBackend(t, cfg, protocol == plan.H2C, func(w http.ResponseWriter, r *http.Request) {
					name := "nobody"
					if len(r.TLS.PeerCertificates) > 0 {
						name = r.TLS.PeerCertificates[0].Subject.CommonName
					}
					fmt.Fprint(w, "from ", name)
				})
				g := start(t, 1, append(toService(over(protocol, plan.BackendTLS{Hostname: "b.example", Authorities: ca.pem(), Alone: true, Client: c.client}, b)), one)...)
				addr := g.listen("shows", plan.Listener{Protocol: plan.HTTP, Shows: "one"})
				attach := route("r", all(plan.Backend{Service: "s", Weight: 1}))
				attach.Route.Attach = append(attach.Route.Attach, plan.Attachment{Listener: "shows"})
				g.use(attach)
				p := dialTCP(t, addr)
				p.send(simpleGet)
				if got := p.rest(); !strings.Contains(got, c.want) {
					t.Errorf("got %q, want %q", got, c.want)
				}
			})
		}
	}
}
