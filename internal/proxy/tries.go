package proxy

import (
	"time"

	"windrose.dev/windrose/internal/record"
	"windrose.dev/windrose/internal/upstream"
)

// This file writes down, in a request's record, when its phases were. The clock
// is read only where it is read anyhow, or where something has gone wrong: what
// begins and ends in one turn of the loop shows one time.

// since is a moment of the loop as a record's time; never 0, which means that
// something did not happen.
func (x *exchange) since(moment int64) time.Duration {
	return time.Duration(max(moment-x.begun, 1))
}

// tryBegins notes an attempt that begins at x.attempt.
func (x *exchange) tryBegins(e *upstream.Endpoint) {
	t := x.rec.Try()
	t.Service, t.Endpoint, t.Begun = x.backend.ServiceName, e.Addr, x.since(x.attempt)
	if x.tracing != nil && !x.shadow {
		x.tryTraced()
	}
}

// tryStands notes that the attempt has a connection that was there before.
func (x *exchange) tryStands() {
	t := x.rec.LastTry()
	t.Connected, t.Reused = t.Begun, true
}

// tryConnected notes that the attempt's connection was made; what there is of
// the request leaves with that.
func (x *exchange) tryConnected() {
	t := x.rec.LastTry()
	t.Connected = x.since(x.w.loop.Clock())
	if x.sentEnd {
		t.Sent = t.Connected
	}
}

// trySent notes that the endpoint was given the end of the request.
func (x *exchange) trySent() {
	if t := x.rec.LastTry(); t.Connected != 0 {
		t.Sent = max(x.since(x.w.loop.Now()), t.Connected)
	}
}

// tryAnswered notes the answer's final head.
func (x *exchange) tryAnswered(now int64, status int) {
	t := x.rec.LastTry()
	t.Answered, t.Status = x.since(now), status
}

// tryFailed ends the attempt with a fault of its own, which need not be the
// request's: there may be another attempt.
func (x *exchange) tryFailed(flag record.Flag, reason string) {
	if t := x.rec.LastTry(); t != nil && t.Ended == 0 {
		t.Ended, t.Fault, t.Reason = x.since(x.w.loop.Clock()), flag, reason
	}
}

// tryOver ends the last attempt with its request, when that has its duration.
func tryOver(r *record.Record) {
	if t := r.LastTry(); t != nil && t.Ended == 0 {
		t.Ended, t.Fault, t.Reason = r.Duration, r.Fault, r.Reason
	}
}
