package proxy

import (
	"errors"
	"slices"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/h2"
	"windrose.dev/windrose/internal/loop"
)

// h2client is what a client becomes whose connection speaks HTTP/2. Each of its
// streams is the clientSide of one exchange. What is written is gathered in the
// codec and leaves once a turn.
type h2client struct {
	c       *client
	h       *h2.Conn
	streams h2list // with an exchange, or with bytes left to send
	waits   bool   // a stream was told that the connection is full
	dirty   bool   // in worker.dirty
	failed  bool   // the codec gave up: what is left is its last word
	active  int64  // when the last stream ended
	soon    int64  // while draining: when the last GOAWAY is due
	partial int64  // when a head began to arrive that has not ended; 0 none
}

// h2stream is one stream of a client.
type h2stream struct {
	m  *h2client
	id uint32
	x  *exchange // nil once it is over

	in      []byte // of the request's body, not taken yet
	at      int    // how much of in is gone
	inEnd   bool   // in is the rest of the body
	ended   bool   // the whole request was passed on
	out     []byte // of the answer, that the windows do not take
	sent    int    // how much of out is gone
	outEnd  bool   // out is the rest of the answer
	trailer []h1.Field
	over    bool // the end was written
	tunnel  bool

	next, prev *h2stream
}

// h2list is a list of streams.
type h2list struct {
	first *h2stream
	n     int
}

func (l *h2list) add(s *h2stream) {
	s.next = l.first
	if l.first != nil {
		l.first.prev = s
	}
	l.first = s
	l.n++
}

func (l *h2list) remove(s *h2stream) {
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		l.first = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	}
	s.next, s.prev = nil, nil
	l.n--
}

// each calls f for every stream; f may remove the one it is given.
func (l *h2list) each(f func(*h2stream)) {
	for s := l.first; s != nil; {
		next := s.next
		f(s)
		s = next
	}
}

// outFull is how much a connection may hold that is to be sent before its
// streams are blocked.
const outFull = 64 << 10

// h2Config bounds HTTP/2 connections as the settings say.
func (w *worker) h2Config() h2.Config {
	s := w.view.settings
	return h2.Config{MaxHeadBytes: s.MaxHeaderBytes, MaxTargetBytes: s.MaxURIBytes, MaxFields: s.MaxHeaders, Connect: true}
}

// startH2 turns the connection over to HTTP/2; p is what was read already.
func (c *client) startH2(p []byte) {
	w := c.w
	if w.h2scratch == nil {
		w.h2scratch = h2.NewScratch(w.h2Config())
		w.h2in = make([]byte, len(w.loop.In))
	}
	c.phase = multiplexed
	c.h2 = &h2client{c: c, h: h2.NewServer(w.h2scratch), active: w.loop.Now()}
	c.arm(int64(w.view.settings.HeaderTimeout))
	first := append([]byte(nil), p...) // it may lie in a buffer that is read into
	c.rest(nil)
	c.h2.feed(first)
	if c.last {
		c.h2.leave(w.loop.Now()+lameDuckTime, w.loop.Now()+int64(w.view.settings.DrainTimeout))
	}
}

// ready is client.Ready for HTTP/2.
func (m *h2client) ready(r loop.Ready) {
	if r.Err != nil {
		m.lost()
		return
	}
	if r.Drained {
		m.drained()
	}
	if r.Read && m.c.phase == multiplexed {
		m.read()
	}
}

func (m *h2client) read() {
	w := m.c.w
	for range turnReads {
		if m.failed {
			return
		}
		if m.full() {
			m.waits = true
			return // drained goes on
		}
		n, err := m.c.conn.Read(w.h2in)
		if err == loop.ErrAgain { //nolint:errorlint // see client.read
			return
		}
		if err != nil {
			m.lost()
			return
		}
		m.feed(w.h2in[:n])
		if m.c.phase != multiplexed {
			return
		}
	}
	m.c.conn.Again()
}

// feed takes what the client sent.
func (m *h2client) feed(p []byte) {
	m.h.Tick(m.c.w.loop.Now())
	for {
		ev, n, err := m.h.Next(p)
		if err != nil {
			m.fail()
			return
		}
		p = p[n:]
		if ev.Kind == 0 {
			break
		}
		m.on(&ev)
		if len(m.h.Out()) > outFull && !m.flush() {
			return
		}
	}
	switch {
	case !m.h.Partial():
		m.partial = 0
	case m.partial == 0:
		m.partial = m.c.w.loop.Now()
	}
	m.touch()
}

func (m *h2client) on(ev *h2.Event) {
	s, _ := ev.Value.(*h2stream)
	switch ev.Kind {
	case h2.Head:
		m.begin(ev)
	case h2.Data:
		if s != nil {
			s.onData(ev.Data, ev.End)
		} else {
			m.h.Consumed(ev.Stream, len(ev.Data))
		}
	case h2.Trailers:
		if s != nil {
			s.trailer = ev.Fields
			s.onData(nil, true)
			if s.inEnd {
				s.trailer = cloneFields(ev.Fields)
			}
		}
	case h2.Reset:
		if s != nil {
			s.onReset()
		}
	case h2.Writable:
		if s != nil {
			s.writable()
		}
	case h2.Interim, h2.Goaway, h2.Settings, h2.SettingsAck, h2.PingAck:
	}
}

// begin starts the request of a new stream.
func (m *h2client) begin(ev *h2.Event) {
	c, w := m.c, m.c.w
	s := w.h2streams.take()
	s.m, s.id = m, ev.Stream
	m.h.SetValue(ev.Stream, s)
	m.streams.add(s)
	w.req = &ev.Request.Request
	x := w.exchange()
	s.x = x
	now := w.loop.Clock()
	if ev.Refused != nil {
		x.refused(c, s, now, ev.Refused)
		return
	}
	connect := w.req.Upgrade != nil
	if connect {
		s.inEnd = ev.End // the tunnel's
	} else {
		s.ended = ev.End
	}
	if !x.begin(c, s, now) {
		return
	}
	if ev.End || connect {
		x.keepEnd(nil)
	}
	x.launch()
}

func cloneFields(fields []h1.Field) []h1.Field {
	out := slices.Clone(fields)
	for i := range out {
		out[i].Name, out[i].Value = slices.Clone(out[i].Name), slices.Clone(out[i].Value)
	}
	return out
}

// full says that enough waits to be sent.
func (m *h2client) full() bool { return m.c.conn.Buffered() > 0 || len(m.h.Out()) > outFull }

// touch has what was written leave at the end of the turn. A stream that waits is
// looked at then too: what it waited for may have left in the middle of the turn.
func (m *h2client) touch() {
	if !m.dirty && (m.waits || len(m.h.Out()) > 0) {
		m.dirty = true
		m.c.w.dirty = append(m.c.w.dirty, m)
	}
}

// flush sends what was gathered; it says whether the connection stands.
func (m *h2client) flush() bool {
	out := m.h.Out()
	if len(out) == 0 {
		return true
	}
	err := m.c.conn.Write(out)
	m.h.Sent()
	if err != nil {
		m.lost()
		return false
	}
	return true
}

// turnEnd is called at the end of a turn in which something was written.
func (m *h2client) turnEnd() {
	m.dirty = false
	if m.c.phase != multiplexed || !m.flush() {
		return
	}
	if m.waits && !m.full() {
		m.drained()
	}
}

// drained is called when the socket has taken what it was given.
func (m *h2client) drained() {
	if m.failed {
		m.c.finish()
		return
	}
	if !m.flush() {
		return
	}
	m.waits = false
	m.streams.each(func(s *h2stream) {
		if s.x != nil && m.c.phase == multiplexed && !s.blocked() {
			s.x.clientDrained()
		}
	})
	if m.c.phase == multiplexed && m.c.conn.Readable() {
		m.c.conn.Again()
	}
}

// fail sends the codec's last word and ends the connection.
func (m *h2client) fail() {
	m.failed = true
	m.c.w.tel.CutProtocol++
	m.streams.each(func(s *h2stream) {
		if s.x != nil {
			s.x.clientLost()
		}
	})
	if !m.flush() {
		return
	}
	if m.c.conn.Buffered() == 0 {
		m.c.finish()
		return
	}
	m.c.arm(lingerTime)
}

// lost is called when the connection has broken.
func (m *h2client) lost() {
	m.failed = true
	m.streams.each(func(s *h2stream) {
		if s.x != nil {
			s.x.clientLost()
		}
	})
	m.c.close()
}

// cut ends the connection because its loop ends.
func (m *h2client) cut() {
	m.streams.each(func(s *h2stream) {
		if s.x != nil {
			s.x.cut()
		}
	})
	m.flush()
}

// leave asks the client to open no more streams; by soon none is served any
// more, and those there are end by deadline.
func (m *h2client) leave(soon, deadline int64) {
	m.h.Drain()
	m.soon = soon
	m.streams.each(func(s *h2stream) {
		if s.x != nil {
			s.x.hurry(deadline)
		}
	})
	m.c.w.loop.Arm(&m.c.timer, soon)
	m.touch()
}

// expired is called when the connection's timer fires.
func (m *h2client) expired() {
	c, w := m.c, m.c.w
	now, settings := w.loop.Now(), w.view.settings
	slow := m.partial != 0 && now >= m.partial+int64(settings.HeaderTimeout)
	idle := m.streams.n == 0 && now >= m.active+int64(settings.IdleTimeout)
	switch {
	case m.failed:
		c.close()
	case !m.h.Standing(), slow:
		w.tel.CutSlow++
		c.close()
	case m.soon != 0 && now >= m.soon, idle:
		m.h.Goaway(h2.NoError)
		if m.flush() && !m.ending() {
			c.arm(int64(settings.DrainTimeout))
		}
	case m.streams.n == 0 && m.partial == 0:
		w.loop.Arm(&c.timer, m.active+int64(settings.IdleTimeout))
	default:
		c.arm(int64(settings.HeaderTimeout))
	}
}

// ending closes a connection that is done; it says whether it did.
func (m *h2client) ending() bool {
	if m.c.phase != multiplexed || !m.h.Drained() || m.streams.n > 0 {
		return false
	}
	if m.flush() {
		m.c.finish()
	}
	return true
}

// onData takes a piece of the request's body, or its end.
func (s *h2stream) onData(p []byte, end bool) {
	m, x := s.m, s.x
	switch {
	case x == nil:
		m.h.Consumed(s.id, len(p))
		return
	case len(s.in) > s.at || !x.wants():
		s.in = m.c.w.loop.Buffers.Append(s.in, p)
		s.inEnd = end
		return
	case len(p) > 0:
		ok := x.onBody(p)
		m.h.Consumed(s.id, len(p))
		if !ok || s.x != x {
			return
		}
	}
	if end && !s.endBody() {
		return
	}
	x.flushUp()
}

// endBody passes on the end of the request; it says whether the exchange goes
// on.
func (s *h2stream) endBody() bool {
	s.ended, s.inEnd = true, false
	return s.x.onBodyEnd(s.trailer)
}

func (s *h2stream) onReset() {
	if s.x != nil {
		s.x.clientLost()
		return
	}
	s.drop()
}

// writable sends what the windows did not take.
func (s *h2stream) writable() {
	if !s.flushOut() || s.x == nil || s.blocked() {
		return
	}
	s.x.clientDrained()
}

// flushOut sends of out what the windows take; it says whether all is gone.
func (s *h2stream) flushOut() bool {
	h := s.m.h
	s.sent += h.WriteData(s.id, s.out[s.sent:], s.outEnd && len(s.trailer) == 0)
	if s.sent < len(s.out) {
		return false
	}
	s.m.c.w.loop.Buffers.Give(s.out)
	s.out, s.sent = nil, 0
	if s.outEnd {
		s.outEnd = false
		s.over = true
		s.writeTrailers(s.trailer)
		if s.x == nil {
			s.settle()
		}
	}
	return true
}

func (s *h2stream) writeTrailers(trailers []h1.Field) {
	h := s.m.h
	if len(trailers) == 0 || !h.BeginTrailers(s.id) {
		return
	}
	for i := range trailers {
		h.AddField(&trailers[i])
	}
	h.EndHead(true)
}

// settle ends a stream whose answer is sent and whose exchange is over.
func (s *h2stream) settle() {
	if !s.ended {
		s.m.h.Reset(s.id, h2.NoError) // the rest of the request is not wanted
	}
	s.drop()
}

// drop forgets the stream.
func (s *h2stream) drop() {
	m := s.m
	b := &m.c.w.loop.Buffers
	if unread := len(s.in) - s.at; unread > 0 {
		m.h.Consumed(s.id, unread)
	}
	b.Give(s.in)
	b.Give(s.out)
	s.in, s.out = nil, nil
	m.h.SetValue(s.id, nil)
	m.streams.remove(s)
	m.c.w.h2streams.give(s)
	m.active = m.c.w.loop.Now()
	m.touch()
	if m.h.Drained() && m.streams.n == 0 {
		m.c.w.loop.Arm(&m.c.timer, m.active)
	}
}

// What follows makes h2stream the clientSide of its exchange.

func (s *h2stream) whole() bool { return s.ended || s.x.waits() }

func (s *h2stream) blocked() bool {
	if len(s.out) > 0 {
		return true
	}
	if s.m.full() {
		s.m.waits = true
		return true
	}
	return false
}

func (s *h2stream) resume() {
	x := s.x
	if x.waits() {
		return
	}
	defer s.m.touch() // what was consumed opens windows
	for len(s.in) > s.at && x.wants() {
		p := s.in[s.at:min(len(s.in), s.at+outFull)]
		s.at += len(p)
		ok := x.onBody(p)
		s.m.h.Consumed(s.id, len(p))
		if !ok || s.x != x {
			return
		}
	}
	if len(s.in) > s.at {
		x.flushUp()
		return
	}
	s.m.c.w.loop.Buffers.Give(s.in)
	s.in, s.at = nil, 0
	if s.inEnd && !s.endBody() {
		return
	}
	x.flushUp()
}

func (s *h2stream) interim() error {
	h := s.m.h
	if !h.BeginResponse(s.id, s.m.c.w.resp.Status) {
		return errStreamGone
	}
	s.x.interimFields(func(f h1.Field) { h.AddField(&f) })
	h.EndHead(false)
	s.m.touch()
	return nil
}

var (
	errStreamGone = errors.New("the stream is gone")
	errNoTunnel   = errors.New("nobody is at this end of the tunnel")
)

func (s *h2stream) respond(end bool) {
	h, resp := s.m.h, s.m.c.w.resp
	if !h.BeginResponse(s.id, resp.Status) {
		return
	}
	s.x.responseFields(func(f h1.Field) { h.AddField(&f) })
	if resp.Body == h1.Length {
		var digits [20]byte
		h.AddField(&h1.Field{Name: contentLengthName, Value: appendInt(digits[:0], resp.Length), Known: h1.ContentLength})
	}
	h.EndHead(end)
	s.over = end
	s.m.touch()
}

func (s *h2stream) data(p []byte) error {
	n := 0
	if len(s.out) == 0 {
		n = s.m.h.WriteData(s.id, p, false)
	}
	if n < len(p) {
		s.out = s.m.c.w.loop.Buffers.Append(s.out, p[n:])
	}
	return nil
}

func (s *h2stream) end(trailers []h1.Field) error {
	switch {
	case s.over:
	case len(s.out) > 0:
		s.outEnd = true
		s.trailer = cloneFields(trailers)
	case len(trailers) > 0:
		s.over = true
		s.writeTrailers(trailers)
	default:
		s.over = true
		s.m.h.WriteData(s.id, nil, true)
	}
	return nil
}

func (s *h2stream) flush() error {
	s.m.touch()
	return nil
}

func (s *h2stream) finished() {
	s.x = nil
	if s.over {
		s.settle()
	}
}

func (s *h2stream) broken(partly bool) {
	s.x = nil
	code := h2.Cancel
	if partly && !s.tunnel { // RFC 8441 5
		code = h2.InternalError
	}
	s.m.h.Reset(s.id, code)
	s.drop()
}
