package translate

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/api/v1alpha1"
	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// parent is what a route can attach to: a Gateway or a ListenerSet.
type parent struct {
	key        object.Key
	object     metav1.Object
	managed    bool // by windrose
	listeners  []*listener
	accepted   verdict // beyond its listeners
	gateway    *parent // of a ListenerSet
	sets       int32   // accepted ListenerSets of a Gateway
	addrs      []netip.Addr
	static     bool         // addrs were asked for
	assigned   []assigned   // the addresses that were asked for and can be given
	unassigned []string     // why others cannot
	backend    *verdict     // on the certificate shown to backends; nil without one
	shows      *certificate // to backends
	insecure   []string     // where clients are served that are not believed
	findings   []object.Finding

	shown *object.Status // of the last run
}

// valid counts the listeners that serve.
func (p *parent) valid() int {
	n := 0
	for _, l := range p.listeners {
		if l.serves() {
			n++
		}
	}
	return n
}

// serves says whether any listener may become part of the plan.
func (p *parent) serves() bool {
	return p.accepted.ok() && (p.gateway == nil || p.gateway.accepted.ok())
}

// gateways are the classes, Gateways and ListenerSets as translated.
type gateways struct {
	parents       map[object.Key]*parent
	order         []*parent // by precedence: each Gateway and after it its ListenerSets
	classes       []*object.Status
	settings      *plan.Part
	sockets       []*plan.Part
	socketParts   map[string]*plan.Part // every socket in use, by name
	lent          []string              // sockets that Ingresses use too
	claims        map[string]*claim     // by socket
	listenerParts []*plan.Part          // and their placeholders
	certs         []*certificate        // of listeners that serve
	placeholders  map[string]*plan.Part // by listener
	findings      []object.Finding
	refs          []*compiled                 // what filters of listeners and tracing refer to
	params        *v1alpha1.GatewayParameters // that the settings are from; nil without
	tracing       tracings

	// What the last update changed, for those who looked something up.
	changed bool
	names   bool
}

// update compiles all of it again if any of its inputs changed: there are few.
func (g *gateways) update(t *Translator) {
	d := &t.delta
	g.changed = d.classes.any() || d.gateways.any() || d.listenerSets.any() || d.grants.any() || d.secrets.any() ||
		d.configMaps.any() || d.bundles.any() || d.namespaces.any() || d.parameters.any() || d.telemetry.any() ||
		slices.ContainsFunc(g.refs, func(c *compiled) bool { return c.in.stale(t, "") })
	g.names = g.changed && (d.classes.any() || d.gateways.names || d.listenerSets.names)
	if !g.changed {
		return
	}
	g.findings, g.claims = nil, map[string]*claim{}
	managed := g.readClasses(t)
	old, refs := g.parents, g.refs
	g.parents, g.order, g.refs = map[object.Key]*parent{}, nil, nil

	sets := t.listenerSetsByGateway()
	all := slices.SortedFunc(slices.Values(t.set.Gateways.All()), func(a, b *gatewayv1.Gateway) int { return older(a, b) })
	for _, gw := range all {
		p := g.readGateway(t, gw, managed)
		for _, ls := range sets[object.NameOf(gw)] {
			g.readListenerSet(t, ls, p)
		}
		delete(sets, object.NameOf(gw))
	}
	for _, ls := range t.set.ListenerSets.All() {
		if _, ok := sets[gatewayOf(ls)]; ok {
			g.orphan(t, ls)
		}
	}
	g.readTracing(t)
	for _, c := range g.refs {
		t.services.use(c)
	}
	for _, c := range refs {
		t.services.drop(c)
	}
	g.markOverlaps()
	g.keep(old)
	g.makeSockets()
}

// keep puts what is new into the memory of what was known before, so that
// routes which looked it up need not look again.
func (g *gateways) keep(old map[object.Key]*parent) {
	for i, p := range g.order {
		was := old[p.key]
		if was == nil || !sameForRoutes(was, p) {
			if was != nil {
				p.shown = was.shown
			}
			continue
		}
		p.shown = was.shown
		for j, l := range p.listeners {
			*was.listeners[j] = *l
		}
		p.listeners = was.listeners
		*was = *p
		g.order[i], g.parents[p.key] = was, was
	}
	for _, p := range g.order {
		if p.gateway != nil {
			p.gateway = g.parents[p.gateway.key]
		}
	}
}

// sameForRoutes says whether a route that attached to one attaches to the
// other just so.
func sameForRoutes(a, b *parent) bool {
	return a.object == b.object && a.managed == b.managed && a.accepted == b.accepted && a.serves() == b.serves() &&
		slices.EqualFunc(a.listeners, b.listeners, func(x, y *listener) bool {
			return x.serves() == y.serves() && x.why() == y.why()
		})
}

func (g *gateways) add(p *parent) {
	g.parents[p.key] = p
	g.order = append(g.order, p)
}

func (g *gateways) readGateway(t *Translator, gw *gatewayv1.Gateway, managed map[string]verdict) *parent {
	p := &parent{key: object.Key{Kind: "Gateway", Namespace: gw.Namespace, Name: gw.Name}, object: gw}
	class, ok := managed[string(gw.Spec.GatewayClassName)]
	p.managed = ok
	g.add(p)
	if !ok {
		g.unmanaged(t, p, gw)
		return p
	}
	if !class.ok() {
		p.accepted = verdict{string(gatewayv1.GatewayReasonInvalidParameters), fmt.Sprintf("GatewayClass %s is not accepted: %s", gw.Spec.GatewayClassName, class.message)}
		p.find(object.Error, "spec.gatewayClassName", p.accepted.reason, p.accepted.message, "mend the GatewayClass")
	}
	unknownAnnotations(gw.Annotations, "", p.find)
	readAddresses(p, gw)
	readInfrastructure(p, gw)
	g.readBackendTLS(t, p, gw)
	p.insecure = insecure(gw)
	for _, field := range p.insecure {
		p.find(object.Warning, field, string(gatewayv1.GatewayConditionInsecureFrontendValidationMode), "clients without a valid certificate are served too: whether one was shown is for the backends to look at",
			"use AllowValidOnly once every client has a certificate")
	}
	m := &listenerMaker{t: t, owner: p.key, object: gw, addrs: p.addrs, tls: gw.Spec.TLS, tlsOwner: p.key, shows: p.shows, refs: refer(t, p), findings: &p.findings}
	if a := gw.Spec.AllowedListeners; a != nil && a.Namespaces != nil && a.Namespaces.From != nil {
		m.selector(a.Namespaces.Selector, *a.Namespaces.From, "spec.allowedListeners.namespaces.selector")
	}
	for i := range gw.Spec.Listeners {
		p.listeners = append(p.listeners, m.make(i, &gw.Spec.Listeners[i]))
	}
	g.referred(m.refs, p.listeners)
	g.claim(p)
	return p
}

// refer gives what follows the references of a parent's listeners, besides those
// to certificates; referred remembers them.
func refer(t *Translator, p *parent) *compiler {
	return &compiler{t: t, key: p.key, generation: p.object.GetGeneration()}
}

func (g *gateways) referred(c *compiler, by []*listener) {
	if len(c.in.services)+len(c.in.xbackends) > 0 || c.in.grants {
		g.refs = append(g.refs, &compiled{services: c.services, in: c.in, attached: by})
	}
}

func (p *parent) find(severity object.Severity, field, reason, message, mend string) {
	p.findings = append(p.findings, object.Finding{Severity: severity, Object: p.key, Field: field, Reason: reason, Message: message, Mend: mend})
}

// unmanaged tells the author of a Gateway whose class nobody wrote; a class of
// another controller is none of our business.
func (g *gateways) unmanaged(t *Translator, p *parent, gw *gatewayv1.Gateway) {
	name := string(gw.Spec.GatewayClassName)
	if _, ok := t.set.GatewayClasses.Get("", name); ok {
		return
	}
	mend := object.Meant(name, namesIn(t.set.GatewayClasses, ""))
	if mend == "" {
		mend = "write a GatewayClass " + name + " with controllerName " + GatewayController
	}
	p.find(object.Error, "spec.gatewayClassName", reasonClassNotFound, "GatewayClass "+name+" does not exist, so that nobody serves this Gateway", mend)
}

func readInfrastructure(p *parent, gw *gatewayv1.Gateway) {
	if scope := gw.Spec.DefaultScope; scope != "" && scope != gatewayv1.GatewayDefaultScopeNone {
		p.find(object.Warning, "spec.defaultScope", reasonNotCarried, "windrose does not carry default Gateways yet: no route attaches by itself", "name this Gateway in the parentRefs of the routes")
	}
	infra := gw.Spec.Infrastructure
	if infra == nil {
		return
	}
	if ref := infra.ParametersRef; ref != nil {
		v := verdict{string(gatewayv1.GatewayReasonInvalidParameters), fmt.Sprintf("windrose reads parameters from the GatewayClass and not from a Gateway, and does not know %s %s here", ref.Kind, ref.Name)}
		if p.accepted.ok() {
			p.accepted = v
		}
		p.find(object.Error, "spec.infrastructure.parametersRef", v.reason, v.message, "name GatewayParameters in the parametersRef of the GatewayClass")
	}
	if len(infra.Labels)+len(infra.Annotations) > 0 {
		p.find(object.Info, "spec.infrastructure", reasonNotRead, "windrose makes no object for a Gateway on one machine, so that these labels and annotations have no effect", "")
	}
}

// readBackendTLS reads the certificate that backends are shown. Where it cannot
// be used, none is shown: that opens nothing that a backend keeps closed.
func (g *gateways) readBackendTLS(t *Translator, p *parent, gw *gatewayv1.Gateway) {
	if gw.Spec.TLS == nil || gw.Spec.TLS.Backend == nil || gw.Spec.TLS.Backend.ClientCertificateRef == nil {
		return
	}
	ref, field := gw.Spec.TLS.Backend.ClientCertificateRef, "spec.tls.backend.clientCertificateRef"
	namespace := gw.Namespace
	if ref.Namespace != nil {
		namespace = string(*ref.Namespace)
	}
	v, mend, invalid := verdict{}, "", string(gatewayv1.GatewayReasonInvalidClientCertificateRef)
	if ref.Group != nil && *ref.Group != "" || ref.Kind != nil && *ref.Kind != "Secret" {
		v, mend = verdict{invalid, fmt.Sprintf("client certificate %s is of a kind that windrose cannot read", ref.Name)}, "name a Secret"
	} else if !t.granted(p.key, "Secret", namespace, string(ref.Name)) {
		v = verdict{string(gatewayv1.GatewayReasonRefNotPermitted), fmt.Sprintf("no ReferenceGrant in namespace %s lets Gateways of namespace %s refer to Secret %s", namespace, gw.Namespace, ref.Name)}
		mend = grantMend(p.key, "Secret", namespace, string(ref.Name))
	} else if secret, ok := t.set.Secrets.Get(namespace, string(ref.Name)); !ok {
		v, mend = verdict{invalid, fmt.Sprintf("Secret %s/%s does not exist", namespace, ref.Name)}, object.Meant(string(ref.Name), namesIn(t.set.Secrets, namespace))
	} else if c := t.secrets.read(secret); c.problem != "" {
		v = verdict{invalid, fmt.Sprintf("Secret %s/%s cannot be used: %s", namespace, ref.Name, c.problem)}
	} else if t.carried.ClientCerts {
		p.shows = c
	}
	p.backend = &v
	switch {
	case !v.ok():
		p.find(object.Error, field, v.reason, v.message+", so that backends are shown no certificate", mend)
	case !t.carried.ClientCerts:
		p.find(object.Warning, field, reasonNotCarried, "windrose does not carry TLS to backends yet, so that this certificate is not shown to anybody", "")
	}
}

// showGateway makes the status of a Gateway; it needs the routes counted.
func (t *Translator) showGateway(p *parent) *object.Status {
	generation, valid := p.object.GetGeneration(), p.valid()
	status := &gatewayv1.GatewayStatus{}
	accepted, programmed := p.accepted, verdict{}
	acceptedReason := string(gatewayv1.GatewayReasonAccepted)
	message := "accepted"
	if valid < len(p.listeners) && accepted.ok() {
		message = "listeners that are not valid: " + p.invalidListeners()
		acceptedReason = string(gatewayv1.GatewayReasonListenersNotValid)
		if valid == 0 {
			accepted = verdict{acceptedReason, message}
		}
	}
	if !accepted.ok() {
		acceptedReason, message = accepted.reason, accepted.message
		programmed = verdict{string(gatewayv1.GatewayReasonInvalid), message}
		if len(p.unassigned) > 0 {
			programmed.reason = string(gatewayv1.GatewayReasonAddressNotAssigned)
		}
	}
	status.Conditions = append(status.Conditions,
		condition(string(gatewayv1.GatewayConditionAccepted), accepted.ok(), acceptedReason, message, generation),
		conclude(string(gatewayv1.GatewayConditionProgrammed), programmed, "programmed", generation))
	if resolved := p.references(); resolved != nil {
		status.Conditions = append(status.Conditions, conclude(string(gatewayv1.GatewayConditionResolvedRefs), *resolved, "references are resolved", generation))
	}
	if accepted.ok() || len(p.unassigned) > 0 {
		status.Conditions = append(status.Conditions, p.addressesAssigned(accepted.ok()))
	}
	if len(p.insecure) > 0 {
		status.Conditions = append(status.Conditions, condition(string(gatewayv1.GatewayConditionInsecureFrontendValidationMode), true,
			string(gatewayv1.GatewayReasonConfigurationChanged), "clients without a valid certificate are served too", generation))
	}
	s := &object.Status{Object: p.key, Generation: generation, Gateway: status, Static: p.static}
	for _, l := range p.listeners {
		status.Listeners = append(status.Listeners, gatewayv1.ListenerStatus{
			Name: l.spec.Name, SupportedKinds: kindsOf(l), AttachedRoutes: l.attached, Conditions: l.conditions(accepted.ok()),
		})
		s.Sockets = append(s.Sockets, l.served(accepted.ok()))
	}
	status.AttachedListenerSets = new(p.sets)
	if accepted.ok() {
		status.Addresses = t.statusAddresses(p)
	}
	return s
}

// references sums up ResolvedRefs; nil if there is nothing to say.
func (p *parent) references() *verdict {
	if p.backend != nil && !p.backend.ok() {
		return p.backend
	}
	for _, l := range p.listeners {
		if !l.resolved.ok() {
			return &verdict{string(gatewayv1.GatewayReasonListenersNotResolved), "listener " + string(l.spec.Name) + ": " + l.resolved.message}
		}
	}
	return &verdict{}
}

func (p *parent) invalidListeners() string {
	names := []string{}
	for _, l := range p.listeners {
		switch {
		case !l.serves():
			names = append(names, string(l.spec.Name)+" ("+l.why()+")")
		case p.gateway != nil && l.substituted:
			names = append(names, string(l.spec.Name)+" ("+l.resolved.message+")")
		}
	}
	return listOr(names, "none")
}

func kindsOf(l *listener) []gatewayv1.RouteGroupKind {
	if l.kinds == nil {
		return []gatewayv1.RouteGroupKind{}
	}
	return l.kinds
}

// conclude makes a condition from a verdict; its reason when true is its type.
func conclude(kind string, v verdict, fine string, generation int64) metav1.Condition {
	if v.ok() {
		return condition(kind, true, kind, fine, generation)
	}
	return condition(kind, false, v.reason, v.message, generation)
}

// served are the sockets of a listener that is in the plan.
func (l *listener) served(parent bool) []string {
	if !parent || !l.serves() {
		return nil
	}
	return l.sockets
}

func (l *listener) conditions(parent bool) []metav1.Condition {
	accepted, programmed := l.accepted, verdict{}
	if !l.conflict.ok() {
		accepted = l.conflict
	}
	switch {
	case !l.conflict.ok():
		programmed = l.conflict
	case !accepted.ok():
		programmed = verdict{string(gatewayv1.ListenerReasonInvalid), accepted.message}
	case !parent:
		programmed = verdict{string(gatewayv1.ListenerReasonInvalid), "the " + l.owner.Kind + " is not accepted"}
	}
	if l.substituted && programmed.ok() {
		what := "a self-signed placeholder certificate"
		if l.substitute == nil {
			what = "no certificate at all"
		}
		// The API wants it so, although clients who accept it are served.
		programmed = verdict{string(gatewayv1.ListenerReasonInvalid), "it serves with " + what + ", because " + l.resolved.message}
	}
	list := []metav1.Condition{
		conclude(string(gatewayv1.ListenerConditionAccepted), accepted, "accepted", l.generation),
		conclude(string(gatewayv1.ListenerConditionProgrammed), programmed, "programmed", l.generation),
		conclude(string(gatewayv1.ListenerConditionResolvedRefs), l.resolved, "references are resolved", l.generation),
	}
	if l.conflict.ok() {
		list = append(list, condition(string(gatewayv1.ListenerConditionConflicted), false, string(gatewayv1.ListenerReasonNoConflicts), "no conflicts", l.generation))
	} else {
		list = append(list, condition(string(gatewayv1.ListenerConditionConflicted), true, l.conflict.reason, l.conflict.message, l.generation))
	}
	if l.overlap != "" && l.serves() {
		list = append(list, condition(string(gatewayv1.ListenerConditionOverlappingTLSConfig), true, string(gatewayv1.ListenerReasonOverlappingHostnames),
			"another listener on the same port has the overlapping host name "+l.overlap, l.generation))
	}
	return list
}

// collect gives the parts, statuses and findings of gateways.
func (g *gateways) collect(t *Translator, r *Result) {
	if g.settings != nil {
		r.Parts = append(r.Parts, g.settings)
	}
	r.Parts = append(r.Parts, g.sockets...)
	r.Parts = g.collectListeners(t, r.Parts)
	r.Parts = append(r.Parts, g.tracing.parts...)
	r.Statuses = append(r.Statuses, g.classes...)
	r.Statuses = append(r.Statuses, g.tracing.statuses...)
	r.Findings = append(r.Findings, g.findings...)
	for _, p := range g.order {
		r.Findings = append(r.Findings, p.findings...)
		if !p.managed {
			continue
		}
		if g.changed || p.shown == nil || p.countsChanged() {
			shown := t.show(p)
			if p.shown == nil || !reflect.DeepEqual(p.shown, shown) {
				p.shown = shown
			}
		}
		r.Statuses = append(r.Statuses, p.shown)
	}
}

func (t *Translator) show(p *parent) *object.Status {
	if p.key.Kind == "Gateway" {
		return t.showGateway(p)
	}
	return showListenerSet(p)
}

// countsChanged compares the attached routes with those of the last status.
func (p *parent) countsChanged() bool {
	for i, l := range p.listeners {
		if p.shown.Gateway != nil && p.shown.Gateway.Listeners[i].AttachedRoutes != l.attached ||
			p.shown.ListenerSet != nil && p.shown.ListenerSet.Listeners[i].AttachedRoutes != l.attached {
			return true
		}
	}
	return false
}
