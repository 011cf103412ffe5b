package proxy_test

import (
	"bufio"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"windrose.dev/windrose/internal/plan"
)

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// certificate is a part with a self-signed certificate; its common name is the
// part's name, which is how tests know it.
func certificate(tb testing.TB, name string, isRSA bool, names ...string) plan.Part {
	tb.Helper()
	var key crypto.Signer = rsaKey()
	if !isRSA {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			tb.Fatal(err)
		}
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return plan.Part{Key: plan.Key{Kind: plan.KindCertificate, Name: name}, Certificate: &plan.Certificate{
		Chain: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
		Names: names, RSA: isRSA,
	}}
}

func dialTLS(tb testing.TB, addr string, cfg *tls.Config) *peer {
	tb.Helper()
	cfg.InsecureSkipVerify = true
	c, err := tls.Dial("tcp", addr, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	tb.Cleanup(func() { c.Close() })
	return &peer{c, tb, bufio.NewReader(c)}
}

// secure is a gateway with two TLS listeners on one socket, for *.a.example and
// for all else, that both route to an echo of the path.
func secure(t *testing.T, loops int) (*gateway, string) {
	t.Helper()
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprint(w, r.URL.Path, " ", r.Header.Get("X-Forwarded-Proto"), " ", len(body))
	})
	g := start(t, loops, to(b)...)
	addr := g.listen("all", plan.Listener{Protocol: plan.HTTPS, Certificates: []string{"default", "exact"}},
		certificate(t, "default", false, "default.example"), certificate(t, "exact", false, "exact.example"),
		certificate(t, "wild", false, "*.a.example"), certificate(t, "wild-rsa", true, "*.a.example"), certificate(t, "one", false, "one.a.example"))
	g.use(
		plan.Part{Key: plan.Key{Kind: plan.KindListener, Name: "a"}, Listener: &plan.Listener{
			Sockets: []string{"tcp/" + addr}, Protocol: plan.HTTPS, Hostname: "*.a.example", Certificates: []string{"wild", "wild-rsa", "one"},
		}},
		plan.Part{Key: plan.Key{Kind: plan.KindRoute, Name: "secure"}, Route: &plan.Route{
			Attach: []plan.Attachment{{Listener: "all"}, {Listener: "a", Host: "*.a.example"}},
			Rules:  []plan.Rule{all(plan.Backend{Service: "s", Weight: 1})},
		}})
	return g, addr
}

func TestTLSEndToEnd(t *testing.T) {
	_, addr := secure(t, 1)
	onlyRSA := []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	for _, c := range []struct {
		name, sni, host string
		cfg             *tls.Config
		cert, answer    string
		status          int
	}{
		{name: "exact name", sni: "exact.example", cert: "exact", status: 200},
		{name: "upper case", sni: "EXACT.example", host: "Exact.Example", cert: "exact", status: 200},
		{name: "no name", cert: "default", host: "any.example", status: 200},
		{name: "an unknown name gets the first", sni: "who.example", cert: "default", status: 200},
		{name: "wildcard", sni: "x.a.example", cert: "wild", status: 200},
		{name: "exact before wildcard", sni: "one.a.example", cert: "one", status: 200},
		{name: "a client without ECDSA", sni: "x.a.example", cfg: &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: onlyRSA}, cert: "wild-rsa", status: 200},
		{name: "TLS 1.2", sni: "exact.example", cfg: &tls.Config{MaxVersion: tls.VersionTLS12}, cert: "exact", status: 200},
		{name: "another listener's host", sni: "x.a.example", host: "exact.example", cert: "wild", status: 421},
		{name: "another host of the same listener", sni: "x.a.example", host: "y.a.example", cert: "wild", status: 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := &tls.Config{}
			if c.cfg != nil {
				cfg = c.cfg.Clone()
			}
			cfg.ServerName = c.sni
			p := dialTLS(t, addr, cfg)
			state := p.Conn.(*tls.Conn).ConnectionState()
			if got := state.PeerCertificates[0].Subject.CommonName; got != c.cert {
				t.Errorf("certificate: got %q, want %q", got, c.cert)
			}
			if c.host == "" {
				c.host = c.sni
			}
			for range 3 {
				p.send("POST /p HTTP/1.1\r\nhost: " + c.host + "\r\ncontent-length: 3\r\n\r\nabc")
				resp, body := p.answer("POST")
				if resp.StatusCode != c.status || c.status == 200 && body != "/p https 3" {
					t.Fatalf("got %d %q, want %d", resp.StatusCode, body, c.status)
				}
				if c.status != 200 {
					break
				}
			}
		})
	}
}

// Requests that arrive in records of their own, but together, are all served.
func TestTLSPipelining(t *testing.T) {
	g, addr := secure(t, 1)
	for round := range 20 {
		p := dialTLS(t, addr, &tls.Config{ServerName: "exact.example"})
		const n = 40
		for i := range n {
			p.send(fmt.Sprintf("GET /%d HTTP/1.1\r\nhost: exact.example\r\n\r\n", i))
		}
		for i := range n {
			if _, body := p.answer("GET"); body != fmt.Sprintf("/%d https 0", i) {
				t.Fatalf("round %d, answer %d: got %q", round, i, body)
			}
		}
		p.Close()
	}
	g.wantLines(20 * 40)
}

func TestTLSLargeBodies(t *testing.T) {
	_, addr := secure(t, 1)
	p := dialTLS(t, addr, &tls.Config{ServerName: "exact.example"})
	const size = 16 << 20
	p.send(fmt.Sprintf("POST /big HTTP/1.1\r\nhost: exact.example\r\ncontent-length: %d\r\n\r\n", size))
	if _, err := io.Copy(p.Conn, io.LimitReader(zeroes{}, size)); err != nil {
		t.Fatal(err)
	}
	if _, body := p.answer("POST"); body != fmt.Sprintf("/big https %d", size) {
		t.Errorf("got %q", body)
	}
}

func TestTLSClientThatLeavesCancelsItsRequest(t *testing.T) {
	came, left := make(chan struct{}), make(chan struct{})
	b := endpoint(t, func(p *peer) {
		p.head()
		close(came)
		_, _ = io.Copy(io.Discard, p.r)
		close(left)
	})
	g := start(t, 1, to(b)...)
	addr := g.listen("tls", plan.Listener{Protocol: plan.HTTPS, Certificates: []string{"c"}}, certificate(t, "c", false, "x"),
		plan.Part{Key: plan.Key{Kind: plan.KindRoute, Name: "tls"}, Route: &plan.Route{Attach: []plan.Attachment{{Listener: "tls"}}, Rules: []plan.Rule{all(plan.Backend{Service: "s", Weight: 1})}}})
	p := dialTLS(t, addr, &tls.Config{})
	p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
	<-came
	p.Close() // says goodbye, then ends
	<-left
	if l := g.wantLines(1)[0]; l.Fault != "client-gone" {
		t.Errorf("record: got %+v, want client-gone", l)
	}
}

// A truncated answer must not end with TLS's goodbye.
func TestTLSTruncationIsSeen(t *testing.T) {
	g := start(t, 1, to(once(t, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"))...)
	addr := g.listen("tls", plan.Listener{Protocol: plan.HTTPS, Certificates: []string{"c"}}, certificate(t, "c", false, "x"),
		plan.Part{Key: plan.Key{Kind: plan.KindRoute, Name: "tls"}, Route: &plan.Route{Attach: []plan.Attachment{{Listener: "tls"}}, Rules: []plan.Rule{all(plan.Backend{Service: "s", Weight: 1})}}})
	p := dialTLS(t, addr, &tls.Config{})
	p.send("GET / HTTP/1.0\r\n\r\n") // the end of the connection is the end of the body
	if _, err := io.ReadAll(p.r); !cutOff(err) {
		t.Errorf("the client saw %v, want that the answer was cut off", err)
	}
}

func TestCertificateSwapBreaksNothing(t *testing.T) {
	g, addr := secure(t, 2)
	old := dialTLS(t, addr, &tls.Config{ServerName: "exact.example"})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := tls.Dial("tcp", addr, &tls.Config{ServerName: "exact.example", InsecureSkipVerify: true})
				if err != nil {
					t.Errorf("handshake: %v", err)
					return
				}
				_ = c.SetDeadline(time.Now().Add(patience))
				fmt.Fprint(c, "GET / HTTP/1.1\r\nhost: exact.example\r\nconnection: close\r\n\r\n")
				if b, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 200 ") {
					t.Errorf("got %q (%v)", b, err)
				}
				c.Close()
			}
		})
	}
	var last string
	for i := range 30 {
		part := certificate(t, "exact", false, "exact.example")
		last = string(part.Certificate.Chain)
		g.use(part)
		old.send("GET / HTTP/1.1\r\nhost: exact.example\r\n\r\n")
		if resp, _ := old.answer("GET"); resp.StatusCode != 200 {
			t.Fatalf("swap %d: got %d on the old connection", i, resp.StatusCode)
		}
	}
	close(stop)
	wg.Wait()
	p := dialTLS(t, addr, &tls.Config{ServerName: "exact.example"})
	got := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Raw}))
	if got != last {
		t.Error("a new connection does not get the newest certificate")
	}
}
