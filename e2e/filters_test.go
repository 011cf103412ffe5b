package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// TestFiltersFromManifests: CORS, retries and mirrors as a user writes them.
//
// covers: HTTPRouteRewritePath
func TestFiltersFromManifests(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	var asked, copied atomic.Int64
	serve := func(h http.HandlerFunc) string {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	}
	flaky := serve(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1)%2 == 1 {
			w.WriteHeader(503)
		}
	})
	shadow := serve(func(http.ResponseWriter, *http.Request) { copied.Add(1) })
	w := up(t, map[string]string{
		"gateway.yaml": gateway(port), "a.yaml": service("a", backend(t, "a")), "flaky.yaml": service("flaky", flaky), "shadow.yaml": service("shadow", shadow),
		"r.yaml": routeOf("r",
			`{matches: [{path: {value: /cors}}], filters: [{type: CORS, cors: {allowOrigins: ["https://*.good.example"], allowMethods: [PUT], maxAge: 60}}], backendRefs: [{name: a, port: 80}]}`,
			`{matches: [{path: {value: /retry}}], retry: {codes: [503], attempts: 1, backoff: 10ms}, backendRefs: [{name: flaky, port: 80}]}`,
			`{matches: [{path: {value: /mirror}}], filters: [{type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}, percent: 50}}], backendRefs: [{name: a, port: 80}]}`),
	})
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	w.eventually("the route serves", func() error {
		if code, body, _ := fetch(base + "/cors"); code != 200 {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	if got := find(w.get("httproutes", "r").Status.Parents[0].Conditions, "Accepted"); !strings.HasPrefix(got, "True") {
		t.Errorf("status: %s", got)
	}
	for origin, want := range map[string]int{"https://a.good.example": 204, "https://evil.example": 403} {
		req, err := http.NewRequest(http.MethodOptions, base+"/cors", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Origin", origin)
		req.Header.Set("Access-Control-Request-Method", "PUT")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if allowed := resp.Header.Get("Access-Control-Allow-Origin"); resp.StatusCode != want || (allowed == origin) != (want == 204) {
			t.Errorf("preflight of %s: got %d, allowed %q", origin, resp.StatusCode, allowed)
		}
	}
	for range 5 {
		if code, body, _ := fetch(base + "/retry"); code != 200 {
			t.Errorf("retry: got %d %s, want the second attempt's 200", code, body)
		}
	}
	for range 10 {
		if code, body, _ := fetch(base + "/mirror"); code != 200 || !strings.Contains(body, "a") {
			t.Errorf("mirrored: got %d %s", code, body)
		}
	}
	w.eventually("half of the requests are copied", func() error {
		if n := copied.Load(); n != 5 {
			return fmt.Errorf("%d copies, want 5", n)
		}
		return nil
	})
}
