package translate

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
)

// listenerSetsByGateway groups ListenerSets by the Gateway that they name,
// each group in order of precedence.
func (t *Translator) listenerSetsByGateway() map[object.Name][]*gatewayv1.ListenerSet {
	groups := map[object.Name][]*gatewayv1.ListenerSet{}
	for _, ls := range t.set.ListenerSets.All() {
		groups[gatewayOf(ls)] = append(groups[gatewayOf(ls)], ls)
	}
	for _, group := range groups {
		slices.SortFunc(group, func(a, b *gatewayv1.ListenerSet) int { return older(a, b) })
	}
	return groups
}

func gatewayOf(ls *gatewayv1.ListenerSet) object.Name {
	ref := &ls.Spec.ParentRef
	namespace := ls.Namespace
	if ref.Namespace != nil {
		namespace = string(*ref.Namespace)
	}
	return object.Name{Namespace: namespace, Name: string(ref.Name)}
}

func (g *gateways) readListenerSet(t *Translator, ls *gatewayv1.ListenerSet, gateway *parent) {
	p := &parent{
		key:    object.Key{Kind: "ListenerSet", Namespace: ls.Namespace, Name: ls.Name},
		object: ls, gateway: gateway, managed: gateway.managed, addrs: gateway.addrs, static: gateway.static,
	}
	g.add(p)
	if ref := ls.Spec.ParentRef; ref.Kind != nil && *ref.Kind != "Gateway" || ref.Group != nil && *ref.Group != gatewayv1.GroupName {
		p.managed = false
		p.find(object.Error, "spec.parentRef.kind", reasonParentNotFound, "the parent of a ListenerSet is a Gateway", "name a Gateway of group "+gatewayv1.GroupName)
		return
	}
	if !p.managed {
		return
	}
	unknownAnnotations(ls.Annotations, "", p.find)
	p.accepted = g.allowedSet(t, gateway, ls)
	if !p.accepted.ok() {
		mend := ""
		if p.accepted.reason == string(gatewayv1.ListenerSetReasonNotAllowed) {
			from := gatewayv1.NamespacesFromSame
			if gateway.key.Namespace != ls.Namespace {
				from = gatewayv1.NamespacesFromAll
			}
			mend = fmt.Sprintf("without allowedListeners a Gateway allows none: write allowedListeners: { namespaces: { from: %s } } into its spec, or a selector", from)
		}
		p.find(object.Error, "spec.parentRef", p.accepted.reason, p.accepted.message, mend)
	}
	m := &listenerMaker{t: t, owner: p.key, object: ls, addrs: gateway.addrs, shows: gateway.shows, refs: refer(t, p), findings: &p.findings}
	if gw, ok := gateway.object.(*gatewayv1.Gateway); ok {
		m.tls, m.tlsOwner = gw.Spec.TLS, gateway.key
	}
	for i := range ls.Spec.Listeners {
		spec := gatewayv1.Listener(ls.Spec.Listeners[i])
		p.listeners = append(p.listeners, m.make(i, &spec))
	}
	g.referred(m.refs, p.listeners)
	g.claim(p)
	if p.accepted.ok() && p.useful() > 0 {
		gateway.sets++
	}
}

// allowedSet says whether a Gateway takes a ListenerSet.
func (g *gateways) allowedSet(t *Translator, gateway *parent, ls *gatewayv1.ListenerSet) verdict {
	gw, ok := gateway.object.(*gatewayv1.Gateway)
	if !ok {
		return verdict{string(gatewayv1.ListenerSetReasonInvalid), "the parent is no Gateway"}
	}
	from := gatewayv1.NamespacesFromNone
	var labels *metav1.LabelSelector
	if a := gw.Spec.AllowedListeners; a != nil && a.Namespaces != nil && a.Namespaces.From != nil {
		from, labels = *a.Namespaces.From, a.Namespaces.Selector
	}
	// What is wrong with the selector was told when the Gateway was read.
	m := &listenerMaker{t: t, owner: gateway.key, findings: new([]object.Finding)}
	if !admits(t, from, m.selector(labels, from, "spec.allowedListeners.namespaces.selector"), gw.Namespace, ls.Namespace) {
		return verdict{string(gatewayv1.ListenerSetReasonNotAllowed), fmt.Sprintf("Gateway %s/%s does not allow ListenerSets of namespace %s (spec.allowedListeners)", gw.Namespace, gw.Name, ls.Namespace)}
	}
	if !gateway.accepted.ok() {
		return verdict{string(gatewayv1.ListenerSetReasonParentNotAccepted), fmt.Sprintf("Gateway %s/%s is not accepted: %s", gw.Namespace, gw.Name, gateway.accepted.message)}
	}
	return verdict{}
}

// orphan reports a ListenerSet whose Gateway does not exist.
func (g *gateways) orphan(t *Translator, ls *gatewayv1.ListenerSet) {
	p := &parent{key: object.Key{Kind: "ListenerSet", Namespace: ls.Namespace, Name: ls.Name}, object: ls}
	g.add(p)
	name := gatewayOf(ls)
	p.find(object.Error, "spec.parentRef.name", reasonParentNotFound, "Gateway "+name.String()+" does not exist", meant(t.set.Gateways, name.Namespace, name.Name, ""))
}

// useful counts the listeners that serve with a certificate of their own, where
// they need one.
func (p *parent) useful() int {
	n := 0
	for _, l := range p.listeners {
		if l.serves() && !l.substituted {
			n++
		}
	}
	return n
}

func showListenerSet(p *parent) *object.Status {
	generation, valid := p.object.GetGeneration(), p.useful()
	accepted, programmed := p.accepted, verdict{}
	acceptedReason, message := string(gatewayv1.ListenerSetReasonAccepted), "accepted"
	notValid := string(gatewayv1.ListenerSetReasonListenersNotValid)
	if valid < len(p.listeners) && accepted.ok() {
		acceptedReason, message = notValid, "listeners that are not valid: "+p.invalidListeners()
		if valid == 0 {
			accepted = verdict{notValid, message}
		}
	}
	if !accepted.ok() {
		acceptedReason, message, programmed = accepted.reason, accepted.message, accepted
	}
	status := &gatewayv1.ListenerSetStatus{Conditions: []metav1.Condition{
		condition(string(gatewayv1.ListenerSetConditionAccepted), accepted.ok(), acceptedReason, message, generation),
		conclude(string(gatewayv1.ListenerSetConditionProgrammed), programmed, "programmed", generation),
	}}
	s := &object.Status{Object: p.key, Generation: generation, ListenerSet: status, Static: p.static, Parent: p.gateway.key}
	for _, l := range p.listeners {
		status.Listeners = append(status.Listeners, gatewayv1.ListenerEntryStatus{
			Name: l.spec.Name, SupportedKinds: kindsOf(l), AttachedRoutes: l.attached, Conditions: l.conditions(accepted.ok()),
		})
		s.Sockets = append(s.Sockets, l.served(accepted.ok()))
	}
	return s
}
