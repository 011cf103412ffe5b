package translate_test

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/translate"
)

func TestSelfSignedIsAPair(t *testing.T) {
	chain, key, err := translate.SelfSigned(func() time.Time { return now })([]string{"shop.example", "*.example"})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(leaf.DNSNames, []string{"shop.example", "*.example"}) || now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		t.Errorf("names %v, valid from %v to %v", leaf.DNSNames, leaf.NotBefore, leaf.NotAfter)
	}
}

// A placeholder is made once, also while all around it changes, and goes when
// the Secret comes.
func TestPlaceholderStays(t *testing.T) {
	made := 0
	env := testEnv()
	env.Placeholder = func([]string) (chain, key []byte, err error) {
		made++
		return []byte{byte(made)}, nil, nil
	}
	listener := gatewayv1.Listener{
		Name: "https", Port: 443, Protocol: gatewayv1.HTTPSProtocolType,
		TLS: &gatewayv1.ListenerTLSConfig{CertificateRefs: []gatewayv1.SecretObjectReference{{Name: "late"}}},
	}
	tr := translate.New(env)
	set := (&object.Set{}).With([]metav1.Object{gatewayClass(), gateway(listener)}, nil)
	first := certificateOf(t, tr.Plan(set))
	set = set.With([]metav1.Object{gateway(listener), service("default", "x")}, nil)
	if second := certificateOf(t, tr.Plan(set)); second != first || made != 1 {
		t.Errorf("the placeholder was made %d times", made)
	}
	secrets := decode(t, []byte("apiVersion: v1\nkind: Secret\nmetadata: {name: late, namespace: infra, annotations: {test/names: late.example}}\n"))
	if third := certificateOf(t, tr.Plan(set.With(secrets, nil))); third.Key.Name != "infra/late" {
		t.Errorf("certificate = %s, want the Secret's", third.Key)
	}
	if certificateOf(t, tr.Plan(set)); made != 2 {
		t.Errorf("without the Secret again, placeholders were made %d times, want 2", made)
	}
}

func certificateOf(t *testing.T, r *translate.Result) *plan.Part {
	t.Helper()
	var found *plan.Part
	for _, p := range r.Parts {
		if p.Certificate != nil {
			if found != nil {
				t.Fatalf("certificates %s and %s, want one", found.Key, p.Key)
			}
			found = p
		}
	}
	if found == nil {
		t.Fatal("no certificate")
	}
	return found
}
