package e2e

import (
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// covers: BackendTLSPolicy
func TestBackendTLSPolicy(t *testing.T) {
	t.Parallel()
	addr := freeAddr(t)
	b := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "told ", r.TLS.ServerName) }))
	b.Config.ErrorLog = log.New(io.Discard, "", 0)
	b.StartTLS()
	t.Cleanup(b.Close)
	authority := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.Certificate().Raw}))
	policy := func(name, host string) string {
		return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: %s}
spec:
  targetRefs: [{group: "", kind: Service, name: %s}]
  validation: {hostname: %s, caCertificateRefs: [{group: "", kind: ConfigMap, name: authority}]}
`, name, name, host)
	}
	endpoint := strings.TrimPrefix(b.URL, "https://")
	up(t, map[string]string{
		"gateway.yaml":   gatewayOf(fmt.Sprintf("{name: http, protocol: HTTP, port: %s}", portOf(addr))),
		"authority.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: authority}\ndata:\n  ca.crt: |\n    " + strings.ReplaceAll(strings.TrimSpace(authority), "\n", "\n    ") + "\n",
		"services.yaml":  all(service("good", endpoint), service("other", endpoint)),
		"policies.yaml":  all(policy("good", "example.com"), policy("other", "other.example")),
		"routes.yaml":    all(route("good", "/good", "good"), route("other", "/other", "other")),
	})
	for path, want := range map[string]string{"/good": "told example.com", "/other": "not other.example"} {
		resp, err := http.Get("http://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%s: got %d %q (%v), want it to contain %q", path, resp.StatusCode, body, err, want)
		}
	}
}
