package translate

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"windrose.dev/windrose/api/v1alpha1"
	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// balanceAnnotation of a Service says how an endpoint is picked.
const balanceAnnotation = "windrose.dev/balance"

// services are the Services that compiled objects send requests to.
type services struct {
	uses    map[object.Name]*uses
	order   []*uses             // by name
	touched map[*uses]struct{}  // ports came or went
	other   map[servicePort]int // ports of XBackends, by how many send there

	slices  map[object.Name][]*discoveryv1.EndpointSlice // by Service
	moved   map[object.Name]struct{}                     // whose slices changed in this run
	orphans map[object.Name]struct{}                     // with slices, but without Service
	pods    map[label][]*v1alpha1.Workload
}

// uses are the ports of one Service that are in use, by number and protocol.
type uses struct {
	name  object.Name
	ports []*service
}

// label is a label of workloads in a namespace.
type label struct{ namespace, key, value string }

// service is one port with what it was made from.
type service struct {
	key       servicePort
	count     int // of the objects that send requests there
	object    *corev1.Service
	slices    []*discoveryv1.EndpointSlice
	workloads []*v1alpha1.Workload
	tls       *plan.BackendTLS
	traffic   *trafficPolicy // nil without one

	part     *plan.Part // nil before it is made
	findings []object.Finding
}

func newServices() services {
	return services{
		other: map[servicePort]int{}, uses: map[object.Name]*uses{}, touched: map[*uses]struct{}{},
		slices: map[object.Name][]*discoveryv1.EndpointSlice{}, moved: map[object.Name]struct{}{}, orphans: map[object.Name]struct{}{},
	}
}

func (u *uses) find(port servicePort) (int, bool) {
	return slices.BinarySearchFunc(u.ports, port, func(s *service, port servicePort) int {
		return cmp.Or(cmp.Compare(s.key.port, port.port), cmp.Compare(s.key.as, port.as), cmp.Compare(flag(s.key.tls), flag(port.tls)))
	})
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (s *services) find(name object.Name) (int, bool) {
	return slices.BinarySearchFunc(s.order, name, func(u *uses, name object.Name) int { return u.name.Compare(name) })
}

// use counts the ports that an object sends requests to.
func (s *services) use(c *compiled) {
	for _, p := range c.services {
		if p.xbackend {
			s.other[p]++
			continue
		}
		u := s.uses[p.name]
		if u == nil {
			u = &uses{name: p.name}
			s.uses[p.name] = u
			i, _ := s.find(p.name)
			s.order = slices.Insert(s.order, i, u)
		}
		i, ok := u.find(p)
		if !ok {
			u.ports = slices.Insert(u.ports, i, &service{key: p})
			s.touched[u] = struct{}{}
		}
		u.ports[i].count++
	}
}

// drop takes back what use counted.
func (s *services) drop(c *compiled) {
	for _, p := range c.services {
		if p.xbackend {
			if s.other[p]--; s.other[p] == 0 {
				delete(s.other, p)
			}
			continue
		}
		u := s.uses[p.name]
		i, ok := u.find(p)
		if !ok {
			continue
		}
		if u.ports[i].count--; u.ports[i].count == 0 {
			s.touched[u] = struct{}{}
		}
	}
}

// update makes the parts of the ports in use.
func (s *services) update(t *Translator) {
	d := &t.delta
	if d.workloads.any() {
		s.pods = indexWorkloads(t.set)
	}
	clear(s.moved)
	s.updateSlices(t)
	s.updateOrphans(t)
	if d.services.all || d.slices.all || d.workloads.any() || d.policies.any() || d.traffic.any() || len(t.policies) > 0 && d.configMaps.any() {
		for _, u := range s.order {
			s.touched[u] = struct{}{}
		}
	}
	for name := range d.services.changed {
		if u := s.uses[name]; u != nil {
			s.touched[u] = struct{}{}
		}
	}
	for u := range s.touched {
		s.refresh(t, u)
	}
	clear(s.touched)
	t.xbackends.make(t)
}

// updateSlices keeps the index of slices by Service.
func (s *services) updateSlices(t *Translator) {
	if t.delta.slices.all {
		s.slices = indexSlices(t.set)
		return
	}
	for name := range t.delta.slices.changed {
		for _, set := range []*object.Set{t.last, t.set} {
			slice, ok := set.EndpointSlices.Get(name.Namespace, name.Name)
			if !ok {
				continue
			}
			owner := object.Name{Namespace: name.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
			list := slices.DeleteFunc(slices.Clone(s.slices[owner]), func(o *discoveryv1.EndpointSlice) bool { return o.Name == name.Name })
			if set == t.set {
				i, _ := slices.BinarySearchFunc(list, name.Name, func(o *discoveryv1.EndpointSlice, name string) int { return strings.Compare(o.Name, name) })
				list = slices.Insert(list, i, slice)
			}
			if s.slices[owner] = list; len(list) == 0 {
				delete(s.slices, owner)
			}
			s.moved[owner] = struct{}{}
			if u := s.uses[owner]; u != nil {
				s.touched[u] = struct{}{}
			}
		}
	}
}

// refresh makes the ports of a Service again whose inputs changed.
func (s *services) refresh(t *Translator, u *uses) {
	u.ports = slices.DeleteFunc(u.ports, func(p *service) bool { return p.count == 0 })
	svc, ok := t.set.Services.Get(u.name.Namespace, u.name.Name)
	if len(u.ports) == 0 || !ok { // who sent there was compiled again in this run
		delete(s.uses, u.name)
		if i, there := s.find(u.name); there {
			s.order = slices.Delete(s.order, i, i+1)
		}
		return
	}
	from, workloads := s.slices[u.name], s.selected(svc)
	traffic := t.traffic.of("Service", u.name)
	for i, was := range u.ports {
		var believed *plan.BackendTLS
		if was.key.tls {
			believed, _ = t.believed(was.key)
		}
		if was.part != nil && was.object == svc && was.tls.Same(believed) && was.traffic == traffic && slices.Equal(was.slices, from) && slices.Equal(was.workloads, workloads) {
			continue
		}
		next := &service{key: was.key, count: was.count, object: svc, slices: from, workloads: workloads, tls: believed, traffic: traffic}
		next.make()
		if was.part != nil && reflect.DeepEqual(was.part.Service, next.part.Service) {
			next.part = was.part
		}
		u.ports[i] = next
	}
}

func (s *services) collect(t *Translator, r *Result) {
	r.Findings = append(r.Findings, s.orphaned(t)...)
	for _, u := range s.order {
		for i, p := range u.ports {
			r.Parts = append(r.Parts, p.part)
			for _, f := range p.findings {
				// What concerns the whole Service is said once.
				if i > 0 && slices.ContainsFunc(u.ports[i-1].findings, func(o object.Finding) bool { return o == f }) {
					continue
				}
				r.Findings = append(r.Findings, f)
			}
		}
	}
}

func indexSlices(set *object.Set) map[object.Name][]*discoveryv1.EndpointSlice {
	index := make(map[object.Name][]*discoveryv1.EndpointSlice, set.EndpointSlices.Len())
	for _, s := range set.EndpointSlices.All() {
		key := object.Name{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
		index[key] = append(index[key], s)
	}
	return index
}

func indexWorkloads(set *object.Set) map[label][]*v1alpha1.Workload {
	index := map[label][]*v1alpha1.Workload{}
	for _, w := range set.Workloads.All() {
		for k, v := range w.Labels {
			key := label{w.Namespace, k, v}
			index[key] = append(index[key], w)
		}
	}
	return index
}

// selected are the workloads that a Service selects, in the order of the Set.
func (s *services) selected(svc *corev1.Service) []*v1alpha1.Workload {
	if len(svc.Spec.Selector) == 0 || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	return s.selecting(svc.Namespace, svc.Spec.Selector)
}

// selecting gives the workloads of a namespace that have all of the labels.
func (s *services) selecting(namespace string, wanted labels.Set) []*v1alpha1.Workload {
	// Few workloads have all of the labels, so those with the rarest are tried.
	var fewest []*v1alpha1.Workload
	first := true
	for k, v := range wanted {
		if have := s.pods[label{namespace, k, v}]; first || len(have) < len(fewest) {
			fewest, first = have, false
		}
	}
	if len(fewest) == 0 {
		return nil
	}
	selector := labels.SelectorFromValidatedSet(wanted)
	var out []*v1alpha1.Workload
	for _, w := range fewest {
		if selector.Matches(labels.Set(w.Labels)) {
			out = append(out, w)
		}
	}
	return out
}

// make compiles the port.
func (s *service) make() {
	port := portOf(s.object, s.key)
	part := &plan.Service{Protocol: s.protocol(port), TLS: s.tls}
	s.part = &plan.Part{Key: plan.Key{Kind: plan.KindService, Name: s.key.String()}, Service: part}
	s.habits(part)
	s.traffic.apply(part)
	if s.object.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		part.Session = nil // both exclude each other
	}
	if part.Protocol == plan.TCP || part.Protocol == plan.UDP {
		part.Session, part.Budget = nil, nil // there are no requests
	}
	if s.object.Spec.Type == corev1.ServiceTypeExternalName {
		s.external(part, port)
		return
	}
	if port == nil {
		return
	}
	seen := map[netip.AddrPort]bool{}
	ready, fallback := s.fromSlices(port)
	ready = append(ready, s.fromWorkloads(port)...)
	if len(ready) == 0 {
		ready = fallback
	}
	part.Endpoints = distinct(ready, seen)
	part.Draining = distinct(fallback, seen)
	if len(s.slices) == 0 && len(s.workloads) == 0 {
		mend := "write an EndpointSlice with label " + discoveryv1.LabelServiceName + ": " + s.object.Name
		if len(s.object.Spec.Selector) > 0 {
			mend = "write a Workload with the labels " + labels.FormatLabels(s.object.Spec.Selector)
		}
		effect := "its requests are answered with 503"
		if s.key.as == plan.TCP || s.key.as == plan.UDP {
			effect = "what comes for it is refused"
		}
		s.find(object.Warning, "", reasonNoEndpoints, "nothing stands behind the Service, so that "+effect, mend)
	}
}

// distinct gives the endpoints whose addresses were not seen, in their order.
func distinct(list []plan.Endpoint, seen map[netip.AddrPort]bool) []plan.Endpoint {
	var out []plan.Endpoint
	for _, e := range list {
		if !seen[e.Addr] {
			seen[e.Addr] = true
			out = append(out, e)
		}
	}
	slices.SortStableFunc(out, func(a, b plan.Endpoint) int { return a.Addr.Compare(b.Addr) })
	return out
}

// protocol is what is spoken to the port.
func (s *service) protocol(port *corev1.ServicePort) plan.Protocol {
	if s.key.as != "" {
		return s.key.as
	}
	if port != nil && port.AppProtocol != nil {
		if says, _ := appProtocol(*port.AppProtocol); says != "" {
			return says
		}
	}
	return plan.HTTP
}

func (s *service) find(severity object.Severity, field, reason, message, mend string) {
	s.findings = append(s.findings, object.Finding{
		Severity: severity, Object: object.Key{Kind: "Service", Namespace: s.key.name.Namespace, Name: s.key.name.Name},
		Field: field, Reason: reason, Message: message, Mend: mend,
	})
}

// habits reads what concerns the whole Service.
func (s *service) habits(part *plan.Service) {
	unknownAnnotations(s.object.Annotations, balanceAnnotation, s.find)
	switch value, there := s.object.Annotations[balanceAnnotation]; {
	case !there, value == string(plan.LeastRequest):
	case value == string(plan.RoundRobin):
		part.Balance = plan.RoundRobin
	default:
		s.find(object.Warning, "metadata.annotations["+balanceAnnotation+"]", reasonInvalidValue,
			fmt.Sprintf("%q is no way to pick an endpoint, so that least-request is used", value), "write least-request or round-robin")
	}
	spec := &s.object.Spec
	if spec.SessionAffinity != "" && spec.SessionAffinity != corev1.ServiceAffinityNone {
		s.find(object.Warning, "spec.sessionAffinity", reasonNotCarried, "windrose does not carry session affinity yet: requests of one client go to any endpoint", "give the rules sessionPersistence, which keeps a client by a cookie or a header, and write sessionAffinity: None")
	}
	if spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer {
		s.find(object.Info, "spec.type", reasonNotRead, fmt.Sprintf("on one machine a Service of type %s is reached through routes alone: no port is opened for it", spec.Type), "")
	}
}

func (s *service) external(part *plan.Service, port *corev1.ServicePort) {
	part.Hostname, part.Port = s.object.Spec.ExternalName, uint16(s.key.port)
	if part.Hostname == "" {
		s.find(object.Error, "spec.externalName", reasonInvalidValue, "the Service is of type ExternalName and names no host, so that its requests are answered with 503", "write spec.externalName")
	}
	if port != nil && isPort(port.TargetPort.IntVal) {
		part.Port = uint16(port.TargetPort.IntVal)
	}
}

// fromSlices gives the ready endpoints, and those that end but still serve.
func (s *service) fromSlices(port *corev1.ServicePort) (ready, ending []plan.Endpoint) {
	for _, slice := range s.slices {
		if slice.AddressType == discoveryv1.AddressTypeFQDN {
			s.find(object.Warning, "", reasonNotCarried, fmt.Sprintf("EndpointSlice %s holds host names, which windrose does not resolve: its endpoints are left out", slice.Name), "use addresses, or a Service of type ExternalName")
			continue
		}
		number := slicePort(slice, port.Name, s.key.transport())
		if number == 0 {
			continue
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			isReady := e.Conditions.Ready == nil || *e.Conditions.Ready
			ends := e.Conditions.Serving != nil && *e.Conditions.Serving && e.Conditions.Terminating != nil && *e.Conditions.Terminating
			if !isReady && !ends {
				continue
			}
			made, ok := endpoint(e, number)
			switch {
			case !ok:
			case isReady:
				ready = append(ready, made)
			default:
				ending = append(ending, made)
			}
		}
	}
	return ready, ending
}

// slicePort finds the port of a slice by the name and the protocol of the
// Service's port.
func slicePort(slice *discoveryv1.EndpointSlice, name string, protocol corev1.Protocol) uint16 {
	for _, p := range slice.Ports {
		named := ""
		if p.Name != nil {
			named = *p.Name
		}
		speaks := corev1.ProtocolTCP
		if p.Protocol != nil {
			speaks = *p.Protocol
		}
		if named == name && p.Port != nil && isPort(*p.Port) && speaks == protocol {
			return uint16(*p.Port)
		}
	}
	return 0
}

// endpoint reads one endpoint; all of its addresses are one and the same, so
// that the first is taken.
func endpoint(e *discoveryv1.Endpoint, port uint16) (plan.Endpoint, bool) {
	if len(e.Addresses) == 0 {
		return plan.Endpoint{}, false
	}
	addr, err := netip.ParseAddr(e.Addresses[0])
	if err != nil {
		return plan.Endpoint{}, false
	}
	made := plan.Endpoint{Addr: netip.AddrPortFrom(addr.Unmap(), port)}
	switch {
	case e.TargetRef != nil && e.TargetRef.Name != "":
		made.Name = e.TargetRef.Name
	case e.Hostname != nil:
		made.Name = *e.Hostname
	}
	return made, true
}

// fromWorkloads gives the endpoints of the workloads that are ready.
func (s *service) fromWorkloads(port *corev1.ServicePort) []plan.Endpoint {
	var out []plan.Endpoint
	for _, w := range s.workloads {
		number := workloadPort(w, port)
		if number == 0 {
			s.find(object.Warning, "spec.ports", reasonInvalidValue, fmt.Sprintf("port %d has targetPort %s, which Workload %s does not have: the workload is left out", port.Port, port.TargetPort.String(), w.Name),
				"add the port to spec.ports of the Workload, or write its number")
			continue
		}
		text, ready := standing(w)
		if !ready {
			continue
		}
		addr, err := netip.ParseAddr(text)
		if err != nil {
			continue
		}
		out = append(out, plan.Endpoint{Addr: netip.AddrPortFrom(addr.Unmap(), number), Name: w.Name})
	}
	return out
}

// standing gives the address of a workload and whether it is ready. A workload
// that nothing watches, an address without a probe, is always ready.
func standing(w *v1alpha1.Workload) (address string, ready bool) {
	address = cmp.Or(w.Status.Address, w.Spec.Address)
	for _, c := range w.Status.Conditions {
		if c.Type == "Ready" {
			return address, c.Status == metav1.ConditionTrue
		}
	}
	return address, len(w.Spec.Command) == 0 && w.Spec.Readiness == nil
}

// workloadPort is the port of a workload behind a Service's port; 0 if it has
// none of that name.
func workloadPort(w *v1alpha1.Workload, port *corev1.ServicePort) uint16 {
	if name := port.TargetPort.StrVal; name != "" {
		for _, p := range w.Spec.Ports {
			if p.Name == name && isPort(p.Port) {
				return uint16(p.Port)
			}
		}
		return 0
	}
	if number := cmp.Or(port.TargetPort.IntVal, port.Port); isPort(number) {
		return uint16(number)
	}
	return 0
}
