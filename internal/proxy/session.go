package proxy

import (
	"bytes"
	"strconv"
	"time"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/session"
	"windrose.dev/windrose/internal/upstream"
)

// This file is about sessions: a client's requests stay with the endpoint that
// served its first. The backend is picked before, by the rule's weights, as for
// any other request: a session says nothing but which of the backend's endpoints
// it is. One token speaks for all backends of a rule.

// stay is a request's part in a session.
type stay struct {
	spec   *plan.Session
	pins   []session.Pin
	at     *upstream.Endpoint // that has the session; nil if none has
	secure bool               // the client came over TLS
	value  []byte             // what the client is told, once it is made
}

// maxTokens bounds the tokens of one request that are looked at: cookies of
// several paths can have one name.
const maxTokens = 4

// join finds the endpoint that has the session of the request in w.req.
func (x *exchange) join() {
	sealer, req := x.view.sealer, x.w.req
	if sealer == nil {
		return
	}
	spec := x.rule.Session
	if spec == nil {
		spec = x.service.Session
	}
	st := &stay{spec: spec, secure: x.c.secure}
	if proto, ok := h1.Lookup(req.Fields, "x-forwarded-proto"); ok && x.c.trusted && string(proto) == "https" {
		st.secure = true
	}
	x.stay = st
	eachToken(req.Fields, spec, func(token []byte) bool {
		pins, ok := sealer.Open(token)
		if ok && st.at == nil && (st.pins == nil || x.pinned(pins) != nil) {
			st.pins, st.at = pins, x.pinned(pins)
		}
		return st.at == nil
	})
}

// pinned is the endpoint that pins say of the service, if it is still there.
func (x *exchange) pinned(pins []session.Pin) *upstream.Endpoint {
	id := session.Hash(x.service.Name)
	for _, p := range pins {
		if p.Service == id && !p.Expired(x.rec.Start, x.stay.spec.Timeout) {
			return x.service.Find(p.Endpoint)
		}
	}
	return nil
}

// eachToken calls yield with what may be tokens, until it says that it is
// enough.
func eachToken(fields []h1.Field, spec *plan.Session, yield func([]byte) bool) {
	left := maxTokens
	for i := range fields {
		f := &fields[i]
		switch {
		case spec.Header != "" && h1.EqualFold(f.Name, spec.Header):
			if left--; left < 0 || !yield(f.Value) {
				return
			}
		case spec.Cookie != "" && h1.EqualFold(f.Name, "cookie"):
			for pair := range bytes.SplitSeq(f.Value, []byte{';'}) {
				name, value, _ := bytes.Cut(bytes.Trim(pair, " \t"), []byte{'='})
				if string(name) != spec.Cookie {
					continue
				}
				if left--; left < 0 || !yield(bytes.Trim(value, `"`)) {
					return
				}
			}
		}
	}
}

// endpoint is the one that has the session, unless it is out of reach: then the
// session goes elsewhere.
func (st *stay) endpoint(now int64) *upstream.Endpoint {
	if st == nil || st.at == nil || st.at.Down(now) {
		return nil
	}
	return st.at
}

// speaks says whether a field of the answer is windrose's own to write.
func (st *stay) speaks(name []byte) bool {
	return st.spec.Header != "" && h1.EqualFold(name, st.spec.Header)
}

var setCookieName = []byte("set-cookie")

// sessionField calls yield with the field that has the client come back to the
// endpoint that answers, if the client does not do so anyway.
func (x *exchange) sessionField(yield func(name, value []byte)) {
	st := x.stay
	if x.own || st.at != nil && st.at.Addr == x.rec.Endpoint {
		return
	}
	if st.value == nil {
		st.value = st.renew(x)
	}
	if st.spec.Header != "" {
		yield(bytesOf(st.spec.Header), st.value)
		return
	}
	yield(setCookieName, st.value)
}

// renew makes what the client is told. What the token said of other services is
// kept.
func (st *stay) renew(x *exchange) []byte {
	id := session.Hash(x.service.Name)
	pins := []session.Pin{{Service: id, Endpoint: x.rec.Endpoint, Since: uint32(x.rec.Start.Unix())}}
	for _, p := range st.pins {
		if p.Service != id {
			pins = append(pins, p)
		}
	}
	token := x.view.sealer.Seal(pins)
	if st.spec.Header != "" {
		return token
	}
	value := append([]byte(st.spec.Cookie), '=')
	value = append(value, token...)
	value = append(value, "; Path="...)
	if st.spec.Path == "" {
		value = append(value, '/')
	}
	value = append(value, st.spec.Path...)
	if st.spec.Permanent {
		value = append(value, "; Max-Age="...)
		value = strconv.AppendInt(value, int64(max(st.spec.Timeout/time.Second, 1)), 10)
	}
	value = append(value, "; HttpOnly; SameSite=Strict"...)
	if st.secure {
		value = append(value, "; Secure"...)
	}
	return value
}
