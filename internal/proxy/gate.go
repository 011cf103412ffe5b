package proxy

import (
	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/record"
)

// This file holds a request back until all of its authorisers have said yes:
//
//	listener chosen ─> its authorisers ─> rule chosen ─> its authorisers ─>
//	backend picked ─> its authorisers ─> forwarded, mirrored
//
// The head is copied, since it must outlive the read it came in. What is done to
// the request here waits for the end of a turn, when no other exchange is in the
// middle of something, as a copy for a mirror does.

// gate is what an exchange has while it is held back.
type gate struct {
	x *exchange // nil once it is over

	req  h1.Request
	head []byte // what req points to
	path []byte // normalised

	at    stage
	asked int // of the listener's authorisers
	// steps is what is done to the request if it goes on: the filters of the rule and
	// of the backend, of each as many as walked says, with what authorisers said in
	// their places. Those of the listener stand before the rule's.
	steps  [2][]plan.Step
	walked [2]int

	held     []byte // of the body
	heldEnd  bool   // held is the whole body
	trailers []h1.Field
	reads    int64 // the body is read, up to so much; 0: it is not
	kept     int   // counts in worker.gated

	todo  func(*gate) // at the end of the turn
	check *check      // that is under way, or was the last
}

// stage says whose authorisers are asked.
type stage uint8

const (
	stageListener stage = iota + 1
	stageRule
	stageBackend
)

// maxGated bounds what the requests of one loop that are held back may keep.
const maxGated = 64 << 20

// hold makes the exchange wait for the authorisers of a stage.
func (x *exchange) hold(at stage, path []byte) {
	if x.gate != nil {
		x.gate.at = at
		return
	}
	req, w := x.w.req, x.w
	g := &gate{x: x, at: at}
	g.head = req.Keep(&g.req, w.loop.Buffers.Take(req.Size()+len(path)))
	n := len(g.head)
	g.head = append(g.head, path...)
	g.path = g.head[n:]
	g.keep(len(g.head))
	x.gate = g
}

// keep counts what is held.
func (g *gate) keep(n int) {
	g.kept += n
	g.x.w.gated += n
}

// start begins to ask. What of the body came along is held by now.
func (g *gate) start() { g.later((*gate).next) }

// later has f called at the end of the turn, unless the exchange ends before.
func (g *gate) later(f func(*gate)) {
	g.todo = f
	g.x.w.dirty = append(g.x.w.dirty, g)
}

func (g *gate) turnEnd() {
	f := g.todo
	if g.x == nil || f == nil {
		return
	}
	g.todo = nil
	g.present()
	f(g)
}

// present makes the request that is held the one that the worker looks at.
func (g *gate) present() {
	w := g.x.w
	w.req = &g.req
	w.match.Method, w.match.Host, w.match.Path, w.match.Query = g.x.methodText(), g.req.Host, g.path, g.req.Query
}

// next asks the next authoriser, or has the request go on to its next stage.
func (g *gate) next() {
	x := g.x
	if x.w.gated > maxGated {
		x.fail(record.Overload, "the requests that wait for their authorisers take more memory than they may")
		return
	}
	for {
		if a := g.ahead(); a != nil {
			g.ask(a)
			return
		}
		at, on := g.at, true
		switch at {
		case stageListener:
			on = x.route(g.path)
		case stageRule:
			on = x.pick(g.path)
		case stageBackend:
		}
		if !on {
			return // it has been answered
		}
		x.limit()
		if g.at == at {
			g.open()
			return
		}
	}
}

// ahead is the next authoriser of the stage, nil if there is none left.
func (g *gate) ahead() *plan.BoundAuth {
	switch g.at {
	case stageListener:
		if g.asked == len(g.x.listener.Auths) {
			return nil
		}
		g.asked++
		return g.x.listener.Auths[g.asked-1]
	case stageRule:
		return g.walk(0, g.x.rule.Filters)
	case stageBackend:
		g.walk(0, g.x.rule.Filters)
		return g.walk(1, g.x.backend.Steps)
	}
	return nil
}

// walk takes over steps up to the next authoriser, which it returns.
func (g *gate) walk(n int, list []plan.Step) *plan.BoundAuth {
	for g.walked[n] < len(list) {
		step := &list[g.walked[n]]
		g.walked[n]++
		if step.Kind == plan.StepAuth {
			return step.Auth
		}
		g.steps[n] = append(g.steps[n], *step)
	}
	return nil
}

// ask asks an authoriser, as soon as there is what it is to be told.
func (g *gate) ask(a *plan.BoundAuth) {
	g.check = &check{g: g, auth: a}
	x := g.x
	if a.MaxBody > 0 && !x.upgrade { // what comes after an upgrade is no body
		if g.req.Body == h1.Length && g.req.Length > a.MaxBody || int64(len(g.held)) > a.MaxBody {
			g.tooLarge()
			return
		}
		if !g.heldEnd {
			g.reads = a.MaxBody
			if g.goOn() {
				x.down.resume()
			}
			return
		}
	}
	g.check.send()
}

// goOn tells a client that waits for it to send the body; it says whether the
// exchange goes on.
func (g *gate) goOn() bool {
	if !g.req.Continue {
		return true
	}
	g.req.Continue = false // the service need not say it
	w := g.x.w
	w.resp = &w.ours
	*w.resp = h1.Response{Fields: w.resp.Fields[:0], Status: 100, Minor: 1, Reason: bytesOf("Continue"), KeepAlive: true}
	if err := g.x.down.interim(); err != nil {
		g.x.clientLost()
		return false
	}
	return true
}

func (g *gate) tooLarge() {
	g.x.fail(record.TooLarge, "the body is larger than what "+g.check.name()+" is to be told of it (forwardBody.maxSize)")
}

// wants says whether the body is read.
func (g *gate) wants() bool { return g.reads > 0 }

// hold keeps a piece of the body.
func (g *gate) hold(p []byte) {
	g.held = g.x.w.loop.Buffers.Append(g.held, p)
	g.keep(len(p))
}

// onBody takes a piece of the body that is read; it says whether the exchange goes
// on.
func (g *gate) onBody(p []byte) bool {
	x := g.x
	x.activity = x.w.loop.Now()
	x.rec.BytesIn += int64(len(p))
	switch {
	case int64(len(g.held)+len(p)) > g.reads:
		g.tooLarge()
		return false
	case x.w.gated+len(p) > maxGated:
		x.fail(record.Overload, "the requests that wait for their authorisers take more memory than they may")
		return false
	}
	g.hold(p)
	return true
}

// onBodyEnd takes the end of the body.
func (g *gate) onBodyEnd(trailers []h1.Field) {
	g.end(trailers)
	g.reads = 0
	g.later(func(g *gate) { g.check.send() })
}

func (g *gate) end(trailers []h1.Field) {
	g.heldEnd = true
	if len(trailers) > 0 {
		g.trailers = cloneFields(trailers)
	}
}

// open lets the request go.
func (g *gate) open() {
	x := g.x
	g.walk(0, x.rule.Filters)
	g.walk(1, x.backend.Steps)
	x.steps = &g.steps
	x.gate = nil
	x.compose()
	if len(g.held) > 0 {
		x.copyBody(g.held)
		x.retain(g.held)
	}
	if g.heldEnd {
		x.keepEnd(g.trailers)
	}
	x.activity = x.w.loop.Now()
	g.over()
	x.proceed()
}

// over gives back what the gate holds; what is under way is given up.
func (g *gate) over() {
	w := g.x.w
	if g.check != nil {
		g.check.cancel()
	}
	g.x = nil
	w.gated -= g.kept
	w.loop.Buffers.Give(g.head)
	w.loop.Buffers.Give(g.held)
	g.head, g.held = nil, nil
	if w.req == &g.req {
		w.req = &w.req1
	}
}

// fell says why nothing moved for too long.
func (g *gate) fell() {
	if g.wants() {
		g.x.fail(record.BodyTimeout, "the request's body fell silent")
		return
	}
	g.x.fail(record.AuthFailed, g.check.name()+" fell silent for longer than the gateway's body timeout")
}
