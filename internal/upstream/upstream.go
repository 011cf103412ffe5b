// Package upstream is the living state behind the services of a plan: which
// endpoints there are, how busy and how fast each one is, which are left out
// for a while because they refused, and the addresses of external names.
//
// A Table outlives plans: an endpoint keeps its state from plan to plan for as
// long as some service names it. Use makes an immutable View of a plan, which
// event loops read without locks; an Endpoint's own counters are atomics,
// shared by all loops. Connections are not kept here: every loop pools its own.
package upstream

import (
	"crypto/tls"
	"math/bits"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"windrose.dev/windrose/internal/plan"
)

// View is the living side of one plan.
type View struct {
	services []*Service
}

// Service gives the service in a slot of the plan; nil if the slot is empty.
func (v *View) Service(slot int) *Service {
	if v == nil || slot < 0 || slot >= len(v.services) {
		return nil
	}
	return v.services[slot]
}

// Service is one service with its endpoints. It is immutable; what changes are
// its endpoints' counters and its cursor.
type Service struct {
	Name      string
	Protocol  plan.Protocol
	Session   *plan.Session // nil without; it is safe
	Budget    *Budget       // of retries; nil without one of its own
	balance   plan.Balance
	endpoints []*Endpoint
	draining  []*Endpoint
	cursor    *atomic.Uint64 // round robin; outlives the Service
	faces     []face         // of a service under TLS, as some listeners reach it
}

// For is the service as connections of a listener reach it: they may show a
// certificate of their own, or be under TLS already. Those that show different
// certificates have nothing in common, neither connections nor TLS sessions.
func (s *Service) For(l *plan.BoundListener) *Service {
	if s == nil || s.faces == nil || !l.Passthrough && l.Shows == nil {
		return s
	}
	for i := range s.faces {
		if f := &s.faces[i]; f.plain && l.Passthrough || !l.Passthrough && f.shown != nil && f.shown == l.Shows {
			return f.svc
		}
	}
	return s
}

// Endpoints are the endpoints, in the plan's order. The slice must not be
// changed.
func (s *Service) Endpoints() []*Endpoint { return s.endpoints }

// Load is how many requests are in flight to the service, how many endpoints it
// has, and how many of them are left out at the moment now. An endpoint that
// another service names too counts with the requests of both.
func (s *Service) Load(now int64) (active, endpoints, out int) {
	count := func(svc *Service) {
		for _, list := range [2][]*Endpoint{svc.endpoints, svc.draining} {
			for _, e := range list {
				active += e.Active()
			}
		}
	}
	count(s)
	for _, e := range s.endpoints {
		if e.Down(now) {
			out++
		}
	}
	for i := range s.faces {
		if svc := s.faces[i].svc; svc != s {
			count(svc)
		}
	}
	return active, len(s.endpoints), out
}

// Find gives the endpoint with an address, also one that is draining; nil if there
// is none.
func (s *Service) Find(addr netip.AddrPort) *Endpoint {
	for _, list := range [2][]*Endpoint{s.endpoints, s.draining} {
		for _, e := range list {
			if e.Addr == addr {
				return e
			}
		}
	}
	return nil
}

// Endpoint is one address that is spoken to. Services that name the same
// address in the same protocol, and believe the same certificates there, share
// it, and with it what was learned.
type Endpoint struct {
	Addr netip.AddrPort
	Name string      // of the workload or pod, from the service that named it first
	TLS  *tls.Config // of connections to it; nil in cleartext

	key     address
	active  atomic.Int32 // requests in flight, over all loops
	latency atomic.Int64 // moving average to the answer's headers, nanoseconds
	seen    atomic.Int64 // when latency was last updated
	down    atomic.Int64 // left out until then; 0: in
	fails   atomic.Int32 // refusals in a row
	gone    atomic.Bool  // no service names it any more
	refs    int          // services that name it; Table's
}

// Gone says whether no service names the endpoint any more: connections to it
// are not kept.
func (e *Endpoint) Gone() bool { return e.gone.Load() }

// Active is the number of requests in flight to it.
func (e *Endpoint) Active() int { return int(e.active.Load()) }

// Down says whether it is left out at the moment now.
func (e *Endpoint) Down(now int64) bool { return e.down.Load() > now }

// Begin counts a request in flight. Every Begin is followed by one End.
func (e *Endpoint) Begin() { e.active.Add(1) }

// End gives back what Begin took.
func (e *Endpoint) End() { e.active.Add(-1) }

// Answered tells that the endpoint answered after so many nanoseconds.
func (e *Endpoint) Answered(now, nanos int64) {
	if e.fails.Load() != 0 {
		e.fails.Store(0)
		e.down.Store(0)
	}
	// Two loops may overwrite each other's sample: it is an average.
	old := e.decayed(now)
	if nanos > old {
		e.latency.Store((old + nanos) / 2) // rises fast, falls slowly
	} else {
		e.latency.Store(old - (old-nanos)/8)
	}
	e.seen.Store(now)
}

const (
	firstOut = int64(time.Second)
	longOut  = int64(30 * time.Second)
	// halfLife is how long it takes for a slow endpoint that gets no requests to
	// look half as slow, so that it is tried again.
	halfLife = int64(5 * time.Second)
	// What a request without an answer counts as, first and at most.
	firstFailed = int64(10 * time.Millisecond)
	longFailed  = int64(10 * time.Second)
)

// Refused tells that no connection could be made: the endpoint is left out at
// once, for 1 s, then 2 s, up to 30 s.
func (e *Endpoint) Refused(now int64) {
	n := e.fails.Add(1)
	e.down.Store(now + min(firstOut<<min(n-1, 10), longOut))
}

// Failed tells that a request had no answer: the endpoint broke off, spoke
// nonsense or took too long. It looks slower each time, or else the one that
// fails the fastest would be asked the most. Answers make up for it.
func (e *Endpoint) Failed(now int64) {
	e.latency.Store(min(max(2*e.decayed(now), firstFailed), longFailed))
	e.seen.Store(now)
}

// Connected tells that a connection was made: the endpoint is in again.
func (e *Endpoint) Connected() {
	if e.fails.Load() != 0 {
		e.fails.Store(0)
		e.down.Store(0)
	}
}

func (e *Endpoint) decayed(now int64) int64 {
	age := now - e.seen.Load()
	if age < halfLife {
		return e.latency.Load()
	}
	return e.latency.Load() >> min(age/halfLife, 62)
}

func (e *Endpoint) cost(now int64) uint64 {
	hi, lo := bits.Mul64(uint64(e.decayed(now)+int64(50*time.Microsecond)), uint64(max(e.active.Load(), 0)+1))
	if hi != 0 {
		return ^uint64(0)
	}
	return lo
}

// usable says whether e may be picked, and takes the right to try an endpoint
// whose time out has ended: one request at a time does.
func (e *Endpoint) usable(now int64) bool {
	down := e.down.Load()
	if down == 0 {
		return true
	}
	return down <= now && e.down.CompareAndSwap(down, now+firstOut)
}

// Pick chooses an endpoint for a request: none of tried, none that is left
// out, unless no other is there. random is a random number. It returns nil if
// every endpoint was tried, or there is none.
func (s *Service) Pick(now int64, random uint64, tried []*Endpoint) *Endpoint {
	n := len(s.endpoints)
	switch {
	case n == 0:
		return nil
	case n == 1 && len(tried) == 0:
		return s.endpoints[0]
	case s.balance == plan.RoundRobin:
		return s.scan(now, int((s.cursor.Add(1)-1)%uint64(n)), tried)
	}
	i := int(uint32(random) % uint32(n))
	if n == 1 {
		return s.scan(now, i, tried)
	}
	j := int(uint32(random>>32) % uint32(n-1))
	if j >= i {
		j++
	}
	a, b := s.endpoints[i], s.endpoints[j]
	if b.cost(now) < a.cost(now) {
		a, b = b, a
	}
	for _, e := range [2]*Endpoint{a, b} {
		if !slices.Contains(tried, e) && e.usable(now) {
			return e
		}
	}
	return s.scan(now, i, tried)
}

// scan takes the first usable endpoint from start on, or else the one that has
// been left out the longest.
func (s *Service) scan(now int64, start int, tried []*Endpoint) *Endpoint {
	var last *Endpoint
	for i := range s.endpoints {
		e := s.endpoints[(start+i)%len(s.endpoints)]
		if slices.Contains(tried, e) {
			continue
		}
		if e.usable(now) {
			return e
		}
		if last == nil || e.down.Load() < last.down.Load() {
			last = e
		}
	}
	return last
}
