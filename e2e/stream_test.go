package e2e

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// tcpEcho sends back what it gets, after its name.
func tcpEcho(t *testing.T, name string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go answer(ln, name)
	return ln.Addr().String()
}

func answer(ln net.Listener, name string) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.WriteString(c, name+":")
			_, _ = io.Copy(c, c)
		}()
	}
}

func udpEcho(t *testing.T, name string) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(append([]byte(name+":"), buf[:n]...), from)
		}
	}()
	return c.LocalAddr().String()
}

// streamRoute is a TCPRoute, UDPRoute or TLSRoute to one service.
func streamRoute(kind, name, listener, to, hosts string) string {
	if hosts != "" {
		hosts = "\n  hostnames: [" + hosts + "]"
	}
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: %s
metadata: {name: %s}
spec:
  parentRefs: [{name: web, sectionName: %s}]%s
  rules: [{backendRefs: [{name: %s, port: 80}]}]
`, kind, name, listener, hosts, to)
}

// exchangeText sends text, ends its side, and gives all that comes back.
func exchangeText(c net.Conn, text string) (string, error) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		return "", err
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

// covers: TCPRouteParentRefAttachAll UDPRoute TLSRouteSimpleSameNamespace TLSRouteTerminateSimpleSameNamespace
func TestBytesAndDatagramsAreRouted(t *testing.T) {
	t.Parallel()
	tcp, udp, passed := freePort(t), freePort(t), freePort(t)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", tlsServer(t, "own.example"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go answer(ln, "own")
	udpService := strings.Replace(service("u", udpEcho(t, "u")), "{port: 80,", "{port: 80, protocol: UDP,", 1)
	w := up(t, map[string]string{
		"gateway.yaml": gatewayOf(
			fmt.Sprintf("{name: tcp, protocol: TCP, port: %d}", tcp),
			fmt.Sprintf("{name: udp, protocol: UDP, port: %d}", udp),
			fmt.Sprintf("{name: pass, protocol: TLS, port: %d, hostname: own.example, tls: {mode: Passthrough}}", passed),
			fmt.Sprintf("{name: term, protocol: TLS, port: %d, hostname: ended.example, tls: {mode: Terminate, certificateRefs: [{name: ended}]}}", passed),
		),
		"secret.yaml":   secret(t, "ended", ecdsaKey, 77, "ended.example"),
		"services.yaml": all(service("a", tcpEcho(t, "a")), udpService, service("own", ln.Addr().String())),
		"tcp.yaml":      streamRoute("TCPRoute", "tcp", "tcp", "a", ""), "udp.yaml": streamRoute("UDPRoute", "udp", "udp", "u", ""),
		"pass.yaml": streamRoute("TLSRoute", "pass", "pass", "own", "own.example"),
		"term.yaml": streamRoute("TLSRoute", "term", "term", "a", "ended.example"),
	})
	w.eventually("TCP reaches its service and half-closes pass", func() error {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", tcp))
		if err != nil {
			return err
		}
		got, err := exchangeText(c, "hello")
		if err != nil || got != "a:hello" {
			return fmt.Errorf("%q %w", got, err)
		}
		return nil
	})
	w.eventually("UDP reaches its service", func() error {
		c, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", udp))
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		if _, err := c.Write([]byte("ping")); err != nil {
			return err
		}
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		if err != nil || string(buf[:n]) != "u:ping" {
			return fmt.Errorf("%q %w", buf[:n], err)
		}
		return nil
	})
	for name, want := range map[string]string{"own.example": "own:hi", "ended.example": "a:hi"} {
		w.eventually("TLS for "+name, func() error {
			c, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", passed), tlsConfig(t, name))
			if err != nil {
				return err
			}
			got, err := exchangeText(c, "hi")
			if err != nil || got != want {
				return fmt.Errorf("%q %w", got, err)
			}
			return nil
		})
	}
	for _, kind := range []string{"tcproutes", "udproutes", "tlsroutes"} {
		if r := w.cli("get", kind, "-o", "name"); r.code != 0 || r.out == "" {
			t.Errorf("get %s: %+v", kind, r)
		}
	}
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", tcp))
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = c.Write(big); _ = c.(*net.TCPConn).CloseWrite() }()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, append([]byte("a:"), big...)) {
		t.Errorf("16 MiB: %d bytes back, %v", len(got), err)
	}
}
