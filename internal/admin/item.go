package admin

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// Item is an object as the API serves it.
type Item struct {
	object.Key
	Place object.Place `json:"place,omitzero"`
	// Object is the manifest with its status, in the form of its kind.
	Object   json.RawMessage  `json:"object"`
	Findings []object.Finding `json:"findings,omitempty"`
	// Endpoints are what stands behind a Service, by port; only with details.
	Endpoints []Endpoints `json:"endpoints,omitempty"`
	// Output is the end of what a workload's process wrote; only with details.
	Output []Line `json:"output,omitempty"`
}

// Endpoints are those of one port of a Service.
type Endpoints struct {
	Service   string   `json:"service"`            // NAMESPACE/NAME:PORT
	Hostname  string   `json:"hostname,omitempty"` // of an ExternalName
	Endpoints []string `json:"endpoints,omitempty"`
}

// Selection selects objects; an empty field selects all.
type Selection struct {
	Kinds     []string
	Namespace string // objects of the cluster are in every one
	Name      string
	Details   bool // with what is costly to tell of each
}

func (s *Selection) takes(k object.Key) bool {
	return (len(s.Kinds) == 0 || slices.Contains(s.Kinds, k.Kind)) &&
		(s.Namespace == "" || k.Namespace == s.Namespace || k.Namespace == "") &&
		(s.Name == "" || k.Name == s.Name)
}

// status finds the status of an object, nil if it has none.
func (v *View) status(k object.Key) *object.Status {
	i, ok := slices.BinarySearchFunc(v.Statuses, k, func(s *object.Status, k object.Key) int { return s.Object.Compare(k) })
	if !ok {
		return nil
	}
	return v.Statuses[i]
}

// findingsByObject groups the findings of the view.
func (v *View) findingsByObject() map[object.Key][]object.Finding {
	m := map[object.Key][]object.Finding{}
	for _, f := range v.Findings {
		m[f.Object] = append(m[f.Object], f.Public())
	}
	return m
}

// endpoints are those of a Service in the plan.
func (v *View) endpoints(of string) []Endpoints {
	prefix := of + ":"
	first, _ := slices.BinarySearchFunc(v.Parts, plan.Key{Kind: plan.KindService, Name: prefix}, func(p *plan.Part, k plan.Key) int {
		if c := strings.Compare(string(p.Key.Kind), string(k.Kind)); c != 0 {
			return c
		}
		return strings.Compare(p.Key.Name, k.Name)
	})
	var all []Endpoints
	for _, p := range v.Parts[first:] {
		if p.Service == nil || !strings.HasPrefix(p.Key.Name, prefix) {
			break
		}
		e := Endpoints{Service: p.Key.Name, Hostname: p.Service.Hostname}
		for _, ep := range p.Service.Endpoints {
			text := ep.Addr.String()
			if ep.Name != "" {
				text += " (" + ep.Name + ")"
			}
			e.Endpoints = append(e.Endpoints, text)
		}
		all = append(all, e)
	}
	return all
}

// present gives an object in the form of its kind, with its status, without
// secrets.
func present(o metav1.Object, st *object.Status) (json.RawMessage, error) {
	ro, ok := o.(runtime.Object)
	if !ok {
		return nil, fmt.Errorf("%T is not an API object", o)
	}
	out := ro.DeepCopyObject()
	kind, _ := object.KindNamed(object.KindOf(o))
	out.GetObjectKind().SetGroupVersionKind(schema.FromAPIVersionAndKind(kind.APIVersion, kind.Name))
	if m, ok := out.(metav1.Object); ok {
		m.SetManagedFields(nil)
		// A copy of the whole manifest: long, and of a Secret it has the data.
		annotations := m.GetAnnotations()
		delete(annotations, corev1.LastAppliedConfigAnnotation)
	}
	switch t := out.(type) {
	case *corev1.Secret:
		redact(t)
	case *gatewayv1.GatewayClass:
		set(&t.Status, st, func(s *object.Status) *gatewayv1.GatewayClassStatus { return s.GatewayClass })
	case *gatewayv1.Gateway:
		set(&t.Status, st, func(s *object.Status) *gatewayv1.GatewayStatus { return s.Gateway })
	case *gatewayv1.ListenerSet:
		set(&t.Status, st, func(s *object.Status) *gatewayv1.ListenerSetStatus { return s.ListenerSet })
	case *gatewayv1.HTTPRoute:
		set(&t.Status.RouteStatus, st, routeStatus)
	case *gatewayv1.GRPCRoute:
		set(&t.Status.RouteStatus, st, routeStatus)
	case *gatewayv1.TLSRoute:
		set(&t.Status.RouteStatus, st, routeStatus)
	case *gatewayv1.TCPRoute:
		set(&t.Status.RouteStatus, st, routeStatus)
	case *gatewayv1.UDPRoute:
		set(&t.Status.RouteStatus, st, routeStatus)
	case *gatewayv1.BackendTLSPolicy:
		set(&t.Status, st, policyStatus)
	case *gatewayxv1alpha1.XTelemetryPolicy:
		for i := range t.Spec.Tracing.Provider.Headers { // what a collector is told may be a token
			t.Spec.Tracing.Provider.Headers[i].Value = ""
		}
		set(&t.Status, st, func(s *object.Status) *gatewayxv1alpha1.TelemetryPolicyStatus {
			if s.Policy == nil {
				return nil
			}
			return &gatewayxv1alpha1.TelemetryPolicyStatus{Ancestors: s.Policy.Ancestors}
		})
	case *gatewayxv1alpha1.XBackendTrafficPolicy:
		set(&t.Status, st, policyStatus)
	case *gatewayxv1alpha1.XBackend:
		set(&t.Status, st, func(s *object.Status) *gatewayxv1alpha1.BackendStatus { return s.Backend })
	case *gatewayxv1alpha1.XMesh:
		set(&t.Status, st, func(s *object.Status) *gatewayxv1alpha1.MeshStatus { return s.Mesh })
	case *networkingv1.Ingress:
		set(&t.Status, st, func(s *object.Status) *networkingv1.IngressStatus { return s.Ingress })
	}
	return json.Marshal(out)
}

func policyStatus(s *object.Status) *gatewayv1.PolicyStatus { return s.Policy }

func routeStatus(s *object.Status) *gatewayv1.RouteStatus { return s.Route }

func set[T any](field *T, st *object.Status, of func(*object.Status) *T) {
	if st == nil {
		return
	}
	if value := of(st); value != nil {
		*field = *value
	}
}

// redact keeps the names of a Secret's values and drops the values. A
// certificate is public, so it stays.
func redact(s *corev1.Secret) {
	for name := range s.Data {
		if name != corev1.TLSCertKey {
			s.Data[name] = nil
		}
	}
	for name := range s.StringData {
		s.StringData[name] = ""
	}
}

// item makes the Item of an object.
func (s *Server) item(v *View, o metav1.Object, findings []object.Finding, details bool) (Item, error) {
	key := object.KeyOf(o)
	data, err := present(o, v.status(key))
	if err != nil {
		return Item{}, err
	}
	it := Item{Key: key, Place: v.Set.Places[key], Object: data, Findings: findings}
	if !details {
		return it, nil
	}
	switch name := object.NameOf(o); key.Kind {
	case "Service":
		it.Endpoints = v.endpoints(name.String())
	case "XBackend":
		it.Endpoints = v.endpoints("XBackend/" + name.String())
	case "Workload":
		if s.cfg.Output != nil {
			it.Output = s.cfg.Output(name)
		}
	}
	return it, nil
}
