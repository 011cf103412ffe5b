package proxy

import (
	"net/netip"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/loop"
	"windrose.dev/windrose/internal/record"
	"windrose.dev/windrose/internal/telemetry"
)

// client is a connection that came in.
//
//	shaking -> idle -> reading a head -> busy with an exchange -> idle ...
//	                                 \-> tunnel
//	any of them -> flushing -> lingering -> closed
type client struct {
	w    *worker
	conn loop.Conn
	sock *socket
	peer netip.AddrPort

	phase phase
	x     *exchange // while busy or a tunnel
	body  h1.Body   // of the request that is read

	in      []byte // read and not used yet; nil while there is nothing
	seen    int    // how much of in was searched for the end of a head
	started int64  // when the first byte of a head came
	timer   loop.Timer
	last    bool // no more requests after this one
	trusted bool // the peer's X-Forwarded headers are kept
	secure  bool
	sni     string
	tlsName string // "TLS1.3"

	counts     *telemetry.Socket
	next, prev *client
}

type phase uint8

const (
	shaking phase = iota + 1
	idle
	reading
	busy
	tunnel
	flushing  // the last answer is being sent
	lingering // it is sent; what the client still sends is thrown away
	closed
)

// turnRequests bounds the requests that one connection gets served in one turn.
const turnRequests = 32

// lingerTime and lingerBytes bound how long and how much a client may go on
// sending after the last answer: closing at once would reset the connection,
// and the reset can overtake the answer.
const (
	lingerTime  = int64(2e9)
	lingerBytes = 256 << 10
)

// accept takes over a new connection.
func (w *worker) accept(s *socket, counts *telemetry.Socket, fd int, peer netip.AddrPort) {
	c := &client{w: w, sock: s, peer: peer, counts: counts, phase: idle}
	if err := w.loop.Adopt(&c.conn, fd, c); err != nil {
		w.proxy.cfg.Log("cannot take over a connection", "error", err)
		return
	}
	counts.Active++
	w.proxy.conns.Add(1)
	w.clients.add(c)
	c.timer.F = c.expired
	if s.tls != nil {
		c.phase = shaking
		c.secure = true
		c.conn.StartTLS(s.tls.config, w.proxy.handshakes)
		c.arm(int64(w.view.settings.HandshakeTimeout))
		return
	}
	// A client that says nothing at first is a client that is slow with its
	// headers; one that has been served may think.
	c.arm(int64(w.view.settings.HeaderTimeout))
}

func (c *client) arm(d int64) { c.w.loop.Arm(&c.timer, c.w.loop.Now()+d) }

// Ready is called by the loop.
func (c *client) Ready(r loop.Ready) {
	if c.phase == shaking {
		c.shaken(r)
		if r.Err != nil || !r.Read {
			return
		}
	}
	if r.Err != nil {
		c.lost()
		return
	}
	if r.Drained && !c.drained() {
		return
	}
	if c.phase == busy && r.Hangup && c.body.Done() && c.gone() {
		// The whole request is here and nobody waits for the answer.
		c.lost()
		return
	}
	if r.Read || c.in != nil {
		c.read()
	}
}

// shaken is called when the TLS handshake has ended.
func (c *client) shaken(r loop.Ready) {
	w := c.w
	w.tel.Handshake(handshakeResult(r.Err))
	w.countHandshake()
	if r.Err != nil {
		c.close()
		return
	}
	c.phase = idle
	if s := c.conn.TLSState(); s != nil {
		c.sni = s.ServerName
		c.tlsName = tlsVersion(s.Version)
	}
	if c.last { // asked to leave meanwhile
		c.arm(lameDuckTime)
		return
	}
	c.arm(int64(w.view.settings.HeaderTimeout))
}

// gone says whether a client that will send no more has left for good. Its end
// may be behind a pipelined request. Under TLS only reading can tell.
func (c *client) gone() bool {
	if !c.secure {
		return c.conn.Ended()
	}
	for len(c.in) < c.w.view.settings.MaxBufferedBytes {
		n, err := c.conn.Read(c.w.loop.In)
		if err == loop.ErrAgain { //nolint:errorlint // see read
			return false
		}
		if err != nil {
			return true
		}
		c.in = c.w.loop.Buffers.Append(c.in, c.w.loop.In[:n])
	}
	return false
}

// drained is called when what was written is sent; it says whether the
// connection goes on.
func (c *client) drained() bool {
	switch c.phase {
	case flushing:
		c.linger()
		return false
	case busy, tunnel:
		c.x.clientDrained()
	case shaking, idle, reading, lingering, closed:
	}
	return c.phase != closed
}

// read reads what is there, as long as somebody takes it.
func (c *client) read() {
	switch c.phase {
	case busy:
		c.x.pumpRequest()
		return
	case tunnel:
		c.x.pumpUp()
		return
	case lingering:
		c.discard()
		return
	case flushing, closed:
		return
	case shaking, idle, reading:
	}
	if c.in != nil && c.seen < len(c.in) {
		c.process(c.in)
	}
	for range turnReads {
		if (c.phase != idle && c.phase != reading) || (c.in != nil && c.seen < len(c.in)) {
			return // somebody else reads; or requests wait for the next turn
		}
		n, err := c.conn.Read(c.w.loop.In)
		if err == loop.ErrAgain { //nolint:errorlint // the loop never wraps it, and this is the hot path
			return
		}
		if err != nil {
			c.close() // between requests, or inside a head: nobody to answer to
			return
		}
		p := c.w.loop.In[:n]
		if c.in != nil {
			c.in = c.w.loop.Buffers.Append(c.in, p)
			p = c.in
		}
		c.process(p)
	}
	c.conn.Again()
}

// process serves the requests in p, which is c.in or what was just read. What
// is left of p is in c.in afterwards.
func (c *client) process(p []byte) {
	w := c.w
	for range turnRequests {
		if len(p) == 0 {
			c.rest(nil)
			return
		}
		if c.phase == idle {
			c.phase = reading
			c.started = w.loop.Clock()
		}
		n, err := w.req.Parse(p, c.seen, w.limits())
		if err != nil {
			c.refuse(err)
			return
		}
		if n == 0 {
			c.wait(p)
			return
		}
		c.seen = 0
		c.phase = busy
		c.body.Reset(w.req.Body, w.req.Length)
		x := w.exchange()
		c.x = x
		p = x.begin(c, p[n:])
		if c.phase != idle { // busy, or gone
			c.rest(p)
			return
		}
	}
	c.rest(p)
	if c.in != nil {
		c.conn.Again()
	}
}

// wait keeps the beginning of a head until more of it comes.
func (c *client) wait(p []byte) {
	c.rest(p)
	c.seen = len(c.in)
	if !c.timer.Armed() || c.seen == 0 {
		return
	}
	// The time for a head runs from its first byte, however it trickles in.
	c.w.loop.Arm(&c.timer, c.started+int64(c.w.view.settings.HeaderTimeout))
}

// rest keeps p, which may lie in c.in or in the loop's read buffer.
func (c *client) rest(p []byte) {
	b := &c.w.loop.Buffers
	switch {
	case c.phase >= flushing || len(p) == 0: // nobody will look at it
		b.Give(c.in)
		c.in = nil
	case c.in == nil:
		c.in = b.Append(nil, p)
	default:
		c.in = c.in[:copy(c.in, p)]
	}
}

// free is called when an exchange has ended and the connection can be used
// again.
func (c *client) free() {
	c.x = nil
	if c.last || c.w.view.draining {
		c.finish()
		return
	}
	c.phase = idle
	c.arm(int64(c.w.view.settings.IdleTimeout))
	if c.in != nil || c.conn.Readable() {
		c.conn.Again() // a pipelined request
	}
}

// finish sends what is left to send and closes.
func (c *client) finish() {
	c.x = nil
	c.phase = flushing
	c.arm(int64(c.w.view.settings.BodyTimeout))
	if c.conn.Buffered() == 0 {
		c.linger()
	}
}

// linger closes in a way that lets the client read the last answer.
func (c *client) linger() {
	if c.body.Done() && c.in == nil && !c.conn.Readable() {
		c.close()
		return
	}
	c.phase = lingering
	c.conn.CloseWrite()
	c.seen = 0
	c.arm(lingerTime)
	c.discard()
}

func (c *client) discard() {
	c.rest(nil)
	for c.seen < lingerBytes {
		n, err := c.conn.Read(c.w.loop.In)
		if err == loop.ErrAgain { //nolint:errorlint // see read
			return
		}
		if err != nil {
			break
		}
		c.seen += n
	}
	c.close()
}

// refuse answers a head that cannot be served.
func (c *client) refuse(err *h1.Error) {
	x := c.w.exchange()
	c.x = x
	c.phase = busy
	c.last = true
	c.body.Reset(h1.UntilClose, 0) // where the next request begins is unknown
	x.refused(c, err)
}

// lost is called when the connection has broken.
func (c *client) lost() {
	if c.x != nil {
		c.x.clientLost()
		return
	}
	c.close()
}

// leave asks the connection to go: after its request if it has one, else by
// soon; in any case by deadline.
func (c *client) leave(soon, deadline int64) {
	switch c.phase {
	case idle, shaking, reading:
		c.last = true
		c.w.loop.Arm(&c.timer, soon)
	case busy, tunnel:
		c.last = true
		c.x.hurry(deadline)
	case flushing, lingering, closed:
	}
}

// cut ends the connection because its loop ends.
func (c *client) cut() {
	if c.x != nil {
		c.x.cut()
	}
	c.close()
}

// expired is called when the connection's time is over. While it is busy, the
// exchange has the time in hand.
func (c *client) expired() {
	switch c.phase {
	case shaking:
		c.conn.CancelHandshake()
	case reading:
		c.w.req = h1.Request{Fields: c.w.req.Fields[:0]} // what is there is another's
		c.refuse(&h1.Error{Status: record.HeaderTimeout.Status(), Reason: "the request's headers did not arrive in time"})
	case busy, tunnel:
	default:
		c.close()
	}
}

func (c *client) close() {
	if c.phase == closed {
		return
	}
	c.phase = closed
	w := c.w
	w.loop.Stop(&c.timer)
	w.clients.remove(c)
	w.loop.Buffers.Give(c.in)
	c.in = nil
	c.conn.Close()
	c.counts.Active--
	w.proxy.conns.Add(-1)
}

// reset closes so that the client sees that its answer was cut off.
func (c *client) reset() {
	if c.phase != closed {
		c.conn.Reset()
		c.close()
	}
}
