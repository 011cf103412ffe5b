package e2e

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// authority signs the certificates of the tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

var theAuthority = sync.OnceValues(func() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of the tests"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert, key, encodePEM("CERTIFICATE", der)}, err
})

func signer(t *testing.T) *authority {
	t.Helper()
	a, err := theAuthority()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func encodePEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// caFile is a file with the certificate of the authority.
func caFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(path, []byte(signer(t).pem), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

type keyKind int

const (
	ecdsaKey keyKind = iota + 1
	rsaKey
)

// issue makes a chain and a key, as PEM, with a serial number and names.
func issue(t *testing.T, kind keyKind, serial int64, hosts ...string) (chain, private string) {
	t.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case ecdsaKey:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case rsaKey:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	by := signer(t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: hosts[0]}, DNSNames: hosts,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour),
	}, by.cert, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return encodePEM("CERTIFICATE", der), encodePEM("PRIVATE KEY", pkcs8)
}

// secret is a TLS Secret whose certificate bears a serial number and names.
func secret(t *testing.T, name string, kind keyKind, serial int64, hosts ...string) string {
	t.Helper()
	chain, private := issue(t, kind, serial, hosts...)
	return fmt.Sprintf(`apiVersion: v1
kind: Secret
metadata: {name: %s}
type: kubernetes.io/tls
data:
  tls.crt: %s
  tls.key: %s
`, name, base64.StdEncoding.EncodeToString([]byte(chain)), base64.StdEncoding.EncodeToString([]byte(private)))
}

// tlsServer is the configuration of a service that has a certificate itself.
func tlsServer(t *testing.T, host string) *tls.Config {
	t.Helper()
	chain, private := issue(t, ecdsaKey, 1, host)
	cert, err := tls.X509KeyPair([]byte(chain), []byte(private))
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}}
}

// tlsConfig trusts the authority of the tests.
func tlsConfig(t *testing.T, name string) *tls.Config {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(signer(t).cert)
	return &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12}
}

// transport connects every host to one address and trusts the authority.
func transport(t *testing.T, addr string) *http.Transport {
	t.Helper()
	tr := &http.Transport{
		TLSClientConfig: tlsConfig(t, ""),
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, network, addr)
		},
		MaxIdleConnsPerHost: 64,
	}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// shown is the certificate that addr shows for a server name.
func shown(t *testing.T, addr, name string) (*x509.Certificate, error) {
	t.Helper()
	config := tlsConfig(t, name)
	config.InsecureSkipVerify = true
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, config)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], nil
}

// selfSigned is the chain and the key of a stranger, whom nobody vouches for.
func selfSigned(t *testing.T) (chain, private string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "stranger"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return encodePEM("CERTIFICATE", der), encodePEM("PRIVATE KEY", pkcs8)
}
