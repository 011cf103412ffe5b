package e2e

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// indented is a PEM text for a block of YAML.
func indented(text string) string { return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") }

func authorityMap(name, pem string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + "}\ndata:\n  ca.crt: |\n    " + indented(pem) + "\n"
}

func trustBundle(name, pem string) string {
	return "apiVersion: certificates.k8s.io/v1\nkind: ClusterTrustBundle\nmetadata: {name: " + name + "}\nspec:\n  trustBundle: |\n    " + indented(pem) + "\n"
}

// pairFiles are files with a certificate and its key.
func pairFiles(t *testing.T, chain, key string) (string, string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"tls.crt": chain, "tls.key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
}

// Clients show certificates to windrose, by curl and openssl, and endpoints are
// told who they are; what is wrong with the authorities is in the statuses, and
// lets nobody in.
//
// covers: GatewayFrontendClientCertificateValidation GatewayFrontendClientCertificateValidationInsecureFallback
// covers: GatewayFrontendInvalidDefaultClientCertificateValidation GatewayInvalidFrontendClientCertificateValidation ClusterTrustBundle
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	strict, fallback, broken, plain := freeAddr(t), freeAddr(t), freeAddr(t), freeAddr(t)
	told := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "told %q", r.Header.Values("X-Forwarded-Client-Cert"))
	}))
	https := func(name, addr string) string { return httpsListener(name, addr, "shop.example", "shop") }
	gateway := strings.Replace(gatewayOf(https("strict", strict), https("fallback", fallback), https("broken", broken), fmt.Sprintf("{name: plain, protocol: HTTP, port: %s}", portOf(plain))),
		"  listeners:", fmt.Sprintf(`  tls:
    frontend:
      default: {validation: {caCertificateRefs: [{group: "", kind: ConfigMap, name: clients}]}}
      perPort:
      - {port: %s, tls: {validation: {mode: AllowInsecureFallback, caCertificateRefs: [{group: certificates.k8s.io, kind: ClusterTrustBundle, name: clients}]}}}
      - {port: %s, tls: {validation: {caCertificateRefs: [{group: "", kind: ConfigMap, name: lost}]}}}
  listeners:`, portOf(fallback), portOf(broken)), 1)
	w := up(t, map[string]string{
		"gateway.yaml": gateway, "secret.yaml": secret(t, "shop", ecdsaKey, 21, "shop.example"),
		"clients.yaml": authorityMap("clients", signer(t).pem), "bundle.yaml": trustBundle("clients", signer(t).pem),
		"services.yaml": service("told", told), "routes.yaml": route("told", "/", "told"),
	})
	chain, private := issue(t, ecdsaKey, 22, "client.example")
	cert, key := pairFiles(t, chain, private)
	// ask gives what curl gets, or why it gets nothing.
	ask := func(addr string, more ...string) string {
		r := curl(t, append([]string{"--cacert", caFile(t), "--resolve", "shop.example:" + portOf(addr) + ":127.0.0.1", "https://shop.example:" + portOf(addr) + "/", "-H", "X-Forwarded-Client-Cert: Hash=forged"}, more...)...)
		switch r.code {
		case 35, 55, 56: // as the refusal meets curl: connecting, sending or receiving
			return "refused"
		case 7:
			return "nobody there"
		}
		return r.out
	}
	mine := []string{"--cert", cert, "--key", key}
	otherChain, otherKey := selfSigned(t)
	otherCert, otherPrivate := pairFiles(t, otherChain, otherKey)
	theirs := []string{"--cert", otherCert, "--key", otherPrivate}
	const known, nobody = `;Subject=\"CN=client.example\";DNS=client.example`, "told []"
	for _, c := range []struct {
		name, addr string
		with       []string
		want       string
	}{
		{"the right certificate", strict, mine, known},
		{"none", strict, nil, "refused"},
		{"that of a stranger", strict, theirs, "refused"},
		{"fallback, the right one", fallback, mine, known},
		{"fallback, none", fallback, nil, nobody},
		{"fallback, that of a stranger", fallback, theirs, nobody},
		{"authorities that are not there", broken, mine, "nobody there"},
	} {
		if got := ask(c.addr, c.with...); !strings.Contains(got, c.want) || strings.Contains(got, "forged") {
			t.Errorf("%s: got %q, want it to contain %q", c.name, got, c.want)
		}
	}
	if r := curl(t, "-H", "X-Forwarded-Client-Cert: Hash=forged", "-H", "X_Forwarded_Client_Cert: Hash=forged", "http://"+plain); !strings.Contains(r.out, nobody) {
		t.Errorf("in cleartext: got %+v", r)
	}
	if out := openssl(t, strict, "-ign_eof", "-servername", "shop.example", "-cert", cert, "-key", key, "-CAfile", caFile(t)); !strings.Contains(out, "CN=authority of the tests") && !strings.Contains(out, "CN = authority of the tests") || !strings.Contains(out, "200 OK") {
		t.Errorf("openssl with the certificate: got %s", out)
	}
	gw := w.get("gateway", "web")
	if got := find(gw.Status.Conditions, "InsecureFrontendValidationMode"); !strings.HasPrefix(got, "True ConfigurationChanged") {
		t.Errorf("InsecureFrontendValidationMode: got %s", got)
	}
	w.eventually("the access log names the client", func() error {
		for _, line := range w.accessLog() {
			if strings.Contains(line, `"identity":"CN=client.example"`) {
				return nil
			}
		}
		return fmt.Errorf("no line does")
	})
	// The authority is replaced by that of the stranger.
	w.write("clients.yaml", authorityMap("clients", otherChain))
	w.applied()
	if got := ask(strict, mine...); got != "refused" {
		t.Errorf("after the authority was replaced: got %q", got)
	}
	if got := ask(strict, theirs...); !strings.Contains(got, "CN=stranger") {
		t.Errorf("after the authority was replaced, the stranger: got %q", got)
	}
	// The bundle goes: nobody is let in by what it was before.
	w.remove("bundle.yaml")
	w.eventually("the listener does not serve without its authorities", func() error {
		if got := ask(fallback, mine...); got != "nobody there" {
			return fmt.Errorf("got %q", got)
		}
		return nil
	})
}

// Endpoints are shown the Gateway's certificate, by HTTP and below it.
//
// covers: GatewayTLSBackendClientCertificate GatewayInvalidTLSBackendConfiguration BackendTLSPolicyTLSRouteTerminate
func TestGatewayShowsItsCertificate(t *testing.T) {
	t.Parallel()
	addr, tcp, end := freeAddr(t), freeAddr(t), freeAddr(t)
	clients := x509.NewCertPool()
	clients.AddCert(signer(t).cert)
	cfg := tlsServer(t, "b.example")
	cfg.ClientCAs, cfg.ClientAuth = clients, tls.RequireAndVerifyClientCert
	b := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s shown %s for %s", r.Host, r.TLS.PeerCertificates[0].Subject.CommonName, r.TLS.ServerName)
	}))
	b.TLS = cfg
	b.Config.ErrorLog = log.New(io.Discard, "", 0)
	b.StartTLS()
	t.Cleanup(b.Close)
	chain, private := issue(t, ecdsaKey, 31, "gateway.example")
	shown := func(chain, private string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: shown}\ntype: kubernetes.io/tls\ndata: {tls.crt: %s, tls.key: %s}\n",
			base64.StdEncoding.EncodeToString([]byte(chain)), base64.StdEncoding.EncodeToString([]byte(private)))
	}
	w := up(t, map[string]string{
		"gateway.yaml": strings.Replace(gatewayOf(
			fmt.Sprintf("{name: http, protocol: HTTP, port: %s}", portOf(addr)), fmt.Sprintf("{name: tcp, protocol: TCP, port: %s}", portOf(tcp)),
			fmt.Sprintf("{name: end, protocol: TLS, port: %s, hostname: end.example, tls: {certificateRefs: [{name: end}]}}", portOf(end)),
		), "  listeners:", "  tls: {backend: {clientCertificateRef: {name: shown}}}\n  listeners:", 1),
		"shown.yaml": shown(chain, private), "end.yaml": secret(t, "end", ecdsaKey, 32, "end.example"), "authority.yaml": authorityMap("authority", signer(t).pem),
		"services.yaml": service("b", strings.TrimPrefix(b.URL, "https://")),
		"routes.yaml": all(route("b", "/", "b"), `apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: b}
spec:
  parentRefs: [{name: web, sectionName: tcp}]
  rules: [{backendRefs: [{name: b, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: b}
spec:
  parentRefs: [{name: web, sectionName: end}]
  hostnames: [end.example]
  rules: [{backendRefs: [{name: b, port: 80}]}]
`),
		"policy.yaml": `apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: b}
spec:
  targetRefs: [{group: "", kind: Service, name: b}]
  validation: {hostname: b.example, caCertificateRefs: [{group: "", kind: ConfigMap, name: authority}]}
`,
	})
	const want = "shown gateway.example for b.example"
	ask := func() error {
		if r := curl(t, "http://"+addr); !strings.Contains(r.out, want) {
			return fmt.Errorf("got %+v, want %s", r, want)
		}
		return nil
	}
	if err := ask(); err != nil {
		t.Error(err)
	}
	// The bytes of a TCPRoute, and of a TLSRoute that ends TLS, go under TLS too.
	if r := curl(t, "http://"+tcp); !strings.Contains(r.out, want) {
		t.Errorf("through TCP: got %+v", r)
	}
	conn, err := tls.Dial("tcp", end, tlsConfig(t, "end.example"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nhost: inner.example\r\nconnection: close\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || string(body) != "inner.example "+want {
		t.Errorf("through TLS: got %q (%v)", body, err)
	}
	// Without its certificate the Gateway is nobody; its status says why.
	w.remove("shown.yaml")
	w.eventually("the endpoint refuses", func() error {
		if r := curl(t, "http://"+addr); !strings.Contains(r.out, "upstream-reset") && !strings.Contains(r.out, "connect-failed") {
			return fmt.Errorf("got %+v", r)
		}
		if got := find(w.get("gateway", "web").Status.Conditions, "ResolvedRefs"); !strings.HasPrefix(got, "False InvalidClientCertificateRef") {
			return fmt.Errorf("ResolvedRefs is %s", got)
		}
		return nil
	})
	w.write("shown.yaml", shown(chain, private))
	w.eventually("the certificate is shown again", ask)
}

// A certificate that is not valid yet is found, and the finding goes by itself
// when its time has come.
func TestCertificateComesOfAge(t *testing.T) {
	t.Parallel()
	addr := freeAddr(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"shop.example"}, NotBefore: time.Now().Add(4 * time.Second), NotAfter: time.Now().Add(90 * 24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	w := up(t, map[string]string{
		"gateway.yaml": gatewayOf(httpsListener("shop", addr, "", "shop")),
		"secret.yaml": fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: shop}\ntype: kubernetes.io/tls\ndata: {tls.crt: %s, tls.key: %s}\n",
			base64.StdEncoding.EncodeToString([]byte(encodePEM("CERTIFICATE", der))), base64.StdEncoding.EncodeToString([]byte(encodePEM("PRIVATE KEY", pkcs8)))),
	})
	const young = "the certificate is not valid before"
	// It was told when windrose began, whatever the time is now.
	w.eventually("windrose says that "+young+" its day", func() error {
		if !strings.Contains(w.talk(), young) {
			return errors.New(w.talk())
		}
		return nil
	})
	w.eventually("the finding is gone", func() error {
		if r := w.cli("get", "findings", "-A"); r.code != 0 || strings.Contains(r.out, young) {
			return fmt.Errorf("got %+v", r)
		}
		return nil
	})
}
