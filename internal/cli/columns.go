package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"windrose.dev/windrose/api/v1alpha1"
	"windrose.dev/windrose/internal/admin"
	"windrose.dev/windrose/internal/object"
)

// decode gives the typed object of an item. A kind that this windrose does not
// know, because the other is newer, is shown by its metadata.
func decode(it admin.Item) (metav1.Object, error) {
	var o metav1.Object = &metav1.PartialObjectMetadata{}
	if kind, ok := object.KindNamed(it.Kind); ok {
		o = kind.New()
	}
	if err := json.Unmarshal(it.Object, o); err != nil {
		return nil, fmt.Errorf("read %v as windrose sent it: %w", it.Key, err)
	}
	return o, nil
}

// heads are the columns of a kind between NAME and AGE.
var heads = map[string][]string{
	"GatewayClass":       {"CONTROLLER", "ACCEPTED"},
	"Gateway":            {"CLASS", "ADDRESS", "PROGRAMMED", "LISTENERS", "ATTACHED"},
	"ListenerSet":        {"PARENT", "PROGRAMMED", "LISTENERS", "ATTACHED"},
	"HTTPRoute":          {"HOSTNAMES", "PARENTS", "ATTACHED"},
	"GRPCRoute":          {"HOSTNAMES", "PARENTS", "ATTACHED"},
	"TLSRoute":           {"HOSTNAMES", "PARENTS", "ATTACHED"},
	"TCPRoute":           {"PARENTS", "ATTACHED"},
	"UDPRoute":           {"PARENTS", "ATTACHED"},
	"Ingress":            {"CLASS", "HOSTS", "ADDRESS"},
	"IngressClass":       {"CONTROLLER"},
	"Service":            {"TYPE", "PORTS", "ENDPOINTS"},
	"EndpointSlice":      {"SERVICE", "PORTS", "ENDPOINTS"},
	"Workload":           {"READY", "REASON", "ADDRESS", "PORTS", "PID", "RESTARTS"},
	"Secret":             {"TYPE", "DATA"},
	"ConfigMap":          {"DATA"},
	"ClusterTrustBundle": {"SIGNER", "CERTIFICATES"},
	"ReferenceGrant":     {"FROM", "TO"},
	"BackendTLSPolicy":   {"TARGETS", "ACCEPTED"},
	"XBackend":           {"TYPE", "TO", "PROTOCOL", "TLS", "ACCEPTED"},
	"XMesh":              {"CONTROLLER", "ACCEPTED"},

	"XTelemetryPolicy":      {"TARGETS", "ACCEPTED"},
	"XBackendTrafficPolicy": {"TARGETS", "ACCEPTED"},
}

// cells are the fields below heads.
func (a *app) cells(it admin.Item, o metav1.Object) []cell {
	switch t := o.(type) {
	case *gatewayv1.GatewayClass:
		return []cell{plain(string(t.Spec.ControllerName)), a.condition(t.Status.Conditions, "Accepted")}
	case *gatewayv1.Gateway:
		return a.gatewayCells(t)
	case *gatewayv1.ListenerSet:
		attached := int32(0)
		for _, l := range t.Status.Listeners {
			attached += l.AttachedRoutes
		}
		return []cell{
			plain(parentName(string(t.Spec.ParentRef.Name), t.Namespace, (*string)(t.Spec.ParentRef.Namespace))),
			a.condition(t.Status.Conditions, "Programmed"), plain(strconv.Itoa(len(t.Spec.Listeners))), plain(strconv.Itoa(int(attached))),
		}
	case *networkingv1.Ingress:
		return ingressCells(t)
	case *networkingv1.IngressClass:
		return []cell{plain(t.Spec.Controller)}
	case *corev1.Service:
		return serviceCells(it, t)
	case *discoveryv1.EndpointSlice:
		return sliceCells(t)
	case *v1alpha1.Workload:
		return a.workloadCells(t)
	case *corev1.Secret:
		return []cell{plain(string(t.Type)), plain(strings.Join(slices.Sorted(maps.Keys(t.Data)), ","))}
	case *corev1.ConfigMap:
		return []cell{plain(strconv.Itoa(len(t.Data) + len(t.BinaryData)))}
	case *certificatesv1.ClusterTrustBundle:
		return []cell{plain(t.Spec.SignerName), plain(strconv.Itoa(strings.Count(t.Spec.TrustBundle, "-----BEGIN CERTIFICATE-----")))}
	case *gatewayv1.ReferenceGrant:
		return grantCells(t)
	case *gatewayv1.BackendTLSPolicy:
		var targets []string
		for _, r := range t.Spec.TargetRefs {
			targets = append(targets, string(r.Kind)+"/"+string(r.Name))
		}
		return a.policyCells(targets, t.Status.Ancestors)
	case *gatewayxv1alpha1.XTelemetryPolicy:
		var targets []string
		for _, r := range t.Spec.TargetRefs {
			targets = append(targets, string(r.Kind)+"/"+string(r.Name))
		}
		return a.policyCells(targets, t.Status.Ancestors)
	case *gatewayxv1alpha1.XBackendTrafficPolicy:
		var targets []string
		for _, r := range t.Spec.TargetRefs {
			targets = append(targets, string(r.Kind)+"/"+string(r.Name))
		}
		return a.policyCells(targets, t.Status.Ancestors)
	case *gatewayxv1alpha1.XBackend:
		return a.xbackendCells(t)
	case *gatewayxv1alpha1.XMesh:
		return []cell{plain(string(t.Spec.ControllerName)), a.condition(t.Status.Conditions, "Accepted")}
	}
	if r, ok := routeOf(o); ok {
		return a.routeCells(it, r)
	}
	return nil
}

func (a *app) policyCells(targets []string, ancestors []gatewayv1.PolicyAncestorStatus) []cell {
	var conditions []metav1.Condition
	if len(ancestors) > 0 {
		conditions = ancestors[0].Conditions
	}
	return []cell{plain(strings.Join(targets, ",")), a.condition(conditions, "Accepted")}
}

func (a *app) xbackendCells(b *gatewayxv1alpha1.XBackend) []cell {
	to := ""
	switch {
	case b.Spec.ExternalHostname != nil:
		to = string(b.Spec.ExternalHostname.Hostname)
	case b.Spec.EndpointSelector != nil:
		var labels []string
		for _, k := range slices.Sorted(maps.Keys(b.Spec.EndpointSelector.MatchLabels)) {
			labels = append(labels, string(k)+"="+string(b.Spec.EndpointSelector.MatchLabels[k]))
		}
		to = strings.Join(labels, ",")
	}
	protocol, mode := "", string(gatewayxv1alpha1.BackendTLSModeNone)
	if b.Spec.Protocol != nil {
		protocol = string(*b.Spec.Protocol)
	}
	if b.Spec.TLS != nil {
		mode = string(b.Spec.TLS.Mode)
	}
	var conditions []metav1.Condition
	if len(b.Status.Ancestors) > 0 {
		conditions = b.Status.Ancestors[0].Conditions
	}
	return []cell{
		plain(string(b.Spec.Type)), plain(fmt.Sprintf("%s:%d", to, b.Spec.Port.Number)), plain(protocol), plain(mode), a.condition(conditions, "Accepted"),
	}
}

func (a *app) gatewayCells(g *gatewayv1.Gateway) []cell {
	var addresses []string
	for _, ad := range g.Status.Addresses {
		addresses = append(addresses, ad.Value)
	}
	attached := int32(0)
	for _, l := range g.Status.Listeners {
		attached += l.AttachedRoutes
	}
	return []cell{
		plain(string(g.Spec.GatewayClassName)), plain(few(addresses, 2)), a.condition(g.Status.Conditions, "Programmed"),
		plain(strconv.Itoa(len(g.Spec.Listeners))), plain(strconv.Itoa(int(attached))),
	}
}

func (a *app) routeCells(it admin.Item, r route) []cell {
	attached := 0
	for _, p := range r.parents() {
		if p.attached {
			attached++
		}
	}
	count := cell{text: fmt.Sprintf("%d/%d", attached, len(r.spec.ParentRefs)), paint: a.colors.green}
	if attached < len(r.spec.ParentRefs) || attached == 0 {
		count.paint = a.colors.red
	}
	var parents []string
	for _, p := range r.spec.ParentRefs {
		parents = append(parents, parentName(string(p.Name), it.Namespace, (*string)(p.Namespace)))
	}
	cells := []cell{plain(few(slices.Compact(parents), 2)), count}
	if r.hasHosts {
		cells = slices.Insert(cells, 0, plain(cmp.Or(few(r.hosts, 2), "*")))
	}
	return cells
}

func ingressCells(i *networkingv1.Ingress) []cell {
	class := ""
	if i.Spec.IngressClassName != nil {
		class = *i.Spec.IngressClassName
	}
	var addresses []string
	for _, l := range i.Status.LoadBalancer.Ingress {
		addresses = append(addresses, l.IP+l.Hostname)
	}
	return []cell{plain(class), plain(few(ingressHosts(i), 2)), plain(few(addresses, 2))}
}

func ingressHosts(i *networkingv1.Ingress) []string {
	var hosts []string
	for _, r := range i.Spec.Rules {
		hosts = append(hosts, cmp.Or(r.Host, "*"))
	}
	if len(hosts) == 0 && i.Spec.DefaultBackend != nil {
		hosts = []string{"*"}
	}
	return hosts
}

func serviceCells(it admin.Item, s *corev1.Service) []cell {
	kind := string(s.Spec.Type)
	switch {
	case kind == "":
		kind = "ClusterIP"
	case s.Spec.ClusterIP == corev1.ClusterIPNone:
		kind = "Headless"
	}
	var ports, endpoints []string
	for _, p := range s.Spec.Ports {
		text := strconv.Itoa(int(p.Port))
		if target := p.TargetPort.String(); target != "0" && target != "" && target != text {
			text += ":" + target
		}
		ports = append(ports, text)
	}
	for _, e := range it.Endpoints {
		if e.Hostname != "" {
			endpoints = append(endpoints, e.Hostname)
		}
		for _, address := range e.Endpoints {
			address, _, _ = strings.Cut(address, " ")
			endpoints = append(endpoints, address)
		}
	}
	return []cell{plain(kind), plain(strings.Join(ports, ",")), plain(few(endpoints, 3))}
}

func sliceCells(s *discoveryv1.EndpointSlice) []cell {
	var ports, endpoints []string
	for _, p := range s.Ports {
		if p.Port != nil {
			ports = append(ports, strconv.Itoa(int(*p.Port)))
		}
	}
	for _, e := range s.Endpoints {
		endpoints = append(endpoints, e.Addresses...)
	}
	return []cell{plain(s.Labels[discoveryv1.LabelServiceName]), plain(strings.Join(ports, ",")), plain(few(endpoints, 3))}
}

func (a *app) workloadCells(w *v1alpha1.Workload) []cell {
	var ports []string
	for _, p := range w.Spec.Ports {
		ports = append(ports, p.Name+":"+strconv.Itoa(int(p.Port)))
	}
	pid := ""
	if w.Status.PID != 0 {
		pid = strconv.Itoa(int(w.Status.PID))
	}
	return []cell{
		a.condition(w.Status.Conditions, "Ready"), plain(readyReason(w)), plain(w.Status.Address), plain(strings.Join(ports, ",")),
		plain(pid), plain(strconv.Itoa(int(w.Status.Restarts))),
	}
}

func grantCells(g *gatewayv1.ReferenceGrant) []cell {
	var from, to []string
	for _, f := range g.Spec.From {
		from = append(from, string(f.Namespace)+"/"+string(f.Kind))
	}
	for _, t := range g.Spec.To {
		text := string(t.Kind)
		if t.Name != nil {
			text += "/" + string(*t.Name)
		}
		to = append(to, text)
	}
	return []cell{plain(few(from, 3)), plain(few(to, 3))}
}

// condition shows the status of a condition in its colour.
func (a *app) condition(conditions []metav1.Condition, kind string) cell {
	c := meta.FindStatusCondition(conditions, kind)
	if c == nil {
		return cell{text: "Unknown", paint: a.colors.yellow}
	}
	return a.truth(c.Status)
}

func (a *app) truth(s metav1.ConditionStatus) cell {
	switch s {
	case metav1.ConditionTrue:
		return cell{text: string(s), paint: a.colors.green}
	case metav1.ConditionFalse:
		return cell{text: string(s), paint: a.colors.red}
	case metav1.ConditionUnknown:
	}
	return cell{text: object.Printable(string(s)), paint: a.colors.yellow}
}

// few shows the first n of a list.
func few(list []string, n int) string {
	if len(list) <= n {
		return strings.Join(list, ",")
	}
	return fmt.Sprintf("%s + %d more", strings.Join(list[:n], ","), len(list)-n)
}

// parentName is a name, with the namespace where that is another.
func parentName(name, namespace string, other *string) string {
	if other == nil || *other == "" || *other == namespace {
		return name
	}
	return *other + "/" + name
}

func age(o metav1.Object) string {
	created := o.GetCreationTimestamp()
	if created.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(created.Time))
}
