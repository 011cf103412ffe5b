package translate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// inputs are what a compiled object was made from besides itself: every
// lookup with what it gave, so that the same lookups need not be made again
// where nothing of it changed.
type inputs struct {
	parents  []lookup
	services []object.Name // looked up, also in vain
	secrets  []object.Name // likewise

	xbackends     []object.Name // looked up, also in vain
	xbackendNames bool          // which XBackends there are

	namespace    bool // the labels of the object's own namespace
	grants       bool // any ReferenceGrant
	configMaps   bool // any ConfigMap
	serviceNames bool // which Services there are, for a nearest name
	secretNames  bool // likewise
	parentNames  bool // which parents there are
	ingress      bool // IngressClasses, and where Ingresses attach
}

// lookup is a parent that was looked for.
type lookup struct {
	key   object.Key
	found *parent
}

// stale says whether any lookup would give something else now.
func (in *inputs) stale(t *Translator, namespace string) bool {
	d := &t.delta
	switch {
	case in.namespace && d.namespaces.has(object.Name{Name: namespace}),
		in.grants && d.grants.any(),
		in.configMaps && d.configMaps.any(),
		in.serviceNames && d.services.names,
		in.secretNames && d.secrets.names,
		in.xbackendNames && d.xbackends.names,
		in.parentNames && t.gateways.names,
		in.ingress && t.ingress.changed:
		return true
	}
	if t.gateways.changed {
		for _, l := range in.parents {
			if t.gateways.parents[l.key] != l.found {
				return true
			}
		}
	}
	if d.services.any() || d.policies.any() || d.configMaps.any() || d.bundles.any() {
		if slices.ContainsFunc(in.services, func(n object.Name) bool { return d.services.has(n) || t.policyChanged(n) }) {
			return true
		}
	}
	for _, name := range in.xbackends {
		if _, changed := t.xbackends.changed[name]; changed {
			return true
		}
	}
	return d.secrets.any() && slices.ContainsFunc(in.secrets, d.secrets.has)
}

// compiler makes the parts of one route or Ingress.
type compiler struct {
	t          *Translator
	key        object.Key
	generation int64

	in       inputs
	findings []object.Finding
	services []servicePort // that the object sends requests to
	opaque   bool          // it is attached where TLS is left to the service
	resolved verdict       // the first reference that did not resolve
	invalid  verdict       // the first rule that cannot be carried out
	broken   []string      // names of such rules
	dead     int           // how many of them serve nothing at all
	halted   string        // why what holds the filters that were compiled last cannot serve
}

func (c *compiler) find(severity object.Severity, field, reason, message, mend string) {
	c.findings = append(c.findings, object.Finding{Severity: severity, Object: c.key, Field: field, Reason: reason, Message: message, Mend: mend})
}

// unresolved notes a reference that does not resolve.
func (c *compiler) unresolved(v verdict) {
	if c.resolved.ok() {
		c.resolved = v
	}
}

// attached is what came of one parentRef.
type attached struct {
	ref       *gatewayv1.ParentReference
	parent    *parent // nil: windrose has no say in it
	accepted  verdict
	listeners []*listener
}

// attach follows a route's parentRefs.
func (c *compiler) attach(spec *gatewayv1.CommonRouteSpec, hostnames []gatewayv1.Hostname) []attached {
	if scope := spec.UseDefaultGateways; scope != "" && scope != gatewayv1.GatewayDefaultScopeNone {
		c.find(object.Warning, "spec.useDefaultGateways", reasonNotCarried, "windrose does not carry default Gateways yet", "name the Gateway in parentRefs")
	}
	list := make([]attached, 0, len(spec.ParentRefs))
	for i := range spec.ParentRefs {
		list = append(list, c.follow(i, &spec.ParentRefs[i], hostnames))
	}
	return list
}

func (c *compiler) follow(i int, ref *gatewayv1.ParentReference, hostnames []gatewayv1.Hostname) attached {
	a := attached{ref: ref}
	field := func(sub string) string { return fmt.Sprintf("spec.parentRefs[%d]%s", i, sub) }
	key := object.Key{Kind: "Gateway", Namespace: c.key.Namespace, Name: string(ref.Name)}
	if ref.Namespace != nil {
		key.Namespace = string(*ref.Namespace)
	}
	if ref.Kind != nil {
		key.Kind = string(*ref.Kind)
	}
	if group := ref.Group; group != nil && *group != gatewayv1.GroupName || key.Kind != "Gateway" && key.Kind != "ListenerSet" {
		message := fmt.Sprintf("windrose knows no parent of kind %s", key.Kind)
		if group != nil && *group != gatewayv1.GroupName {
			message += fmt.Sprintf(" in group %q", *group)
		}
		if key.Kind == "Service" {
			message = "windrose does not carry routes of a Service (mesh) yet"
		}
		c.find(object.Error, field(".kind"), reasonNotCarried, message, "name a Gateway")
		return a
	}
	p := c.t.gateways.parents[key]
	c.in.parents = append(c.in.parents, lookup{key, p})
	if p == nil {
		c.in.parentNames = true
		c.find(object.Error, field(".name"), reasonParentNotFound, key.String()+" does not exist", c.nearestParent(key))
		return a
	}
	if !p.managed {
		c.find(object.Warning, field(".name"), reasonParentNotManaged, key.String()+" is not served by windrose", "look at its GatewayClass: windrose serves those with controllerName "+GatewayController)
		return a
	}
	a.parent = p
	var mend string
	a.accepted, mend = c.choose(&a, hostnames)
	if !a.accepted.ok() {
		c.find(object.Error, field(""), a.accepted.reason, a.accepted.message, mend)
		return a
	}
	if c.t.carried.kind(c.key.Kind) && !slices.ContainsFunc(a.listeners, (*listener).serves) {
		l := a.listeners[0]
		c.find(object.Warning, field(""), reasonNotServing, fmt.Sprintf("the route is attached, but takes no requests: listener %s of %s does not serve: %s", l.spec.Name, key, l.why()), "")
	}
	return a
}

func (c *compiler) nearestParent(key object.Key) string {
	if key.Kind == "ListenerSet" {
		return meant(c.t.set.ListenerSets, key.Namespace, key.Name, "")
	}
	return meant(c.t.set.Gateways, key.Namespace, key.Name, "")
}

// choose finds the listeners of a parent that take the route. Each test leaves
// fewer of them; the one that leaves none says why.
func (c *compiler) choose(a *attached, hostnames []gatewayv1.Hostname) (verdict, string) {
	p, ref := a.parent, a.ref
	if !p.serves() {
		why := p.accepted.message
		if p.accepted.ok() {
			why = p.gateway.accepted.message
		}
		return verdict{string(gatewayv1.RouteReasonNoMatchingParent), p.key.String() + " is not accepted: " + why}, ""
	}
	named := filter(p.listeners, func(l *listener) bool {
		return (ref.SectionName == nil || *ref.SectionName == "" || *ref.SectionName == l.spec.Name) && (ref.Port == nil || *ref.Port == l.spec.Port)
	})
	if len(named) == 0 {
		return verdict{string(gatewayv1.RouteReasonNoMatchingParent), p.key.String() + " has no listener" + wanted(ref)}, nearestSection(p, ref)
	}
	ofKind := filter(named, func(l *listener) bool { return slices.Contains(l.routes, gatewayv1.Kind(c.key.Kind)) })
	if len(ofKind) == 0 {
		if l := named[0]; len(named) == 1 && !l.accepted.ok() {
			return verdict{string(gatewayv1.RouteReasonNotAllowedByListeners), fmt.Sprintf("listener %s of %s takes no routes: %s", l.spec.Name, p.key, l.accepted.message)}, "mend the listener"
		}
		return verdict{string(gatewayv1.RouteReasonNotAllowedByListeners), fmt.Sprintf("no listener of %s takes routes of kind %s", p.key, c.key.Kind)},
			"attach the route to a listener of another protocol, or allow the kind in allowedRoutes.kinds of the listener"
	}
	admitted := filter(ofKind, func(l *listener) bool {
		c.in.namespace = c.in.namespace || l.from == gatewayv1.NamespacesFromSelector
		return l.admits(c.t, c.key.Namespace)
	})
	if len(admitted) == 0 {
		return verdict{string(gatewayv1.RouteReasonNotAllowedByListeners), fmt.Sprintf("no listener of %s takes routes of namespace %s", p.key, c.key.Namespace)},
			"allow the namespace in allowedRoutes.namespaces of the listener"
	}
	a.listeners = filter(admitted, func(l *listener) bool { return meets(l.hostname, hostnames) })
	if len(a.listeners) == 0 {
		return verdict{string(gatewayv1.RouteReasonNoMatchingListenerHostname), fmt.Sprintf("no listener of %s has a host name in common with the route: %s against %s", p.key, listenerHosts(admitted), routeHosts(hostnames))},
			"name a host that the listener takes, or attach the route to another listener"
	}
	return verdict{}, ""
}

func filter(list []*listener, keep func(*listener) bool) []*listener {
	out := make([]*listener, 0, len(list))
	for _, l := range list {
		if keep(l) {
			out = append(out, l)
		}
	}
	return out
}

func wanted(ref *gatewayv1.ParentReference) string {
	text := ""
	if ref.SectionName != nil && *ref.SectionName != "" {
		text += " " + string(*ref.SectionName)
	}
	if ref.Port != nil {
		text += fmt.Sprintf(" on port %d", *ref.Port)
	}
	return text
}

func nearestSection(p *parent, ref *gatewayv1.ParentReference) string {
	names := make([]string, len(p.listeners))
	for i, l := range p.listeners {
		names[i] = string(l.spec.Name)
	}
	if ref.SectionName != nil && !slices.Contains(names, string(*ref.SectionName)) {
		return object.Meant(string(*ref.SectionName), slices.Values(names))
	}
	return "its listeners are " + listOr(names, "none")
}

func meets(listener string, hostnames []gatewayv1.Hostname) bool {
	if len(hostnames) == 0 {
		return true
	}
	return slices.ContainsFunc(hostnames, func(h gatewayv1.Hostname) bool {
		_, ok := intersect(listener, strings.ToLower(string(h)))
		return ok
	})
}

func listenerHosts(list []*listener) string {
	hosts := make([]string, len(list))
	for i, l := range list {
		hosts[i] = cmp.Or(l.hostname, "*")
	}
	return listOr(hosts, "none")
}

func routeHosts(hostnames []gatewayv1.Hostname) string {
	hosts := make([]string, len(hostnames))
	for i, h := range hostnames {
		hosts[i] = string(h)
	}
	return listOr(hosts, "none")
}

// attachments are the places in the plan of what a route is attached to.
func attachments(list []attached, hostnames []gatewayv1.Hostname) []plan.Attachment {
	var out []plan.Attachment
	for i := range list {
		if !list[i].accepted.ok() {
			continue
		}
		for _, l := range list[i].listeners {
			if !l.serves() {
				continue
			}
			if len(hostnames) == 0 {
				out = addAttachment(out, plan.Attachment{Listener: l.key, Host: l.hostname})
				continue
			}
			for _, h := range hostnames {
				original := strings.ToLower(string(h))
				if host, ok := intersect(l.hostname, original); ok {
					out = addAttachment(out, plan.Attachment{Listener: l.key, Host: host, Original: original})
				}
			}
		}
	}
	return out
}

// addAttachment keeps one attachment for each listener and host: that of the
// most specific original.
func addAttachment(list []plan.Attachment, a plan.Attachment) []plan.Attachment {
	for i := range list {
		if list[i].Listener == a.Listener && list[i].Host == a.Host {
			if plan.CompareHostnames(a.Original, list[i].Original) < 0 {
				list[i] = a
			}
			return list
		}
	}
	return append(list, a)
}

// show makes the status of a route.
func (c *compiler) show(list []attached) *object.Status {
	status := &gatewayv1.RouteStatus{Parents: make([]gatewayv1.RouteParentStatus, 0, len(list))}
	for i := range list {
		if list[i].parent == nil {
			continue
		}
		status.Parents = append(status.Parents, gatewayv1.RouteParentStatus{
			ParentRef: *list[i].ref, ControllerName: GatewayController, Conditions: c.conditions(&list[i]),
		})
	}
	return &object.Status{Object: c.key, Generation: c.generation, Route: status}
}

// maxShared bounds the lists of conditions that routes share.
const maxShared = 1024

// conditions are those of one parent. Where all is well they say the same for
// every route of a generation, and thousands of routes share one list.
func (c *compiler) conditions(a *attached) []metav1.Condition {
	well := a.accepted.ok() && c.resolved.ok() && c.invalid.ok()
	if shared := c.t.routes.fine[c.generation]; well && shared != nil {
		return shared
	}
	list := []metav1.Condition{
		conclude(string(gatewayv1.RouteConditionAccepted), a.accepted, "attached", c.generation),
		conclude(string(gatewayv1.RouteConditionResolvedRefs), c.resolved, "references are resolved", c.generation),
	}
	if a.accepted.ok() && !c.invalid.ok() {
		list = append(list, condition(string(gatewayv1.RouteConditionPartiallyInvalid), true, c.invalid.reason,
			"Dropped Rule "+strings.Join(c.broken, ", ")+": its requests are answered with 500, because "+c.invalid.message, c.generation))
	}
	if well {
		if len(c.t.routes.fine) >= maxShared {
			clear(c.t.routes.fine)
		}
		c.t.routes.fine[c.generation] = list
	}
	return list
}
