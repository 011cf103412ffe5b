package proxy

import (
	"errors"
	"net/http"
	"slices"
	"strconv"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/h2"
	"windrose.dev/windrose/internal/loop"
	"windrose.dev/windrose/internal/record"
	"windrose.dev/windrose/internal/upstream"
)

// h2server is an HTTP/2 connection to an endpoint. Each of its streams is the
// serverSide of one exchange.
type h2server struct {
	w       *worker
	conn    loop.Conn
	point   *upstream.Endpoint
	h       *h2.Conn
	calls   []*h2call
	stands  bool // the connection was made
	used    bool // it has carried an answer
	waits   bool // a call was told that the connection is full
	dirty   bool // in worker.dirty
	leaving bool // takes no more calls
	held    int  // calls that wait for the endpoint's settings
	timer   loop.Timer
}

// h2call is one stream to an endpoint.
type h2call struct {
	s  *h2server
	id uint32
	x  *exchange

	out     []byte // of the request, that the windows do not take
	sent    int
	outEnd  bool   // out is the rest of the request
	in      []byte // of the answer, that the client does not take
	at      int
	inEnd   bool // in is the rest of the answer
	trailer []h1.Field
	headed  bool // the final head came
	held    bool // the endpoint's settings decide whether it can be sent
	done    bool // the answer has ended
}

var (
	errNoRoom    = errors.New("the endpoint takes no more streams")
	errNoConnect = errors.New("the endpoint does not take extended CONNECT")
)

// connectH2 gives a stream of a connection to e. A connection that has no room
// is joined by another.
func (w *worker) connectH2(x *exchange, e *upstream.Endpoint) (serverSide, error) {
	for _, s := range w.h2pools[e] {
		if !s.leaving && s.h.Room() > s.held && (!x.raced || !s.used) {
			w.tel.UpstreamReused++
			if s.stands {
				x.tryStands()
			}
			return s.call(x), nil
		}
	}
	if w.h2scratch == nil {
		w.h2scratch = h2.NewScratch(w.h2Config())
		w.h2in = make([]byte, len(w.loop.In))
	}
	if w.h2out == nil {
		w.h2out = make([]byte, len(w.loop.In))
	}
	s := &h2server{w: w, point: e, h: h2.NewClient(w.h2scratch)}
	s.timer.F = s.expired
	if err := w.dial(&s.conn, e.Addr, s); err != nil {
		w.tel.UpstreamFailed++
		return nil, err
	}
	if e.TLS != nil {
		s.conn.StartTLSClient(e.TLS, w.proxy.outward)
	}
	w.tel.UpstreamActive++
	w.h2pools[e] = append(w.h2pools[e], s)
	w.loop.Arm(&s.timer, w.loop.Now()+int64(w.view.settings.ConnectTimeout))
	return s.call(x), nil
}

func (s *h2server) call(x *exchange) *h2call {
	c := s.w.h2calls.take()
	c.s, c.x = s, x
	s.calls = append(s.calls, c)
	return c
}

// Ready is called by the loop.
func (s *h2server) Ready(r loop.Ready) {
	if !s.stands {
		s.w.shook(s.point, &s.conn, r.Err)
		if r.Err != nil {
			s.lost(r.Err)
			return
		}
		s.stands = true
		s.w.tel.UpstreamOpened++
		s.point.Connected()
		for _, c := range s.calls {
			c.x.tryConnected()
		}
		s.rest()
	}
	if r.Drained {
		s.drained()
	}
	if r.Read {
		s.read()
	}
	if r.Err != nil && s.conn.Open() {
		s.lost(r.Err)
	}
}

// mostUnsent is how much may wait to be sent to an endpoint while what it sends
// is read: what it asks for in between, such as answers to pings, must not pile up.
const mostUnsent = 1 << 20

// read reads also while the endpoint takes no more of what it is sent. What it
// waits to be rid of may be what has it take more: its windows, or answers that it
// cannot hold.
func (s *h2server) read() {
	for range turnReads {
		if !s.conn.Open() {
			return
		}
		if s.conn.Buffered() > mostUnsent {
			s.waits = true
			return // drained goes on
		}
		n, err := s.conn.Read(s.w.h2out)
		if err == loop.ErrAgain { //nolint:errorlint // see client.read
			return
		}
		if err != nil {
			s.lost(err)
			return
		}
		s.feed(s.w.h2out[:n])
	}
	s.conn.Again()
}

func (s *h2server) feed(p []byte) {
	s.h.Tick(s.w.loop.Now())
	for s.conn.Open() {
		ev, n, err := s.h.Next(p)
		if err != nil {
			s.flush()
			s.lost(err)
			return
		}
		p = p[n:]
		if ev.Kind == 0 {
			break
		}
		s.on(&ev)
		if len(s.h.Out()) > outFull {
			s.flush()
		}
	}
	s.touch()
}

func (s *h2server) on(ev *h2.Event) {
	c, _ := ev.Value.(*h2call)
	switch ev.Kind {
	case h2.Goaway:
		s.leaving = true
		s.rest()
		return
	case h2.Settings:
		s.settled()
		return
	default:
	}
	if c == nil || c.x == nil {
		if ev.Kind == h2.Data {
			s.h.Consumed(ev.Stream, len(ev.Data))
		}
		return
	}
	switch ev.Kind {
	case h2.Interim:
		s.w.resp = ev.Response
		if ev.Response.Status != 101 {
			c.x.onInterim()
		}
	case h2.Head:
		c.onHead(ev)
	case h2.Data:
		c.onData(ev.Data, ev.End)
	case h2.Trailers:
		c.trailer = ev.Fields
		c.onData(nil, true)
		if c.inEnd {
			c.trailer = cloneFields(ev.Fields)
		}
	case h2.Reset:
		c.onReset(ev)
	case h2.Writable:
		if c.flushOut() {
			c.x.serverDrained()
		}
	case h2.Goaway, h2.Settings, h2.SettingsAck, h2.PingAck:
	}
}

// settled sends the calls that waited for the endpoint's settings.
func (s *h2server) settled() {
	if s.held == 0 {
		return
	}
	for _, c := range slices.Clone(s.calls) {
		if c.held && c.x != nil && s.conn.Open() {
			c.unhold()
			c.x.give()
		}
	}
}

func (c *h2call) unhold() {
	if c.held {
		c.held = false
		c.s.held--
	}
}

func (s *h2server) full() bool { return s.conn.Buffered() > 0 || len(s.h.Out()) > outFull }

// touch is h2client.touch.
func (s *h2server) touch() {
	if !s.dirty && (s.waits || len(s.h.Out()) > 0) {
		s.dirty = true
		s.w.dirty = append(s.w.dirty, s)
	}
}

// flush sends what was gathered.
func (s *h2server) flush() {
	out := s.h.Out()
	if len(out) == 0 || !s.conn.Open() {
		return
	}
	_ = s.conn.Write(out) // a broken connection is found by reading
	s.h.Sent()
}

func (s *h2server) turnEnd() {
	s.dirty = false
	s.flush()
	if s.waits && !s.full() {
		s.drained()
	}
}

func (s *h2server) drained() {
	s.flush()
	s.waits = false
	for _, c := range slices.Clone(s.calls) {
		if c.x != nil && !c.blocked() {
			c.x.serverDrained()
		}
	}
	if s.conn.Open() && s.conn.Readable() {
		s.conn.Again()
	}
}

// lost is called when the connection has broken.
func (s *h2server) lost(err error) {
	how := midway
	switch {
	case !s.stands:
		how = unreached
	case s.used:
		how = stale
	}
	s.close()
	for _, c := range slices.Clone(s.calls) {
		if c.x == nil {
			continue
		}
		if c.headed || len(c.in) > 0 {
			c.x.serverLost(err, midway)
			continue
		}
		c.x.serverLost(err, how)
	}
}

func (s *h2server) expired() {
	if !s.stands {
		s.w.shook(s.point, &s.conn, errConnectTimeout)
		s.lost(errConnectTimeout)
		return
	}
	if len(s.calls) == 0 {
		s.h.Goaway(h2.NoError)
		s.flush()
		s.close()
	}
}

// rest lets a connection without calls wait, or end.
func (s *h2server) rest() {
	switch {
	case len(s.calls) > 0:
		s.w.loop.Stop(&s.timer)
	case s.leaving || s.point.Gone():
		s.flush()
		s.close()
	default:
		s.w.loop.Arm(&s.timer, s.w.loop.Now()+int64(s.w.view.settings.UpstreamIdle))
	}
}

func (s *h2server) close() {
	if !s.conn.Open() {
		return
	}
	w := s.w
	w.loop.Stop(&s.timer)
	s.leaving = true
	s.conn.Close()
	s.h.Close()
	w.tel.UpstreamActive--
	list := slices.DeleteFunc(w.h2pools[s.point], func(o *h2server) bool { return o == s })
	if len(list) == 0 {
		delete(w.h2pools, s.point)
		return
	}
	w.h2pools[s.point] = list
}

func (c *h2call) onHead(ev *h2.Event) {
	c.headed, c.s.used = true, true
	resp := ev.Response
	c.s.w.resp = resp
	resp.Reason = bytesOf(http.StatusText(resp.Status)) // HTTP/1 has one
	if resp.Body == h1.Length && has(resp.Fields, h1.Trailer) {
		resp.Body = h1.Chunked // in HTTP/1, what has trailers has no length
	}
	c.done = ev.End
	if c.x.upgrade && resp.Status/100 == 2 {
		c.onSwitch(ev.End)
		return
	}
	if !c.x.onHead(ev.End) {
		return
	}
	if ev.End {
		c.x.onEnd(nil, true)
		return
	}
	c.x.flushDown()
}

// onSwitch is called when the endpoint has accepted an extended CONNECT.
func (c *h2call) onSwitch(end bool) {
	x := c.x
	if x.onSwitch() && end && c.x == x {
		x.onEnd(nil, true)
	}
}

// onData takes a piece of the answer's body, or its end.
func (c *h2call) onData(p []byte, end bool) {
	x, h := c.x, c.s.h
	c.done = end
	if len(c.in) > c.at || x.down.blocked() {
		c.in = c.s.w.loop.Buffers.Append(c.in, p)
		c.inEnd = end
		return
	}
	if len(p) > 0 {
		ok := x.onData(p)
		h.Consumed(c.id, len(p))
		if !ok || c.x != x {
			return
		}
	}
	if end {
		x.onEnd(c.trailer, true)
		return
	}
	x.flushDown()
}

func (c *h2call) onReset(ev *h2.Event) {
	c.done = true
	err := errors.New("it reset the stream with " + ev.Code.String())
	switch {
	case ev.Local:
		c.x.fail(record.UpstreamProtocol, "endpoint "+c.s.point.Addr.String()+": "+ev.Reason)
	case ev.Untouched:
		c.x.serverLost(err, unseen)
	default:
		c.x.serverLost(err, midway)
	}
}

// flushOut sends of out what the windows take; it says whether all is gone.
func (c *h2call) flushOut() bool {
	c.sent += c.s.h.WriteData(c.id, c.out[c.sent:], c.outEnd && len(c.trailer) == 0)
	if c.sent < len(c.out) {
		return false
	}
	c.s.w.loop.Buffers.Give(c.out)
	c.out, c.sent = nil, 0
	if c.outEnd {
		c.outEnd = false
		c.writeTrailers(c.trailer)
	}
	return true
}

func (c *h2call) writeTrailers(trailers []h1.Field) {
	if len(trailers) == 0 || !c.s.h.BeginTrailers(c.id) {
		return
	}
	for i := range trailers {
		c.s.h.AddField(&trailers[i])
	}
	c.s.h.EndHead(true)
}

// What follows makes h2call the serverSide of its exchange.

func (c *h2call) endpoint() *upstream.Endpoint { return c.s.point }

// spare says whether the stream is over; the connection goes on anyhow.
func (c *h2call) spare() bool { return c.done }

// send opens the stream. The head was written as HTTP/1.1, which is what is kept
// for another attempt; here it is read again.
func (c *h2call) send() error {
	x, w, h := c.x, c.s.w, c.s.h
	switch {
	case !x.upgrade:
	case !h.Standing():
		c.held = true
		c.s.held++
		return nil
	case !h.TakesConnect():
		return errNoConnect
	}
	req := &w.again
	if !req.Reread(x.sent[:x.headLen]) {
		return errors.New("the rewritten head is not valid")
	}
	line := h2.Line{Method: req.Method, Scheme: schemeHTTP, Authority: req.Host, Path: req.Target}
	if c.s.point.TLS != nil {
		line.Scheme = schemeHTTPS
	}
	if x.upgrade {
		line.Method, line.Protocol = connectBytes, bytesOf(webSocketProtocol)
	}
	id, ok := h.BeginRequest(&line, c)
	if !ok {
		return errNoRoom
	}
	c.id = id
	for i := range req.Fields {
		if !x.upgrade || !h1.EqualFold(req.Fields[i].Name, keyName) {
			h.AddField(&req.Fields[i])
		}
	}
	if x.upgrade {
		h.EndHead(false)
		c.s.touch()
		return nil
	}
	body := x.sent[x.headLen:]
	last := x.sentEnd && len(x.trailers) == 0
	h.EndHead(last && len(body) == 0)
	if len(body) > 0 {
		c.write(body, last)
	}
	c.s.touch()
	if len(x.trailers) > 0 {
		return c.end(x.trailers)
	}
	return nil
}

var (
	connectBytes      = []byte("CONNECT")
	schemeHTTP        = []byte("http")
	schemeHTTPS       = []byte("https")
	contentLengthName = []byte("content-length")
)

func appendInt(dst []byte, n int64) []byte { return strconv.AppendInt(dst, n, 10) }

func (c *h2call) write(p []byte, end bool) {
	n := 0
	if len(c.out) == 0 {
		n = c.s.h.WriteData(c.id, p, end)
	}
	if n < len(p) {
		c.out = c.s.w.loop.Buffers.Append(c.out, p[n:])
		c.outEnd = end
	}
}

func (c *h2call) data(p []byte) error {
	c.write(p, false)
	return nil
}

func (c *h2call) end(trailers []h1.Field) error {
	switch {
	case len(c.out) > 0:
		c.outEnd = true
		c.trailer = cloneFields(trailers)
	case len(trailers) > 0:
		c.writeTrailers(trailers)
	default:
		c.s.h.WriteData(c.id, nil, true)
	}
	return nil
}

func (c *h2call) flush() error {
	c.s.touch()
	return nil
}

func (c *h2call) blocked() bool {
	if c.held || c.s.conn.Connecting() || len(c.out) > 0 {
		return true
	}
	if c.s.full() {
		c.s.waits = true
		return true
	}
	return false
}

// resume passes on what the client did not take.
func (c *h2call) resume() {
	x := c.x
	defer c.s.touch() // what was consumed opens windows
	for len(c.in) > c.at {
		if x.down.blocked() {
			x.flushDown()
			return
		}
		p := c.in[c.at:min(len(c.in), c.at+outFull)]
		c.at += len(p)
		ok := x.onData(p)
		c.s.h.Consumed(c.id, len(p))
		if !ok || c.x != x {
			return
		}
	}
	c.s.w.loop.Buffers.Give(c.in)
	c.in, c.at = nil, 0
	if c.inEnd {
		x.onEnd(c.trailer, true)
		return
	}
	x.flushDown()
}

// release ends the call; a stream that is not over is reset.
func (c *h2call) release(keep bool) {
	s := c.s
	c.x = nil
	c.unhold()
	b := &s.w.loop.Buffers
	if s.conn.Open() {
		if unread := len(c.in) - c.at; unread > 0 {
			s.h.Consumed(c.id, unread)
		}
		if !keep || !c.done {
			s.h.Reset(c.id, h2.Cancel)
		}
		s.h.SetValue(c.id, nil)
		s.touch()
	}
	b.Give(c.in)
	b.Give(c.out)
	c.in, c.out = nil, nil
	if i := slices.Index(s.calls, c); i >= 0 {
		s.calls = slices.Delete(s.calls, i, i+1)
	}
	if s.conn.Open() && s.stands && len(s.calls) == 0 {
		s.rest()
	}
	s.w.h2calls.give(c)
}
