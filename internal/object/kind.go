package object

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"windrose.dev/windrose/api/v1alpha1"
)

// Object is what the Go types of all kinds can do.
type Object interface {
	metav1.Object
	runtime.Object
}

// Kind is one kind of the objects that a Set holds.
type Kind struct {
	Name       string
	APIVersion string // of the Go type
	Cluster    bool   // its objects belong to no namespace
	New        func() Object
}

// kinds are in the order of Set.All.
var kinds = []Kind{
	{Name: "GatewayClass", APIVersion: gateway, Cluster: true, New: func() Object { return &gatewayv1.GatewayClass{} }},
	{Name: "Gateway", APIVersion: gateway, New: func() Object { return &gatewayv1.Gateway{} }},
	{Name: "ListenerSet", APIVersion: gateway, New: func() Object { return &gatewayv1.ListenerSet{} }},
	{Name: "HTTPRoute", APIVersion: gateway, New: func() Object { return &gatewayv1.HTTPRoute{} }},
	{Name: "GRPCRoute", APIVersion: gateway, New: func() Object { return &gatewayv1.GRPCRoute{} }},
	{Name: "TLSRoute", APIVersion: gateway, New: func() Object { return &gatewayv1.TLSRoute{} }},
	{Name: "TCPRoute", APIVersion: gateway, New: func() Object { return &gatewayv1.TCPRoute{} }},
	{Name: "UDPRoute", APIVersion: gateway, New: func() Object { return &gatewayv1.UDPRoute{} }},
	{Name: "ReferenceGrant", APIVersion: gateway, New: func() Object { return &gatewayv1.ReferenceGrant{} }},
	{Name: "BackendTLSPolicy", APIVersion: gateway, New: func() Object { return &gatewayv1.BackendTLSPolicy{} }},
	{Name: "XBackend", APIVersion: gatewayx, New: func() Object { return &gatewayxv1alpha1.XBackend{} }},
	{Name: "XTelemetryPolicy", APIVersion: gatewayx, New: func() Object { return &gatewayxv1alpha1.XTelemetryPolicy{} }},
	{Name: "XBackendTrafficPolicy", APIVersion: gatewayx, New: func() Object { return &gatewayxv1alpha1.XBackendTrafficPolicy{} }},
	{Name: "XMesh", APIVersion: gatewayx, Cluster: true, New: func() Object { return &gatewayxv1alpha1.XMesh{} }},
	{Name: "Ingress", APIVersion: networking, New: func() Object { return &networkingv1.Ingress{} }},
	{Name: "IngressClass", APIVersion: networking, Cluster: true, New: func() Object { return &networkingv1.IngressClass{} }},
	{Name: "Service", APIVersion: "v1", New: func() Object { return &corev1.Service{} }},
	{Name: "EndpointSlice", APIVersion: "discovery.k8s.io/v1", New: func() Object { return &discoveryv1.EndpointSlice{} }},
	{Name: "Secret", APIVersion: "v1", New: func() Object { return &corev1.Secret{} }},
	{Name: "ConfigMap", APIVersion: "v1", New: func() Object { return &corev1.ConfigMap{} }},
	{Name: "ClusterTrustBundle", APIVersion: "certificates.k8s.io/v1", Cluster: true, New: func() Object { return &certificatesv1.ClusterTrustBundle{} }},
	{Name: "Namespace", APIVersion: "v1", Cluster: true, New: func() Object { return &corev1.Namespace{} }},
	{Name: "Workload", APIVersion: v1alpha1.GroupVersion, New: func() Object { return &v1alpha1.Workload{} }},
	{Name: "GatewayParameters", APIVersion: v1alpha1.GroupVersion, New: func() Object { return &v1alpha1.GatewayParameters{} }},
}

const (
	gateway    = gatewayv1.GroupName + "/v1"
	gatewayx   = gatewayxv1alpha1.GroupName + "/v1alpha1"
	networking = networkingv1.GroupName + "/v1"
)

// KindNamed finds a kind by its name.
func KindNamed(name string) (Kind, bool) {
	for i := range kinds {
		if kinds[i].Name == name {
			return kinds[i], true
		}
	}
	return Kind{}, false
}
