package schema

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apimachinery/pkg/util/intstr"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"windrose.dev/windrose/internal/object"
)

func parse(tb testing.TB, text string) map[string]any {
	tb.Helper()
	j, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	var doc map[string]any
	if err := json.UnmarshalCaseSensitivePreserveInts(j, &doc); err != nil {
		tb.Fatal(err)
	}
	return doc
}

// head begins a manifest.
func head(apiVersion, kind string) string {
	return "apiVersion: " + apiVersion + "\nkind: " + kind + "\nmetadata: {name: x}\n"
}

const gw = "gateway.networking.k8s.io/v1"

// brief writes findings as `severity field reason`, and the mend if there is one.
func brief(fs []object.Finding) []string {
	var all []string
	for _, f := range fs {
		s := fmt.Sprintf("%s %s %s", f.Severity, f.Field, f.Reason)
		if f.Mend != "" {
			s += " | " + f.Mend
		}
		all = append(all, s)
	}
	slices.Sort(all)
	return all
}

var cases = []struct {
	name, text string
	want       []string
}{
	{"a good route", head(gw, "HTTPRoute") + "spec: {parentRefs: [{name: web}], rules: [{backendRefs: [{name: a, port: 80}]}]}", nil},
	{
		"a field that is nearly right", head(gw, "HTTPRoute") + "spec: {rules: [{backendRef: [{name: a, port: 80}]}]}",
		[]string{`error spec.rules[0].backendRef UnknownField | did you mean "backendRefs"?`},
	},
	{
		"a value of an enum that is nearly right", head(gw, "Gateway") + "spec: {gatewayClassName: w, listeners: [{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Al}}}]}",
		[]string{`error spec.listeners[0].allowedRoutes.namespaces.from NotSupported | did you mean "All"?`},
	},
	{
		"a string for a number", head(gw, "Gateway") + `spec: {gatewayClassName: w, listeners: [{name: a, port: "80", protocol: HTTP}]}`,
		[]string{"error spec.listeners[0].port WrongType | write a number, without quotes"},
	},
	{
		"a missing field", head(gw, "Gateway") + `spec: {gatewayClassName: w, listeners: [{name: a, protocol: HTTP}]}`,
		[]string{"error spec.listeners[0].port Required"},
	},
	{
		"a port out of range", head(gw, "Gateway") + `spec: {gatewayClassName: w, listeners: [{name: a, port: 70000, protocol: HTTP}]}`,
		[]string{"error spec.listeners[0].port Invalid"},
	},
	{
		"two listeners of one name", head(gw, "Gateway") + `spec: {gatewayClassName: w, listeners: [{name: a, port: 80, protocol: HTTP}, {name: a, port: 81, protocol: HTTP}]}`,
		[]string{"error spec.listeners Invalid", "error spec.listeners[1] Duplicate"},
	},
	{
		"two listeners of one port and protocol", head(gw, "Gateway") + `spec: {gatewayClassName: w, listeners: [{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTP}]}`,
		[]string{"error spec.listeners Invalid"},
	},
	{
		"TLS settings on an HTTP listener", head(gw, "Gateway") + `spec: {gatewayClassName: w, listeners: [{name: a, port: 80, protocol: HTTP, tls: {certificateRefs: [{name: s}]}}]}`,
		[]string{"error spec.listeners Invalid"},
	},
	{
		"replacing a prefix without matching one", head(gw, "HTTPRoute") + `spec:
  rules:
  - matches: [{path: {type: Exact, value: /a}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]`,
		[]string{"error spec.rules[0] Invalid"},
	},
	{
		"a filter without its settings", head(gw, "HTTPRoute") + `spec: {rules: [{filters: [{type: URLRewrite}]}]}`,
		[]string{"error spec.rules[0].filters[0] Invalid"},
	},
	{
		"a path without a slash", head(gw, "HTTPRoute") + `spec: {rules: [{matches: [{path: {type: PathPrefix, value: a}}]}]}`,
		[]string{"error spec.rules[0].matches[0].path Invalid"},
	},
	{
		"a service reference without a port", head(gw, "HTTPRoute") + `spec: {rules: [{backendRefs: [{name: a}]}]}`,
		[]string{"error spec.rules[0].backendRefs[0] Invalid"},
	},
	{
		"a header matched twice", head(gw, "HTTPRoute") + `spec: {rules: [{matches: [{headers: [{name: a, value: b}, {name: a, value: c}]}]}]}`,
		[]string{"error spec.rules[0].matches[0].headers[1] Duplicate"},
	},
	{
		"two rules of one name", head(gw, "HTTPRoute") + "spec: {rules: [{name: a}, {}, {}, {name: a}]}",
		[]string{"error spec.rules Invalid"},
	},
	{
		"two gRPC rules of one name", head(gw, "GRPCRoute") + "spec: {rules: [{name: a}, {}, {}, {name: a}]}",
		[]string{"error spec.rules Invalid"},
	},
	{"a status is dropped", head(gw, "HTTPRoute") + "spec: {}\nstatus: {parents: 3}", nil},
	{
		"a deprecated version", head("gateway.networking.k8s.io/v1alpha2", "TCPRoute") + "spec: {rules: [{backendRefs: [{name: a, port: 80}]}]}",
		[]string{"warning apiVersion UnsupportedVersion | use apiVersion: gateway.networking.k8s.io/v1"},
	},
	{"an older version with the same shape", head("gateway.networking.k8s.io/v1beta1", "HTTPRoute") + "spec: {}", nil},
	{
		"a version that never was", head("gateway.networking.k8s.io/v2", "HTTPRoute") + "spec: {}",
		[]string{"error apiVersion UnsupportedVersion | use apiVersion: gateway.networking.k8s.io/v1"},
	},
	{
		"an Ingress of old", head("extensions/v1beta1", "Ingress") + "spec: {}",
		[]string{"error apiVersion UnsupportedVersion | use networking.k8s.io/v1"},
	},
	{
		"a kind that is nearly right", head(gw, "HttpRoutes") + "spec: {}",
		[]string{"error kind UnknownKind | did you mean kind: HTTPRoute?"},
	},
	{
		"a kind of another group", head("v1", "Ingress") + "spec: {}",
		[]string{"error apiVersion UnknownKind | did you mean apiVersion: networking.k8s.io/v1?"},
	},
	{
		"a group that is nearly right", head("gateway.network.k8s.io/v1", "HTTPRoute") + "spec: {}",
		[]string{"error apiVersion UnknownKind | did you mean apiVersion: gateway.networking.k8s.io/v1?"},
	},
	{"a kind that is not read", head("apps/v1", "Deployment") + "spec: {anything: 1}", []string{"warning  NotRead | a process that windrose runs, or an address where one listens, is a Workload of windrose.dev/v1alpha1"}},
	{"no object", "a: b", []string{"error  Required"}},
	{"no kind", "apiVersion: v1\nmetadata: {name: x}", []string{"error  Required"}},
	{"no name", "apiVersion: v1\nkind: Service\nspec: {ports: [{port: 80}]}", []string{"error metadata NoName"}},
	{"a generated name", "apiVersion: v1\nkind: Service\nmetadata: {generateName: a-}", []string{"error metadata.generateName NoName | write metadata.name"}},
	{
		"a word that YAML takes for a boolean", "apiVersion: windrose.dev/v1alpha1\nkind: GatewayParameters\nmetadata: {name: a}\nspec: {accessLog: {mode: No}}",
		[]string{
			"error spec.accessLog.mode NotSupported",
			"error spec.accessLog.mode WrongType",
		},
	},
	{
		"a word that is true or false for YAML", "apiVersion: windrose.dev/v1alpha1\nkind: GatewayParameters\nmetadata: {name: a}\nspec: {http3: true}",
		[]string{"error spec.http3 NotSupported | write Enabled", "error spec.http3 WrongType"},
	},
	{"a name that is a number", "apiVersion: v1\nkind: Service\nmetadata: {name: 12}", []string{"error metadata.name WrongType | put the name in quotes"}},
	{"a name with capitals", "apiVersion: " + gw + "\nkind: HTTPRoute\nmetadata: {name: Shop}\nspec: {}", []string{"error metadata.name Invalid"}},
	{"a label that is none", "apiVersion: v1\nkind: Service\nmetadata: {name: a, labels: {x: a b}}\nspec: {ports: [{port: 80}]}", []string{"error metadata.labels Invalid"}},
	{"a label that is a number", "apiVersion: v1\nkind: Service\nmetadata: {name: a, labels: {x: 1}}\nspec: {ports: [{port: 80}]}", []string{"error metadata.labels[x] WrongType | put it in quotes"}},
	{"an unknown field of the metadata", "apiVersion: v1\nkind: Service\nmetadata: {name: a, lables: {x: a}}\nspec: {ports: [{port: 80}]}", []string{`error metadata.lables UnknownField | did you mean "labels"?`}},
	{
		"a namespace for a class", "apiVersion: " + gw + "\nkind: GatewayClass\nmetadata: {name: w, namespace: a}\nspec: {controllerName: windrose.dev/gateway-controller}",
		[]string{"warning metadata.namespace Forbidden"},
	},

	{"a Service without ports", head("v1", "Service") + "spec: {selector: {a: b}}", []string{"error spec.ports Required"}},
	{"a headless Service without ports", head("v1", "Service") + "spec: {clusterIP: None}", nil},
	{"a Service with a wrong port", head("v1", "Service") + "spec: {ports: [{port: 0}]}", []string{"error spec.ports[0].port Invalid", "error spec.ports[0].targetPort Invalid"}},
	{"ports without names", head("v1", "Service") + "spec: {ports: [{port: 80}, {port: 81}]}", []string{"error spec.ports[0].name Required", "error spec.ports[1].name Required"}},
	{"a port that is a string", head("v1", "Service") + `spec: {ports: [{port: "80"}]}`, []string{"error spec.ports[0].port WrongType"}},
	{"a Service of a wrong type", head("v1", "Service") + "spec: {type: ClusterIp, ports: [{port: 80}]}", []string{`error spec.type NotSupported | did you mean "ClusterIP"?`}},
	{"an ExternalName without name", head("v1", "Service") + "spec: {type: ExternalName}", []string{"error spec.externalName Required"}},
	{"a NodePort", head("v1", "Service") + "spec: {type: NodePort, ports: [{port: 80}]}", []string{"info spec.type NotRead | traffic from outside comes in through a Gateway or an Ingress"}},
	{"loopback endpoints", "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: x, labels: {kubernetes.io/service-name: a}}\naddressType: IPv4\nendpoints: [{addresses: [127.0.0.1]}]\nports: [{port: 80}]", nil},
	{"endpoints of the wrong family", "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: x, labels: {kubernetes.io/service-name: a}}\naddressType: IPv4\nendpoints: [{addresses: ['::1']}]", []string{"error endpoints[0].addresses[0] Invalid"}},
	{"endpoints of no Service", head("discovery.k8s.io/v1", "EndpointSlice") + "addressType: IPv4\nendpoints: []", []string{"warning metadata.labels Required"}},
	{"data that is not base64", head("v1", "Secret") + "data: {a: '%%'}", []string{"error data[a] Invalid | plain text goes into stringData"}},
	{"a TLS Secret without key", head("v1", "Secret") + "type: kubernetes.io/tls\nstringData: {tls.crt: a}", []string{"error data Required"}},
	{"a ConfigMap with a wrong key", head("v1", "ConfigMap") + "data: {'a b': c}", []string{"error data[a b] Invalid"}},
	{"an Ingress without pathType", head("networking.k8s.io/v1", "Ingress") + "spec: {rules: [{http: {paths: [{path: /, backend: {service: {name: a, port: {number: 80}}}}]}}]}", []string{"error spec.rules[0].http.paths[0].pathType Required"}},
	{"an Ingress path without a slash", head("networking.k8s.io/v1", "Ingress") + "spec: {rules: [{http: {paths: [{path: a, pathType: Prefix, backend: {service: {name: a, port: {number: 80}}}}]}}]}", []string{"error spec.rules[0].http.paths[0].path Invalid"}},
	{
		"an Ingress backend of old", head("networking.k8s.io/v1", "Ingress") + "spec: {rules: [{http: {paths: [{path: /, pathType: Prefix, backend: {serviceName: a, servicePort: 80}}]}}]}",
		[]string{"error spec.rules[0].http.paths[0].backend.serviceName UnknownField | known: resource, service", "error spec.rules[0].http.paths[0].backend.servicePort UnknownField | known: resource, service"},
	},
	{"an Ingress for nothing", head("networking.k8s.io/v1", "Ingress") + "spec: {}", []string{"error spec Invalid"}},
	{"an IngressClass without controller", head("networking.k8s.io/v1", "IngressClass") + "spec: {}", []string{"error spec.controller Required"}},

	{"a workload", head("windrose.dev/v1alpha1", "Workload") + "spec: {command: [./a, -p, '80'], ports: [{name: http, port: 80}], readiness: {http: {port: http}}}", nil},
	{"a workload with a numbered probe", head("windrose.dev/v1alpha1", "Workload") + "spec: {address: '::1', readiness: {tcp: {port: 80}}}", nil},
	{"a workload that is nothing", head("windrose.dev/v1alpha1", "Workload") + "spec: {}", []string{"error spec Invalid"}},
	{"a workload at a name", head("windrose.dev/v1alpha1", "Workload") + "spec: {address: localhost}", []string{"error spec.address Invalid"}},
	{"a probe of two kinds", head("windrose.dev/v1alpha1", "Workload") + "spec: {address: 127.0.0.1, readiness: {tcp: {port: 80}, http: {port: 80}}}", []string{"error spec.readiness Invalid"}},
	{"parameters with a wrong network", head("windrose.dev/v1alpha1", "GatewayParameters") + "spec: {trustedProxies: [10.0.0.0/33]}", []string{"error spec.trustedProxies Invalid"}},
	{"parameters with a wrong duration", head("windrose.dev/v1alpha1", "GatewayParameters") + "spec: {timeouts: {idle: 75}}", []string{"error spec.timeouts.idle WrongType | write a time with its unit, as 10s or 500ms"}},
}

// covers: HTTPRouteNamedRouteRule GRPCRouteNamedRouteRule
func TestCheck(t *testing.T) {
	c := New()
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			res := c.Check(parse(t, tt.text))
			if got := brief(res.Findings); !slices.Equal(got, tt.want) {
				t.Errorf("findings:\n%s\nwant:\n%s\ntexts: %+v", strings.Join(got, "\n"), strings.Join(tt.want, "\n"), res.Findings)
			}
			wrong := slices.ContainsFunc(tt.want, func(s string) bool { return strings.HasPrefix(s, "error") })
			if wrong && res.Object != nil {
				t.Error("a wrong object was given")
			}
			if !wrong && res.Read && res.Object == nil {
				t.Error("a good object was not given")
			}
		})
	}
}

// The rules are cut into nodes and compiled as they are met. All at once, as
// an API server does it, must find the same.
func TestRulesAgreeWithThoseOfAnAPIServer(t *testing.T) {
	c := newCRDs()
	checked := 0
	for _, tt := range cases {
		doc := parse(t, tt.text)
		r := &report{}
		apiVersion, _ := doc["apiVersion"].(string)
		name, _ := doc["kind"].(string)
		k := c.resolve(apiVersion, name, r)
		if k == nil || k.crd == nil || r.wrong() {
			continue
		}
		s, err := c.compile(k.crd.file(k.version))
		if err != nil {
			t.Fatal(err)
		}
		whole := cel.NewValidator(s.structural, true, celconfig.PerCallLimit)
		errs, _ := whole.Validate(context.Background(), nil, s.structural, doc, nil, celconfig.RuntimeCELCostBudget)
		var want, got []string
		for _, e := range errs {
			want = append(want, e.Error())
		}
		for _, e := range s.rules.check(doc) {
			got = append(got, e.Error())
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, want)
		}
		checked += len(want)
	}
	if checked < 10 {
		t.Errorf("only %d broken rules were compared", checked)
	}
}

// Every rule of every schema must compile: one that does not would refuse all
// objects of its kind.
func TestAllRulesCompile(t *testing.T) {
	c := newCRDs()
	n := 0
	for _, versions := range c.catalogue {
		for _, k := range versions {
			if k.crd == nil {
				continue
			}
			s, err := c.compile(k.crd.file(k.version))
			if err != nil {
				t.Fatalf("%s: %v", k.name, err)
			}
			n += compileAll(t, k.name, s.rules)
		}
	}
	if n < 100 {
		t.Errorf("only %d nodes have rules", n)
	}
}

func compileAll(t *testing.T, at string, r *rules) int {
	n := 0
	if r.hasOwn {
		n++
		for _, res := range compileErrors(r) {
			t.Errorf("%s: %v", at, res)
		}
	}
	for name, child := range r.properties {
		n += compileAll(t, at+"."+name, child)
	}
	if r.items != nil {
		n += compileAll(t, at+"[]", r.items)
	}
	if r.values != nil {
		n += compileAll(t, at+"{}", r.values)
	}
	return n
}

func compileErrors(r *rules) []error {
	compiled, err := cel.Compile(&r.self, model.SchemaDeclType(&r.self, r.root), celconfig.PerCallLimit, environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()), cel.StoredExpressionsEnvLoader())
	if err != nil {
		return []error{err}
	}
	var errs []error
	for _, c := range compiled {
		if c.Error != nil {
			errs = append(errs, c.Error)
		}
	}
	return errs
}

func TestDefaults(t *testing.T) {
	c := New()
	route, ok := c.Check(parse(t, head(gw, "HTTPRoute")+"spec: {parentRefs: [{name: web}], rules: [{backendRefs: [{name: a, port: 80}]}]}")).Object.(*gatewayv1.HTTPRoute)
	if !ok {
		t.Fatal("no route")
	}
	if got := *route.Spec.Rules[0].BackendRefs[0].Weight; got != 1 {
		t.Errorf("weight %d, want 1", got)
	}
	if got := *route.Spec.Rules[0].Matches[0].Path.Type; got != gatewayv1.PathMatchPathPrefix {
		t.Errorf("path type %q, want PathPrefix", got)
	}
	if route.Namespace != "default" || route.APIVersion != gw || route.Kind != "HTTPRoute" {
		t.Errorf("got %s %s in %q", route.APIVersion, route.Kind, route.Namespace)
	}

	svc, ok := c.Check(parse(t, head("v1", "Service")+"spec: {ports: [{port: 80}]}")).Object.(*corev1.Service)
	if !ok {
		t.Fatal("no service")
	}
	want := corev1.ServicePort{Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(80)}
	if got := svc.Spec.Ports[0]; got != want {
		t.Errorf("port %+v, want %+v", got, want)
	}

	secret, ok := c.Check(parse(t, head("v1", "Secret")+"data: {a: YQ==, b: YQ==}\nstringData: {b: c}")).Object.(*corev1.Secret)
	if !ok {
		t.Fatal("no secret")
	}
	if got := string(secret.Data["a"]) + string(secret.Data["b"]); got != "ac" || secret.StringData != nil || secret.Type != corev1.SecretTypeOpaque {
		t.Errorf("secret %q of type %s", got, secret.Type)
	}

	slice, ok := c.Check(parse(t, head("discovery.k8s.io/v1", "EndpointSlice")+"addressType: IPv4\nendpoints: [{addresses: [10.0.0.1]}]\nports: [{port: 80}]")).Object.(*discoveryv1.EndpointSlice)
	if !ok || *slice.Ports[0].Protocol != corev1.ProtocolTCP || *slice.Ports[0].Name != "" {
		t.Errorf("slice %+v", slice)
	}

	old, ok := c.Check(parse(t, head("gateway.networking.k8s.io/v1beta1", "HTTPRoute")+"spec: {}")).Object.(*gatewayv1.HTTPRoute)
	if !ok || old.APIVersion != gw {
		t.Errorf("an older version is not given as %s: %+v", gw, old)
	}
}

func TestMetadataIsTrimmed(t *testing.T) {
	o := New().Check(parse(t, `
apiVersion: v1
kind: ConfigMap
metadata:
  name: x
  creationTimestamp: null
  resourceVersion: "7"
  generation: 3
  annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}"}
  managedFields: [{manager: kubectl, operation: Update, apiVersion: v1, fieldsType: FieldsV1, fieldsV1: {"f:data": {}}}]
data: {a: b}
`)).Object
	if o == nil {
		t.Fatal("not read")
	}
	if o.GetAnnotations() != nil || o.GetManagedFields() != nil || o.GetResourceVersion() != "" || o.GetGeneration() != 0 {
		t.Errorf("got %+v", o)
	}
}

func TestDigests(t *testing.T) {
	c := New()
	check := func(meta, spec string) Result {
		return c.Check(parse(t, "apiVersion: v1\nkind: Service\nmetadata: {name: x"+meta+"}\nspec: {"+spec+"}"))
	}
	a := check("", "ports: [{port: 80}]")
	if b := check(", labels: {a: b}", "ports: [{port: 80}]"); a.Spec != b.Spec || a.Whole == b.Whole {
		t.Error("a label must change the whole and not the spec")
	}
	if b := check("", "ports: [{port: 81}]"); a.Spec == b.Spec || a.Whole == b.Whole {
		t.Error("a port must change both")
	}
	if b := check("", "ports: [{targetPort: 80, port: 80, protocol: TCP}]"); a.Whole != b.Whole {
		t.Error("a default that is written out must change nothing")
	}
}

func TestNoValueOfASecretIsToldOn(t *testing.T) {
	for _, text := range []string{
		"data: {a: 'hunter2!'}", "stringData: {a: [hunter2]}", "data: hunter2", "stringData: {a: 7777777}", "type: [hunter2]",
	} {
		res := New().Check(parse(t, head("v1", "Secret")+text))
		if len(res.Findings) == 0 {
			t.Errorf("%s: no finding", text)
		}
		for _, f := range res.Findings {
			if s := object.Render(f); strings.Contains(s, "hunter2") || strings.Contains(s, "7777777") {
				t.Errorf("%s: %s", text, s)
			}
		}
	}
}

func TestSteps(t *testing.T) {
	for path, want := range map[string][]string{
		"spec.rules[0].backendRefs[12].name": {"spec", "rules", "0", "backendRefs", "12", "name"},
		"data[tls.crt]":                      {"data", "tls.crt"},
		"":                                   nil,
		"a[":                                 {"a", ""},
		"[0].b":                              {"0", "b"},
	} {
		if got := Steps(path); !slices.Equal(got, want) {
			t.Errorf("Steps(%q) = %q, want %q", path, got, want)
		}
	}
}

func TestSum(t *testing.T) {
	different := []any{
		nil, true, false, int64(1), 1.5, "", "1", "a",
		[]any{},
		map[string]any{},
		[]any{"a"},
		[]any{"a", "b"},
		[]any{"b", "a"},
		[]any{[]any{"a"}, "b"},
		map[string]any{"a": "b"},
		map[string]any{"b": "a"},
		map[string]any{"a": "a", "b": "b"},
		map[string]any{"a": "b", "b": "a"},
		map[string]any{"a": nil},
		[]any{nil},
	}
	for i, a := range different {
		for j, b := range different {
			if (sum(a) == sum(b)) != (i == j) {
				t.Errorf("%#v and %#v", a, b)
			}
		}
	}
}

// A value that is good in one place may be wrong in another.
func TestGoodValuesAreRememberedByNode(t *testing.T) {
	c := New()
	for range 2 {
		for _, tt := range cases {
			res := c.Check(parse(t, tt.text))
			if got := brief(res.Findings); !slices.Equal(got, tt.want) {
				t.Errorf("%s: findings %q, want %q", tt.name, got, tt.want)
			}
		}
	}
}

func TestReleaseForgets(t *testing.T) {
	c := New()
	if !c.Idle() {
		t.Error("a new Checker has something to release")
	}
	for range 2 {
		if res := c.Check(parse(t, cases[0].text)); res.Object == nil {
			t.Fatal("not read")
		}
		if c.Idle() {
			t.Error("nothing was compiled")
		}
		c.Release()
		if !c.Idle() {
			t.Error("something is left")
		}
	}
}

// BenchmarkCheck is one route: warm as among many changes, cold as after a pause.
func BenchmarkCheck(b *testing.B) {
	text := head(gw, "HTTPRoute") + `spec:
  parentRefs: [{name: web}]
  hostnames: [shop.example]
  rules:
  - matches: [{path: {type: PathPrefix, value: /cart}}]
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}]}}]
    backendRefs: [{name: cart, port: 80}]`
	for _, cold := range []bool{false, true} {
		b.Run(map[bool]string{false: "warm", true: "cold"}[cold], func(b *testing.B) {
			c := New()
			c.Check(parse(b, text))
			b.ReportAllocs()
			for b.Loop() {
				if cold {
					c.Release()
				}
				if res := c.Check(parse(b, text)); res.Object == nil {
					b.Fatal(res.Findings)
				}
			}
		})
	}
}
