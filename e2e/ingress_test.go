package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// scenarios are those of the controller conformance suite that Kubernetes once
// had for Ingresses. A scenario is a request and the service that answers it; ""
// is nobody, which is 404. The method is GET where none is given.
var scenarios = []struct{ name, method, target, by string }{
	{"a host", "", "http://foo.bar.com/", "host"},
	{"a host, over TLS", "", "https://foo.bar.com/", "host"},
	{"another host of the same domain", "", "http://subdomain.bar.com/", ""},
	{"a wildcard stands for a label", "", "http://bar.foo.com/", "wildcard"},
	{"a wildcard stands for no more than one", "", "http://baz.bar.foo.com/", ""},
	{"a wildcard stands for no less", "", "http://foo.com/", ""},

	{"an exact path", "", "http://exact/foo", "foo-exact"},
	{"an exact path is none with a slash behind it", "", "http://exact/foo/", ""},
	{"an exact path has its case", "", "http://exact/FOO", ""},
	{"an exact path is no other", "", "http://exact/bar", ""},
	{"a prefix", "", "http://prefix/foo", "foo-prefix"},
	{"a prefix with a slash behind it", "", "http://prefix/foo/", "foo-prefix"},
	{"a prefix has its case", "", "http://prefix/FOO", ""},
	{"the longer prefix", "", "http://prefix/aaa/bbb", "aaa-bbb"},
	{"below the longer prefix", "", "http://prefix/aaa/bbb/ccc", "aaa-bbb"},
	{"beside the longer prefix", "", "http://prefix/aaa/ccc", "aaa"},
	{"a prefix is one of elements", "", "http://prefix/aaaccc", ""},
	{"an exact path goes before a prefix", "", "http://mixed/foo", "foo-exact"},
	{"below both", "", "http://mixed/foo/", "foo-prefix"},
	{"a prefix that ends in a slash", "", "http://slash/aaa/bbb", "aaa-bbb"},
	{"a prefix that ends in a slash, and a request that does", "", "http://slash/aaa/bbb/", "aaa-bbb"},
	{"an exact path that ends in a slash", "", "http://slash/foo", ""},
	{"an exact path that ends in a slash, and a request that does", "", "http://slash/foo/", "foo-exact"},

	{"a class of nobody", "", "http://foreign/", ""},

	{"everything", "", "http://my-host/", "rest"},
	{"everything below", "", "http://my-host/sub-path", "rest"},
	{"POST", "POST", "http://some-host/", "rest"},
	{"PUT", "PUT", "http://another/resource", "rest"},
	{"DELETE", "DELETE", "http://some-host/resource", "rest"},
	{"PATCH", "PATCH", "http://my-host/resource", "rest"},
	{"what no rule takes", "", "http://exact/bar", "rest"},
}

// TestIngressScenarios: hosts, paths, classes, default backends and the spread
// over endpoints, at the ports that the parameters of the class name.
//
// covers: IngressDefaultBackend IngressHostRules IngressClass IngressLoadBalancing IngressPathRules
func TestIngressScenarios(t *testing.T) {
	t.Parallel()
	plain, secure := freePort(t), freePort(t)
	echo := func(name string) string {
		return serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Backend", name)
			fmt.Fprintf(w, "%s %s %s", r.Method, r.Host, r.URL.Path)
		})
	}
	services := []string{secret(t, "tls", ecdsaKey, 41, "foo.bar.com")}
	for _, name := range []string{"host", "wildcard", "foo-exact", "foo-prefix", "aaa-bbb", "aaa", "rest"} {
		services = append(services, service(name, echo(name)))
	}
	var many []string
	for i := range 10 {
		many = append(many, echo(fmt.Sprintf("many-%d", i)))
	}
	services = append(services, service("many", many...))
	path := func(path, kind, to string) string {
		return fmt.Sprintf("{path: %s, pathType: %s, backend: {service: {name: %s, port: {number: 80}}}}", path, kind, to)
	}
	rule := func(host string, paths ...string) string {
		return fmt.Sprintf("  - {host: %q, http: {paths: [%s]}}\n", host, strings.Join(paths, ", "))
	}
	ingress := func(name, class, spec string, rules ...string) string {
		return fmt.Sprintf("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: %s}\nspec:\n  ingressClassName: %s\n%s%s", name, class, spec, strings.Join(rules, ""))
	}
	w := newWindrose(t, map[string]string{
		"services.yaml": all(services...),
		"class.yaml": fmt.Sprintf(`apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: windrose}
spec:
  controller: windrose.dev/ingress-controller
  parameters: {apiGroup: windrose.dev, kind: GatewayParameters, scope: Namespace, namespace: default, name: ports}
---
apiVersion: windrose.dev/v1alpha1
kind: GatewayParameters
metadata: {name: ports}
spec: {ingress: {address: 127.0.0.1, http: %d, https: %d}}
`, plain, secure),
		"ingress.yaml": all(
			ingress("hosts", "windrose", "  tls: [{hosts: [foo.bar.com], secretName: tls}]\n  rules:\n",
				rule("*.foo.com", path("/", "Prefix", "wildcard")), rule("foo.bar.com", path("/", "Prefix", "host"))),
			ingress("paths", "windrose", "  rules:\n",
				rule("exact", path("/foo", "Exact", "foo-exact")),
				rule("prefix", path("/foo", "Prefix", "foo-prefix"), path("/aaa/bbb", "Prefix", "aaa-bbb"), path("/aaa", "Prefix", "aaa")),
				rule("mixed", path("/foo", "Prefix", "foo-prefix"), path("/foo", "Exact", "foo-exact")),
				rule("slash", path("/aaa/bbb/", "Prefix", "aaa-bbb"), path("/foo/", "Exact", "foo-exact")),
				rule("many", path("/", "Prefix", "many"))),
			ingress("foreign", "nobody", "  rules:\n", rule("foreign", path("/", "Prefix", "host")))),
	})
	w.start()
	w.ready()
	clients := map[string]*http.Client{}
	for scheme, port := range map[string]int{"http": plain, "https": secure} {
		clients[scheme] = &http.Client{Timeout: 10 * time.Second, Transport: transport(t, fmt.Sprintf("127.0.0.1:%d", port))}
	}
	// ask gives who answered, "" for 404.
	ask := func(method, target string) (string, error) {
		req, err := http.NewRequestWithContext(t.Context(), method, target, nil)
		if err != nil {
			return "", err
		}
		scheme, rest, _ := strings.Cut(target, "://")
		resp, err := clients[scheme].Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		switch host, path, _ := strings.Cut(rest, "/"); {
		case err != nil:
			return "", err
		case resp.StatusCode == http.StatusNotFound:
			return "", nil
		case resp.StatusCode != http.StatusOK:
			return "", fmt.Errorf("status %d: %s", resp.StatusCode, body)
		case string(body) != req.Method+" "+host+" /"+path:
			return "", fmt.Errorf("the service saw %q", body)
		}
		return resp.Header.Get("Backend"), nil
	}
	for _, s := range scenarios {
		if s.by == "rest" {
			w.write("rest.yaml", ingress("rest", "windrose", "  defaultBackend: {service: {name: rest, port: {number: 80}}}\n"))
		}
		w.eventually(s.name, func() error {
			got, err := ask(s.method, s.target)
			if err == nil && got != s.by {
				err = fmt.Errorf("%s %s is answered by %q, want %q", s.method, s.target, got, s.by)
			}
			return err
		})
	}

	seen := map[string]int{}
	for range 100 {
		by, err := ask("", "http://many/")
		if err != nil {
			t.Fatal(err)
		}
		seen[by]++
	}
	if len(seen) != 10 {
		t.Errorf("100 requests reached %d of 10 endpoints: %v", len(seen), seen)
	}
	for name, want := range map[string]bool{"hosts": true, "paths": true, "rest": true, "foreign": false} {
		if r := w.cli("get", "ingress", name, "-o", "yaml"); strings.Contains(r.out, "- ip:") != want {
			t.Errorf("Ingress %s has an address: %v, want %v: %+v", name, !want, want, r)
		}
	}
}
