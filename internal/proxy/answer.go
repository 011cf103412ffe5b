package proxy

import (
	"time"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/loop"
	"windrose.dev/windrose/internal/record"
)

// This file brings the endpoint's answer to the client.

// pumpResponse moves what the endpoint sends to the client, as long as that
// takes it.
func (x *exchange) pumpResponse() {
	s, c := x.s, x.c
	if c.phase == tunnel {
		x.pumpDown()
		return
	}
	for range turnReads {
		if c.conn.Buffered() > 0 {
			return // clientDrained goes on
		}
		n, err := s.conn.Read(x.w.loop.In)
		if err == loop.ErrAgain { //nolint:errorlint // see client.read
			return
		}
		if err != nil {
			x.serverEnded(err)
			return
		}
		x.activity = x.w.loop.Now()
		p := x.w.loop.In[:n]
		if x.answered {
			x.relay(nil, p)
		} else {
			x.head(p)
		}
		if s.x != x || c.phase == tunnel {
			return // the exchange has ended, has another endpoint, or became a tunnel
		}
	}
	s.conn.Again()
}

// head reads the head of the answer, interim ones included, and what follows.
func (x *exchange) head(p []byte) {
	w, s := x.w, x.s
	b := &w.loop.Buffers
	if s.in != nil {
		s.in = b.Append(s.in, p)
		p = s.in
	}
	resp := &w.resp
	for {
		n, err := resp.Parse(p, s.seen, x.methodBytes(), w.limits())
		if err != nil {
			x.fail(record.UpstreamProtocol, "endpoint "+s.endpoint.Addr.String()+": "+err.Reason)
			return
		}
		if n == 0 {
			x.waitHead(p)
			return
		}
		s.seen = 0
		p = p[n:]
		switch {
		case resp.Status == 101 && x.upgrade:
			x.startTunnel(p)
			return
		case resp.Status == 101:
			x.fail(record.UpstreamProtocol, "endpoint "+s.endpoint.Addr.String()+" switched protocols without being asked")
			return
		case resp.Status >= 200:
			x.respond(p)
			return
		}
		if !x.interim() {
			return
		}
	}
}

// waitHead keeps the beginning of an answer's head.
func (x *exchange) waitHead(p []byte) {
	s, b := x.s, &x.w.loop.Buffers
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

// interim passes an interim answer on (RFC 9110, 15.2); HTTP/1.0 has none.
func (x *exchange) interim() bool {
	if x.minor == 0 {
		return true
	}
	w := x.w
	x.whole = false // the client has seen a part of this attempt
	w.out = x.appendInterim(w.out[:0])
	if err := x.c.conn.Write(w.out); err != nil {
		x.clientLost()
		return false
	}
	return true
}

// respond sends the final head with what of the body came along.
func (x *exchange) respond(p []byte) {
	w, resp := x.w, &x.w.resp
	now := w.loop.Clock()
	x.rec.Upstream = time.Duration(now - x.attempt)
	x.s.endpoint.Answered(w.loop.Now(), now-x.attempt)
	x.rec.Status = resp.Status
	x.reuse = resp.KeepAlive
	x.untilClose = resp.Body == h1.UntilClose
	x.answer.Reset(resp.Body, resp.Length)
	out := x.appendResponse(w.out[:0])
	x.answered = true
	x.forget()
	held := x.s.in
	x.s.in = nil
	x.relay(out, p)
	w.loop.Buffers.Give(held) // p lay in it
}

// relay sends out and then the piece p of the answer's body.
func (x *exchange) relay(out, p []byte) {
	w := x.w
	if out == nil {
		out = w.out[:0]
	}
	done := x.answer.Done()
	if done && x.rechunk {
		out = h1.AppendLastChunk(out, nil)
	}
	for len(p) > 0 && !done {
		data, n, end, err := x.answer.Next(p)
		if err != nil {
			x.fail(record.UpstreamProtocol, "endpoint "+x.s.endpoint.Addr.String()+": "+err.Reason)
			return
		}
		p, done = p[n:], end
		x.rec.BytesOut += int64(len(data))
		var tail []byte
		switch {
		case len(data) == 0:
		case x.rechunk:
			out = h1.AppendChunk(out, data)
		case len(out)+len(data) <= gatherBytes:
			out = append(out, data...)
		default:
			tail = data
		}
		if done && x.rechunk {
			out = h1.AppendLastChunk(out, x.answer.Trailers())
		}
		if len(tail) > 0 {
			if err := x.c.conn.Write2(out, tail); err != nil {
				x.clientLost()
				return
			}
			out = out[:0]
		}
	}
	w.out = out[:0]
	if len(out) > 0 {
		if err := x.c.conn.Write(out); err != nil {
			x.clientLost()
			return
		}
	}
	if done {
		if len(p) > 0 {
			x.reuse = false // more than one answer: not to be trusted with the next
		}
		x.complete()
	}
}

// complete ends an exchange whose answer is sent.
func (x *exchange) complete() {
	c := x.c
	sentAll := c.body.Done()
	if !sentAll {
		c.last = true // what the client still sends is not wanted
	}
	x.release(x.reuse && sentAll)
	x.emit()
	c.free()
}
