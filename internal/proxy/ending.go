package proxy

import (
	"errors"
	"io"
	"time"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/record"
)

// This file is about how an exchange ends before or with its answer: ends of
// connections, times that run out, and the record.

// serverEnded is called when reading from the endpoint ends.
func (x *exchange) serverEnded(err error) {
	if !errors.Is(err, io.EOF) || !x.answered {
		x.serverLost(err)
		return
	}
	if !x.untilClose {
		x.serverLost(err)
		return
	}
	x.reuse = false
	if x.rechunk {
		x.w.out = h1.AppendLastChunk(x.w.out[:0], nil)
		if err := x.c.conn.Write(x.w.out); err != nil {
			x.clientLost()
			return
		}
	}
	x.complete()
}

// serverLost is called when the connection to the endpoint has broken or was
// never made.
func (x *exchange) serverLost(err error) {
	s := x.s
	e := s.endpoint
	untouched := !s.stands
	if untouched {
		e.Refused(x.w.loop.Now())
		x.w.tel.UpstreamFailed++
	}
	again := x.whole && !x.answered && s.in == nil
	switch {
	case again && untouched && x.attempts < maxAttempts:
		x.tried = append(x.tried, e)
	case again && s.reused && x.idempotent && !x.raced:
		x.raced = true // the endpoint closed it while the request was on its way
	case untouched:
		x.fail(record.ConnectFailed, x.unreachable(err.Error()))
		return
	default:
		x.fail(record.UpstreamReset, "endpoint "+e.Addr.String()+" closed the connection before its answer ended ("+err.Error()+")")
		return
	}
	x.release(false)
	x.try()
}

// serverBroken is called when the connection to the endpoint has broken. The
// endpoint may have answered before, as it does when it refuses a body: what
// came is read up to the break.
func (x *exchange) serverBroken() {
	x.deaf = true
	x.pumpResponse()
}

// cut ends the exchange because the event loop ends.
func (x *exchange) cut() {
	if x.c.phase == tunnel {
		x.endTunnel()
		return
	}
	x.fail(record.Draining, "windrose ended before the answer did")
}

// clientLost is called when the client has gone.
func (x *exchange) clientLost() {
	c := x.c
	if c.phase == tunnel {
		x.endTunnel()
		return
	}
	partly := x.answered
	x.rec.Fault = record.ClientGone
	x.rec.Reason = "the client closed the connection before the answer ended"
	if x.rec.Status == 0 {
		x.rec.Status = record.ClientGone.Status()
	}
	x.release(false)
	x.emit()
	c.x = nil
	if partly {
		c.reset() // if it is still there after all, it must not take this for the end
		return
	}
	c.close()
}

// release gives the endpoint and its connection back.
func (x *exchange) release(reuse bool) {
	s := x.s
	if s == nil {
		return
	}
	x.s = nil
	s.endpoint.End()
	if reuse {
		s.release()
	} else {
		s.close()
	}
}

// arm sets the timer for whatever comes first.
func (x *exchange) arm() { x.w.loop.Arm(&x.timer, x.nextLine()) }

func (x *exchange) nextLine() int64 {
	line := x.activity + x.silence()
	for _, l := range [3]int64{x.deadline, x.backendLine, x.drainLine} {
		if l != 0 {
			line = min(line, l)
		}
	}
	return line
}

// silence is how long nothing may move.
func (x *exchange) silence() int64 {
	if x.c.phase == tunnel {
		return int64(x.view.settings.TunnelTimeout)
	}
	return int64(x.view.settings.BodyTimeout)
}

// hurry bounds the exchange, because windrose or its listener goes away.
func (x *exchange) hurry(deadline int64) {
	x.drainLine = deadline
	x.arm()
}

func (x *exchange) expired() {
	now := x.w.loop.Now()
	switch {
	case x.deadline != 0 && now >= x.deadline:
		x.fail(record.RequestTimeout, "the rule's timeouts.request ran out")
	case x.backendLine != 0 && now >= x.backendLine:
		x.fail(record.BackendTimeout, "endpoint "+x.rec.Endpoint.String()+" did not answer within the rule's timeouts.backendRequest")
	case x.drainLine != 0 && now >= x.drainLine:
		x.fail(record.Draining, "windrose or the listener goes away, and the request took longer than the drain timeout")
	case now < x.activity+x.silence():
		x.arm() // something moved since the timer was set
	case x.c.phase == tunnel:
		x.endTunnel()
	case x.c.conn.Buffered() > 0:
		x.clientLost() // it does not read its answer
	case !x.c.body.Done() && !x.answered && x.s != nil && x.s.conn.Buffered() == 0:
		x.fail(record.BodyTimeout, "the request's body fell silent")
	default:
		x.fail(record.BackendTimeout, "endpoint "+x.rec.Endpoint.String()+" fell silent for longer than the gateway's body timeout")
	}
}

// emit fills what is left of the record, and gives it away. x is not to be used
// afterwards.
func (x *exchange) emit() {
	w := x.w
	w.loop.Stop(&x.timer)
	x.rec.Duration = time.Duration(w.loop.Clock() - x.begun)
	x.rec.Attempts = x.attempts
	w.tel.RequestsActive--
	w.tel.Emit(&x.rec)
	w.recycle(x)
}
