package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
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
//
// covers: SessionPersistence
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

// A policy gives a Service sessions and a budget for its retries; both are shown.
//
// covers: XBackendTrafficPolicy SessionPersistence
func TestTrafficPolicies(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	failing := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	policy := func(name, service, spec string) string {
		return fmt.Sprintf(`apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: %s}
spec:
  targetRefs: [{group: "", kind: Service, name: %s}]
  %s
`, name, service, spec)
	}
	w := up(t, map[string]string{
		"gateway.yaml":  gateway(port),
		"services.yaml": all(service("a", backend(t, "a1"), backend(t, "a2"), backend(t, "a3"), backend(t, "a4")), service("bad", failing)),
		"route.yaml": routeOf("shop", `{matches: [{path: {value: /a}}], backendRefs: [{name: a, port: 80}]}`,
			`{matches: [{path: {value: /bad}}], retry: {codes: [500], attempts: 1, backoff: 1ms}, backendRefs: [{name: bad, port: 80}]}`),
		"policies.yaml": all(policy("sessions", "a", "sessionPersistence: {type: Cookie, cookie: {name: sid}}"),
			policy("retries", "bad", "retryConstraint: {budget: {percent: 0, interval: 10s}, minRetryRate: {count: 1, interval: 1h}}")),
	})
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	if _, cookie := stays(t, base+"/a", "", 30); !strings.HasPrefix(cookie, "sid=") {
		t.Errorf("the cookie is %q", cookie)
	}
	if code, body, _ := fetch(base + "/bad"); code != 500 {
		t.Errorf("within the budget: %d %s, want the service's 500", code, body)
	}
	if code, body, h := fetch(base + "/bad"); code != 503 || h.Get("x-windrose-fault") != "overload" || !strings.Contains(body, "retry budget of service default/bad:80") {
		t.Errorf("beyond the budget: %d %s %v, want 503", code, body, h)
	}
	for _, name := range []string{"sessions", "retries"} {
		if r := w.cli("describe", "xbackendtrafficpolicy", name); !strings.Contains(r.out, "Accepted") || !strings.Contains(r.out, "True") {
			t.Errorf("describe: %+v", r)
		}
	}
	if r := w.cli("explain", "GET", base+"/bad"); !strings.Contains(r.out, "may be retries: 0% of the attempts within 10s, and 1 within 1h0m0s in any case") {
		t.Errorf("explain: %+v", r)
	}
	if r := w.cli("get", "xbackendtrafficpolicies"); !strings.Contains(r.out, "Service/bad") {
		t.Errorf("get: %+v", r)
	}
}

// There is no mesh on one machine, and an XMesh says so.
//
// covers: XMesh
func TestMeshesAreNotPretended(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	w := up(t, map[string]string{
		"gateway.yaml": gateway(port),
		"mesh.yaml":    "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XMesh\nmetadata: {name: mine}\nspec: {controllerName: windrose.dev/mesh-controller}\n",
	})
	if r := w.cli("describe", "xmesh", "mine"); !strings.Contains(r.out, "False") || !strings.Contains(r.out, "windrose carries no mesh on this machine") {
		t.Errorf("describe: %+v", r)
	}
	if r := w.cli("get", "xmeshes"); !strings.Contains(r.out, "windrose.dev/mesh-controller") || !strings.Contains(r.out, "False") {
		t.Errorf("get: %+v", r)
	}
}

// Calls of gRPC have sessions by a header, which the client sends back.
//
// covers: SessionPersistence
func TestSessionsOfCalls(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	addrs := []string{grpcBackend(t, "a"), grpcBackend(t, "b"), grpcBackend(t, "c")}
	w := up(t, map[string]string{
		"gateway.yaml":  gateway(port),
		"services.yaml": service("test", addrs...),
		"route.yaml": strings.Replace(grpcRoute("test", "{method: {service: grpc.testing.TestService}}", "test"), "    backendRefs",
			"    sessionPersistence: {type: Header, header: {name: Session-Id}}\n    backendRefs", 1),
	})
	conn, err := grpc.NewClient(fmt.Sprintf("127.0.0.1:%d", port), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := testgrpc.NewTestServiceClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var header metadata.MD
	if _, err := client.EmptyCall(ctx, &testgrpc.Empty{}, grpc.Header(&header)); err != nil {
		t.Fatal(err)
	}
	token := header.Get("session-id")
	if len(token) != 1 {
		t.Fatalf("the answer has the tokens %q", token)
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "session-id", token[0])
	for range 30 {
		header = nil
		if _, err := client.EmptyCall(ctx, &testgrpc.Empty{}, grpc.Header(&header)); err != nil || len(header.Get("session-id")) != 0 {
			t.Fatalf("within the session: %v, a new token %q", err, header.Get("session-id"))
		}
	}
	w.eventually("the access log has a line for each call", func() error {
		if n := len(w.accessLog()); n != 31 {
			return fmt.Errorf("%d lines", n)
		}
		return nil
	})
	at := map[string]bool{}
	for _, line := range w.accessLog()[1:] {
		var l struct{ Endpoint string }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		at[l.Endpoint] = true
	}
	if len(at) != 1 {
		t.Errorf("the session was at %v", at)
	}
}
