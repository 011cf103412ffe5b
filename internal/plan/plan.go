// Package plan is the compiled picture of all traffic: which listener, route
// and rule a request belongs to, what its filters do, and which services stand
// behind it.
//
// Parts (part.go) are plain data that cross the plan stream. A Builder takes
// changes of parts and gives an immutable Plan, sharing with the one before
// everything that did not change; a request loads one Plan and uses it to its
// end. The same code answers "where would this request land" in the data
// plane, in the command line's explain and diff, and in translation's tests.
//
// How a request finds its rule:
//
//	Plan.Bound       the socket the connection came in on
//	Bound.Listener   the listener, by Host or server name: exact, longest
//	                 wildcard, without hostname; one listener is chosen and no
//	                 other is asked (listener isolation)
//	Normalize        the path, once, for matching and for forwarding
//	Listener.Match   the rule: host, then path, method, headers, query
//	Rule.Pick        the backend, by the exact schedule of the weights
//	Plan.Service     the service behind it
//
// Things that live longer than one plan (counters, pools, split positions) are
// kept by others in tables keyed by the dense indexes given here: of a
// listener, a route, a rule, a service. An index stays with its key for as long
// as the key lives, and is given to another key at the earliest one Apply after
// it was freed.
//
// The package is pure: no network, files, log or clock.
package plan

import "slices"

// Plan is an immutable picture of all traffic. Plans share what is equal.
type Plan struct {
	settings     *Settings
	sockets      []*Bound // by name
	listeners    []*BoundListener
	hosts        []*hostTables // by listener index
	routes       []*BoundRoute
	services     []*Service
	serviceNames []string
	ruleSlots    int
	tracings     []*BoundTracing // by slot
}

// Settings are the data plane's settings with defaults filled in. Never nil.
func (p *Plan) Settings() *Settings { return p.settings }

// Sockets are all sockets to listen on, by name.
func (p *Plan) Sockets() []*Bound { return p.sockets }

// Bound is the socket of that name, or nil.
func (p *Plan) Bound(name string) *Bound {
	for _, b := range p.sockets {
		if b.Name == name {
			return b
		}
	}
	return nil
}

// Service is the service in a slot, or nil if there is none.
func (p *Plan) Service(slot int) *Service {
	if slot < 0 || slot >= len(p.services) {
		return nil
	}
	return p.services[slot]
}

// ServiceName is the key's name of the service in a slot, also of one that a
// rule names and that does not exist.
func (p *Plan) ServiceName(slot int) string {
	if slot < 0 || slot >= len(p.serviceNames) {
		return ""
	}
	return p.serviceNames[slot]
}

// Services is the number of service slots; some may be empty.
func (p *Plan) Services() int { return len(p.services) }

// Listeners is the number of listener indexes.
func (p *Plan) Listeners() int { return len(p.listeners) }

// Listener is the listener with an index, or nil if there is none.
func (p *Plan) Listener(i int) *BoundListener {
	if i < 0 || i >= len(p.listeners) {
		return nil
	}
	return p.listeners[i]
}

// ChecksSince says whether a listener has a check of clients that it did not have
// in an older plan.
func (p *Plan) ChecksSince(old *Plan) bool {
	for i, l := range p.listeners {
		if l == nil || l.Clients == nil {
			continue
		}
		if was := old.Listener(i); was == nil || was.Clients != l.Clients {
			return true
		}
	}
	return false
}

// Shown are the certificates that listeners show to endpoints, each once.
func (p *Plan) Shown() []*Certificate {
	var shown []*Certificate
	for _, l := range p.listeners {
		if l != nil && l.Shows != nil && !slices.Contains(shown, l.Shows) {
			shown = append(shown, l.Shows)
		}
	}
	return shown
}

// Routes is the number of route slots; some may be empty.
func (p *Plan) Routes() int { return len(p.routes) }

// Route is the route in a slot, or nil if there is none.
func (p *Plan) Route(slot int) *BoundRoute {
	if slot < 0 || slot >= len(p.routes) {
		return nil
	}
	return p.routes[slot]
}

// RuleSlots is the number of rule slots: BoundRule.Slot is below it.
func (p *Plan) RuleSlots() int { return p.ruleSlots }
