package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// inSession asks for url with a session's cookie, "" for none; it gives the
// body and the cookie to go on with.
func inSession(url, cookie string) (body, next string, err error) {
	req, err := http.NewRequest("GET", url, http.NoBody)
	if err != nil {
		return "", "", err
	}
	if cookie != "" {
		req.Header.Set("Cookie", cookie)
	}
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		return "", "", fmt.Errorf("%d %s %w", resp.StatusCode, b, err)
	}
	for _, c := range resp.Cookies() {
		cookie = c.Name + "=" + c.Value
	}
	return string(b), cookie, nil
}

// stays asks n times and wants the session to stay where it is.
func stays(t *testing.T, url, cookie string, n int) (body, next string) {
	t.Helper()
	var first string
	for i := range n {
		body, next, err := inSession(url, cookie)
		switch {
		case err != nil:
			t.Fatal(err)
		case i == 0:
			first = body
		case body != first || next != cookie:
			t.Fatalf("the session began at %q with %s, and is at %q with %s", first, cookie, body, next)
		}
		cookie = next
	}
	return first, cookie
}

// A session stays with its endpoint, also over the end of the data plane and of
// all of windrose.
func TestSessionsOfRoutes(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	w := up(t, map[string]string{
		"gateway.yaml":  gateway(port),
		"services.yaml": service("a", backend(t, "a1"), backend(t, "a2"), backend(t, "a3"), backend(t, "a4")),
		"route.yaml":    routeOf("shop", `{sessionPersistence: {type: Cookie, cookie: {name: shop-session}}, backendRefs: [{name: a, port: 80}]}`),
	})
	url := fmt.Sprintf("http://127.0.0.1:%d/", port)
	first, cookie := stays(t, url, "", 50)
	if !strings.HasPrefix(cookie, "shop-session=") {
		t.Fatalf("the cookie is %q", cookie)
	}
	places := map[string]bool{}
	for range 50 {
		body, _, err := inSession(url, "")
		if err != nil {
			t.Fatal(err)
		}
		places[body] = true
	}
	if len(places) < 2 {
		t.Errorf("50 clients were all sent to %v", places)
	}
	if r := w.cli("explain", "GET", url); !strings.Contains(r.out, "by cookie shop-session") {
		t.Errorf("explain: %+v", r)
	}
	key, err := os.ReadFile(filepath.Join(w.state, "session.key"))
	if err != nil || len(key) != 32 {
		t.Fatalf("the key: %d bytes, %v", len(key), err)
	}
	if info, err := os.Stat(filepath.Join(w.state, "session.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v %v, want mode 0600", info, err)
	}
	w.signal(syscall.SIGTERM)
	w.wait()
	w.start()
	w.ready()
	if again, next := stays(t, url, cookie, 20); again != first || next != cookie {
		t.Errorf("the session was at %q, and is at %q after a restart", first, again)
	}
	if text := w.talk() + w.read("../stdout"); strings.Contains(text, string(key)) || strings.Contains(text, fmt.Sprintf("%x", key)) {
		t.Error("windrose logs the key")
	}
}
