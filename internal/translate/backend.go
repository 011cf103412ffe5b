package translate

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// servicePort is a port of a Service by its number, and what is spoken there: ""
// for what the port itself says.
type servicePort struct {
	name object.Name
	port int32
	as   plan.Protocol
	tls  bool // a BackendTLSPolicy wants TLS there

	xbackend bool // it is that of an XBackend
}

func (s servicePort) String() string {
	text := ""
	if s.xbackend {
		text = "XBackend/"
	}
	text += s.name.Namespace + "/" + s.name.Name + ":" + strconv.Itoa(int(s.port))
	if s.as != "" {
		text += "/" + string(s.as)
	}
	if s.tls {
		text += "/tls"
	}
	return text
}

// transport is the protocol of the Service's port.
func (s servicePort) transport() corev1.Protocol {
	if s.as == plan.UDP {
		return corev1.ProtocolUDP
	}
	return corev1.ProtocolTCP
}

// resolve follows a reference to a backend. Its verdict is the reason that
// ResolvedRefs gives; field names the reference for findings.
func (c *compiler) resolve(ref *gatewayv1.BackendObjectReference, field func() string) (servicePort, verdict) {
	return c.resolveFor(ref, field, c.key.Kind)
}

// resolveFor is resolve where the kind that decides what is spoken is another than
// the object's.
func (c *compiler) resolveFor(ref *gatewayv1.BackendObjectReference, field func() string, kind string) (servicePort, verdict) {
	refuse := func(reason gatewayv1.RouteConditionReason, sub, message, mend string) (servicePort, verdict) {
		c.find(object.Error, field()+sub, string(reason), message, mend)
		return servicePort{}, verdict{string(reason), message}
	}
	if ref.Group != nil && *ref.Group == gatewayxv1alpha1.GroupName && ref.Kind != nil && *ref.Kind == "XBackend" {
		return c.toXBackend(ref, field, kind)
	}
	if ref.Group != nil && *ref.Group != "" || ref.Kind != nil && *ref.Kind != "Service" {
		named := "Service"
		if ref.Kind != nil {
			named = string(*ref.Kind)
		}
		return refuse(gatewayv1.RouteReasonInvalidKind, ".kind", fmt.Sprintf("backend %s is of kind %s, which windrose cannot send requests to", ref.Name, named), "name a Service")
	}
	name := object.Name{Namespace: c.key.Namespace, Name: string(ref.Name)}
	if ref.Namespace != nil {
		name.Namespace = string(*ref.Namespace)
	}
	if name.Namespace != c.key.Namespace {
		c.in.grants = true
		if !c.t.granted(c.key, "Service", name.Namespace, name.Name) {
			return refuse(gatewayv1.RouteReasonRefNotPermitted, ".namespace",
				fmt.Sprintf("no ReferenceGrant in namespace %s lets %s of namespace %s refer to Service %s", name.Namespace, plural(c.key.Kind), c.key.Namespace, name),
				grantMend(c.key, "Service", name.Namespace, name.Name))
		}
	}
	c.in.services = append(c.in.services, name)
	svc, ok := c.t.set.Services.Get(name.Namespace, name.Name)
	if !ok {
		c.in.serviceNames = true
		return refuse(gatewayv1.RouteReasonBackendNotFound, ".name", "Service "+name.String()+" does not exist", meant(c.t.set.Services, name.Namespace, name.Name, withGrant))
	}
	if ref.Port == nil {
		return refuse(gatewayv1.RouteReasonBackendNotFound, ".port", "the reference to Service "+name.String()+" names no port", portsOf(svc))
	}
	as, v, mend := c.t.speaks(svc, *ref.Port, kind)
	target := servicePort{name: name, port: *ref.Port, as: as}
	if v.ok() && as != plan.UDP && !c.opaque {
		target.tls, v = c.t.policyVerdict(svc, target)
	}
	if !v.ok() {
		return refuse(gatewayv1.RouteConditionReason(v.reason), ".port", v.message, mend)
	}
	return target, verdict{}
}

// speaks says whether a kind of route can send to a port of a Service, and what
// it speaks there.
func (t *Translator) speaks(svc *corev1.Service, number int32, kind string) (plan.Protocol, verdict, string) {
	name := object.NameOf(svc)
	refuse := func(reason gatewayv1.RouteConditionReason, mend, format string, args ...any) (plan.Protocol, verdict, string) {
		return "", verdict{string(reason), fmt.Sprintf(format, args...)}, mend
	}
	if !isPort(number) {
		return refuse(gatewayv1.RouteReasonBackendNotFound, portsOf(svc), "%d is not a port", number)
	}
	to := servicePort{name: name, port: number, as: spokenBy(kind)}
	port := portOf(svc, to)
	if port == nil {
		if svc.Spec.Type == corev1.ServiceTypeExternalName && len(svc.Spec.Ports) == 0 {
			return to.as, verdict{}, ""
		}
		return refuse(gatewayv1.RouteReasonBackendNotFound, portsOf(svc), "Service %s has no port %d", name, number)
	}
	unsupported := gatewayv1.RouteReasonUnsupportedProtocol
	if protocol := cmp.Or(port.Protocol, corev1.ProtocolTCP); protocol != to.transport() {
		return refuse(unsupported, "", "port %d of Service %s is for protocol %s, and %s needs %s", number, name, protocol, kind, to.transport())
	}
	if port.AppProtocol == nil || to.as == plan.TCP || to.as == plan.UDP {
		return to.as, verdict{}, ""
	}
	says, why := appProtocol(*port.AppProtocol)
	if under := underTLS(*port.AppProtocol); under != "" && t.carried.BackendTLS {
		says, why = under, ""
		if to.as == plan.H2C {
			says = plan.H2C // over TLS both are there to be chosen from
		}
		if b := t.policies[name]; b == nil || b.of(name, port.Name) == nil {
			why = "appProtocol " + *port.AppProtocol + " is TLS, and no BackendTLSPolicy says whom to believe"
		}
	}
	switch {
	case says == plan.H2C && !t.carried.H2C:
		why = "appProtocol " + *port.AppProtocol + " is HTTP/2, which windrose does not carry to backends yet"
	case says == plan.HTTP && to.as == plan.H2C:
		why = "appProtocol " + *port.AppProtocol + " is HTTP/1, and " + kind + " needs HTTP/2"
	}
	if why != "" {
		return refuse(unsupported, "", "port %d of Service %s: %s", number, name, why)
	}
	if says == plan.H2C {
		if underTLS(*port.AppProtocol) != "" {
			return plan.H2C, verdict{}, ""
		}
		return "", verdict{}, "" // as the port says
	}
	return to.as, verdict{}, ""
}

// spokenBy is what a kind of route speaks to a port that says nothing itself.
func spokenBy(kind string) plan.Protocol {
	switch kind {
	case "GRPCRoute", askedByGRPC, tracedByGRPC:
		return plan.H2C
	case "TLSRoute", "TCPRoute":
		return plan.TCP
	case "UDPRoute":
		return plan.UDP
	}
	return ""
}

// appProtocol is what an application protocol stands for, "" if it says
// nothing, or why a port that has it cannot be served.
func appProtocol(name string) (says plan.Protocol, why string) {
	switch strings.ToLower(name) {
	case "":
		return "", ""
	case "http", "kubernetes.io/ws", "ws", "http1", "http/1.1":
		return plan.HTTP, ""
	case "kubernetes.io/h2c", "h2c", "http2", "grpc":
		return plan.H2C, ""
	case "https", "kubernetes.io/wss", "wss", "tls", "grpcs":
		return "", "appProtocol " + name + " is TLS, which windrose does not carry to backends yet"
	}
	return "", "windrose does not know appProtocol " + name
}

// underTLS is what an application protocol stands for that says TLS itself.
func underTLS(name string) plan.Protocol {
	switch strings.ToLower(name) {
	case "https", "kubernetes.io/wss", "wss":
		return plan.HTTP
	case "grpcs":
		return plan.H2C
	}
	return ""
}

func isPort(number int32) bool { return number > 0 && number <= 65535 }

// portOf finds the port of a Service. One number can stand for TCP and for UDP;
// if there is only the other of the two, it is given.
func portOf(svc *corev1.Service, to servicePort) *corev1.ServicePort {
	var found *corev1.ServicePort
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		if p.Port == to.port && (found == nil || cmp.Or(p.Protocol, corev1.ProtocolTCP) == to.transport()) {
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

// backend compiles a backend of an HTTPRoute or a GRPCRoute. The verdict is on its filters; a
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
		b.Broken = &plan.Broken{Status: c.unresolvedStatus(), Reason: v.message}
		return b, verdict{}
	}
	filters, v := c.filters(ref.Filters, place{field: field, backend: true})
	if !v.ok() {
		b.Broken = &plan.Broken{Status: statusBroken, Reason: v.message}
		return b, v
	}
	if c.halted != "" {
		b.Broken = &plan.Broken{Status: statusBroken, Reason: c.halted}
		return b, verdict{}
	}
	if why := c.t.unbelieved(target); why != "" {
		b.Broken = &plan.Broken{Status: statusBroken, Reason: why}
		return b, verdict{}
	}
	b.Service, b.Filters = target.String(), filters
	c.send(target)
	return b, verdict{}
}
