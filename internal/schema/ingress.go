package schema

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// annotationIngressClass is what spec.ingressClassName took the place of.
const annotationIngressClass = "kubernetes.io/ingress.class"

func checkIngress(in *networkingv1.Ingress, r *report) {
	spec := field.NewPath("spec")
	if len(in.Spec.Rules) == 0 && in.Spec.DefaultBackend == nil {
		r.err(field.Invalid(spec, nil, "needs rules or a defaultBackend"))
	}
	if name := in.Spec.IngressClassName; name != nil {
		r.errors(messages(spec.Child("ingressClassName"), *name, validation.IsDNS1123Subdomain(*name)))
		if _, both := in.Annotations[annotationIngressClass]; both {
			r.err(field.Invalid(field.NewPath("metadata", "annotations").Key(annotationIngressClass), nil, "may not be set together with spec.ingressClassName"))
		}
	}
	if in.Spec.DefaultBackend != nil {
		checkIngressBackend(in.Spec.DefaultBackend, spec.Child("defaultBackend"), r)
	}
	for i, t := range in.Spec.TLS {
		for j, host := range t.Hosts {
			checkIngressHost(host, spec.Child("tls").Index(i).Child("hosts").Index(j), r)
		}
		if t.SecretName != "" {
			r.errors(messages(spec.Child("tls").Index(i).Child("secretName"), t.SecretName, validation.IsDNS1123Subdomain(t.SecretName)))
		}
	}
	for i := range in.Spec.Rules {
		checkIngressRule(&in.Spec.Rules[i], spec.Child("rules").Index(i), r)
	}
}

func checkIngressRule(rule *networkingv1.IngressRule, path *field.Path, r *report) {
	if rule.Host != "" {
		if _, err := netip.ParseAddr(rule.Host); err == nil {
			r.err(field.Invalid(path.Child("host"), rule.Host, "must be a DNS name, not an IP address"))
		} else {
			checkIngressHost(rule.Host, path.Child("host"), r)
		}
	}
	if rule.HTTP == nil {
		return
	}
	paths := path.Child("http", "paths")
	if len(rule.HTTP.Paths) == 0 {
		r.err(field.Required(paths, "a rule needs a path"))
	}
	for i := range rule.HTTP.Paths {
		checkIngressPath(&rule.HTTP.Paths[i], paths.Index(i), r)
		checkIngressBackend(&rule.HTTP.Paths[i].Backend, paths.Index(i).Child("backend"), r)
	}
}

func checkIngressHost(host string, path *field.Path, r *report) {
	if strings.HasPrefix(host, "*") {
		r.errors(messages(path, host, validation.IsWildcardDNS1123Subdomain(host)))
		return
	}
	r.errors(messages(path, host, validation.IsDNS1123Subdomain(host)))
}

func checkIngressPath(p *networkingv1.HTTPIngressPath, path *field.Path, r *report) {
	if p.PathType == nil {
		r.err(field.Required(path.Child("pathType"), "must be one of Exact, Prefix, ImplementationSpecific"))
		return
	}
	switch *p.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		if !strings.HasPrefix(p.Path, "/") {
			r.err(field.Invalid(path.Child("path"), p.Path, "must begin with /"))
			return
		}
		for _, seq := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(p.Path, seq) {
				r.err(field.Invalid(path.Child("path"), p.Path, "must not contain "+seq))
			}
		}
		for _, end := range []string{"/..", "/."} {
			if strings.HasSuffix(p.Path, end) {
				r.err(field.Invalid(path.Child("path"), p.Path, "must not end with "+end))
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" && !strings.HasPrefix(p.Path, "/") {
			r.err(field.Invalid(path.Child("path"), p.Path, "must begin with /"))
		}
	default:
		r.errors(oneOf(path.Child("pathType"), *p.PathType, networkingv1.PathTypeExact, networkingv1.PathTypePrefix, networkingv1.PathTypeImplementationSpecific))
	}
}

func checkIngressBackend(b *networkingv1.IngressBackend, path *field.Path, r *report) {
	switch {
	case b.Service != nil && b.Resource != nil:
		r.err(field.Invalid(path, nil, "is either a service or a resource"))
		return
	case b.Resource != nil:
		if b.Resource.Kind == "" || b.Resource.Name == "" {
			r.err(field.Required(path.Child("resource"), "needs a kind and a name"))
		}
		return
	case b.Service == nil:
		r.err(field.Required(path, "needs a service"))
		return
	}
	service := path.Child("service")
	if b.Service.Name == "" {
		r.err(field.Required(service.Child("name"), "is missing"))
	} else {
		r.errors(messages(service.Child("name"), b.Service.Name, validation.IsDNS1123Label(b.Service.Name)))
	}
	switch port := b.Service.Port; {
	case port.Name != "" && port.Number != 0:
		r.err(field.Invalid(service.Child("port"), nil, "is either a name or a number"))
	case port.Name != "":
		r.errors(messages(service.Child("port", "name"), port.Name, validation.IsValidPortName(port.Name)))
	case port.Number != 0:
		r.errors(messages(service.Child("port", "number"), port.Number, validation.IsValidPortNum(int(port.Number))))
	default:
		r.err(field.Required(service.Child("port"), "needs a name or a number"))
	}
}

func checkIngressClass(c *networkingv1.IngressClass, r *report) {
	controller := field.NewPath("spec", "controller")
	switch {
	case c.Spec.Controller == "":
		r.err(field.Required(controller, "is missing"))
	case len(c.Spec.Controller) > 250:
		r.err(field.TooLong(controller, "", 250))
	default:
		r.errors(validation.IsDomainPrefixedPath(controller, c.Spec.Controller))
	}
	p := c.Spec.Parameters
	if p == nil {
		return
	}
	path := field.NewPath("spec", "parameters")
	if p.Scope == nil {
		p.Scope = new(networkingv1.IngressClassParametersReferenceScopeCluster)
	}
	r.errors(oneOf(path.Child("scope"), *p.Scope, networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace))
	if p.Kind == "" || p.Name == "" {
		r.err(field.Required(path, "needs a kind and a name"))
	}
	inNamespace := p.Namespace != nil && *p.Namespace != corev1.NamespaceAll
	if (*p.Scope == networkingv1.IngressClassParametersReferenceScopeNamespace) != inNamespace {
		r.err(field.Invalid(path.Child("namespace"), nil, "must be set for the scope Namespace and for no other"))
	}
}
