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

// streamRule is a rule of a route below HTTP: it takes all connections or
// flows that come to the route.
type streamRule struct {
	name *gatewayv1.SectionName
	refs []gatewayv1.BackendRef
}

func compileTLS(t *Translator, o *gatewayv1.TLSRoute) *compiled {
	rules := make([]streamRule, len(o.Spec.Rules))
	for i := range o.Spec.Rules {
		rules[i] = streamRule{o.Spec.Rules[i].Name, o.Spec.Rules[i].BackendRefs}
	}
	return newCompiler(t, "TLSRoute", o).stream(o, &o.Spec.CommonRouteSpec, o.Spec.Hostnames, rules)
}

func compileTCP(t *Translator, o *gatewayv1.TCPRoute) *compiled {
	rules := make([]streamRule, len(o.Spec.Rules))
	for i := range o.Spec.Rules {
		rules[i] = streamRule{o.Spec.Rules[i].Name, o.Spec.Rules[i].BackendRefs}
	}
	return newCompiler(t, "TCPRoute", o).stream(o, &o.Spec.CommonRouteSpec, nil, rules)
}

func compileUDP(t *Translator, o *gatewayv1.UDPRoute) *compiled {
	rules := make([]streamRule, len(o.Spec.Rules))
	for i := range o.Spec.Rules {
		rules[i] = streamRule{o.Spec.Rules[i].Name, o.Spec.Rules[i].BackendRefs}
	}
	return newCompiler(t, "UDPRoute", o).stream(o, &o.Spec.CommonRouteSpec, nil, rules)
}

// stream compiles a route below HTTP.
func (c *compiler) stream(o metav1.Object, spec *gatewayv1.CommonRouteSpec, hostnames []gatewayv1.Hostname, rules []streamRule) *compiled {
	list := c.attach(spec, hostnames)
	c.opaque = opaque(list)
	rule := c.streamRule(rules)
	if !c.t.carried.kind(c.key.Kind) {
		c.services = nil
		c.notCarried(list)
		return c.finish(o, list, nil)
	}
	return c.finish(o, list, routePart(c.key.Kind, o, attachments(list, hostnames), []plan.Rule{rule}))
}

// opaque says whether a route is attached to listeners alone that leave TLS to
// the service.
func opaque(list []attached) bool {
	some := false
	for i := range list {
		for _, l := range list[i].listeners {
			if !l.passthrough {
				return false
			}
			some = true
		}
	}
	return some
}

// streamRule makes the one rule of the route. What does not resolve takes its
// share of the connections and closes them, so that weights stay true.
func (c *compiler) streamRule(rules []streamRule) plan.Rule {
	out := plan.Rule{Matches: []plan.Match{{PathType: plan.PathPrefix, Path: "/"}}}
	for i := range rules {
		if i > 0 {
			c.find(object.Warning, fmt.Sprintf("spec.rules[%d]", i), reasonNotRead, "the first rule takes everything, so that this one has no effect", "write it as a route of its own")
			continue
		}
		if rules[i].name != nil {
			out.Name = string(*rules[i].name)
		}
		for j := range rules[i].refs {
			out.Backends = append(out.Backends, c.streamBackend(i, j, &rules[i].refs[j]))
		}
	}
	if len(out.Backends) == 0 {
		c.find(object.Warning, "spec.rules", reasonNoBackend, "the route has no backend, so that it serves nothing", "add a backendRef")
		out.Broken = &plan.Broken{Status: statusBroken, Reason: c.key.String() + " has no backend"}
	}
	return out
}

func (c *compiler) streamBackend(rule, i int, ref *gatewayv1.BackendRef) plan.Backend {
	b := plan.Backend{Weight: 1}
	if ref.Weight != nil {
		b.Weight = *ref.Weight
	}
	target, v := c.resolve(&ref.BackendObjectReference, func() string { return fmt.Sprintf("spec.rules[%d].backendRefs[%d]", rule, i) })
	if !v.ok() {
		c.unresolved(v)
		b.Broken = &plan.Broken{Status: statusBroken, Reason: v.message}
		return b
	}
	if why := c.t.unbelieved(target); why != "" {
		b.Broken = &plan.Broken{Status: statusBroken, Reason: why}
		return b
	}
	b.Service = target.String()
	c.send(target)
	return b
}

// seat is a place in the plan that one route below HTTP can have: its rule
// takes everything that comes there.
type seat struct{ listener, host string }

// seated is a route that wants a seat.
type seated struct {
	*compiled
	original string
}

// crowded tells the authors of routes below HTTP whose connections another
// route takes. Such a route is accepted all the same, as the API wants it.
func (r *routes) crowded(out *Result) {
	for _, kind := range [][]*compiled{r.tls, r.tcp, r.udp} {
		winners := map[seat]seated{}
		for _, c := range kind {
			for _, at := range c.attachments() {
				s, next := seat{at.Listener, at.Host}, seated{c, at.Original}
				if have, taken := winners[s]; !taken || next.goesBefore(have) {
					winners[s] = next
				}
			}
		}
		for _, c := range kind {
			for _, a := range c.attachments() {
				at := seat{a.Listener, a.Host}
				winner := winners[at].compiled
				if winner == c {
					continue
				}
				out.Findings = append(out.Findings, object.Finding{
					Severity: object.Warning, Object: c.status.Object, Field: "spec.parentRefs", Reason: reasonShadowed,
					Message: fmt.Sprintf("%s takes all that comes to %s, so that this route gets nothing of it", winner.status.Object, at.place()),
					Mend:    "attach one of them to another listener",
				})
			}
		}
	}
}

// place is a seat in words. The name of a listener's key has four parts.
func (s seat) place() string {
	where := "listener " + s.listener
	if p := strings.Split(s.listener, "/"); len(p) == 4 {
		where = fmt.Sprintf("listener %s of %s %s/%s", p[3], p[0], p[1], p[2])
	}
	if s.host != "" {
		return "host name " + s.host + " on " + where
	}
	return where
}

func (c *compiled) attachments() []plan.Attachment {
	if c.part == nil {
		return nil
	}
	return c.part.Route.Attach
}

// goesBefore is the order in which the plan tries two routes of one kind at one
// seat.
func (s seated) goesBefore(other seated) bool {
	a, b := s.part, other.part
	return cmp.Or(plan.CompareHostnames(s.original, other.original),
		cmp.Compare(a.Route.Created, b.Route.Created), strings.Compare(a.Key.Name, b.Key.Name)) < 0
}

// send notes that the object sends requests to a port.
func (c *compiler) send(to servicePort) {
	if !slices.Contains(c.services, to) {
		c.services = append(c.services, to)
	}
}
