package cli

import (
	"cmp"
	"fmt"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/admin"
	"windrose.dev/windrose/internal/object"
)

// route is what the kinds of routes have in common.
type route struct {
	namespace string
	spec      *gatewayv1.CommonRouteSpec
	status    *gatewayv1.RouteStatus
	hosts     []string
	hasHosts  bool
}

func routeOf(o metav1.Object) (route, bool) {
	r := route{namespace: o.GetNamespace()}
	var hosts []gatewayv1.Hostname
	switch t := o.(type) {
	case *gatewayv1.HTTPRoute:
		r.spec, r.status, hosts, r.hasHosts = &t.Spec.CommonRouteSpec, &t.Status.RouteStatus, t.Spec.Hostnames, true
	case *gatewayv1.GRPCRoute:
		r.spec, r.status, hosts, r.hasHosts = &t.Spec.CommonRouteSpec, &t.Status.RouteStatus, t.Spec.Hostnames, true
	case *gatewayv1.TLSRoute:
		r.spec, r.status, hosts, r.hasHosts = &t.Spec.CommonRouteSpec, &t.Status.RouteStatus, t.Spec.Hostnames, true
	case *gatewayv1.TCPRoute:
		r.spec, r.status = &t.Spec.CommonRouteSpec, &t.Status.RouteStatus
	case *gatewayv1.UDPRoute:
		r.spec, r.status = &t.Spec.CommonRouteSpec, &t.Status.RouteStatus
	default:
		return r, false
	}
	for _, h := range hosts {
		r.hosts = append(r.hosts, string(h))
	}
	return r, true
}

// parent is one parentRef of a route and what became of it.
type parent struct {
	name     string // Gateway NAMESPACE/NAME, listener NAME
	known    bool   // it has a status
	attached bool   // accepted, with all references resolved
	accepted bool
	why      string // why it is not attached, or serves with faults
	status   *gatewayv1.RouteParentStatus
}

// parents pairs the parentRefs with their statuses.
func (r *route) parents() []parent {
	all := make([]parent, 0, len(r.spec.ParentRefs))
	for i := range r.spec.ParentRefs {
		ref := &r.spec.ParentRefs[i]
		p := parent{name: refName(ref, r.namespace)}
		for j := range r.status.Parents {
			if st := &r.status.Parents[j]; refName(&st.ParentRef, r.namespace) == p.name {
				p.take(st)
			}
		}
		all = append(all, p)
	}
	return all
}

func (p *parent) take(st *gatewayv1.RouteParentStatus) {
	p.known, p.status = true, st
	p.accepted = meta.IsStatusConditionTrue(st.Conditions, string(gatewayv1.RouteConditionAccepted))
	p.attached = p.accepted
	var why []string
	for _, c := range st.Conditions {
		// A condition such as PartiallyInvalid is bad news when it is true.
		bad := c.Status == metav1.ConditionFalse
		if c.Type == string(gatewayv1.RouteConditionPartiallyInvalid) {
			bad = c.Status == metav1.ConditionTrue
		}
		if bad {
			why = append(why, c.Reason+": "+c.Message)
		}
	}
	p.why = strings.Join(why, "; ")
}

func refName(ref *gatewayv1.ParentReference, namespace string) string {
	kind := "Gateway"
	if ref.Kind != nil {
		kind = string(*ref.Kind)
	}
	if ref.Namespace != nil {
		namespace = string(*ref.Namespace)
	}
	name := kind + " " + namespace + "/" + string(ref.Name)
	if ref.SectionName != nil {
		name += ", listener " + string(*ref.SectionName)
	}
	if ref.Port != nil {
		name += fmt.Sprintf(", port %d", *ref.Port)
	}
	return name
}

// routeRows are the lines of the view routes: one for each parent.
func (a *app) routeRows(it admin.Item, o metav1.Object) []row {
	if ing, ok := o.(*networkingv1.Ingress); ok {
		class := "<default>"
		if ing.Spec.IngressClassName != nil {
			class = *ing.Spec.IngressClassName
		}
		served := len(ing.Status.LoadBalancer.Ingress) > 0
		return []row{a.routeRow(it, few(ingressHosts(ing), 2), "IngressClass "+class, served, firstFinding(it))}
	}
	r, ok := routeOf(o)
	if !ok {
		return nil
	}
	hosts := cmp.Or(few(r.hosts, 2), "*")
	parents := r.parents()
	if len(parents) == 0 {
		return []row{a.routeRow(it, hosts, "", false, "it has no parentRefs: nothing sends requests to it")}
	}
	var rows []row
	for _, p := range parents {
		why := p.why
		if why == "" && (!p.known || !p.attached) {
			if why = firstFinding(it); why == "" && !p.known {
				why = "no Gateway or ListenerSet of windrose is named so, or windrose has not looked yet"
			}
		}
		rows = append(rows, a.routeRow(it, hosts, p.name, p.attached, why))
	}
	return rows
}

func (a *app) routeRow(it admin.Item, hosts, parent string, attached bool, why string) row {
	truth := metav1.ConditionFalse
	if attached {
		truth = metav1.ConditionTrue
	}
	if why == "" {
		why = "-"
	}
	return row{cells: []cell{plain(it.Kind), plain(it.Name), plain(hosts), plain(parent), a.truth(truth)}, why: why}
}

// firstFinding is the worst that is known about an object.
func firstFinding(it admin.Item) string {
	for _, severity := range []object.Severity{object.Error, object.Warning} {
		for _, f := range it.Findings {
			if f.Severity == severity {
				text := f.Message
				if f.Field != "" {
					text = f.Field + ": " + text
				}
				return f.Reason + ": " + text
			}
		}
	}
	return ""
}
