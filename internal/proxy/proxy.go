// Package proxy is the request path: listening sockets, connections of clients
// and to endpoints, and the exchange between them.
//
//	accept -> TLS -> head -> match -> pick -> forward -> answer -> record
//
// A Proxy runs on several event loops. Each loop has a worker, which owns
// everything on it; a connection, its requests and the connections they use
// never leave their loop, so the path has no locks. What loops share is
// immutable (plan and upstream view, behind one pointer) or atomic counters
// (endpoints, positions of traffic splits).
//
// A request is an exchange. It loads the plan once and uses it to its end. Any
// step may end it with a fault; fault.go is the only place that turns one into
// bytes. Whatever happens, exactly one record is emitted.
//
// Back pressure: a side is read only while the other side takes what it is
// given, so that a connection holds at most one read of its peer's bytes.
package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"windrose.dev/windrose/internal/h3"
	"windrose.dev/windrose/internal/loop"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/session"
	"windrose.dev/windrose/internal/telemetry"
	"windrose.dev/windrose/internal/upstream"
)

// Config of a Proxy.
type Config struct {
	Loops int // event loops; one for each processor that may be used
	Hub   *telemetry.Hub
	// Churn, if set, is told that many connections have come or gone, which
	// leaves garbage. It is called on an event loop and must not block.
	Churn func()
	// Share, if set, says of an address that somebody listens at whether it is
	// bound all the same: a predecessor has it, who is about to drain.
	Share func(addr netip.AddrPort, udp bool) bool
	// Log is told what an operator should know about the process itself; it may
	// be called from any goroutine.
	Log func(message string, args ...any)
}

// Proxy carries traffic. Make it with New, give it plans with Use, end it with
// Drain.
type Proxy struct {
	cfg        Config
	workers    []*worker
	view       atomic.Pointer[view]
	splits     splits
	mirrored   splits // requests of each rule, where a mirror takes a share
	handshakes *loop.Handshakes
	outward    *loop.Handshakes // with endpoints: those of clients must not push them out
	certs      certificates
	conns      atomic.Int64 // of clients, over all loops
	most       int          // of conns, whatever is configured
	files      *loop.Files
	started    time.Time       // the moment 0 of the loops
	quics      sync.WaitGroup  // servers of HTTP/3 that are ending
	life       context.Context // of those: until end is called
	end        context.CancelFunc

	mu      sync.Mutex // guards sockets
	sockets map[string]*socket
}

// view is what a request needs: one plan and the living side of it.
type view struct {
	plan     *plan.Plan
	up       *upstream.View
	settings *plan.Settings
	sealer   *session.Sealer // of sessions' tokens; nil without a key
	draining bool
	tracing  []*tracing // by slot of the plan's Tracings
}

// socket is one bound address, over all loops.
type socket struct {
	name      string
	addr      netip.AddrPort
	class     plan.Class
	tls       *tlsSide    // nil in cleartext
	streams   *tls.Config // beside tls: for connections that are not HTTP
	leaving   atomic.Bool // it is being shut
	shared    atomic.Bool // who makes the handshake depends on the server name
	listeners []*loop.Listener
	counts    []*telemetry.Socket // each used by its loop alone
	udp       []*udpSide

	quic atomic.Pointer[h3.Server] // of HTTP/3; nil for none
	alt  atomic.Pointer[[]byte]    // what answers over TCP say of it
}

// Problem is what kept a part of a plan from taking effect.
type Problem struct {
	Socket string // name of the Socket key
	Err    error
	Partly bool // the socket is served all the same, but not over QUIC
}

// New makes a proxy and its event loops; Run runs them.
func New(cfg Config) (*Proxy, error) {
	p := &Proxy{cfg: cfg, sockets: map[string]*socket{}, started: time.Now()}
	all, clients := mostFiles()
	p.most, p.files = clients, loop.NewFiles(all)
	p.handshakes = loop.NewHandshakes(max(cfg.Loops, 1), 4096)
	p.life, p.end = context.WithCancel(context.Background())
	p.outward = loop.NewHandshakes(max(cfg.Loops, 1), 4096)
	empty, _ := plan.NewBuilder().Apply(nil, nil)
	p.view.Store(&view{plan: empty, settings: empty.Settings()})
	for range max(cfg.Loops, 1) {
		w, err := newWorker(p, p.started)
		if err != nil {
			return nil, err
		}
		w.at = len(p.workers)
		p.workers = append(p.workers, w)
	}
	return p, nil
}

// Run runs the event loops until ctx ends, and returns when they have stopped.
// Drain first to let requests end.
func (p *Proxy) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, len(p.workers))
	for i, w := range p.workers {
		wg.Go(func() {
			defer cancel()
			errs[i] = w.loop.Run(ctx)
		})
	}
	wg.Wait()
	p.endQUIC()
	for i, w := range p.workers {
		p.cfg.Hub.Detach(w.tel)
		if errs[i] != nil {
			return fmt.Errorf("event loop %d: %w", i, errs[i])
		}
	}
	return nil
}

// Use takes up a plan with its upstream view. New sockets are bound before, and
// accept and gone ones are closed after, requests see the plan. Sockets that cannot be bound
// are returned; the rest of the plan takes effect, and the next Use tries them
// again. It is called by one goroutine, after Run has begun.
func (p *Proxy) Use(next *plan.Plan, up *upstream.View) []Problem {
	var problems []Problem
	wanted := map[string]bool{}
	p.splits.grow(next)
	p.mirrored.grow(next)
	var begin []func()
	for _, b := range next.Sockets() {
		wanted[b.Name] = true
		accept, err := p.open(b)
		if err != nil {
			problems = append(problems, Problem{Socket: b.Name, Err: err})
			continue
		}
		begin = append(begin, accept)
	}
	was := p.view.Load()
	v := &view{plan: next, up: up, settings: next.Settings(), draining: was.draining, tracing: tracings(next, was.tracing)}
	if sealer, err := session.New(v.settings.SessionKey); err == nil {
		v.sealer = sealer
	}
	p.view.Store(v)
	p.everywhere(func(w *worker) { w.use(v) })
	for _, accept := range begin {
		accept()
	}
	problems = append(problems, p.useQUIC(v)...)
	p.mu.Lock()
	var gone []*socket
	for name, s := range p.sockets {
		if s.tls != nil && wanted[name] {
			s.tls.checks.keep(next.Bound(name))
		}
		if !wanted[name] {
			gone = append(gone, s)
			delete(p.sockets, name)
		}
	}
	p.mu.Unlock()
	for _, s := range gone {
		p.shut(s)
	}
	return problems
}

// Refresh takes up a new upstream view of the plan in use.
func (p *Proxy) Refresh(up *upstream.View) {
	old := p.view.Load()
	v := &view{plan: old.plan, up: up, settings: old.settings, sealer: old.sealer, draining: old.draining, tracing: old.tracing}
	p.view.Store(v)
	p.everywhere(func(w *worker) { w.use(v) })
}

// open binds a socket for every loop, unless it is bound. It gives what has the
// loops accept on it.
func (p *Proxy) open(b *plan.Bound) (accept func(), err error) {
	p.mu.Lock()
	old := p.sockets[b.Name]
	ours := p.hasPort(b.Addr.Port(), b.UDP)
	p.mu.Unlock()
	class := classOf(b, old)
	if old != nil && old.class == class {
		old.shared.Store(b.Streams)
		return func() {}, nil
	}
	s := &socket{name: b.Name, addr: b.Addr, class: class, listeners: make([]*loop.Listener, len(p.workers)), counts: make([]*telemetry.Socket, len(p.workers)), udp: make([]*udpSide, len(p.workers))}
	if b.TLS {
		s.tls = p.newTLS(b.Name)
		s.streams = forStreams(s.tls.config)
		s.shared.Store(b.Streams)
	}
	fds, err := p.bind(b, ours)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.sockets[b.Name] = s
	p.mu.Unlock()
	return func() {
		p.accept(s, fds)
		if old != nil {
			p.shut(old) // the same address changed its class
		}
	}, nil
}

// bind opens a socket at an address for every loop; ours says that this proxy
// has the port already.
func (p *Proxy) bind(b *plan.Bound, ours bool) ([]int, error) {
	bind, free := loop.Bind, loop.Free
	if b.UDP {
		bind, free = loop.BindUDP, loop.FreeUDP
	}
	if !ours {
		if err := free(b.Addr); err != nil && !p.shares(b, err) {
			return nil, err
		}
	}
	fds := make([]int, 0, len(p.workers))
	for range p.workers {
		fd, err := bind(b.Addr)
		if err != nil {
			for _, fd := range fds {
				closeFD(fd)
			}
			return nil, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// accept has the loops serve a bound socket.
func (p *Proxy) accept(s *socket, fds []int) {
	for i, w := range p.workers {
		p.on(w, func() {
			if s.class == plan.ClassUDP {
				s.udp[i] = w.listenUDP(s, fds[i])
			} else {
				s.listeners[i] = w.listen(s, fds[i])
			}
		})
	}
}

// shares says whether an address that is not free is bound all the same.
func (p *Proxy) shares(b *plan.Bound, err error) bool {
	return errors.Is(err, unix.EADDRINUSE) && p.cfg.Share != nil && p.cfg.Share(b.Addr, b.UDP)
}

// classOf is what a socket is bound as. One without listeners stays what it was.
func classOf(b *plan.Bound, old *socket) plan.Class {
	switch {
	case b.UDP:
		return plan.ClassUDP
	case b.Class != 0:
		return b.Class
	case old != nil:
		return old.class
	}
	return plan.ClassHTTP
}

// hasPort says whether a socket of this proxy has the port, at any address: one
// at all addresses and one at a single address go together. The caller holds
// p.mu.
func (p *Proxy) hasPort(port uint16, udp bool) bool {
	for _, s := range p.sockets {
		if s.addr.Port() == port && (s.class == plan.ClassUDP) == udp {
			return true
		}
	}
	return false
}

// shut closes a socket on every loop; its connections finish what is in flight.
func (p *Proxy) shut(s *socket) {
	s.leaving.Store(true)
	p.shutQUIC(s)
	for i, w := range p.workers {
		p.on(w, func() {
			if ln := s.listeners[i]; ln != nil {
				ln.Close()
			}
			if u := s.udp[i]; u != nil {
				u.leave()
			}
			w.lameDuck(s)
		})
	}
}

// everywhere runs f on every loop and waits for it.
func (p *Proxy) everywhere(f func(w *worker)) {
	for _, w := range p.workers {
		p.on(w, func() { f(w) })
	}
}

// on runs f on the loop of w and waits until it has run. If the loop has ended,
// there is nothing left to do.
func (p *Proxy) on(w *worker, f func()) {
	done := make(chan struct{})
	if w.loop.Post(func() { defer close(done); f() }) == nil {
		<-done
	}
}

// Drain stops accepting, lets what is in flight end, for DrainTimeout at most,
// and returns. Answers ask clients to leave; connections that say nothing are
// closed after a moment in which a request on its way is still served.
func (p *Proxy) Drain(ctx context.Context) {
	old := p.view.Load()
	v := *old
	v.draining = true
	p.view.Store(&v)
	p.everywhere(func(w *worker) { w.use(&v) })
	p.mu.Lock()
	open := p.sockets
	p.sockets = map[string]*socket{}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, v.settings.DrainTimeout)
	defer cancel()
	p.yield(ctx, open)
	for _, s := range open {
		p.shut(s)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for p.conns.Load() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// yieldTime is how long connections whose handshake is under way may take to
// stand, before the socket that they are meant for is closed.
const yieldTime = 100 * time.Millisecond

// yield has new connections go to a successor, and waits until those that were
// on their way have come: closing a socket resets them.
func (p *Proxy) yield(ctx context.Context, open map[string]*socket) {
	for _, s := range open {
		p.on(p.workers[0], func() {
			if ln := s.listeners[0]; ln != nil {
				_ = ln.Yield(len(p.workers)) // without, some may be reset
			}
		})
	}
	ctx, cancel := context.WithTimeout(ctx, yieldTime)
	defer cancel()
	<-ctx.Done()
}

// Services calls yield with the load of each service of the plan in use: requests
// in flight, endpoints, and how many of those are left out.
func (p *Proxy) Services(yield func(name string, active, endpoints, out int)) {
	v := p.view.Load()
	now := int64(time.Since(p.started))
	for slot := range v.plan.Services() {
		if s := v.up.Service(slot); s != nil {
			active, endpoints, out := s.Load(now)
			yield(s.Name, active, endpoints, out)
		}
	}
}

// Short has new requests and connections below HTTP refused for a reason, since
// there is no memory for them; "" has them served again. What is in flight goes
// on: its buffers are bounded.
func (p *Proxy) Short(reason string) {
	p.everywhere(func(w *worker) { w.short = reason })
}

// Connections is how many clients are connected.
func (p *Proxy) Connections() int { return int(p.conns.Load()) }

func (p *Proxy) panicked(v any) {
	p.cfg.Log("a connection was ended because of a mistake in windrose", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
}

// splits holds, for each rule of the plan, how many of its requests were given
// to a backend. It outlives plans, so that a split goes on where it was; all
// loops count together, which is what makes it exact.
type splits struct {
	chunks atomic.Pointer[[]*splitChunk]
}

const chunkRules = 256

type splitChunk [chunkRules]atomic.Uint64

// grow makes room for the rules of a plan. Requests of older plans use the same
// counters.
func (s *splits) grow(p *plan.Plan) {
	var old []*splitChunk
	if c := s.chunks.Load(); c != nil {
		old = *c
	}
	n := (p.RuleSlots() + chunkRules - 1) / chunkRules
	if n <= len(old) {
		return
	}
	next := append(make([]*splitChunk, 0, n), old...)
	for len(next) < n {
		next = append(next, new(splitChunk))
	}
	s.chunks.Store(&next)
}

// next takes the next position of a rule's split.
func (s *splits) next(slot int) uint64 {
	chunks := *s.chunks.Load()
	return chunks[slot/chunkRules][slot%chunkRules].Add(1) - 1
}
