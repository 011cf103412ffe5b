package telemetry

import (
	"time"

	"windrose.dev/windrose/internal/record"
)

// Counts are what an event loop counts besides its records: it changes the
// fields itself. The gauges go up and down.
type Counts struct {
	RequestsActive int64 // gauge: requests between their head and their record
	TunnelsActive  int64 // gauge: upgraded connections

	UpstreamActive  int64  // gauge: open upstream connections, idle ones included
	UpstreamIdle    int64  // gauge: upstream connections in pools
	UpstreamOpened  uint64 // upstream connections that were established
	UpstreamReused  uint64 // requests that took a pooled connection
	UpstreamFailed  uint64 // attempts to connect that failed
	MirrorsAnswered uint64 // copies of requests that a mirror answered
	MirrorsFailed   uint64 // copies that no mirror answered
	MirrorsDropped  uint64 // copies that were not sent: too large, too many, or not whole
	Handed          uint64 // connections that were accepted and given to another loop
	AuthAllowed     uint64 // answers of authorisers: yes
	AuthDenied      uint64 // no
	AuthFailed      uint64 // none, or none that can be used
	RetriesDenied   uint64 // retries that a rule asks for and the service's budget refused
	CutProtocol     uint64 // clients' connections ended because they broke HTTP/2's rules or flooded
	CutSlow         uint64 // and because they did not begin in time
	CutRoom         uint64 // and because they waited when others came and a limit was met

	Panics uint64 // panics that cost one connection
}

// Socket counts the connections of one listening socket on one loop.
type Socket struct {
	Active   int64  // gauge
	Accepted uint64 // connections accepted
	Refused  uint64 // of those, closed at once because a limit was met

	gone bool // no longer in the plan: forgotten with its last connection
}

// maxSockets bounds the sockets that one loop counts apart.
const maxSockets = 1024

// numFlags is one more than the last flag.
const numFlags = int(record.Internal) + 1

// Loop takes the records of one event loop. Only that event loop may use it,
// and only between Hub.Attach and Hub.Detach.
type Loop struct {
	Counts

	// Watch is told of each record, unless it is nil. It must keep nothing of it,
	// and not block.
	Watch func(*record.Record)

	routes   table
	services table
	sockets  map[string]*Socket
	fixed    fixed

	logging  Logging
	skipped  int // since the last request that was sampled
	log      *Log
	lines    *lines
	deadline time.Time // when lines must be flushed; zero: not set yet
	stamp    stamp
	traces   *Traces // nil: no spans
	tracers  []*Tracer
}

// fixed are the counters of a loop whose number does not depend on the plan.
// They only grow, so a fold copies them.
type fixed struct {
	faults       [numFlags]uint64
	handshakes   [numHandshakes]uint64 // of clients
	outward      [numHandshakes]uint64 // with endpoints
	bytesIn      uint64
	bytesOut     uint64
	retries      uint64
	turns        histogram
	dropped      uint64 // lines of the access log
	spansDropped uint64 // spans that found no room in the queue
}

// newLoop makes a Loop that writes its lines to log, which may be nil.
func newLoop(log *Log, traces *Traces) *Loop {
	return &Loop{sockets: make(map[string]*Socket), log: log, traces: traces, lines: new(lines)}
}

// Use sets which requests are logged. The event loop calls it when it takes up
// a plan.
func (l *Loop) Use(g Logging) { l.logging = g }

// Socket gives the counters of the listening socket with the given key. The
// caller keeps them as long as the socket or a connection of it.
func (l *Loop) Socket(name string) *Socket {
	s := l.sockets[name]
	if s == nil && len(l.sockets) >= maxSockets {
		name = nameOther
		s = l.sockets[name]
	}
	if s == nil {
		s = new(Socket)
		l.sockets[name] = s
	}
	s.gone = false
	return s
}

// Outward counts a TLS handshake with an endpoint.
func (l *Loop) Outward(h Handshake) {
	if int(h) < numHandshakes {
		l.fixed.outward[h]++
	}
}

// Handshake counts a TLS handshake of a client.
func (l *Loop) Handshake(h Handshake) {
	if int(h) < numHandshakes {
		l.fixed.handshakes[h]++
	}
}

// Turn counts a turn of the event loop that was busy for the given time.
func (l *Loop) Turn(busy time.Duration) { l.fixed.turns.observe(busy) }

// Emit counts a record and writes its line. It keeps nothing of r, and does not
// block.
func (l *Loop) Emit(r *record.Record) {
	name := r.Route
	if name == "" {
		l.routes.at(-1, nameNone).count(r.Status, r.Duration)
	} else {
		l.routes.at(r.RuleSlot, name).count(r.Status, r.Duration)
	}
	if r.Service != "" {
		c := l.services.at(r.ServiceSlot, r.Service)
		c.answer(r.Status)
		if r.Upstream > 0 {
			c.times.observe(r.Upstream)
		}
	}
	f := &l.fixed
	if int(r.Fault) < numFlags {
		f.faults[r.Fault]++
	}
	f.bytesIn += uint64(max(r.BytesIn, 0))
	f.bytesOut += uint64(max(r.BytesOut, 0))
	if r.Attempts > 1 {
		f.retries += uint64(r.Attempts - 1)
	}
	if l.logs(r) {
		l.write(r)
	}
	if l.Watch != nil {
		l.Watch(r)
	}
}

func (t *tally) count(status int, d time.Duration) {
	t.answer(status)
	t.times.observe(d)
}

// drop forgets what left the plan.
func (l *Loop) drop(gone Names) {
	if len(gone.Routes) > 0 {
		l.routes.drop(gone.Routes)
	}
	if len(gone.Services) > 0 {
		l.services.drop(gone.Services)
	}
	for _, name := range gone.Sockets {
		if s := l.sockets[name]; s != nil {
			s.gone = true
		}
	}
}
