package plan

import (
	"net/netip"
	"strings"
)

// Class is what can share a socket: listeners whose connections begin alike.
type Class uint8

// The classes; the zero value is that of a socket without listeners.
const (
	ClassHTTP Class = iota + 1 // HTTP in cleartext
	ClassTLS                   // a TLS handshake: HTTPS and TLS listeners, told apart by server name
	ClassTCP                   // bytes
	ClassUDP                   // datagrams
)

// class is what a listener of a protocol shares a socket with; 0 for what a
// listener cannot speak.
func (p Protocol) class() Class {
	switch p {
	case HTTP:
		return ClassHTTP
	case HTTPS, TLS:
		return ClassTLS
	case TCP:
		return ClassTCP
	case UDP:
		return ClassUDP
	case H2C:
	}
	return 0
}

// Bound is a socket to listen on and the listeners that share it, which are all
// of one class.
type Bound struct {
	Name  string // of the Socket's key
	Addr  netip.AddrPort
	UDP   bool
	Class Class
	TLS   bool // Class is ClassTLS
	// Streams says that there are listeners of protocol TLS: the server name has
	// to be known before anybody knows who does the handshake.
	Streams bool

	hosts     hostIndex
	listeners []*BoundListener
}

// HTTPS says whether there are listeners of that protocol.
func (b *Bound) HTTPS() bool {
	for _, l := range b.listeners {
		if l.Protocol == HTTPS {
			return true
		}
	}
	return false
}

// Listeners are the listeners of the socket.
func (b *Bound) Listeners() []*BoundListener { return b.listeners }

// Listener chooses by a Host header or a server name, in any case, with or
// without port: the listener of that hostname, else of the longest wildcard
// that takes it, else the one without hostname, else nil. A wildcard stands for
// one or more labels.
func (b *Bound) Listener(host []byte) *BoundListener {
	var buf [maxHost + 1]byte
	w := walkHost(Host(buf[:0], host))
	if i := b.hosts.next(&w); i >= 0 {
		return b.listeners[i]
	}
	return nil
}

// Certificate chooses what a client sees that asks for a server name (empty if
// it asks for none). It is taken from the listener that serves the name: the
// one that names it exactly, else by wildcard, else the listener's first; of two
// for one name the ECDSA one if the client can, else the RSA one. Nil means
// that no listener serves the name or that it has no certificate. The pointer
// stays the same while the certificate does.
func (b *Bound) Certificate(sni string, ecdsaOK bool) *Certificate {
	var raw, buf [maxHost + 1]byte
	if len(sni) > maxHost {
		sni = ""
	}
	name := Host(buf[:0], raw[:copy(raw[:], sni)])
	w := walkHost(name)
	i := b.hosts.next(&w)
	if i < 0 {
		return nil
	}
	return b.listeners[i].certificate(name, ecdsaOK)
}

// BoundListener is a listener of a socket, or of several.
type BoundListener struct {
	Name        string // of the Listener's key
	Index       int    // dense, stable while the key lives
	Protocol    Protocol
	Hostname    string
	Passthrough bool // of protocol TLS: the handshake is the service's
	// Clients is what clients' certificates are held against; nil for none. It
	// stays the same pointer for as long as it says the same.
	Clients *ClientCheck
	// Shows is the certificate that endpoints are shown; nil for none.
	Shows *Certificate
	// Auths are asked, in order, before a request's rule is looked for.
	Auths   []*BoundAuth
	Tracing *BoundTracing // nil: requests are not traced
	Broken  *Broken       // if set, every request is this fault

	certs     []*Certificate
	certNames hostIndex
	certPairs []certPair // by position in certNames
}

// certPair is the first certificate of each algorithm for one name.
type certPair struct{ ecdsa, rsa *Certificate }

// take is the certificate to use, and whether the client can use it.
func (c certPair) take(ecdsaOK bool) (*Certificate, bool) {
	switch {
	case ecdsaOK && c.ecdsa != nil:
		return c.ecdsa, true
	case c.rsa != nil:
		return c.rsa, true
	}
	return c.ecdsa, false
}

// Certificates are the listener's certificates in the order written.
func (l *BoundListener) Certificates() []*Certificate { return l.certs }

func (l *BoundListener) certificate(name []byte, ecdsaOK bool) *Certificate {
	var second *Certificate
	w := walkHost(name)
	for i := l.certNames.next(&w); i >= 0; i = l.certNames.next(&w) {
		// A certificate's wildcard stands for one label (RFC 6125, 6.4.3).
		if !w.single {
			break
		}
		cert, fits := l.certPairs[i].take(ecdsaOK)
		if fits {
			return cert
		}
		if second == nil {
			second = cert
		}
	}
	if second != nil {
		return second
	}
	for _, cert := range l.certs {
		if cert.RSA || ecdsaOK {
			return cert
		}
	}
	if len(l.certs) > 0 {
		return l.certs[0]
	}
	return nil
}

// setCertificates fills what chooses a certificate.
func (l *BoundListener) setCertificates(certs []*Certificate) {
	l.certs = certs
	at := map[string]int{}
	var names []string
	for _, cert := range certs {
		for _, name := range cert.Names {
			name = strings.ToLower(strings.TrimSuffix(name, "."))
			if name == "" {
				continue
			}
			i, ok := at[name]
			if !ok {
				i = len(names)
				at[name] = i
				names = append(names, name)
				l.certPairs = append(l.certPairs, certPair{})
			}
			pair := &l.certPairs[i]
			switch {
			case cert.RSA && pair.rsa == nil:
				pair.rsa = cert
			case !cert.RSA && pair.ecdsa == nil:
				pair.ecdsa = cert
			}
		}
	}
	l.certNames = newHostIndex(names)
}
