package translate_test

import (
	"fmt"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/translate"
)

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, Generation: 1, CreationTimestamp: metav1.NewTime(now)}
}

func gatewayClass() *gatewayv1.GatewayClass {
	return &gatewayv1.GatewayClass{ObjectMeta: meta("", "windrose"), Spec: gatewayv1.GatewayClassSpec{ControllerName: translate.GatewayController}}
}

func gateway(listeners ...gatewayv1.Listener) *gatewayv1.Gateway {
	for i := range listeners {
		listeners[i].AllowedRoutes = &gatewayv1.AllowedRoutes{Namespaces: &gatewayv1.RouteNamespaces{From: new(gatewayv1.NamespacesFromAll)}}
	}
	return &gatewayv1.Gateway{ObjectMeta: meta("infra", "web"), Spec: gatewayv1.GatewaySpec{GatewayClassName: "windrose", Listeners: listeners}}
}

func httpRoute(namespace, name, host, service string) *gatewayv1.HTTPRoute {
	return &gatewayv1.HTTPRoute{
		ObjectMeta: meta(namespace, name),
		Spec: gatewayv1.HTTPRouteSpec{
			CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{{Name: "web", Namespace: new(gatewayv1.Namespace("infra"))}}},
			Hostnames:       []gatewayv1.Hostname{gatewayv1.Hostname(host)},
			Rules: []gatewayv1.HTTPRouteRule{
				{
					Matches:     []gatewayv1.HTTPRouteMatch{{Path: &gatewayv1.HTTPPathMatch{Value: new("/api")}}},
					BackendRefs: []gatewayv1.HTTPBackendRef{{BackendRef: gatewayv1.BackendRef{BackendObjectReference: backendTo(service)}}},
				},
				{BackendRefs: []gatewayv1.HTTPBackendRef{{BackendRef: gatewayv1.BackendRef{BackendObjectReference: backendTo(service)}}}},
			},
		},
	}
}

func backendTo(service string) gatewayv1.BackendObjectReference {
	return gatewayv1.BackendObjectReference{Name: gatewayv1.ObjectName(service), Port: new(gatewayv1.PortNumber(80))}
}

func service(namespace, name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: meta(namespace, name), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
}

func endpointSlice(namespace, name string, addresses ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: meta(namespace, name+"-1"), AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: new(int32(8080))}}}
	s.Labels = map[string]string{discoveryv1.LabelServiceName: name}
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
	}
	return s
}

// fleet is a Gateway with n routes in 50 namespaces, each to its own Service.
func fleet(n int) *object.Set {
	objects := []metav1.Object{gatewayClass(), gateway(gatewayv1.Listener{Name: "http", Port: 80, Protocol: gatewayv1.HTTPProtocolType})}
	for i := range n {
		namespace, name := fmt.Sprintf("ns-%d", i%50), fmt.Sprintf("app-%d", i)
		objects = append(objects, httpRoute(namespace, name, name+".example.com", name), service(namespace, name),
			endpointSlice(namespace, name, fmt.Sprintf("10.0.%d.%d", i/250, i%250+1), fmt.Sprintf("10.1.%d.%d", i/250, i%250+1)))
	}
	return (&object.Set{}).With(objects, nil)
}

func BenchmarkPlanAll(b *testing.B) {
	set := fleet(5000)
	b.ReportAllocs()
	for b.Loop() {
		translate.New(translate.Env{}).Plan(set)
	}
}

func BenchmarkPlanOneRoute(b *testing.B) {
	set := fleet(5000)
	t := translate.New(translate.Env{})
	t.Plan(set)
	flip := false
	b.ReportAllocs()
	for b.Loop() {
		flip = !flip
		path := "app-0"
		if flip {
			path = "app-50"
		}
		set = set.With([]metav1.Object{httpRoute("ns-0", "app-0", "app-0.example.com", path)}, nil)
		t.Plan(set)
	}
}

func BenchmarkPlanOneGateway(b *testing.B) {
	set := fleet(5000)
	t := translate.New(translate.Env{})
	t.Plan(set)
	b.ReportAllocs()
	for b.Loop() {
		set = set.With([]metav1.Object{gateway(gatewayv1.Listener{Name: "http", Port: 80, Protocol: gatewayv1.HTTPProtocolType})}, nil)
		t.Plan(set)
	}
}

func BenchmarkPlanOneSlice(b *testing.B) {
	set := fleet(5000)
	t := translate.New(translate.Env{})
	t.Plan(set)
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		i++
		set = set.With([]metav1.Object{endpointSlice("ns-0", "app-0", fmt.Sprintf("10.9.9.%d", i%250+1))}, nil)
		t.Plan(set)
	}
}

func BenchmarkPlanNewService(b *testing.B) {
	set := fleet(5000)
	t := translate.New(translate.Env{})
	t.Plan(set)
	b.ReportAllocs()
	for b.Loop() {
		set = set.With([]metav1.Object{service("ns-0", "app-0")}, nil)
		t.Plan(set)
	}
}

// secrets is a Gateway with n HTTPS listeners, 64 to a Gateway and the rest in
// ListenerSets, each with its own certificate.
func secrets(b *testing.B, n int) *object.Set {
	objects := []metav1.Object{gatewayClass()}
	gw := gateway(gatewayv1.Listener{Name: "http", Port: 80, Protocol: gatewayv1.HTTPProtocolType})
	gw.Spec.AllowedListeners = &gatewayv1.AllowedListeners{Namespaces: &gatewayv1.ListenerNamespaces{From: new(gatewayv1.NamespacesFromAll)}}
	objects = append(objects, gw)
	var ls *gatewayv1.ListenerSet
	for i := range n {
		if i%50 == 0 {
			ls = &gatewayv1.ListenerSet{ObjectMeta: meta("infra", fmt.Sprintf("set-%d", i)), Spec: gatewayv1.ListenerSetSpec{ParentRef: gatewayv1.ParentGatewayReference{Name: "web"}}}
			objects = append(objects, ls)
		}
		host := fmt.Sprintf("app-%d.example.com", i)
		chain, key := makePair(b, []string{host}, "", 90*24*3600e9)
		objects = append(objects, &corev1.Secret{ObjectMeta: meta("infra", host), Type: corev1.SecretTypeTLS, Data: map[string][]byte{"tls.crt": chain, "tls.key": key}})
		ls.Spec.Listeners = append(ls.Spec.Listeners, gatewayv1.ListenerEntry{
			Name: gatewayv1.SectionName(fmt.Sprintf("l%d", i)), Port: 443, Protocol: gatewayv1.HTTPSProtocolType, Hostname: new(gatewayv1.Hostname(host)),
			TLS: &gatewayv1.ListenerTLSConfig{CertificateRefs: []gatewayv1.SecretObjectReference{{Name: gatewayv1.ObjectName(host)}}},
		})
	}
	return (&object.Set{}).With(objects, nil)
}

func BenchmarkPlanCertificates(b *testing.B) {
	set := secrets(b, 10_000)
	b.Run("all", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			translate.New(testEnv()).Plan(set)
		}
	})
	b.Run("one", func(b *testing.B) {
		t := translate.New(testEnv())
		t.Plan(set)
		names := set.Secrets.All()
		b.ReportAllocs()
		for b.Loop() {
			fresh := names[0].DeepCopy()
			set = set.With([]metav1.Object{fresh}, nil)
			t.Plan(set)
		}
	})
	b.Run("none", func(b *testing.B) {
		t := translate.New(testEnv())
		t.Plan(set)
		b.ReportAllocs()
		for b.Loop() {
			t.Plan(set)
		}
	})
}

// TestMemory bounds what is kept for a route beside the objects and the parts
// that others keep too: 2.3 KiB on 24 November 2026.
func TestMemory(t *testing.T) {
	const n = 2000
	set := fleet(n)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	tr := translate.New(translate.Env{})
	r := tr.Plan(set)
	per := (heap() - before) / n
	t.Logf("%d bytes for each route", per)
	if per > 4096 {
		t.Errorf("%d bytes are kept for each route, want at most 4096", per)
	}
	runtime.KeepAlive(r)
	runtime.KeepAlive(tr)
	runtime.KeepAlive(set)
}
