package upstream

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"windrose.dev/windrose/internal/plan"
)

// maxSessions bounds the TLS sessions of a service that can be resumed.
const maxSessions = 64

// digest is the same for what believes the same.
func digest(t *plan.BackendTLS) string {
	if t == nil {
		return ""
	}
	var b []byte
	add := func(text string) { b = append(binary.AppendUvarint(b, uint64(len(text))), text...) }
	add(t.Hostname)
	add(string(t.Authorities))
	add(fmt.Sprint(t.System))
	for _, n := range t.Names {
		add(n.DNS)
		add(n.URI)
	}
	if t.Alone {
		add("alone")
	}
	if t.Client != nil {
		add(string(t.Client.Chain))
		add(string(t.Client.Key))
	}
	sum := sha256.Sum256(b)
	return string(sum[:])
}

// showing is a certificate that endpoints are shown, read once.
type showing struct {
	cert   *tls.Certificate
	digest string
}

// show reads the certificates that listeners show, and forgets those that none
// does any more. One that cannot be read is shown to nobody.
func (t *Table) show(certs []*plan.Certificate) []*plan.Certificate {
	for c := range t.shown {
		if !slices.Contains(certs, c) {
			delete(t.shown, c)
		}
	}
	return slices.DeleteFunc(certs, func(c *plan.Certificate) bool {
		if t.shown[c] != nil {
			return false
		}
		pair, err := tls.X509KeyPair(c.Chain, c.Key)
		if err != nil {
			return true
		}
		sum := sha256.Sum256(c.Chain)
		t.shown[c] = &showing{cert: &pair, digest: string(sum[:])}
		return false
	})
}

// alpn is what is offered for what is spoken under TLS.
func alpn(protocol plan.Protocol) []string {
	switch protocol {
	case plan.H2C:
		return []string{"h2"}
	case plan.TCP:
		return nil // nobody here knows what it is
	case plan.HTTP, plan.HTTPS, plan.TLS, plan.UDP:
	}
	return []string{"http/1.1"}
}

// clientConfig is how connections to a service's endpoints are made. Authorities
// that cannot be read leave nobody to be believed.
func clientConfig(t *plan.BackendTLS, protocol plan.Protocol, shown *showing) *tls.Config {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: t.Hostname, NextProtos: alpn(protocol),
		ClientSessionCache: tls.NewLRUClientSessionCache(maxSessions),
	}
	if shown != nil {
		// Whatever authorities the endpoint names: the author of the Gateway knows
		// better whom it believes.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return shown.cert, nil }
	}
	if t.Client != nil {
		pair, err := tls.X509KeyPair(t.Client.Chain, t.Client.Key)
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if err != nil {
				return nil, errNoClientPair // what is wrong with it, translation has told
			}
			return &pair, nil
		}
	}
	if !t.System {
		cfg.RootCAs = x509.NewCertPool()
		cfg.RootCAs.AppendCertsFromPEM(t.Authorities)
	}
	roots, names := cfg.RootCAs, t.Names
	// With names, crypto/tls's own look at the host name would be wrong; what
	// stands in its place is called for resumed sessions too.
	cfg.InsecureSkipVerify = len(names) > 0
	cfg.VerifyConnection = func(s tls.ConnectionState) error {
		if len(names) > 0 {
			if err := verify(s.PeerCertificates, roots, names); err != nil {
				return err
			}
		}
		if protocol == plan.H2C && s.NegotiatedProtocol != "h2" {
			return ErrNoHTTP2
		}
		return nil
	}
	return cfg
}

var (
	// ErrNoHTTP2 is the error of a handshake with an endpoint that does not offer
	// what its Service says.
	ErrNoHTTP2       = errors.New("the endpoint does not offer HTTP/2 (ALPN h2)")
	errNoClientPair  = errors.New("the certificate that the endpoint is to be shown cannot be read")
	errNoCertificate = errors.New("the endpoint has shown no certificate")
)

// verify looks whether a chain leads to one of roots, and its leaf has one of
// names.
func verify(chain []*x509.Certificate, roots *x509.CertPool, names []plan.SubjectName) error {
	if err := doubt(chain, roots, names); err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: chain, Err: err}
	}
	return nil
}

func doubt(chain []*x509.Certificate, roots *x509.CertPool, names []plan.SubjectName) error {
	if len(chain) == 0 {
		return errNoCertificate
	}
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := chain[0].Verify(opts); err != nil {
		return err
	}
	wanted := make([]string, 0, len(names))
	for _, n := range names {
		if carries(chain[0], n) {
			return nil
		}
		wanted = append(wanted, n.DNS+n.URI)
	}
	return fmt.Errorf("the certificate has none of the names %s", strings.Join(wanted, ", "))
}

func carries(c *x509.Certificate, name plan.SubjectName) bool {
	if name.URI != "" {
		for _, u := range c.URIs {
			if u.String() == name.URI {
				return true
			}
		}
		return false
	}
	suffix, wild := strings.CutPrefix(name.DNS, "*.")
	if !wild {
		return name.DNS != "" && c.VerifyHostname(name.DNS) == nil
	}
	return slices.ContainsFunc(c.DNSNames, func(have string) bool {
		_, parent, ok := strings.Cut(have, ".")
		return ok && strings.EqualFold(parent, suffix)
	})
}
