package proxy

import (
	"crypto/tls"
	"net/netip"

	"windrose.dev/windrose/internal/loop"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/record"
	"windrose.dev/windrose/internal/sniff"
	"windrose.dev/windrose/internal/telemetry"
)

// On a socket that HTTPS and TLS listeners share, or that has TLS listeners
// alone, somebody has to look at the client's first message before it is known
// who makes the handshake. It is left in the socket's buffer: whoever takes over
// finds it there.

// acceptShared takes over a connection of a socket with TLS listeners.
func (w *worker) acceptShared(s *socket, counts *telemetry.Socket, fd int, peer netip.AddrPort) {
	st := w.newStream(s, counts, fd, peer)
	if st == nil {
		return
	}
	st.rec.Protocol = "TLS"
	st.phase = streamPeeking
	st.arm()
}

// peek looks at what has come of the client's first message.
func (st *stream) peek(r loop.Ready) {
	w := st.w
	n, err := st.down.Peek(w.loop.In[:min(len(w.loop.In), sniff.MaxBytes)])
	if err == loop.ErrAgain && r.Err == nil { //nolint:errorlint // see client.read
		return
	}
	if err != nil {
		w.tel.Handshake(telemetry.HandshakeGone)
		st.quiet()
		return
	}
	var hello sniff.Hello
	switch sniff.ClientHello(w.loop.In[:n], &hello) {
	case sniff.More:
		if r.Hangup || r.Err != nil {
			w.tel.Handshake(telemetry.HandshakeGone)
			st.quiet()
		}
	case sniff.NotTLS:
		w.tel.Handshake(telemetry.HandshakeNotTLS)
		st.fail(record.BadRequest, "the connection does not begin with a TLS handshake")
	case sniff.Found:
		st.choose(hello.ServerName)
	}
}

// choose sends the connection where its server name belongs.
func (st *stream) choose(serverName []byte) {
	w := st.w
	id := len(st.name)
	st.name = append(st.name, serverName...)
	st.rec.ID, st.rec.Host = st.name[:id], st.name[id:]
	st.rec.Received = st.since(w.loop.Now())
	var l *plan.BoundListener
	if bound := w.view.plan.Bound(st.sock.name); bound != nil {
		l = bound.Listener(serverName)
	}
	switch {
	case l == nil:
		w.tel.Handshake(telemetry.HandshakeNoName)
		st.alert(alertUnrecognizedName, record.NoRoute, "no listener serves the server name of the handshake")
	case l.Protocol == plan.HTTPS:
		peer := st.rec.Client
		fd := st.down.Detach()
		st.forget()
		w.accept(st.sock, st.counts, fd, peer)
	case l.Passthrough:
		st.send(l, st.rec.Host)
	default:
		st.phase = streamShaking
		st.secure = true
		st.down.StartTLS(st.sock.streams, w.proxy.handshakes)
		st.arm()
		st.down.Handshake()
	}
}

// shaken is called when the handshake that is made here has ended.
func (st *stream) shaken(r loop.Ready) {
	w := st.w
	w.tel.Handshake(handshakeResult(r.Err))
	w.countHandshake()
	if r.Err != nil {
		st.quiet()
		return
	}
	var l *plan.BoundListener
	if bound := w.view.plan.Bound(st.sock.name); bound != nil {
		l = bound.Listener(st.rec.Host)
	}
	if s := st.down.TLSState(); s != nil {
		st.rec.TLS = tlsVersion(s.Version)
	}
	if l == nil || l.Protocol != plan.TLS || l.Passthrough {
		st.fail(record.NoRoute, "the listener went away during the handshake")
		return
	}
	st.send(l, st.rec.Host)
}

// quiet ends a connection that never came to be anything: a handshake that
// failed is counted, as for HTTPS, and has no record.
func (st *stream) quiet() {
	st.forget()
	st.down.Close()
}

// The alerts that are sent without a handshake (RFC 8446, 6).
const (
	alertInternalError    = 80
	alertUnrecognizedName = 112
)

// alert ends a connection whose handshake has not begun with a fault, and tells
// the client.
func (st *stream) alert(code byte, flag record.Flag, reason string) {
	st.rec.Fault, st.rec.Reason = flag, reason
	st.emit()
	st.phase = streamLeaving
	// A fatal alert in a record of its own; the version is the one that every
	// client takes before it knows another.
	if err := st.down.Write([]byte{21, 3, 3, 0, 2, 2, code}); err != nil {
		st.close()
		return
	}
	st.down.CloseWrite()
	st.arm()
	st.discard()
}

// discard throws away what a client that is told to go still sends: closing with
// bytes unread would reset the connection, and the reset can overtake the alert.
func (st *stream) discard() {
	for range lingerBytes >> 16 {
		_, err := st.down.Read(st.w.loop.In)
		if err == loop.ErrAgain { //nolint:errorlint // see client.read
			return
		}
		if err != nil {
			break
		}
	}
	st.close()
}

// forStreams is a socket's TLS configuration for what is not HTTP: no protocol
// is agreed on, and tickets of one are of no use with the other.
func forStreams(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.NextProtos = nil
	c.GetConfigForClient = nil // who the client is, is asked for HTTPS
	return c
}
