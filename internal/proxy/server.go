package proxy

import (
	"errors"
	"io"
	"strconv"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/loop"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/record"
	"windrose.dev/windrose/internal/upstream"
)

// server is an HTTP/1 connection to an endpoint: in use by one exchange, whose
// serverSide it is, or idle in the pool of its loop.
type server struct {
	w      *worker
	conn   loop.Conn
	point  *upstream.Endpoint
	x      *exchange // nil while idle
	in     []byte    // the beginning of a head
	seen   int
	stands bool       // the connection was made
	reused bool       // it has carried another exchange
	taken  int64      // the turn in which the present exchange got it
	timer  loop.Timer // connecting, or idle

	answer     h1.Body
	headed     bool   // the final head was read
	untilClose bool   // the answer ends with the connection
	keep       bool   // the endpoint keeps the connection open
	shut       bool   // a tunnel's end is to be told once all is sent
	after      []byte // what came with the final head, while onHead has it

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
		if sure && !s.conn.Quiet() {
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
func (w *worker) connect(x *exchange, e *upstream.Endpoint) (serverSide, error) {
	if x.protocol == plan.H2C {
		return w.connectH2(x, e)
	}
	// Where one pooled connection turned out closed, the others may be too.
	if !x.raced {
		if s := w.pools[e].take(!x.idempotent); s != nil {
			s.x, s.taken = x, w.loop.Now()
			s.headed, s.untilClose, s.keep = false, false, false
			w.tel.UpstreamReused++
			x.tryStands()
			return s, nil
		}
	}
	s := &server{w: w, point: e, x: x}
	s.timer.F = s.expired
	if err := w.dial(&s.conn, e.Addr, s); err != nil {
		w.tel.UpstreamFailed++
		return nil, err
	}
	if e.TLS != nil {
		s.conn.StartTLSClient(e.TLS, w.proxy.outward)
	}
	w.tel.UpstreamActive++
	w.loop.Arm(&s.timer, w.loop.Now()+int64(w.view.settings.ConnectTimeout))
	return s, nil
}

// Ready is called by the loop.
func (s *server) Ready(r loop.Ready) {
	x := s.x
	if x == nil {
		// An idle connection that says something has ended, or is not to be
		// trusted with the next answer.
		if r.Err != nil || r.Hangup || r.Read && !s.ticket() {
			s.drop()
		}
		return
	}
	if s.reused && s.taken == s.w.loop.Now() && (r.Err != nil || r.Read && !s.ticket()) {
		// It was said, or closed, before the request was sent: the event is one of
		// the same turn.
		x.serverLost(errStale, stale)
		return
	}
	if !s.stands {
		s.w.shook(s.point, &s.conn, r.Err)
		if r.Err != nil {
			x.serverLost(r.Err, unreached)
			return
		}
		s.stands = true
		s.w.loop.Stop(&s.timer)
		s.w.tel.UpstreamOpened++
		s.point.Connected()
		x.tryConnected()
	}
	if r.Err != nil {
		x.serverBroken()
		return
	}
	if r.Drained {
		if s.shut {
			s.shut = false
			s.conn.CloseWrite()
		}
		x.serverDrained()
	}
	if s.x == x && r.Read {
		s.resume()
	}
}

// ticket says whether what has come is TLS's own, and no more.
func (s *server) ticket() bool { return s.point.TLS != nil && !s.conn.Hangup() && s.conn.Quiet() }

// resume moves what the endpoint sends to the client, as long as that takes it.
func (s *server) resume() {
	x := s.x
	for range turnReads {
		if x.down.blocked() {
			return // the exchange has us resume
		}
		if x.answers.bulk || x.answers.pipe != nil {
			if done, took := s.splice(); done {
				return
			} else if took {
				continue
			}
		}
		n, err := s.conn.Read(x.room(s.w.loop.In))
		if err == loop.ErrAgain { //nolint:errorlint // see client.read
			return
		}
		if err != nil {
			s.ended(err)
			return
		}
		s.feed(s.w.loop.In[:n])
		if s.x != x {
			return // the exchange has ended, or has another endpoint
		}
		x.answers.bulk = n >= bulkRead && s.answer.Left() >= leastBulk && x.plain(s)
	}
	s.conn.Again()
}

// feed takes a piece of the answer.
func (s *server) feed(p []byte) {
	if s.headed {
		s.feedBody(p)
		return
	}
	b := &s.w.loop.Buffers
	if s.in != nil {
		s.in = b.Append(s.in, p)
		p = s.in
	}
	p, ok := s.feedHead(p)
	if !ok {
		return
	}
	held := s.in
	s.in = nil
	s.feedBody(p)
	b.Give(held) // p lay in it
}

// feedHead reads heads, interim ones included. It returns what follows the final
// one, and whether that was there.
func (s *server) feedHead(p []byte) ([]byte, bool) {
	x, resp := s.x, &s.w.resp1
	for {
		s.w.resp = resp
		n, err := resp.Parse(p, s.seen, x.methodBytes(), s.w.limits())
		if err != nil {
			s.malformed(err)
			return nil, false
		}
		if n == 0 {
			s.wait(p)
			return nil, false
		}
		s.seen = 0
		p = p[n:]
		switch {
		case resp.Status == 101 && x.upgrade:
			if reason := x.distrusts(); reason != "" {
				s.malformed(&h1.Error{Reason: reason})
				return nil, false
			}
			s.headed, s.untilClose = true, true
			s.answer.Reset(h1.UntilClose, 0)
			return p, x.onSwitch()
		case resp.Status == 101:
			x.fail(record.UpstreamProtocol, "endpoint "+s.point.Addr.String()+" switched protocols without being asked")
			return nil, false
		case x.extended && resp.Status/100 == 2:
			// To the client of a CONNECT it would mean that the tunnel stands.
			s.malformed(&h1.Error{Reason: "it answered the WebSocket's beginning with " + strconv.Itoa(resp.Status) + " and did not switch protocols"})
			return nil, false
		case resp.Status >= 200:
			s.headed = true
			s.keep = resp.KeepAlive
			s.untilClose = resp.Body == h1.UntilClose
			s.answer.Reset(resp.Body, resp.Length)
			s.after = p
			ok := x.onHead(s.answer.Done())
			s.after = nil
			return p, ok
		}
		if !x.onInterim() {
			return nil, false
		}
	}
}

// wait keeps the beginning of a head.
func (s *server) wait(p []byte) {
	b := &s.w.loop.Buffers
	switch {
	case len(p) == 0:
		b.Give(s.in)
		s.in = nil
	case s.in == nil:
		s.in = b.Append(nil, p)
	default:
		s.in = s.in[:copy(s.in, p)]
	}
	s.seen = len(s.in)
}

func (s *server) feedBody(p []byte) {
	x := s.x
	for len(p) > 0 && !s.answer.Done() {
		data, n, _, err := s.answer.Next(p)
		if err != nil {
			s.malformed(err)
			return
		}
		p = p[n:]
		if len(data) > 0 && !x.onData(data) {
			return
		}
	}
	if s.answer.Done() {
		// More than one answer is not to be trusted with the next.
		x.onEnd(s.answer.Trailers(), s.keep && len(p) == 0)
		return
	}
	x.flushDown()
}

func (s *server) malformed(err *h1.Error) {
	s.x.fail(record.UpstreamProtocol, "endpoint "+s.point.Addr.String()+": "+err.Reason)
}

// ended is called when reading from the endpoint ends.
func (s *server) ended(err error) {
	x := s.x
	switch {
	case s.untilClose && errors.Is(err, io.EOF) && x.answered:
		x.onEnd(nil, false)
	case s.reused && !s.headed && s.in == nil:
		x.serverLost(err, stale)
	default:
		x.serverLost(err, midway)
	}
}

// What follows makes server the serverSide of its exchange.

func (s *server) endpoint() *upstream.Endpoint { return s.point }

// spare says yes if all of the answer is here.
func (s *server) spare() bool {
	p := s.after
	for len(p) > 0 && !s.answer.Done() {
		_, n, _, err := s.answer.Next(p)
		if err != nil {
			return false
		}
		p = p[n:]
	}
	return s.keep && s.answer.Done() && len(p) == 0
}

func (s *server) send() error { return s.conn.Write(s.x.sent) }

func (s *server) data(p []byte) error {
	w := s.w
	switch {
	case s.x.chunked:
		w.up = h1.AppendChunk(w.up, p)
	case len(w.up)+len(p) <= gatherBytes:
		w.up = append(w.up, p...)
	default:
		out := w.up
		w.up = w.up[:0]
		return s.conn.Write2(out, p)
	}
	return nil
}

func (s *server) end(trailers []h1.Field) error {
	switch {
	case s.x.tunnel:
		err := s.flush()
		if s.shut = s.conn.Buffered() > 0; !s.shut {
			s.conn.CloseWrite()
		}
		return err
	case s.x.chunked:
		s.w.up = h1.AppendLastChunk(s.w.up, trailers)
	}
	return nil
}

func (s *server) flush() error {
	out := s.w.up
	if len(out) == 0 {
		return nil
	}
	s.w.up = out[:0]
	return s.conn.Write(out)
}

func (s *server) blocked() bool { return s.conn.Connecting() || s.conn.Full() }

// release puts the connection into the pool if its exchange has ended well.
func (s *server) release(keep bool) {
	w := s.w
	s.x = nil
	w.up = w.up[:0] // of an exchange that failed
	p := w.pools[s.point]
	full := p != nil && p.size >= w.view.settings.MaxUpstreamIdle
	// What is left unread would be taken for the next answer.
	unread := s.conn.Readable() && !s.conn.Quiet()
	if !keep || full || unread || s.point.Gone() || s.conn.Hangup() || s.conn.Full() {
		s.close()
		return
	}
	if p == nil {
		p = &pool{}
		w.pools[s.point] = p
	}
	w.loop.Buffers.Give(s.in) // of an answer that was not wanted
	s.in = nil
	s.next = p.idle
	if p.idle != nil {
		p.idle.prev = s
	}
	p.idle = s
	p.size++
	w.tel.UpstreamIdle++
	w.loop.Arm(&s.timer, w.loop.Now()+int64(w.view.settings.UpstreamIdle))
}

// drop takes an idle connection out of its pool and closes it.
func (s *server) drop() {
	if p := s.w.pools[s.point]; p != nil {
		p.unlink(s)
		if p.idle == nil && s.point.Gone() {
			delete(s.w.pools, s.point)
		}
	}
	s.close()
}

func (s *server) expired() {
	if s.x == nil {
		s.drop()
		return
	}
	s.w.shook(s.point, &s.conn, errConnectTimeout)
	s.x.serverLost(errConnectTimeout, unreached)
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
