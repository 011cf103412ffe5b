package e2e

import (
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// h2spec is a conformance suite for HTTP/2 servers by other people.
const h2spec = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"

// TestHTTP2Conformance runs it against a gateway, over TLS: in cleartext the
// port serves HTTP/1.1 too, so that its case of a wrong preface is a request
// there. The service takes a moment, so that streams are open at the same time.
func TestHTTP2Conformance(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	build := exec.Command("go", "install", h2spec)
	build.Env = append(build.Environ(), "GOBIN="+dir, "GOFLAGS=-mod=mod")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build h2spec: %v\n%s", err, out)
	}
	slow := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		<-time.After(20 * time.Millisecond) // a service that works
		_, _ = w.Write([]byte("ok"))
	})
	addr := freeAddr(t)
	up(t, map[string]string{
		"gateway.yaml": gatewayOf(httpsListener("https", addr, "", "cert")),
		"secret.yaml":  secret(t, "cert", ecdsaKey, 1, "localhost"),
		"service.yaml": service("a", slow), "route.yaml": route("r", "/", "a"),
	})
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	r := run(t, filepath.Join(dir, "h2spec"), "-t", "-k", "-h", host, "-p", port, "-o", "5")
	if r.code != 0 || !strings.Contains(r.out, " 0 failed") {
		t.Errorf("h2spec: exit %d\n%s", r.code, tail(r.out, 60))
	}
	t.Log(tail(r.out, 1))
}
