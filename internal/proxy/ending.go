package proxy

import (
	"errors"
	"time"

	"windrose.dev/windrose/internal/loop"
	"windrose.dev/windrose/internal/record"
)

// This file is about how an exchange ends before or with its answer: ends of
// connections, times that run out, and the record.

// serverLost is called when the connection to the endpoint has broken or was
// never made. The request is given to another where that can do no harm.
func (x *exchange) serverLost(err error, how loss) {
	e := x.s.endpoint()
	if how == unreached && errors.Is(err, loop.ErrBusy) {
		x.fail(record.Overload, "windrose has too many TLS handshakes with endpoints in progress")
		return
	}
	if how == unreached {
		x.cause = err
		e.Refused(x.w.loop.Now())
		x.w.tel.UpstreamFailed++
		x.tryFailed(record.ConnectFailed, err.Error())
	} else {
		x.tryFailed(record.UpstreamReset, err.Error())
	}
	if how == midway {
		x.blame()
	}
	again := x.whole && !x.answered
	switch {
	case again && how == unreached && x.attempts < maxAttempts && !x.once():
		x.tried = append(x.tried, e)
	case again && how == unseen && x.attempts < maxAttempts:
	case again && how == stale && x.idempotent && !x.raced:
		x.raced = true // the endpoint closed it while the request was on its way
	case (how == unreached || x.idempotent) && x.again():
		x.pause(false)
		return
	case how == unreached:
		x.fail(record.ConnectFailed, x.unreachable())
		return
	default:
		x.fail(record.UpstreamReset, "endpoint "+e.Addr.String()+" closed the connection before its answer ended ("+err.Error()+")")
		return
	}
	x.release(false)
	x.try()
}

// serverBroken is called when writing to the endpoint has failed. The endpoint
// may have answered before, as it does when it refuses a body: what came is read
// up to the break. It says that the request does not go on.
func (x *exchange) serverBroken() bool {
	x.deaf = true
	x.s.resume()
	return false
}

// blame has the endpoint asked less: it had the request, and no answer came.
func (x *exchange) blame() {
	if x.s != nil && !x.answered {
		x.s.endpoint().Failed(x.w.loop.Now())
	}
}

// cut ends the exchange because the event loop ends.
func (x *exchange) cut() {
	if x.tunnel {
		x.endTunnel()
		return
	}
	x.fail(record.Draining, "windrose ended before the answer did")
}

// clientLost is called when the client has gone.
func (x *exchange) clientLost() {
	if x.tunnel {
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
	x.emit().broken(partly)
}

// settled ends a tunnel whose ends have both said that they are done, once they
// have taken all that they were given. It says whether it did.
func (x *exchange) settled() bool {
	if !x.tunnel || !x.upEnd || !x.downEnd {
		return false
	}
	if x.s.flush() != nil || x.down.flush() != nil {
		x.endTunnel()
		return true
	}
	if x.s.blocked() || x.down.blocked() {
		return false
	}
	x.endTunnel()
	return true
}

// endTunnel ends a tunnel, whether both ends have said so or one is lost.
func (x *exchange) endTunnel() {
	x.w.tel.TunnelsActive--
	x.release(false)
	x.emit().broken(false)
}

// release gives the endpoint and its connection back.
func (x *exchange) release(keep bool) {
	s := x.s
	if s == nil {
		return
	}
	x.s = nil
	for _, l := range [2]*lane{&x.asks, &x.answers} {
		x.w.loop.GivePipe(l.pipe)
		*l = lane{}
	}
	s.endpoint().End()
	s.release(keep)
}

// arm sets the timer for whatever comes first.
func (x *exchange) arm() { x.w.loop.Arm(&x.timer, x.nextLine()) }

func (x *exchange) nextLine() int64 {
	line := x.activity + x.silence()
	for _, l := range [4]int64{x.deadline, x.backendLine, x.drainLine, x.retryLine} {
		if l != 0 {
			line = min(line, l)
		}
	}
	return line
}

// silence is how long nothing may move.
func (x *exchange) silence() int64 {
	if x.tunnel {
		return int64(x.view.settings.TunnelTimeout)
	}
	if x.gate != nil && !x.gate.wants() {
		return int64(x.view.settings.AuthTimeout + x.view.settings.BodyTimeout) // the check has its own time
	}
	if x.retryLine != 0 {
		return x.retryLine + 1 - x.activity // it is windrose that waits
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
		if x.down.whole() {
			x.blame()
		}
		x.fail(record.RequestTimeout, "the rule's timeouts.request ran out")
	case x.backendLine != 0 && now >= x.backendLine && x.idempotent && x.again():
		x.tryFailed(record.BackendTimeout, "it did not answer within the rule's timeouts.backendRequest")
		x.blame()
		x.pause(false)
	case x.backendLine != 0 && now >= x.backendLine:
		x.fail(record.BackendTimeout, "endpoint "+x.rec.Endpoint.String()+" did not answer within the rule's timeouts.backendRequest")
	case x.drainLine != 0 && now >= x.drainLine:
		x.fail(record.Draining, "windrose or the listener goes away, and the request took longer than the drain timeout")
	case x.retryLine != 0 && now >= x.retryLine:
		x.resend()
	case now < x.activity+x.silence():
		x.arm() // something moved since the timer was set
	case x.tunnel:
		x.endTunnel()
	case x.gate != nil:
		x.gate.fell()
	case x.down.blocked():
		x.clientLost() // it does not read its answer
	case !x.down.whole() && !x.answered && x.s != nil && !x.s.blocked():
		x.fail(record.BodyTimeout, "the request's body fell silent")
	default:
		x.fail(record.BackendTimeout, "endpoint "+x.rec.Endpoint.String()+" fell silent for longer than the gateway's body timeout")
	}
}

// emit fills what is left of the record, gives it away, and gives x back. It
// returns the client's side, which is to be told that the exchange is over; x is
// not to be used afterwards.
func (x *exchange) emit() clientSide {
	w, down := x.w, x.down
	w.loop.Stop(&x.timer)
	for _, y := range x.mirrors {
		y.discard() // the client did not send all of the request
	}
	if x.gate != nil {
		x.gate.over()
	}
	if x.check != nil {
		x.check.over(x.rec.Fault, x.rec.Reason)
		w.recycle(x)
		return nobody{}
	}
	if x.shadow {
		x.endCopy()
		w.recycle(x)
		return down
	}
	x.rec.Duration = time.Duration(w.loop.Clock() - x.begun)
	x.rec.Attempts = x.attempts
	if x.own {
		x.rec.Answered = x.rec.Duration
	}
	tryOver(&x.rec)
	w.tel.RequestsActive--
	w.tel.Emit(&x.rec)
	if x.tracing != nil {
		x.traceEnds()
	}
	w.recycle(x)
	return down
}
