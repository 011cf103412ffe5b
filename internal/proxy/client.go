package proxy

import (
	"errors"
	"io"
	"net/netip"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/h2"
	"windrose.dev/windrose/internal/loop"
	"windrose.dev/windrose/internal/plan"
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
	// rechunk: the answer's body is sent in chunks.
	rechunk bool
	shut    bool // a tunnel's end is to be told once all is sent

	in      []byte // read and not used yet; nil while there is nothing
	seen    int    // how much of in was searched for the end of a head
	started int64  // when the first byte of a head came
	timer   loop.Timer
	last    bool // no more requests after this one
	served  bool // there was a request
	trusted bool // the peer's X-Forwarded headers are kept
	secure  bool
	sni     string
	tlsName string // "TLS1.3"

	check    *plan.ClientCheck // that the handshake was made under; nil for none
	unproven bool              // it asked for less than proof, and got less
	identity *identity         // nil for a client that proved nothing

	h2 *h2client // once the connection speaks HTTP/2
	h3 bool      // see h3conn

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
	multiplexed // HTTP/2: see h2client
	flushing    // the last answer is being sent
	lingering   // it is sent; what the client still sends is thrown away
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
	w.opened()
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
	if c.phase == multiplexed {
		c.h2.ready(r)
		return
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
		c.identify(s)
		if s.NegotiatedProtocol == "h2" {
			c.startH2(nil)
			return
		}
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
	if c.phase == idle || c.phase == reading {
		c.resume() // requests waited for the client to take its answers
		return true
	}
	switch c.phase {
	case flushing:
		c.linger()
		return false
	case busy, tunnel:
		if c.shut {
			c.shut = false
			c.conn.CloseWrite()
		}
		c.x.clientDrained()
	case shaking, idle, reading, multiplexed, lingering, closed:
	}
	return c.phase != closed
}

// read reads what is there, as long as somebody takes it.
func (c *client) read() {
	switch c.phase {
	case busy, tunnel:
		c.pumpBody()
		return
	case lingering:
		c.discard()
		return
	case flushing, closed, multiplexed:
		return
	case shaking, idle, reading:
	}
	if c.in != nil && c.seen < len(c.in) {
		c.process(c.in)
	}
	for range turnReads {
		if (c.phase != idle && c.phase != reading) || (c.in != nil && c.seen < len(c.in)) || c.blocked() {
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
		if c.blocked() {
			// Who sends requests and reads no answers would have them all kept.
			c.rest(p)
			return
		}
		if c.phase == idle {
			c.phase = reading
			c.started = w.loop.Clock()
		}
		if !c.secure && isPreface(p) && c.first() {
			c.preface(p)
			return
		}
		w.req = &w.req1
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
		p = c.serve(p[n:])
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

// streams says whether requests are streams of the connection.
func (c *client) streams() bool { return c.h2 != nil || c.h3 }

// first says whether nothing was served on the connection yet.
func (c *client) first() bool { return !c.served }

// isPreface says whether p is the beginning of HTTP/2 with prior knowledge (RFC
// 9113 3.3), as far as it goes: no method is called PRI.
func isPreface(p []byte) bool {
	return len(p) >= 3 && p[0] == 'P' && string(p[:min(len(p), len(h2.Preface))]) == h2.Preface[:min(len(p), len(h2.Preface))]
}

// preface starts HTTP/2 once all of its preface is there.
func (c *client) preface(p []byte) {
	if len(p) < len(h2.Preface) {
		c.wait(p)
		return
	}
	c.startH2(p)
}

// serve begins the request in w.req; p is what follows its head. It returns what
// belongs to the next request.
func (c *client) serve(p []byte) []byte {
	w := c.w
	c.phase = busy
	c.served = true
	c.rechunk = false
	c.body.Reset(w.req.Body, w.req.Length)
	if !w.req.KeepAlive || w.view.draining {
		c.last = true
	}
	w.loop.Stop(&c.timer)
	x := w.exchange()
	c.x = x
	w.after = p
	forwarded := x.begin(c, c, c.started)
	p, w.after = w.after, nil
	if !forwarded {
		return p
	}
	for len(p) > 0 && !c.body.Done() {
		data, n, _, err := c.body.Next(p)
		if err != nil {
			x.fail(record.BadRequest, err.Reason)
			return nil
		}
		x.keep(data)
		p = p[n:]
	}
	if c.body.Done() {
		x.keepEnd(c.body.Trailers())
	}
	x.launch()
	return p
}

// pumpBody moves the request's body, or what comes through a tunnel, to the
// endpoint, as long as that takes it.
func (c *client) pumpBody() {
	x := c.x
	for range turnReads {
		if c.body.Done() && x.asks.empty() || x.upEnd || !x.wants() {
			return
		}
		if c.phase == tunnel && c.in != nil { // it came before the answer
			if !c.upload(c.in) {
				return
			}
			continue
		}
		if x.asks.bulk || x.asks.pipe != nil {
			if done, took := c.splice(); done {
				return
			} else if took {
				continue
			}
		}
		n, err := c.conn.Read(c.w.loop.In)
		switch {
		case err == loop.ErrAgain: //nolint:errorlint // see read
			return
		case err == nil:
			if !c.upload(c.w.loop.In[:n]) {
				return
			}
			x.asks.bulk = n >= bulkRead && c.body.Left() >= leastBulk && x.splicesUp()
		case c.phase == tunnel && errors.Is(err, io.EOF):
			if x.onBodyEnd(nil) {
				x.flushUp()
			}
			return
		default:
			x.clientLost()
			return
		}
	}
	c.conn.Again()
}

// upload forwards a piece of the body; it says whether more is wanted.
func (c *client) upload(p []byte) bool {
	x := c.x
	for len(p) > 0 && !c.body.Done() {
		data, n, done, err := c.body.Next(p)
		if err != nil {
			x.fail(record.BadRequest, err.Reason)
			return false
		}
		p = p[n:]
		if len(data) > 0 && !x.onBody(data) || done && !x.onBodyEnd(c.body.Trailers()) {
			c.giveUp(len(p))
			return false
		}
	}
	c.rest(p) // the beginning of the next request
	return x.flushUp() && !c.body.Done()
}

// giveUp is called when the endpoint took no more of a body while so many bytes
// that follow were in hand. They are gone (what the endpoint had answered was
// read over them), so that where the next request begins is unknown.
func (c *client) giveUp(following int) {
	if following == 0 || c.phase == closed {
		return
	}
	c.last = true
	if c.phase == idle {
		c.finish()
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
	c.w.loop.Stop(&c.timer)
	x.refused(c, c, c.started, err)
}

// What follows makes client the clientSide of its exchanges.

func (c *client) whole() bool   { return c.body.Done() }
func (c *client) blocked() bool { return c.conn.Full() }

func (c *client) resume() {
	if c.phase == busy && !c.x.asks.empty() {
		c.pumpBody() // what is in the pipe needs no event of the client's
		return
	}
	if c.in != nil || c.conn.Readable() {
		c.conn.Again()
	}
}

// interim passes on a 1xx; HTTP/1.0 has none.
func (c *client) interim() error {
	if c.x.minor == 0 {
		return nil
	}
	c.w.down = c.appendInterim(c.w.down[:0])
	return c.flush()
}

func (c *client) respond(end bool) {
	if c.x.own && !c.body.Done() {
		c.skim()
	}
	c.w.down = c.appendResponse(c.w.down[:0], end)
}

// skim skips the rest of a request that windrose answers by itself, if all of it
// is in hand: then the connection can go on.
func (c *client) skim() {
	w := c.w
	body, p := c.body, w.after
	for len(p) > 0 && !body.Done() {
		_, n, _, err := body.Next(p)
		if err != nil {
			return
		}
		p = p[n:]
	}
	if body.Done() {
		c.body, w.after = body, p
	}
}

func (c *client) turn() error {
	c.last = true
	c.phase = tunnel
	c.body.Reset(h1.UntilClose, 0)
	c.w.down = c.appendSwitch(c.w.down[:0])
	c.resume()
	return c.flush()
}

func (c *client) data(p []byte) error {
	w := c.w
	switch {
	case c.rechunk:
		w.down = h1.AppendChunk(w.down, p)
	case len(w.down)+len(p) <= gatherBytes:
		w.down = append(w.down, p...)
	default:
		out := w.down
		w.down = w.down[:0]
		return c.conn.Write2(out, p)
	}
	return nil
}

func (c *client) end(trailers []h1.Field) error {
	if c.phase == tunnel {
		err := c.flush()
		if c.shut = c.conn.Buffered() > 0; !c.shut {
			c.conn.CloseWrite()
		}
		return err
	}
	if c.rechunk {
		c.w.down = h1.AppendLastChunk(c.w.down, trailers)
	}
	return nil
}

func (c *client) flush() error {
	out := c.w.down
	if len(out) == 0 {
		return nil
	}
	c.w.down = out[:0]
	return c.conn.Write(out)
}

func (c *client) finished() {
	if !c.body.Done() {
		c.last = true // what the client still sends is not wanted
	}
	c.free()
}

func (c *client) broken(partly bool) {
	c.x = nil
	if partly {
		c.reset() // if it is still there, it must not take this for the end
		return
	}
	c.close()
}

// unused says that nothing is under way on the connection: it waits for its
// client.
func (c *client) unused() bool {
	switch c.phase {
	case shaking, idle, reading:
		return c.conn.Buffered() == 0
	case multiplexed:
		return c.h2.streams.n == 0 && !c.h2.dirty && c.conn.Buffered() == 0
	case busy, tunnel, flushing, lingering, closed:
	}
	return false
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
	case multiplexed:
		c.h2.leave(soon, deadline)
	case flushing, lingering, closed:
	}
}

// cut ends the connection because its loop ends.
func (c *client) cut() {
	if c.x != nil {
		c.x.cut()
	}
	if c.h2 != nil {
		c.h2.cut()
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
		c.w.req = &c.w.req1
		*c.w.req = h1.Request{Fields: c.w.req.Fields[:0]} // what is there is another's
		c.refuse(&h1.Error{Status: record.HeaderTimeout.Status(), Reason: "the request's headers did not arrive in time"})
	case busy, tunnel:
	case multiplexed:
		c.h2.expired()
	default:
		if c.phase == idle && !c.served {
			c.w.tel.CutSlow++
		}
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
	if c.h2 != nil {
		c.h2.h.Close()
	}
	c.conn.Close()
	c.counts.Active--
	w.ended()
}

// reset closes so that the client sees that its answer was cut off.
func (c *client) reset() {
	if c.phase != closed {
		c.conn.Reset()
		c.close()
	}
}
