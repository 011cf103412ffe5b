package proxy

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"strings"
	"sync"

	"windrose.dev/windrose/internal/h3"
	"windrose.dev/windrose/internal/loop"
	"windrose.dev/windrose/internal/plan"
)

// This file asks clients who they are. Which certificates are believed is a
// listener's to say, and the server name tells the listener. A connection knows
// under which check its handshake was made: a request for a listener with
// another check is misdirected, whatever brought it there (a reused connection,
// a handshake without a server name, a plan that came since).

// checks are the TLS configurations of a socket for the checks of its
// listeners. Each has keys for session tickets of its own, so that a session
// that stands under one check is never resumed under another.
type checks struct {
	mu      sync.Mutex // guards configs
	configs map[*plan.ClientCheck]*tls.Config
}

// config is the configuration of a check; base is that of the socket.
func (s *checks) config(check *plan.ClientCheck, base *tls.Config) *tls.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.configs[check]; have != nil {
		return have
	}
	made := base.Clone()
	made.GetConfigForClient = nil
	made.ClientCAs = x509.NewCertPool() // never nil, which would be the machine's
	made.ClientCAs.AppendCertsFromPEM(check.Authorities)
	made.ClientAuth = tls.RequireAndVerifyClientCert
	if check.Optional {
		made.ClientAuth = tls.RequestClientCert
	}
	// Without these, crypto/tls would take the keys of base.
	made.WrapSession = made.EncryptTicket
	made.UnwrapSession = made.DecryptTicket
	if s.configs == nil {
		s.configs = map[*plan.ClientCheck]*tls.Config{}
	}
	s.configs[check] = made
	return made
}

// keep forgets the checks that no listener of the socket has any more.
func (s *checks) keep(bound *plan.Bound) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.configs) == 0 {
		return
	}
	kept := make(map[*plan.ClientCheck]*tls.Config, len(s.configs))
	for _, l := range bound.Listeners() {
		if cfg := s.configs[l.Clients]; cfg != nil {
			kept[l.Clients] = cfg
		}
	}
	s.configs = kept
}

// ask finds the configuration for a client's handshake; nil for that of the
// socket. It runs on the handshake's goroutine, which is alone with the client's
// check until the loop is told the result.
func (t *tlsSide) ask(bound *plan.Bound, hello *tls.ClientHelloInfo) *tls.Config {
	if bound == nil {
		return nil
	}
	l := bound.Listener([]byte(hello.ServerName))
	if l == nil || l.Clients == nil {
		return nil
	}
	c, ok := loop.Owner(hello.Conn).(*client)
	if of := h3.ConnOf(hello.Context()); of != nil {
		c, ok = &of.State.(*h3conn).client, true //nolint:errcheck // see beginH3
	}
	if !ok {
		return nil
	}
	c.check = l.Clients
	cfg := t.checks.config(l.Clients, t.config)
	if !l.Clients.Optional {
		return cfg
	}
	// Whoever is not believed is served all the same, so that somebody has to
	// remember it.
	cfg = cfg.Clone()
	cfg.VerifyConnection = func(s tls.ConnectionState) error {
		c.unproven = !proven(s.PeerCertificates, cfg.ClientCAs)
		return nil
	}
	return cfg
}

// proven says whether a client's chain leads to one of roots.
func proven(chain []*x509.Certificate, roots *x509.CertPool) bool {
	if len(chain) == 0 {
		return false
	}
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(opts)
	return err == nil
}

// identity is who a client has proven to be.
type identity struct {
	name   string // for the record: a URI, or else the subject
	header []byte // for endpoints
}

// identify notes who a client is whose handshake ended well.
func (c *client) identify(s *tls.ConnectionState) {
	if c.check == nil || c.unproven || len(s.PeerCertificates) == 0 {
		return
	}
	c.identity = identityOf(s.PeerCertificates[0])
}

// certHeader tells endpoints who the client is, in the words of Envoy.
const certHeader = "x-forwarded-client-cert"

const (
	maxNames    = 8    // of each kind in a certHeader
	maxNameText = 1024 // of each of them
)

// identityOf reads a certificate. Names that are too long, or too many, are left
// out; the hash always says which certificate it is.
func identityOf(cert *x509.Certificate) *identity {
	sum := sha256.Sum256(cert.Raw)
	id := &identity{}
	h := append([]byte("Hash="), hex.EncodeToString(sum[:])...)
	subject := printable(cert.Subject.String())
	if len(subject) <= maxNameText {
		id.name = subject
		// Quotes and backslashes are escaped in it already (RFC 4514).
		h = append(append(append(h, `;Subject="`...), subject...), '"')
	}
	n := 0
	for _, u := range cert.URIs {
		text := printable(u.String())
		if n == maxNames || len(text) > maxNameText {
			continue
		}
		if n++; n == 1 {
			id.name = text
		}
		h = appendElement(h, "URI", text)
	}
	n = 0
	for _, name := range cert.DNSNames {
		text := printable(name)
		if n == maxNames || len(text) > maxNameText {
			continue
		}
		n++
		h = appendElement(h, "DNS", text)
	}
	id.header = h
	return id
}

// appendElement appends a key with its value, in quotes where that needs them.
func appendElement(dst []byte, key, value string) []byte {
	dst = append(append(append(dst, ';'), key...), '=')
	if !strings.ContainsAny(value, `,;="\`) {
		return append(dst, value...)
	}
	dst = append(dst, '"')
	for _, c := range []byte(value) {
		if c == '"' || c == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, c)
	}
	return append(dst, '"')
}

// printable writes what a header cannot hold as RFC 4514 does: \0A.
func printable(text string) string {
	clean := func(c byte) bool { return c >= ' ' && c != 0x7f && c < 0x80 }
	for i := range len(text) {
		if !clean(text[i]) {
			const digits = "0123456789ABCDEF"
			b := []byte(text[:i])
			for _, c := range []byte(text[i:]) {
				if clean(c) {
					b = append(b, c)
				} else {
					b = append(b, '\\', digits[c>>4], digits[c&15])
				}
			}
			return string(b)
		}
	}
	return text
}

// misplaced says whether a listener asks for another check than the one that the
// client's handshake was made under.
func (c *client) misplaced(l *plan.BoundListener) bool {
	return l.Clients != nil && l.Clients != c.check
}

// identity is who the client has proven to be to the listener of its request; nil
// for nobody. What another listener's authorities say is not this one's to repeat:
// they may be somebody else's, who can make certificates of any name.
func (x *exchange) identity() *identity {
	if x.listener == nil || x.listener.Clients != x.c.check {
		return nil
	}
	return x.c.identity
}

// recheck has those clients leave whose requests would be misdirected from now
// on, because a check came or changed. What they have in flight was begun under
// the plan before.
func (w *worker) recheck(old, next *plan.Plan) {
	if !next.ChecksSince(old) {
		return
	}
	deadline := w.loop.Now() + int64(w.view.settings.DrainTimeout)
	w.clients.each(func(c *client) {
		if !c.secure {
			return
		}
		bound := next.Bound(c.sock.name)
		if bound == nil {
			return
		}
		// During a handshake its goroutine has the say about the check.
		if l := bound.Listener([]byte(c.sni)); c.phase != shaking && l != nil && c.misplaced(l) {
			c.leave(w.loop.Now()+lameDuckTime, deadline)
		}
	})
}
