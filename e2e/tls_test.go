package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// openssl runs openssl s_client against addr and gives all that it said.
func openssl(t *testing.T, addr string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "openssl", append([]string{"s_client", "-connect", addr}, args...)...)
	cmd.Stdin = strings.NewReader("GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")
	out, _ := cmd.CombinedOutput() // a refused handshake is a result
	return string(out)
}

// httpsListener is a listener with certificates.
func httpsListener(name, addr, host string, secrets ...string) string {
	var refs []string
	for _, s := range secrets {
		refs = append(refs, "{name: "+s+"}")
	}
	if host != "" {
		host = fmt.Sprintf(", hostname: %q", host)
	}
	return fmt.Sprintf("{name: %s, protocol: HTTPS, port: %s%s, tls: {certificateRefs: [%s]}}", name, portOf(addr), host, strings.Join(refs, ", "))
}

// covers: HTTPRouteHTTPSListener
func TestCertificateByServerName(t *testing.T) {
	t.Parallel()
	addr := freeAddr(t)
	up(t, map[string]string{
		"gateway.yaml": gatewayOf(
			httpsListener("shop", addr, "shop.example", "exact"),
			httpsListener("any-shop", addr, "*.shop.example", "wild"),
			httpsListener("rest", addr, "", "several-a", "several-b"),
		),
		"secrets.yaml": all(
			secret(t, "exact", ecdsaKey, 11, "shop.example"), secret(t, "wild", ecdsaKey, 12, "*.shop.example"),
			secret(t, "several-a", ecdsaKey, 13, "a.example"), secret(t, "several-b", ecdsaKey, 14, "b.example", "*.b.example"),
		),
		"a.yaml": service("a", backend(t, "a")), "r.yaml": route("r", "/", "a"),
	})
	for name, want := range map[string]int64{
		"shop.example": 11, "x.shop.example": 12, "a.b.shop.example": 12, "a.example": 13, "b.example": 14, "x.b.example": 14,
		"other.example": 13, "": 13,
	} {
		cert, err := shown(t, addr, name)
		if err != nil || cert.SerialNumber.Int64() != want {
			t.Errorf("%q: got %v, want certificate %d", name, err, want)
			if cert != nil {
				t.Log(cert.SerialNumber, cert.DNSNames)
			}
		}
	}
}

func TestKeyKindByAbilityOfTheClient(t *testing.T) {
	t.Parallel()
	addr := freeAddr(t)
	up(t, map[string]string{
		"gateway.yaml": gatewayOf(httpsListener("https", addr, "", "of-rsa", "of-ecdsa")),
		"secrets.yaml": all(secret(t, "of-rsa", rsaKey, 1, "shop.example"), secret(t, "of-ecdsa", ecdsaKey, 2, "shop.example")),
		"a.yaml":       service("a", backend(t, "a")), "r.yaml": route("r", "/", "a"),
	})
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"1.3, both", []string{"-tls1_3"}, "ECDSA"},
		{"1.3, RSA alone", []string{"-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256"}, "RSA"},
		{"1.2, both", []string{"-tls1_2"}, "ECDSA"},
		{"1.2, ECDSA ciphers", []string{"-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"}, "ECDSA"},
		{"1.2, RSA ciphers", []string{"-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"}, "RSA"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := openssl(t, addr, append(tt.args, "-servername", "shop.example", "-ign_eof")...)
			if want := "Peer signature type: " + tt.want; !strings.Contains(out, want) {
				t.Errorf("it does not say %q: %s", want, out)
			}
			if !strings.Contains(out, "HTTP/1.1 200 OK") {
				t.Errorf("no answer: %s", out)
			}
		})
	}
	for name, args := range map[string][]string{
		"TLS 1.1": {"-tls1_1", "-cipher", "ALL:@SECLEVEL=0"},
		"TLS 1.0": {"-tls1", "-cipher", "ALL:@SECLEVEL=0"},
	} {
		if out := openssl(t, addr, args...); !strings.Contains(out, "alert protocol version") || strings.Contains(out, "HTTP/1.1 200") {
			t.Errorf("%s is not refused: %s", name, out)
		}
	}
}

func TestVersionsAndPostQuantumKeys(t *testing.T) {
	t.Parallel()
	addr := freeAddr(t)
	up(t, map[string]string{
		"gateway.yaml": gatewayOf(httpsListener("https", addr, "shop.example", "web")),
		"secret.yaml":  secret(t, "web", ecdsaKey, 1, "shop.example"),
	})
	for _, tt := range []struct {
		version uint16
		curves  []tls.CurveID
		want    tls.CurveID
	}{
		{tls.VersionTLS13, nil, tls.X25519MLKEM768},
		{tls.VersionTLS13, []tls.CurveID{tls.X25519}, tls.X25519},
		{tls.VersionTLS13, []tls.CurveID{tls.CurveP256}, tls.CurveP256},
		{tls.VersionTLS12, nil, tls.X25519},
	} {
		config := tlsConfig(t, "shop.example")
		config.MinVersion, config.MaxVersion, config.CurvePreferences = tt.version, tt.version, tt.curves
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, config)
		if err != nil {
			t.Errorf("%+v: %v", tt, err)
			continue
		}
		if state := conn.ConnectionState(); state.CurveID != tt.want || state.Version != tt.version {
			t.Errorf("%+v: got version %x, key exchange %v", tt, state.Version, state.CurveID)
		}
		conn.Close()
	}
}

func TestSessionsAreResumed(t *testing.T) {
	t.Parallel()
	addr := freeAddr(t)
	w := up(t, map[string]string{
		"gateway.yaml": gatewayOf(httpsListener("https", addr, "", "web")),
		"secret.yaml":  secret(t, "web", ecdsaKey, 1, "shop.example"),
	})
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		file := filepath.Join(t.TempDir(), "session")
		first := openssl(t, addr, version, "-servername", "shop.example", "-sess_out", file, "-ign_eof")
		if !strings.Contains(first, "New, TLSv1") {
			t.Errorf("%s: the first is not new: %s", version, first)
		}
		if _, err := os.Stat(file); err != nil {
			t.Fatalf("%s: no session was given: %s", version, first)
		}
		if out := openssl(t, addr, version, "-servername", "shop.example", "-sess_in", file, "-ign_eof"); !strings.Contains(out, "Reused, TLSv1") {
			t.Errorf("%s: not resumed: %s", version, out)
		}
	}
	_, page, _ := fetch("http://" + w.stats + "/metrics")
	t.Log(grep(page, "windrose_tls_handshakes_total"))
}

// grep gives the lines that have a text.
func grep(page, text string) string {
	var out strings.Builder
	for line := range strings.Lines(page) {
		if strings.Contains(line, text) {
			out.WriteString(line)
		}
	}
	return out.String()
}

// TestPlaceholderUntilTheSecretIsThere: the listener serves, and says what it
// lacks.
func TestPlaceholderUntilTheSecretIsThere(t *testing.T) {
	t.Parallel()
	addr := freeAddr(t)
	w := up(t, map[string]string{
		"gateway.yaml": gatewayOf(httpsListener("https", addr, "shop.example", "web-tls")),
		"a.yaml":       service("a", backend(t, "a")), "r.yaml": route("r", "/", "a"),
	})
	listener := func(kind string) string { return find(w.get("gateways", "web").Status.Listeners[0].Conditions, kind) }
	checkPlaceholder := func() error {
		cert, err := shown(t, addr, "shop.example")
		if err != nil {
			return err
		}
		if !strings.Contains(cert.Subject.String(), "windrose placeholder") {
			return fmt.Errorf("got certificate of %s", cert.Subject)
		}
		if got := listener("ResolvedRefs"); !strings.HasPrefix(got, "False InvalidCertificateRef") || !strings.Contains(got, "web-tls") {
			return fmt.Errorf("ResolvedRefs: %s", got)
		}
		return nil
	}
	w.eventually("a placeholder is shown", checkPlaceholder)

	w.write("secret.yaml", secret(t, "web-tls", ecdsaKey, 7, "shop.example"))
	client := &http.Client{Timeout: 10 * time.Second, Transport: transport(t, addr)}
	w.eventually("the certificate is shown", func() error { return get(client, "https://shop.example/") })
	w.eventually("the status is good", func() error {
		if got := listener("ResolvedRefs"); !strings.HasPrefix(got, "True") {
			return fmt.Errorf("ResolvedRefs: %s", got)
		}
		return nil
	})

	// The key of another certificate: what was good before stays in effect.
	head, key, _ := strings.Cut(secret(t, "web-tls", ecdsaKey, 8, "shop.example"), "  tls.key: ")
	_, other, _ := strings.Cut(secret(t, "web-tls", ecdsaKey, 9, "shop.example"), "  tls.key: ")
	w.write("secret.yaml", head+"  tls.key: "+other)
	w.eventually("the mismatch is told", func() error {
		if r := w.cli("get", "findings", "-A"); !strings.Contains(r.out, "web-tls") {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	for _, private := range []string{key, other} {
		if r := w.cli("get", "findings", "-A", "-o", "json"); strings.Contains(r.out, private[:40]) {
			t.Error("a finding shows a part of a private key")
		}
	}

	w.remove("secret.yaml")
	w.eventually("a placeholder is shown again", checkPlaceholder)
}

// TestMisdirectedRequests: a connection made for one host is not used for
// another whose listener has its own certificate.
//
// covers: HTTPRouteHTTPSListenerDetectMisdirectedRequests
func TestMisdirectedRequests(t *testing.T) {
	t.Parallel()
	addr := freeAddr(t)
	up(t, map[string]string{
		"gateway.yaml": gatewayOf(httpsListener("shop", addr, "shop.example", "shop"), httpsListener("bank", addr, "bank.example", "bank")),
		"secrets.yaml": all(secret(t, "shop", ecdsaKey, 1, "shop.example"), secret(t, "bank", ecdsaKey, 2, "bank.example")),
		"a.yaml":       service("a", backend(t, "a")), "r.yaml": route("r", "/", "a"),
	})
	ca := caFile(t)
	ask := func(host string) result {
		return curl(t, "-i", "--cacert", ca, "--resolve", "shop.example:"+portOf(addr)+":127.0.0.1", "-H", "Host: "+host, "https://shop.example:"+portOf(addr)+"/")
	}
	for host, want := range map[string]int{"shop.example": 200, "bank.example": 421, "none.example": 421} {
		if r := ask(host); !r.answered(want) {
			t.Errorf("Host %s: got %+v, want %d", host, r, want)
		}
	}
	// Without a listener for the name there is no certificate to show.
	if _, err := shown(t, addr, "none.example"); err == nil {
		t.Error("a handshake for a host that nobody serves succeeds")
	} else {
		t.Log(err)
	}
}

// TestOpenConnectionsSurviveANewCertificate: nobody is cut when it is replaced.
func TestOpenConnectionsSurviveANewCertificate(t *testing.T) {
	t.Parallel()
	addr := freeAddr(t)
	w := up(t, map[string]string{
		"gateway.yaml": gatewayOf(httpsListener("https", addr, "shop.example", "web-tls")),
		"secret.yaml":  secret(t, "web-tls", ecdsaKey, 1, "shop.example"),
		"a.yaml":       service("a", backend(t, "a")), "r.yaml": route("r", "/", "a"),
	})
	conn, err := tls.Dial("tcp", addr, tlsConfig(t, "shop.example"))
	must(t, err)
	defer conn.Close()
	ask := func() string {
		must(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
		_, err := conn.Write([]byte("GET /x HTTP/1.1\r\nHost: shop.example\r\n\r\n"))
		must(t, err)
		var all bytes.Buffer
		for !strings.HasSuffix(all.String(), "a /x") {
			b := make([]byte, 4096)
			n, err := conn.Read(b)
			if err != nil {
				t.Fatalf("%v after %q", err, all.String())
			}
			all.Write(b[:n])
		}
		return all.String()
	}
	ask()
	w.write("secret.yaml", secret(t, "web-tls", rsaKey, 2, "shop.example"))
	w.eventually("the new certificate is shown", func() error {
		cert, err := shown(t, addr, "shop.example")
		if err == nil && (cert.SerialNumber.Int64() != 2 || cert.PublicKeyAlgorithm != x509.RSA) {
			err = fmt.Errorf("serial %v", cert.SerialNumber)
		}
		return err
	})
	ask()
}
