package translate_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"windrose.dev/windrose/api/v1alpha1"
	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/translate"
)

// TestMemoChangesNothing makes random changes and compares a Translator that
// remembers with a fresh one: same parts, statuses and findings; and what is
// the same as before keeps its pointer.
func TestMemoChangesNothing(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed)
			env := testEnv()
			env.Carried = everything(t)
			kept := translate.New(env)
			set := &object.Set{}
			var before *translate.Result
			for step := range 60 {
				changed, removed := w.step()
				set = set.With(changed, removed)
				got, want := kept.Plan(set), translate.New(env).Plan(set)
				if g, x := dump(t, got), dump(t, want); g != x {
					t.Fatalf("step %d, after %v %v:\n%s", step, keys(changed), removed, firstDifference(g, x))
				}
				if before != nil {
					checkPointers(t, before, got)
				}
				before = got
			}
		})
	}
}

func keys(list []metav1.Object) (all []object.Key) {
	for _, o := range list {
		all = append(all, object.KeyOf(o))
	}
	return all
}

func dump(t *testing.T, r *translate.Result) string {
	t.Helper()
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// firstDifference shows a few lines around where two dumps part.
func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	i := 0
	for i < len(g) && i < len(w) && g[i] == w[i] {
		i++
	}
	around := func(lines []string) string {
		return strings.Join(lines[min(max(i-8, 0), len(lines)):min(i+6, len(lines))], "\n")
	}
	return "got\n" + around(g) + "\nwant\n" + around(w)
}

func checkPointers(t *testing.T, before, after *translate.Result) {
	t.Helper()
	parts := map[plan.Key]*plan.Part{}
	for _, p := range before.Parts {
		parts[p.Key] = p
	}
	for _, p := range after.Parts {
		if was := parts[p.Key]; was != nil && was != p && reflect.DeepEqual(was, p) {
			t.Errorf("part %s is the same and has another pointer", p.Key)
		}
	}
	statuses := map[object.Key]*object.Status{}
	for _, s := range before.Statuses {
		statuses[s.Object] = s
	}
	for _, s := range after.Statuses {
		if was := statuses[s.Object]; was != nil && was != s && reflect.DeepEqual(was, s) {
			t.Errorf("the status of %s is the same and has another pointer", s.Object)
		}
	}
}

// world makes random objects with few names, so that they meet.
type world struct {
	*rand.Rand
	chain, key []byte
	made       int64
}

func newWorld(t *testing.T, seed uint64) *world {
	chain, key := makePair(t, []string{"a.example"}, "", 1e15)
	return &world{Rand: rand.New(rand.NewPCG(seed, 1)), chain: chain, key: key}
}

func (w *world) one(list ...string) string { return list[w.IntN(len(list))] }
func (w *world) maybe() bool               { return w.IntN(3) == 0 }

func (w *world) step() (changed []metav1.Object, removed []object.Key) {
	for range 1 + w.IntN(3) {
		o := w.object()
		if w.IntN(4) == 0 {
			removed = append(removed, object.KeyOf(o))
			continue
		}
		changed = append(changed, o)
	}
	return changed, removed
}

func (w *world) meta(namespaces ...string) metav1.ObjectMeta {
	w.made++
	m := meta(w.one(namespaces...), w.one("a", "b", "c"))
	m.Generation = w.made
	m.CreationTimestamp = metav1.NewTime(now.Add(-1e9 * 60 * 1))
	if w.maybe() {
		m.CreationTimestamp = metav1.NewTime(now)
	}
	return m
}

func (w *world) object() metav1.Object {
	switch w.IntN(16) {
	case 0:
		m := w.meta("")
		m.Name = w.one("windrose", "other")
		return &gatewayv1.GatewayClass{ObjectMeta: m, Spec: gatewayv1.GatewayClassSpec{ControllerName: gatewayv1.GatewayController(w.one(translate.GatewayController, translate.GatewayController, "foreign/x"))}}
	case 1, 2:
		return w.gateway()
	case 3:
		ls := &gatewayv1.ListenerSet{ObjectMeta: w.meta("x", "y"), Spec: gatewayv1.ListenerSetSpec{ParentRef: gatewayv1.ParentGatewayReference{Name: gatewayv1.ObjectName(w.one("a", "b")), Namespace: new(gatewayv1.Namespace("x"))}}}
		for i := range 1 + w.IntN(2) {
			ls.Spec.Listeners = append(ls.Spec.Listeners, gatewayv1.ListenerEntry(w.listener(i)))
		}
		return ls
	case 4, 5, 6:
		return w.route()
	case 7:
		return &gatewayv1.ReferenceGrant{ObjectMeta: w.meta("x", "y"), Spec: gatewayv1.ReferenceGrantSpec{
			From: []gatewayv1.ReferenceGrantFrom{{Group: gatewayv1.GroupName, Kind: gatewayv1.Kind(w.one("HTTPRoute", "Gateway", "TCPRoute")), Namespace: gatewayv1.Namespace(w.one("x", "y"))}},
			To:   []gatewayv1.ReferenceGrantTo{{Kind: gatewayv1.Kind(w.one("Service", "Secret"))}},
		}}
	case 8, 9:
		s := service(w.one("x", "y"), w.one("a", "b", "c"))
		if w.maybe() {
			s.Spec.Selector = map[string]string{"app": w.one("a", "b")}
		}
		if w.maybe() {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: 81, Name: "other", AppProtocol: new(w.one("http", "h2c"))})
		}
		if w.maybe() {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: s.Spec.Ports[0].Port, Name: "datagrams", Protocol: corev1.ProtocolUDP})
		}
		if w.maybe() {
			s.Annotations = map[string]string{"windrose.dev/balance": w.one("round-robin", "no")}
		}
		return s
	case 10:
		s := endpointSlice(w.one("x", "y"), w.one("a", "b", "c"), w.one("10.0.0.1", "10.0.0.2"))
		s.Name = w.one("s1", "s2")
		return s
	case 11:
		m := w.meta("x", "y")
		m.Labels = map[string]string{"app": w.one("a", "b")}
		return &v1alpha1.Workload{ObjectMeta: m, Spec: v1alpha1.WorkloadSpec{Address: w.one("10.1.0.1", "10.1.0.2")}}
	case 12:
		s := &corev1.Secret{ObjectMeta: w.meta("x", "y"), Type: corev1.SecretTypeTLS, Data: map[string][]byte{"tls.crt": w.chain, "tls.key": w.key}}
		if w.maybe() {
			delete(s.Data, "tls.key")
		}
		return s
	case 13:
		m := w.meta("")
		m.Name = w.one("x", "y")
		m.Labels = map[string]string{"team": w.one("a", "b")}
		return &corev1.Namespace{ObjectMeta: m}
	case 14:
		return w.ingress()
	}
	return w.rare()
}

func (w *world) rare() metav1.Object {
	switch w.IntN(12) {
	case 8, 9:
		return w.xbackend()
	case 10:
		return w.trafficPolicy()
	case 11:
		mesh := &gatewayxv1alpha1.XMesh{ObjectMeta: w.meta(""), Spec: gatewayxv1alpha1.MeshSpec{ControllerName: gatewayv1.GatewayController(w.one(translate.MeshController, "foreign/x"))}}
		return mesh
	case 0:
		c := &networkingv1.IngressClass{ObjectMeta: w.meta(""), Spec: networkingv1.IngressClassSpec{Controller: w.one(translate.IngressController, "foreign/x")}}
		if w.maybe() {
			c.Annotations = map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}
		}
		return c
	case 1:
		return &gatewayv1.BackendTLSPolicy{ObjectMeta: w.meta("x", "y"), Spec: gatewayv1.BackendTLSPolicySpec{
			TargetRefs: []gatewayv1.LocalPolicyTargetReferenceWithSectionName{{LocalPolicyTargetReference: gatewayv1.LocalPolicyTargetReference{Kind: "Service", Name: gatewayv1.ObjectName(w.one("a", "c"))}}},
			Validation: gatewayv1.BackendTLSPolicyValidation{CACertificateRefs: []gatewayv1.LocalObjectReference{{Kind: "ConfigMap", Name: "a"}}},
		}}
	case 2:
		return &corev1.ConfigMap{ObjectMeta: w.meta("x", "y"), Data: map[string]string{"ca.crt": w.one(string(w.chain), "bad")}}
	case 3, 4:
		return &gatewayv1.TLSRoute{ObjectMeta: w.meta("x", "y"), Spec: gatewayv1.TLSRouteSpec{
			CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{w.parent()}},
			Hostnames:       []gatewayv1.Hostname{gatewayv1.Hostname(w.one("a.example", "*.example"))},
			Rules:           []gatewayv1.TLSRouteRule{{BackendRefs: []gatewayv1.BackendRef{{BackendObjectReference: w.backend()}}}},
		}}
	case 5:
		return &gatewayv1.UDPRoute{ObjectMeta: w.meta("x", "y"), Spec: gatewayv1.UDPRouteSpec{
			CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{w.parent()}},
			Rules:           []gatewayv1.UDPRouteRule{{BackendRefs: []gatewayv1.BackendRef{{BackendObjectReference: w.backend()}}}},
		}}
	case 6:
		return &gatewayv1.TCPRoute{ObjectMeta: w.meta("x", "y"), Spec: gatewayv1.TCPRouteSpec{
			CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{w.parent()}},
			Rules:           []gatewayv1.TCPRouteRule{{BackendRefs: []gatewayv1.BackendRef{{BackendObjectReference: w.backend()}}}},
		}}
	}
	return &gatewayv1.GRPCRoute{ObjectMeta: w.meta("x", "y"), Spec: gatewayv1.GRPCRouteSpec{
		CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{w.parent()}},
		Rules:           []gatewayv1.GRPCRouteRule{{BackendRefs: []gatewayv1.GRPCBackendRef{{BackendRef: gatewayv1.BackendRef{BackendObjectReference: w.backend()}}}}},
	}}
}

func (w *world) xbackend() *gatewayxv1alpha1.XBackend {
	b := &gatewayxv1alpha1.XBackend{ObjectMeta: w.meta("x", "y"), Spec: gatewayxv1alpha1.BackendSpec{
		Type: gatewayxv1alpha1.BackendTypeEndpointSelector, Port: gatewayxv1alpha1.BackendPort{Number: 8080},
		EndpointSelector: &gatewayxv1alpha1.EndpointSelectorBackend{LabelSelector: gatewayxv1alpha1.LabelSelector{
			MatchLabels: map[gatewayv1.LabelKey]gatewayv1.LabelValue{"app": gatewayv1.LabelValue(w.one("a", "b"))},
		}},
	}}
	if w.maybe() {
		b.Spec.Type, b.Spec.EndpointSelector = gatewayxv1alpha1.BackendTypeExternalHostname, nil
		b.Spec.ExternalHostname = &gatewayxv1alpha1.ExternalHostnameBackend{Hostname: gatewayv1.PreciseHostname(w.one("a.example", "a.cluster.local"))}
	}
	if w.maybe() {
		b.Spec.Protocol = new(gatewayxv1alpha1.BackendProtocol(w.one("HTTP", "H2C", "TCP", "MCP")))
	}
	if w.maybe() {
		b.Spec.SessionPersistence = &gatewayv1.SessionPersistence{}
	}
	if w.maybe() {
		b.Spec.TLS = &gatewayxv1alpha1.BackendTLS{
			Mode:                 gatewayxv1alpha1.BackendTLSMode(w.one("ServerOnly", "ClientAndServer")),
			ClientCertificateRef: &gatewayv1.SecretObjectReference{Name: gatewayv1.ObjectName(w.one("a", "b")), Namespace: new(gatewayv1.Namespace(w.one("x", "y")))},
			Validation:           &gatewayv1.BackendTLSPolicyValidation{Hostname: "a.example", CACertificateRefs: []gatewayv1.LocalObjectReference{{Kind: "ConfigMap", Name: "a"}}},
		}
	}
	return b
}

func (w *world) trafficPolicy() *gatewayxv1alpha1.XBackendTrafficPolicy {
	p := &gatewayxv1alpha1.XBackendTrafficPolicy{ObjectMeta: w.meta("x", "y")}
	for range 1 + w.IntN(2) {
		p.Spec.TargetRefs = append(p.Spec.TargetRefs, gatewayv1.LocalPolicyTargetReference{Kind: "Service", Name: gatewayv1.ObjectName(w.one("a", "b"))},
			gatewayv1.LocalPolicyTargetReference{Group: gatewayxv1alpha1.GroupName, Kind: "XBackend", Name: gatewayv1.ObjectName(w.one("a", "b"))})
	}
	if w.maybe() {
		p.Spec.RetryConstraint = &gatewayxv1alpha1.RetryConstraint{Budget: &gatewayxv1alpha1.BudgetDetails{Percent: new(w.IntN(150))}}
	}
	if w.maybe() {
		p.Spec.SessionPersistence = &gatewayv1.SessionPersistence{} //nolint:staticcheck // deprecated, and accepted by the API
	}
	return p
}

func (w *world) gateway() *gatewayv1.Gateway {
	m := w.meta("x")
	m.Name = w.one("a", "b")
	gw := &gatewayv1.Gateway{ObjectMeta: m, Spec: gatewayv1.GatewaySpec{GatewayClassName: gatewayv1.ObjectName(w.one("windrose", "windrose", "other"))}}
	for i := range 1 + w.IntN(3) {
		gw.Spec.Listeners = append(gw.Spec.Listeners, w.listener(i))
	}
	if w.maybe() {
		gw.Spec.AllowedListeners = &gatewayv1.AllowedListeners{Namespaces: &gatewayv1.ListenerNamespaces{From: new(gatewayv1.NamespacesFromAll)}}
	}
	if w.maybe() {
		gw.Spec.Addresses = []gatewayv1.GatewaySpecAddress{{Value: w.one("127.0.0.1", "no address")}}
	}
	return gw
}

func (w *world) listener(i int) gatewayv1.Listener {
	l := gatewayv1.Listener{Name: gatewayv1.SectionName(fmt.Sprintf("l%d", i)), Port: 80, Protocol: gatewayv1.HTTPProtocolType}
	if w.maybe() {
		l.Port, l.Protocol = 443, gatewayv1.HTTPSProtocolType
		l.TLS = &gatewayv1.ListenerTLSConfig{CertificateRefs: []gatewayv1.SecretObjectReference{{Name: gatewayv1.ObjectName(w.one("a", "b")), Namespace: new(gatewayv1.Namespace(w.one("x", "y")))}}}
	} else if w.IntN(3) == 0 {
		l.Protocol = gatewayv1.ProtocolType(w.one("TCP", "UDP", "TLS", "HTTPS"))
		l.TLS = &gatewayv1.ListenerTLSConfig{Mode: new(gatewayv1.TLSModeType(w.one("Passthrough", "Terminate")))}
	}
	if w.maybe() {
		l.Hostname = new(gatewayv1.Hostname(w.one("a.example", "*.example")))
	}
	if w.maybe() {
		l.Filters = &gatewayv1.ListenerFilters{Requests: []gatewayv1.ListenerFilter{{Type: gatewayv1.ListenerFilterExternalAuth, ExternalAuth: w.auth()}}}
	}
	from := gatewayv1.FromNamespaces(w.one("All", "Same", "Selector"))
	l.AllowedRoutes = &gatewayv1.AllowedRoutes{Namespaces: &gatewayv1.RouteNamespaces{From: &from}}
	if from == gatewayv1.NamespacesFromSelector {
		l.AllowedRoutes.Namespaces.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": w.one("a", "b")}}
	}
	return l
}

func (w *world) auth() *gatewayv1.HTTPExternalAuthFilter {
	return &gatewayv1.HTTPExternalAuthFilter{BackendRef: w.backend(), ExternalAuthProtocol: gatewayv1.HTTPRouteExternalAuthProtocol(w.one("HTTP", "GRPC", "HTTP"))}
}

func (w *world) parent() gatewayv1.ParentReference {
	p := gatewayv1.ParentReference{Name: gatewayv1.ObjectName(w.one("a", "b", "c")), Namespace: new(gatewayv1.Namespace("x"))}
	if w.maybe() {
		p.Kind = new(gatewayv1.Kind("ListenerSet"))
	}
	if w.maybe() {
		p.SectionName = new(gatewayv1.SectionName(w.one("l0", "l1")))
	}
	return p
}

func (w *world) backend() gatewayv1.BackendObjectReference {
	b := backendTo(w.one("a", "b", "c"))
	if w.IntN(5) == 0 {
		b.Group, b.Kind, b.Port = new(gatewayv1.Group(gatewayxv1alpha1.GroupName)), new(gatewayv1.Kind("XBackend")), nil
	}
	if w.maybe() {
		b.Namespace = new(gatewayv1.Namespace(w.one("x", "y")))
	}
	if w.maybe() {
		b.Port = new(gatewayv1.PortNumber(81))
	}
	return b
}

func (w *world) route() *gatewayv1.HTTPRoute {
	r := &gatewayv1.HTTPRoute{ObjectMeta: w.meta("x", "y")}
	for range 1 + w.IntN(2) {
		r.Spec.ParentRefs = append(r.Spec.ParentRefs, w.parent())
	}
	if w.maybe() {
		r.Spec.Hostnames = []gatewayv1.Hostname{gatewayv1.Hostname(w.one("a.example", "b.example", "*.example", "a.test"))}
	}
	for range 1 + w.IntN(2) {
		rule := gatewayv1.HTTPRouteRule{BackendRefs: []gatewayv1.HTTPBackendRef{{BackendRef: gatewayv1.BackendRef{BackendObjectReference: w.backend()}}}}
		if w.maybe() {
			rule.Filters = []gatewayv1.HTTPRouteFilter{{Type: gatewayv1.HTTPRouteFilterType(w.one("CORS", "RequestMirror", "ExternalAuth"))}}
			if w.maybe() {
				rule.Filters[0].RequestMirror = &gatewayv1.HTTPRequestMirrorFilter{BackendRef: w.backend()}
				rule.Filters[0].ExternalAuth = w.auth()
			}
		}
		r.Spec.Rules = append(r.Spec.Rules, rule)
	}
	return r
}

func (w *world) ingress() *networkingv1.Ingress {
	in := &networkingv1.Ingress{ObjectMeta: w.meta("x", "y")}
	if w.maybe() {
		in.Spec.IngressClassName = new(w.one("a", "b"))
	}
	backend := networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: w.one("a", "b", "c"), Port: networkingv1.ServiceBackendPort{Number: 80}}}
	if w.maybe() {
		in.Spec.DefaultBackend = &backend
	}
	in.Spec.Rules = []networkingv1.IngressRule{{Host: w.one("", "a.example", "*.example")}}
	in.Spec.Rules[0].HTTP = &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{Path: w.one("/", "/a"), Backend: backend}}}
	if w.maybe() {
		in.Spec.TLS = []networkingv1.IngressTLS{{SecretName: w.one("a", "b", "c")}}
	}
	return in
}
