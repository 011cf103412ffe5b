package object

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"windrose.dev/windrose/api/v1alpha1"
)

// KindOf gives the kind of an object that a Set can hold, "" for any other.
func KindOf(o metav1.Object) string {
	switch o.(type) {
	case *gatewayv1.GatewayClass:
		return "GatewayClass"
	case *gatewayv1.Gateway:
		return "Gateway"
	case *gatewayv1.ListenerSet:
		return "ListenerSet"
	case *gatewayv1.HTTPRoute:
		return "HTTPRoute"
	case *gatewayv1.GRPCRoute:
		return "GRPCRoute"
	case *gatewayv1.TLSRoute:
		return "TLSRoute"
	case *gatewayv1.TCPRoute:
		return "TCPRoute"
	case *gatewayv1.UDPRoute:
		return "UDPRoute"
	case *gatewayv1.ReferenceGrant:
		return "ReferenceGrant"
	case *gatewayv1.BackendTLSPolicy:
		return "BackendTLSPolicy"
	case *gatewayxv1alpha1.XBackend:
		return "XBackend"
	case *gatewayxv1alpha1.XTelemetryPolicy:
		return "XTelemetryPolicy"
	case *gatewayxv1alpha1.XBackendTrafficPolicy:
		return "XBackendTrafficPolicy"
	case *gatewayxv1alpha1.XMesh:
		return "XMesh"
	case *networkingv1.Ingress:
		return "Ingress"
	case *networkingv1.IngressClass:
		return "IngressClass"
	case *corev1.Service:
		return "Service"
	case *discoveryv1.EndpointSlice:
		return "EndpointSlice"
	case *corev1.Secret:
		return "Secret"
	case *corev1.ConfigMap:
		return "ConfigMap"
	case *certificatesv1.ClusterTrustBundle:
		return "ClusterTrustBundle"
	case *corev1.Namespace:
		return "Namespace"
	case *v1alpha1.Workload:
		return "Workload"
	case *v1alpha1.GatewayParameters:
		return "GatewayParameters"
	}
	return ""
}

// KeyOf gives the key of an object.
func KeyOf(o metav1.Object) Key {
	return Key{Kind: KindOf(o), Namespace: o.GetNamespace(), Name: o.GetName()}
}

// With gives a Set in which the changed objects are new or replaced and the
// removed ones are gone. Tables of kinds that nothing happened to are shared.
// The receiver is not altered; its Places and Findings are carried over as
// they are. Objects of kinds that a Set does not hold are left out.
func (s *Set) With(changed []metav1.Object, removed []Key) *Set {
	next := *s
	c := change{changed: map[string][]metav1.Object{}, removed: map[string][]Name{}}
	for _, o := range changed {
		kind := KindOf(o)
		c.changed[kind] = append(c.changed[kind], o)
	}
	for _, k := range removed {
		c.removed[k.Kind] = append(c.removed[k.Kind], Name{k.Namespace, k.Name})
	}
	apply(&next.GatewayClasses, "GatewayClass", c)
	apply(&next.Gateways, "Gateway", c)
	apply(&next.ListenerSets, "ListenerSet", c)
	apply(&next.HTTPRoutes, "HTTPRoute", c)
	apply(&next.GRPCRoutes, "GRPCRoute", c)
	apply(&next.TLSRoutes, "TLSRoute", c)
	apply(&next.TCPRoutes, "TCPRoute", c)
	apply(&next.UDPRoutes, "UDPRoute", c)
	apply(&next.ReferenceGrants, "ReferenceGrant", c)
	apply(&next.BackendTLSPolicies, "BackendTLSPolicy", c)
	apply(&next.XBackends, "XBackend", c)
	apply(&next.XTelemetryPolicies, "XTelemetryPolicy", c)
	apply(&next.XBackendTrafficPolicies, "XBackendTrafficPolicy", c)
	apply(&next.XMeshes, "XMesh", c)
	apply(&next.Ingresses, "Ingress", c)
	apply(&next.IngressClasses, "IngressClass", c)
	apply(&next.Services, "Service", c)
	apply(&next.EndpointSlices, "EndpointSlice", c)
	apply(&next.Secrets, "Secret", c)
	apply(&next.ConfigMaps, "ConfigMap", c)
	apply(&next.ClusterTrustBundles, "ClusterTrustBundle", c)
	apply(&next.Namespaces, "Namespace", c)
	apply(&next.Workloads, "Workload", c)
	apply(&next.GatewayParameters, "GatewayParameters", c)
	return &next
}

// All calls yield for each object of the Set, kind by kind.
func (s *Set) All(yield func(metav1.Object) bool) {
	_ = each(s.GatewayClasses, yield) && each(s.Gateways, yield) && each(s.ListenerSets, yield) &&
		each(s.HTTPRoutes, yield) && each(s.GRPCRoutes, yield) && each(s.TLSRoutes, yield) &&
		each(s.TCPRoutes, yield) && each(s.UDPRoutes, yield) && each(s.ReferenceGrants, yield) &&
		each(s.BackendTLSPolicies, yield) && each(s.XBackends, yield) && each(s.XTelemetryPolicies, yield) && each(s.XBackendTrafficPolicies, yield) &&
		each(s.XMeshes, yield) && each(s.Ingresses, yield) && each(s.IngressClasses, yield) &&
		each(s.Services, yield) && each(s.EndpointSlices, yield) && each(s.Secrets, yield) &&
		each(s.ConfigMaps, yield) && each(s.ClusterTrustBundles, yield) && each(s.Namespaces, yield) && each(s.Workloads, yield) &&
		each(s.GatewayParameters, yield)
}

// change is what With does, by kind.
type change struct {
	changed map[string][]metav1.Object
	removed map[string][]Name
}

func apply[T metav1.Object](t *Table[T], kind string, c change) {
	typed := make([]T, 0, len(c.changed[kind]))
	for _, o := range c.changed[kind] {
		if v, ok := o.(T); ok {
			typed = append(typed, v)
		}
	}
	*t = t.With(typed, c.removed[kind])
}

func each[T metav1.Object](t Table[T], yield func(metav1.Object) bool) bool {
	for _, o := range t.sorted {
		if !yield(o) {
			return false
		}
	}
	return true
}
