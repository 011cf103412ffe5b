package proxy

import (
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // what RFC 6455 asks for; nothing is kept secret by it
	"encoding/base64"
	"net/http"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/record"
)

// This file is about the beginning of WebSockets where HTTP/2 has a part in it, or
// HTTP/3, which begins them in the same way (RFC 9220).
// HTTP/1 begins them with an Upgrade, whose key is answered so that both ends
// know that the other means it (RFC 6455); HTTP/2 with an extended CONNECT,
// which has neither (RFC 8441):
//
//	client   endpoint   key, and the answer to it
//	HTTP/1   HTTP/1     go through
//	HTTP/1   HTTP/2     the client's key is answered here
//	HTTP/2   HTTP/1     made and checked here
//	HTTP/2   HTTP/2     there is none
//
// What an endpoint is sent is kept as an Upgrade in any case. Nothing that comes
// behind the request is passed on before the endpoint has agreed.

// webSocket is the key of a WebSocket whose two sides do not exchange it
// themselves.
type webSocket struct {
	key    [24]byte
	accept [28]byte // the answer to it
}

const (
	webSocketProtocol = "websocket"
	webSocketGUID     = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" // RFC 6455 1.3
	keyName           = "sec-websocket-key"
	acceptName        = "sec-websocket-accept"
)

func newWebSocket() *webSocket {
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // it cannot fail
	s := new(webSocket)
	base64.StdEncoding.Encode(s.key[:], nonce[:])
	s.answer()
	return s
}

func (s *webSocket) answer() {
	sum := sha1.Sum(append(s.key[:], webSocketGUID...)) //nolint:gosec // see above
	base64.StdEncoding.Encode(s.accept[:], sum[:])
}

// sole gives the value of a field that is there exactly once.
func sole(fields []h1.Field, name string) ([]byte, bool) {
	var value []byte
	n := 0
	for i := range fields {
		if h1.EqualFold(fields[i].Name, name) {
			value = fields[i].Value
			n++
		}
	}
	return value, n == 1
}

// begins settles how the upgrade that the request asks for reaches the endpoint.
// It says whether it can; if not, the request has been answered.
func (x *exchange) begins() bool {
	req := x.w.req
	switch {
	case x.extended:
		x.ws = newWebSocket()
		return true
	case x.protocol != plan.H2C:
		return true
	case !h1.EqualFold(req.Upgrade, webSocketProtocol):
		x.fail(record.NotSupported, "service "+x.backend.ServiceName+" speaks HTTP/2, to which no upgrade but that of a WebSocket is carried")
		return false
	case string(req.Method) != http.MethodGet:
		x.fail(record.BadRequest, "a WebSocket does not begin with GET")
		return false
	}
	s := new(webSocket)
	key, ok := sole(req.Fields, keyName)
	if ok = ok && copy(s.key[:], key) == len(key); ok {
		var nonce [18]byte
		n, err := base64.StdEncoding.Strict().Decode(nonce[:], key)
		ok = err == nil && n == 16
	}
	if !ok {
		x.fail(record.BadRequest, "the WebSocket's Sec-WebSocket-Key is missing, is there twice or is not 16 bytes in base64")
		return false
	}
	s.answer()
	x.ws = s
	return true
}

// waits says that the endpoint has not agreed to the upgrade yet: nothing more
// of the request is for it.
func (x *exchange) waits() bool { return x.upgrade && !x.tunnel }

// distrusts says why the switch of protocols in w.resp, of an endpoint of
// HTTP/1, is not the one that was asked for; "" if it is.
func (x *exchange) distrusts() string {
	if x.ws == nil {
		return "" // the client sees for itself
	}
	if !h1.EqualFold(x.w.resp.Upgrade, webSocketProtocol) {
		return "it switched to another protocol than WebSocket"
	}
	if accept, ok := sole(x.w.resp.Fields, acceptName); !ok || string(accept) != string(x.ws.accept[:]) {
		return "its Sec-WebSocket-Accept does not answer the key"
	}
	return ""
}

// switchFields calls yield with the fields of the head in w.resp that switches
// protocols, as the client is to see them.
func (x *exchange) switchFields(yield func(name, value []byte)) {
	steps := x.responseSteps()
	x.interimFields(func(f h1.Field) {
		if x.ws != nil && h1.EqualFold(f.Name, acceptName) || x.stay != nil && x.stay.speaks(f.Name) || dropped(steps, plan.StepResponseHeaders, f.Name) {
			return
		}
		yield(f.Name, f.Value)
	})
	eachEdit(steps, plan.StepResponseHeaders, yield)
	if x.stay != nil {
		x.sessionField(yield)
	}
	yield(requestIDName, x.rec.ID)
}

// appendSwitch appends the head of a 101.
func (c *client) appendSwitch(dst []byte) []byte {
	x := c.x
	dst = appendStatus(dst, http.StatusSwitchingProtocols, bytesOf(http.StatusText(http.StatusSwitchingProtocols)))
	x.switchFields(func(name, value []byte) { dst = h1.AppendField(dst, name, value) })
	dst = append(dst, "connection: upgrade\r\n"...)
	protocol := c.w.resp.Upgrade
	if x.ws != nil {
		protocol = bytesOf(webSocketProtocol)
		dst = h1.AppendField(dst, acceptName, x.ws.accept[:])
	}
	dst = h1.AppendField(dst, "upgrade", protocol)
	return append(dst, "\r\n"...)
}

// turn answers that the stream is a tunnel.
func (s *h2stream) turn() error {
	h, x := s.m.h, s.x
	if !h.BeginResponse(s.id, http.StatusOK) {
		return errStreamGone
	}
	s.tunnel = true
	x.rec.Status = http.StatusOK
	x.switchFields(h.Add)
	h.EndHead(false)
	s.m.touch()
	if len(s.in) > s.at || s.inEnd {
		// Not now: the endpoint's first bytes are in hand.
		return s.m.c.w.loop.Post(func() {
			if s.x == x && x.tunnel { // both may be others by now
				s.resume()
			}
		})
	}
	return nil
}
