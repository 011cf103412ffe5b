package proxy

import (
	"net/http"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/plan"
)

// This file carries out the CORS filter: windrose answers preflights, and says
// in every answer, faults included, what pages of other origins may see. So a
// page can tell a fault from a broken network.

// crossOrigin takes up the rule's CORS filter; it says whether the request was a
// preflight, which is answered then.
func (x *exchange) crossOrigin(p *plan.BoundCORS) bool {
	req := x.w.req
	x.cors = p
	origin, ok := lookup(req.Fields, "origin", &x.w.text)
	if !ok {
		return false
	}
	allowed := p.Allows(origin)
	if allowed {
		at := len(x.meta)
		x.meta = append(x.meta, origin...) // the request's head is gone when the answer comes
		x.origin = x.meta[at:]
	}
	method, ok := h1.Lookup(req.Fields, "access-control-request-method")
	if !ok || string(req.Method) != "OPTIONS" {
		return false
	}
	headers, _ := lookup(req.Fields, "access-control-request-headers", &x.w.text)
	x.w.preflight = plan.Preflight{Origin: x.origin, Method: method, Headers: headers}
	x.preflight = true
	status := http.StatusNoContent
	if !allowed && !p.Open() {
		status = http.StatusForbidden
	}
	x.reply(x.beginReply(status), nil)
	return true
}

// corsFields calls yield with what the CORS filter adds to the final head.
func (x *exchange) corsFields(yield func(name string, value []byte)) {
	if x.preflight {
		x.cors.Preflight(&x.w.preflight, yield)
		return
	}
	x.cors.Fields(x.origin, yield)
}
