package upstream

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"windrose.dev/windrose/internal/plan"
)

// pair is a self-signed certificate with its key, as the plan has them.
func pair(tb testing.TB, name string, dns []string, uris ...string) *plan.Certificate {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: dns, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	for _, text := range uris {
		u, err := url.Parse(text)
		if err != nil {
			tb.Fatal(err)
		}
		template.URIs = append(template.URIs, u)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return &plan.Certificate{
		Chain: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
	}
}

// parsed is the certificate that pair made.
func parsed(tb testing.TB, c *plan.Certificate) *x509.Certificate {
	tb.Helper()
	block, _ := pem.Decode(c.Chain)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

func TestCertificateCarriesName(t *testing.T) {
	cert := parsed(t, pair(t, "common.example", []string{"a.example", "*.wild.example"}, "spiffe://mesh/a"))
	for _, c := range []struct {
		name plan.SubjectName
		want bool
	}{
		{plan.SubjectName{DNS: "a.example"}, true},
		{plan.SubjectName{DNS: "A.example"}, true},
		{plan.SubjectName{DNS: "b.example"}, false},
		{plan.SubjectName{DNS: "common.example"}, false}, // the common name is no name
		{plan.SubjectName{DNS: "x.wild.example"}, true},
		{plan.SubjectName{DNS: "x.y.wild.example"}, false},
		{plan.SubjectName{DNS: "*.wild.example"}, true},
		{plan.SubjectName{DNS: "*.example"}, true}, // a.example
		{plan.SubjectName{DNS: "*.a.example"}, false},
		{plan.SubjectName{URI: "spiffe://mesh/a"}, true},
		{plan.SubjectName{URI: "spiffe://mesh/a/b"}, false},
		{plan.SubjectName{URI: "SPIFFE://mesh/a"}, false},
		{plan.SubjectName{}, false},
	} {
		if got := carries(cert, c.name); got != c.want {
			t.Errorf("%+v: got %v, want %v", c.name, got, c.want)
		}
	}
}

// Whatever makes a difference to whom is believed makes another digest.
func TestDigestsAreApart(t *testing.T) {
	all := []*plan.BackendTLS{
		nil,
		{},
		{Hostname: "a"},
		{Hostname: "ab"},
		{Hostname: "a", Authorities: []byte("b")},
		{System: true},
		{Hostname: "a", System: true},
		{Names: []plan.SubjectName{{DNS: "a"}}},
		{Names: []plan.SubjectName{{URI: "a"}}},
		{Names: []plan.SubjectName{{DNS: "a"}, {DNS: "b"}}},
		{Names: []plan.SubjectName{{DNS: "ab"}}},
	}
	seen := map[string]int{}
	for i, b := range all {
		d := digest(b)
		if other, ok := seen[d]; ok {
			t.Errorf("%+v and %+v have one digest", all[other], b)
		}
		seen[d] = i
		if b != nil {
			copied := *b
			if digest(&copied) != d {
				t.Errorf("%+v has two digests", b)
			}
		}
	}
}

func TestWhatIsOffered(t *testing.T) {
	for protocol, want := range map[plan.Protocol][]string{plan.HTTP: {"http/1.1"}, plan.H2C: {"h2"}, plan.TCP: nil} {
		if got := clientConfig(&plan.BackendTLS{Hostname: "a"}, protocol, nil).NextProtos; !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", protocol, got, want)
		}
	}
}

// shake makes a handshake between two configurations.
func shake(tb testing.TB, client, server *tls.Config) (*tls.ConnectionState, error) {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	done := make(chan *tls.ConnectionState, 1)
	go func() {
		defer close(done)
		far, err := ln.Accept()
		if err != nil {
			return
		}
		defer far.Close()
		_ = far.SetDeadline(time.Now().Add(10 * time.Second))
		if s := tls.Server(far, server); s.Handshake() == nil {
			state := s.ConnectionState()
			done <- &state
		}
	}()
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	_ = near.SetDeadline(time.Now().Add(10 * time.Second))
	err = tls.Client(near, client).Handshake()
	near.Close()
	return <-done, err
}

func TestWhoIsBelieved(t *testing.T) {
	mine, other := pair(t, "mine", []string{"b.example"}, "spiffe://mesh/b"), pair(t, "other", []string{"b.example"})
	cert, err := tls.X509KeyPair(mine.Chain, mine.Key)
	if err != nil {
		t.Fatal(err)
	}
	uri := []plan.SubjectName{{URI: "spiffe://mesh/b"}}
	for _, c := range []struct {
		name     string
		believed plan.BackendTLS
		protocol plan.Protocol
		offers   []string
		want     string // of the error; "" for none
	}{
		{"the authority and the host name", plan.BackendTLS{Hostname: "b.example", Authorities: mine.Chain}, plan.HTTP, nil, ""},
		{"another authority", plan.BackendTLS{Hostname: "b.example", Authorities: other.Chain}, plan.HTTP, nil, "unknown authority"},
		{"an authority that cannot be read", plan.BackendTLS{Hostname: "b.example", Authorities: []byte("junk")}, plan.HTTP, nil, "unknown authority"},
		{"another host name", plan.BackendTLS{Hostname: "c.example", Authorities: mine.Chain}, plan.HTTP, nil, "not c.example"},
		{"a name in its place", plan.BackendTLS{Hostname: "c.example", Authorities: mine.Chain, Names: uri}, plan.TCP, nil, ""},
		{"a name, and another authority", plan.BackendTLS{Hostname: "b.example", Authorities: other.Chain, Names: uri}, plan.TCP, nil, "unknown authority"},
		{"another name", plan.BackendTLS{Hostname: "b.example", Authorities: mine.Chain, Names: []plan.SubjectName{{DNS: "c.example"}}}, plan.TCP, nil, "none of the names c.example"},
		{"HTTP/2", plan.BackendTLS{Hostname: "b.example", Authorities: mine.Chain}, plan.H2C, []string{"http/1.1", "h2"}, ""},
		{"HTTP/2 that nobody offers", plan.BackendTLS{Hostname: "b.example", Authorities: mine.Chain}, plan.H2C, nil, "does not offer HTTP/2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: c.offers}
			_, err := shake(t, clientConfig(&c.believed, c.protocol, nil), server)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("got %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
			var untrusted *tls.CertificateVerificationError
			if want := c.want != "" && c.protocol != plan.H2C; errors.As(err, &untrusted) != want {
				t.Errorf("got %T, want a doubt about the certificate: %v", err, want)
			}
		})
	}
}

// listenerOf is a listener that shows a certificate.
func listenerOf(name, shows string, passthrough bool) plan.Part {
	l := &plan.Listener{Protocol: plan.HTTP, Shows: shows}
	if passthrough {
		l.Protocol, l.Passthrough = plan.TLS, true
	}
	return plan.Part{Key: plan.Key{Kind: plan.KindListener, Name: name}, Listener: l}
}

func certificatePart(name string, c *plan.Certificate) plan.Part {
	return plan.Part{Key: plan.Key{Kind: plan.KindCertificate, Name: name}, Certificate: c}
}

// listener finds a listener of the fixture's plan.
func (f *fixture) listener(tb testing.TB, name string) *plan.BoundListener {
	tb.Helper()
	for i := range f.plan.Listeners() {
		if l := f.plan.Listener(i); l != nil && l.Name == name {
			return l
		}
	}
	tb.Fatalf("there is no listener %s", name)
	return nil
}

// A service under TLS has a face for each certificate that is shown; what faces
// learn and hold is their own, and stays for as long as the certificate does.
func TestFacesOfAService(t *testing.T) {
	f := newFixture(t.Context(), Config{})
	secure := part("secure", plan.RoundRobin, 1, 2)
	secure.Service.TLS = &plan.BackendTLS{Hostname: "b.example", System: true}
	bytes := part("bytes", plan.RoundRobin, 1)
	bytes.Service.Protocol, bytes.Service.TLS = plan.TCP, secure.Service.TLS
	one, two := pair(t, "one", nil), pair(t, "two", nil)
	own, err := tls.X509KeyPair(one.Chain, one.Key)
	if err != nil {
		t.Fatal(err)
	}
	v := f.use([]plan.Part{
		secure, bytes, part("clear", plan.RoundRobin, 1), certificatePart("one", one), certificatePart("two", two), certificatePart("junk", &plan.Certificate{Chain: []byte("x")}),
		listenerOf("one", "one", false), listenerOf("again", "one", false), listenerOf("two", "two", false), listenerOf("none", "", false), listenerOf("junk", "junk", false), listenerOf("pass", "one", true),
	})
	face := func(v *View, service, listener string) *Service {
		return f.service(t, v, service).For(f.listener(t, listener))
	}
	for _, c := range []struct {
		service, a, b string
		same          bool
	}{
		{"secure", "one", "again", true},
		{"secure", "one", "two", false},
		{"secure", "one", "none", false},
		{"secure", "junk", "none", true}, // a certificate that cannot be read is shown to nobody
		{"clear", "one", "two", true},
		{"clear", "pass", "none", true},
		{"bytes", "pass", "none", false},
		{"bytes", "pass", "one", false},
		{"bytes", "one", "two", false},
	} {
		a, b := face(v, c.service, c.a), face(v, c.service, c.b)
		if got := a == b; got != c.same {
			t.Errorf("%s by %s and %s: the same %v, want %v", c.service, c.a, c.b, got, c.same)
		}
		if a != b && (a.Endpoints()[0] == b.Endpoints()[0] || a.Endpoints()[0].TLS == b.Endpoints()[0].TLS) {
			t.Errorf("%s by %s and %s: they share endpoints or sessions", c.service, c.a, c.b)
		}
	}
	if e := face(v, "bytes", "pass").Endpoints()[0]; e.TLS != nil || e.Addr != addr(1) {
		t.Errorf("what is passed through goes to %v under %v", e.Addr, e.TLS)
	}
	for name, want := range map[string]string{"one": "one", "two": "two", "none": ""} {
		server := &tls.Config{ClientAuth: tls.RequestClientCert, Certificates: []tls.Certificate{own}}
		client := face(v, "secure", name).Endpoints()[0].TLS.Clone()
		client.InsecureSkipVerify, client.VerifyConnection = true, nil
		state, err := shake(t, client, server)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if len(state.PeerCertificates) > 0 {
			got = state.PeerCertificates[0].Subject.CommonName
		}
		if got != want {
			t.Errorf("listener %s shows %q, want %q", name, got, want)
		}
	}
	// Another endpoint comes: what was there stays, with its sessions.
	kept, gone := face(v, "secure", "one").Endpoints()[0], face(v, "secure", "two").Endpoints()[0]
	more := part("secure", plan.RoundRobin, 1, 2, 3)
	more.Service.TLS = secure.Service.TLS
	v = f.use([]plan.Part{more})
	if got := face(v, "secure", "one").Endpoints(); len(got) != 3 || got[0] != kept || got[2].TLS != kept.TLS {
		t.Error("a new endpoint costs the others what they have")
	}
	// A renewed certificate is another one, and so is one that nobody shows.
	f.use([]plan.Part{certificatePart("one", pair(t, "one", nil))})
	f.plan, _ = f.builder.Apply(nil, []plan.Key{{Kind: plan.KindListener, Name: "two"}})
	v = f.table.Use(f.plan)
	if e := face(v, "secure", "one").Endpoints()[0]; e == kept || e.TLS == kept.TLS || !kept.Gone() || !gone.Gone() {
		t.Errorf("after the certificate was renewed: the same endpoint %v, gone %v and %v", e == kept, kept.Gone(), gone.Gone())
	}
	if n := len(f.table.shown); n != 1 {
		t.Errorf("%d certificates are remembered, want 1", n)
	}
}
