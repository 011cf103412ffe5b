package telemetry

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
)

// Handshake is how a TLS handshake ended.
type Handshake uint8

// The ends of a handshake, in which a client is the peer; the zero value is not set and counts as failed.
const (
	HandshakeFailed     Handshake = iota // for a reason not named below
	HandshakeOK                          // the connection carries requests
	HandshakeTimeout                     // the client was too slow
	HandshakeGone                        // the client closed the connection
	HandshakeNotTLS                      // the client does not speak TLS
	HandshakeRefused                     // the client refused, as it does with a certificate that it does not trust
	HandshakeNoCommon                    // no version, cipher or protocol in common
	HandshakeNoName                      // no certificate for the name that the client asked for
	HandshakeDistrusted                  // windrose refused the peer's certificate, or missed one
	HandshakeOverload                    // too many handshakes at once

	numHandshakes = int(HandshakeOverload) + 1
)

func (h Handshake) String() string {
	switch h {
	case HandshakeOK:
		return "ok"
	case HandshakeTimeout:
		return "timeout"
	case HandshakeGone:
		return "client-gone"
	case HandshakeNotTLS:
		return "not-tls"
	case HandshakeRefused:
		return "client-refused"
	case HandshakeNoCommon:
		return "nothing-in-common"
	case HandshakeNoName:
		return "no-certificate"
	case HandshakeDistrusted:
		return "certificate-refused"
	case HandshakeOverload:
		return "overload"
	case HandshakeFailed:
		return "failed"
	}
	return "failed"
}

// Outward is the text for a handshake with an endpoint.
func (h Handshake) Outward() string { return strings.Replace(h.String(), "client", "endpoint", 1) }

// HandshakeResult classifies what (*tls.Conn).Handshake returned.
func HandshakeResult(err error) Handshake {
	var header tls.RecordHeaderError
	var untrusted *tls.CertificateVerificationError
	var timeout net.Error
	var alert *net.OpError
	switch {
	case err == nil:
		return HandshakeOK
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return HandshakeTimeout
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return HandshakeGone
	case errors.As(err, &header):
		return HandshakeNotTLS
	case errors.As(err, &alert) && alert.Op == "remote error":
		return HandshakeRefused // how crypto/tls reports an alert of the peer
	case errors.As(err, &untrusted), strings.Contains(err.Error(), "client didn't provide a certificate"):
		return HandshakeDistrusted
	case nothingInCommon(err.Error()):
		return HandshakeNoCommon
	}
	return HandshakeFailed
}

// nothingInCommon looks into the text, because crypto/tls has no error values
// for its refusals. A test holds the texts against the toolchain.
func nothingInCommon(text string) bool {
	for _, part := range []string{
		"unsupported versions",
		"supported by both client and server", // cipher suites, curves, key exchanges
		"unsupported application protocols",
		"doesn't support any of the certificate's signature algorithms",
	} {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}
