package telemetry_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"testing"
	"time"

	"windrose.dev/windrose/internal/telemetry"
)

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"shop.example"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// The errors are those of real handshakes, because crypto/tls names few of
// them.
func TestHandshakeResult(t *testing.T) {
	cert := certificate(t)
	client := func(c *tls.Config) func(net.Conn) {
		c.ServerName = "shop.example"
		return func(conn net.Conn) {
			_ = tls.Client(conn, c).Handshake() // the server's error is looked at
			conn.Close()
		}
	}
	for _, c := range []struct {
		name   string
		server *tls.Config
		client func(net.Conn)
		want   telemetry.Handshake
	}{
		{"a good one", new(tls.Config), client(&tls.Config{InsecureSkipVerify: true}), telemetry.HandshakeOK},
		{"certificate not trusted", new(tls.Config), client(new(tls.Config)), telemetry.HandshakeRefused},
		{"version too old", &tls.Config{MinVersion: tls.VersionTLS13}, client(&tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}), telemetry.HandshakeNoCommon},
		{
			"no cipher in common",
			&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}},
			client(&tls.Config{InsecureSkipVerify: true, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}}),
			telemetry.HandshakeNoCommon,
		},
		{
			"no curve in common",
			&tls.Config{CurvePreferences: []tls.CurveID{tls.CurveP256}},
			client(&tls.Config{InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.CurveP384}}),
			telemetry.HandshakeNoCommon,
		},
		{"no ALPN in common", &tls.Config{NextProtos: []string{"http/1.1"}}, client(&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h3"}}), telemetry.HandshakeNoCommon},
		{"no client certificate", &tls.Config{ClientAuth: tls.RequireAnyClientCert}, client(&tls.Config{InsecureSkipVerify: true}), telemetry.HandshakeDistrusted},
		{"client certificate not trusted", &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()}, client(&tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}}), telemetry.HandshakeDistrusted},
		{"plain HTTP", new(tls.Config), func(conn net.Conn) {
			go func() { _, _ = io.Copy(io.Discard, conn) }()
			_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n") // the server may have closed
		}, telemetry.HandshakeNotTLS},
		{"closed", new(tls.Config), func(conn net.Conn) { conn.Close() }, telemetry.HandshakeGone},
		{"silent", new(tls.Config), func(net.Conn) {}, telemetry.HandshakeTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			near, far := net.Pipe()
			defer near.Close()
			defer far.Close()
			c.server.Certificates = []tls.Certificate{cert}
			patience := 10 * time.Second
			if c.want == telemetry.HandshakeTimeout {
				patience = 10 * time.Millisecond
			}
			if err := near.SetDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			go c.client(far)
			err := tls.Server(near, c.server).Handshake()
			if got := telemetry.HandshakeResult(err); got != c.want {
				t.Errorf("%v is %v, want %v", err, got, c.want)
			}
		})
	}
	for _, c := range []struct {
		err  error
		want telemetry.Handshake
	}{
		{fmt.Errorf("handshake: %w", os.ErrDeadlineExceeded), telemetry.HandshakeTimeout},
		{context.DeadlineExceeded, telemetry.HandshakeTimeout},
		{errors.New("something else"), telemetry.HandshakeFailed},
	} {
		if got := telemetry.HandshakeResult(c.err); got != c.want {
			t.Errorf("%v is %v, want %v", c.err, got, c.want)
		}
	}
}

func TestHandshakesAreNamedApart(t *testing.T) {
	seen := map[string]bool{}
	for h := telemetry.HandshakeFailed; h <= telemetry.HandshakeOverload; h++ {
		if seen[h.String()] {
			t.Errorf("%v comes twice", h)
		}
		seen[h.String()] = true
	}
}
