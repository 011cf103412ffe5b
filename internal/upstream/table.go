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
	ctx       context.Context
	names     map[string]*external // by hostname
}

// address is what makes two endpoints the same.
type address struct {
	addr     netip.AddrPort
	protocol plan.Protocol
	tls      string // what is believed, as a digest; "" in cleartext
}

type entry struct {
	part   *plan.Service
	tls    string       // digest of part.TLS
	secure *tls.Config  // of part.TLS; nil in cleartext
	addrs  []netip.Addr // of an external name
	cursor *atomic.Uint64
	svc    *Service
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
	return &Table{cfg: cfg, ctx: ctx, entries: map[string]*entry{}, endpoints: map[address]*Endpoint{}, names: map[string]*external{}}
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
	if t.plan != nil {
		n = t.plan.Services()
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
		v.services[slot] = t.service(name, part)
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
func (t *Table) service(name string, part *plan.Service) *Service {
	var addrs []netip.Addr
	if part.Hostname != "" {
		addrs = t.resolve(part.Hostname)
	}
	old := t.entries[name]
	if old != nil && old.part == part && slices.Equal(old.addrs, addrs) {
		return old.svc
	}
	e := &entry{part: part, addrs: addrs, cursor: new(atomic.Uint64), tls: digest(part.TLS)}
	if old != nil {
		e.cursor = old.cursor
	}
	switch {
	case part.TLS == nil:
	case old != nil && old.tls == e.tls && old.part.Protocol == part.Protocol:
		e.secure = old.secure // with the sessions that can be resumed
	default:
		e.secure = clientConfig(part.TLS, part.Protocol)
	}
	e.svc = &Service{Name: name, Protocol: part.Protocol, balance: part.Balance, cursor: e.cursor}
	for _, ep := range part.Endpoints {
		e.svc.endpoints = append(e.svc.endpoints, t.endpoint(ep, e))
	}
	for _, a := range addrs {
		ep := plan.Endpoint{Addr: netip.AddrPortFrom(a.Unmap(), part.Port), Name: part.Hostname}
		e.svc.endpoints = append(e.svc.endpoints, t.endpoint(ep, e))
	}
	t.entries[name] = e
	if old != nil {
		t.drop(old) // after the new one took its references: what stays keeps its state
	}
	return e.svc
}

func (t *Table) endpoint(p plan.Endpoint, of *entry) *Endpoint {
	key := address{p.Addr, of.part.Protocol, of.tls}
	e := t.endpoints[key]
	if e == nil {
		e = &Endpoint{Addr: p.Addr, Name: p.Name, TLS: of.secure}
		t.endpoints[key] = e
	}
	e.refs++
	return e
}

func (t *Table) drop(old *entry) {
	for _, e := range old.svc.endpoints {
		if e.refs--; e.refs == 0 {
			e.gone.Store(true)
			delete(t.endpoints, address{e.Addr, old.part.Protocol, old.tls})
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
