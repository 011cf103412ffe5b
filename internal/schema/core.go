package schema

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"windrose.dev/windrose/internal/object"
)

// maxData is what a Secret or ConfigMap may hold.
const maxData = 1 << 20

// checked makes a check of one type fit for the table of kinds.
func checked[T metav1.Object](check func(o T, r *report)) func(metav1.Object, *report) {
	return func(o metav1.Object, r *report) {
		if o, ok := o.(T); ok {
			check(o, r)
		}
	}
}

func checkNamespace(ns *corev1.Namespace, _ *report) {
	// Selectors of listeners count on this label; on a cluster it is always there.
	if ns.Labels == nil {
		ns.Labels = map[string]string{}
	}
	ns.Labels[corev1.LabelMetadataName] = ns.Name
}

func checkService(s *corev1.Service, r *report) {
	defaultService(&s.Spec)
	spec := field.NewPath("spec")
	r.errors(oneOf(spec.Child("type"), s.Spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName))
	r.errors(oneOf(spec.Child("sessionAffinity"), s.Spec.SessionAffinity, corev1.ServiceAffinityNone, corev1.ServiceAffinityClientIP))
	r.errors(metav1validation.ValidateLabels(s.Spec.Selector, spec.Child("selector")))

	headless := s.Spec.ClusterIP == corev1.ClusterIPNone
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		checkExternalName(s, r)
	} else {
		if s.Spec.ClusterIP != "" && !headless {
			r.errors(validation.IsValidIP(spec.Child("clusterIP"), s.Spec.ClusterIP))
		}
		if headless && s.Spec.Type != corev1.ServiceTypeClusterIP {
			r.err(field.Invalid(spec.Child("clusterIP"), s.Spec.ClusterIP, "may not be None for a Service of type "+string(s.Spec.Type)))
		}
		if len(s.Spec.Ports) == 0 && !headless {
			r.err(field.Required(spec.Child("ports"), "a Service needs a port"))
		}
	}
	if s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		r.add(object.Info, ReasonNotRead, "spec.type", "windrose opens no port of its own for a Service; it is read as ClusterIP")
		r.mend("traffic from outside comes in through a Gateway or an Ingress")
	}
	checkServicePorts(s, r)
}

func defaultService(s *corev1.ServiceSpec) {
	if s.Type == "" {
		s.Type = corev1.ServiceTypeClusterIP
	}
	if s.SessionAffinity == "" {
		s.SessionAffinity = corev1.ServiceAffinityNone
	}
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
}

func checkExternalName(s *corev1.Service, r *report) {
	path := field.NewPath("spec", "externalName")
	name := strings.TrimSuffix(s.Spec.ExternalName, ".")
	if name == "" {
		r.err(field.Required(path, "a Service of type ExternalName needs a name"))
	} else {
		r.errors(messages(path, s.Spec.ExternalName, validation.IsDNS1123Subdomain(name)))
	}
	if s.Spec.ClusterIP != "" {
		r.err(field.Forbidden(field.NewPath("spec", "clusterIP"), "may not be set for a Service of type ExternalName"))
	}
}

func checkServicePorts(s *corev1.Service, r *report) {
	names, numbers := map[string]bool{}, map[string]bool{}
	for i := range s.Spec.Ports {
		p, path := &s.Spec.Ports[i], field.NewPath("spec", "ports").Index(i)
		if p.Name == "" {
			if len(s.Spec.Ports) > 1 {
				r.err(field.Required(path.Child("name"), "each of several ports needs a name"))
			}
		} else {
			r.errors(messages(path.Child("name"), p.Name, validation.IsDNS1123Label(p.Name)))
			if names[p.Name] {
				r.err(field.Duplicate(path.Child("name"), p.Name))
			}
			names[p.Name] = true
		}
		r.errors(messages(path.Child("port"), p.Port, validation.IsValidPortNum(int(p.Port))))
		r.errors(protocol(path.Child("protocol"), p.Protocol))
		if p.TargetPort.Type == intstr.String {
			r.errors(messages(path.Child("targetPort"), p.TargetPort.StrVal, validation.IsValidPortName(p.TargetPort.StrVal)))
		} else {
			r.errors(messages(path.Child("targetPort"), p.TargetPort.IntVal, validation.IsValidPortNum(int(p.TargetPort.IntVal))))
		}
		if p.AppProtocol != nil {
			r.errors(messages(path.Child("appProtocol"), *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol)))
		}
		number := fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if numbers[number] {
			r.err(field.Duplicate(path.Child("port"), number))
		}
		numbers[number] = true
	}
}

func checkEndpointSlice(s *discoveryv1.EndpointSlice, r *report) {
	if s.AddressType == "" {
		r.err(field.Required(field.NewPath("addressType"), "is missing"))
	} else {
		r.errors(oneOf(field.NewPath("addressType"), s.AddressType, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN))
	}
	if len(s.Endpoints) > 1000 {
		r.err(field.TooMany(field.NewPath("endpoints"), len(s.Endpoints), 1000))
	}
	for i := range s.Endpoints {
		checkEndpoint(&s.Endpoints[i], s.AddressType, field.NewPath("endpoints").Index(i), r)
	}
	if len(s.Ports) > 100 {
		r.err(field.TooMany(field.NewPath("ports"), len(s.Ports), 100))
	}
	names := map[string]bool{}
	for i := range s.Ports {
		checkEndpointPort(&s.Ports[i], names, field.NewPath("ports").Index(i), r)
	}
	if s.Labels[discoveryv1.LabelServiceName] == "" {
		r.add(object.Warning, ReasonRequired, "metadata.labels", "the label "+discoveryv1.LabelServiceName+" is missing: these endpoints belong to no Service")
	}
}

func checkEndpoint(e *discoveryv1.Endpoint, t discoveryv1.AddressType, path *field.Path, r *report) {
	addresses := path.Child("addresses")
	switch n := len(e.Addresses); {
	case n == 0:
		r.err(field.Required(addresses, "an endpoint needs an address"))
	case n > 100:
		r.err(field.TooMany(addresses, n, 100))
	}
	for i, a := range e.Addresses {
		switch t {
		case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
			if ip, err := netip.ParseAddr(a); err != nil || ip.Zone() != "" || ip.Is4() != (t == discoveryv1.AddressTypeIPv4) {
				r.err(field.Invalid(addresses.Index(i), a, "is not an "+string(t)+" address"))
			} else if ip.IsUnspecified() || ip.IsMulticast() {
				r.err(field.Invalid(addresses.Index(i), a, "is not an address that can be connected to"))
			}
		case discoveryv1.AddressTypeFQDN:
			r.errors(messages(addresses.Index(i), a, validation.IsDNS1123Subdomain(strings.TrimSuffix(a, "."))))
		}
	}
	if e.Hostname != nil {
		r.errors(messages(path.Child("hostname"), *e.Hostname, validation.IsDNS1123Label(*e.Hostname)))
	}
}

func checkEndpointPort(p *discoveryv1.EndpointPort, names map[string]bool, path *field.Path, r *report) {
	if p.Name == nil {
		p.Name = new("")
	}
	if p.Protocol == nil {
		p.Protocol = new(corev1.ProtocolTCP)
	}
	if *p.Name != "" {
		r.errors(messages(path.Child("name"), *p.Name, validation.IsDNS1123Label(*p.Name)))
	}
	if names[*p.Name] {
		r.err(field.Duplicate(path.Child("name"), *p.Name))
	}
	names[*p.Name] = true
	r.errors(protocol(path.Child("protocol"), *p.Protocol))
	if p.Port != nil {
		r.errors(messages(path.Child("port"), *p.Port, validation.IsValidPortNum(int(*p.Port))))
	}
}

// secretKeys are the keys that Secrets of a type must have.
var secretKeys = map[corev1.SecretType][]string{
	corev1.SecretTypeTLS:              {corev1.TLSCertKey, corev1.TLSPrivateKeyKey},
	corev1.SecretTypeSSHAuth:          {corev1.SSHAuthPrivateKey},
	corev1.SecretTypeDockerConfigJson: {corev1.DockerConfigJsonKey},
	corev1.SecretTypeDockercfg:        {corev1.DockerConfigKey},
}

func checkSecret(s *corev1.Secret, r *report) {
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = make(map[string][]byte, len(s.StringData))
	}
	for key, value := range s.StringData {
		s.Data[key] = []byte(value)
	}
	s.StringData = nil
	if s.Type == "" {
		s.Type = corev1.SecretTypeOpaque
	}
	size := 0
	for _, key := range slices.Sorted(maps.Keys(s.Data)) {
		r.errors(messages(field.NewPath("data").Key(key), key, validation.IsConfigMapKey(key)))
		size += len(s.Data[key])
	}
	if size > maxData {
		r.err(field.TooLong(field.NewPath("data"), "", maxData))
	}
	for _, key := range secretKeys[s.Type] {
		if _, ok := s.Data[key]; !ok {
			r.err(field.Required(field.NewPath("data"), "a Secret of type "+string(s.Type)+" needs the key "+key))
		}
	}
}

func checkConfigMap(m *corev1.ConfigMap, r *report) {
	size := 0
	for _, key := range slices.Sorted(maps.Keys(m.Data)) {
		r.errors(messages(field.NewPath("data").Key(key), key, validation.IsConfigMapKey(key)))
		if _, both := m.BinaryData[key]; both {
			r.err(field.Invalid(field.NewPath("data").Key(key), key, "is in binaryData too"))
		}
		size += len(m.Data[key])
	}
	for _, key := range slices.Sorted(maps.Keys(m.BinaryData)) {
		r.errors(messages(field.NewPath("binaryData").Key(key), key, validation.IsConfigMapKey(key)))
		size += len(m.BinaryData[key])
	}
	if size > maxData {
		r.err(field.TooLong(field.NewPath("data"), "", maxData))
	}
}

// signerPrefix is what the name of a bundle of a signer begins with.
func signerPrefix(signer string) string { return strings.ReplaceAll(signer, "/", ":") + ":" }

// trustBundleName checks the name of a ClusterTrustBundle, which has its signer
// before it, if it has one: example.com:signer:name.
func trustBundleName(name string, _ bool) []string {
	var found []string
	for part := range strings.SplitSeq(name, ":") {
		found = append(found, validation.IsDNS1123Subdomain(part)...)
	}
	if n := strings.Count(name, ":"); n != 0 && n != 2 {
		found = append(found, "must be a name, or DOMAIN:SIGNER:NAME")
	}
	return found
}

// checkTrustBundle leaves the certificates alone: a bundle that holds none which
// can be read must be seen as that, and not as what it was before.
func checkTrustBundle(b *certificatesv1.ClusterTrustBundle, r *report) {
	signer := b.Spec.SignerName
	prefix := ""
	if i := strings.LastIndexByte(b.Name, ':'); i >= 0 {
		prefix = b.Name[:i+1]
	}
	switch {
	case signer == "" && prefix != "":
		r.err(field.Required(field.NewPath("spec", "signerName"), "the name says that the bundle belongs to a signer"))
	case signer != "" && prefix != signerPrefix(signer):
		r.err(field.Invalid(field.NewPath("metadata", "name"), b.Name, "must begin with "+signerPrefix(signer)+", because of spec.signerName"))
	}
	if len(b.Spec.TrustBundle) > maxData {
		r.err(field.TooLong(field.NewPath("spec", "trustBundle"), "", maxData))
	}
}

func protocol(path *field.Path, p corev1.Protocol) field.ErrorList {
	return oneOf(path, p, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
}

func oneOf[T ~string](path *field.Path, value T, allowed ...T) field.ErrorList {
	if slices.Contains(allowed, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, string(value), allowed)}
}

// messages makes errors of what the checks of names and numbers say.
func messages(path *field.Path, value any, found []string) field.ErrorList {
	var errs field.ErrorList
	for _, m := range found {
		errs = append(errs, field.Invalid(path, value, m))
	}
	return errs
}
