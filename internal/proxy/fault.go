package proxy

import (
	"net/http"
	"slices"
	"strconv"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/record"
)

// This file is the only place where windrose answers by itself.

// fail ends the exchange with a fault: the client is answered if it has no
// answer yet, and cut off if it has the beginning of one.
func (x *exchange) fail(flag record.Flag, reason string) {
	if x.broke && !x.answered {
		flag, reason = record.Overload, x.spent()
	}
	x.failStatus(flag, flag.Status(), reason)
}

func (x *exchange) failStatus(flag record.Flag, status int, reason string) {
	x.rec.Fault, x.rec.Reason = flag, reason
	if flag == record.BackendTimeout || flag == record.UpstreamProtocol {
		x.blame()
	}
	x.release(false)
	if x.shadow || x.check != nil {
		x.emit()
		return
	}
	if x.answered {
		if x.tunnel {
			x.w.tel.TunnelsActive--
		}
		if x.grpc {
			x.endGRPC(flag, reason)
			return
		}
		x.emit().broken(true)
		return
	}
	if x.grpc {
		x.replyGRPC(grpcStatus(flag), flag, reason, nil)
		return
	}
	r := x.beginReply(status)
	r.add("x-windrose-fault", flag.String())
	x.reply(r, x.faultText(flag, reason))
}

// denied ends the exchange with the answer of an authoriser that says no. A nil
// body stands for windrose's own words.
func (x *exchange) denied(status int, reason string, fields []h1.Field, body []byte) {
	x.rec.Fault, x.rec.Reason = record.Denied, reason
	if x.grpc {
		x.replyGRPC(grpcOf(status), record.Denied, reason, slices.DeleteFunc(fields, describesBody))
		return
	}
	r := x.beginReply(status)
	r.add("x-windrose-fault", record.Denied.String())
	if body == nil {
		r.plain()
		body = x.faultText(record.Denied, reason)
		fields = slices.DeleteFunc(fields, describesBody)
	}
	x.replyWith(r, fields, body)
}

// refused answers a request whose head is not valid; w.req holds what was
// understood of it.
func (x *exchange) refused(c *client, down clientSide, begun int64, err *h1.Error) {
	x.c, x.down, x.view = c, down, x.w.view
	x.begun = begun
	x.minor = 1
	x.w.tel.RequestsActive++
	x.remember()
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
	req := x.w.req
	target := plan.Target{Scheme: "http", Host: req.Host, Port: x.c.sock.addr.Port(), Path: path, Query: req.Query, Prefix: x.prefix}
	if x.c.secure {
		target.Scheme = "https"
	}
	out := x.beginReply(r.Status)
	out.addFrom("location", func(dst []byte) []byte { return plan.AppendLocation(dst, r, &target) })
	x.reply(out, nil)
}

// reply is the head of an answer of windrose's own, under construction. Names
// are constants; values are gathered in w.own, which may move while it grows, so
// that their slices are taken at the end.
type reply struct {
	w     *worker
	names [8]string
	ends  [8]int
	n     int
}

func (x *exchange) beginReply(status int) *reply {
	w := x.w
	x.own = true
	x.rec.Status = status
	w.own = w.own[:0]
	w.resp = &w.ours
	*w.resp = h1.Response{Fields: w.resp.Fields[:0], Status: status, Minor: 1, Reason: bytesOf(http.StatusText(status)), KeepAlive: true}
	w.reply = reply{w: w}
	r := &w.reply
	r.add("server", "windrose")
	r.addFrom("date", func(dst []byte) []byte { return w.loop.Wall().UTC().AppendFormat(dst, http.TimeFormat) })
	return r
}

func (r *reply) add(name, value string) {
	r.addFrom(name, func(dst []byte) []byte { return append(dst, value...) })
}

func (r *reply) addFrom(name string, value func([]byte) []byte) {
	r.w.own = value(r.w.own)
	r.names[r.n], r.ends[r.n] = name, len(r.w.own)
	r.n++
}

// fields moves the head into w.resp.
func (r *reply) fields() {
	start := 0
	for i := range r.n {
		name := bytesOf(r.names[i])
		r.w.resp.Fields = append(r.w.resp.Fields, h1.Field{Name: name, Value: r.w.own[start:r.ends[i]], Known: h1.Classify(name)})
		start = r.ends[i]
	}
}

// reply sends a whole answer of windrose's own and ends the exchange.
func (x *exchange) reply(r *reply, body []byte) {
	if len(body) > 0 {
		r.plain()
	}
	x.replyWith(r, nil, body)
}

// plain says what the body is.
func (r *reply) plain() {
	r.add("content-type", "text/plain; charset=utf-8")
	r.add("x-content-type-options", "nosniff")
}

// replyWith is reply with more fields and a body that they describe.
func (x *exchange) replyWith(r *reply, more []h1.Field, body []byte) {
	resp := x.w.resp
	resp.Body, resp.Length = h1.Length, int64(len(body))
	switch {
	case resp.Status == http.StatusNoContent:
		resp.Body = h1.NoBody
	case x.method == headMethod:
		resp.Body = h1.NoBody
		r.addFrom("content-length", func(dst []byte) []byte { return strconv.AppendInt(dst, int64(len(body)), 10) })
		body = nil
	}
	r.fields()
	resp.Fields = append(resp.Fields, more...)
	x.answered = true
	x.down.respond(len(body) == 0)
	var err error
	if len(body) > 0 {
		x.rec.BytesOut = int64(len(body))
		err = x.down.data(body)
	}
	x.sendReply(err)
}

func (x *exchange) sendReply(err error) {
	if err == nil {
		err = x.down.end(nil)
	}
	if err == nil {
		err = x.down.flush()
	}
	down := x.emit()
	if err != nil {
		down.broken(true)
		return
	}
	down.finished()
}

// replyGRPC tells a fault to a gRPC client: with HTTP status 200 and a status of
// gRPC's own, without a body (gRPC over HTTP/2, Trailers-Only).
func (x *exchange) replyGRPC(code int, flag record.Flag, reason string, more []h1.Field) {
	r := x.beginReply(http.StatusOK)
	r.add("content-type", grpcType)
	r.addFrom("grpc-status", func(dst []byte) []byte { return strconv.AppendInt(dst, int64(code), 10) })
	if x.view.settings.FaultDetail == plan.DetailFull {
		r.addFrom("grpc-message", func(dst []byte) []byte { return appendPercent(dst, reason) })
	}
	r.add("x-windrose-fault", flag.String())
	x.w.resp.Body = h1.NoBody
	r.fields()
	x.w.resp.Fields = append(x.w.resp.Fields, more...)
	x.answered = true
	x.down.respond(true)
	x.sendReply(nil)
}

// endGRPC ends an answer that has begun with the status of a fault: where the
// client looks for the service's. Whether a message was cut off it sees by its
// length.
func (x *exchange) endGRPC(flag record.Flag, reason string) {
	w := x.w
	w.own = strconv.AppendInt(w.own[:0], int64(grpcStatus(flag)), 10)
	n := len(w.own)
	if x.view.settings.FaultDetail == plan.DetailFull {
		w.own = appendPercent(w.own, reason)
	}
	trailers := []h1.Field{{Name: []byte("grpc-status"), Value: w.own[:n]}, {Name: []byte("grpc-message"), Value: w.own[n:]}}
	err := x.down.end(trailers)
	if err == nil {
		err = x.down.flush()
	}
	down := x.emit()
	if err != nil {
		down.broken(true)
		return
	}
	down.finished()
}

// grpcStatus is gRPC's code for a fault (google.rpc.Code).
func grpcStatus(flag record.Flag) int {
	const (
		deadlineExceeded = 4
		permissionDenied = 7
		resourceExhaust  = 8
		unimplemented    = 12
		internal         = 13
		unavailable      = 14
	)
	switch flag {
	case record.RequestTimeout, record.BackendTimeout, record.HeaderTimeout, record.BodyTimeout:
		return deadlineExceeded
	case record.HeadersTooLarge, record.URITooLong, record.TooLarge:
		return resourceExhaust
	case record.Denied:
		return permissionDenied
	case record.NoRoute, record.NotSupported, record.Misdirected:
		return unimplemented
	case record.NoEndpoint, record.ConnectFailed, record.UpstreamReset, record.AuthFailed, record.Overload, record.Draining, record.ClientGone:
		return unavailable
	case record.BadRequest, record.RuleBroken, record.BackendMissing, record.NoBackend, record.UpstreamProtocol, record.Internal:
		return internal
	}
	return internal
}

// grpcOf is gRPC's code for an HTTP status (gRPC, http-grpc-status-mapping).
func grpcOf(status int) int {
	switch status {
	case http.StatusBadRequest:
		return 13
	case http.StatusUnauthorized:
		return 16
	case http.StatusForbidden:
		return 7
	case http.StatusNotFound:
		return 12
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return 14
	}
	return 2
}

// appendPercent encodes a grpc-message.
func appendPercent(dst []byte, text string) []byte {
	const digits = "0123456789ABCDEF"
	for _, c := range []byte(text) {
		if c < ' ' || c > '~' || c == '%' {
			dst = append(dst, '%', digits[c>>4], digits[c&15])
			continue
		}
		dst = append(dst, c)
	}
	return dst
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
	if x.view.settings.FaultDetail == plan.DetailFull {
		t = append(t, "windrose explain --request "...)
		if pasteable(x.rec.ID) {
			t = append(t, x.rec.ID...)
		} else {
			t = append(t, "ID"...)
		}
		t = append(t, " tells what happened\n"...)
	}
	x.w.text = t
	return t
}

// pasteable says whether a shell takes an id as it stands: a trusted peer may
// have passed on what a client made up.
func pasteable(id []byte) bool {
	for _, c := range id {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return len(id) > 0 && id[0] != '-'
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
