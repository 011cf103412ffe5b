package plan

import (
	"fmt"
	"slices"
	"strings"
)

// applyListeners builds the listeners that changed and those whose certificates
// did, and replaces them in their sockets.
func (b *Builder) applyListeners(c *change) {
	if len(c.certs) > 0 {
		for name, part := range b.listenerParts {
			if c.certs[part.Shows] || slices.ContainsFunc(part.Certificates, func(cert string) bool { return c.certs[cert] }) {
				c.listeners[name] = true
			}
		}
	}
	rebuilt := map[*BoundListener]*BoundListener{}
	for _, name := range sortedKeys(c.listeners) {
		slot := b.listenerSlot(name)
		b.ownListeners()
		old := b.plan.listeners[slot]
		b.plan.listeners[slot] = b.buildListener(name, slot)
		if next := b.plan.listeners[slot]; old != nil && next != nil {
			if old.Clients.Same(next.Clients) {
				next.Clients = old.Clients
			}
			rebuilt[old] = next
		}
		b.dropListener(name, slot)
	}
	if len(rebuilt) > 0 {
		b.plan.sockets = slices.Clone(b.plan.sockets)
		for i, bound := range b.plan.sockets {
			b.plan.sockets[i] = bound.replace(rebuilt)
		}
	}
}

// replace is the socket with some listeners replaced; itself if it has none of
// them.
func (b *Bound) replace(rebuilt map[*BoundListener]*BoundListener) *Bound {
	var next *Bound
	for i, l := range b.listeners {
		newer := rebuilt[l]
		if newer == nil {
			continue
		}
		if next == nil {
			copied := *b
			copied.listeners = slices.Clone(b.listeners)
			next = &copied
		}
		next.listeners[i] = newer
	}
	if next == nil {
		return b
	}
	return next
}

// buildListener is the listener of a name, or nil if it is gone.
func (b *Builder) buildListener(name string, slot int) *BoundListener {
	part := b.listenerParts[name]
	key := Key{KindListener, name}
	if part == nil {
		return nil
	}
	var problems []Problem
	host, ok := hostPattern(part.Hostname)
	if !ok {
		problems = append(problems, Problem{Key: key, Reason: PartInvalid, Message: fmt.Sprintf("hostname %q is not a name or *.suffix", part.Hostname)})
	}
	if part.Protocol.class() == 0 {
		problems = append(problems, Problem{Key: key, Reason: PartInvalid, Message: fmt.Sprintf("protocol %q is not known", part.Protocol)})
	}
	l := &BoundListener{
		Name: name, Index: slot, Protocol: part.Protocol, Hostname: host,
		Passthrough: part.Protocol == TLS && part.Passthrough,
		Tracing:     b.tracingOf(part.Tracing),
	}
	if part.Tracing != "" && l.Tracing == nil {
		problems = append(problems, Problem{Key: key, Reason: TracingAbsent, Message: fmt.Sprintf("tracing %s does not exist", part.Tracing)})
	}
	b.guardListener(l, part)
	certs := make([]*Certificate, 0, len(part.Certificates))
	for _, cert := range part.Certificates {
		if have := b.certificates[cert]; have != nil {
			certs = append(certs, have)
			continue
		}
		problems = append(problems, Problem{Key: key, Reason: CertificateAbsent, Message: fmt.Sprintf("certificate %s does not exist", cert)})
	}
	l.setCertificates(certs)
	if part.Protocol == HTTPS {
		l.Clients = part.Clients
	}
	if part.Shows != "" {
		if l.Shows = b.certificates[part.Shows]; l.Shows == nil {
			problems = append(problems, Problem{Key: key, Reason: CertificateAbsent, Message: fmt.Sprintf("certificate %s, which endpoints are to be shown, does not exist", part.Shows)})
		}
	}
	for _, socket := range part.Sockets {
		if b.sockets[socket] == nil {
			problems = append(problems, Problem{Key: key, Reason: SocketAbsent, Message: fmt.Sprintf("socket %s does not exist", socket)})
		}
	}
	b.setProblems(key, problems)
	return l
}

// applySockets builds the sockets that changed or whose set of listeners did.
func (b *Builder) applySockets(c *change) {
	if len(c.sockets) == 0 {
		return
	}
	members := b.membersOf(c.sockets)
	sockets := make([]*Bound, 0, len(b.plan.sockets)+len(c.sockets))
	for _, bound := range b.plan.sockets {
		if !c.sockets[bound.Name] {
			sockets = append(sockets, bound)
		}
	}
	for name := range c.sockets {
		delete(b.socketProblems, name)
		if part := b.sockets[name]; part != nil {
			sockets = append(sockets, b.buildSocket(name, part, members[name]))
		}
	}
	slices.SortFunc(sockets, func(x, y *Bound) int { return strings.Compare(x.Name, y.Name) })
	b.plan.sockets = sockets
	b.checkSockets(c)
}

// membersOf finds the listeners of some sockets, by name.
func (b *Builder) membersOf(sockets map[string]bool) map[string][]*BoundListener {
	members := map[string][]*BoundListener{}
	for _, l := range b.plan.listeners {
		if l == nil {
			continue
		}
		if _, ok := hostPattern(b.listenerParts[l.Name].Hostname); !ok || l.Protocol.class() == 0 {
			continue
		}
		for _, socket := range b.listenerParts[l.Name].Sockets {
			if sockets[socket] && !slices.Contains(members[socket], l) {
				members[socket] = append(members[socket], l)
			}
		}
	}
	for _, list := range members {
		slices.SortFunc(list, func(x, y *BoundListener) int { return strings.Compare(x.Name, y.Name) })
	}
	return members
}

// buildSocket puts listeners on a socket. The first by name decides the
// class, and who has a hostname.
func (b *Builder) buildSocket(name string, part *Socket, members []*BoundListener) *Bound {
	bound := &Bound{Name: name, Addr: part.Addr, UDP: part.UDP, listeners: make([]*BoundListener, 0, len(members))}
	taken := make(map[string]*BoundListener, len(members))
	patterns := make([]string, 0, len(members))
	for _, l := range members {
		class := l.Protocol.class()
		conflict := ""
		switch {
		case (class == ClassUDP) != part.UDP:
			conflict = fmt.Sprintf("protocol %s cannot be served on socket %s", l.Protocol, name)
		case bound.Class != 0 && bound.Class != class:
			conflict = fmt.Sprintf("socket %s speaks another protocol, which %s decided", name, bound.listeners[0].Name)
		case taken[l.Hostname] != nil:
			conflict = fmt.Sprintf("socket %s serves hostname %q for %s", name, l.Hostname, taken[l.Hostname].Name)
		}
		if conflict != "" {
			b.socketProblems[name] = append(b.socketProblems[name], Problem{Key: Key{KindListener, l.Name}, Reason: ListenerConflict, Message: conflict})
			continue
		}
		bound.Class, bound.TLS = class, class == ClassTLS
		bound.Streams = bound.Streams || l.Protocol == TLS
		taken[l.Hostname] = l
		patterns = append(patterns, l.Hostname)
		bound.listeners = append(bound.listeners, l)
	}
	bound.hosts = newHostIndex(patterns)
	return bound
}

// checkSockets looks again at listeners whose sockets came or went.
func (b *Builder) checkSockets(c *change) {
	for name, part := range b.listenerParts {
		key := Key{KindListener, name}
		for _, socket := range part.Sockets {
			if !c.sockets[socket] {
				continue
			}
			problems := slices.DeleteFunc(slices.Clone(b.problems[key]), func(p Problem) bool { return p.Reason == SocketAbsent })
			for _, socket := range part.Sockets {
				if b.sockets[socket] == nil {
					problems = append(problems, Problem{Key: key, Reason: SocketAbsent, Message: fmt.Sprintf("socket %s does not exist", socket)})
				}
			}
			b.setProblems(key, problems)
			break
		}
	}
}
