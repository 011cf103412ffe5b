package plan

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"strings"
)

// A Builder turns changes of parts into plans. It is used by one goroutine; the
// plans are free for all.
type Builder struct {
	plan  *Plan // the last one; inside Apply the one in the making
	owned owned

	services  slotTable
	routes    slotTable
	listeners slotTable
	ruleSlots slotPool
	tracings  slotTable
	users     [][]uint32     // by service slot: routes that name it, once for each time
	asked     map[string]int // by service: how often listeners and tracings name it

	sockets       map[string]*Socket
	certificates  map[string]*Certificate
	listenerParts map[string]*Listener

	problems       map[Key][]Problem
	socketProblems map[string][]Problem // of listeners, by the socket's name
}

// owned says which slices of the plan in the making are its own copies.
type owned struct{ services, names, routes, hosts, listeners bool }

// NewBuilder is a builder whose plan is empty.
func NewBuilder() *Builder {
	return &Builder{
		plan:           &Plan{settings: withDefaults(nil)},
		services:       slotTable{at: map[string]int{}},
		routes:         slotTable{at: map[string]int{}},
		listeners:      slotTable{at: map[string]int{}},
		tracings:       slotTable{at: map[string]int{}},
		sockets:        map[string]*Socket{},
		certificates:   map[string]*Certificate{},
		listenerParts:  map[string]*Listener{},
		asked:          map[string]int{},
		problems:       map[Key][]Problem{},
		socketProblems: map[string][]Problem{},
	}
}

// A change gathers what one Apply touches.
type change struct {
	routes    map[string]*Route // nil for a removed one
	order     []string          // of routes
	dirty     map[uint32]bool   // routes whose services came or went
	listeners map[string]bool   // came, went or changed
	flipped   map[string]bool   // listeners that came or went
	certs     map[string]bool
	sockets   map[string]bool                             // to be built anew
	edits     map[string]map[string]map[string]*tableEdit // by listener, host, original hostname
}

// Apply removes parts, then adds or replaces others, and gives the plan of all
// parts so far with all problems that it has, sorted by key. Parts may come in
// any order: one that names an absent part heals when that comes.
func (b *Builder) Apply(changes []Part, removed []Key) (*Plan, []Problem) {
	next := *b.plan
	b.plan, b.owned = &next, owned{}
	b.services.settle()
	b.routes.settle()
	b.listeners.settle()
	b.ruleSlots.settle()
	b.tracings.settle()
	c := &change{
		routes: map[string]*Route{}, dirty: map[uint32]bool{}, listeners: map[string]bool{}, flipped: map[string]bool{},
		certs: map[string]bool{}, sockets: map[string]bool{}, edits: map[string]map[string]map[string]*tableEdit{},
	}
	for _, key := range removed {
		b.change(c, Part{Key: key}, true)
	}
	for _, part := range changes {
		b.change(c, part, false)
	}
	b.applyRoutes(c)
	b.applyTables(c)
	b.applyListeners(c)
	b.applySockets(c)
	b.checkAttachments(c)
	b.plan.ruleSlots = b.ruleSlots.size
	return b.plan, b.allProblems()
}

// change takes note of one part, or does what is to do where that is little.
func (b *Builder) change(c *change, part Part, gone bool) {
	key := part.Key
	switch key.Kind {
	case KindSettings:
		b.plan.settings = withDefaults(part.Settings)
		gone = gone || part.Settings != nil
	case KindSocket:
		set(b.sockets, key.Name, part.Socket)
		c.sockets[key.Name] = true
		gone = gone || part.Socket != nil
	case KindListener:
		b.changeListener(c, key.Name, part.Listener)
		gone = gone || part.Listener != nil
	case KindRoute:
		if _, seen := c.routes[key.Name]; !seen {
			c.order = append(c.order, key.Name)
		}
		c.routes[key.Name] = part.Route
		gone = gone || part.Route != nil
	case KindService:
		b.changeService(c, key.Name, part.Service)
		gone = gone || part.Service != nil
	case KindCertificate:
		if sameCertificate(b.certificates[key.Name], part.Certificate) {
			break
		}
		set(b.certificates, key.Name, part.Certificate)
		c.certs[key.Name] = true
		gone = gone || part.Certificate != nil
	case KindTracing:
		b.changeTracing(c, key.Name, part.Tracing)
		gone = gone || part.Tracing != nil && part.Tracing.clean()
	}
	b.setProblems(key, nil)
	if !gone && !known(part) {
		b.setProblems(key, []Problem{{Key: key, Reason: PartInvalid, Message: "the part is empty or of a kind that this windrose does not know"}})
	}
}

// known says whether a part holds what its key says.
func known(p Part) bool {
	switch p.Key.Kind {
	case KindSettings:
		return p.Settings != nil
	case KindSocket:
		return p.Socket != nil
	case KindListener:
		return p.Listener != nil
	case KindRoute:
		return p.Route != nil
	case KindService:
		return p.Service != nil
	case KindCertificate:
		return p.Certificate != nil
	case KindTracing:
		return p.Tracing != nil && p.Tracing.clean()
	}
	return false
}

func set[V any](m map[string]*V, name string, value *V) {
	if value == nil {
		delete(m, name)
		return
	}
	m[name] = value
}

func (b *Builder) changeListener(c *change, name string, part *Listener) {
	old := b.listenerParts[name]
	if old == nil && part == nil {
		return
	}
	for _, l := range []*Listener{old, part} {
		if l != nil {
			for _, socket := range l.Sockets {
				c.sockets[socket] = true
			}
		}
	}
	c.listeners[name] = true
	if old == nil || part == nil {
		c.flipped[name] = true
	}
	set(b.listenerParts, name, part)
	// New references first, as in applyRoute.
	part.eachService(func(service string) { b.ask(service) })
	old.eachService(b.unask)
}

// ask gives the slot of a service that a listener or a tracing names.
func (b *Builder) ask(service string) int {
	b.asked[service]++
	return b.serviceSlot(service)
}

// unask takes back what ask did.
func (b *Builder) unask(service string) {
	if b.asked[service]--; b.asked[service] == 0 {
		delete(b.asked, service)
	}
	b.dropService(service, b.services.at[service])
}

func (b *Builder) changeService(c *change, name string, part *Service) {
	slot, ok := b.services.at[name]
	if !ok {
		if part == nil {
			return
		}
		slot = b.serviceSlot(name)
	}
	old := b.plan.services[slot]
	if sameService(old, part) {
		return
	}
	b.ownServices()
	b.plan.services[slot] = part
	if old == nil || part == nil {
		for _, route := range b.users[slot] {
			c.dirty[route] = true
		}
	}
	b.dropService(name, slot)
}

// serviceSlot is the slot of a service, given now if it has none.
func (b *Builder) serviceSlot(name string) int {
	slot := b.services.of(name)
	if slot == len(b.plan.services) {
		b.ownServices()
		b.plan.services = append(b.plan.services, nil)
		b.plan.serviceNames = append(b.plan.serviceNames, "")
		b.users = append(b.users, nil)
	}
	b.nameService(slot, name)
	return slot
}

// nameService sets the name of a slot. Names change seldom, endpoints often.
func (b *Builder) nameService(slot int, name string) {
	if b.plan.serviceNames[slot] == name {
		return
	}
	if !b.owned.names {
		b.owned.names = true
		b.plan.serviceNames = slices.Clone(b.plan.serviceNames)
	}
	b.plan.serviceNames[slot] = name
}

// dropService frees the slot of a service that neither exists nor is named.
func (b *Builder) dropService(name string, slot int) {
	if b.plan.services[slot] != nil || len(b.users[slot]) > 0 || b.asked[name] > 0 {
		return
	}
	b.nameService(slot, "")
	b.users[slot] = nil
	b.services.drop(name)
}

func (b *Builder) ownServices() {
	if !b.owned.services {
		b.owned.services = true
		b.plan.services = slices.Clone(b.plan.services)
	}
}

func (b *Builder) ownRoutes() {
	if !b.owned.routes {
		b.owned.routes = true
		b.plan.routes = slices.Clone(b.plan.routes)
	}
}

func (b *Builder) ownHosts() {
	if !b.owned.hosts {
		b.owned.hosts = true
		b.plan.hosts = slices.Clone(b.plan.hosts)
	}
}

func (b *Builder) ownListeners() {
	if !b.owned.listeners {
		b.owned.listeners = true
		b.plan.listeners = slices.Clone(b.plan.listeners)
	}
}

func sameService(a, b *Service) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Protocol == b.Protocol && a.Balance == b.Balance && a.Hostname == b.Hostname && a.Port == b.Port &&
		a.TLS.Same(b.TLS) && slices.Equal(a.Endpoints, b.Endpoints) &&
		slices.Equal(a.Draining, b.Draining) && a.Session.same(b.Session) && a.Budget.same(b.Budget)
}

func sameCertificate(a, b *Certificate) bool {
	if a == nil || b == nil {
		return a == b
	}
	return bytes.Equal(a.Chain, b.Chain) && bytes.Equal(a.Key, b.Key) && a.RSA == b.RSA && slices.Equal(a.Names, b.Names)
}

// applyRoutes compiles the routes that changed and those whose services came or
// went, and gathers what changes in the tables.
func (b *Builder) applyRoutes(c *change) {
	for _, name := range c.order {
		b.applyRoute(c, name, c.routes[name])
	}
	for slot := range c.dirty {
		if old := b.plan.routes[slot]; old != nil {
			if _, done := c.routes[old.Name]; !done {
				b.replaceRoute(&BoundRoute{Name: old.Name, Index: old.Index, part: old.part, shape: old.shape}, old)
			}
		}
	}
}

func (b *Builder) applyRoute(c *change, name string, part *Route) {
	slot, existed := b.routes.at[name]
	if !existed && part == nil {
		return
	}
	b.ownRoutes()
	var old *BoundRoute
	if existed {
		old = b.plan.routes[slot]
	}
	if part == nil {
		b.gather(c, old, (*tableEdit).drop)
		b.release(old.part, slot)
		for i := range old.Rules {
			b.ruleSlots.put(old.Rules[i].Slot)
		}
		b.plan.routes[slot] = nil
		b.routes.drop(name)
		return
	}
	if !existed {
		slot = b.routes.of(name)
		if slot == len(b.plan.routes) {
			b.plan.routes = append(b.plan.routes, nil)
		}
	}
	route := &BoundRoute{Name: name, Index: slot, part: part}
	if old != nil && sameShape(old.part, part) {
		route.shape = old.shape
	} else {
		route.shape = newShape(Key{KindRoute, name}, part)
		if old != nil {
			b.gather(c, old, (*tableEdit).drop)
		}
		b.gather(c, route, (*tableEdit).add)
	}
	// New references first: a service named before and after keeps its slot.
	b.refer(route)
	if old != nil {
		b.release(old.part, slot)
	}
	b.replaceRoute(route, old)
}

// replaceRoute compiles the rules of a route and puts it into the plan.
func (b *Builder) replaceRoute(route, old *BoundRoute) {
	b.ownRoutes()
	b.compileRules(route, old)
	if old != nil && len(old.Rules) > len(route.Rules) {
		for i := len(route.Rules); i < len(old.Rules); i++ {
			b.ruleSlots.put(old.Rules[i].Slot)
		}
	}
	b.plan.routes[route.Index] = route
	b.checkRoute(route)
}

// refer notes the services that a route names.
func (b *Builder) refer(route *BoundRoute) {
	route.part.eachService(func(name string) {
		slot, ok := b.services.at[name]
		if !ok {
			slot = b.serviceSlot(name)
		}
		b.users[slot] = append(b.users[slot], uint32(route.Index))
	})
}

// release forgets the services that a route named.
func (b *Builder) release(part *Route, index int) {
	part.eachService(func(name string) {
		slot := b.services.at[name]
		if at := slices.Index(b.users[slot], uint32(index)); at >= 0 {
			b.users[slot] = slices.Delete(b.users[slot], at, at+1)
		}
		b.dropService(name, slot)
	})
}

// gather notes what a route's matches add to or drop from its hosts' tables.
func (b *Builder) gather(c *change, route *BoundRoute, note func(*tableEdit, *boundMatch, entry)) {
	for _, at := range route.part.Attach {
		host, ok := hostPattern(at.Host)
		if !ok {
			continue
		}
		hosts := c.edits[at.Listener]
		if hosts == nil {
			hosts = map[string]map[string]*tableEdit{}
			c.edits[at.Listener] = hosts
		}
		tiers := hosts[host]
		if tiers == nil {
			tiers = map[string]*tableEdit{}
			hosts[host] = tiers
		}
		e := tiers[at.Original]
		if e == nil {
			e = &tableEdit{}
			tiers[at.Original] = e
		}
		for i := range route.shape.matches {
			m := &route.shape.matches[i]
			made := entry{cond: m.cond, route: uint32(route.Index), rule: m.rule, match: m.match}
			if at.OneLabel && strings.HasPrefix(host, "*") {
				made.flags |= oneLabel
			}
			if m.slashed {
				made.flags |= slashed
			}
			note(e, m, made)
		}
	}
}

// hostPattern checks a hostname that configuration gives.
func hostPattern(host string) (string, bool) {
	switch {
	case host == "*":
		return "", true
	case host == "":
		return "", true
	case host[0] == '.' || len(host) > maxHost:
		return "", false
	case host[0] == '*':
		return host, strings.HasPrefix(host, "*.")
	}
	return host, true
}

func (e *tableEdit) drop(m *boundMatch, made entry) {
	if m.kind == regexPath {
		e.regex.drop = append(e.regex.drop, made.route)
		return
	}
	p := e.at(m.kind, m.path)
	if n := len(p.drop); n == 0 || p.drop[n-1] != made.route {
		p.drop = append(p.drop, made.route)
	}
}

func (e *tableEdit) add(m *boundMatch, made entry) {
	if m.kind == regexPath {
		e.regex.add = append(e.regex.add, regexEntry{made, m.regex})
		return
	}
	p := e.at(m.kind, m.path)
	p.add = append(p.add, made)
}

// applyTables edits the tables of the listeners. A listener that does not exist
// has tables too, so that nothing is to be done for its routes when it comes.
func (b *Builder) applyTables(c *change) {
	for name, edits := range c.edits {
		slot := b.listenerSlot(name)
		tables := b.plan.hosts[slot]
		if tables == nil {
			tables = &hostTables{listener: name}
		}
		b.ownHosts()
		b.plan.hosts[slot] = tables.edit(edits, b.order)
		if len(b.plan.hosts[slot].tables) == 0 {
			b.plan.hosts[slot] = nil
		}
		b.dropListener(name, slot)
	}
}

// listenerSlot is the index of a listener, given now if it has none.
func (b *Builder) listenerSlot(name string) int {
	slot := b.listeners.of(name)
	if slot == len(b.plan.listeners) {
		b.ownListeners()
		b.ownHosts()
		b.plan.listeners = append(b.plan.listeners, nil)
		b.plan.hosts = append(b.plan.hosts, nil)
	}
	return slot
}

// dropListener frees the index of a listener that neither exists nor has
// routes.
func (b *Builder) dropListener(name string, slot int) {
	if b.listenerParts[name] == nil && b.plan.listeners[slot] == nil && b.plan.hosts[slot] == nil {
		b.listeners.drop(name)
	}
}

// order is the precedence of Gateway API between matches of the same path.
func (b *Builder) order(x, y entry) int {
	if c := compareConditions(&x, &y); c != 0 {
		return c
	}
	if x.route != y.route {
		rx, ry := b.plan.routes[x.route], b.plan.routes[y.route]
		c := cmp.Or(
			cmp.Compare(rx.part.Created, ry.part.Created),
			strings.Compare(objectName(rx.Name), objectName(ry.Name)),
			strings.Compare(rx.Name, ry.Name),
		)
		if c != 0 {
			return c
		}
	}
	return cmp.Or(cmp.Compare(x.rule, y.rule), cmp.Compare(x.match, y.match))
}

func compareConditions(x, y *entry) int {
	methodX, headersX, queryX := x.cond.size()
	methodY, headersY, queryY := y.cond.size()
	return cmp.Or(
		cmp.Compare(y.flags&slashed, x.flags&slashed), // the longer prefix
		cmp.Compare(methodY, methodX),
		cmp.Compare(headersY, headersX),
		cmp.Compare(queryY, queryX),
	)
}

func (c *condition) size() (method, headers, query int) {
	if c == nil {
		return 0, 0, 0
	}
	if c.method != "" {
		method = 1
	}
	return method, len(c.headers), len(c.query)
}

// objectName is NAMESPACE/NAME of a key's name KIND/NAMESPACE/NAME.
func objectName(name string) string {
	_, rest, ok := strings.Cut(name, "/")
	if !ok {
		return name
	}
	return rest
}

// sortedKeys are the keys of a set in order, so that plans come out the same.
func sortedKeys(m map[string]bool) []string { return slices.Sorted(maps.Keys(m)) }
