package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

func TestHTTP3(t *testing.T) {
	t.Parallel()
	addr := freeAddr(t)
	manifest := gatewayOf(httpsListener("shop", addr, "shop.example", "exact"))
	// Somebody has the UDP port when windrose starts.
	taken, err := net.ListenPacket("udp", addr)
	must(t, err)
	defer taken.Close()
	w := up(t, map[string]string{
		"gateway.yaml": withParameters(manifest, "{http3: Enabled}"),
		"secrets.yaml": secret(t, "exact", ecdsaKey, 11, "shop.example"),
		"a.yaml":       service("a", backend(t, "a")), "r.yaml": route("r", "/", "a"),
	})
	programmed := func() string { return find(w.get("gateway", "web").Status.Listeners[0].Conditions, "Programmed") }
	w.eventually("the status says that HTTP/3 is not served", func() error {
		if got := programmed(); !strings.HasPrefix(got, "False") || !strings.Contains(got, "HTTP/3 is not served") || !strings.Contains(got, "in use") {
			return fmt.Errorf("got %s", got)
		}
		return nil
	})
	taken.Close()

	altSvc := func() string {
		tr := &http.Transport{
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, addr)
			},
		}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Get("https://shop.example/")
		if err != nil {
			return err.Error()
		}
		resp.Body.Close()
		return resp.Header.Get("Alt-Svc")
	}
	w.eventually("answers say where HTTP/3 is served", func() error {
		if got, want := altSvc(), fmt.Sprintf(`h3=":%s"; ma=86400`, portOf(addr)); got != want {
			return fmt.Errorf("got %q, want %q", got, want)
		}
		return nil
	})
	tr := &http3.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		Dial: func(ctx context.Context, _ string, cfg *tls.Config, q *quic.Config) (*quic.Conn, error) {
			return quic.DialAddrEarly(ctx, addr, cfg, q)
		},
	}
	defer tr.Close()
	ask := func() (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://shop.example/x", strings.NewReader("hello"))
		must(t, err)
		resp, err := tr.RoundTrip(req)
		if err != nil {
			return "", fmt.Errorf("ask by HTTP/3: %w", err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return fmt.Sprintf("%s %d %s", resp.Proto, resp.StatusCode, body), err
	}
	got, err := ask()
	if err != nil || !strings.HasPrefix(got, "HTTP/3.0 200 a") {
		t.Errorf("got %q, %v, want the answer of a", got, err)
	}
	w.eventually("the access log has the request", func() error {
		if log := strings.Join(w.accessLog(), "\n"); !strings.Contains(log, `"protocol":"HTTP/3"`) || !strings.Contains(log, `"tls":"TLS1.3"`) {
			return fmt.Errorf("got %s", log)
		}
		return nil
	})
	w.eventually("the listener stands", func() error {
		if got := programmed(); !strings.HasPrefix(got, "True") {
			return fmt.Errorf("got %s", got)
		}
		return nil
	})

	w.write("gateway.yaml", withParameters(manifest, "{http3: Disabled}"))
	w.eventually("HTTP/3 ends", func() error {
		if got := altSvc(); got != "" {
			return fmt.Errorf("answers still say %q", got)
		}
		c, err := net.ListenPacket("udp", addr)
		if err != nil {
			return fmt.Errorf("the UDP port: %w", err)
		}
		return c.Close()
	})
}
