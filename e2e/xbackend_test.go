package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// xbackend is an XBackend with a spec in YAML.
func xbackend(name, spec string) string {
	return fmt.Sprintf("apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackend\nmetadata: {name: %s}\nspec: %s\n", name, spec)
}

// toXBackend is a rule from a path prefix to an XBackend.
func toXBackend(prefix, name string) string {
	return fmt.Sprintf(`{matches: [{path: {value: %s}}], backendRefs: [{group: gateway.networking.x-k8s.io, kind: XBackend, name: %s}]}`, prefix, name)
}

// XBackends: selected Workloads, an external host, and an endpoint under mutual
// TLS.
//
// covers: XBackend
func TestXBackends(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	addr := backend(t, "selected")
	_, number, _ := strings.Cut(addr, ":")
	_, outside, _ := strings.Cut(backend(t, "outside"), ":")

	roots := x509.NewCertPool()
	roots.AddCert(signer(t).cert)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s over %s", r.TLS.PeerCertificates[0].DNSNames[0], r.Proto)
	}))
	server.TLS = tlsServer(t, "cart.example.com")
	server.TLS.ClientAuth, server.TLS.ClientCAs = tls.RequireAndVerifyClientCert, roots
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	_, secure, _ := strings.Cut(server.Listener.Addr().String(), ":")

	w := up(t, map[string]string{
		"gateway.yaml": gateway(port),
		"backends.yaml": all(
			fmt.Sprintf("apiVersion: windrose.dev/v1alpha1\nkind: Workload\nmetadata: {name: cart-1, labels: {app: cart}}\nspec: {address: 127.0.0.1, ports: [{name: http, port: %s}]}\n", number),
			"apiVersion: windrose.dev/v1alpha1\nkind: Workload\nmetadata: {name: safe-1, labels: {app: safe}}\nspec: {address: 127.0.0.1}\n",
			authorityMap("ca", signer(t).pem), secret(t, "me", ecdsaKey, 7, "me.example.com"),
			xbackend("cart", fmt.Sprintf("{type: EndpointSelector, port: {number: %s}, endpointSelector: {matchLabels: {app: cart}}, sessionPersistence: {type: Cookie, cookie: {name: cart}}}", number)),
			xbackend("outside", fmt.Sprintf("{type: ExternalHostname, port: {number: %s}, externalHostname: {hostname: localhost}}", outside)),
			xbackend("safe", fmt.Sprintf(`{type: EndpointSelector, protocol: HTTP2, port: {number: %s}, endpointSelector: {matchLabels: {app: safe}},
  tls: {mode: ClientAndServer, clientCertificateRef: {name: me}, validation: {hostname: cart.example.com, caCertificateRefs: [{group: "", kind: ConfigMap, name: ca}]}}}`, secure)),
			xbackend("talk", "{type: ExternalHostname, protocol: MCP, port: {number: 80}, externalHostname: {hostname: localhost}}"),
		),
		"route.yaml": routeOf("shop", toXBackend("/cart", "cart"), toXBackend("/outside", "outside"), toXBackend("/safe", "safe"), toXBackend("/talk", "talk")),
	})
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	w.answers(base, "/outside", 200, "outside /outside")
	w.answers(base, "/cart", 200, "selected /cart")
	w.answers(base, "/safe", 200, "me.example.com over HTTP/2.0")
	w.answers(base, "/talk", 500, "does not speak MCP")
	if _, cookie := stays(t, base+"/cart", "", 5); !strings.HasPrefix(cookie, "cart=") {
		t.Errorf("the cookie is %q", cookie)
	}
	for name, want := range map[string]string{"cart": addr, "outside": "the addresses of localhost", "talk": "UnsupportedProtocol"} {
		if r := w.cli("describe", "xbackend", name); !strings.Contains(r.out, want) {
			t.Errorf("describe %s: %+v, want %q in it", name, r, want)
		}
	}
	if r := w.cli("get", "xbackends"); !strings.Contains(r.out, "app=cart") || !strings.Contains(r.out, "ClientAndServer") {
		t.Errorf("get: %+v", r)
	}
	if r := w.cli("explain", "GET", base+"/safe"); !strings.Contains(r.out, "XBackend/default/safe") || !strings.Contains(r.out, "backends.yaml") {
		t.Errorf("explain: %+v", r)
	}
	// What is mended is live; the endpoint that nobody believes any more gets nothing.
	w.write("backends.yaml", strings.Replace(w.read("backends.yaml"), "hostname: cart.example.com", "hostname: other.example.com", 1))
	w.answers(base, "/safe", 503, "other.example.com")
}
