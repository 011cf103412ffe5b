package proxy

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	"windrose.dev/windrose/internal/extauthz"
	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/record"
)

// This file asks an authoriser. The question is an exchange of its own, whose
// client is a check: it takes the answer, and its gate decides what follows. Only
// a clear yes lets the request go on.

// check is one question to one authoriser.
type check struct {
	g    *gate
	auth *plan.BoundAuth
	y    *exchange // nil unless it is under way

	status   int // of the answer; 0 while there is none
	fields   []h1.Field
	body     []byte
	large    bool // the body is larger than is taken
	trailers []h1.Field
	fault    record.Flag // of the exchange
	reason   string
}

var errTooMuch = errors.New("the answer is larger than is taken")

// name is the authoriser, for a sentence.
func (c *check) name() string { return "authoriser " + c.auth.ServiceName }

// send asks.
func (c *check) send() {
	g := c.g
	x := g.x
	w := x.w
	service := x.view.up.Service(c.auth.Service).For(x.listener)
	if service == nil || len(service.Endpoints()) == 0 {
		g.failed("has no ready endpoint")
		return
	}
	y := w.exchange()
	y.c, y.down, y.view, y.check = x.c, c, x.view, c
	y.rule = &plan.BoundRule{}
	y.backend = &plan.BoundBackend{Service: c.auth.Service, ServiceName: c.auth.ServiceName}
	y.service, y.protocol = service, service.Protocol
	y.minor, y.idempotent = 1, true
	y.whole, y.sentEnd = true, true
	y.begun, y.activity = w.loop.Clock(), w.loop.Now()
	y.deadline = y.activity + int64(x.view.settings.AuthTimeout)
	c.y = y
	y.sent = w.loop.Buffers.Take(4 << 10)
	if c.auth.GRPC {
		y.protocol = plan.H2C
		c.questionGRPC(y)
	} else {
		y.method = x.method
		c.questionHTTP(y)
	}
	x.activity = y.activity
	x.arm()
	y.launch()
}

// told parses the request as an authoriser may see it: what a service would be
// sent, with the header filters that stand before the authoriser, but with the path
// and host that the client asked for. The slices lie in pre.
func (g *gate) told() (req *h1.Request, pre []byte) {
	x := g.x
	steps := [2][]plan.Step{headerSteps(g.steps[0]), headerSteps(g.steps[1])}
	pre = x.appendRequest(x.w.loop.Buffers.Take(4<<10), steps)
	req = &x.w.again
	if !req.Reread(pre) {
		*req = h1.Request{Fields: req.Fields[:0], Method: g.req.Method, Target: g.path, Host: g.req.Host}
	}
	return req, pre
}

func headerSteps(steps []plan.Step) []plan.Step {
	var list []plan.Step
	for i := range steps {
		if steps[i].Kind == plan.StepRequestHeaders {
			list = append(list, steps[i])
		}
	}
	return list
}

// questionHTTP writes what is sent to an authoriser that is asked by HTTP.
func (c *check) questionHTTP(y *exchange) {
	req, pre := c.g.told()
	dst := y.grow(y.sent, len(pre)+len(c.auth.Path)+64)
	dst = append(append(dst, req.Method...), ' ')
	if req.Target[0] == '/' {
		dst = append(dst, c.auth.Path...)
	}
	dst = append(append(dst, req.Target...), " HTTP/1.1\r\n"...)
	dst = h1.AppendField(dst, "host", req.Host)
	for i := range req.Fields {
		f := &req.Fields[i]
		if !f.Known.HopByHop() && !ownField(f.Known) && c.auth.Tells(f.Name) {
			dst = h1.AppendField(dst, f.Name, f.Value)
		}
	}
	body := c.told()
	dst = append(dst, "content-length: "...)
	dst = strconv.AppendInt(dst, int64(len(body)), 10)
	dst = append(dst, "\r\n\r\n"...)
	y.headLen = len(dst)
	y.sent = y.w.loop.Buffers.Append(dst, body)
	y.w.loop.Buffers.Give(pre)
}

// told is as much of the body as the authoriser is told.
func (c *check) told() []byte {
	if c.auth.MaxBody == 0 || c.g.x.upgrade {
		return nil
	}
	return c.g.held
}

// ownField says whether a field is about the message it is in or its connection.
func ownField(k h1.Known) bool {
	switch k {
	case h1.Host, h1.ContentLength, h1.Expect, h1.Trailer:
		return true
	}
	return false
}

// questionGRPC writes what is sent to an authoriser that speaks ext_authz.
func (c *check) questionGRPC(y *exchange) {
	x := c.g.x
	req, pre := c.g.told()
	q := extauthz.Request{
		Time: x.w.loop.Wall(), Source: x.c.peer, Destination: x.c.sock.addr, ServerName: x.c.sni,
		ID: x.rec.ID, Method: req.Method, Path: req.Target, Host: req.Host, Scheme: "http", Protocol: x.rec.Protocol,
		Size: -1, Body: c.told(),
	}
	if x.c.secure {
		q.Scheme = "https"
	}
	switch c.g.req.Body {
	case h1.NoBody:
		q.Size = 0
	case h1.Length:
		q.Size = c.g.req.Length
	case h1.Chunked, h1.UntilClose:
	}
	for i := range req.Fields {
		if f := &req.Fields[i]; c.auth.Tells(f.Name) && !f.Known.HopByHop() {
			q.Headers = appendJoined(q.Headers, f)
		}
	}
	dst := y.sent
	dst = append(dst, "POST "+extauthz.Path+" HTTP/1.1\r\nhost: "+hostOf(c.auth.ServiceName)+
		"\r\ncontent-type: "+grpcType+"\r\nuser-agent: windrose\r\nconnection: te\r\nte: trailers\r\n\r\n"...)
	y.headLen = len(dst)
	dst = append(dst, 0, 0, 0, 0, 0) // not compressed; the length
	start := len(dst)
	dst = q.Append(dst)
	size := len(dst) - start
	copy(dst[start-4:], []byte{byte(size >> 24), byte(size >> 16), byte(size >> 8), byte(size)})
	y.sent = dst
	x.w.loop.Buffers.Give(pre)
}

// appendJoined adds a field, with its name in lower case, or its value to that of
// its name.
func appendJoined(list []extauthz.Header, f *h1.Field) []extauthz.Header {
	name := bytes.ToLower(f.Name)
	for i := range list {
		if bytes.Equal(list[i].Name, name) {
			list[i].Value = bytes.Join([][]byte{list[i].Value, f.Value}, []byte(","))
			return list
		}
	}
	return append(list, extauthz.Header{Name: name, Value: f.Value})
}

// hostOf is a host for a service of the plan: NAME.NAMESPACE of NAMESPACE/NAME:PORT.
func hostOf(service string) string {
	service, _, _ = strings.Cut(service, ":")
	namespace, name, ok := strings.Cut(service, "/")
	if !ok {
		return service
	}
	return name + "." + namespace
}

// cancel gives the question up.
func (c *check) cancel() {
	y := c.y
	if y == nil {
		return
	}
	c.y = nil
	y.release(false)
	y.w.loop.Stop(&y.timer)
	y.w.recycle(y)
}

// over is called when the exchange has ended.
func (c *check) over(fault record.Flag, reason string) {
	c.y = nil
	c.fault, c.reason = fault, reason
	c.g.later((*gate).judge)
}

// What follows makes check the clientSide of its exchange.

func (c *check) whole() bool    { return true }
func (c *check) blocked() bool  { return false }
func (c *check) resume()        {}
func (c *check) interim() error { return nil }
func (c *check) turn() error    { return errNoTunnel }
func (c *check) flush() error   { return nil }
func (c *check) finished()      {}
func (c *check) broken(bool)    {}

// respond keeps the answer's head, without what is about its connection.
func (c *check) respond(bool) {
	resp := c.g.x.w.resp
	c.status = resp.Status
	kept := make([]h1.Field, 0, len(resp.Fields))
	for i := range resp.Fields {
		f := &resp.Fields[i]
		hop := i < 64 && resp.HopByHop&(1<<i) != 0
		if !hop && !f.Known.HopByHop() && !ownField(f.Known) && f.Known != h1.FaultFlag && f.Known != h1.RequestID {
			kept = append(kept, *f)
		}
	}
	c.fields = cloneFields(kept)
}

func (c *check) data(p []byte) error {
	if len(c.body)+len(p) > c.g.x.view.settings.MaxBufferedBytes {
		c.large, c.body = true, nil
		return errTooMuch
	}
	c.body = append(c.body, p...)
	return nil
}

func (c *check) end(trailers []h1.Field) error {
	c.trailers = cloneFields(trailers)
	return nil
}
