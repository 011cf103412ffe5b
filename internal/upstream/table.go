package upstream

import (
	"context"
	"crypto/tls"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"windrose.dev/windrose/internal/plan"
)

// Config of a Table.
type Config struct {
	// Lookup resolves an external name; (*net.Resolver).LookupNetIP with "ip"
	// does.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Changed is told, from any goroutine, that addresses of an external name
	// changed: View gives them. It is needed where Lookup is.
	Changed func()
	// Refresh is how often an external name is resolved again; default 10 s.
	Refresh time.Duration
}

// Table holds the state that outlives plans.
type Table struct {
	cfg Config

	mu        sync.Mutex // guards everything below
	plan      *plan.Plan
	entries   map[string]*entry // by service name
	endpoints map[address]*Endpoint
	shown     map[*plan.Certificate]*showing // that the plan's listeners show
	ctx       context.Context
	names     map[string]*external // by hostname
}

// address is what makes two endpoints the same.
type address struct {
	addr     netip.AddrPort
	protocol plan.Protocol
	tls      string // what is believed and shown, as digests; "" in cleartext
}

// entry is a service of the plan with its faces: the first is the service as it
// is reached by everybody who shows nothing.
type entry struct {
	part   *plan.Service
	tls    string       // digest of part.TLS
	addrs  []netip.Addr // of an external name
	faces  []face
	budget *Budget // of part.Budget
}

// face is a service as some listeners reach it; see Service.For.
type face struct {
	shown  *plan.Certificate // nil for none
	plain  bool              // the listener passes TLS through
	tls    string            // digest of what is believed and shown
	secure *tls.Config       // nil in cleartext
	svc    *Service
}

// same finds the face that stands for the same listeners.
func (e *entry) same(f *face) *face {
	if e == nil {
		return nil
	}
	for i := range e.faces {
		if have := &e.faces[i]; have.shown == f.shown && have.plain == f.plain {
			return have
		}
	}
	return nil
}

type external struct {
	addrs  []netip.Addr
	cancel context.CancelFunc
}

// NewTable makes an empty table. Its resolvers end with ctx.
func NewTable(ctx context.Context, cfg Config) *Table {
	if cfg.Refresh == 0 {
		cfg.Refresh = 10 * time.Second
	}
	return &Table{cfg: cfg, ctx: ctx, entries: map[string]*entry{}, endpoints: map[address]*Endpoint{}, shown: map[*plan.Certificate]*showing{}, names: map[string]*external{}}
}

// Use takes a new plan and gives its view. What no service of the plan names is
// forgotten.
func (t *Table) Use(p *plan.Plan) *View {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.plan = p
	return t.view()
}

// View gives the present view of the plan used last.
func (t *Table) View() *View {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.view()
}

func (t *Table) view() *View {
	n := 0
	var shown []*plan.Certificate
	if t.plan != nil {
		n = t.plan.Services()
		shown = t.show(t.plan.Shown())
	}
	v := &View{services: make([]*Service, n)}
	present := make(map[string]bool, n)
	hosts := map[string]bool{}
	for slot := range n {
		part := t.plan.Service(slot)
		if part == nil {
			continue
		}
		name := t.plan.ServiceName(slot)
		present[name] = true
		if part.Hostname != "" {
			hosts[part.Hostname] = true
		}
		v.services[slot] = t.service(name, part, shown)
	}
	for name, e := range t.entries {
		if !present[name] {
			delete(t.entries, name)
			t.drop(e)
		}
	}
	for host, x := range t.names {
		if !hosts[host] {
			delete(t.names, host)
			x.cancel()
		}
	}
	return v
}

// service gives the living service of a part: the one before if nothing of it
// changed.
func (t *Table) service(name string, part *plan.Service, shown []*plan.Certificate) *Service {
	var addrs []netip.Addr
	if part.Hostname != "" {
		addrs = t.resolve(part.Hostname)
	}
	if part.TLS == nil || part.TLS.Alone {
		shown = nil
	}
	old := t.entries[name]
	if old != nil && old.part == part && slices.Equal(old.addrs, addrs) && old.shows(shown) {
		return old.faces[0].svc
	}
	e := &entry{part: part, addrs: addrs, tls: digest(part.TLS)}
	e.faces = append(e.faces, face{tls: e.tls})
	if part.Budget != nil {
		if e.budget = newBudget(part.Budget); old != nil && old.budget != nil && old.budget.of == *part.Budget {
			e.budget = old.budget
		}
	}
	if part.TLS != nil && part.Protocol == plan.TCP {
		e.faces = append(e.faces, face{plain: true})
	}
	for _, c := range shown {
		e.faces = append(e.faces, face{shown: c, tls: e.tls + t.shown[c].digest})
	}
	for i := range e.faces {
		t.fill(name, e, old, &e.faces[i])
	}
	if len(e.faces) > 1 {
		e.faces[0].svc.faces = e.faces[1:]
	}
	t.entries[name] = e
	if old != nil {
		t.drop(old) // after the new one took its references: what stays keeps its state
	}
	return e.faces[0].svc
}

// shows says whether the service has a face for each of these certificates, and
// for no other.
func (e *entry) shows(shown []*plan.Certificate) bool {
	i := 0
	for _, f := range e.faces {
		if f.shown == nil {
			continue
		}
		if i >= len(shown) || f.shown != shown[i] {
			return false
		}
		i++
	}
	return i == len(shown)
}

// fill makes the service of a face, with what the same face had before.
func (t *Table) fill(name string, e, old *entry, f *face) {
	part, was := e.part, old.same(f)
	f.svc = &Service{Name: name, Protocol: part.Protocol, balance: part.Balance, Budget: e.budget, cursor: new(atomic.Uint64)}
	if was != nil {
		f.svc.cursor = was.svc.cursor
	}
	switch {
	case f.tls == "":
	case was != nil && was.tls == f.tls && old.part.Protocol == part.Protocol:
		f.secure = was.secure // with the sessions that can be resumed
	default:
		f.secure = clientConfig(part.TLS, part.Protocol, t.shown[f.shown])
	}
	if part.Session != nil && part.Session.Safe() {
		f.svc.Session = part.Session
	}
	for _, ep := range part.Endpoints {
		f.svc.endpoints = append(f.svc.endpoints, t.endpoint(ep, part.Protocol, f))
	}
	for _, ep := range part.Draining {
		f.svc.draining = append(f.svc.draining, t.endpoint(ep, part.Protocol, f))
	}
	for _, a := range e.addrs {
		ep := plan.Endpoint{Addr: netip.AddrPortFrom(a.Unmap(), part.Port), Name: part.Hostname}
		f.svc.endpoints = append(f.svc.endpoints, t.endpoint(ep, part.Protocol, f))
	}
}

func (t *Table) endpoint(p plan.Endpoint, protocol plan.Protocol, of *face) *Endpoint {
	key := address{p.Addr, protocol, of.tls}
	e := t.endpoints[key]
	if e == nil {
		e = &Endpoint{Addr: p.Addr, Name: p.Name, TLS: of.secure, key: key}
		t.endpoints[key] = e
	}
	e.refs++
	return e
}

func (t *Table) drop(old *entry) {
	for _, f := range old.faces {
		for _, e := range slices.Concat(f.svc.endpoints, f.svc.draining) {
			if e.refs--; e.refs == 0 {
				e.gone.Store(true)
				delete(t.endpoints, e.key)
			}
		}
	}
}

// resolve gives the addresses of a hostname known so far, and sees to it that
// they are kept fresh.
func (t *Table) resolve(host string) []netip.Addr {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}
	}
	x := t.names[host]
	if x == nil {
		ctx, cancel := context.WithCancel(t.ctx)
		x = &external{cancel: cancel}
		t.names[host] = x
		go t.refresh(ctx, host, x)
	}
	return x.addrs
}

func (t *Table) refresh(ctx context.Context, host string, x *external) {
	for {
		t.lookup(ctx, host, x)
		select {
		case <-ctx.Done():
			return
		case <-time.After(t.cfg.Refresh):
		}
	}
}

// lookup resolves host once. An error keeps the addresses there were: a name
// server that is away must not take a service with it.
func (t *Table) lookup(ctx context.Context, host string, x *external) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	addrs, err := t.cfg.Lookup(ctx, host)
	if err != nil || len(addrs) == 0 || ctx.Err() != nil {
		return
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	t.mu.Lock()
	same := slices.Equal(x.addrs, addrs)
	x.addrs = addrs
	t.mu.Unlock()
	if !same {
		t.cfg.Changed()
	}
}
