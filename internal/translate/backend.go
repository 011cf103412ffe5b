package translate

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// servicePort is a port of a Service by its number.
type servicePort struct {
	name object.Name
	port int32
}

func (s servicePort) String() string {
	return s.name.Namespace + "/" + s.name.Name + ":" + strconv.Itoa(int(s.port))
}

// resolve follows a reference to a backend. Its verdict is the reason that
// ResolvedRefs gives; field names the reference for findings.
func (c *compiler) resolve(ref *gatewayv1.BackendObjectReference, field func() string) (servicePort, verdict) {
	refuse := func(reason gatewayv1.RouteConditionReason, sub, message, mend string) (servicePort, verdict) {
		c.find(object.Error, field()+sub, string(reason), message, mend)
		return servicePort{}, verdict{string(reason), message}
	}
	if ref.Group != nil && *ref.Group != "" || ref.Kind != nil && *ref.Kind != "Service" {
		kind := "Service"
		if ref.Kind != nil {
			kind = string(*ref.Kind)
		}
		return refuse(gatewayv1.RouteReasonInvalidKind, ".kind", fmt.Sprintf("backend %s is of kind %s, which windrose cannot send requests to", ref.Name, kind), "name a Service")
	}
	name := object.Name{Namespace: c.key.Namespace, Name: string(ref.Name)}
	if ref.Namespace != nil {
		name.Namespace = string(*ref.Namespace)
	}
	if name.Namespace != c.key.Namespace {
		c.in.grants = true
		if !c.t.granted(c.key, "Service", name.Namespace, name.Name) {
			return refuse(gatewayv1.RouteReasonRefNotPermitted, ".namespace",
				fmt.Sprintf("no ReferenceGrant in namespace %s lets %ss of namespace %s refer to Service %s", name.Namespace, c.key.Kind, c.key.Namespace, name),
				"add a ReferenceGrant to namespace "+name.Namespace)
		}
	}
	c.in.services = append(c.in.services, name)
	svc, ok := c.t.set.Services.Get(name.Namespace, name.Name)
	if !ok {
		c.in.serviceNames = true
		return refuse(gatewayv1.RouteReasonBackendNotFound, ".name", "Service "+name.String()+" does not exist", object.Meant(name.Name, namesIn(c.t.set.Services, name.Namespace)))
	}
	if ref.Port == nil {
		return refuse(gatewayv1.RouteReasonBackendNotFound, ".port", "the reference to Service "+name.String()+" names no port", portsOf(svc))
	}
	if v, mend := c.t.speaks(svc, *ref.Port, c.key.Kind); !v.ok() {
		return refuse(gatewayv1.RouteConditionReason(v.reason), ".port", v.message, mend)
	}
	return servicePort{name, *ref.Port}, verdict{}
}

// speaks says whether a kind of route can send to a port of a Service.
func (t *Translator) speaks(svc *corev1.Service, number int32, kind string) (verdict, string) {
	name := object.NameOf(svc)
	if !isPort(number) {
		return verdict{string(gatewayv1.RouteReasonBackendNotFound), fmt.Sprintf("%d is not a port", number)}, portsOf(svc)
	}
	port := portOf(svc, number)
	if port == nil {
		if svc.Spec.Type == corev1.ServiceTypeExternalName && len(svc.Spec.Ports) == 0 {
			return t.policyVerdict(name, ""), ""
		}
		return verdict{string(gatewayv1.RouteReasonBackendNotFound), fmt.Sprintf("Service %s has no port %d", name, number)}, portsOf(svc)
	}
	unsupported := string(gatewayv1.RouteReasonUnsupportedProtocol)
	wants := corev1.ProtocolTCP
	if kind == "UDPRoute" {
		wants = corev1.ProtocolUDP
	}
	if protocol := cmp.Or(port.Protocol, corev1.ProtocolTCP); protocol != wants {
		return verdict{unsupported, fmt.Sprintf("port %d of Service %s is for protocol %s, and %s needs %s", number, name, protocol, kind, wants)}, ""
	}
	if port.AppProtocol != nil && kind != "TCPRoute" && kind != "UDPRoute" && kind != "TLSRoute" {
		if why := appProtocol(*port.AppProtocol); why != "" {
			return verdict{unsupported, fmt.Sprintf("port %d of Service %s: %s", number, name, why)}, ""
		}
	}
	return t.policyVerdict(name, port.Name), ""
}

// appProtocol says why a port with an application protocol cannot be served.
func appProtocol(name string) string {
	switch strings.ToLower(name) {
	case "", "http", "kubernetes.io/ws", "ws", "http1", "http/1.1":
		return ""
	case "kubernetes.io/h2c", "h2c", "http2", "grpc":
		return "appProtocol " + name + " is HTTP/2, which windrose does not carry to backends yet"
	case "https", "kubernetes.io/wss", "wss", "tls", "grpcs":
		return "appProtocol " + name + " is TLS, which windrose does not carry to backends yet"
	}
	return "windrose does not know appProtocol " + name
}

func isPort(number int32) bool { return number > 0 && number <= 65535 }

func portOf(svc *corev1.Service, number int32) *corev1.ServicePort {
	var found *corev1.ServicePort
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		if p.Port != number {
			continue
		}
		// One number can stand for TCP and for UDP.
		if found == nil || p.Protocol == "" || p.Protocol == corev1.ProtocolTCP {
			found = p
		}
	}
	return found
}

func portsOf(svc *corev1.Service) string {
	names := make([]string, len(svc.Spec.Ports))
	for i, p := range svc.Spec.Ports {
		names[i] = strconv.Itoa(int(p.Port))
		if p.Name != "" {
			names[i] += " (" + p.Name + ")"
		}
	}
	if len(names) == 1 {
		return "its port is " + names[0]
	}
	return "its ports are " + listOr(names, "none")
}

// backend compiles a backend of an HTTPRoute. The verdict is on its filters; a
// reference that does not resolve is noted as such.
func (c *compiler) backend(rule, i int, ref *gatewayv1.HTTPBackendRef) (plan.Backend, verdict) {
	b := plan.Backend{Weight: 1}
	if ref.Weight != nil {
		b.Weight = *ref.Weight
	}
	field := func() string { return fmt.Sprintf("spec.rules[%d].backendRefs[%d]", rule, i) }
	target, v := c.resolve(&ref.BackendObjectReference, field)
	if !v.ok() {
		c.unresolved(v)
		b.Broken = &plan.Broken{Status: statusBroken, Reason: v.message}
		return b, verdict{}
	}
	filters, v := c.filters(ref.Filters, place{field: field, backend: true})
	if !v.ok() {
		b.Broken = &plan.Broken{Status: statusBroken, Reason: v.message}
		return b, v
	}
	b.Service, b.Filters = target.String(), filters
	if !slices.Contains(c.services, target) {
		c.services = append(c.services, target)
	}
	return b, verdict{}
}
