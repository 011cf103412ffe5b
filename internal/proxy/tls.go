package proxy

import (
	"container/list"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"windrose.dev/windrose/internal/loop"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/telemetry"
	"windrose.dev/windrose/internal/upstream"
)

// tlsSide is the TLS configuration of a socket. There is one for as long as the
// socket is bound, so that the keys of session tickets, which crypto/tls makes
// and rotates for each configuration, outlive plans.
type tlsSide struct {
	config *tls.Config
	checks checks
}

// errNoCertificate is the error of a handshake for a name that no listener
// serves.
var errNoCertificate = errors.New("no certificate for this server name")

func (p *Proxy) newTLS(name string) *tlsSide {
	t := &tlsSide{}
	t.config = &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		// Records of full size: the many small ones at a connection's start cost
		// more than they win where answers are small.
		DynamicRecordSizingDisabled: true,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			bound := p.view.Load().plan.Bound(name)
			if bound == nil {
				return nil, errNoCertificate
			}
			part := bound.Certificate(hello.ServerName, canECDSA(hello))
			if part == nil {
				// Of nothing and no error, crypto/tls makes the alert unrecognized_name.
				return nil, nil //nolint:nilnil // see above
			}
			return p.certs.parsed(part)
		},
	}
	t.config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		return t.ask(p.view.Load().plan.Bound(name), hello), nil
	}
	return t
}

// canECDSA says whether a client takes an ECDSA certificate.
func canECDSA(hello *tls.ClientHelloInfo) bool {
	if slices.Contains(hello.SupportedVersions, tls.VersionTLS13) {
		return slices.Contains(hello.SignatureSchemes, tls.ECDSAWithP256AndSHA256) ||
			slices.Contains(hello.SignatureSchemes, tls.ECDSAWithP384AndSHA384) ||
			slices.Contains(hello.SignatureSchemes, tls.ECDSAWithP521AndSHA512)
	}
	for _, s := range hello.CipherSuites {
		switch s {
		case tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA:
			return true
		}
	}
	return false
}

// maxParsed bounds the certificates that are kept parsed; ten thousand that are
// hardly asked for stay bytes.
const maxParsed = 1024

// certificates keeps the parsed forms of the certificates used last. The zero
// value is empty. It is used by handshakes, not by event loops.
type certificates struct {
	mu     sync.Mutex // guards all below
	byPart map[*plan.Certificate]*list.Element
	recent list.List // of parsedCertificate
}

type parsedCertificate struct {
	part *plan.Certificate
	cert *tls.Certificate
}

func (s *certificates) parsed(part *plan.Certificate) (*tls.Certificate, error) {
	if c := s.find(part); c != nil {
		return c, nil
	}
	// Outside the lock: two handshakes may both parse, one result is kept.
	cert, err := tls.X509KeyPair(part.Chain, part.Key)
	if err != nil {
		return nil, fmt.Errorf("parse certificate: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byPart == nil {
		s.byPart = map[*plan.Certificate]*list.Element{}
	}
	if e := s.byPart[part]; e == nil {
		s.byPart[part] = s.recent.PushFront(parsedCertificate{part, &cert})
	}
	if s.recent.Len() > maxParsed {
		last := s.recent.Back()
		delete(s.byPart, s.recent.Remove(last).(parsedCertificate).part) //nolint:errcheck // nothing else is in it
	}
	return &cert, nil
}

func (s *certificates) find(part *plan.Certificate) *tls.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.byPart[part]
	if e == nil {
		return nil
	}
	s.recent.MoveToFront(e)
	return e.Value.(parsedCertificate).cert //nolint:errcheck // nothing else is in it
}

// handshakeResult says how a handshake ended.
func handshakeResult(err error) telemetry.Handshake {
	switch {
	case errors.Is(err, loop.ErrBusy):
		return telemetry.HandshakeOverload
	case errors.Is(err, errNoCertificate), err != nil && strings.Contains(err.Error(), "no certificates configured"):
		return telemetry.HandshakeNoName
	}
	return telemetry.HandshakeResult(err)
}

// shook counts how the handshake with an endpoint ended; err is why the
// connection was not made.
func (w *worker) shook(e *upstream.Endpoint, conn *loop.Conn, err error) {
	var gone *loop.LostError
	switch {
	case e.TLS == nil:
	case errors.As(err, &gone) && gone.Op == "connect":
	case errors.Is(err, errConnectTimeout):
		if conn.Shaking() {
			w.tel.Outward(telemetry.HandshakeTimeout)
		}
	case errors.Is(err, upstream.ErrNoHTTP2):
		w.tel.Outward(telemetry.HandshakeNoCommon)
	default:
		w.tel.Outward(handshakeResult(err))
	}
}

// tlsVersion is a version for the record.
func tlsVersion(v uint16) string {
	switch v {
	case tls.VersionTLS12:
		return "TLS1.2"
	case tls.VersionTLS13:
		return "TLS1.3"
	}
	return ""
}
