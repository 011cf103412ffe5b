package main

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "local")
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	steps := []struct {
		name   string
		now    time.Time
		remove []string
		made   bool
		sameCA bool
	}{
		{name: "the first run makes all of it", now: now, made: true},
		{name: "the second does nothing", now: now.Add(time.Hour), sameCA: true},
		{
			name: "a missing Secret is made again by the same authority", now: now, made: true, sameCA: true,
			remove: []string{"tls/secret.yaml"},
		},
		{
			name: "a certificate that is about to end is replaced by the same authority", now: now.Add(leafLife - renew), made: true, sameCA: true,
		},
		{
			name: "an authority without its key is replaced", now: now, made: true,
			remove: []string{"ca.key", "pingdo.net.crt"},
		},
	}
	var ca []byte
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			for _, name := range s.remove {
				if err := os.Remove(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			made, err := run(dir, s.now)
			if err != nil {
				t.Fatal(err)
			}
			if made != s.made {
				t.Errorf("made: got %v, want %v", made, s.made)
			}
			crt, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
			if err != nil {
				t.Fatal(err)
			}
			if same := string(crt) == string(ca); same != s.sameCA {
				t.Errorf("same authority: got %v, want %v", same, s.sameCA)
			}
			ca = crt
			verify(t, dir, s.now)
		})
	}
}

// verify holds that a client that trusts ca.crt takes the certificate, and
// that nobody but the owner reads a key.
func verify(t *testing.T, dir string, now time.Time) {
	t.Helper()
	ca, err := readCert(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	crt, err := readCert(filepath.Join(dir, "pingdo.net.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	if _, err := crt.Verify(x509.VerifyOptions{DNSName: "pingdo.net", Roots: roots, CurrentTime: now}); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"ca.key", "tls/secret.yaml"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != 0o600 {
			t.Errorf("%s has mode %o, want 600", name, got)
		}
	}
}
