package translate

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// ingressPorts are where Ingresses are served.
type ingressPorts struct {
	addr        netip.Addr
	http, https uint16
}

func usualPorts() ingressPorts { return ingressPorts{netip.IPv6Unspecified(), 80, 443} }

func (p ingressPorts) socket(port uint16) string {
	return plan.SocketName(netip.AddrPortFrom(p.addr, port))
}

const (
	// legacyClassName is what the old annotation may say without any
	// IngressClass object.
	legacyClassName = "windrose"
)

// ingresses are the Ingresses as translated. All of them share a listener for
// HTTP and one for HTTPS. Where a Gateway already has a listener for all host
// names on the socket, that one is theirs too.
type ingresses struct {
	list    []*compiled
	ours    map[string]bool // names of the classes of windrose
	standby string          // the default class of windrose
	ports   ingressPorts

	plain, secure target
	changed       bool // anything above; every Ingress is compiled again
	renewed       bool // the certificates or parts may have changed
	findings      []object.Finding

	certs []*certificate // in use, each once
	parts []*plan.Part   // own listeners and sockets
}

// target is where Ingresses attach for one protocol.
type target struct {
	socket   string
	listener string // "" if the socket is taken for another protocol
	own      bool   // no Gateway has a listener for all hosts there
	taken    string // by which protocol
}

func (x *ingresses) update(t *Translator) {
	d := &t.delta
	if x.changed = d.ingressClasses.any() || d.parameters.any() || t.gateways.changed || x.plain.socket == ""; x.changed {
		x.readClasses(t)
		x.plain = t.target(x.ports.socket(x.ports.http), gatewayv1.HTTPProtocolType, "http")
		x.secure = t.target(x.ports.socket(x.ports.https), gatewayv1.HTTPSProtocolType, "https")
		t.gateways.lent = []string{x.plain.socket, x.secure.socket}
	}
	was := x.list
	x.list = refresh(t, x.list, t.set.Ingresses, compileIngress)
	if x.renewed = x.changed || !slices.Equal(was, x.list); !x.renewed {
		return
	}
	x.certs = x.certs[:0:0]
	plain, secure := false, false
	for _, c := range x.list {
		plain = plain || len(c.more) > 0
		secure = secure || c.secure
		for _, cert := range c.certs {
			if !cert.used {
				cert.used = true // cleared when the parts are collected
				x.certs = append(x.certs, cert)
			}
		}
	}
	slices.SortFunc(x.certs, func(a, b *certificate) int { return strings.Compare(a.part.Key.Name, b.part.Key.Name) })
	x.ownParts(t, plain, secure)
}

func (t *Translator) target(socket string, protocol gatewayv1.ProtocolType, name string) target {
	c := t.gateways.claims[socket]
	switch {
	case c == nil:
		return target{socket: socket, listener: "Ingress//all/" + name, own: true}
	case family(c.protocol) != family(protocol):
		return target{socket: socket, taken: string(c.protocol)}
	case c.hosts[""] != nil && c.hosts[""].spec.Protocol != protocol:
		return target{socket: socket, taken: string(c.hosts[""].spec.Protocol)}
	case c.hosts[""] != nil:
		return target{socket: socket, listener: c.hosts[""].key}
	}
	return target{socket: socket, listener: "Ingress//all/" + name, own: true}
}

// ownParts makes the listeners and sockets that are there for Ingresses alone.
func (x *ingresses) ownParts(t *Translator, plain, secure bool) {
	old := x.parts
	x.parts = nil
	add := func(made *plan.Part) {
		for _, p := range old {
			if p.Key == made.Key && samePart(p, made) {
				made = p
			}
		}
		x.parts = append(x.parts, made)
	}
	place := func(at target, protocol plan.Protocol, certs []string) {
		if !at.own {
			return
		}
		if t.gateways.claims[at.socket] == nil {
			add(t.gateways.socket(at.socket))
		}
		add(&plan.Part{
			Key:      plan.Key{Kind: plan.KindListener, Name: at.listener},
			Listener: &plan.Listener{Sockets: []string{at.socket}, Protocol: protocol, Certificates: certs, Tracing: t.gateways.tracing.common},
		})
	}
	if plain {
		place(x.plain, plan.HTTP, nil)
	}
	if !secure {
		return
	}
	var names []string
	for _, c := range x.certs {
		names = append(names, c.part.Key.Name)
	}
	if len(names) == 0 && x.secure.own {
		if p := t.gateways.placeholder(t, x.secure.listener, ""); p != nil {
			names = append(names, p.Key.Name)
			add(p)
		}
	}
	place(x.secure, plan.HTTPS, names)
}

func samePart(a, b *plan.Part) bool {
	if a == b {
		return true
	}
	if a.Listener != nil && b.Listener != nil {
		return reflect.DeepEqual(a.Listener, b.Listener)
	}
	return a.Socket != nil && b.Socket != nil && *a.Socket == *b.Socket
}

func (x *ingresses) collect(r *Result) {
	r.Findings = append(r.Findings, x.findings...)
	r.Parts = append(r.Parts, x.parts...)
	for _, c := range x.list {
		r.Parts = append(r.Parts, c.more...)
		if c.status != nil {
			r.Statuses = append(r.Statuses, c.status)
		}
		r.Findings = append(r.Findings, c.findings...)
	}
}

func (x *ingresses) readClasses(t *Translator) {
	x.ours, x.standby, x.findings = map[string]bool{}, "", nil
	x.ports = usualPorts()
	portsOf := "" // the class that says where
	for _, c := range t.set.IngressClasses.All() {
		key := object.Key{Kind: "IngressClass", Name: c.Name}
		if c.Spec.Controller != IngressController {
			x.findings = suspect(x.findings, key, "spec.controller", c.Spec.Controller, IngressController)
			continue
		}
		x.ours[c.Name] = true
		if ports, ok := x.readPorts(t, key, c.Spec.Parameters); ok {
			switch {
			case portsOf == "":
				x.ports, portsOf = ports, c.Name
			case ports != x.ports:
				x.findings = append(x.findings, object.Finding{
					Severity: object.Warning, Object: key, Field: "spec.parameters", Reason: reasonShadowed,
					Message: "IngressClass " + portsOf + " says already where Ingresses are served", Mend: "let all classes of windrose name the same parameters",
				})
			}
		}
		if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] != "true" {
			continue
		}
		if x.standby != "" {
			x.findings = append(x.findings, object.Finding{
				Severity: object.Warning, Object: key, Field: "metadata.annotations[" + networkingv1.AnnotationIsDefaultIngressClass + "]", Reason: reasonShadowed,
				Message: "IngressClass " + x.standby + " is the default already", Mend: "leave one default",
			})
			continue
		}
		x.standby = c.Name
	}
}

// readPorts follows the parameters of a class; it says whether they tell where
// Ingresses are served.
func (x *ingresses) readPorts(t *Translator, key object.Key, ref *networkingv1.IngressClassParametersReference) (ingressPorts, bool) {
	ports := usualPorts()
	if ref == nil {
		return ports, false
	}
	refuse := func(sub, message, mend string) (ingressPorts, bool) {
		x.findings = append(x.findings, object.Finding{
			Severity: object.Error, Object: key, Field: "spec.parameters" + sub,
			Reason: string(gatewayv1.GatewayClassReasonInvalidParameters), Message: message, Mend: mend,
		})
		return ports, false
	}
	if ref.APIGroup == nil || *ref.APIGroup != "windrose.dev" || ref.Kind != "GatewayParameters" {
		return refuse(".kind", "windrose cannot read parameters of kind "+ref.Kind, "name GatewayParameters of apiGroup windrose.dev")
	}
	if ref.Namespace == nil {
		return refuse("", "GatewayParameters "+ref.Name+" is named without its namespace", "add scope: Namespace and namespace")
	}
	params, ok := t.set.GatewayParameters.Get(*ref.Namespace, ref.Name)
	if !ok {
		return refuse(".name", fmt.Sprintf("GatewayParameters %s/%s does not exist", *ref.Namespace, ref.Name), object.Meant(ref.Name, namesIn(t.set.GatewayParameters, *ref.Namespace)))
	}
	want := params.Spec.Ingress
	if want == nil {
		return ports, false
	}
	if want.Address != "" {
		addr, err := netip.ParseAddr(want.Address)
		if err != nil {
			return refuse(".name", fmt.Sprintf("GatewayParameters %s/%s: ingress.address %q is no IP address", *ref.Namespace, ref.Name, want.Address), "")
		}
		ports.addr = addr
	}
	ports.http = uint16(cmp.Or(want.HTTP, int32(ports.http)))
	ports.https = uint16(cmp.Or(want.HTTPS, int32(ports.https)))
	return ports, true
}

// mine says whether windrose serves an Ingress, and tells the author of one
// that nobody serves.
func (c *compiler) mine(o *networkingv1.Ingress) bool {
	x := &c.t.ingress
	if class, there := o.Annotations[classAnnotation]; there {
		return x.ours[class] || class == legacyClassName
	}
	if o.Spec.IngressClassName == nil {
		if x.standby == "" {
			c.find(object.Warning, "spec.ingressClassName", reasonClassNotFound, "the Ingress names no class and there is no default class of windrose, so that windrose does not serve it", "write the name of an IngressClass whose controller is "+IngressController)
		}
		return x.standby != ""
	}
	name := *o.Spec.IngressClassName
	if x.ours[name] {
		return true
	}
	if _, ok := c.t.set.IngressClasses.Get("", name); !ok {
		mend := object.Meant(name, namesIn(c.t.set.IngressClasses, ""))
		if mend == "" {
			mend = "write an IngressClass " + name + " with controller " + IngressController
		}
		c.find(object.Error, "spec.ingressClassName", reasonClassNotFound, "IngressClass "+name+" does not exist, so that nobody serves this Ingress", mend)
	}
	return false
}

func compileIngress(t *Translator, o *networkingv1.Ingress) *compiled {
	c := newCompiler(t, "Ingress", o)
	c.in.ingress = true
	made := &compiled{object: o}
	if c.mine(o) {
		c.ingress(o, made)
	}
	made.findings, made.services, made.in = c.findings, c.services, c.in
	return made
}

func (c *compiler) ingress(o *networkingv1.Ingress, made *compiled) {
	c.annotations(o)
	covered := c.ingressTLS(o, made)
	hosts := newHostRules()
	for i := range o.Spec.Rules {
		c.ingressRule(hosts, i, &o.Spec.Rules[i], o.Spec.DefaultBackend)
	}
	if b := o.Spec.DefaultBackend; b != nil {
		hosts.add("", plan.Rule{
			Matches:  []plan.Match{{PathType: plan.PathPrefix, Path: "/"}},
			Backends: []plan.Backend{c.ingressBackend(b, "spec.defaultBackend")},
		})
	}
	for _, host := range hosts.order {
		attach := c.ingressAttach(host, covered(host))
		if len(attach) == 0 {
			continue
		}
		name := "Ingress/" + o.Namespace + "/" + o.Name
		if host != "" {
			name += "/" + host
		}
		made.more = append(made.more, &plan.Part{
			Key:   plan.Key{Kind: plan.KindRoute, Name: name},
			Route: &plan.Route{Created: o.CreationTimestamp.Unix(), Attach: attach, Rules: hosts.rules[host]},
		})
	}
	made.status = c.showIngress(o, made.secure)
}

// hostRules are the rules of an Ingress by host, in the order written.
type hostRules struct {
	order []string
	rules map[string][]plan.Rule
}

func newHostRules() *hostRules { return &hostRules{rules: map[string][]plan.Rule{}} }

func (h *hostRules) add(host string, r plan.Rule) {
	if _, ok := h.rules[host]; !ok {
		h.order = append(h.order, host)
	}
	h.rules[host] = append(h.rules[host], r)
}

func (c *compiler) ingressRule(hosts *hostRules, i int, spec *networkingv1.IngressRule, standby *networkingv1.IngressBackend) {
	host := strings.ToLower(spec.Host)
	if !isHost(host) {
		c.find(object.Error, fmt.Sprintf("spec.rules[%d].host", i), reasonInvalidValue, fmt.Sprintf("%q is neither a host name nor a wildcard as *.example.com, so that the rule takes no request", spec.Host), "correct the host")
		return
	}
	if spec.HTTP == nil {
		// Without paths all requests of the host go to the default backend.
		if standby == nil {
			c.find(object.Warning, fmt.Sprintf("spec.rules[%d]", i), reasonNoBackend, "the rule has no paths and the Ingress no default backend, so that it takes no request", "add paths")
			return
		}
		hosts.add(host, plan.Rule{
			Matches:  []plan.Match{{PathType: plan.PathPrefix, Path: "/"}},
			Backends: []plan.Backend{c.ingressBackend(standby, "spec.defaultBackend")},
		})
		return
	}
	for j := range spec.HTTP.Paths {
		p := &spec.HTTP.Paths[j]
		field := fmt.Sprintf("spec.rules[%d].http.paths[%d]", i, j)
		m, ok := c.ingressPath(p, field)
		if !ok {
			continue
		}
		hosts.add(host, plan.Rule{Matches: []plan.Match{m}, Backends: []plan.Backend{c.ingressBackend(&p.Backend, field+".backend")}})
	}
}

// isHost says whether an Ingress may have a host: "" for all, a name, or a
// wildcard for its first label.
func isHost(host string) bool {
	if host == "" {
		return true
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return false
	}
	return len(validation.IsDNS1123Subdomain(host)) == 0 || len(validation.IsWildcardDNS1123Subdomain(host)) == 0
}

func (c *compiler) ingressPath(p *networkingv1.HTTPIngressPath, field string) (plan.Match, bool) {
	path := p.Path
	if path == "" {
		path = "/"
	}
	if v := checkPath(path); !v.ok() {
		c.find(object.Error, field+".path", reasonInvalidValue, v.message, "correct the path")
		return plan.Match{}, false
	}
	kind := networkingv1.PathTypeImplementationSpecific
	if p.PathType != nil {
		kind = *p.PathType
	}
	switch kind {
	case networkingv1.PathTypeExact:
		return plan.Match{PathType: plan.PathExact, Path: path}, true
	case networkingv1.PathTypePrefix, networkingv1.PathTypeImplementationSpecific:
		return plan.Match{PathType: plan.PathPrefix, Path: path}, true
	}
	c.find(object.Error, field+".pathType", reasonInvalidValue, fmt.Sprintf("windrose knows no path type %s", kind), "write Exact or Prefix")
	return plan.Match{}, false
}

// ingressBackend compiles a backend of an Ingress; one that cannot be used
// answers 500.
func (c *compiler) ingressBackend(b *networkingv1.IngressBackend, field string) plan.Backend {
	broken := func(v verdict, sub, mend string) plan.Backend {
		c.find(object.Error, field+sub, v.reason, v.message, mend)
		return plan.Backend{Weight: 1, Broken: &plan.Broken{Status: statusBroken, Reason: v.message}}
	}
	if b.Resource != nil {
		return broken(unsupported(fmt.Sprintf("windrose cannot send requests to a resource of kind %s", b.Resource.Kind)), ".resource", "name a Service")
	}
	if b.Service == nil {
		return broken(verdict{string(gatewayv1.RouteReasonBackendNotFound), "the backend names no Service"}, "", "name a Service")
	}
	name := object.Name{Namespace: c.key.Namespace, Name: b.Service.Name}
	c.in.services = append(c.in.services, name)
	notFound := string(gatewayv1.RouteReasonBackendNotFound)
	svc, ok := c.t.set.Services.Get(name.Namespace, name.Name)
	if !ok {
		c.in.serviceNames = true
		return broken(verdict{notFound, "Service " + name.String() + " does not exist"}, ".service.name", object.Meant(name.Name, namesIn(c.t.set.Services, name.Namespace)))
	}
	number := b.Service.Port.Number
	if named := b.Service.Port.Name; named != "" {
		for _, p := range svc.Spec.Ports {
			if p.Name == named {
				number = p.Port
			}
		}
		if number == 0 {
			return broken(verdict{notFound, fmt.Sprintf("Service %s has no port named %s", name, named)}, ".service.port.name", portsOf(svc))
		}
	}
	as, v, mend := c.t.speaks(svc, number, "Ingress")
	target := servicePort{name: name, port: number, as: as}
	if v.ok() {
		target.tls, v = c.t.policyVerdict(svc, target)
	}
	if !v.ok() {
		return broken(v, ".service.port", mend)
	}
	if why := c.t.unbelieved(target); why != "" {
		return plan.Backend{Weight: 1, Broken: &plan.Broken{Status: statusBroken, Reason: why}}
	}
	c.send(target)
	return plan.Backend{Service: target.String(), Weight: 1}
}

// ingressTLS reads the certificates, and gives a function that says whether a
// host is served over TLS.
func (c *compiler) ingressTLS(o *networkingv1.Ingress, made *compiled) func(host string) bool {
	var hosts []string
	all := false
	for i := range o.Spec.TLS {
		entry := &o.Spec.TLS[i]
		made.secure = true
		all = all || len(entry.Hosts) == 0
		for _, h := range entry.Hosts {
			hosts = append(hosts, strings.ToLower(h))
		}
		cert := c.ingressCertificate(o, entry, fmt.Sprintf("spec.tls[%d].secretName", i))
		if cert != nil && !slices.Contains(made.certs, cert) {
			made.certs = append(made.certs, cert)
		}
	}
	return func(host string) bool {
		return all || hasName(hosts, host)
	}
}

func (c *compiler) ingressCertificate(o *networkingv1.Ingress, entry *networkingv1.IngressTLS, field string) *certificate {
	invalid := string(gatewayv1.ListenerReasonInvalidCertificateRef)
	instead := ", so that its hosts are served with another certificate or a self-signed placeholder"
	if entry.SecretName == "" {
		c.find(object.Warning, field, invalid, "no Secret is named"+instead, "name a Secret of type kubernetes.io/tls")
		return nil
	}
	name := object.Name{Namespace: o.Namespace, Name: entry.SecretName}
	c.in.secrets = append(c.in.secrets, name)
	secret, ok := c.t.set.Secrets.Get(name.Namespace, name.Name)
	if !ok {
		c.in.secretNames = true
		c.find(object.Error, field, invalid, "Secret "+name.String()+" does not exist"+instead, object.Meant(name.Name, namesIn(c.t.set.Secrets, name.Namespace)))
		return nil
	}
	cert := c.t.secrets.read(secret)
	if cert.problem != "" {
		c.find(object.Error, field, invalid, "Secret "+name.String()+" cannot be used: "+cert.problem+instead, "write a certificate and its key into it")
		return nil
	}
	for _, h := range entry.Hosts {
		if h = strings.ToLower(h); !fits(cert.part.Certificate.Names, h) {
			c.find(object.Warning, field, reasonCertificateNames, fmt.Sprintf("the certificate in Secret %s is for %s and not for %s", name, listOr(cert.part.Certificate.Names, "no DNS name"), h), "use a certificate that names "+h)
		}
	}
	return cert
}

// ingressAttach hangs the rules of a host on the listeners of Ingresses.
func (c *compiler) ingressAttach(host string, secure bool) []plan.Attachment {
	var out []plan.Attachment
	on := func(at target) {
		if at.listener == "" {
			c.find(object.Error, "", string(gatewayv1.ListenerReasonProtocolConflict), fmt.Sprintf("socket %s is taken for protocol %s by a Gateway, so that the Ingress is not served there", at.socket, at.taken), "give the listener of the Gateway another port")
			return
		}
		out = append(out, plan.Attachment{Listener: at.listener, Host: host, Original: host, OneLabel: strings.HasPrefix(host, "*.")})
		c.shadowed(at, host)
	}
	on(c.t.ingress.plain)
	if secure {
		on(c.t.ingress.secure)
	}
	return out
}

// shadowed warns where a listener of a Gateway has the host for itself.
func (c *compiler) shadowed(at target, host string) {
	claim := c.t.gateways.claims[at.socket]
	if claim == nil || host == "" {
		return
	}
	l := claim.hosts[host]
	for wide := range widerThan(host) {
		if l == nil && wide != "" {
			l = claim.hosts[wide]
		}
	}
	if l != nil {
		c.find(object.Warning, "spec.rules", reasonShadowed, fmt.Sprintf("host %s on %s belongs to listener %s of %s, so that the Ingress does not get its requests", host, at.socket, l.spec.Name, l.owner), "use an HTTPRoute, or remove the host name from the listener")
	}
}

// showIngress gives an Ingress the addresses of the machine if any of its
// sockets can be had.
func (c *compiler) showIngress(o *networkingv1.Ingress, secure bool) *object.Status {
	s := &object.Status{Object: c.key, Generation: o.Generation, Ingress: &networkingv1.IngressStatus{}}
	targets := []target{c.t.ingress.plain}
	if secure {
		targets = append(targets, c.t.ingress.secure)
	}
	for _, at := range targets {
		if at.listener != "" {
			s.Sockets = append(s.Sockets, []string{at.socket})
		}
	}
	if len(s.Sockets) == 0 {
		return s
	}
	addresses := c.t.env.Addresses
	if addr := c.t.ingress.ports.addr; !addr.IsUnspecified() {
		addresses = []string{addr.String()}
	}
	for _, a := range addresses {
		s.Ingress.LoadBalancer.Ingress = append(s.Ingress.LoadBalancer.Ingress, networkingv1.IngressLoadBalancerIngress{IP: a})
	}
	return s
}
