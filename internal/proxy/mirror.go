package proxy

import (
	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/plan"
)

// This file copies requests to mirrors. A copy is an exchange of its own, whose
// client is nobody: it begins when windrose has all of the request, and at the
// end of a turn, when no other exchange is in the middle of something. So it can
// neither slow nor break the request that it is a copy of. A request of which
// more would have to be held than the settings allow is not copied.

// maxCopies bounds the copies of one loop that are not over: a mirror that hangs
// must not take the memory and descriptors that requests need.
const maxCopies = 256

// mirror begins the copies that the filters ask for, while the head is at hand.
func (x *exchange) mirror() {
	var position uint64 // of the request among its rule's; all mirrors of the rule see the same
	counted := false
	for _, steps := range [2][]plan.Step{x.rule.Filters, x.backend.Steps} {
		for i := range steps {
			if steps[i].Kind != plan.StepMirror {
				continue
			}
			m := steps[i].Mirror
			if !counted && !m.Always() {
				counted = true
				position = x.w.proxy.mirrored.next(x.rule.Slot)
			}
			if x.upgrade || !m.Takes(position) {
				continue
			}
			if x.w.copies >= maxCopies {
				x.w.tel.MirrorsDropped++
				continue
			}
			if y := x.copyTo(m); y != nil {
				x.mirrors = append(x.mirrors, y)
				x.w.copies++
			} else {
				x.w.tel.MirrorsFailed++
			}
		}
	}
}

// copyTo makes a copy; nil if the mirror has no endpoint.
func (x *exchange) copyTo(m *plan.BoundMirror) *exchange {
	service := x.view.up.Service(m.Service).For(x.listener)
	if service == nil || len(service.Endpoints()) == 0 {
		return nil
	}
	y := x.w.exchange()
	y.c, y.down, y.view, y.shadow = x.c, nobody{}, x.view, true
	y.listener, y.rule, y.prefix = x.listener, x.rule, x.prefix
	y.backend = &plan.BoundBackend{Service: m.Service, ServiceName: m.ServiceName}
	y.service, y.protocol = service, service.Protocol
	y.minor, y.method, y.idempotent = x.minor, x.method, x.idempotent
	y.rec.ID = x.rec.ID
	if x.steps != nil { // not the backend's: that is another service
		y.steps = &[2][]plan.Step{x.steps[0]}
	}
	if x.tracing != nil {
		// The copy is below the request's own span: it has none itself.
		y.tracing, y.b3, y.state = x.tracing, x.b3, x.state
		y.rec.Trace = x.rec.Trace
		y.rec.Trace.Tags = nil
	}
	y.sent = y.appendRequest(x.w.loop.Buffers.Take(4<<10), y.filters())
	y.rec.ID = nil // it is x's
	y.headLen = len(y.sent)
	y.whole = true
	return y
}

// copyBody adds a piece of the body to the copies.
func (x *exchange) copyBody(p []byte) {
	kept := x.mirrors[:0]
	for _, y := range x.mirrors {
		if len(y.sent)-y.headLen+len(p) > x.view.settings.MaxBufferedBytes {
			y.discard()
			continue
		}
		y.retain(p)
		kept = append(kept, y)
	}
	x.mirrors = kept
}

// copyEnd has the copies sent, which are whole now.
func (x *exchange) copyEnd(trailers []h1.Field) {
	for _, y := range x.mirrors {
		y.keepEnd(trailers)
		y.begun = x.w.loop.Clock()
		y.activity = x.w.loop.Now()
		x.w.dirty = append(x.w.dirty, y)
	}
	x.mirrors = nil
}

// discard gives up a copy that was not sent.
func (x *exchange) discard() {
	x.w.tel.MirrorsDropped++
	x.w.recycle(x)
}

// turnEnd sends a copy.
func (x *exchange) turnEnd() {
	// Nobody waits for the answer, so nobody would end one that never does.
	x.deadline = x.w.loop.Now() + int64(x.view.settings.BodyTimeout)
	x.launch()
}

// endCopy counts a copy that is over.
func (x *exchange) endCopy() {
	if x.rec.Fault != 0 {
		x.w.tel.MirrorsFailed++
		return
	}
	x.w.tel.MirrorsAnswered++
}

// nobody takes an answer that nobody wants.
type nobody struct{}

func (nobody) whole() bool          { return true }
func (nobody) blocked() bool        { return false }
func (nobody) resume()              {}
func (nobody) interim() error       { return nil }
func (nobody) respond(bool)         {}
func (nobody) turn() error          { return errNoTunnel }
func (nobody) data([]byte) error    { return nil }
func (nobody) end([]h1.Field) error { return nil }
func (nobody) flush() error         { return nil }
func (nobody) finished()            {}
func (nobody) broken(bool)          {}
