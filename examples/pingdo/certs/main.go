// Certs makes what the demo needs to speak TLS: a certificate authority of its
// own, and a certificate for pingdo.net as a Secret manifest. It does nothing
// while what it made before is good for another month.
//
//	DIR/ca.crt            for curl --cacert
//	DIR/ca.key            readable by its owner alone
//	DIR/pingdo.net.crt    the certificate, to look at
//	DIR/tls/secret.yaml   certificate and key for windrose up --config DIR/tls
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

const (
	caLife   = 10 * 365 * 24 * time.Hour
	leafLife = 397 * 24 * time.Hour // the most that browsers take
	renew    = 30 * 24 * time.Hour
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: certs DIR")
		os.Exit(2)
	}
	made, err := run(os.Args[1], time.Now())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if made {
		fmt.Printf("made a certificate for pingdo.net in %s\n", os.Args[1])
	}
}

// run says whether it made something new.
func run(dir string, now time.Time) (made bool, err error) {
	if current(dir, now) {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Join(dir, "tls"), 0o700); err != nil {
		return false, err
	}
	ca, caKey, err := authority(dir, now)
	if err != nil {
		return false, err
	}
	chain, key, err := leaf(ca, caKey, now)
	if err != nil {
		return false, err
	}
	if err := write(filepath.Join(dir, "tls", "secret.yaml"), secret(chain, key), 0o600); err != nil {
		return false, err
	}
	// Last, because current takes it as the sign that all the rest is there.
	return true, write(filepath.Join(dir, "pingdo.net.crt"), chain, 0o644)
}

// current says whether the certificate is there, of the present authority, and
// not about to end.
func current(dir string, now time.Time) bool {
	ca, err := readCert(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return false
	}
	if _, err := os.Stat(filepath.Join(dir, "tls", "secret.yaml")); err != nil {
		return false
	}
	crt, err := readCert(filepath.Join(dir, "pingdo.net.crt"))
	return err == nil && crt.CheckSignatureFrom(ca) == nil && now.Add(renew).Before(crt.NotAfter) && now.Add(renew).Before(ca.NotAfter)
}

// readCert reads the first certificate of a PEM file.
func readCert(name string) (*x509.Certificate, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no certificate in " + name)
	}
	return x509.ParseCertificate(block.Bytes)
}

// authority reads the certificate authority, or makes one.
func authority(dir string, now time.Time) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	crtFile, keyFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	if crt, err := readCert(crtFile); err == nil && now.Add(renew).Before(crt.NotAfter) {
		key, err := readKey(keyFile)
		if err == nil && key.PublicKey.Equal(crt.PublicKey) {
			return crt, key, nil
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := sign(&x509.Certificate{
		Subject:               pkix.Name{CommonName: "pingdo demo CA"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(caLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, nil, key, key)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	if err := write(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return nil, nil, err
	}
	if err := write(crtFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return nil, nil, err
	}
	crt, err := x509.ParseCertificate(der)
	return crt, key, err
}

func readKey(name string) (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("no key in " + name)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("not an ECDSA key in " + name)
	}
	return ec, nil
}

// leaf makes the certificate of pingdo.net: chain and key as PEM.
func leaf(ca *x509.Certificate, caKey *ecdsa.PrivateKey, now time.Time) (chain, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: "pingdo.net"},
		DNSNames:    []string{"pingdo.net", "*.pingdo.net"},
		NotBefore:   now.Add(-time.Hour),
		NotAfter:    now.Add(leafLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca, key, caKey)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), nil
}

// sign makes a certificate for key; a nil parent is a self-signed one.
func sign(template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	if parent == nil {
		parent = template
	}
	return x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
}

func secret(chain, key []byte) []byte {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Secret
metadata:
  name: pingdo-tls
  namespace: platform
type: kubernetes.io/tls
data:
  tls.crt: %s
  tls.key: %s
`, b64(chain), b64(key))
}

// write replaces a file at once, so that nobody reads half of it.
func write(name string, data []byte, mode os.FileMode) error {
	tmp := name + ".tmp"
	if err := os.WriteFile(tmp, data, mode); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}
