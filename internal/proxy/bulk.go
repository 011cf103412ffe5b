package proxy

import (
	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/loop"
)

// A large body of known length that goes from HTTP/1 to HTTP/1, both in
// cleartext, need not come to the process, as little as a stream's bytes.

// leastBulk is how much of a body must be left for it to be spliced: the pipe's
// calls cost more than copying less.
const leastBulk = 128 << 10

// plain says whether the answer that s reads can be spliced to its client.
func (x *exchange) plain(s *server) bool {
	c, ok := x.down.(*client)
	return ok && !c.secure && !c.rechunk && s.point.TLS == nil && !x.tunnel
}

// splicesUp says whether the request's body can be spliced to its endpoint:
// nobody keeps or copies it.
func (x *exchange) splicesUp() bool {
	s, ok := x.s.(*server)
	return ok && s.point.TLS == nil && !x.chunked && !x.whole && len(x.mirrors) == 0 && !x.c.secure && !x.tunnel
}

// pass moves bytes of a body along a lane once, and counts them.
func (x *exchange) pass(l *lane, from, to *loop.Conn, body *h1.Body, count *int64) progress {
	before := l.bytes
	p := l.splice(x.w, from, to, body.Left())
	n := l.bytes - before
	x.activity = x.w.loop.Now()
	*count += n
	body.Skip(n)
	if p == dry || l.copied {
		l.rest(x.w)
	}
	return p
}

// splice moves a part of the answer past the process. It says whether whoever
// reads is done for now, and if not, whether anything was done.
func (s *server) splice() (done, took bool) {
	x, l := s.x, &s.x.answers
	c, ok := x.down.(*client)
	if !ok || !l.open(s.w) {
		l.bulk = false
		return false, false
	}
	p := x.pass(l, &s.conn, &c.conn, &s.answer, &x.rec.BytesOut)
	switch p {
	case moved:
		if s.answer.Done() && l.empty() {
			x.onEnd(nil, s.keep)
			return true, true
		}
		return false, !l.copied
	case ended, lost:
		_, err := s.conn.Read(s.w.loop.In) // nothing but the error is left
		s.ended(err)
	case stuck:
		x.clientLost()
	case dry, blocked:
	}
	return true, true
}

// splice moves a part of the request's body past the process, as server.splice
// does for the answer's.
func (c *client) splice() (done, took bool) {
	x, l := c.x, &c.x.asks
	s, ok := x.s.(*server)
	if !ok || !l.open(c.w) {
		l.bulk = false
		return false, false
	}
	p := x.pass(l, &c.conn, &s.conn, &c.body, &x.rec.BytesIn)
	switch p {
	case moved:
		if c.body.Done() && l.empty() {
			l.rest(c.w)
			if x.onBodyEnd(nil) {
				x.flushUp()
			}
			return true, true
		}
		return false, !l.copied
	case ended, lost:
		x.clientLost()
	case stuck:
		x.serverBroken()
	case dry, blocked:
	}
	return true, true
}
