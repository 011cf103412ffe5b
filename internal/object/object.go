// Package object holds the objects that users wrote: one immutable Set for
// each moment, and Finding, what to tell an author about one of them.
//
// The types of the objects are those of Kubernetes, Gateway API and
// api/v1alpha1, so that a manifest means the same in a folder and on a
// cluster. Nothing here reads a file or a socket.
package object

import (
	"cmp"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"windrose.dev/windrose/api/v1alpha1"
)

// Key names an object. Kind alone is unambiguous among the kinds that windrose
// reads. Namespace is empty for cluster-scoped kinds.
type Key struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

func (k Key) String() string {
	if k.Namespace == "" {
		return k.Kind + " " + k.Name
	}
	return k.Kind + " " + k.Namespace + "/" + k.Name
}

// Compare orders keys by kind, namespace and name.
func (k Key) Compare(o Key) int {
	return cmp.Or(strings.Compare(k.Kind, o.Kind), strings.Compare(k.Namespace, o.Namespace), strings.Compare(k.Name, o.Name))
}

// Name is a namespaced name; Namespace is empty for cluster-scoped objects.
type Name struct{ Namespace, Name string }

func (n Name) String() string {
	if n.Namespace == "" {
		return n.Name
	}
	return n.Namespace + "/" + n.Name
}

// Compare orders names by namespace and name.
func (n Name) Compare(o Name) int {
	return cmp.Or(strings.Compare(n.Namespace, o.Namespace), strings.Compare(n.Name, o.Name))
}

// NameOf gives the namespaced name of an object.
func NameOf(o metav1.Object) Name { return Name{o.GetNamespace(), o.GetName()} }

// Place is where an object or one of its fields was written. Line and Column
// count from 1; 0 means unknown. File is empty for objects of an API server.
type Place struct {
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
}

func (p Place) String() string {
	switch {
	case p.File == "":
		return ""
	case p.Line == 0:
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Severity says how bad a finding is.
type Severity string

// The severities.
const (
	Error   Severity = "error"   // what was written has no effect, or a request can fail because of it
	Warning Severity = "warning" // it works, but not as the author may think
	Info    Severity = "info"
)

// Finding is what to tell the author of an object.
type Finding struct {
	Severity Severity `json:"severity"`
	Object   Key      `json:"object"`
	// Field is a path as "spec.rules[0].backendRefs[1].name"; empty for the
	// whole object.
	Field   string `json:"field,omitempty"`
	Place   Place  `json:"place,omitzero"`
	Reason  string `json:"reason"`         // CamelCase word from a closed set
	Message string `json:"message"`        // what is wrong and why
	Mend    string `json:"mend,omitempty"` // what to do
	// Excerpt is the line of the file that Place points at.
	Excerpt string `json:"excerpt,omitempty"`
}

// Public is the finding as anybody may see it: of a Secret without the line of
// the file, which may be the secret, and so where a collector's headers are.
func (f Finding) Public() Finding {
	headers := strings.Contains(f.Field, "headers") || strings.Contains(f.Excerpt, "headers")
	if f.Object.Kind == "Secret" || f.Object.Kind == "XTelemetryPolicy" && headers {
		f.Excerpt = ""
	}
	return f
}

// Set is every object known at one moment. A Set and what it points at are
// never changed; an object that did not change keeps its pointer from Set to
// Set, which is what later steps compare.
type Set struct {
	GatewayClasses     Table[*gatewayv1.GatewayClass]
	Gateways           Table[*gatewayv1.Gateway]
	ListenerSets       Table[*gatewayv1.ListenerSet]
	HTTPRoutes         Table[*gatewayv1.HTTPRoute]
	GRPCRoutes         Table[*gatewayv1.GRPCRoute]
	TLSRoutes          Table[*gatewayv1.TLSRoute]
	TCPRoutes          Table[*gatewayv1.TCPRoute]
	UDPRoutes          Table[*gatewayv1.UDPRoute]
	ReferenceGrants    Table[*gatewayv1.ReferenceGrant]
	BackendTLSPolicies Table[*gatewayv1.BackendTLSPolicy]

	XBackends               Table[*gatewayxv1alpha1.XBackend]
	XTelemetryPolicies      Table[*gatewayxv1alpha1.XTelemetryPolicy]
	XBackendTrafficPolicies Table[*gatewayxv1alpha1.XBackendTrafficPolicy]
	XMeshes                 Table[*gatewayxv1alpha1.XMesh]

	Ingresses      Table[*networkingv1.Ingress]
	IngressClasses Table[*networkingv1.IngressClass]

	Services            Table[*corev1.Service]
	EndpointSlices      Table[*discoveryv1.EndpointSlice]
	Secrets             Table[*corev1.Secret]
	ConfigMaps          Table[*corev1.ConfigMap]
	ClusterTrustBundles Table[*certificatesv1.ClusterTrustBundle]
	Namespaces          Table[*corev1.Namespace]

	Workloads         Table[*v1alpha1.Workload]
	GatewayParameters Table[*v1alpha1.GatewayParameters]

	// Places says where each object was written.
	Places map[Key]Place
	// Findings are what reading the objects found: what could not be decoded,
	// breaks its schema, is unknown or written twice.
	Findings []Finding
}
