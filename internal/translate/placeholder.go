package translate

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"
)

// placeholderLife is long: nobody trusts a placeholder, so that nothing is
// gained when it ends.
const placeholderLife = 10 * 365 * 24 * time.Hour

// SelfSigned gives an Env its Placeholder: fresh ECDSA keys with certificates
// that say what they are.
func SelfSigned(now func() time.Time) func(names []string) (chain, key []byte, err error) {
	return func(names []string) (chain, key []byte, err error) {
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, fmt.Errorf("make a key for a placeholder: %w", err)
		}
		serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
		if err != nil {
			return nil, nil, fmt.Errorf("make a serial number for a placeholder: %w", err)
		}
		start := now().Add(-time.Hour)
		template := &x509.Certificate{
			SerialNumber: serial,
			Subject:      pkix.Name{CommonName: "windrose placeholder: the Secret is missing or cannot be used"},
			DNSNames:     names,
			NotBefore:    start,
			NotAfter:     start.Add(placeholderLife),
			KeyUsage:     x509.KeyUsageDigitalSignature,
			ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}
		cert, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
		if err != nil {
			return nil, nil, fmt.Errorf("sign a placeholder: %w", err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(private)
		if err != nil {
			return nil, nil, fmt.Errorf("encode the key of a placeholder: %w", err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
	}
}
