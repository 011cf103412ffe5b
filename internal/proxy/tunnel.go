package proxy

import (
	"errors"
	"io"

	"windrose.dev/windrose/internal/loop"
)

// A tunnel is what an exchange becomes when the endpoint switches protocols
// (101): bytes go both ways until both ends are closed, or nothing moved for
// the tunnel timeout. Each direction can end by itself.

// startTunnel sends the 101 and turns both connections over. p is what the
// endpoint sent behind it.
func (x *exchange) startTunnel(p []byte) {
	w, c := x.w, x.c
	x.rec.Status = 101
	x.answered = true
	x.forget()
	c.last = true
	c.phase = tunnel
	w.tel.TunnelsActive++
	x.deadline, x.backendLine = 0, 0
	w.out = x.appendSwitch(w.out[:0])
	w.out = append(w.out, p...)
	x.rec.BytesOut += int64(len(p))
	w.loop.Buffers.Give(x.s.in)
	x.s.in = nil
	if err := c.conn.Write(w.out); err != nil {
		x.endTunnel()
		return
	}
	x.arm()
	if in := c.in; in != nil { // sent before the answer came
		x.rec.BytesIn += int64(len(in))
		err := x.s.conn.Write(in)
		c.rest(nil)
		if err != nil {
			x.endTunnel()
			return
		}
	}
	x.s.conn.Again()
	c.conn.Again()
}

// pumpUp moves bytes from the client to the endpoint.
func (x *exchange) pumpUp() {
	if x.upEnd || x.s == nil {
		return
	}
	n, end, ok := x.pump(&x.c.conn, &x.s.conn)
	x.rec.BytesIn += n
	if !ok {
		x.endTunnel()
		return
	}
	if end {
		x.upEnd = true
		x.ended(&x.s.conn)
	}
}

// pumpDown moves bytes from the endpoint to the client.
func (x *exchange) pumpDown() {
	if x.downEnd || x.s == nil {
		return
	}
	n, end, ok := x.pump(&x.s.conn, &x.c.conn)
	x.rec.BytesOut += n
	if !ok {
		x.endTunnel()
		return
	}
	if end {
		x.downEnd = true
		x.ended(&x.c.conn)
	}
}

func (x *exchange) pump(from, to *loop.Conn) (moved int64, end, ok bool) {
	for range turnReads {
		if to.Buffered() > 0 {
			return moved, false, true
		}
		n, err := from.Read(x.w.loop.In)
		switch {
		case err == loop.ErrAgain: //nolint:errorlint // see client.read
			return moved, false, true
		case errors.Is(err, io.EOF):
			return moved, true, true
		case err != nil:
			return moved, false, false
		}
		moved += int64(n)
		x.activity = x.w.loop.Now()
		if err := to.Write(x.w.loop.In[:n]); err != nil {
			return moved, false, false
		}
	}
	from.Again()
	return moved, false, true
}

// ended passes an end on.
func (x *exchange) ended(to *loop.Conn) {
	if x.upEnd && x.downEnd {
		x.endTunnel()
		return
	}
	to.CloseWrite()
}

func (x *exchange) endTunnel() {
	c := x.c
	x.w.tel.TunnelsActive--
	x.release(false)
	x.emit()
	c.x = nil
	c.close()
}
