package proxy

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/h2"
	"windrose.dev/windrose/internal/loop"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/telemetry"
	"windrose.dev/windrose/internal/upstream"
)

// worker is the part of the proxy that lives on one loop.
type worker struct {
	proxy *Proxy
	at    int // in proxy.workers
	loop  *loop.Loop
	tel   *telemetry.Loop
	view  *view
	ids   *telemetry.IDs
	rng   *rand.PCG

	// Parsed heads and matching are done with before the handler returns, so all
	// connections share one of each.
	req   *h1.Request  // the request that begins
	resp  *h1.Response // the answer's head that came
	req1  h1.Request   // where HTTP/1 heads are parsed
	resp1 h1.Response
	after []byte      // what came with a request's head, while its exchange begins
	again h1.Request  // a head of ours, read again for HTTP/2
	ours  h1.Response // an answer of windrose's own
	match plan.Request
	path  []byte // normalised
	up    []byte // what is put together for one write to an endpoint
	down  []byte // and to a client
	text  []byte // of faults
	own   []byte // values of fields of windrose's own answers
	reply reply

	preflight plan.Preflight // that is being answered
	budgets   []*budget      // of retries, by service slot

	h2scratch *h2.Scratch
	h2in      []byte    // what clients' HTTP/2 connections are read into
	h2out     []byte    // and endpoints'
	dirty     []flusher // connections to flush at the end of the turn
	h2streams store[h2stream]
	h2calls   store[h2call]

	pools     map[*upstream.Endpoint]*pool
	h2pools   map[*upstream.Endpoint][]*h2server
	spare     []*exchange
	copies    int    // exchanges that are copies for mirrors
	short     string // why new requests are not served, for want of memory; "" if they are
	gated     int    // bytes of requests that wait for their authorisers
	clients   clientList
	streams   streamList
	h3streams h3list
	udp       []*udpSide
	spliced   uint64              // bytes of streams that never came to the process
	flush     loop.Timer          // of the access log and spans
	tracers   []*telemetry.Tracer // by slot of the plan's Tracings
	traced    []string            // their names
	shaken    int                 // TLS handshakes
	held      atomic.Int64        // connections of clients, those on their way here included; others look at it
}

// churnHandshakes is how many TLS handshakes are worth a word to Config.Churn:
// they leave some 100 KiB of garbage each.
const churnHandshakes = 64

// countHandshake notes the end of a TLS handshake.
func (w *worker) countHandshake() {
	if w.shaken++; w.shaken%churnHandshakes == 0 && w.proxy.cfg.Churn != nil {
		w.proxy.cfg.Churn()
	}
}

// maxSpare is how many exchanges a loop keeps for reuse.
const maxSpare = 256

func newWorker(p *Proxy, start time.Time) (*worker, error) {
	w := &worker{
		proxy: p,
		view:  p.view.Load(),
		ids:   telemetry.NewIDs(),
		rng:   rand.NewPCG(rand.Uint64(), rand.Uint64()),
		pools: map[*upstream.Endpoint]*pool{}, h2pools: map[*upstream.Endpoint][]*h2server{},
	}
	l, err := loop.New(loop.Config{
		Start: start, Turn: w.turn, End: w.end, Files: p.files,
		Panicked: func(v any) { w.tel.Panics++; p.panicked(v) },
	})
	if err != nil {
		return nil, err
	}
	w.loop = l
	w.req, w.resp = &w.req1, &w.resp1
	w.flush.F = func() {}
	w.match.Header = w.header
	w.tel = p.cfg.Hub.Attach(l.Post)
	w.clients.init()
	w.streams.init()
	return w, nil
}

// store keeps what many requests need one of, for the next that do. What is given
// back is used again from the next turn on: in this one somebody may still look
// at it.
type store[T any] struct{ free, given []*T }

func (s *store[T]) take() *T {
	n := len(s.free)
	if n == 0 {
		return new(T)
	}
	v := s.free[n-1]
	s.free = s.free[:n-1]
	return v
}

func (s *store[T]) give(v *T) { s.given = append(s.given, v) }

// settle is called at the end of a turn.
func (s *store[T]) settle() {
	for i, v := range s.given {
		s.given[i] = nil
		if len(s.free) < maxSpare {
			*v = *new(T)
			s.free = append(s.free, v)
		}
	}
	if s.given = s.given[:0]; cap(s.given) > maxSpare {
		s.given = nil
	}
}

// flusher is a connection that gathers what it writes in a turn.
type flusher interface{ turnEnd() }

// turn is called at the end of each turn of the loop.
func (w *worker) turn(busy time.Duration) {
	for len(w.dirty) > 0 { // flushing may have others write
		f := w.dirty[len(w.dirty)-1]
		w.dirty = w.dirty[:len(w.dirty)-1]
		f.turnEnd()
	}
	w.h2streams.settle()
	w.h2calls.settle()
	w.tel.Turn(busy)
	if wait := w.tel.Tick(w.loop.Wall()); wait > 0 && !w.flush.Armed() {
		w.loop.Arm(&w.flush, w.loop.Now()+int64(wait))
	}
}

// end is called when the loop ends: what is still open is cut off, each request
// with its record.
func (w *worker) end() {
	w.clients.each((*client).cut)
	w.streams.each((*stream).cut)
	w.h3streams.each(func(s *h3stream) { s.x.cut() })
	for _, u := range slices.Clone(w.udp) {
		u.close()
	}
	w.tel.Flush()
}

// use takes up a view, and lets go of what it does not name.
func (w *worker) use(v *view) {
	old := w.view
	w.view = v
	w.recheck(old.plan, v.plan)
	log := v.settings.AccessLog
	w.useTracers()
	w.tel.Use(telemetry.Logging{Mode: telemetry.LogMode(log.Mode), Every: log.Every})
	for e, list := range w.h2pools {
		if e.Gone() {
			for _, s := range slices.Clone(list) {
				s.leaving = true
				s.rest()
			}
		}
	}
	for e, p := range w.pools {
		if e.Gone() {
			p.closeIdle()
			if p.idle == nil {
				delete(w.pools, e)
			}
		}
	}
}

// tellEvery is how often the log is told of what goes wrong again and again.
const tellEvery = int64(10 * time.Second)

// full says that there is no room for another client, which takes a descriptor.
func (w *worker) full() bool {
	return w.proxy.full(w.view.settings) || w.proxy.files.Full(toldFiles)
}

// maxSearch bounds the look for a connection that makes room, and maxPeeks how
// many of those found are looked at whether they have just begun to speak.
const (
	maxSearch = 1024
	maxPeeks  = 16
)

// makeRoom closes the oldest connection that waits for its client: somebody
// who holds all connections and asks nothing must not keep others out. It says
// whether there was one.
func (w *worker) makeRoom() bool {
	c := w.clients.head.next
	peeks := 0
	for range maxSearch {
		if c == &w.clients.head || peeks == maxPeeks {
			return false
		}
		if c.unused() {
			if peeks++; c.conn.Silent() {
				w.tel.CutRoom++
				c.close()
				return true
			}
		}
		c = c.next
	}
	return false
}

// keptFiles are the descriptors that traffic leaves to the process itself: the
// plan stream and its store, scrapes, probes, sockets of listeners.
const keptFiles = 40

// toldFiles of them are for clients who are told that they cannot be served.
const toldFiles = 8

// mostFiles is how many descriptors traffic may take, and how many of them
// clients, so that some are left for endpoints.
func mostFiles() (all, clients int) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > 1<<30 {
		return math.MaxInt, math.MaxInt
	}
	return max(int(limit.Cur)-keptFiles, 2), max(int(limit.Cur)*3/4-keptFiles, 1)
}

// lameDuckTime is how long a connection that says nothing is kept when it
// should go, so that a request that is on its way is answered and not cut off.
const lameDuckTime = int64(time.Second)

// lameDuck has the connections of a socket leave when they can.
func (w *worker) lameDuck(s *socket) {
	deadline := w.loop.Now() + int64(w.view.settings.DrainTimeout)
	w.clients.each(func(c *client) {
		if c.sock == s {
			c.leave(w.loop.Now()+lameDuckTime, deadline)
		}
	})
	w.streams.each(func(st *stream) {
		if st.sock == s {
			st.leave(deadline)
		}
	})
	w.h3streams.each(func(st *h3stream) {
		if st.m.sock == s && st.x != nil {
			st.x.hurry(deadline)
		}
	})
}

// dial starts a connection to an endpoint. Where there is no descriptor for it,
// connections that wait in pools give up theirs.
func (w *worker) dial(c *loop.Conn, addr netip.AddrPort, h loop.Handler) error {
	err := w.loop.Dial(c, addr, h)
	if err == nil || !exhausted(err) || !w.dropIdle() {
		return err
	}
	return w.loop.Dial(c, addr, h)
}

// dropIdle closes the connections to endpoints that wait in this loop's pools;
// it says whether there were any.
func (w *worker) dropIdle() bool {
	if w.tel.UpstreamIdle == 0 {
		return false
	}
	for _, p := range w.pools {
		p.closeIdle()
	}
	return true
}

func (w *worker) exchange() *exchange {
	if n := len(w.spare); n > 0 {
		x := w.spare[n-1]
		w.spare = w.spare[:n-1]
		return x
	}
	x := &exchange{w: w}
	x.timer.F = x.expired
	return x
}

func (w *worker) recycle(x *exchange) {
	if x.shadow {
		w.copies--
	}
	x.reset()
	if len(w.spare) < maxSpare {
		w.spare = append(w.spare, x)
	}
}

// header looks up a request header for matching.
func (w *worker) header(name string) ([]byte, bool) { return lookup(w.req.Fields, name, &w.text) }

func (w *worker) limits() h1.Limits {
	s := w.view.settings
	return h1.Limits{HeadBytes: s.MaxHeaderBytes, TargetBytes: s.MaxURIBytes, Fields: s.MaxHeaders}
}

func closeFD(fd int) { _ = unix.Close(fd) }

// clientList is the clients of a loop, so that they can be asked to leave.
type clientList struct{ head client }

func (l *clientList) init() { l.head.next, l.head.prev = &l.head, &l.head }

func (l *clientList) add(c *client) {
	c.next, c.prev = &l.head, l.head.prev
	l.head.prev.next, l.head.prev = c, c
}

func (l *clientList) remove(c *client) {
	c.prev.next, c.next.prev = c.next, c.prev
	c.next, c.prev = nil, nil
}

// each calls f for every client; f may remove the one it is given.
func (l *clientList) each(f func(*client)) {
	for c := l.head.next; c != &l.head; {
		next := c.next
		f(c)
		c = next
	}
}
