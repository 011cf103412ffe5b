package translate

import (
	"fmt"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// frontend reads which clients the Gateway has believed on the port of a
// listener. Where none of the authorities can be used, the listener does not
// serve: nobody could be believed, and nobody is let in unseen.
func (m *listenerMaker) frontend(l *listener) {
	// The API asks for the check on HTTPS listeners alone.
	if m.tls == nil || m.tls.Frontend == nil || l.spec.Protocol != gatewayv1.HTTPSProtocolType {
		return
	}
	validation, field := m.tls.Frontend.Default.Validation, "spec.tls.frontend.default.validation"
	for i, p := range m.tls.Frontend.PerPort {
		if p.Port == l.spec.Port {
			validation, field = p.TLS.Validation, fmt.Sprintf("spec.tls.frontend.perPort[%d].tls.validation", i)
		}
	}
	if validation == nil {
		return
	}
	if m.owner.Kind != "Gateway" {
		field = "" // it stands in the Gateway, where its author is told
	}
	check := &plan.ClientCheck{Optional: validation.Mode == gatewayv1.AllowInsecureFallback}
	for j := range validation.CACertificateRefs {
		pem, v, mend := m.authority(&validation.CACertificateRefs[j])
		if v.ok() {
			check.Authorities = append(append(check.Authorities, pem...), '\n')
			continue
		}
		l.refuse(v.reason, v.message)
		if field != "" {
			m.find(object.Error, fmt.Sprintf("%s.caCertificateRefs[%d]", field, j), v.reason, v.message, mend)
		}
	}
	switch {
	case len(check.Authorities) == 0:
		l.accepted = verdict{string(gatewayv1.ListenerReasonNoValidCACertificate), "none of the CA certificates that clients are checked against can be used"}
	case validation.Mode != "" && validation.Mode != gatewayv1.AllowValidOnly && !check.Optional:
		l.accepted = verdict{string(gatewayv1.ListenerReasonUnsupportedValue), fmt.Sprintf("windrose knows no mode %q for client certificates", validation.Mode)}
	case !m.t.carried.ClientCerts:
		l.accepted = verdict{string(gatewayv1.ListenerReasonUnsupportedValue), "windrose does not check client certificates yet, and does not serve without the check"}
	default:
		l.clients = check
	}
}

// insecure says where a Gateway serves clients that are not believed.
func insecure(gw *gatewayv1.Gateway) (fields []string) {
	if gw.Spec.TLS == nil || gw.Spec.TLS.Frontend == nil {
		return nil
	}
	add := func(v *gatewayv1.FrontendTLSValidation, field string) {
		if v != nil && v.Mode == gatewayv1.AllowInsecureFallback {
			fields = append(fields, field+".validation.mode")
		}
	}
	add(gw.Spec.TLS.Frontend.Default.Validation, "spec.tls.frontend.default")
	for i := range gw.Spec.TLS.Frontend.PerPort {
		add(gw.Spec.TLS.Frontend.PerPort[i].TLS.Validation, fmt.Sprintf("spec.tls.frontend.perPort[%d].tls", i))
	}
	return fields
}

// authority follows a Gateway's reference to CA certificates.
func (m *listenerMaker) authority(ref *gatewayv1.ObjectReference) (pem string, v verdict, mend string) {
	from := object.Key{Kind: "Gateway", Namespace: m.tlsOwner.Namespace, Name: m.tlsOwner.Name}
	namespace := from.Namespace
	if ref.Namespace != nil {
		namespace = string(*ref.Namespace)
	}
	if ref.Group == "" && ref.Kind == "ConfigMap" && !m.t.granted(from, "ConfigMap", namespace, string(ref.Name)) {
		return "", verdict{string(gatewayv1.ListenerReasonRefNotPermitted), fmt.Sprintf("no ReferenceGrant in namespace %s lets Gateways of namespace %s refer to ConfigMap %s", namespace, from.Namespace, ref.Name)},
			grantMend(from, "ConfigMap", namespace, string(ref.Name))
	}
	a := m.t.authority(string(ref.Group), string(ref.Kind), namespace, string(ref.Name))
	switch {
	case a.ok():
		return a.pem, verdict{}, ""
	case a.unknown:
		return "", verdict{string(gatewayv1.ListenerReasonInvalidCACertificateKind), a.why}, a.mend
	}
	return "", verdict{string(gatewayv1.ListenerReasonInvalidCACertificateRef), a.why}, a.mend
}
