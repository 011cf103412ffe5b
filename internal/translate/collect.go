package translate

import (
	"windrose.dev/windrose/internal/plan"
)

// collectListeners adds the parts of the listeners that serve, with their
// placeholders, and marks the certificates in use.
func (g *gateways) collectListeners(t *Translator, parts []*plan.Part) []*plan.Part {
	old := g.listenerPart
	g.listenerPart = make(map[string]*plan.Part, len(old))
	for _, c := range t.ingress.certs {
		c.used = true
	}
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
			g.listenerPart[l.key] = part
			parts = append(parts, part)
			if l.substitute != nil {
				substitutes[l.key] = true
				parts = append(parts, l.substitute)
			}
			for _, c := range l.certs {
				c.used = true
			}
		}
	}
	g.prunePlaceholders(substitutes)
	return parts
}

// part makes the part of a listener. The listener that Ingresses share has
// their certificates as well.
func (l *listener) part(t *Translator) *plan.Part {
	made := &plan.Listener{Sockets: l.sockets, Protocol: plan.HTTP, Hostname: l.hostname}
	if l.secure() {
		made.Protocol = plan.HTTPS
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
	return &plan.Part{Key: plan.Key{Kind: plan.KindListener, Name: l.key}, Listener: made}
}
