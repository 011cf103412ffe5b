package translate

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// claim is a socket with the listeners that stand on it.
type claim struct {
	protocol gatewayv1.ProtocolType // of the first of them
	hosts    map[string]*listener   // by host name
}

// family names the protocols that can share a socket: HTTPS and TLS are told
// apart by the server name of the handshake.
func family(p gatewayv1.ProtocolType) gatewayv1.ProtocolType {
	if p == gatewayv1.TLSProtocolType {
		return gatewayv1.HTTPSProtocolType
	}
	return p
}

// tellsHosts says whether a protocol tells its clients apart by host name.
func tellsHosts(p gatewayv1.ProtocolType) bool {
	return p != gatewayv1.TCPProtocolType && p != gatewayv1.UDPProtocolType
}

// claim gives the listeners of an object their sockets, unless an object of
// higher precedence took them for another protocol or for the same host name.
// Of the rest, listeners of one object that cannot be told apart lose both, as
// the API wants it.
func (g *gateways) claim(p *parent) {
	if !p.accepted.ok() {
		return
	}
	for _, l := range p.listeners {
		if l.serves() {
			g.yield(l)
		}
	}
	g.conflictsWithin(p)
	for _, l := range p.listeners {
		if l.serves() {
			g.take(l)
		}
		if !l.conflict.ok() {
			p.find(object.Error, fmt.Sprintf("spec.listeners[%d]", l.index), l.conflict.reason, "listener "+string(l.spec.Name)+": "+l.conflict.message, "give it another port or another host name")
		}
	}
	// A protocol that is not carried claims nothing, but where it wants a
	// socket of another protocol that is the better reason.
	for _, l := range p.listeners {
		if l.accepted.reason == string(gatewayv1.ListenerReasonUnsupportedProtocol) {
			g.checkProtocol(l)
		}
	}
}

func (g *gateways) conflictsWithin(p *parent) {
	var list []*listener
	for _, l := range p.listeners {
		if l.serves() {
			list = append(list, l)
		}
	}
	for i, a := range list {
		for _, b := range list[i+1:] {
			if reason, what := clash(a, b); reason != "" {
				conflict(a, reason, "listener "+string(b.spec.Name)+" has "+what)
				conflict(b, reason, "listener "+string(a.spec.Name)+" has "+what)
			}
		}
	}
}

// clash says why two listeners of one object cannot be told apart; the reason is
// "" if they can. TCP and UDP have ports of their own.
func clash(a, b *listener) (reason gatewayv1.ListenerConditionReason, what string) {
	one, other := a.spec.Protocol, b.spec.Protocol
	switch udp := gatewayv1.UDPProtocolType; {
	case a.spec.Port != b.spec.Port, (one == udp) != (other == udp):
		return "", ""
	case family(one) != family(other):
		return gatewayv1.ListenerReasonProtocolConflict, "the same port and another protocol"
	case !tellsHosts(one):
		return gatewayv1.ListenerReasonProtocolConflict, "the same port, and protocol " + string(one) + " knows no host names"
	case a.hostname != b.hostname:
		return "", ""
	case one != other:
		return gatewayv1.ListenerReasonProtocolConflict, "the same port, the same host name and another protocol"
	}
	return gatewayv1.ListenerReasonHostnameConflict, "the same port and the same host name"
}

func conflict(l *listener, reason gatewayv1.ListenerConditionReason, message string) {
	if l.conflict.ok() {
		l.conflict = verdict{string(reason), message}
	}
}

// yield gives way to listeners of objects of higher precedence.
func (g *gateways) yield(l *listener) {
	for _, s := range l.sockets {
		c := g.claims[s]
		if c == nil {
			continue
		}
		if family(c.protocol) != family(l.spec.Protocol) || !tellsHosts(l.spec.Protocol) {
			conflict(l, gatewayv1.ListenerReasonProtocolConflict, fmt.Sprintf("port %d is taken for protocol %s by an object of higher precedence", l.spec.Port, c.protocol))
			return
		}
		switch other := c.hosts[l.hostname]; {
		case other == nil:
		case other.spec.Protocol != l.spec.Protocol:
			conflict(l, gatewayv1.ListenerReasonProtocolConflict, fmt.Sprintf("%s on port %d is taken for protocol %s by a listener of higher precedence", orAll(l.hostname), l.spec.Port, other.spec.Protocol))
			return
		default:
			conflict(l, gatewayv1.ListenerReasonHostnameConflict, fmt.Sprintf("%s on port %d is taken by a listener of higher precedence", orAll(l.hostname), l.spec.Port))
			return
		}
	}
}

// take claims the sockets of a listener.
func (g *gateways) take(l *listener) {
	for _, s := range l.sockets {
		if g.claims[s] == nil {
			g.claims[s] = &claim{protocol: l.spec.Protocol, hosts: map[string]*listener{}}
		}
		g.claims[s].hosts[l.hostname] = l
	}
}

func (g *gateways) checkProtocol(l *listener) {
	for _, s := range l.sockets {
		if c := g.claims[s]; c != nil && family(c.protocol) != family(l.spec.Protocol) {
			conflict(l, gatewayv1.ListenerReasonProtocolConflict, fmt.Sprintf("port %d is taken for protocol %s by a listener of higher precedence", l.spec.Port, c.protocol))
			return
		}
	}
}

func orAll(hostname string) string {
	if hostname == "" {
		return "the listener for all host names"
	}
	return "host name " + hostname
}

// markOverlaps notes listeners with TLS on one socket whose host names overlap:
// a client may reuse the connection of one for the other.
func (g *gateways) markOverlaps() {
	for _, c := range g.claims {
		if family(c.protocol) != gatewayv1.HTTPSProtocolType {
			continue
		}
		for host, l := range c.hosts {
			for wide := range widerThan(host) {
				if other := c.hosts[wide]; other != nil {
					l.overlaps(cmp.Or(wide, "*"))
					other.overlaps(cmp.Or(host, "*"))
				}
			}
		}
	}
}

// overlaps notes a host name; of several the alphabetically first.
func (l *listener) overlaps(host string) {
	if l.overlap == "" || host < l.overlap {
		l.overlap = host
	}
}

// widerThan gives the wildcards that cover a host name, and "".
func widerThan(host string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		if host == "" {
			return
		}
		rest := strings.TrimPrefix(host, "*.")
		for {
			_, parent, ok := strings.Cut(rest, ".")
			if !ok {
				break
			}
			if !yield("*." + parent) {
				return
			}
			rest = parent
		}
		yield("")
	}
}

// makeSockets gives each socket with a listener its part.
func (g *gateways) makeSockets() {
	maps.DeleteFunc(g.socketParts, func(name string, _ *plan.Part) bool {
		return g.claims[name] == nil && !slices.Contains(g.lent, name)
	})
	g.sockets = nil
	for _, name := range slices.Sorted(maps.Keys(g.claims)) {
		if part := g.socket(name); part != nil {
			g.sockets = append(g.sockets, part)
		}
	}
}

// socket gives the part of a socket, which stays the same.
func (g *gateways) socket(name string) *plan.Part {
	if known := g.socketParts[name]; known != nil {
		return known
	}
	network, text, _ := strings.Cut(name, "/")
	addr, err := netip.ParseAddrPort(text)
	if err != nil {
		return nil // the name was made from an address
	}
	made := &plan.Part{Key: plan.Key{Kind: plan.KindSocket, Name: name}, Socket: &plan.Socket{Addr: addr, UDP: network == "udp"}}
	g.socketParts[name] = made
	return made
}
