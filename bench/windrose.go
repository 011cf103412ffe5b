package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// windrose is the contender under its own command: windrose up with a folder
// of manifests, one file for each route. It takes eight ports from port on.
func windrose(m *machine, binary, name string, routes, port int) contender {
	c := contender{
		name: name, plain: port, tls: port + 1, h2c: port, // one port takes both versions
		relays:  []relayPort{{name, port + 6}},
		version: func(ctx context.Context) string { return ownVersion(ctx, binary) },
	}
	if name != "windrose" {
		c.extra, c.relays = true, nil // one of them shows what relaying costs
	}
	target := targetRoute(routes)
	c.path = fmt.Sprintf("/s%d/items", target)
	dir := filepath.Join(m.dir, name)
	c.start = func(ctx context.Context) (*running, error) {
		if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
		if err := writeManifests(m, dir, c, routes); err != nil {
			return nil, err
		}
		p, err := m.start(ctx, name, m.proxyCPU, false, binary, "up",
			"--config", filepath.Join(dir, "config"),
			"--state", filepath.Join(dir, "state"),
			"--admin", "127.0.0.1:"+strconv.Itoa(port+2),
			"--metrics", "127.0.0.1:"+strconv.Itoa(port+3),
			"--health", "127.0.0.1:"+strconv.Itoa(port+4))
		if err != nil {
			return nil, err
		}
		r := &running{contender: c, process: p}
		if err := r.wait(ctx, 90*time.Second); err != nil {
			p.stop()
			return nil, err
		}
		if err := r.split(); err != nil {
			p.stop()
			return nil, err
		}
		for _, pid := range r.proxy {
			if err := m.realtimeClass(ctx, pid); err != nil {
				p.stop()
				return nil, err
			}
		}
		return r, nil
	}
	return c
}

// ownVersion is the commit that the binary was built from, if it knows.
func ownVersion(ctx context.Context, binary string) string {
	out, err := exec.CommandContext(ctx, binary, "version", "-o", "json").Output()
	if err != nil {
		return "unknown"
	}
	var v struct {
		Client struct{ Version, Commit string }
	}
	if err := json.Unmarshal(out, &v); err != nil {
		return "unknown"
	}
	if len(v.Client.Commit) > 12 {
		return v.Client.Commit[:12]
	}
	return v.Client.Version
}

// split tells the data plane from the control part by their command lines.
func (r *running) split() error {
	for _, pid := range r.process.pids() {
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			return err
		}
		if args := strings.Split(string(cmdline), "\x00"); len(args) > 1 && args[1] == "dataplane" {
			r.proxy = append(r.proxy, pid)
		} else {
			r.control = append(r.control, pid)
		}
	}
	if len(r.proxy) != 1 {
		return errors.New("windrose has no data-plane process")
	}
	return nil
}

// hosts is over how many host names the routes are spread.
const hosts = 100

// targetRoute is the route that the load asks for: one in the middle that
// hangs on targetHost.
func targetRoute(routes int) int {
	if routes < 2*hosts {
		return 7 % routes
	}
	return routes/2/hosts*hosts + 7
}

func routeFile(dir string, i int) string {
	return filepath.Join(dir, "config", fmt.Sprintf("route-%05d.yaml", i))
}

func writeManifests(m *machine, dir string, c contender, routes int) error {
	if err := os.MkdirAll(filepath.Join(dir, "config"), 0o755); err != nil {
		return err
	}
	crt, err := os.ReadFile(filepath.Join(m.dir, "tls.crt"))
	if err != nil {
		return err
	}
	key, err := os.ReadFile(filepath.Join(m.dir, "tls.key"))
	if err != nil {
		return err
	}
	b64 := base64.StdEncoding.EncodeToString
	base := fmt.Appendf(nil, baseManifest, c.plain, c.tls, c.plain+6, b64(crt), b64(key), upstreamPort, sinkPort, grpcPort)
	for s := range services(routes) {
		base = fmt.Appendf(base, serviceManifest, s)
	}
	if err := os.WriteFile(filepath.Join(dir, "config", "base.yaml"), base, 0o600); err != nil {
		return err
	}
	for i := range routes {
		if err := os.WriteFile(routeFile(dir, i), route(i, routes, 0), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// services is how many Services stand behind so many routes.
func services(routes int) int { return (routes + 9) / 10 }

// route is the manifest of route i. Its answers carry its revision, if it has
// one.
func route(i, routes, revision int) []byte {
	host := i % hosts
	if i == targetRoute(routes) {
		host = 7
	}
	filters := ""
	if revision > 0 {
		filters = fmt.Sprintf(revisionFilter, revision)
	}
	return fmt.Appendf(nil, routeManifest, i, host, i, filters, i/10)
}

const baseManifest = `apiVersion: v1
kind: Namespace
metadata: { name: bench }
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: windrose }
spec:
  controllerName: windrose.dev/gateway-controller
  parametersRef: { group: windrose.dev, kind: GatewayParameters, name: bench, namespace: bench }
---
apiVersion: windrose.dev/v1alpha1
kind: GatewayParameters
metadata: { name: bench, namespace: bench }
spec:
  accessLog: { mode: None }
  timeouts: { idle: 600s }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: bench, namespace: bench }
spec:
  gatewayClassName: windrose
  addresses: [{ type: IPAddress, value: 127.0.0.1 }]
  listeners:
  - { name: plain, protocol: HTTP, port: %d }
  - { name: tls, protocol: HTTPS, port: %d, tls: { certificateRefs: [{ name: bench }] } }
  - { name: relay, protocol: TCP, port: %d }
---
apiVersion: v1
kind: Secret
metadata: { name: bench, namespace: bench }
type: kubernetes.io/tls
data: { tls.crt: %s, tls.key: %s }
---
apiVersion: windrose.dev/v1alpha1
kind: Workload
metadata: { name: upstream, namespace: bench, labels: { app: upstream } }
spec:
  address: 127.0.0.1
  ports: [{ name: http, port: %d }, { name: sink, port: %d }, { name: grpc, port: %d }]
---
apiVersion: v1
kind: Service
metadata: { name: sink, namespace: bench }
spec:
  selector: { app: upstream }
  ports: [{ name: sink, port: 80, targetPort: sink }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: { name: relay, namespace: bench }
spec:
  parentRefs: [{ name: bench, sectionName: relay }]
  rules: [{ backendRefs: [{ name: sink, port: 80 }] }]
---
apiVersion: v1
kind: Service
metadata: { name: others, namespace: bench }
spec:
  selector: { app: upstream }
  ports:
  - { name: ws, port: 80, targetPort: http }
  - { name: h2, port: 81, targetPort: http, appProtocol: kubernetes.io/h2c }
  - { name: grpc, port: 82, targetPort: grpc, appProtocol: kubernetes.io/h2c }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: others, namespace: bench }
spec:
  parentRefs: [{ name: bench, sectionName: plain }]
  hostnames: ["h7.bench.example"]
  rules:
  - matches: [{ path: { type: PathPrefix, value: /ws } }]
    backendRefs: [{ name: others, port: 80 }]
  - matches: [{ path: { type: PathPrefix, value: /h2 } }]
    backendRefs: [{ name: others, port: 81 }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: { name: calls, namespace: bench }
spec:
  parentRefs: [{ name: bench, sectionName: plain }]
  hostnames: ["grpc.bench.example"]
  rules:
  - matches: [{ method: { service: bench.Echo } }]
    backendRefs: [{ name: others, port: 82 }]
`

const serviceManifest = `---
apiVersion: v1
kind: Service
metadata: { name: s%d, namespace: bench }
spec:
  selector: { app: upstream }
  ports: [{ name: http, port: 80, targetPort: http }]
`

const routeManifest = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: r%d, namespace: bench }
spec:
  parentRefs: [{ name: bench }]
  hostnames: ["h%d.bench.example"]
  rules:
  - matches: [{ path: { type: PathPrefix, value: "/s%d" } }]%s
    backendRefs: [{ name: s%d, port: 80 }]
`

const revisionFilter = `
    filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: { set: [{ name: X-Revision, value: "%d" }] }`
