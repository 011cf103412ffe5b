package proxy

import (
	"net/netip"
	"strconv"
	"unsafe"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/telemetry"
)

// This file writes heads: what an endpoint is sent, and what a client is sent.
// Hop-by-hop fields end here (RFC 9110, 7.6.1); framing is always our own.

const grpcType = "application/grpc"

// remember copies what the record shows of the request in w.req, and settles
// the request's id.
func (x *exchange) remember() {
	req, r := x.w.req, &x.rec
	m := x.meta[:0]
	given, _ := h1.Lookup(req.Fields, "x-request-id")
	if x.c.trusted && telemetry.ValidID(given) {
		m = append(m, given...)
	} else {
		m = x.w.ids.Append(m)
		x.newID = true
	}
	id := len(m)
	m = append(m, req.Method...)
	method := len(m)
	m = append(m, req.Host...)
	host := len(m)
	m = append(m, req.Target...)
	target := len(m)
	agent, _ := h1.Lookup(req.Fields, "user-agent")
	m = append(m, agent...)
	x.meta = m
	r.ID, r.Method, r.Host, r.Path, r.Agent = m[:id], m[id:method], m[method:host], m[host:target], m[target:]
	r.Start = x.w.loop.At(x.begun)
	r.Client = x.c.peer
	r.TLS = x.c.tlsName
	if x.c.identity != nil {
		r.Identity = x.c.identity.name
	}
	r.RuleSlot, r.ServiceSlot = -1, -1
	switch {
	case x.c.h3:
		r.Protocol = "HTTP/3"
	case x.c.h2 != nil:
		r.Protocol = "HTTP/2"
	case x.minor == 0:
		r.Protocol = "HTTP/1.0"
	default:
		r.Protocol = "HTTP/1.1"
	}
	kind, _ := h1.Lookup(req.Fields, "content-type")
	x.grpc = x.c.streams() && !x.upgrade && len(kind) >= len(grpcType) && string(kind[:len(grpcType)]) == grpcType
}

var (
	headBytes = []byte("HEAD")
	getBytes  = []byte("GET")
)

// methodBytes is what the codec needs to know of the method to read an answer.
func (x *exchange) methodBytes() []byte {
	if x.method == headMethod {
		return headBytes
	}
	return nil
}

// methodText is the method that rules match and endpoints get.
func (x *exchange) methodText() []byte {
	if x.extended {
		return getBytes
	}
	return x.w.req.Method
}

// appendRequest appends the head for the endpoint. w.match.Path is the
// normalised path.
func (x *exchange) appendRequest(dst []byte, steps [2][]plan.Step) []byte {
	w, req := x.w, x.w.req
	host, path := x.rewritten(steps)
	dst = x.grow(dst, headSize(req)+512)
	dst = append(dst, x.methodText()...)
	dst = append(dst, ' ')
	dst = plan.AppendPath(dst, w.match.Path, path, x.prefix)
	if req.HasQuery {
		dst = append(dst, '?')
		dst = append(dst, req.Query...)
	}
	dst = append(dst, " HTTP/1.1\r\n"...)
	if host != "" {
		dst = h1.AppendField(dst, "host", host)
	} else {
		dst = h1.AppendField(dst, "host", req.Host)
	}
	var forwardedFor []byte
	for i := range req.Fields {
		f := &req.Fields[i]
		if i < 64 && req.HopByHop&(1<<i) != 0 {
			continue
		}
		switch f.Known {
		case 0, h1.UserAgent, h1.Date, h1.Server:
		case h1.Expect:
			if !req.Continue {
				continue
			}
		case h1.Trailer:
			if req.Body != h1.Chunked {
				continue
			}
		case h1.ForwardedFor:
			switch {
			case !x.c.trusted:
			case forwardedFor == nil:
				forwardedFor = f.Value
			default:
				w.text = joinList(append(w.text[:0], forwardedFor...), f.Value)
				forwardedFor = w.text
			}
			continue
		case h1.ForwardedProto, h1.ForwardedHost, h1.Forwarded, h1.ForwardedClientCert:
			if !x.c.trusted {
				continue
			}
		default:
			continue // hop by hop, framing, Host and what is written below
		}
		if x.pretends(f.Name) || x.tracing != nil && x.traces(f.Name) || x.ws != nil && h1.EqualFold(f.Name, keyName) {
			continue
		}
		if edits(steps, plan.StepRequestHeaders) && dropped(steps, plan.StepRequestHeaders, f.Name) {
			continue
		}
		dst = h1.AppendField(dst, f.Name, f.Value)
	}
	dst = x.appendForwarded(dst, forwardedFor)
	// What a trusted peer said of its own clients stays before it.
	if id := x.identity(); id != nil && !dropped(steps, plan.StepRequestHeaders, bytesOf(certHeader)) {
		dst = h1.AppendField(dst, certHeader, id.header)
	}
	dst = h1.AppendField(dst, "x-request-id", x.rec.ID)
	if x.tracing != nil {
		dst = x.appendTrace(dst, steps)
	}
	eachEdit(steps, plan.StepRequestHeaders, func(name, value []byte) { dst = h1.AppendField(dst, name, value) })
	return x.appendRequestEnd(dst)
}

// appendRequestEnd appends framing and what concerns the connection.
func (x *exchange) appendRequestEnd(dst []byte) []byte {
	req := x.w.req
	switch req.Body {
	case h1.NoBody, h1.UntilClose: // a request cannot end with its connection
	case h1.Chunked:
		x.chunked = x.protocol != plan.H2C
		dst = append(dst, "transfer-encoding: chunked\r\n"...)
	case h1.Length:
		dst = append(dst, "content-length: "...)
		dst = strconv.AppendInt(dst, req.Length, 10)
		dst = append(dst, "\r\n"...)
	}
	switch {
	case x.upgrade:
		dst = append(dst, "connection: upgrade\r\n"...)
		dst = h1.AppendField(dst, "upgrade", req.Upgrade)
		if x.ws != nil {
			dst = h1.AppendField(dst, keyName, x.ws.key[:])
		}
	case req.Trailers:
		dst = append(dst, "connection: te\r\nte: trailers\r\n"...)
	}
	return append(dst, "\r\n"...)
}

// appendForwarded says who asked, over what, for which host. What a trusted
// peer said of that stays.
func (x *exchange) appendForwarded(dst, forwardedFor []byte) []byte {
	dst = append(dst, "x-forwarded-for: "...)
	if len(forwardedFor) > 0 {
		dst = append(dst, forwardedFor...)
		dst = append(dst, ", "...)
	}
	dst = x.c.peer.Addr().AppendTo(dst)
	dst = append(dst, "\r\n"...)
	req := x.w.req
	if !x.c.trusted || !has(req.Fields, h1.ForwardedProto) {
		if x.c.secure {
			dst = append(dst, "x-forwarded-proto: https\r\n"...)
		} else {
			dst = append(dst, "x-forwarded-proto: http\r\n"...)
		}
	}
	if !x.c.trusted || !has(req.Fields, h1.ForwardedHost) {
		dst = h1.AppendField(dst, "x-forwarded-host", req.Host)
	}
	return dst
}

// rewritten gives what the steps make of host and path; "" and nil leave them.
// A backend's rewrite goes before its rule's, and starts from the request.
func (x *exchange) rewritten(steps [2][]plan.Step) (host string, path *plan.PathEdit) {
	for _, list := range steps {
		for i := range list {
			if list[i].Kind != plan.StepRewrite {
				continue
			}
			if h := list[i].Rewrite.Host; h != "" {
				host = h
			}
			if p := list[i].Rewrite.Path; p != nil {
				path = p
			}
		}
	}
	return host, path
}

// responseSteps are the edits that an answer gets: a fault is nobody's answer,
// and gets none.
func (x *exchange) responseSteps() (steps [2][]plan.Step) {
	if x.rule == nil || x.own && x.rec.Fault != 0 {
		return steps
	}
	if x.steps != nil {
		return *x.steps
	}
	steps[0] = x.rule.Filters
	if x.backend != nil {
		steps[1] = x.backend.Steps
	}
	return steps
}

// responseFields calls yield with the fields of the final head in w.resp as the
// client is to see them, without framing.
func (x *exchange) responseFields(yield func(h1.Field)) {
	resp := x.w.resp
	steps := x.responseSteps()
	edited := edits(steps, plan.StepResponseHeaders)
	alt := x.altSvc()
	for i := range resp.Fields {
		f := &resp.Fields[i]
		if i < 64 && resp.HopByHop&(1<<i) != 0 {
			continue
		}
		switch {
		case f.Known == h1.ContentLength:
			// In answer to HEAD, and in a 304, it says what a GET would have given
			// (RFC 9110, 8.6). Elsewhere it is framing, or nonsense: with a 204 the
			// client would wait for bytes.
			if resp.Body != h1.NoBody || (x.method != headMethod && resp.Status != 304) {
				continue
			}
		case f.Known == h1.Trailer:
			if resp.Body != h1.Chunked {
				continue
			}
		case f.Known == h1.FaultFlag && x.own:
		case f.Known == h1.RequestID, f.Known == h1.FaultFlag, f.Known.HopByHop():
			continue
		}
		if alt != nil && h1.EqualFold(f.Name, "alt-svc") {
			continue // the service's would lead past windrose
		}
		if x.cors != nil && x.cors.Speaks(f.Name) || x.stay != nil && x.stay.speaks(f.Name) {
			continue
		}
		if edited && dropped(steps, plan.StepResponseHeaders, f.Name) {
			continue
		}
		yield(*f)
	}
	named := func(name, value []byte) { yield(h1.Field{Name: name, Value: value, Known: h1.Classify(name)}) }
	if edited {
		eachEdit(steps, plan.StepResponseHeaders, named)
	}
	if x.cors != nil {
		x.corsFields(func(name string, value []byte) {
			// A filter that names the field has the last word, but for Vary: that the
			// answer depends on the origin stays true.
			if !edited || name == "vary" || !dropped(steps, plan.StepResponseHeaders, bytesOf(name)) {
				named(bytesOf(name), value)
			}
		})
	}
	if x.stay != nil {
		x.sessionField(named)
	}
	if alt != nil && (!edited || !dropped(steps, plan.StepResponseHeaders, altSvcName)) {
		yield(h1.Field{Name: altSvcName, Value: alt})
	}
	yield(h1.Field{Name: requestIDName, Value: x.rec.ID, Known: h1.RequestID})
}

var requestIDName = []byte("x-request-id")

// interimFields calls yield with the fields of the interim or switching head in
// w.resp.
func (x *exchange) interimFields(yield func(h1.Field)) {
	resp := x.w.resp
	for i := range resp.Fields {
		f := &resp.Fields[i]
		if i < 64 && resp.HopByHop&(1<<i) != 0 || f.Known.HopByHop() || f.Known == h1.ContentLength {
			continue
		}
		if f.Known == h1.FaultFlag || f.Known == h1.RequestID {
			continue // windrose's to say
		}
		yield(*f)
	}
}

// appendResponse appends the final head from w.resp, and settles how the body is
// framed.
func (c *client) appendResponse(dst []byte, end bool) []byte {
	resp := c.w.resp
	dst = appendStatus(dst, resp.Status, resp.Reason)
	c.x.responseFields(func(f h1.Field) { dst = h1.AppendField(dst, f.Name, f.Value) })
	switch resp.Body {
	case h1.NoBody:
	case h1.Length:
		dst = append(dst, "content-length: "...)
		dst = strconv.AppendInt(dst, resp.Length, 10)
		dst = append(dst, "\r\n"...)
	case h1.Chunked, h1.UntilClose:
		if c.x.minor == 0 {
			c.last = true // the end of the connection is the end of the body
			break
		}
		c.rechunk = true
		dst = append(dst, "transfer-encoding: chunked\r\n"...)
	}
	switch {
	case c.last || c.w.view.draining || (end || c.x.own) && !c.body.Done():
		// An answer of windrose's own is all here: the rest of the request has no
		// time left to come.
		c.last = true
		dst = append(dst, "connection: close\r\n"...)
	case c.x.minor == 0:
		dst = append(dst, "connection: keep-alive\r\n"...)
	}
	return append(dst, "\r\n"...)
}

func (c *client) appendInterim(dst []byte) []byte {
	resp := c.w.resp
	dst = appendStatus(dst, resp.Status, resp.Reason)
	c.x.interimFields(func(f h1.Field) { dst = h1.AppendField(dst, f.Name, f.Value) })
	return append(dst, "\r\n"...)
}

func appendStatus(dst []byte, status int, reason []byte) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	dst = append(dst, ' ')
	dst = append(dst, reason...)
	return append(dst, "\r\n"...)
}

// edits says whether there is anything to edit, so that a rule without filters
// costs nothing for each field.
func edits(steps [2][]plan.Step, kind plan.StepKind) bool {
	for _, list := range steps {
		for i := range list {
			if list[i].Kind == kind {
				return true
			}
		}
	}
	return false
}

func dropped(steps [2][]plan.Step, kind plan.StepKind, name []byte) bool {
	return plan.Drops(steps[0], kind, name) || plan.Drops(steps[1], kind, name)
}

// eachEdit calls yield with the fields that the steps bring. Those of framing and
// connection are not theirs to set.
func eachEdit(steps [2][]plan.Step, kind plan.StepKind, yield func(name, value []byte)) {
	for n, list := range steps {
		if len(list) == 0 {
			continue
		}
		plan.Fields(list, kind, func(h plan.Header) {
			if n == 0 && plan.Drops(steps[1], kind, bytesOf(h.Name)) || reserved(h.Name) {
				return
			}
			yield(bytesOf(h.Name), bytesOf(h.Value))
		})
	}
}

// bytesOf is a view of a string's bytes, which must not be changed.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

func reserved(name string) bool {
	k := h1.Classify(bytesOf(name))
	return k.HopByHop() || k == h1.ContentLength || k == h1.Host
}

func has(fields []h1.Field, k h1.Known) bool {
	for i := range fields {
		if fields[i].Known == k {
			return true
		}
	}
	return false
}

func headSize(req *h1.Request) int {
	n := len(req.Method) + len(req.Target) + len(req.Host) + len(req.Upgrade)
	for i := range req.Fields {
		n += len(req.Fields[i].Name) + len(req.Fields[i].Value) + 4
	}
	return n
}

// lookup gives the value of a field by its lower-case name, for matching; the
// values of a repeated field are joined in scratch.
func lookup(fields []h1.Field, name string, scratch *[]byte) ([]byte, bool) {
	var value []byte
	found := 0
	for i := range fields {
		if !h1.EqualFold(fields[i].Name, name) {
			continue
		}
		switch found++; found {
		case 1:
			value = fields[i].Value
		case 2:
			*scratch = joinList(append((*scratch)[:0], value...), fields[i].Value)
			value = *scratch
		default:
			*scratch = joinList(*scratch, fields[i].Value)
			value = *scratch
		}
	}
	return value, found > 0
}

func joinList(dst, value []byte) []byte {
	if len(dst) > 0 {
		dst = append(dst, ", "...)
	}
	return append(dst, value...)
}

func trusted(proxies []netip.Prefix, peer netip.Addr) bool {
	for _, p := range proxies {
		if p.Contains(peer) {
			return true
		}
	}
	return false
}
