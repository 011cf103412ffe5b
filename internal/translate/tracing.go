package translate

import (
	"cmp"
	"fmt"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"windrose.dev/windrose/api/v1alpha1"
	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// This file compiles tracing: what GatewayParameters say for all listeners, and
// what an XTelemetryPolicy says for those of a Gateway (GEP-4768). There are few
// of both, so that all are compiled again when anything they look at changes.

// tracings are what listeners trace by.
type tracings struct {
	policies map[object.Key]string         // of Gateways that a policy targets; "": nothing is traced
	common   string                        // of all other listeners; "": nothing is traced
	parts    []*plan.Part                  // with the services of collectors that a URL names
	shown    map[object.Key]*object.Status // as last shown
	statuses []*object.Status
}

const (
	tracedByGRPC = "tracing with protocol OTLPGRPC"
	tracedByHTTP = "tracing"
	// maxTags bounds the attributes that a policy adds to each span.
	maxTags = 32
)

// of is what a listener traces by.
func (g *gateways) tracingOf(l *listener) string {
	if l.spec.Protocol != gatewayv1.HTTPProtocolType && l.spec.Protocol != gatewayv1.HTTPSProtocolType {
		return ""
	}
	owner := l.owner
	if p := g.parents[owner]; p != nil && p.gateway != nil {
		owner = p.gateway.key
	}
	if name, ok := g.tracing.policies[owner]; ok {
		return name
	}
	return g.tracing.common
}

// readTracing makes all of it.
func (g *gateways) readTracing(t *Translator) {
	old := map[plan.Key]*plan.Part{}
	for _, p := range g.tracing.parts {
		old[p.Key] = p
	}
	next := tracings{policies: map[object.Key]string{}, shown: map[object.Key]*object.Status{}}
	var spec *v1alpha1.Tracing
	if g.params != nil {
		spec = g.params.Spec.Tracing
	}
	if spec != nil {
		next.common = g.commonTracing(t, &next, spec)
	}
	all := slices.SortedFunc(slices.Values(t.set.XTelemetryPolicies.All()), func(a, b *gatewayxv1alpha1.XTelemetryPolicy) int { return older(a, b) })
	taken := map[object.Key]*gatewayxv1alpha1.XTelemetryPolicy{}
	for _, p := range all {
		m := &telemetryMaker{compiler: &compiler{t: t, key: object.Key{Kind: "XTelemetryPolicy", Namespace: p.Namespace, Name: p.Name}, generation: p.Generation}, g: g, policy: p, next: &next, spec: spec}
		s := m.policyStatus(taken)
		if was := g.tracing.shown[m.key]; was != nil && reflect.DeepEqual(was, s) {
			s = was
		}
		next.shown[m.key] = s
		next.statuses = append(next.statuses, s)
	}
	for i, p := range next.parts {
		if was := old[p.Key]; was != nil && reflect.DeepEqual(was, p) {
			next.parts[i] = was
		}
	}
	g.tracing = next
}

// commonTracing compiles what the parameters say; it gives the name of the part,
// "" if nothing is traced by it.
func (g *gateways) commonTracing(t *Translator, next *tracings, spec *v1alpha1.Tracing) string {
	c := &compiler{t: t, key: object.Key{Kind: "GatewayParameters", Namespace: g.params.Namespace, Name: g.params.Name}, generation: g.params.Generation}
	defer func() {
		var by []*listener
		for _, p := range g.order {
			by = append(by, p.listeners...)
		}
		g.referred(c, by)
		g.findings = append(g.findings, c.findings...)
	}()
	if !t.carried.Tracing {
		c.find(object.Error, "spec.tracing", reasonNotCarried, "windrose does not carry tracing yet", "")
		return ""
	}
	full := plan.Share{Num: 1, Den: 1}
	made := &plan.Tracing{Protocol: plan.OTLPGRPC, ServiceName: spec.ServiceName, Sampling: full, ParentSampling: full, Errors: spec.Errors != "Sampled"}
	invalid := func(field, message, mend string) string {
		c.find(object.Error, "spec.tracing."+field, reasonInvalidValue, message+"; nothing is traced by it", mend)
		return ""
	}
	switch spec.Protocol {
	case "", "OTLPGRPC":
	case "OTLPHTTP":
		made.Protocol = plan.OTLPHTTP
	case "Zipkin":
		made.Protocol = plan.Zipkin
	default:
		return invalid("protocol", fmt.Sprintf("%q is no protocol of collectors", spec.Protocol), "write OTLPGRPC, OTLPHTTP or Zipkin")
	}
	switch spec.Parents {
	case "", "Trusted":
		made.Parents = plan.ParentsTrusted
	case "All":
		made.Parents = plan.ParentsAll
	case "Ignored":
		made.Parents = plan.ParentsIgnored
	default:
		return invalid("parents", fmt.Sprintf("%q does not say whose word counts", spec.Parents), "write Trusted, All or Ignored")
	}
	if f := spec.Sampling; f != nil {
		made.Sampling = plan.Share{Num: f.Numerator, Den: cmp.Or(f.Denominator, 100)}
		if made.Sampling.Num < 0 || made.Sampling.Den < made.Sampling.Num {
			return invalid("sampling", made.Sampling.String()+" is no share", "write a numerator from 0 to the denominator")
		}
	}
	propagate(made, spec)
	if spec.URL == "" && spec.BackendRef == nil {
		return ""
	}
	if spec.URL != "" {
		service, bad := collectorAt(spec.URL, made)
		if bad != "" {
			return invalid("url", bad, "write http://HOST:PORT")
		}
		made.Service = "collector/" + g.params.Namespace + "/" + g.params.Name
		next.parts = append(next.parts, &plan.Part{Key: plan.Key{Kind: plan.KindService, Name: made.Service}, Service: service})
	} else {
		b := spec.BackendRef
		ref := gatewayv1.BackendObjectReference{Name: gatewayv1.ObjectName(b.Name), Port: new(b.Port)}
		if b.Namespace != "" {
			ref.Namespace = new(gatewayv1.Namespace(b.Namespace))
		}
		if v := c.collector(made, &ref, "spec.tracing.backendRef"); !v.ok() {
			return ""
		}
	}
	name := "GatewayParameters/" + g.params.Namespace + "/" + g.params.Name
	next.parts = append(next.parts, &plan.Part{Key: plan.Key{Kind: plan.KindTracing, Name: name}, Tracing: made})
	return name
}

func propagate(made *plan.Tracing, spec *v1alpha1.Tracing) {
	if spec != nil {
		made.B3, made.B3Multi = slices.Contains(spec.Propagation, "B3"), slices.Contains(spec.Propagation, "B3Multi")
	}
}

// collector follows the reference to a collector.
func (c *compiler) collector(made *plan.Tracing, ref *gatewayv1.BackendObjectReference, field string) verdict {
	kind := tracedByHTTP
	if made.Protocol == plan.OTLPGRPC {
		kind = tracedByGRPC
	}
	target, v := c.resolveFor(ref, func() string { return field }, kind)
	if !v.ok() {
		return v
	}
	if why := c.t.unbelieved(target); why != "" {
		c.find(object.Error, field, string(gatewayxv1alpha1.TelemetryPolicyReasonBackendNotFound), why, "mend the BackendTLSPolicy of the collector's Service")
		return verdict{string(gatewayxv1alpha1.TelemetryPolicyReasonBackendNotFound), why}
	}
	c.send(target)
	made.Service = target.String()
	made.Authority = target.name.Name + "." + target.name.Namespace + ":" + strconv.Itoa(int(target.port))
	if target.tls {
		if b, _ := c.t.believed(target); b != nil {
			made.Authority = b.Hostname
		}
	}
	return verdict{}
}

// collectorAt makes the service of a collector that a URL names, or says what is
// wrong with the URL.
func collectorAt(text string, made *plan.Tracing) (*plan.Service, string) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, "it is no URL of a collector"
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, "the URL of a collector has no user, query or fragment"
	}
	port := map[plan.TraceProtocol]uint64{plan.OTLPGRPC: 4317, plan.OTLPHTTP: 4318, plan.Zipkin: 9411}[made.Protocol]
	if u.Port() != "" {
		if port, err = strconv.ParseUint(u.Port(), 10, 16); err != nil || port == 0 {
			return nil, fmt.Sprintf("%q is no port", u.Port())
		}
	}
	made.Authority = u.Host
	if u.Path != "/" {
		made.Path = u.EscapedPath()
	}
	s := &plan.Service{Protocol: plan.HTTP}
	if made.Protocol == plan.OTLPGRPC {
		if made.Path != "" {
			return nil, "OTLP over gRPC knows no path"
		}
		s.Protocol = plan.H2C
	}
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
		s.Endpoints = []plan.Endpoint{{Addr: netip.AddrPortFrom(addr, uint16(port))}}
	} else {
		s.Hostname, s.Port = strings.ToLower(u.Hostname()), uint16(port)
	}
	if u.Scheme == "https" {
		s.TLS = &plan.BackendTLS{Hostname: strings.ToLower(u.Hostname()), System: true}
	}
	return s, ""
}

// telemetryMaker compiles one XTelemetryPolicy.
type telemetryMaker struct {
	*compiler
	g      *gateways
	policy *gatewayxv1alpha1.XTelemetryPolicy
	next   *tracings
	spec   *v1alpha1.Tracing // of the parameters; may be nil
}

// policyStatus takes effect for the Gateways that no older policy has, and gives
// the status: an ancestor for each Gateway that is windrose's, or does not exist.
func (m *telemetryMaker) policyStatus(taken map[object.Key]*gatewayxv1alpha1.XTelemetryPolicy) *object.Status {
	made, accepted, resolved := m.compile()
	var by []*listener
	defer func() {
		m.g.referred(m.compiler, by)
		m.g.findings = append(m.g.findings, m.findings...)
	}()
	name := ""
	if made != nil && accepted.ok() && resolved.ok() {
		name = "XTelemetryPolicy/" + m.key.Namespace + "/" + m.key.Name
	}
	status := &gatewayv1.PolicyStatus{Ancestors: []gatewayv1.PolicyAncestorStatus{}}
	used := false
	for i := range m.policy.Spec.TargetRefs {
		gateway, v, ours := m.target(i, taken)
		if !ours {
			continue
		}
		if v.ok() {
			taken[gateway] = m.policy
			by = append(by, m.g.parents[gateway].listeners...)
			if v = accepted; v.ok() && m.policy.Spec.Tracing.Mode != "" && m.policy.Spec.Tracing.Mode != gatewayxv1alpha1.TracingModeImplementationDefault {
				m.next.policies[gateway] = name
				used = used || name != ""
			}
		}
		if len(status.Ancestors) < 16 { // as many as the API allows
			status.Ancestors = append(status.Ancestors, gatewayv1.PolicyAncestorStatus{AncestorRef: gatewayRef(gateway), ControllerName: GatewayController, Conditions: []metav1.Condition{
				conclude(string(gatewayv1.PolicyConditionAccepted), v, "accepted", m.generation),
				conclude(string(gatewayxv1alpha1.TelemetryPolicyConditionResolvedRefs), resolved, "references are resolved", m.generation),
			}})
		}
	}
	if used {
		m.next.parts = append(m.next.parts, &plan.Part{Key: plan.Key{Kind: plan.KindTracing, Name: name}, Tracing: made})
	}
	return &object.Status{Object: m.key, Generation: m.generation, Policy: status}
}

// target finds the Gateway of a targetRef. ours says whether windrose has a say
// about it.
func (m *telemetryMaker) target(i int, taken map[object.Key]*gatewayxv1alpha1.XTelemetryPolicy) (gateway object.Key, v verdict, ours bool) {
	ref := &m.policy.Spec.TargetRefs[i]
	field := fmt.Sprintf("spec.targetRefs[%d]", i)
	refuse := func(sub string, reason gatewayv1.PolicyConditionReason, message, mend string) verdict {
		m.find(object.Error, field+sub, string(reason), message, mend)
		return verdict{string(reason), message}
	}
	gateway = object.Key{Kind: "Gateway", Namespace: m.key.Namespace, Name: string(ref.Name)}
	if ref.Group != gatewayv1.GroupName || ref.Kind != "Gateway" {
		refuse(".kind", gatewayv1.PolicyReasonTargetNotFound, fmt.Sprintf("windrose knows no target of kind %s in group %q", ref.Kind, ref.Group), "name a Gateway of group "+gatewayv1.GroupName)
		return gateway, verdict{}, false
	}
	p := m.g.parents[gateway]
	if p == nil {
		return gateway, refuse(".name", gatewayv1.PolicyReasonTargetNotFound, gateway.String()+" does not exist", object.Meant(gateway.Name, namesIn(m.t.set.Gateways, gateway.Namespace))), true
	}
	if !p.managed {
		m.find(object.Warning, field+".name", reasonParentNotManaged, gateway.String()+" is of another controller, so that windrose has no say in it", "name a Gateway whose class is windrose's, or leave this one to its controller")
		return gateway, verdict{}, false
	}
	if other := taken[gateway]; other != nil && other != m.policy {
		return gateway, refuse("", gatewayv1.PolicyReasonConflicted, fmt.Sprintf("XTelemetryPolicy %s, which is older, targets %s too", object.NameOf(other), gateway), "remove one of them"), true
	}
	return gateway, verdict{}, true
}

// compile makes what the policy asks for; nil if that is nothing.
func (m *telemetryMaker) compile() (made *plan.Tracing, accepted, resolved verdict) {
	s := &m.policy.Spec.Tracing
	invalid := func(field, message, mend string) verdict {
		m.find(object.Error, "spec.tracing."+field, string(gatewayv1.PolicyReasonInvalid), message, mend)
		return verdict{string(gatewayv1.PolicyReasonInvalid), message}
	}
	if !m.t.carried.Tracing {
		message := "windrose does not carry tracing yet"
		m.find(object.Error, "spec.tracing", reasonNotCarried, message, "")
		return nil, verdict{string(gatewayv1.PolicyReasonInvalid), message}, verdict{}
	}
	switch s.Mode {
	case gatewayxv1alpha1.TracingModeEnabled:
	case gatewayxv1alpha1.TracingModeDisabled, gatewayxv1alpha1.TracingModeImplementationDefault, "":
		return nil, verdict{}, verdict{}
	default:
		return nil, invalid("mode", fmt.Sprintf("windrose knows no mode %q", s.Mode), "write Enabled, Disabled or ImplementationDefault"), verdict{}
	}
	made = &plan.Tracing{ServiceName: s.ServiceName, SpanName: s.SpanName}
	propagate(made, m.spec)
	var bad string
	if made.Sampling, bad = shareOf(s.SamplingRate); bad != "" {
		return nil, invalid("samplingRate", bad, "write a numerator from 0 to the denominator"), verdict{}
	}
	// The policy's own rate says how much there is to be, none included.
	made.Errors = made.Sampling.Num > 0
	if m.spec != nil && m.spec.Errors != "" {
		made.Errors = m.spec.Errors == "Exported"
	}
	if made.ParentSampling, bad = shareOf(s.ParentBasedSampling.SamplingRate); bad != "" {
		return nil, invalid("parentBasedSampling.samplingRate", bad, "write a numerator from 0 to the denominator"), verdict{}
	}
	switch s.ParentBasedSampling.Mode {
	case gatewayxv1alpha1.ParentBasedSamplingModeEnabled:
		made.Parents = plan.ParentsAll
	case gatewayxv1alpha1.ParentBasedSamplingModeDisabled:
		made.Parents = plan.ParentsIgnored
	case gatewayxv1alpha1.ParentBasedSamplingModeImplementationDefault, "":
		made.Parents = plan.ParentsTrusted
	default:
		return nil, invalid("parentBasedSampling.mode", fmt.Sprintf("windrose knows no mode %q", s.ParentBasedSampling.Mode), "write Enabled, Disabled or ImplementationDefault"), verdict{}
	}
	for i, h := range s.Provider.Headers {
		name := strings.ToLower(string(h.Name))
		if !plan.IsToken(name) || slices.Contains(connectionHeaders, name) || name == "host" || name == "content-type" {
			return nil, invalid(fmt.Sprintf("provider.headers[%d].name", i), fmt.Sprintf("header %q cannot be set in requests to a collector", h.Name), "choose another"), verdict{}
		}
		made.Headers = append(made.Headers, plan.Header{Name: string(h.Name), Value: h.Value})
	}
	m.attributes(made, s.Attributes)
	made.Protocol = m.spoken(&s.Provider.BackendRef)
	return made, verdict{}, m.compiler.collector(made, &s.Provider.BackendRef, "spec.tracing.provider.backendRef")
}

func shareOf(f *gatewayv1.Fraction) (plan.Share, string) {
	if f == nil {
		return plan.Share{Num: 1, Den: 1}, ""
	}
	s := plan.Share{Num: f.Numerator, Den: 100}
	if f.Denominator != nil {
		s.Den = *f.Denominator
	}
	if s.Num < 0 || s.Den < 1 || s.Num > s.Den {
		return s, s.String() + " is no share"
	}
	return s, ""
}

// spoken is what a policy's provider speaks, of which the API says no more than
// OTLP: gRPC, unless the port says HTTP by its appProtocol, by its name or by being
// the port that OTLP has for it.
func (m *telemetryMaker) spoken(ref *gatewayv1.BackendObjectReference) plan.TraceProtocol {
	namespace := m.key.Namespace
	if ref.Namespace != nil {
		namespace = string(*ref.Namespace)
	}
	if ref.Port == nil {
		return plan.OTLPGRPC
	}
	const otlpHTTP = 4318
	svc, ok := m.t.set.Services.Get(namespace, string(ref.Name))
	if !ok {
		return plan.OTLPGRPC
	}
	var port corev1.ServicePort
	if p := portOf(svc, servicePort{name: object.NameOf(svc), port: *ref.Port}); p != nil {
		port = *p
	}
	if port.AppProtocol != nil {
		if under := underTLS(*port.AppProtocol); under == plan.HTTP {
			return plan.OTLPHTTP
		}
		if says, _ := appProtocol(*port.AppProtocol); says == plan.HTTP {
			return plan.OTLPHTTP
		}
		return plan.OTLPGRPC
	}
	if *ref.Port == otlpHTTP || strings.Contains(port.Name, "http") {
		return plan.OTLPHTTP
	}
	return plan.OTLPGRPC
}

// tellTales are headers whose values are secrets as a rule.
var tellTales = []string{"authorization", "cookie", "proxy-authorization", "set-cookie"}

// attributes compiles what is added to each span. What cannot be carried out is
// left out, and its author told.
func (m *telemetryMaker) attributes(made *plan.Tracing, list []gatewayxv1alpha1.Attribute) {
	for i := range list {
		a := &list[i]
		field := func(sub string) string { return fmt.Sprintf("spec.tracing.attributes[%d].%s", i, sub) }
		leave := func(sub, message, mend string) {
			m.find(object.Warning, field(sub), reasonNotRead, message+": the attribute is left out", mend)
		}
		name := string(a.Name)
		own := slices.Contains(plan.TraceKeys(), name) || strings.HasPrefix(name, "windrose.")
		if own && a.SourceType == gatewayxv1alpha1.AttributeSourceAttribute && a.AttributeKey == name && slices.Contains(plan.TraceKeys(), name) {
			continue // every span that it fits has it
		}
		next := plan.TraceAttribute{Name: name}
		switch {
		case own:
			leave("name", "windrose says "+name+" itself", "choose another name")
			continue
		case len(made.Attributes) == maxTags:
			leave("name", fmt.Sprintf("windrose adds %d attributes at most", maxTags), "")
			continue
		case a.SourceType == gatewayxv1alpha1.AttributeSourceLiteral:
			next.Literal = a.LiteralValue
		case a.SourceType == gatewayxv1alpha1.AttributeSourceHeader:
			next.Header = strings.ToLower(string(a.HeaderName))
			if slices.Contains(tellTales, next.Header) {
				m.find(object.Warning, field("headerName"), reasonInvalidValue, "the value of header "+next.Header+", which is a secret as a rule, goes to the collector with each span", "remove the attribute")
			}
		case a.SourceType == gatewayxv1alpha1.AttributeSourceAttribute:
			if !slices.Contains(plan.TraceKeys(), a.AttributeKey) {
				leave("attributeKey", "windrose does not know the value of "+a.AttributeKey, object.Meant(a.AttributeKey, slices.Values(plan.TraceKeys())))
				continue
			}
			next.Key = a.AttributeKey
		default:
			leave("sourceType", fmt.Sprintf("windrose knows no source %q", a.SourceType), "write Literal, Header or Attribute")
			continue
		}
		made.Attributes = append(made.Attributes, next)
	}
}
