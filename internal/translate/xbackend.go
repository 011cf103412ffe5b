package translate

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"windrose.dev/windrose/api/v1alpha1"
	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// xbackends are the XBackends, read, and those of them that something sends to.
type xbackends struct {
	byName  map[object.Name]*xbackend
	changed map[object.Name]struct{} // in this run
	parts   map[servicePort]*plan.Part
	starved map[object.Name]bool // nothing stands behind them
	shown   map[object.Key]*object.Status
}

// xbackend is an XBackend as far as it says what can be done.
type xbackend struct {
	object   *gatewayxv1alpha1.XBackend
	bad      verdict // if it is not accepted: then its requests are answered with 500
	hostname string
	session  *plan.Session
	tls      *plan.BackendTLS
	client   *certificate // that its endpoints are shown
	findings []object.Finding
}

func newXBackends() xbackends {
	return xbackends{byName: map[object.Name]*xbackend{}, parts: map[servicePort]*plan.Part{}}
}

// update reads the XBackends anew where something may be different. They are few.
func (x *xbackends) update(t *Translator) {
	d := &t.delta
	x.changed = map[object.Name]struct{}{}
	if !d.xbackends.any() && (len(x.byName) == 0 || !d.configMaps.any() && !d.bundles.any() && !d.secrets.any() && !d.grants.any()) {
		return
	}
	old := x.byName
	x.byName = make(map[object.Name]*xbackend, t.set.XBackends.Len())
	for _, o := range t.set.XBackends.All() {
		name, b := object.NameOf(o), t.readXBackend(o)
		if was := old[name]; was != nil && reflect.DeepEqual(was, b) {
			b = was
		} else {
			x.changed[name] = struct{}{}
		}
		x.byName[name] = b
	}
	for name := range old {
		if x.byName[name] == nil {
			x.changed[name] = struct{}{}
		}
	}
}

func (t *Translator) readXBackend(o *gatewayxv1alpha1.XBackend) *xbackend {
	b := &xbackend{object: o}
	unknownAnnotations(o.Annotations, "", b.find)
	if !t.carried.XBackend {
		b.refuse("", reasonNotCarried, "windrose does not send to XBackends yet", "write a Service")
		return b
	}
	b.readTarget()
	if p := o.Spec.Protocol; p != nil && *p == gatewayxv1alpha1.BackendProtocolMCP {
		b.refuse("spec.protocol", string(gatewayv1.RouteReasonUnsupportedProtocol), "windrose does not speak MCP as such", "write HTTP: MCP goes over it")
	} else if p != nil && !slices.Contains(xprotocols, *p) {
		b.refuse("spec.protocol", string(gatewayv1.RouteReasonUnsupportedProtocol), fmt.Sprintf("windrose knows no protocol %s", *p), "write HTTP, HTTP11, HTTP2, H2C, GRPC, WSS or TCP")
	}
	if s := o.Spec.SessionPersistence; s != nil {
		made, bad := session(s, object.KeyOf(o).String())
		switch {
		case o.Spec.Type != gatewayxv1alpha1.BackendTypeEndpointSelector:
			b.refuse("spec.sessionPersistence", reasonInvalidValue, "an XBackend of type "+string(o.Spec.Type)+" has no sessions", "remove it")
		case bad.message != "":
			b.refuse("spec.sessionPersistence"+bad.sub, reasonInvalidValue, bad.message, bad.mend)
		}
		b.session = made
	}
	t.readXBackendTLS(b)
	return b
}

// xprotocols are those that windrose speaks.
var xprotocols = []gatewayxv1alpha1.BackendProtocol{
	gatewayxv1alpha1.BackendProtocolTCP, gatewayxv1alpha1.BackendProtocolHTTP, gatewayxv1alpha1.BackendProtocolHTTP11, gatewayxv1alpha1.BackendProtocolHTTP2,
	gatewayxv1alpha1.BackendProtocolH2C, gatewayxv1alpha1.BackendProtocolGRPC, gatewayxv1alpha1.BackendProtocolWSS,
}

// readTarget reads where the requests go.
func (b *xbackend) readTarget() {
	spec := &b.object.Spec
	if !isPort(int32(spec.Port.Number)) {
		b.refuse("spec.port.number", reasonInvalidValue, fmt.Sprintf("%d is not a port", spec.Port.Number), "write the port that the endpoints listen on")
	}
	switch spec.Type {
	case gatewayxv1alpha1.BackendTypeExternalHostname:
		if spec.ExternalHostname == nil {
			b.refuse("spec.externalHostname", reasonInvalidValue, "the host name is missing", "write externalHostname.hostname")
			return
		}
		host := strings.TrimSuffix(strings.ToLower(string(spec.ExternalHostname.Hostname)), ".")
		_, err := netip.ParseAddr(host)
		if host == "" || err == nil || host == "cluster.local" || strings.HasSuffix(host, ".cluster.local") || strings.ContainsAny(host, "*: /") {
			b.refuse("spec.externalHostname.hostname", reasonInvalidValue, fmt.Sprintf("%q is not a name outside of the cluster: an address and a name below .cluster.local are refused", spec.ExternalHostname.Hostname),
				"write a full host name, or select endpoints")
			return
		}
		b.hostname = host
		if spec.TLS == nil || spec.TLS.Mode == gatewayxv1alpha1.BackendTLSModeNone {
			b.find(object.Warning, "spec.tls", reasonInvalidValue, "what is sent to "+host+" goes in cleartext", "write tls with mode: ServerOnly")
		}
	case gatewayxv1alpha1.BackendTypeEndpointSelector:
		if spec.EndpointSelector == nil || len(spec.EndpointSelector.MatchLabels) == 0 {
			b.refuse("spec.endpointSelector.matchLabels", reasonInvalidValue, "nothing is selected", "write the labels of the Workloads")
		}
	default:
		b.refuse("spec.type", reasonInvalidValue, fmt.Sprintf("windrose knows no XBackend of type %s", spec.Type), "write EndpointSelector or ExternalHostname")
	}
}

// readXBackendTLS reads how the endpoints are believed. What cannot be read has
// nothing sent: cleartext is not what the author wants instead.
func (t *Translator) readXBackendTLS(b *xbackend) {
	spec := b.object.Spec.TLS
	var protocol gatewayxv1alpha1.BackendProtocol
	if b.object.Spec.Protocol != nil {
		protocol = *b.object.Spec.Protocol
	}
	secure := spec != nil && spec.Mode != gatewayxv1alpha1.BackendTLSModeNone
	switch {
	case !secure && (protocol == gatewayxv1alpha1.BackendProtocolHTTP2 || protocol == gatewayxv1alpha1.BackendProtocolWSS):
		b.refuse("spec.tls", reasonInvalidValue, fmt.Sprintf("protocol %s needs TLS", protocol), "write tls with mode: ServerOnly")
		return
	case secure && protocol == gatewayxv1alpha1.BackendProtocolH2C:
		b.refuse("spec.tls", reasonInvalidValue, "protocol H2C is HTTP/2 in cleartext", "write protocol: HTTP2")
		return
	case !secure:
		return
	case spec.Mode != gatewayxv1alpha1.BackendTLSModeServerOnly && spec.Mode != gatewayxv1alpha1.BackendTLSModeClientAndServer:
		b.refuse("spec.tls.mode", reasonInvalidValue, fmt.Sprintf("windrose knows no TLS mode %s", spec.Mode), "write None, ServerOnly or ClientAndServer")
		return
	case spec.Validation == nil:
		b.refuse("spec.tls.validation", reasonInvalidValue, "nobody is believed", "write validation")
		return
	}
	made, why := t.believes(spec.Validation, b.object.Namespace)
	if !made.System && len(made.Authorities) == 0 {
		b.refuse("spec.tls.validation", string(gatewayv1.BackendTLSPolicyReasonNoValidCACertificate), "nobody is believed: "+why, "name a ConfigMap with ca.crt, or write wellKnownCACertificates: System")
	}
	if len(spec.Validation.CACertificateRefs) > 0 && why != "" && b.bad.ok() {
		b.find(object.Warning, "spec.tls.validation.caCertificateRefs", string(gatewayv1.BackendTLSPolicyReasonInvalidCACertificateRef), why+"; the others count", "correct or remove the reference")
	}
	made.Alone = true
	b.tls = made
	if spec.Mode == gatewayxv1alpha1.BackendTLSModeClientAndServer {
		t.readXBackendClient(b, spec.ClientCertificateRef)
	}
}

func (t *Translator) readXBackendClient(b *xbackend, ref *gatewayv1.SecretObjectReference) {
	const field, reason = "spec.tls.clientCertificateRef", "InvalidClientCertificateRef"
	if ref == nil {
		b.refuse(field, reason, "the certificate that endpoints are to be shown is missing", "name a Secret")
		return
	}
	name := object.Name{Namespace: b.object.Namespace, Name: string(ref.Name)}
	if ref.Namespace != nil {
		name.Namespace = string(*ref.Namespace)
	}
	if ref.Group != nil && *ref.Group != "" || ref.Kind != nil && *ref.Kind != "Secret" {
		b.refuse(field+".kind", reason, fmt.Sprintf("client certificate %s is of a kind that windrose cannot read", ref.Name), "name a Secret")
		return
	}
	if !t.granted(object.KeyOf(b.object), "Secret", name.Namespace, name.Name) {
		b.refuse(field+".namespace", string(gatewayv1.RouteReasonRefNotPermitted),
			fmt.Sprintf("no ReferenceGrant in namespace %s lets XBackends of namespace %s refer to Secret %s", name.Namespace, b.object.Namespace, name), grantMend(object.KeyOf(b.object), "Secret", name.Namespace, name.Name))
		return
	}
	secret, ok := t.set.Secrets.Get(name.Namespace, name.Name)
	if !ok {
		b.refuse(field+".name", reason, "Secret "+name.String()+" does not exist", object.Meant(name.Name, namesIn(t.set.Secrets, name.Namespace)))
		return
	}
	c := t.secrets.read(secret)
	if c.problem != "" {
		b.refuse(field, reason, fmt.Sprintf("Secret %s cannot be used: %s", name, c.problem), "")
		return
	}
	b.client = c
	b.tls.Client = &plan.ClientCertificate{Chain: c.part.Certificate.Chain, Key: c.part.Certificate.Key}
}

func (b *xbackend) find(severity object.Severity, field, reason, message, mend string) {
	b.findings = append(b.findings, object.Finding{Severity: severity, Object: object.KeyOf(b.object), Field: field, Reason: reason, Message: message, Mend: mend})
}

// refuse notes why the XBackend is not accepted.
func (b *xbackend) refuse(field, reason, message, mend string) {
	b.find(object.Error, field, reason, message, mend)
	b.bad = first(b.bad, verdict{reason, message})
}

// speaks is what a kind of route speaks to the XBackend, or why it cannot.
func (b *xbackend) speaks(kind string) (plan.Protocol, string) {
	as := spokenBy(kind)
	if as == plan.UDP && (b.object.Spec.Protocol != nil || b.tls != nil) {
		return "", "it is for TCP, and UDPRoute needs UDP"
	}
	if b.object.Spec.Protocol == nil || as == plan.TCP {
		return as, "" // below HTTP nobody looks at what it is
	}
	switch p := *b.object.Spec.Protocol; p {
	case gatewayxv1alpha1.BackendProtocolTCP:
		return "", "its protocol is TCP, and " + kind + " needs HTTP"
	case gatewayxv1alpha1.BackendProtocolHTTP11, gatewayxv1alpha1.BackendProtocolWSS:
		if as == plan.H2C {
			return "", fmt.Sprintf("its protocol is %s, and %s needs HTTP/2", p, kind)
		}
	case gatewayxv1alpha1.BackendProtocolHTTP2, gatewayxv1alpha1.BackendProtocolH2C, gatewayxv1alpha1.BackendProtocolGRPC:
		as = plan.H2C
	case gatewayxv1alpha1.BackendProtocolHTTP, gatewayxv1alpha1.BackendProtocolMCP:
	}
	return as, ""
}

// toXBackend follows a reference to an XBackend. It must be in the namespace of
// who refers to it (GEP-4894).
func (c *compiler) toXBackend(ref *gatewayv1.BackendObjectReference, field func() string, kind string) (servicePort, verdict) {
	refuse := func(reason gatewayv1.RouteConditionReason, sub, message, mend string) (servicePort, verdict) {
		c.find(object.Error, field()+sub, string(reason), message, mend)
		return servicePort{}, verdict{string(reason), message}
	}
	name := object.Name{Namespace: c.key.Namespace, Name: string(ref.Name)}
	if ref.Namespace != nil && string(*ref.Namespace) != name.Namespace {
		return refuse(gatewayv1.RouteReasonRefNotPermitted, ".namespace", fmt.Sprintf("XBackend %s/%s is in another namespace: an XBackend is for its own alone", *ref.Namespace, ref.Name),
			"write an XBackend in namespace "+name.Namespace)
	}
	c.in.xbackends = append(c.in.xbackends, name)
	b := c.t.xbackends.byName[name]
	if b == nil {
		c.in.xbackendNames = true
		return refuse(gatewayv1.RouteReasonBackendNotFound, ".name", "XBackend "+name.String()+" does not exist", object.Meant(name.Name, namesIn(c.t.set.XBackends, name.Namespace)))
	}
	if ref.Port != nil && *ref.Port != gatewayv1.PortNumber(b.object.Spec.Port.Number) {
		c.find(object.Warning, field()+".port", reasonNotRead, fmt.Sprintf("XBackend %s has a port of its own, %d, so that this one has no effect", name, b.object.Spec.Port.Number), "remove it")
	}
	if !b.bad.ok() {
		return refuse(gatewayv1.RouteConditionReason(b.bad.reason), ".name", fmt.Sprintf("XBackend %s cannot be used: %s", name, b.bad.message), "mend the XBackend")
	}
	as, why := b.speaks(kind)
	if why != "" {
		return refuse(gatewayv1.RouteReasonUnsupportedProtocol, ".name", fmt.Sprintf("XBackend %s cannot be sent to: %s", name, why), "")
	}
	return servicePort{xbackend: true, name: name, port: int32(b.object.Spec.Port.Number), as: as, tls: b.tls != nil && !c.opaque}, verdict{}
}

// make makes the parts of the XBackends in use whose inputs changed.
func (x *xbackends) make(t *Translator) {
	all := t.delta.workloads.any() || t.delta.traffic.any()
	starved := map[object.Name]bool{}
	next := make(map[servicePort]*plan.Part, len(t.services.other))
	for to := range t.services.other {
		b := x.byName[to.name]
		if b == nil || !b.bad.ok() {
			continue
		}
		if _, changed := x.changed[to.name]; !all && !changed && x.parts[to] != nil {
			next[to], starved[to.name] = x.parts[to], x.starved[to.name]
			continue
		}
		made := &plan.Service{Protocol: cmp.Or(to.as, plan.HTTP), Session: b.session}
		t.traffic.of("XBackend", to.name).apply(made)
		if to.tls {
			made.TLS = b.tls
		}
		if b.hostname != "" {
			made.Hostname, made.Port = b.hostname, uint16(to.port)
		} else {
			made.Endpoints = t.endpointsOf(b)
			starved[to.name] = len(made.Endpoints) == 0
		}
		if made.Protocol == plan.TCP || made.Protocol == plan.UDP {
			made.Session, made.Budget = nil, nil // there are no requests
		}
		part := &plan.Part{Key: plan.Key{Kind: plan.KindService, Name: to.String()}, Service: made}
		if was := x.parts[to]; was != nil && reflect.DeepEqual(was.Service, made) {
			part = was
		}
		next[to] = part
	}
	x.parts, x.starved = next, starved
}

// endpointsOf are the ready workloads that an XBackend selects. One that lists its
// ports, and not this one, is left out.
func (t *Translator) endpointsOf(b *xbackend) []plan.Endpoint {
	port := int32(b.object.Spec.Port.Number)
	var list []plan.Endpoint
	for _, w := range t.selectedBy(b) {
		text, ready := standing(w)
		addr, err := netip.ParseAddr(text)
		if !ready || err != nil || !listens(w, port) {
			continue
		}
		list = append(list, plan.Endpoint{Addr: netip.AddrPortFrom(addr.Unmap(), uint16(port)), Name: w.Name})
	}
	return distinct(list, map[netip.AddrPort]bool{})
}

func (t *Translator) selectedBy(b *xbackend) []*v1alpha1.Workload {
	selector := labels.Set{}
	for k, v := range b.object.Spec.EndpointSelector.MatchLabels {
		selector[string(k)] = string(v)
	}
	return t.services.selecting(b.object.Namespace, selector)
}

func listens(w *v1alpha1.Workload, port int32) bool {
	return len(w.Spec.Ports) == 0 || slices.ContainsFunc(w.Spec.Ports, func(p v1alpha1.WorkloadPort) bool { return p.Port == port })
}

func (x *xbackends) collect(t *Translator, r *Result) {
	first := len(r.Parts)
	for _, part := range x.parts {
		r.Parts = append(r.Parts, part)
	}
	slices.SortFunc(r.Parts[first:], func(a, b *plan.Part) int { return strings.Compare(a.Key.Name, b.Key.Name) })
	for _, o := range t.set.XBackends.All() {
		b := x.byName[object.NameOf(o)]
		r.Findings = append(r.Findings, b.findings...)
		if b.client != nil {
			b.client.watched = true
		}
		if x.starved[object.NameOf(o)] {
			r.Findings = append(r.Findings, t.starving(b))
		}
	}
}

// starving tells why nothing stands behind an XBackend.
func (t *Translator) starving(b *xbackend) object.Finding {
	f := object.Finding{
		Severity: object.Warning, Object: object.KeyOf(b.object), Field: "spec.endpointSelector.matchLabels", Reason: reasonNoEndpoints,
		Message: "nothing stands behind the XBackend, so that what comes for it is refused",
	}
	selector := map[string]string{}
	for k, v := range b.object.Spec.EndpointSelector.MatchLabels {
		selector[string(k)] = string(v)
	}
	f.Mend = "write a Workload with the labels " + labels.FormatLabels(selector)
	for _, w := range t.selectedBy(b) {
		if !listens(w, int32(b.object.Spec.Port.Number)) {
			f.Field = "spec.port.number"
			f.Message = fmt.Sprintf("Workload %s does not listen on port %d, and nothing else stands behind the XBackend", w.Name, b.object.Spec.Port.Number)
			f.Mend = "write a port of the Workload's spec.ports"
		}
	}
	return f
}

// showXBackends makes the status of each XBackend, one ancestor for each Gateway
// through which a route reaches it.
func (t *Translator) showXBackends() []*object.Status {
	if t.set.XBackends.Len() == 0 {
		t.xbackends.shown = nil
		return nil
	}
	reached := t.reached(func(key object.Key) bool { return key.Kind == "XBackend" })
	shown := map[object.Key]*object.Status{}
	var list []*object.Status
	for _, o := range t.set.XBackends.All() {
		key := object.KeyOf(o)
		status := &gatewayxv1alpha1.BackendStatus{Ancestors: []gatewayxv1alpha1.BackendAncestorStatus{}}
		for _, gateway := range ancestors([]object.Key{key}, reached) {
			status.Ancestors = append(status.Ancestors, gatewayxv1alpha1.BackendAncestorStatus{
				AncestorRef: gatewayRef(gateway), ControllerName: GatewayController,
				Conditions: []metav1.Condition{conclude(string(gatewayxv1alpha1.BackendConditionAccepted), t.xbackends.byName[object.NameOf(o)].bad, "accepted", o.Generation)},
			})
		}
		s := &object.Status{Object: key, Generation: o.Generation, Backend: status}
		if was := t.xbackends.shown[key]; was != nil && reflect.DeepEqual(was, s) {
			s = was
		}
		shown[key] = s
		list = append(list, s)
	}
	t.xbackends.shown = shown
	return list
}
