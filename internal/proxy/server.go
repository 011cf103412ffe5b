package proxy

import (
	"windrose.dev/windrose/internal/loop"
	"windrose.dev/windrose/internal/upstream"
)

// server is a connection to an endpoint: in use by one exchange, or idle in the
// pool of its loop.
type server struct {
	w        *worker
	conn     loop.Conn
	endpoint *upstream.Endpoint
	x        *exchange // nil while idle
	in       []byte    // the beginning of a head
	seen     int
	stands   bool       // the connection was made
	reused   bool       // it has carried another exchange
	taken    int64      // the turn in which the present exchange got it
	timer    loop.Timer // connecting, or idle

	next, prev *server // in the pool
}

// pool holds the idle connections of a loop to one endpoint, newest first: the
// newest is the least likely to be closed by the endpoint.
type pool struct {
	idle *server
	size int
}

// take gives an idle connection. With sure, one that the endpoint has neither
// closed nor said something on, as far as the kernel knows: for a request that
// cannot be sent twice.
func (p *pool) take(sure bool) *server {
	for p != nil && p.idle != nil {
		s := p.idle
		p.unlink(s)
		if sure && !s.conn.Silent() {
			s.close()
			continue
		}
		s.w.loop.Stop(&s.timer)
		s.reused = true
		return s
	}
	return nil
}

func (p *pool) unlink(s *server) {
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		p.idle = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	}
	s.next, s.prev = nil, nil
	p.size--
	s.w.tel.UpstreamIdle--
}

func (p *pool) closeIdle() {
	for p.idle != nil {
		s := p.idle
		p.unlink(s)
		s.close()
	}
}

// connect gives a connection to e for an exchange: a pooled one, or a new one
// that may not stand yet.
func (w *worker) connect(x *exchange, e *upstream.Endpoint) (*server, error) {
	// Where one pooled connection turned out closed, the others may be too.
	if !x.raced {
		if s := w.pools[e].take(!x.idempotent); s != nil {
			s.x, s.taken = x, w.loop.Now()
			w.tel.UpstreamReused++
			return s, nil
		}
	}
	s := &server{w: w, endpoint: e, x: x}
	s.timer.F = s.expired
	if err := w.loop.Dial(&s.conn, e.Addr, s); err != nil {
		w.tel.UpstreamFailed++
		return nil, err
	}
	w.tel.UpstreamActive++
	w.loop.Arm(&s.timer, w.loop.Now()+int64(w.view.settings.ConnectTimeout))
	return s, nil
}

// release puts a connection whose exchange has ended well into the pool.
func (s *server) release() {
	w := s.w
	s.x = nil
	p := w.pools[s.endpoint]
	full := p != nil && p.size >= w.view.settings.MaxUpstreamIdle
	// What is left unread would be taken for the next answer.
	unread := s.conn.Readable() && !s.conn.Silent()
	if full || unread || s.endpoint.Gone() || s.conn.Hangup() || s.conn.Buffered() > 0 {
		s.close()
		return
	}
	if p == nil {
		p = &pool{}
		w.pools[s.endpoint] = p
	}
	s.next = p.idle
	if p.idle != nil {
		p.idle.prev = s
	}
	p.idle = s
	p.size++
	w.tel.UpstreamIdle++
	w.loop.Arm(&s.timer, w.loop.Now()+int64(w.view.settings.UpstreamIdle))
}

// Ready is called by the loop.
func (s *server) Ready(r loop.Ready) {
	x := s.x
	if x == nil {
		// An idle connection that says something has ended, or is not to be
		// trusted with the next answer.
		if r.Err != nil || r.Read || r.Hangup {
			s.drop()
		}
		return
	}
	if s.reused && s.taken == s.w.loop.Now() && (r.Read || r.Err != nil) {
		// It was said, or closed, before the request was sent: the event is one of
		// the same turn.
		x.serverLost(errStale)
		return
	}
	if !s.stands {
		if r.Err != nil {
			x.serverLost(r.Err)
			return
		}
		s.stands = true
		s.w.loop.Stop(&s.timer)
		s.w.tel.UpstreamOpened++
		s.endpoint.Connected()
	}
	if r.Err != nil {
		x.serverBroken()
		return
	}
	if r.Drained {
		x.serverDrained()
	}
	if s.x == x && r.Read {
		x.pumpResponse()
	}
}

// drop takes an idle connection out of its pool and closes it.
func (s *server) drop() {
	if p := s.w.pools[s.endpoint]; p != nil {
		p.unlink(s)
		if p.idle == nil && s.endpoint.Gone() {
			delete(s.w.pools, s.endpoint)
		}
	}
	s.close()
}

func (s *server) expired() {
	if s.x == nil {
		s.drop()
		return
	}
	s.x.serverLost(errConnectTimeout)
}

func (s *server) close() {
	if !s.conn.Open() {
		return
	}
	s.w.loop.Stop(&s.timer)
	s.w.loop.Buffers.Give(s.in)
	s.in, s.x = nil, nil
	s.conn.Close()
	s.w.tel.UpstreamActive--
}
