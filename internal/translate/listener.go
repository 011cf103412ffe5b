package translate

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// verdict is why a condition is false; the zero verdict means that it is true.
type verdict struct{ reason, message string }

func (v verdict) ok() bool { return v.reason == "" }

// listener is one listener of a Gateway or of a ListenerSet.
type listener struct {
	key        string // of its part
	owner      object.Key
	index      int // in the owner's spec
	spec       gatewayv1.Listener
	generation int64
	hostname   string
	sockets    []string
	// passthrough leaves TLS to the service: only the server name is read.
	passthrough bool

	kinds    []gatewayv1.RouteGroupKind // that windrose supports here
	routes   []gatewayv1.Kind           // that may attach, also those windrose does not carry
	from     gatewayv1.FromNamespaces
	selector labels.Selector

	filters  []plan.Filter // done before routing
	halted   string        // why no request can be served although the listener is there
	accepted verdict
	conflict verdict
	resolved verdict
	overlap  string // host name of another listener on the same socket
	// substitute is set where a self-signed certificate stands for a Secret.
	substitute  *plan.Part
	substituted bool
	certs       []*certificate
	shows       *certificate // to backends under TLS
	clients     *plan.ClientCheck

	attached int32 // routes, counted in each run
}

// serves says whether the listener becomes part of the plan.
func (l *listener) serves() bool { return l.accepted.ok() && l.conflict.ok() }

// why says why the listener does not serve.
func (l *listener) why() string {
	if !l.conflict.ok() {
		return l.conflict.message
	}
	return l.accepted.message
}

// secure says whether the listener ends TLS itself.
func (l *listener) secure() bool {
	return l.spec.Protocol == gatewayv1.HTTPSProtocolType || l.spec.Protocol == gatewayv1.TLSProtocolType && !l.passthrough
}

// admits says whether routes of a namespace may attach.
func (l *listener) admits(t *Translator, namespace string) bool {
	return admits(t, l.from, l.selector, l.owner.Namespace, namespace)
}

func admits(t *Translator, from gatewayv1.FromNamespaces, selector labels.Selector, own, namespace string) bool {
	switch from {
	case gatewayv1.NamespacesFromAll:
		return true
	case gatewayv1.NamespacesFromSame:
		return own == namespace
	case gatewayv1.NamespacesFromSelector:
		return selector != nil && selector.Matches(t.namespaceLabels(namespace))
	case gatewayv1.NamespacesFromNone:
		return false
	}
	return false
}

// namespaceLabels are the labels of a namespace with the one that an API
// server puts on each, also where nobody wrote the Namespace down.
func (t *Translator) namespaceLabels(name string) labels.Set {
	set := labels.Set{"kubernetes.io/metadata.name": name}
	if ns, ok := t.set.Namespaces.Get("", name); ok {
		maps.Copy(set, ns.Labels)
	}
	return set
}

// listenerMaker reads the listeners of one Gateway or ListenerSet.
type listenerMaker struct {
	t        *Translator
	owner    object.Key
	object   metav1.Object
	addrs    []netip.Addr // to bind
	tls      *gatewayv1.GatewayTLSConfig
	tlsOwner object.Key   // whose tls is
	shows    *certificate // to backends
	refs     *compiler    // follows what filters refer to
	findings *[]object.Finding
}

func (m *listenerMaker) find(severity object.Severity, field, reason, message, mend string) {
	*m.findings = append(*m.findings, object.Finding{Severity: severity, Object: m.owner, Field: field, Reason: reason, Message: message, Mend: mend})
}

func (m *listenerMaker) make(i int, spec *gatewayv1.Listener) *listener {
	l := &listener{
		key:        m.owner.Kind + "/" + m.owner.Namespace + "/" + m.owner.Name + "/" + string(spec.Name),
		owner:      m.owner,
		index:      i,
		spec:       *spec,
		generation: m.object.GetGeneration(),
		from:       gatewayv1.NamespacesFromSame,
	}
	if spec.Protocol != gatewayv1.UDPProtocolType {
		l.shows = m.shows
	}
	if spec.Hostname != nil && tellsHosts(spec.Protocol) {
		l.hostname = strings.ToLower(string(*spec.Hostname))
	}
	m.allowed(l)
	m.protocol(l)
	m.mode(l)
	if l.secure() && l.accepted.ok() {
		m.frontend(l)
		m.certificates(l)
	}
	switch {
	case !l.accepted.ok():
		m.notAccepted(l)
	case spec.Filters != nil && len(spec.Filters.Requests) > 0:
		m.filters(l)
	}
	return l
}

func (m *listenerMaker) notAccepted(l *listener) {
	m.find(object.Error, m.field(l.index, ""), l.accepted.reason, "listener "+string(l.spec.Name)+": "+l.accepted.message, m.protocolMend(l.spec.Protocol))
}

func (m *listenerMaker) field(i int, sub string) string {
	return fmt.Sprintf("spec.listeners[%d]%s", i, sub)
}

// allowed reads which routes may attach.
func (m *listenerMaker) allowed(l *listener) {
	natural, ours := naturalKinds(l.spec.Protocol), m.t.carried.kinds(l.spec.Protocol)
	allowed := l.spec.AllowedRoutes
	if allowed != nil && allowed.Namespaces != nil {
		if allowed.Namespaces.From != nil {
			l.from = *allowed.Namespaces.From
		}
		l.selector = m.selector(allowed.Namespaces.Selector, l.from, m.field(l.index, ".allowedRoutes.namespaces.selector"))
	}
	if allowed == nil || len(allowed.Kinds) == 0 {
		l.routes = natural
		for _, k := range ours {
			l.kinds = append(l.kinds, groupKind(k))
		}
		return
	}
	for j, k := range allowed.Kinds {
		inGroup := k.Group == nil || *k.Group == gatewayv1.GroupName
		if inGroup && slices.Contains(natural, k.Kind) {
			l.routes = append(l.routes, k.Kind)
		}
		if inGroup && slices.Contains(ours, k.Kind) {
			if !slices.ContainsFunc(l.kinds, func(have gatewayv1.RouteGroupKind) bool { return have.Kind == k.Kind }) {
				l.kinds = append(l.kinds, groupKind(k.Kind))
			}
			continue
		}
		message := fmt.Sprintf("a listener of protocol %s takes no %s", l.spec.Protocol, k.Kind)
		if !inGroup {
			message += fmt.Sprintf(" of group %q", *k.Group)
		}
		if inGroup && slices.Contains(natural, k.Kind) {
			message = fmt.Sprintf("windrose does not carry %ss yet", k.Kind)
		}
		l.refuse(string(gatewayv1.ListenerReasonInvalidRouteKinds), message)
		m.find(object.Error, m.field(l.index, fmt.Sprintf(".allowedRoutes.kinds[%d]", j)), l.resolved.reason, message, "name kinds of routes that fit the protocol, or leave kinds out")
	}
}

// refuse makes ResolvedRefs false; the first reason stays.
func (l *listener) refuse(reason, message string) {
	if l.resolved.ok() {
		l.resolved = verdict{reason, message}
	}
}

func groupKind(k gatewayv1.Kind) gatewayv1.RouteGroupKind {
	return gatewayv1.RouteGroupKind{Group: new(gatewayv1.Group(gatewayv1.GroupName)), Kind: k}
}

func (m *listenerMaker) selector(s *metav1.LabelSelector, from gatewayv1.FromNamespaces, field string) labels.Selector {
	if from != gatewayv1.NamespacesFromSelector {
		return nil
	}
	if s == nil {
		m.find(object.Error, field, reasonInvalidValue, "from is Selector, but there is no selector: no namespace is selected", "add a selector")
		return nil
	}
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		m.find(object.Error, field, reasonInvalidValue, "the selector cannot be used, so that no namespace is selected: "+err.Error(), "correct the selector")
		return nil
	}
	return selector
}

// protocol refuses what the data plane does not carry, and names the sockets.
func (m *listenerMaker) protocol(l *listener) {
	if len(m.t.carried.kinds(l.spec.Protocol)) == 0 {
		message := fmt.Sprintf("windrose does not carry protocol %s", l.spec.Protocol)
		if len(naturalKinds(l.spec.Protocol)) > 0 {
			message += " yet"
		}
		l.accepted = verdict{string(gatewayv1.ListenerReasonUnsupportedProtocol), message}
	}
	if !isPort(l.spec.Port) {
		l.accepted = verdict{string(gatewayv1.ListenerReasonPortUnavailable), fmt.Sprintf("%d is not a port", l.spec.Port)}
		return
	}
	for _, addr := range m.addrs {
		at := netip.AddrPortFrom(addr, uint16(l.spec.Port))
		if l.spec.Protocol == gatewayv1.UDPProtocolType {
			l.sockets = append(l.sockets, plan.UDPSocketName(at))
			continue
		}
		l.sockets = append(l.sockets, plan.SocketName(at))
	}
}

// protocolMend names the protocols that windrose carries to the author of one
// that nobody knows.
func (m *listenerMaker) protocolMend(p gatewayv1.ProtocolType) string {
	if len(naturalKinds(p)) > 0 {
		return ""
	}
	return object.Meant(string(p), func(yield func(string) bool) {
		for _, known := range []gatewayv1.ProtocolType{gatewayv1.HTTPProtocolType, gatewayv1.HTTPSProtocolType, gatewayv1.TLSProtocolType, gatewayv1.TCPProtocolType, gatewayv1.UDPProtocolType} {
			if len(m.t.carried.kinds(known)) > 0 && !yield(string(known)) {
				return
			}
		}
	})
}

// mode reads who ends TLS, and refuses what is not carried.
func (m *listenerMaker) mode(l *listener) {
	mode, tls := gatewayv1.TLSModeTerminate, l.spec.TLS
	if tls != nil && tls.Mode != nil && *tls.Mode != "" {
		mode = *tls.Mode
	}
	l.passthrough = l.spec.Protocol == gatewayv1.TLSProtocolType && mode == gatewayv1.TLSModePassthrough
	if !l.accepted.ok() {
		return
	}
	refuse := func(message string) {
		l.accepted = verdict{string(gatewayv1.ListenerReasonUnsupportedValue), message}
	}
	switch {
	case l.passthrough && !m.t.carried.TLSPassthrough:
		refuse("windrose does not carry TLS mode Passthrough yet")
	case l.passthrough:
		if len(tls.CertificateRefs) > 0 {
			m.find(object.Warning, m.field(l.index, ".tls.certificateRefs"), reasonNotRead, "in mode Passthrough the service shows its own certificate, so that this one has no effect", "remove it, or use mode Terminate")
		}
	case !l.secure():
	case mode == gatewayv1.TLSModePassthrough:
		refuse("a listener of protocol HTTPS ends TLS itself; mode Passthrough is for protocol TLS")
	case mode != gatewayv1.TLSModeTerminate:
		refuse(fmt.Sprintf("windrose knows no TLS mode %s", mode))
	case l.spec.Protocol == gatewayv1.TLSProtocolType && !m.t.carried.TLSTerminate:
		refuse("windrose does not carry TLS mode Terminate for protocol TLS yet")
	}
}

// certificates resolves the certificates of a listener that ends TLS.
func (m *listenerMaker) certificates(l *listener) {
	tls := l.spec.TLS
	if tls == nil || len(tls.CertificateRefs) == 0 {
		l.refuse(string(gatewayv1.ListenerReasonInvalidCertificateRef), "it names no certificate")
		m.find(object.Error, m.field(l.index, ".tls.certificateRefs"), l.resolved.reason, "listener "+string(l.spec.Name)+" names no certificate", "name a Secret of type kubernetes.io/tls")
	} else {
		for _, key := range slices.Sorted(maps.Keys(tls.Options)) {
			m.find(object.Warning, m.field(l.index, ".tls.options["+string(key)+"]"), reasonNotRead, "windrose knows no TLS option "+string(key), "remove it")
		}
		for j := range tls.CertificateRefs {
			m.certificate(l, j, &tls.CertificateRefs[j])
		}
	}
	if len(l.certs) > 0 {
		return
	}
	l.substitute, l.substituted = m.t.gateways.placeholder(m.t, l.key, l.hostname), true
}

func (m *listenerMaker) certificate(l *listener, j int, ref *gatewayv1.SecretObjectReference) {
	field := m.field(l.index, fmt.Sprintf(".tls.certificateRefs[%d]", j))
	refuse := func(reason gatewayv1.ListenerConditionReason, message, sub, mend string) {
		l.refuse(string(reason), message)
		m.find(object.Error, field+sub, string(reason), message, mend)
	}
	if ref.Group != nil && *ref.Group != "" || ref.Kind != nil && *ref.Kind != "Secret" {
		refuse(gatewayv1.ListenerReasonInvalidCertificateRef, fmt.Sprintf("certificate %s is of a kind that windrose cannot read", ref.Name), ".kind", "name a Secret")
		return
	}
	namespace := m.owner.Namespace
	if ref.Namespace != nil {
		namespace = string(*ref.Namespace)
	}
	name := namespace + "/" + string(ref.Name)
	if !m.t.granted(m.owner, "Secret", namespace, string(ref.Name)) {
		refuse(gatewayv1.ListenerReasonRefNotPermitted, fmt.Sprintf("no ReferenceGrant in namespace %s lets %s of namespace %s refer to Secret %s", namespace, plural(m.owner.Kind), m.owner.Namespace, name),
			".namespace", grantMend(m.owner, "Secret", namespace, string(ref.Name)))
		return
	}
	secret, ok := m.t.set.Secrets.Get(namespace, string(ref.Name))
	if !ok {
		refuse(gatewayv1.ListenerReasonInvalidCertificateRef, "Secret "+name+" does not exist", ".name", object.Meant(string(ref.Name), namesIn(m.t.set.Secrets, namespace)))
		return
	}
	c := m.t.secrets.read(secret)
	if c.problem != "" {
		refuse(gatewayv1.ListenerReasonInvalidCertificateRef, "Secret "+name+" cannot be used: "+c.problem, ".name", "")
		return
	}
	l.certs = append(l.certs, c)
	if !fits(c.part.Certificate.Names, l.hostname) {
		m.find(object.Warning, field, reasonCertificateNames, fmt.Sprintf("the certificate in Secret %s is for %s and not for %s", name, listOr(c.part.Certificate.Names, "no DNS name"), l.hostname),
			"use a certificate that names "+l.hostname)
	}
}

// listOr joins some names for a sentence.
func listOr(names []string, none string) string {
	switch {
	case len(names) == 0:
		return none
	case len(names) > 5:
		return strings.Join(names[:5], ", ") + fmt.Sprintf(" and %d more", len(names)-5)
	}
	return strings.Join(names, ", ")
}
