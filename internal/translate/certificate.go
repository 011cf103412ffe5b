package translate

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// certificate is what a Secret was read as. Either part or problem is set.
type certificate struct {
	secret              *corev1.Secret
	part                *plan.Part
	problem             string
	notBefore, notAfter time.Time
	used                bool // by a listener, in the run under way
	watched             bool // by an XBackend, whose part holds it
}

// certificates are the Secrets that listeners name, each read once.
type certificates struct {
	bySecret map[object.Name]*certificate
}

// read gives the certificate in a Secret, which exists.
func (c *certificates) read(secret *corev1.Secret) *certificate {
	name := object.NameOf(secret)
	known := c.bySecret[name]
	if known != nil && known.secret == secret {
		return known
	}
	made := readCertificate(secret)
	if known != nil && known.part != nil && made.part != nil && reflect.DeepEqual(known.part, made.part) {
		made.part = known.part
	}
	c.bySecret[name] = made
	return made
}

// collect gives the parts of the certificates in use and forgets the others.
func (c *certificates) collect(r *Result) {
	for name, made := range c.bySecret {
		if !made.used && !made.watched {
			delete(c.bySecret, name)
			continue
		}
		used := made.used
		made.used, made.watched = false, false
		if used && made.part != nil {
			r.Parts = append(r.Parts, made.part)
		}
	}
}

const (
	expiresSoon = 30 * 24 * time.Hour
	dateFormat  = "2 January 2006"
)

// expiry finds what is wrong with the dates of the certificates in use, and when
// that will be another thing.
func (t *Translator) expiry() (found []object.Finding, again time.Time) {
	if t.env.Now == nil {
		return nil, time.Time{}
	}
	now := t.env.Now()
	for name, c := range t.secrets.bySecret {
		if c.part == nil || !c.used && !c.watched {
			continue
		}
		// A certificate is valid within the second of its end.
		for _, turn := range [...]time.Time{c.notBefore, c.notAfter.Add(time.Second - expiresSoon), c.notAfter.Add(time.Second)} {
			if turn.After(now) && (again.IsZero() || turn.Before(again)) {
				again = turn
			}
		}
		f := object.Finding{Severity: object.Error, Object: object.Key{Kind: "Secret", Namespace: name.Namespace, Name: name.Name}, Field: "data[tls.crt]", Reason: reasonCertificateExpiry}
		switch {
		case now.After(c.notAfter):
			f.Message = "the certificate expired on " + c.notAfter.UTC().Format(dateFormat)
			f.Mend = "put a renewed certificate and its key into the Secret"
		case now.Before(c.notBefore):
			f.Message = "the certificate is not valid before " + c.notBefore.UTC().Format(dateFormat)
			f.Mend = "check the clock of this machine, or use a certificate that is valid now"
		case now.Add(expiresSoon).After(c.notAfter):
			f.Severity = object.Warning
			f.Message = "the certificate expires on " + c.notAfter.UTC().Format(dateFormat)
			f.Mend = "renew it before that day"
		default:
			continue
		}
		found = append(found, f)
	}
	slices.SortFunc(found, func(a, b object.Finding) int { return a.Object.Compare(b.Object) })
	return found, again
}

func readCertificate(secret *corev1.Secret) *certificate {
	c := &certificate{secret: secret}
	chain, key := secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey]
	leaf, err := checkPair(chain, key)
	if err != nil {
		c.problem = err.Error()
		return c
	}
	_, isRSA := leaf.PublicKey.(*rsa.PublicKey)
	c.notBefore, c.notAfter = leaf.NotBefore, leaf.NotAfter
	c.part = certificatePart(secret.Namespace+"/"+secret.Name, chain, key, leaf.DNSNames)
	c.part.Certificate.RSA = isRSA
	return c
}

func certificatePart(name string, chain, key []byte, dnsNames []string) *plan.Part {
	names := make([]string, len(dnsNames))
	for i, n := range dnsNames {
		names[i] = strings.ToLower(n)
	}
	return &plan.Part{
		Key:         plan.Key{Kind: plan.KindCertificate, Name: name},
		Certificate: &plan.Certificate{Chain: chain, Key: key, Names: names},
	}
}

// checkPair parses a chain and the key of its leaf. Its errors never hold any
// of the key.
func checkPair(chain, key []byte) (*x509.Certificate, error) {
	if len(bytes.TrimSpace(chain)) == 0 {
		return nil, errors.New("it has no tls.crt")
	}
	if len(bytes.TrimSpace(key)) == 0 {
		return nil, errors.New("it has no tls.key")
	}
	leaf, err := parseChain(chain)
	if err != nil {
		return nil, err
	}
	private, err := parseKey(key)
	if err != nil {
		return nil, err
	}
	switch public := leaf.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if public.Curve == elliptic.P224() {
			return nil, errors.New("its key is on curve P-224, which TLS 1.3 does not know; use P-256")
		}
		if !public.Equal(private.Public()) {
			return nil, errors.New("tls.key is not the key of tls.crt")
		}
	case *rsa.PublicKey:
		if !public.Equal(private.Public()) {
			return nil, errors.New("tls.key is not the key of tls.crt")
		}
	default:
		return nil, errors.New("its key is neither ECDSA nor RSA")
	}
	return leaf, nil
}

func parseChain(chain []byte) (*x509.Certificate, error) {
	var leaf *x509.Certificate
	for rest := chain; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		parsed, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("tls.crt holds a certificate that cannot be read: %w", err)
		}
		leaf = cmp.Or(leaf, parsed)
	}
	if leaf == nil {
		return nil, errors.New("tls.crt holds no PEM block of type CERTIFICATE")
	}
	return leaf, nil
}

func parseKey(key []byte) (crypto.Signer, error) {
	for rest := key; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("tls.key holds no PEM block with a private key")
		}
		if block.Type != "PRIVATE KEY" && !strings.HasSuffix(block.Type, " PRIVATE KEY") {
			continue
		}
		if signer := parsePrivate(block.Bytes); signer != nil {
			return signer, nil
		}
		return nil, errors.New("tls.key holds a private key that cannot be read; it may be encrypted")
	}
}

func parsePrivate(der []byte) crypto.Signer {
	if k, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		signer, _ := k.(crypto.Signer)
		return signer
	}
	if k, err := x509.ParseECPrivateKey(der); err == nil {
		return k
	}
	if k, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return k
	}
	return nil
}

// fits says whether a certificate with these names is right for a host name.
func fits(names []string, host string) bool { return host == "" || hasName(names, host) }

// placeholder gives the self-signed certificate of a listener without a
// usable Secret; it stays the same from run to run.
func (g *gateways) placeholder(t *Translator, listener, hostname string) *plan.Part {
	names := []string{}
	if hostname != "" {
		names = append(names, hostname)
	}
	if known := g.placeholders[listener]; known != nil && slices.Equal(known.Certificate.Names, names) {
		return known
	}
	if t.env.Placeholder == nil {
		return nil
	}
	chain, key, err := t.env.Placeholder(names)
	if err != nil {
		return nil
	}
	made := certificatePart("placeholder/"+listener, chain, key, names)
	g.placeholders[listener] = made
	return made
}

// prunePlaceholders forgets those that no listener uses any more.
func (g *gateways) prunePlaceholders(used map[string]bool) {
	maps.DeleteFunc(g.placeholders, func(listener string, _ *plan.Part) bool { return !used[listener] })
}
