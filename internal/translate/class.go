package translate

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/api/v1alpha1"
	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// parametersGroup is the group of GatewayParameters.
const parametersGroup = "windrose.dev"

// readClasses gives the classes of windrose with the verdict on their
// parameters, and makes the settings.
func (g *gateways) readClasses(t *Translator) map[string]verdict {
	managed := map[string]verdict{}
	old := map[object.Key]*object.Status{}
	for _, s := range g.classes {
		old[s.Object] = s
	}
	g.classes = nil
	var settings *plan.Settings
	var from string
	g.params = nil
	all := slices.SortedFunc(slices.Values(t.set.GatewayClasses.All()), func(a, b *gatewayv1.GatewayClass) int { return older(a, b) })
	for _, class := range all {
		key := object.Key{Kind: "GatewayClass", Name: class.Name}
		if class.Spec.ControllerName != GatewayController {
			g.findings = suspect(g.findings, key, "spec.controllerName", string(class.Spec.ControllerName), GatewayController)
			continue
		}
		made, v := g.readParameters(t, class)
		managed[class.Name] = v
		if made != nil && settings != nil && !reflect.DeepEqual(made, settings) {
			g.findings = append(g.findings, object.Finding{
				Severity: object.Warning, Object: key, Field: "spec.parametersRef", Reason: reasonShadowed,
				Message: "one data plane has one set of parameters, and GatewayClass " + from + ", which is older, gave it others", Mend: "use the same parameters in both classes",
			})
		}
		if made != nil && settings == nil {
			settings, from = made, class.Name
			g.params, _ = t.set.GatewayParameters.Get(string(*class.Spec.ParametersRef.Namespace), class.Spec.ParametersRef.Name)
		}
		status := t.showClass(key, class, v)
		if was := old[key]; was != nil && reflect.DeepEqual(was, status) {
			status = was
		}
		g.classes = append(g.classes, status)
	}
	g.useSettings(settings, t.env.SessionKey)
	return managed
}

// suspect tells the author of a class of another controller whose name looks
// like that of windrose misspelt: nothing of the class would be served, and
// nothing else would say why.
func suspect(all []object.Finding, key object.Key, field, controller, ours string) []object.Finding {
	domain, _, _ := strings.Cut(controller, "/")
	mine, _, _ := strings.Cut(ours, "/")
	if object.Nearest(domain, slices.Values([]string{mine})) == "" {
		return all
	}
	return append(all, object.Finding{
		Severity: object.Warning, Object: key, Field: field, Reason: reasonInvalidValue,
		Message: "controller " + controller + " is not windrose, so that windrose serves nothing of it", Mend: `did you mean "` + ours + `"?`,
	})
}

func (t *Translator) showClass(key object.Key, class *gatewayv1.GatewayClass, v verdict) *object.Status {
	status := &gatewayv1.GatewayClassStatus{Conditions: []metav1.Condition{
		conclude(string(gatewayv1.GatewayClassConditionStatusAccepted), v, "accepted", class.Generation),
		condition(string(gatewayv1.GatewayClassConditionStatusSupportedVersion), true, string(gatewayv1.GatewayClassReasonSupportedVersion), "Gateway API v1.7", class.Generation),
	}}
	for _, f := range t.carried.Features() {
		status.SupportedFeatures = append(status.SupportedFeatures, gatewayv1.SupportedFeature{Name: f})
	}
	return &object.Status{Object: key, Generation: class.Generation, GatewayClass: status}
}

func (g *gateways) useSettings(settings *plan.Settings, key []byte) {
	if settings == nil && key != nil {
		settings = &plan.Settings{}
	}
	if settings != nil {
		settings.SessionKey = key
	}
	if settings == nil {
		g.settings = nil
		return
	}
	if g.settings == nil || !reflect.DeepEqual(g.settings.Settings, settings) {
		g.settings = &plan.Part{Key: plan.Key{Kind: plan.KindSettings, Name: "default"}, Settings: settings}
	}
}

// readParameters follows the parametersRef of a class; without one there are
// no settings.
func (g *gateways) readParameters(t *Translator, class *gatewayv1.GatewayClass) (*plan.Settings, verdict) {
	ref := class.Spec.ParametersRef
	if ref == nil {
		return nil, verdict{}
	}
	key := object.Key{Kind: "GatewayClass", Name: class.Name}
	refuse := func(sub, message, mend string) (*plan.Settings, verdict) {
		reason := string(gatewayv1.GatewayClassReasonInvalidParameters)
		g.findings = append(g.findings, object.Finding{Severity: object.Error, Object: key, Field: "spec.parametersRef" + sub, Reason: reason, Message: message, Mend: mend})
		return nil, verdict{reason, message}
	}
	if ref.Group != parametersGroup || ref.Kind != "GatewayParameters" {
		return refuse(".kind", fmt.Sprintf("windrose cannot read parameters of kind %s in group %q", ref.Kind, ref.Group), "name GatewayParameters of group windrose.dev")
	}
	if ref.Namespace == nil {
		return refuse("", "GatewayParameters "+ref.Name+" is named without its namespace", "add namespace")
	}
	namespace := string(*ref.Namespace)
	params, ok := t.set.GatewayParameters.Get(namespace, ref.Name)
	if !ok {
		return refuse(".name", fmt.Sprintf("GatewayParameters %s/%s does not exist", namespace, ref.Name), object.Meant(ref.Name, namesIn(t.set.GatewayParameters, namespace)))
	}
	settings, zeros, err := readSettings(&params.Spec)
	for _, field := range zeros {
		g.findings = append(g.findings, object.Finding{
			Severity: object.Warning, Object: object.Key{Kind: "GatewayParameters", Namespace: namespace, Name: ref.Name}, Field: "spec." + field,
			Reason: reasonInvalidValue, Message: "zero stands for the default here, not for none", Mend: "write the value that you want, or remove the field",
		})
	}
	if err != nil {
		return refuse(".name", fmt.Sprintf("GatewayParameters %s/%s cannot be used: %s", namespace, ref.Name, err), "")
	}
	return settings, verdict{}
}

// readSettings also gives the fields that say zero, which is not what their
// author may think.
func readSettings(spec *v1alpha1.GatewayParametersSpec) (s *plan.Settings, zeros []string, err error) {
	s = &plan.Settings{}
	if spec.AccessLog != nil {
		switch spec.AccessLog.Mode {
		case "", "All":
			s.AccessLog.Mode = plan.LogOn
		case "Sampled":
			s.AccessLog = plan.AccessLog{Mode: plan.LogSampled, Every: int(max(spec.AccessLog.Every, 1))}
		case "None":
			s.AccessLog.Mode = plan.LogOff
		default:
			return nil, nil, fmt.Errorf("accessLog.mode %q is not one of All, Sampled and None", spec.AccessLog.Mode)
		}
	}
	switch spec.FaultDetail {
	case "", "Full":
		s.FaultDetail = plan.DetailFull
	case "Brief":
		s.FaultDetail = plan.DetailBrief
	default:
		return nil, nil, fmt.Errorf("faultDetail %q is neither Full nor Brief", spec.FaultDetail)
	}
	switch spec.HTTP3 {
	case "", "Disabled":
	case "Enabled":
		s.HTTP3 = true
	default:
		return nil, nil, fmt.Errorf("http3 %q is neither Enabled nor Disabled", spec.HTTP3)
	}
	for _, text := range spec.TrustedProxies {
		prefix, err := parsePrefix(text)
		if err != nil {
			return nil, nil, fmt.Errorf("trustedProxies: %q is not a network", text)
		}
		s.TrustedProxies = append(s.TrustedProxies, prefix)
	}
	if l := spec.Limits; l != nil {
		s.MaxHeaderBytes, s.MaxURIBytes, s.MaxHeaders = int(l.HeaderBytes), int(l.URIBytes), int(l.Headers)
		s.MaxConnections, s.MaxBufferedBytes, s.MaxInFlight = int(l.Connections), int(l.BufferedBytes), int(l.InFlight)
		if l.UpstreamIdle != nil {
			if s.MaxUpstreamIdle = int(*l.UpstreamIdle); s.MaxUpstreamIdle == 0 {
				zeros = append(zeros, "limits.upstreamIdle")
			}
		}
	}
	zero, err := readTimeouts(s, spec.Timeouts)
	return s, append(zeros, zero...), err
}

func parsePrefix(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	return netip.ParsePrefix(text)
}

func readTimeouts(s *plan.Settings, t *v1alpha1.Timeouts) (zeros []string, err error) {
	if t == nil {
		return nil, nil
	}
	for _, f := range []struct {
		name string
		from *metav1.Duration
		to   *time.Duration
	}{
		{"header", t.Header, &s.HeaderTimeout},
		{"idle", t.Idle, &s.IdleTimeout},
		{"body", t.Body, &s.BodyTimeout},
		{"tunnel", t.Tunnel, &s.TunnelTimeout},
		{"flow", t.Flow, &s.FlowTimeout},
		{"auth", t.Auth, &s.AuthTimeout},
		{"handshake", t.Handshake, &s.HandshakeTimeout},
		{"drain", t.Drain, &s.DrainTimeout},
		{"connect", t.Connect, &s.ConnectTimeout},
		{"upstreamIdle", t.UpstreamIdle, &s.UpstreamIdle},
	} {
		if f.from == nil {
			continue
		}
		if f.from.Duration < 0 {
			return zeros, fmt.Errorf("timeouts.%s is negative", f.name)
		}
		if f.from.Duration == 0 {
			zeros = append(zeros, "timeouts."+f.name)
		}
		*f.to = f.from.Duration
	}
	return zeros, nil
}
