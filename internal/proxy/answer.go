package proxy

import (
	"net/http"
	"time"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/record"
)

// This file brings the endpoint's answer to the client.

// onInterim passes on the interim head in w.resp (RFC 9110, 15.2).
func (x *exchange) onInterim() bool {
	if x.interims++; x.interims > maxInterims {
		x.fail(record.UpstreamProtocol, "endpoint "+x.rec.Endpoint.String()+" sends interim answers without end")
		return false
	}
	x.activity = x.w.loop.Now()
	x.whole = false // the client sees a part of this attempt
	if err := x.down.interim(); err != nil {
		x.clientLost()
		return false
	}
	return true
}

// onHead begins the answer with the final head in w.resp; end says that no body
// follows: then onEnd is called next. It is false if the answer is not the last
// word and the endpoint's side was given back.
func (x *exchange) onHead(end bool) bool {
	w, resp := x.w, x.w.resp
	now := w.loop.Clock()
	x.activity = w.loop.Now()
	x.rec.Upstream = time.Duration(now - x.attempt)
	x.s.endpoint().Answered(w.loop.Now(), now-x.attempt)
	x.tryAnswered(now, resp.Status)
	if x.tracing != nil {
		x.traceAnswer()
	}
	if r := x.rule.Retry; retried(r, resp.Status) && x.again() {
		x.pause(x.s.spare() && x.down.whole())
		return false
	}
	if x.broke {
		x.fail(record.Overload, x.spent())
		return false
	}
	x.rec.Status = resp.Status
	x.rec.Answered = x.since(now)
	x.answered = true
	x.down.respond(end)
	x.forget()
	return true
}

// onSwitch answers that the endpoint has switched protocols, with the head in
// w.resp: the exchange becomes a tunnel.
func (x *exchange) onSwitch() bool {
	w := x.w
	now := w.loop.Clock()
	x.tryAnswered(now, http.StatusSwitchingProtocols)
	x.rec.Answered = x.since(now)
	x.rec.Status = http.StatusSwitchingProtocols
	x.answered, x.tunnel = true, true
	x.forget()
	x.chunked = false
	w.tel.TunnelsActive++
	x.deadline, x.backendLine = 0, 0
	if err := x.down.turn(); err != nil {
		x.endTunnel()
		return false
	}
	x.arm()
	return true
}

// onData passes on a piece of the answer's body.
func (x *exchange) onData(p []byte) bool {
	x.activity = x.w.loop.Now()
	x.rec.BytesOut += int64(len(p))
	if err := x.down.data(p); err != nil {
		x.clientLost()
		return false
	}
	return true
}

// onEnd ends the answer. keep says that the endpoint's side can be used again.
func (x *exchange) onEnd(trailers []h1.Field, keep bool) {
	x.downEnd = true
	if x.tunnel {
		if x.down.end(nil) != nil || x.down.flush() != nil {
			x.clientLost()
			return
		}
		x.settled()
		return
	}
	err := x.down.end(trailers)
	if err == nil {
		err = x.down.flush()
	}
	if err != nil {
		x.clientLost()
		return
	}
	x.release(keep && x.down.whole())
	x.emit().finished()
}

// flushDown sends what was gathered for the client.
func (x *exchange) flushDown() {
	if err := x.down.flush(); err != nil {
		x.clientLost()
	}
}
