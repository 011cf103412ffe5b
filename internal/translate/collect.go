package translate

import (
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/plan"
)

// collectListeners adds the parts of the listeners that serve, with their
// placeholders, and marks the certificates in use.
func (g *gateways) collectListeners(t *Translator, parts []*plan.Part) []*plan.Part {
	if g.changed || t.ingress.renewed {
		g.makeListeners(t)
	}
	for _, c := range t.ingress.certs {
		c.used = true
	}
	for _, c := range g.certs {
		c.used = true
	}
	return append(parts, g.listenerParts...)
}

func (g *gateways) makeListeners(t *Translator) {
	old := make(map[string]*plan.Part, len(g.listenerParts))
	for _, p := range g.listenerParts {
		if p.Listener != nil {
			old[p.Key.Name] = p
		}
	}
	g.listenerParts, g.certs = nil, nil
	substitutes := map[string]bool{t.ingress.secure.listener: t.ingress.secure.own}
	for _, p := range g.order {
		if !p.serves() {
			continue
		}
		for _, l := range p.listeners {
			if !l.serves() {
				continue
			}
			part := l.part(t)
			if was := old[l.key]; was != nil && samePart(was, part) {
				part = was
			}
			g.listenerParts = append(g.listenerParts, part)
			if l.substitute != nil {
				substitutes[l.key] = true
				g.listenerParts = append(g.listenerParts, l.substitute)
			}
			g.certs = append(g.certs, l.certs...)
			if l.shows != nil {
				g.certs = append(g.certs, l.shows)
			}
		}
	}
	g.prunePlaceholders(substitutes)
}

// part makes the part of a listener. The listener that Ingresses share has
// their certificates as well.
func (l *listener) part(t *Translator) *plan.Part {
	made := &plan.Listener{Sockets: l.sockets, Protocol: protocolOf(l.spec.Protocol), Hostname: l.hostname, Passthrough: l.passthrough}
	if l.secure() {
		for _, c := range l.certs {
			made.Certificates = append(made.Certificates, c.part.Key.Name)
		}
		if l.substitute != nil {
			made.Certificates = append(made.Certificates, l.substitute.Key.Name)
		}
		if l.key == t.ingress.secure.listener {
			for _, c := range t.ingress.certs {
				made.Certificates = append(made.Certificates, c.part.Key.Name)
			}
		}
	}
	made.Clients = l.clients
	if l.shows != nil {
		made.Shows = l.shows.part.Key.Name
	}
	made.Tracing = t.gateways.tracingOf(l)
	made.Filters = l.filters
	if l.halted != "" {
		made.Filters, made.Broken = nil, &plan.Broken{Status: statusBroken, Reason: l.halted}
	}
	return &plan.Part{Key: plan.Key{Kind: plan.KindListener, Name: l.key}, Listener: made}
}

func protocolOf(p gatewayv1.ProtocolType) plan.Protocol {
	switch p {
	case gatewayv1.HTTPProtocolType:
		return plan.HTTP
	case gatewayv1.HTTPSProtocolType:
		return plan.HTTPS
	case gatewayv1.TLSProtocolType:
		return plan.TLS
	case gatewayv1.TCPProtocolType:
		return plan.TCP
	case gatewayv1.UDPProtocolType:
		return plan.UDP
	}
	return plan.HTTP
}
