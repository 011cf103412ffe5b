package object

import (
	networkingv1 "k8s.io/api/networking/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"
)

// Status is what became of one object: the status that its kind prescribes.
// At most one of the pointers is set, chosen by Object.Kind.
//
// As translation makes it, conditions carry no transition time, and
// Programmed is what the data plane is asked for; package status completes
// both. A Status is immutable.
type Status struct {
	Object     Key
	Generation int64 // of the object that was read

	GatewayClass *gatewayv1.GatewayClassStatus
	Gateway      *gatewayv1.GatewayStatus
	ListenerSet  *gatewayv1.ListenerSetStatus
	Route        *gatewayv1.RouteStatus // of every kind of route
	Policy       *gatewayv1.PolicyStatus
	Backend      *gatewayxv1alpha1.BackendStatus // of an XBackend
	Mesh         *gatewayxv1alpha1.MeshStatus    // of an XMesh
	Ingress      *networkingv1.IngressStatus

	// Sockets are the names of the sockets (plan.SocketName) that each listener
	// of a Gateway or ListenerSet stands on, in the order of the listeners in
	// the status; empty for a listener that serves nothing.
	Sockets [][]string
	// Static says that the addresses were asked for by the author of the
	// Gateway, so that a socket that cannot be bound is an unusable address.
	Static bool
	// Parent is the Gateway of a ListenerSet.
	Parent Key
}
