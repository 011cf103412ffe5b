package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// backend answers with its name and the path.
func backend(t *testing.T, name string) string {
	t.Helper()
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Backend", name)
		fmt.Fprintf(w, "%s %s", name, r.URL.Path)
	})
}

// serve runs a handler until the test ends and gives its address.
func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// class is the GatewayClass of all tests.
const class = `apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: windrose}
spec: {controllerName: windrose.dev/gateway-controller}
`

// gateway is a class and a Gateway with one HTTP listener.
func gateway(port int) string {
	return gatewayOf(fmt.Sprintf("{name: http, protocol: HTTP, port: %d}", port))
}

// gatewayOf is a class and a Gateway with listeners, each in YAML.
func gatewayOf(listeners ...string) string {
	return class + `---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web}
spec:
  gatewayClassName: windrose
  addresses: [{type: IPAddress, value: 127.0.0.1}]
  listeners:
  - ` + strings.Join(listeners, "\n  - ") + "\n"
}

// withParameters is a manifest whose class takes spec, in YAML, as its
// GatewayParameters.
func withParameters(manifest, spec string) string {
	return strings.Replace(manifest, "spec: {controllerName: windrose.dev/gateway-controller}", `spec:
  controllerName: windrose.dev/gateway-controller
  parametersRef: {group: windrose.dev, kind: GatewayParameters, name: web, namespace: default}`, 1) + `---
apiVersion: windrose.dev/v1alpha1
kind: GatewayParameters
metadata: {name: web}
spec: ` + spec + "\n"
}

// service is a Service with one address-only Workload for each address.
func service(name string, addrs ...string) string {
	var b strings.Builder
	b.WriteString(bareService(name))
	for i, a := range addrs {
		host, port, _ := strings.Cut(a, ":")
		fmt.Fprintf(&b, `---
apiVersion: windrose.dev/v1alpha1
kind: Workload
metadata: {name: %[1]s-%[2]d, labels: {app: %[1]s}}
spec:
  address: %[3]s
  ports: [{name: http, port: %[4]s}]
`, name, i, host, port)
	}
	return b.String()
}

// bareService is a Service that selects the workloads with the label app.
func bareService(name string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec:
  selector: {app: %[1]s}
  ports: [{port: 80, targetPort: http}]
`, name)
}

// command is a Workload that windrose runs: the backend of the demo.
func command(t *testing.T, name, app string, port int) string {
	t.Helper()
	return fmt.Sprintf(`apiVersion: windrose.dev/v1alpha1
kind: Workload
metadata: {name: %[1]s, labels: {app: %[2]s}}
spec:
  command: [%[3]q, "--name", %[1]q, "--listen", "127.0.0.1:%[4]d"]
  ports: [{name: http, port: %[4]d}]
  readiness: {http: {path: /healthz, port: http}, periodSeconds: 1}
`, name, app, demoBackend(t), port)
}

// route is an HTTPRoute from a path prefix to one service.
func route(name, prefix, to string) string {
	return routeOf(name, fmt.Sprintf(`{matches: [{path: {type: PathPrefix, value: %q}}], backendRefs: [{name: %s, port: 80}]}`, prefix, to))
}

// routeOf is an HTTPRoute with rules, each in YAML.
func routeOf(name string, rules ...string) string {
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s}
spec:
  parentRefs: [{name: web}]
  rules:
  - %s
`, name, strings.Join(rules, "\n  - "))
}

// all joins manifests to one file.
func all(manifests ...string) string { return strings.Join(manifests, "---\n") }
