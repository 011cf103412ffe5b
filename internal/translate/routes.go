package translate

import (
	"reflect"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// compiled is a route with what was made of it and from what.
type compiled struct {
	object   metav1.Object
	part     *plan.Part   // nil if it is attached to nothing that serves
	more     []*plan.Part // an Ingress has a part for each host
	certs    []*certificate
	secure   bool // an Ingress that asks for TLS
	status   *object.Status
	findings []object.Finding
	attached []*listener // each once
	services []servicePort
	in       inputs
}

// routes are the compiled routes of each kind, ordered as in the Set.
type routes struct {
	http, grpc, tls, tcp, udp []*compiled
	policies                  map[object.Key]*object.Status // as last shown
	fine                      map[int64][]metav1.Condition  // of routes without fault, by generation
}

func (r *routes) update(t *Translator) {
	r.http = refresh(t, r.http, t.set.HTTPRoutes, compileHTTP)
	r.grpc = refresh(t, r.grpc, t.set.GRPCRoutes, compileGRPC)
	r.tls = refresh(t, r.tls, t.set.TLSRoutes, compileTLS)
	r.tcp = refresh(t, r.tcp, t.set.TCPRoutes, compileTCP)
	r.udp = refresh(t, r.udp, t.set.UDPRoutes, compileUDP)
	for _, p := range t.gateways.order {
		for _, l := range p.listeners {
			l.attached = 0
		}
	}
	for _, kind := range r.all() {
		for _, c := range kind {
			for _, l := range c.attached {
				l.attached++
			}
		}
	}
}

func (r *routes) all() [5][]*compiled { return [...][]*compiled{r.http, r.grpc, r.tls, r.tcp, r.udp} }

// refresh compiles the objects of a table that changed or whose inputs
// changed, and takes the others over. What was compiled before is ordered as
// the table is.
func refresh[T row](t *Translator, old []*compiled, table object.Table[T], compile func(*Translator, T) *compiled) []*compiled {
	next := make([]*compiled, 0, table.Len())
	for _, o := range table.All() {
		for len(old) > 0 && metav1.Object(o) != old[0].object && object.NameOf(old[0].object).Compare(object.NameOf(o)) < 0 {
			t.services.drop(old[0])
			old = old[1:]
		}
		var was *compiled
		if len(old) > 0 && (metav1.Object(o) == old[0].object || object.NameOf(old[0].object) == object.NameOf(o)) {
			was, old = old[0], old[1:]
			if was.object == metav1.Object(o) && !was.in.stale(t, o.GetNamespace()) {
				next = append(next, was)
				continue
			}
		}
		made := compile(t, o)
		t.services.use(made)
		if was != nil {
			made.keep(was)
			t.services.drop(was)
		}
		next = append(next, made)
	}
	for _, gone := range old {
		t.services.drop(gone)
	}
	return next
}

// keep takes over the pointers of what came out as it was.
func (c *compiled) keep(was *compiled) {
	if c.part != nil && was.part != nil && reflect.DeepEqual(c.part, was.part) {
		c.part = was.part
	}
	for i, part := range c.more {
		if j := slices.IndexFunc(was.more, func(o *plan.Part) bool { return o.Key == part.Key }); j >= 0 && reflect.DeepEqual(part, was.more[j]) {
			c.more[i] = was.more[j]
		}
	}
	if reflect.DeepEqual(c.status, was.status) {
		c.status = was.status
	}
}

func (r *routes) collect(t *Translator, out *Result) {
	for _, kind := range r.all() {
		for _, c := range kind {
			if c.part != nil {
				out.Parts = append(out.Parts, c.part)
			}
			out.Statuses = append(out.Statuses, c.status)
			out.Findings = append(out.Findings, c.findings...)
		}
	}
	r.crowded(out)
	out.Statuses = append(out.Statuses, t.showPolicies(out)...)
	out.Statuses = append(out.Statuses, t.showTraffic(out)...)
}

// finish makes of a compiler what is remembered.
func (c *compiler) finish(o metav1.Object, list []attached, part *plan.Part) *compiled {
	made := &compiled{object: o, part: part, status: c.show(list), findings: c.findings, services: c.services, in: c.in}
	for i := range list {
		if !list[i].accepted.ok() {
			continue
		}
		for _, l := range list[i].listeners {
			if !slices.Contains(made.attached, l) {
				made.attached = append(made.attached, l)
			}
		}
	}
	return made
}

// notCarried turns a route of a kind that the data plane does not carry yet
// away, where it would be attached otherwise.
func (c *compiler) notCarried(list []attached) {
	message := "windrose does not carry " + c.key.Kind + "s yet: they are checked, but take no traffic"
	c.find(object.Error, "", reasonNotCarried, message, "")
	for i := range list {
		if list[i].parent != nil && list[i].accepted.ok() {
			list[i].accepted = verdict{string(gatewayv1.RouteReasonUnsupportedProtocol), message}
		}
	}
}

func newCompiler(t *Translator, kind string, o metav1.Object) *compiler {
	c := &compiler{t: t, key: object.Key{Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()}, generation: o.GetGeneration()}
	unknownAnnotations(o.GetAnnotations(), "", c.find)
	return c
}
