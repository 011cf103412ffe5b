package translate

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// backendTLS are the BackendTLSPolicies that target one Service, by
// precedence.
type backendTLS struct {
	policies []*gatewayv1.BackendTLSPolicy
}

func indexPolicies(set *object.Set) map[object.Name]*backendTLS {
	index := map[object.Name]*backendTLS{}
	for _, p := range set.BackendTLSPolicies.All() {
		for _, ref := range p.Spec.TargetRefs {
			if ref.Group != "" || ref.Kind != "Service" {
				continue
			}
			name := object.Name{Namespace: p.Namespace, Name: string(ref.Name)}
			if index[name] == nil {
				index[name] = &backendTLS{}
			}
			if !slices.Contains(index[name].policies, p) {
				index[name].policies = append(index[name].policies, p)
			}
		}
	}
	for _, b := range index {
		slices.SortFunc(b.policies, func(a, b *gatewayv1.BackendTLSPolicy) int { return older(a, b) })
	}
	return index
}

// policyChanged says whether the policies of a Service may have changed. They
// are few, so that all count, and all that holds authorities.
func (t *Translator) policyChanged(name object.Name) bool {
	return t.delta.policies.any() || t.policies[name] != nil && (t.delta.configMaps.any() || t.delta.bundles.any())
}

// of is the policy that has the say about a port: the oldest of those that name
// it, or else of those that name none.
func (b *backendTLS) of(service object.Name, port string) *gatewayv1.BackendTLSPolicy {
	for _, section := range []string{port, ""} {
		for _, p := range b.policies {
			for i := range p.Spec.TargetRefs {
				ref := &p.Spec.TargetRefs[i]
				if ref.Kind == "Service" && ref.Group == "" && string(ref.Name) == service.Name && string(sectionOf(ref)) == section {
					return p
				}
			}
		}
	}
	return nil
}

// policyOf is the policy that has the say about a port; nil without one.
func (t *Translator) policyOf(to servicePort) *gatewayv1.BackendTLSPolicy {
	b := t.policies[to.name]
	svc, ok := t.set.Services.Get(to.name.Namespace, to.name.Name)
	if b == nil || !ok {
		return nil
	}
	port := ""
	if p := portOf(svc, to); p != nil {
		port = p.Name
	}
	return b.of(to.name, port)
}

// believed is what the policy of a port makes of it; without any authority that
// can be read, why not.
func (t *Translator) believed(to servicePort) (*plan.BackendTLS, string) {
	p := t.policyOf(to)
	if p == nil {
		return nil, ""
	}
	made, why := t.believes(&p.Spec.Validation, p.Namespace)
	if !made.System && len(made.Authorities) == 0 {
		return made, fmt.Sprintf("BackendTLSPolicy %s/%s asks for TLS to Service %s, and %s", p.Namespace, p.Name, to.name, why)
	}
	return made, ""
}

// believes is what a validation makes of an endpoint, and what is wrong with it.
func (t *Translator) believes(v *gatewayv1.BackendTLSPolicyValidation, namespace string) (made *plan.BackendTLS, why string) {
	made = &plan.BackendTLS{Hostname: strings.ToLower(string(v.Hostname))}
	for _, n := range v.SubjectAltNames {
		if n.Type == gatewayv1.URISubjectAltNameType {
			made.Names = append(made.Names, plan.SubjectName{URI: string(n.URI)})
			continue
		}
		made.Names = append(made.Names, plan.SubjectName{DNS: strings.ToLower(string(n.Hostname))})
	}
	why = "it names no CA certificate"
	if len(v.CACertificateRefs) == 0 && v.WellKnownCACertificates != nil {
		why = fmt.Sprintf("windrose does not know the CA certificates %q", *v.WellKnownCACertificates)
		made.System = *v.WellKnownCACertificates == gatewayv1.WellKnownCACertificatesSystem
	}
	for _, ref := range v.CACertificateRefs {
		a := t.authority(string(ref.Group), string(ref.Kind), namespace, string(ref.Name))
		if !a.ok() {
			why = a.why
			continue
		}
		made.Authorities = append(append(made.Authorities, a.pem...), '\n')
	}
	return made, why
}

// unbelieved says why nothing can be sent to a port that is to be spoken to
// under TLS; "" if it can.
func (t *Translator) unbelieved(to servicePort) string {
	if !to.tls || to.xbackend { // one that believes nobody is not sent to at all

		return ""
	}
	_, why := t.believed(to)
	return why
}

// policyVerdict says whether a policy wants TLS to a port. Where windrose does not
// carry that, it refuses: clear text is not what the author wants instead.
func (t *Translator) policyVerdict(svc *corev1.Service, to servicePort) (bool, verdict) {
	p := t.policyOf(to)
	if p == nil {
		return false, verdict{}
	}
	if t.carried.BackendTLS {
		return true, verdict{}
	}
	return false, verdict{string(gatewayv1.RouteReasonUnsupportedProtocol), fmt.Sprintf("BackendTLSPolicy %s/%s asks for TLS to Service %s, which windrose does not carry yet", p.Namespace, p.Name, object.NameOf(svc))}
}

// showPolicies makes the status of each policy, one ancestor for each Gateway
// through which a route reaches its Service, and adds findings.
func (t *Translator) showPolicies(out *Result) []*object.Status {
	all := t.set.BackendTLSPolicies.All()
	if len(all) == 0 {
		t.routes.policies = nil
		return nil
	}
	reached := t.reached(func(key object.Key) bool { return key.Kind == "Service" && t.policies[nameOf(key)] != nil })
	shown := map[object.Key]*object.Status{}
	var list []*object.Status
	for _, p := range all {
		key := object.Key{Kind: "BackendTLSPolicy", Namespace: p.Namespace, Name: p.Name}
		conditions := t.policyConditions(p, key, out)
		var targets []object.Key
		for _, ref := range p.Spec.TargetRefs {
			targets = append(targets, object.Key{Kind: "Service", Namespace: p.Namespace, Name: string(ref.Name)})
		}
		s := &object.Status{Object: key, Generation: p.Generation, Policy: policyStatus(ancestors(targets, reached), conditions)}
		if was := t.routes.policies[key]; was != nil && reflect.DeepEqual(was, s) {
			s = was
		}
		shown[key] = s
		list = append(list, s)
	}
	t.routes.policies = shown
	return list
}

// reached gives the Gateways through which routes and authorisers of listeners
// reach Services and XBackends, those that are wanted.
func (t *Translator) reached(wanted func(object.Key) bool) map[object.Key][]object.Key {
	index := map[object.Key][]object.Key{}
	routes := t.routes.all()
	for _, kind := range append(routes[:], t.gateways.refs) {
		for _, c := range kind {
			for _, name := range c.in.services {
				t.reach(index, object.Key{Kind: "Service", Namespace: name.Namespace, Name: name.Name}, c, wanted)
			}
			for _, name := range c.in.xbackends {
				t.reach(index, object.Key{Kind: "XBackend", Namespace: name.Namespace, Name: name.Name}, c, wanted)
			}
		}
	}
	return index
}

func (t *Translator) reach(index map[object.Key][]object.Key, key object.Key, c *compiled, wanted func(object.Key) bool) {
	if !wanted(key) {
		return
	}
	for _, l := range c.attached {
		gateway := l.owner
		if p := t.gateways.parents[gateway]; p != nil && p.gateway != nil {
			gateway = p.gateway.key
		}
		if !slices.Contains(index[key], gateway) {
			index[key] = append(index[key], gateway)
		}
	}
}

// ancestors are the Gateways through which any of the targets is reached.
func ancestors(targets []object.Key, reached map[object.Key][]object.Key) []object.Key {
	var list []object.Key
	for _, target := range targets {
		for _, g := range reached[target] {
			if !slices.Contains(list, g) {
				list = append(list, g)
			}
		}
	}
	slices.SortFunc(list, object.Key.Compare)
	return list[:min(len(list), 16)] // as many as the API allows
}

func policyStatus(gateways []object.Key, conditions []metav1.Condition) *gatewayv1.PolicyStatus {
	status := &gatewayv1.PolicyStatus{Ancestors: []gatewayv1.PolicyAncestorStatus{}}
	for _, gateway := range gateways {
		status.Ancestors = append(status.Ancestors, gatewayv1.PolicyAncestorStatus{AncestorRef: gatewayRef(gateway), ControllerName: GatewayController, Conditions: conditions})
	}
	return status
}

func gatewayRef(key object.Key) gatewayv1.ParentReference {
	return gatewayv1.ParentReference{
		Group: new(gatewayv1.Group(gatewayv1.GroupName)), Kind: new(gatewayv1.Kind("Gateway")),
		Namespace: new(gatewayv1.Namespace(key.Namespace)), Name: gatewayv1.ObjectName(key.Name),
	}
}

func nameOf(key object.Key) object.Name { return object.Name{Namespace: key.Namespace, Name: key.Name} }

func (t *Translator) policyConditions(p *gatewayv1.BackendTLSPolicy, key object.Key, out *Result) []metav1.Condition {
	find := func(field, reason, message, mend string) {
		out.Findings = append(out.Findings, object.Finding{Severity: object.Error, Object: key, Field: field, Reason: reason, Message: message, Mend: mend})
	}
	accepted, resolved := verdict{}, verdict{}
	if known := p.Spec.Validation.WellKnownCACertificates; known != nil && *known != gatewayv1.WellKnownCACertificatesSystem {
		accepted = verdict{string(gatewayv1.PolicyReasonInvalid), fmt.Sprintf("windrose does not know the CA certificates %q", *known)}
		find("spec.validation.wellKnownCACertificates", accepted.reason, accepted.message, "write System")
	}
	if !t.carried.BackendTLS {
		accepted = unsupported("windrose does not carry TLS to backends yet: requests to the Service are answered with 500")
		find("", reasonNotCarried, accepted.message, "")
	}
	for _, name := range slices.Sorted(maps.Keys(p.Spec.Options)) {
		out.Findings = append(out.Findings, object.Finding{
			Severity: object.Warning, Object: key, Field: "spec.options[" + string(name) + "]", Reason: reasonNotRead,
			Message: "windrose knows no option " + string(name) + " of a BackendTLSPolicy, so that it has no effect", Mend: "remove it",
		})
	}
	accepted = first(accepted, t.policyTargets(p, find))
	valid := 0
	for i, ref := range p.Spec.Validation.CACertificateRefs {
		a := t.authority(string(ref.Group), string(ref.Kind), p.Namespace, string(ref.Name))
		if a.ok() {
			valid++
			continue
		}
		v := verdict{string(gatewayv1.BackendTLSPolicyReasonInvalidCACertificateRef), a.why}
		if a.unknown {
			v.reason = string(gatewayv1.BackendTLSPolicyReasonInvalidKind)
		}
		resolved = first(resolved, v)
		find(fmt.Sprintf("spec.validation.caCertificateRefs[%d]", i), v.reason, v.message, a.mend)
	}
	if !resolved.ok() && valid == 0 && accepted.ok() {
		accepted = verdict{string(gatewayv1.BackendTLSPolicyReasonNoValidCACertificate), resolved.message}
	}
	return []metav1.Condition{
		conclude(string(gatewayv1.PolicyConditionAccepted), accepted, "accepted", p.Generation),
		conclude(string(gatewayv1.BackendTLSPolicyConditionResolvedRefs), resolved, "references are resolved", p.Generation),
	}
}

// policyTargets looks at what a policy targets: it is conflicted where an older
// one does, and targets nothing where none of it is there.
func (t *Translator) policyTargets(p *gatewayv1.BackendTLSPolicy, find func(field, reason, message, mend string)) verdict {
	conflicted, lost, found := verdict{}, verdict{}, 0
	missing := func(field, message, mend string) {
		lost = first(lost, verdict{string(gatewayv1.PolicyReasonTargetNotFound), message})
		find(field, string(gatewayv1.PolicyReasonTargetNotFound), message, mend)
	}
	for i := range p.Spec.TargetRefs {
		ref, field := &p.Spec.TargetRefs[i], fmt.Sprintf("spec.targetRefs[%d]", i)
		name := object.Name{Namespace: p.Namespace, Name: string(ref.Name)}
		if ref.Group != "" || ref.Kind != "Service" {
			missing(field+".kind", fmt.Sprintf("windrose knows no target of kind %s in group %q", ref.Kind, ref.Group), "name a Service")
			continue
		}
		svc, ok := t.set.Services.Get(name.Namespace, name.Name)
		if !ok {
			missing(field+".name", "Service "+name.String()+" does not exist", object.Meant(name.Name, namesIn(t.set.Services, p.Namespace)))
			continue
		}
		section := string(sectionOf(ref))
		if section != "" && !slices.ContainsFunc(svc.Spec.Ports, func(port corev1.ServicePort) bool { return port.Name == section }) {
			missing(field+".sectionName", "Service "+name.String()+" has no port named "+section, portsOf(svc))
			continue
		}
		found++
		if winner := t.winner(p, ref); winner != p {
			v := verdict{string(gatewayv1.PolicyReasonConflicted), fmt.Sprintf("BackendTLSPolicy %s/%s, which is older, targets Service %s too", winner.Namespace, winner.Name, name)}
			conflicted = first(conflicted, v)
			find(field, v.reason, v.message, "remove one of them")
		}
	}
	if found == 0 && conflicted.ok() {
		return lost
	}
	return conflicted
}

// winner is the oldest policy that targets what a reference targets.
func (t *Translator) winner(p *gatewayv1.BackendTLSPolicy, ref *gatewayv1.LocalPolicyTargetReferenceWithSectionName) *gatewayv1.BackendTLSPolicy {
	for _, other := range t.policies[object.Name{Namespace: p.Namespace, Name: string(ref.Name)}].policies {
		for _, theirs := range other.Spec.TargetRefs {
			if theirs.Kind == ref.Kind && theirs.Group == ref.Group && theirs.Name == ref.Name && sectionOf(&theirs) == sectionOf(ref) {
				return other
			}
		}
	}
	return p
}

func sectionOf(ref *gatewayv1.LocalPolicyTargetReferenceWithSectionName) gatewayv1.SectionName {
	if ref.SectionName == nil {
		return ""
	}
	return *ref.SectionName
}
