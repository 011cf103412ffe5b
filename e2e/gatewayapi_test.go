package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestIngress: path types, default backends, TLS and status, on the ports that
// an Ingress has.
//
// covers: IngressClass IngressDefaultBackend IngressHostRules IngressPathRules
func TestIngress(t *testing.T) {
	t.Parallel()
	ownNetwork(t)
	const ports = 9000
	services := []string{}
	for i, name := range []string{"exact", "prefix", "any", "rest", "all"} {
		services = append(services, bareService(name), command(t, name, name, ports+i))
	}
	w := newWindrose(t, map[string]string{
		"services.yaml": all(services...),
		"secret.yaml":   secret(t, "shop-tls", ecdsaKey, 5, "shop.example"),
		"ingress.yaml": `apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: windrose}
spec: {controller: windrose.dev/ingress-controller}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop}
spec:
  ingressClassName: windrose
  defaultBackend: {service: {name: rest, port: {number: 80}}}
  tls: [{hosts: [shop.example], secretName: shop-tls}]
  rules:
  - host: shop.example
    http:
      paths:
      - {path: /cart, pathType: Exact, backend: {service: {name: exact, port: {number: 80}}}}
      - {path: /cart, pathType: Prefix, backend: {service: {name: prefix, port: {number: 80}}}}
      - {path: /any, pathType: ImplementationSpecific, backend: {service: {name: any, port: {number: 80}}}}
  - host: "*.shop.example"
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: all, port: {number: 80}}}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: foreign}
spec:
  ingressClassName: nobody
  rules: [{host: foreign.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: all, port: {number: 80}}}}]}}]
`,
	})
	w.start()
	w.readyInside()
	ask := func(host, path string) string {
		r := curl(t, "-H", "Host: "+host, "http://127.0.0.1"+path)
		_, name, _ := strings.Cut(r.out, `"backend": "`)
		name, _, ok := strings.Cut(name, `"`)
		if !ok {
			return fmt.Sprintf("%+v", r)
		}
		return name
	}
	for target, want := range map[string]string{
		"shop.example/cart": "exact", "shop.example/cart/": "prefix", "shop.example/cart/1": "prefix", "shop.example/carts": "rest",
		"shop.example/any/x": "any", "shop.example/": "rest", "other.example/": "rest", "x.shop.example/y": "all", "a.b.shop.example/": "rest",
		"foreign.example/": "rest",
	} {
		host, path, _ := strings.Cut(target, "/")
		w.eventually(target+" is answered by "+want, func() error {
			if got := ask(host, "/"+path); got != want {
				return fmt.Errorf("by %s", got)
			}
			return nil
		})
	}
	// The same over TLS, on both families of addresses.
	ca := caFile(t)
	for _, ip := range []string{"127.0.0.1", "[::1]"} {
		r := curl(t, "-i", "--resolve", "shop.example:443:"+ip, "--cacert", ca, "https://shop.example/cart")
		if !r.answered(200) || !strings.Contains(r.out, `"backend": "exact"`) {
			t.Errorf("over TLS at %s: %+v", ip, r)
		}
	}
	if r := w.cli("get", "ingress", "shop", "-o", "yaml"); !strings.Contains(r.out, "loadBalancer:\n    ingress:\n    - ip:") {
		t.Errorf("status: %+v", r)
	}
	if r := w.cli("get", "ingress", "foreign", "-o", "yaml"); strings.Contains(r.out, "- ip:") {
		t.Errorf("an Ingress of another class has a status: %+v", r)
	}
}

func TestStatusOfGateways(t *testing.T) {
	t.Parallel()
	one, two := freePort(t), freePort(t)
	w := up(t, map[string]string{
		"gateway.yaml": strings.Replace(gatewayOf(
			fmt.Sprintf("{name: http, protocol: HTTP, port: %d}", one),
			fmt.Sprintf("{name: odd, protocol: example.com/odd, port: %d}", freePort(t))), "  addresses:", "  allowedListeners: {namespaces: {from: Same}}\n  addresses:", 1),
		"set.yaml": fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: more}
spec:
  parentRef: {name: web}
  listeners:
  - {name: extra, protocol: HTTP, port: %d, hostname: team.example}
  - {name: clash, protocol: HTTP, port: %d}
---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: outside, namespace: elsewhere}
spec:
  parentRef: {name: web, namespace: default}
  listeners: [{name: extra, protocol: HTTP, port: %d, hostname: outside.example}]
`, two, one, two),
		"a.yaml": service("a", backend(t, "a")), "r.yaml": route("r", "/", "a"),
		"s.yaml":    strings.Replace(route("s", "/", "a"), "{name: web}", "{kind: ListenerSet, name: more, sectionName: extra}", 1),
		"lost.yaml": strings.Replace(route("lost", "/", "a"), "{name: web}", "{name: web, sectionName: nosuch}", 1),
		"c.yaml":    strings.NewReplacer("name: windrose}", "name: other}", "windrose.dev/gateway-controller", "example.com/other").Replace(class),
	})
	checks := map[string]func() string{
		"class":                        func() string { return find(w.get("gatewayclasses", "windrose").Status.Conditions, "Accepted") },
		"gateway accepted":             func() string { return find(w.get("gateways", "web").Status.Conditions, "Accepted") },
		"gateway programmed":           func() string { return find(w.get("gateways", "web").Status.Conditions, "Programmed") },
		"listener http":                func() string { return find(w.get("gateways", "web").Status.Listeners[0].Conditions, "Programmed") },
		"listener odd":                 func() string { return find(w.get("gateways", "web").Status.Listeners[1].Conditions, "Accepted") },
		"attached":                     func() string { return fmt.Sprint(w.get("gateways", "web").Status.Listeners[0].AttachedRoutes) },
		"set accepted":                 func() string { return find(w.get("listenersets", "more").Status.Conditions, "Accepted") },
		"set, listener extra":          func() string { return find(w.get("listenersets", "more").Status.Listeners[0].Conditions, "Programmed") },
		"set, listener clash":          func() string { return find(w.get("listenersets", "more").Status.Listeners[1].Conditions, "Conflicted") },
		"set of another namespace":     func() string { return find(w.get("listenersets", "outside").Status.Conditions, "Accepted") },
		"route":                        func() string { return find(w.get("httproutes", "r").Status.Parents[0].Conditions, "Accepted") },
		"route of the set":             func() string { return find(w.get("httproutes", "s").Status.Parents[0].Conditions, "Accepted") },
		"route to no listener":         func() string { return find(w.get("httproutes", "lost").Status.Parents[0].Conditions, "Accepted") },
		"class of somebody else":       func() string { return fmt.Sprint(len(w.get("gatewayclasses", "other").Status.Conditions)) },
		"its references":               func() string { return find(w.get("httproutes", "r").Status.Parents[0].Conditions, "ResolvedRefs") },
		"listener http, its conflicts": func() string { return find(w.get("gateways", "web").Status.Listeners[0].Conditions, "Conflicted") },
	}
	for what, want := range map[string]string{
		"class": "True Accepted", "gateway accepted": "True ListenersNotValid", "gateway programmed": "True Programmed",
		"listener http": "True Programmed", "listener odd": "False UnsupportedProtocol", "attached": "1",
		"set accepted": "True ListenersNotValid", "set, listener extra": "True Programmed", "set, listener clash": "True HostnameConflict",
		"set of another namespace": "False NotAllowed", "route": "True Accepted", "route of the set": "True Accepted",
		"route to no listener": "False NoMatchingParent", "class of somebody else": "0", "its references": "True ResolvedRefs",
		"listener http, its conflicts": "False NoConflicts",
	} {
		w.eventually(what+" is "+want, func() error {
			if got := checks[what](); !strings.HasPrefix(got, want) {
				return fmt.Errorf("got %s", got)
			}
			return nil
		})
	}
	r := curl(t, "-i", "-H", "Host: team.example", fmt.Sprintf("http://127.0.0.1:%d/", two))
	if !r.answered(200) {
		t.Errorf("the listener of the set: %+v", r)
	}
}

// covers: HTTPRouteReferenceGrant
func TestGrantFlipsLive(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	stock := strings.NewReplacer("metadata: {name: stock", "metadata: {namespace: stock, name: stock").Replace(service("stock", backend(t, "stock")))
	w := up(t, map[string]string{
		"gateway.yaml": gateway(port), "stock.yaml": stock,
		"r.yaml": strings.Replace(route("r", "/", "stock"), "name: stock,", "name: stock, namespace: stock,", 1),
	})
	url := fmt.Sprintf("http://127.0.0.1:%d/", port)
	const grant = `apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: grant, namespace: stock}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]
  to: [{group: "", kind: Service}]
`
	for range 3 {
		w.eventually("without a grant it is refused", func() error {
			code, body, h := fetch(url)
			status := find(w.get("httproutes", "r").Status.Parents[0].Conditions, "ResolvedRefs")
			if code != 500 || h.Get("x-windrose-fault") != "backend-missing" || !strings.Contains(body, "ReferenceGrant") ||
				!strings.HasPrefix(status, "False RefNotPermitted") {
				return fmt.Errorf("%d %s %s", code, body, status)
			}
			return nil
		})
		w.write("grant.yaml", grant)
		w.eventually("with a grant it is answered", func() error {
			code, body, _ := fetch(url)
			status := find(w.get("httproutes", "r").Status.Parents[0].Conditions, "ResolvedRefs")
			if code != 200 || !strings.HasPrefix(status, "True") {
				return fmt.Errorf("%d %s %s", code, body, status)
			}
			return nil
		})
		w.remove("grant.yaml")
	}
}

// TestWeightsAreExact: 99:1 gives 10 of 1,000, on whatever connections they
// come; and so it is while endpoints change.
//
// covers: HTTPRouteWeight
func TestWeightsAreExact(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	stable := []string{backend(t, "stable"), backend(t, "stable")}
	w := up(t, map[string]string{
		"gateway.yaml": gateway(port), "stable.yaml": service("stable", stable[0]), "canary.yaml": service("canary", backend(t, "canary")),
		"r.yaml": routeOf("r", "{backendRefs: [{name: stable, port: 80, weight: 99}, {name: canary, port: 80, weight: 1}]}"),
	})
	url := fmt.Sprintf("http://127.0.0.1:%d/", port)
	var sent, canaries atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: i == 0}}
			for sent.Add(1) <= 1000 {
				resp, err := client.Get(url)
				if err != nil {
					t.Error(err)
					return
				}
				if resp.Header.Get("Backend") == "canary" {
					canaries.Add(1)
				}
				if err := wantBody(resp, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 4 {
		w.write("stable.yaml", service("stable", stable[:1+i%2]...))
		w.applied()
	}
	wg.Wait()
	if got := canaries.Load(); got != 10 {
		t.Errorf("%d of 1,000 requests went to the canary, want 10", got)
	}
}

// TestWhatIsNotCarriedSaysSo: accepted by the API, refused by its status, and
// never ignored by traffic.
func TestWhatIsNotCarriedSaysSo(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	w := up(t, map[string]string{
		"gateway.yaml": gateway(port), "a.yaml": service("a", backend(t, "a")),
		"own.yaml": routeOf("own", `{matches: [{path: {type: PathPrefix, value: /m}}], filters: [{type: ExtensionRef, extensionRef: {group: example.net, kind: RateLimit, name: slow}}], backendRefs: [{name: a, port: 80}]}`),
		"r.yaml":   route("r", "/", "a"),
	})
	w.eventually("the rule with a filter of somebody else answers 500", func() error {
		if code, body, h := fetch(fmt.Sprintf("http://127.0.0.1:%d/m", port)); code != 500 || h.Get("x-windrose-fault") != "rule-broken" || !strings.Contains(body, "RateLimit") {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	if code, body, _ := fetch(fmt.Sprintf("http://127.0.0.1:%d/", port)); code != 200 {
		t.Errorf("the other rule: %d %s", code, body)
	}
	if got := find(w.get("httproutes", "own").Status.Parents[0].Conditions, "Accepted"); !strings.HasPrefix(got, "False Unsupported") {
		t.Errorf("status: %s", got)
	}
}
