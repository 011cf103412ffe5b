package translate

import (
	"fmt"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
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
// are few, so that all count.
func (t *Translator) policyChanged(object.Name) bool { return t.delta.policies.any() }

// policyVerdict refuses a port for which somebody asked for TLS: it is not
// carried yet, and clear text is not what the author wants instead.
func (t *Translator) policyVerdict(svc *corev1.Service, to servicePort) verdict {
	name := object.NameOf(svc)
	b := t.policies[name]
	if b == nil {
		return verdict{}
	}
	port := ""
	if p := portOf(svc, to); p != nil {
		port = p.Name
	}
	for _, p := range b.policies {
		for _, ref := range p.Spec.TargetRefs {
			if ref.Kind == "Service" && ref.Group == "" && string(ref.Name) == name.Name && (ref.SectionName == nil || *ref.SectionName == "" || string(*ref.SectionName) == port) {
				return verdict{string(gatewayv1.RouteReasonUnsupportedProtocol), fmt.Sprintf("BackendTLSPolicy %s/%s asks for TLS to Service %s, which windrose does not carry yet", p.Namespace, p.Name, name)}
			}
		}
	}
	return verdict{}
}

// showPolicies makes the status of each policy, one ancestor for each Gateway
// through which a route reaches its Service, and adds findings.
func (t *Translator) showPolicies(out *Result) []*object.Status {
	all := t.set.BackendTLSPolicies.All()
	if len(all) == 0 {
		t.routes.policies = nil
		return nil
	}
	reached := t.reached()
	shown := map[object.Key]*object.Status{}
	var list []*object.Status
	for _, p := range all {
		key := object.Key{Kind: "BackendTLSPolicy", Namespace: p.Namespace, Name: p.Name}
		conditions := t.policyConditions(p, key, out)
		status := &gatewayv1.PolicyStatus{Ancestors: []gatewayv1.PolicyAncestorStatus{}}
		for _, gateway := range t.ancestors(p, reached) {
			status.Ancestors = append(status.Ancestors, gatewayv1.PolicyAncestorStatus{
				AncestorRef:    gatewayv1.ParentReference{Group: new(gatewayv1.Group(gatewayv1.GroupName)), Kind: new(gatewayv1.Kind("Gateway")), Namespace: new(gatewayv1.Namespace(gateway.Namespace)), Name: gatewayv1.ObjectName(gateway.Name)},
				ControllerName: GatewayController, Conditions: conditions,
			})
		}
		s := &object.Status{Object: key, Generation: p.Generation, Policy: status}
		if was := t.routes.policies[key]; was != nil && reflect.DeepEqual(was, s) {
			s = was
		}
		shown[key] = s
		list = append(list, s)
	}
	t.routes.policies = shown
	return list
}

// reached gives the Gateways through which routes reach the Services that a
// policy targets.
func (t *Translator) reached() map[object.Name][]object.Key {
	index := map[object.Name][]object.Key{}
	for _, kind := range t.routes.all() {
		for _, c := range kind {
			for _, name := range c.in.services {
				if t.policies[name] == nil {
					continue
				}
				for _, l := range c.attached {
					gateway := l.owner
					if p := t.gateways.parents[gateway]; p != nil && p.gateway != nil {
						gateway = p.gateway.key
					}
					if !slices.Contains(index[name], gateway) {
						index[name] = append(index[name], gateway)
					}
				}
			}
		}
	}
	return index
}

func (t *Translator) ancestors(p *gatewayv1.BackendTLSPolicy, reached map[object.Name][]object.Key) []object.Key {
	var list []object.Key
	for _, ref := range p.Spec.TargetRefs {
		for _, g := range reached[object.Name{Namespace: p.Namespace, Name: string(ref.Name)}] {
			if !slices.Contains(list, g) {
				list = append(list, g)
			}
		}
	}
	slices.SortFunc(list, object.Key.Compare)
	return list[:min(len(list), 16)] // as many as the API allows
}

func (t *Translator) policyConditions(p *gatewayv1.BackendTLSPolicy, key object.Key, out *Result) []metav1.Condition {
	find := func(field, reason, message, mend string) {
		out.Findings = append(out.Findings, object.Finding{Severity: object.Error, Object: key, Field: field, Reason: reason, Message: message, Mend: mend})
	}
	accepted, resolved := unsupported("windrose does not carry TLS to backends yet: requests to the Service are answered with 500"), verdict{}
	find("", reasonNotCarried, accepted.message, "")
	for i, ref := range p.Spec.TargetRefs {
		field := fmt.Sprintf("spec.targetRefs[%d]", i)
		name := object.Name{Namespace: p.Namespace, Name: string(ref.Name)}
		if ref.Group != "" || ref.Kind != "Service" {
			find(field+".kind", string(gatewayv1.PolicyReasonTargetNotFound), fmt.Sprintf("windrose knows no target of kind %s in group %q", ref.Kind, ref.Group), "name a Service")
			continue
		}
		if _, ok := t.set.Services.Get(name.Namespace, name.Name); !ok {
			find(field+".name", string(gatewayv1.PolicyReasonTargetNotFound), "Service "+name.String()+" does not exist", object.Meant(name.Name, namesIn(t.set.Services, p.Namespace)))
			continue
		}
		if winner := t.winner(p, &ref); winner != p {
			accepted = verdict{string(gatewayv1.PolicyReasonConflicted), fmt.Sprintf("BackendTLSPolicy %s/%s, which is older, targets Service %s too", winner.Namespace, winner.Name, name)}
			find(field, accepted.reason, accepted.message, "remove one of them")
		}
	}
	valid := 0
	for i, ref := range p.Spec.Validation.CACertificateRefs {
		v := verdict{}
		if ref.Group != "" || ref.Kind != "ConfigMap" {
			v = verdict{string(gatewayv1.BackendTLSPolicyReasonInvalidKind), fmt.Sprintf("CA certificate %s is of kind %s, which windrose cannot read; name a ConfigMap", ref.Name, ref.Kind)}
		} else if why := t.badAuthority(p.Namespace, string(ref.Name)); why != "" {
			v = verdict{string(gatewayv1.BackendTLSPolicyReasonInvalidCACertificateRef), why}
		}
		if v.ok() {
			valid++
			continue
		}
		resolved = first(resolved, v)
		find(fmt.Sprintf("spec.validation.caCertificateRefs[%d]", i), v.reason, v.message, "")
	}
	if !resolved.ok() && valid == 0 && accepted.reason != string(gatewayv1.PolicyReasonConflicted) {
		accepted = verdict{string(gatewayv1.BackendTLSPolicyReasonNoValidCACertificate), resolved.message}
	}
	return []metav1.Condition{
		conclude(string(gatewayv1.PolicyConditionAccepted), accepted, "accepted", p.Generation),
		conclude(string(gatewayv1.BackendTLSPolicyConditionResolvedRefs), resolved, "references are resolved", p.Generation),
	}
}

// winner is the oldest policy that targets what a reference targets.
func (t *Translator) winner(p *gatewayv1.BackendTLSPolicy, ref *gatewayv1.LocalPolicyTargetReferenceWithSectionName) *gatewayv1.BackendTLSPolicy {
	for _, other := range t.policies[object.Name{Namespace: p.Namespace, Name: string(ref.Name)}].policies {
		for _, theirs := range other.Spec.TargetRefs {
			if theirs.Name == ref.Name && sectionOf(&theirs) == sectionOf(ref) {
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
