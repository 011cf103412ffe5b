package translate

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// trafficPolicies are the XBackendTrafficPolicies by what they target: the oldest
// has the say.
type trafficPolicies struct {
	targets map[object.Key][]*trafficPolicy
	all     []*trafficPolicy
	shown   map[object.Key]*object.Status
}

// trafficPolicy is a policy as far as it says what can be done.
type trafficPolicy struct {
	object  *gatewayxv1alpha1.XBackendTrafficPolicy
	session *plan.Session
	budget  *plan.RetryBudget
	bad     badField // what is wrong with it, below spec: then it has no effect
}

// update reads the policies anew. They are few.
func (x *trafficPolicies) update(t *Translator) {
	if !t.delta.traffic.any() {
		return
	}
	old := map[*gatewayxv1alpha1.XBackendTrafficPolicy]*trafficPolicy{}
	for _, p := range x.all {
		old[p.object] = p
	}
	x.targets, x.all = map[object.Key][]*trafficPolicy{}, nil
	for _, o := range t.set.XBackendTrafficPolicies.All() {
		p := old[o]
		if p == nil {
			p = readTrafficPolicy(o)
		}
		x.all = append(x.all, p)
		for i := range o.Spec.TargetRefs {
			if key, ok := trafficTarget(o.Namespace, &o.Spec.TargetRefs[i]); ok && !slices.Contains(x.targets[key], p) {
				x.targets[key] = append(x.targets[key], p)
			}
		}
	}
	for _, list := range x.targets {
		slices.SortFunc(list, func(a, b *trafficPolicy) int { return older(a.object, b.object) })
	}
}

// of is the policy that has the say about a target; nil without one.
func (x *trafficPolicies) of(kind string, name object.Name) *trafficPolicy {
	if list := x.targets[object.Key{Kind: kind, Namespace: name.Namespace, Name: name.Name}]; len(list) > 0 {
		return list[0]
	}
	return nil
}

// apply gives a service what its policy says; what the service says itself of
// sessions goes before it.
func (p *trafficPolicy) apply(to *plan.Service) {
	if p == nil || p.bad.message != "" {
		return
	}
	to.Budget = p.budget
	if to.Session == nil {
		to.Session = p.session
	}
}

func trafficTarget(namespace string, ref *gatewayv1.LocalPolicyTargetReference) (object.Key, bool) {
	key := object.Key{Kind: string(ref.Kind), Namespace: namespace, Name: string(ref.Name)}
	return key, key.Kind == "Service" && ref.Group == "" || key.Kind == "XBackend" && ref.Group == gatewayxv1alpha1.GroupName
}

func readTrafficPolicy(o *gatewayxv1alpha1.XBackendTrafficPolicy) *trafficPolicy {
	p := &trafficPolicy{object: o}
	if s := o.Spec.SessionPersistence; s != nil { //nolint:staticcheck // deprecated, and accepted by the API, so it is not ignored
		key := object.Key{Kind: "XBackendTrafficPolicy", Namespace: o.Namespace, Name: o.Name}
		if p.session, p.bad = session(s, key.String()); p.bad.message != "" {
			p.bad.sub = "sessionPersistence" + p.bad.sub
			return p
		}
	}
	if o.Spec.RetryConstraint != nil {
		if p.budget, p.bad = retryBudget(o.Spec.RetryConstraint); p.bad.message != "" {
			p.bad.sub = "retryConstraint" + p.bad.sub
		}
	}
	return p
}

// retryBudget reads a constraint; what it leaves open is as the API says.
func retryBudget(c *gatewayxv1alpha1.RetryConstraint) (*plan.RetryBudget, badField) {
	b := &plan.RetryBudget{Percent: 20, Interval: 10 * time.Second, Free: 10, FreeInterval: time.Second}
	if d := c.Budget; d != nil {
		if d.Percent != nil {
			b.Percent = *d.Percent
		}
		if b.Percent < 0 || b.Percent > 100 {
			return nil, badField{".budget.percent", fmt.Sprintf("%d is not a percentage", b.Percent), "write 0 to 100"}
		}
		if bad := intervalOf(&b.Interval, d.Interval, ".budget.interval"); bad.message != "" {
			return nil, bad
		}
	}
	if r := c.MinRetryRate; r != nil {
		if r.Count != nil {
			b.Free = *r.Count
		}
		if b.Free < 1 || b.Free > 1_000_000 {
			return nil, badField{".minRetryRate.count", fmt.Sprintf("%d is not a number of retries", b.Free), "write 1 to 1000000"}
		}
		if bad := intervalOf(&b.FreeInterval, r.Interval, ".minRetryRate.interval"); bad.message != "" {
			return nil, bad
		}
	}
	return b, badField{}
}

func intervalOf(to *time.Duration, d *gatewayv1.Duration, sub string) badField {
	if d == nil {
		return badField{}
	}
	parsed, err := time.ParseDuration(string(*d))
	if err != nil || parsed <= 0 || parsed > time.Hour {
		return badField{sub, fmt.Sprintf("%q is not an interval of at most an hour", *d), "write it as 10s"}
	}
	*to = parsed
	return badField{}
}

// showTraffic makes the status of each policy, one ancestor for each Gateway
// through which a route reaches a target, and adds findings.
func (t *Translator) showTraffic(out *Result) []*object.Status {
	if len(t.traffic.all) == 0 {
		t.traffic.shown = nil
		return nil
	}
	reached := t.reached(func(key object.Key) bool { return t.traffic.targets[key] != nil })
	shown := map[object.Key]*object.Status{}
	var list []*object.Status
	for _, p := range t.traffic.all {
		key := object.Key{Kind: "XBackendTrafficPolicy", Namespace: p.object.Namespace, Name: p.object.Name}
		conditions := []metav1.Condition{conclude(string(gatewayv1.PolicyConditionAccepted), t.trafficVerdict(p, key, out), "accepted", p.object.Generation)}
		var targets []object.Key
		for i := range p.object.Spec.TargetRefs {
			if target, ok := trafficTarget(key.Namespace, &p.object.Spec.TargetRefs[i]); ok {
				targets = append(targets, target)
			}
		}
		s := &object.Status{Object: key, Generation: p.object.Generation, Policy: policyStatus(ancestors(targets, reached), conditions)}
		if was := t.traffic.shown[key]; was != nil && reflect.DeepEqual(was, s) {
			s = was
		}
		shown[key] = s
		list = append(list, s)
	}
	t.traffic.shown = shown
	return list
}

// trafficVerdict says whether a policy has effect on all that it targets.
func (t *Translator) trafficVerdict(p *trafficPolicy, key object.Key, out *Result) verdict {
	find := func(field, reason, message, mend string) verdict {
		out.Findings = append(out.Findings, object.Finding{Severity: object.Error, Object: key, Field: field, Reason: reason, Message: message, Mend: mend})
		return verdict{reason, message}
	}
	if p.bad.message != "" {
		return find("spec."+p.bad.sub, string(gatewayv1.PolicyReasonInvalid), p.bad.message, p.bad.mend)
	}
	if p.budget == nil && p.session == nil {
		out.Findings = append(out.Findings, object.Finding{Severity: object.Warning, Object: key, Field: "spec", Reason: reasonNotRead, Message: "the policy asks for nothing", Mend: "write retryConstraint or sessionPersistence"})
	}
	var accepted verdict
	for i := range p.object.Spec.TargetRefs {
		ref := &p.object.Spec.TargetRefs[i]
		field := fmt.Sprintf("spec.targetRefs[%d]", i)
		target, ok := trafficTarget(key.Namespace, ref)
		if !ok {
			accepted = first(accepted, find(field+".kind", string(gatewayv1.PolicyReasonInvalid), fmt.Sprintf("windrose knows no target of kind %s in group %q", ref.Kind, ref.Group), "name a Service, or an XBackend of group "+gatewayxv1alpha1.GroupName))
			continue
		}
		if mend, ok := t.there(target); !ok {
			accepted = first(accepted, find(field+".name", string(gatewayv1.PolicyReasonTargetNotFound), target.String()+" does not exist", mend))
			continue
		}
		if winner := t.traffic.targets[target][0]; winner != p {
			accepted = first(accepted, find(field, string(gatewayv1.PolicyReasonConflicted),
				fmt.Sprintf("XBackendTrafficPolicy %s, which is older, targets %s too", object.NameOf(winner.object), target), "remove one of them"))
			continue
		}
		if p.session != nil && t.affinity(target) {
			accepted = first(accepted, find(field, string(gatewayv1.PolicyReasonInvalid),
				target.String()+" has sessionAffinity ClientIP, which excludes session persistence: its requests have no session", "write sessionAffinity: None there"))
		}
	}
	return accepted
}

// there says whether a target exists, and if not, what may be meant.
func (t *Translator) there(target object.Key) (string, bool) {
	if target.Kind == "XBackend" {
		_, ok := t.set.XBackends.Get(target.Namespace, target.Name)
		return object.Meant(target.Name, namesIn(t.set.XBackends, target.Namespace)), ok
	}
	_, ok := t.set.Services.Get(target.Namespace, target.Name)
	return object.Meant(target.Name, namesIn(t.set.Services, target.Namespace)), ok
}

func (t *Translator) affinity(target object.Key) bool {
	svc, ok := t.set.Services.Get(target.Namespace, target.Name)
	return target.Kind == "Service" && ok && svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP
}
