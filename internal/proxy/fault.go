package proxy

import (
	"net/http"
	"strconv"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/record"
)

// This file is the only place where windrose answers by itself.

// fail ends the exchange with a fault: the client is answered if it has no
// answer yet, and cut off if it has the beginning of one.
func (x *exchange) fail(flag record.Flag, reason string) { x.failStatus(flag, flag.Status(), reason) }

func (x *exchange) failStatus(flag record.Flag, status int, reason string) {
	x.rec.Fault, x.rec.Reason = flag, reason
	c := x.c
	x.release(false)
	if x.answered {
		if c.phase == tunnel {
			x.w.tel.TunnelsActive--
		}
		x.emit()
		c.x = nil
		c.reset()
		return
	}
	x.reply(status, func(dst []byte) []byte { return h1.AppendField(dst, "x-windrose-fault", flag.String()) }, x.faultText(flag, reason))
}

// refused answers a request whose head is not valid.
func (x *exchange) refused(c *client, err *h1.Error) {
	x.c, x.view = c, x.w.view
	x.begun = c.started
	x.minor = 1
	x.w.tel.RequestsActive++
	x.remember() // method and target, if they were understood
	x.classify()
	flag := record.BadRequest
	for _, f := range [...]record.Flag{record.HeaderTimeout, record.HeadersTooLarge, record.URITooLong, record.NotSupported} {
		if f.Status() == err.Status {
			flag = f
		}
	}
	x.failStatus(flag, err.Status, err.Reason)
}

// redirect answers with a Location.
func (x *exchange) redirect(r *plan.Redirect, path []byte) {
	req := &x.w.req
	target := plan.Target{Scheme: "http", Host: req.Host, Port: x.c.sock.addr.Port(), Path: path, Query: req.Query, Prefix: x.prefix}
	if x.c.secure {
		target.Scheme = "https"
	}
	x.reply(r.Status, func(dst []byte) []byte {
		dst = append(dst, "location: "...)
		dst = plan.AppendLocation(dst, r, &target)
		dst = append(dst, "\r\n"...)
		return appendEdits(dst, [2][]plan.Step{x.rule.Filters, nil}, plan.StepResponseHeaders)
	}, nil)
}

// reply writes a whole answer of windrose's own and ends the exchange.
func (x *exchange) reply(status int, fields func([]byte) []byte, body []byte) {
	w, c := x.w, x.c
	x.rec.Status = status
	x.answered = true
	out := appendStatus(w.out[:0], status, []byte(http.StatusText(status)))
	out = h1.AppendField(out, "server", "windrose")
	out = append(out, "date: "...)
	out = w.loop.Wall().UTC().AppendFormat(out, http.TimeFormat)
	out = append(out, "\r\n"...)
	out = h1.AppendField(out, "x-request-id", x.rec.ID)
	out = fields(out)
	if len(body) > 0 {
		out = append(out, "content-type: text/plain; charset=utf-8\r\nx-content-type-options: nosniff\r\n"...)
	}
	out = append(out, "content-length: "...)
	out = strconv.AppendInt(out, int64(len(body)), 10)
	out = append(out, "\r\n"...)
	if !c.body.Done() {
		c.last = true // its end is not waited for
	}
	out = x.appendConnection(out)
	if x.method != headMethod {
		out = append(out, body...)
		x.rec.BytesOut = int64(len(body))
	}
	w.out = out[:0]
	err := c.conn.Write(out)
	x.emit()
	if err != nil {
		c.x = nil
		c.close()
		return
	}
	c.free()
}

// faultText is the body of a fault: what happened and what to do, as far as the
// settings let a client know.
func (x *exchange) faultText(flag record.Flag, reason string) []byte {
	t := x.w.text[:0]
	t = append(t, flag.String()...)
	if x.view.settings.FaultDetail == plan.DetailFull {
		t = append(t, ": "...)
		t = appendSentence(t, reason)
		t = append(t, "\n"...)
		t = append(t, flag.Mend()...)
	}
	t = append(t, "\nrequest id: "...)
	t = append(t, x.rec.ID...)
	t = append(t, '\n')
	x.w.text = t
	return t
}

// appendSentence appends text without what could break a line.
func appendSentence(dst []byte, text string) []byte {
	for _, c := range []byte(text) {
		if c < ' ' || c == 0x7f {
			c = '?'
		}
		dst = append(dst, c)
	}
	return dst
}
