package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// answers waits until a path under base is answered with a code, and a text in
// the body.
func (w *windrose) answers(base, path string, code int, text string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%s is answered %d %s", path, code, text), func() error {
		if got, body, _ := fetch(base + path); got != code || !strings.Contains(body, text) {
			return fmt.Errorf("%d %s", got, body)
		}
		return nil
	})
}

// TestWhatStandsBehindAService: workloads, EndpointSlices, names.
func TestWhatStandsBehindAService(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	slice := func(ready bool, addrs ...string) string {
		var b strings.Builder
		_, p, _ := strings.Cut(addrs[0], ":")
		fmt.Fprintf(&b, "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: sliced-1, labels: {kubernetes.io/service-name: sliced}}\naddressType: IPv4\nports: [{name: http, port: %s}]\nendpoints:\n", p)
		for _, a := range addrs {
			host, _, _ := strings.Cut(a, ":")
			fmt.Fprintf(&b, "- {addresses: [%s], conditions: {ready: %v}}\n", host, ready)
		}
		return b.String()
	}
	sliced, external := backend(t, "sliced"), backend(t, "external")
	w := up(t, map[string]string{
		"gateway.yaml": gateway(port),
		"services.yaml": all(
			"apiVersion: v1\nkind: Service\nmetadata: {name: sliced}\nspec: {clusterIP: None, ports: [{name: http, port: 80}]}\n",
			fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: external}\nspec: {type: ExternalName, externalName: localhost, ports: [{port: %s}]}\n", portOf(external)),
		),
		"slice.yaml": slice(true, sliced),
		"routes.yaml": all(route("sliced", "/sliced", "sliced"),
			strings.Replace(route("external", "/external", "external"), "port: 80", "port: "+portOf(external), 1)),
		"json.json": `{"apiVersion": "v1", "kind": "List", "items": [` +
			`{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "json"}, "spec": {"selector": {"app": "json"}, "ports": [{"port": 80, "targetPort": 1}]}},` +
			`{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "json"}, "spec": {"parentRefs": [{"name": "web"}], "rules": [` +
			`{"matches": [{"path": {"value": "/json"}}], "backendRefs": [{"name": "json", "port": 80}]}]}}]}`,
	})
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	w.answers(base, "/sliced/1", 200, "sliced /sliced/1")
	w.answers(base, "/external/1", 200, "external /external/1")
	w.answers(base, "/json/1", 503, "no-endpoint")
	w.write("slice.yaml", slice(false, sliced))
	w.answers(base, "/sliced/1", 503, "no-endpoint")
	w.write("slice.yaml", slice(true, sliced))
	w.answers(base, "/sliced/1", 200, "sliced")
	// One of two endpoints refuses: it is left out, and no request notices.
	w.write("slice.yaml", slice(true, sliced, "127.0.0.2:1"))
	w.applied()
	for range 50 {
		if code, body, _ := fetch(base + "/sliced/2"); code != 200 {
			t.Fatalf("with a refusing endpoint: %d %s", code, body)
		}
	}
}

// TestLifeOfAWorkload: started with its environment, watched, left out while it
// is not ready, started again when it fails.
func TestLifeOfAWorkload(t *testing.T) {
	t.Parallel()
	port, own := freePort(t), freePort(t)
	dir := t.TempDir()
	flag := filepath.Join(dir, "ready")
	// A script in the manifest's folder is the command: it notes what it was
	// given and becomes the demo's backend, once it may.
	script := fmt.Sprintf("#!/bin/sh\necho \"greeting $GREETING port $PORT in $(pwd)\"\n[ -e %s ] || { echo 'not yet' >&2; exit 3; }\nexec %s --name scripted --listen 127.0.0.1:$PORT\n", flag, demoBackend(t))
	w := newWindrose(t, map[string]string{
		"gateway.yaml": gateway(port), "r.yaml": route("r", "/", "a"),
		"a.yaml": all(bareService("a"), fmt.Sprintf(`apiVersion: windrose.dev/v1alpha1
kind: Workload
metadata: {name: a-1, labels: {app: a}}
spec:
  command: ["./start.sh"]
  env: [{name: GREETING, value: hello}]
  ports: [{name: http, port: %d}]
  readiness: {http: {path: /healthz, port: http}, periodSeconds: 1}
`, own)),
	})
	must(t, os.WriteFile(filepath.Join(w.config, "start.sh"), []byte(script), 0o755))
	w.start()
	w.ready()
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	w.answers(base, "/", 503, "no-endpoint")
	w.eventually("the failing command is told, with its output", func() error {
		r := w.cli("describe", "workload", "a-1")
		for _, want := range []string{"greeting hello port " + fmt.Sprint(own) + " in " + w.config, "not yet", "BackOff", "exit status 3"} {
			if !strings.Contains(r.out, want) {
				return fmt.Errorf("no %q in %s", want, r.out)
			}
		}
		return nil
	})
	must(t, os.WriteFile(flag, nil, 0o644))
	w.answers(base, "/", 200, `"backend": "scripted"`)

	// A process that stands still answers no probe and is left out.
	pid := w.get("workloads", "a-1").Status.PID
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	w.eventually("the stopped process is left out", func() error {
		if got := find(w.get("workloads", "a-1").Status.Conditions, "Ready"); !strings.HasPrefix(got, "False ProbeFailed") {
			return errors.New(got)
		}
		return nil
	})
	w.answers(base, "/", 503, "no-endpoint")
	must(t, syscall.Kill(pid, syscall.SIGCONT))
	w.answers(base, "/", 200, `"backend": "scripted"`)
	if now := w.get("workloads", "a-1").Status.PID; now != pid {
		t.Errorf("the process was replaced: %d, was %d", now, pid)
	}
	w.stop()
	if !gone(pid) {
		t.Error("the process outlives windrose")
	}
}

// TestFiltersInTheAnswer: what filters do, as curl sees it and the backend.
func TestFiltersInTheAnswer(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	w := up(t, map[string]string{
		"gateway.yaml": gateway(port), "a.yaml": all(bareService("a"), command(t, "a-1", "a", freePort(t))),
		"r.yaml": routeOf("r",
			`{matches: [{path: {type: PathPrefix, value: /redirect}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: other.example, port: 8443, statusCode: 308, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]}`,
			`{matches: [{path: {type: PathPrefix, value: /rewrite}}], filters: [{type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}], backendRefs: [{name: a, port: 80}]}`,
			`{matches: [{path: {type: PathPrefix, value: /headers}}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: s}], add: [{name: X-Add, value: more}], remove: [X-Remove]}}, {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [Content-Type]}}], backendRefs: [{name: a, port: 80, filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Backend, value: b}]}}]}]}`,
			`{matches: [{path: {type: RegularExpression, value: "/re/[0-9]+"}, method: POST, headers: [{name: x-kind, value: k}], queryParams: [{name: q, value: "1"}]}], backendRefs: [{name: a, port: 80}]}`,
			`{matches: [{path: {type: PathPrefix, value: /quick}}], timeouts: {request: 200ms}, backendRefs: [{name: a, port: 80}]}`,
		),
	})
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	w.answers(base, "/rewrite", 200, "a-1")
	for _, tt := range []struct {
		args      []string
		want, not []string
	}{
		{[]string{"/redirect/x?y=z"}, []string{"HTTP/1.1 308", "ocation: https://other.example:8443/new/x?y=z\r"}, nil},
		{[]string{"/rewrite/x?y=z"}, []string{`"path": "/x"`, `"query": "y=z"`, `"host": "inner.example"`}, nil},
		{[]string{"-H", "X-Add: one", "-H", "X-Remove: r", "-H", "X-Set: mine", "/headers"}, []string{"X-Set", `"s"`, `"one`, `more"`, "X-Backend: b"}, []string{"X-Remove", "mine", "Content-Type:"}},
		{[]string{"-H", "X-Kind: k", "-d", "body", "/re/12?q=1"}, []string{"HTTP/1.1 200"}, nil},
		{[]string{"-H", "X-Kind: k", "-d", "body", "/re/12?q=2"}, []string{"HTTP/1.1 404", "no-route"}, nil},
		{[]string{"-H", "X-Kind: k", "-d", "body", "/re/12x?q=1"}, []string{"HTTP/1.1 404", "no-route"}, nil},
		{[]string{"-H", "X-Kind: k", "/re/12?q=1"}, []string{"HTTP/1.1 404", "no-route"}, nil},
		{[]string{"/quick/slow?for=20s"}, []string{"HTTP/1.1 504", "x-windrose-fault: request-timeout"}, nil},
		{[]string{"-H", "X-Forwarded-For: 6.6.6.6", "-H", "X-Windrose-Fault: no-route", "/rewrite"}, []string{"127.0.0.1"}, []string{"6.6.6.6", "x-windrose-fault"}},
	} {
		args := append([]string{"-i"}, tt.args...)
		args[len(args)-1] = base + args[len(args)-1]
		r := curl(t, args...)
		for _, want := range tt.want {
			if !strings.Contains(r.out, want) {
				t.Errorf("%q: no %q in %+v", tt.args, want, r)
			}
		}
		for _, not := range tt.not {
			if strings.Contains(r.out, not) {
				t.Errorf("%q: %q in %+v", tt.args, not, r)
			}
		}
	}
}

// TestLimitsOfGatewayParameters are in force at once.
func TestLimitsOfGatewayParameters(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	w := up(t, map[string]string{"gateway.yaml": gateway(port), "a.yaml": service("a", backend(t, "a")), "r.yaml": route("r", "/", "a")})
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	base := "http://" + addr
	w.answers(base, "/"+strings.Repeat("x", 2000), 200, "a /xxx")
	w.write("gateway.yaml", withParameters(gateway(port), "{limits: {uriBytes: 1000, headers: 16, headerBytes: 2000}, timeouts: {header: 300ms, idle: 300ms, body: 300ms}, faultDetail: Brief}"))
	w.answers(base, "/"+strings.Repeat("x", 1200), 414, "uri-too-long")
	w.answers(base, "/", 200, "a /")
	if got := raw(t, addr, "GET / HTTP/1.1\r\nHost: a\r\nX: "+strings.Repeat("x", 3000)+"\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 431") {
		t.Errorf("a long header: %q", got)
	}
	if got := raw(t, addr, "GET / HTTP/1.1\r\nHost: a\r\n"+strings.Repeat("X: y\r\n", 20)+"\r\n"); !strings.HasPrefix(got, "HTTP/1.1 431") {
		t.Errorf("many headers: %q", got)
	}
	// Who says nothing is left; who began is told.
	for name, tt := range map[string]struct{ send, want string }{
		"half a head": {"GET / HTTP/1.1\r\nHo", "HTTP/1.1 408"},
		"half a body": {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345", "HTTP/1.1 408"},
		"nothing":     {"", ""},
	} {
		start := time.Now()
		got := raw(t, addr, tt.send)
		if !strings.HasPrefix(got, tt.want) || tt.want == "" && got != "" {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
		if took := time.Since(start); took > 8*time.Second {
			t.Errorf("%s: it took %v with a timeout of 300ms", name, took)
		}
	}
	// Brief says no names to strangers.
	w.write("r.yaml", route("r", "/", "secret-service"))
	w.answers(base, "/", 500, "backend-missing")
	w.eventually("the answer is brief", func() error {
		if _, body, _ := fetch(base + "/"); strings.Contains(body, "secret-service") {
			return errors.New(body)
		}
		return nil
	})
}

// TestSecondSignalEndsAtOnce: for those who will not wait.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	s := newSlow(t)
	port := freePort(t)
	w := up(t, map[string]string{"gateway.yaml": gateway(port), "a.yaml": service("a", s.addr), "r.yaml": route("r", "/", "a")})
	go func() {
		resp, err := (&http.Client{Timeout: time.Minute}).Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}()
	waitFor(t, "the request", s.arrived)
	plane := w.dataplane()
	w.signal(syscall.SIGINT)
	w.eventually("the first signal closes the doors", func() error {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
		if err == nil {
			conn.Close()
			return errors.New("accepted")
		}
		return nil
	})
	start := time.Now()
	w.signal(syscall.SIGINT)
	w.wait()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v after the second signal", took)
	}
	w.eventually("the data plane has ended too", func() error {
		if !gone(plane) {
			return fmt.Errorf("process %d lives", plane)
		}
		return nil
	})
}
