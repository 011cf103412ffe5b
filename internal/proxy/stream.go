package proxy

import (
	"errors"
	"net/netip"
	"time"

	"windrose.dev/windrose/internal/loop"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/record"
	"windrose.dev/windrose/internal/telemetry"
	"windrose.dev/windrose/internal/upstream"
)

// A stream is a connection whose bytes are nobody's business here: it came in on
// a TCP listener, or on a TLS listener, whose handshake is made here or by the
// service.
//
//	peeking -> shaking -> connecting -> relaying -> over
//	   |          what a TLS socket's first bytes say:
//	   |-> connecting    for a listener that passes the handshake through
//	   |-> an HTTPS listener's client, which is a client like any other
//	   \-> leaving       nobody serves that name: the client is told why
//
// Its plan is the one of the moment when it is known where it goes; a later one
// does not end it. One record is emitted for each, when it ends.
type stream struct {
	w      *worker
	sock   *socket
	counts *telemetry.Socket
	down   loop.Conn // of the client
	// up leads to the endpoint. Each attempt has one of its own: where a TLS
	// handshake is given up, its goroutine still holds the one before.
	up *loop.Conn

	phase    streamPhase
	secure   bool // TLS is ended here
	veiled   bool // TLS is spoken to the endpoint
	view     *view
	service  *upstream.Service
	endpoint *upstream.Endpoint // counted as in use; nil while there is none
	tried    []*upstream.Endpoint
	sent     lane // from the client to the endpoint
	answered lane // and back

	begun     int64
	attempt   int64 // when the last attempt to connect began
	activity  int64 // when bytes last moved
	drainLine int64 // when a draining windrose gives up; 0 none
	timer     loop.Timer

	rec  record.Record
	name []byte // what rec points at: the id, then the server name

	next, prev *stream
}

type streamPhase uint8

const (
	streamPeeking streamPhase = iota + 1
	streamShaking
	streamConnecting
	streamRelaying
	streamLeaving // an alert is on its way; what the client still sends is thrown away
	streamOver
)

// Who is told what happens at the two ends of a stream.
type (
	streamDown stream
	streamUp   stream
)

func (s *streamDown) Ready(r loop.Ready) { (*stream)(s).downReady(r) }
func (s *streamUp) Ready(r loop.Ready)   { (*stream)(s).upReady(r) }

// newStream takes over a connection that was accepted; nil if that fails.
func (w *worker) newStream(s *socket, counts *telemetry.Socket, fd int, peer netip.AddrPort) *stream {
	st := &stream{w: w, sock: s, counts: counts}
	if err := w.loop.Adopt(&st.down, fd, (*streamDown)(st)); err != nil {
		w.proxy.cfg.Log("cannot take over a connection", "error", err)
		return nil
	}
	counts.Active++
	w.opened()
	w.streams.add(st)
	st.timer.F = st.expired
	st.begun = w.loop.Clock()
	st.activity = w.loop.Now()
	st.rec.Start = w.loop.At(st.begun)
	st.rec.Client = peer
	st.rec.Protocol = "TCP"
	st.name = w.ids.Append(nil)
	st.rec.ID = st.name
	return st
}

// acceptTCP takes over a connection of a TCP listener.
func (w *worker) acceptTCP(s *socket, counts *telemetry.Socket, fd int, peer netip.AddrPort) {
	st := w.newStream(s, counts, fd, peer)
	if st == nil {
		return
	}
	bound := w.view.plan.Bound(s.name)
	if bound == nil || len(bound.Listeners()) == 0 {
		st.fail(record.NoRoute, "no listener serves this socket")
		return
	}
	st.send(bound.Listeners()[0], nil)
}

// send finds the service for the connection, and connects to it.
func (st *stream) send(l *plan.BoundListener, serverName []byte) {
	w := st.w
	st.view = w.view
	service, flag, reason := w.aim(&st.rec, st.view, l, serverName)
	if service == nil {
		st.fail(flag, reason)
		return
	}
	st.service = service
	st.connect()
}

// aim finds the service that a listener's connection or flow goes to, and notes
// in its record what led there. Without a service it says why not.
func (w *worker) aim(rec *record.Record, v *view, l *plan.BoundListener, serverName []byte) (*upstream.Service, record.Flag, string) {
	rec.Listener = l.Name
	hit, ok := l.Stream(v.plan, serverName)
	if !ok {
		return nil, record.NoRoute, "no route of listener " + l.Name + " takes this connection"
	}
	r := hit.Rule
	rec.Route, rec.Rule, rec.RuleSlot = r.RouteName, r.Index, r.Slot
	if r.Broken != nil {
		return nil, record.RuleBroken, r.Broken.Reason
	}
	i := 0
	if len(r.Backends) != 1 || r.Backends[0].Weight <= 0 {
		if i = r.Pick(w.proxy.splits.next(r.Slot)); i < 0 {
			return nil, record.NoBackend, "the rule has no backend with a weight above zero"
		}
	}
	b := &r.Backends[i]
	rec.Service, rec.ServiceSlot = b.ServiceName, b.Service
	if b.Broken != nil {
		return nil, record.BackendMissing, b.Broken.Reason
	}
	service := v.up.Service(b.Service).For(l)
	if service == nil || len(service.Endpoints()) == 0 {
		return nil, record.NoEndpoint, "service " + b.ServiceName + " has no ready endpoint"
	}
	return service, 0, ""
}

// connect asks endpoints for a connection until one is on its way.
func (st *stream) connect() {
	w := st.w
	for {
		e := st.service.Pick(w.loop.Now(), w.rng.Uint64(), st.tried)
		if e == nil || st.rec.Attempts >= maxAttempts {
			st.fail(record.ConnectFailed, st.unreachable(""))
			return
		}
		if e.Active() >= st.view.settings.MaxInFlight {
			st.fail(record.Overload, "the limit of connections to "+e.Addr.String()+" (limits.inFlight) is reached")
			return
		}
		st.rec.Attempts++
		st.rec.Endpoint = e.Addr
		st.attempt = w.loop.Clock()
		t := st.rec.Try()
		t.Service, t.Endpoint, t.Begun = st.service.Name, e.Addr, st.since(st.attempt)
		st.up = &loop.Conn{}
		err := w.dial(st.up, e.Addr, (*streamUp)(st))
		if err == nil {
			if st.veiled = e.TLS != nil; st.veiled {
				st.up.StartTLSClient(e.TLS, w.proxy.outward)
			}
			e.Begin()
			st.endpoint = e
			st.phase = streamConnecting
			w.tel.UpstreamActive++
			st.arm()
			return
		}
		w.tel.UpstreamFailed++
		if exhausted(err) {
			st.fail(record.Overload, "windrose cannot open another connection ("+err.Error()+")")
			return
		}
		t.Ended, t.Fault, t.Reason = st.since(w.loop.Clock()), record.ConnectFailed, err.Error()
		e.Refused(w.loop.Now())
		st.tried = append(st.tried, e)
	}
}

// since is a moment of the loop as a time of the record.
func (st *stream) since(moment int64) time.Duration { return time.Duration(max(moment-st.begun, 1)) }

// refused is called when the connection that was on its way is not made.
func (st *stream) refused(err error) {
	if errors.Is(err, loop.ErrBusy) {
		st.fail(record.Overload, "windrose has too many TLS handshakes with endpoints in progress")
		return
	}
	e := st.endpoint
	e.Refused(st.w.loop.Now())
	st.w.tel.UpstreamFailed++
	t := st.rec.LastTry()
	t.Ended, t.Fault, t.Reason = st.since(st.w.loop.Clock()), record.ConnectFailed, err.Error()
	st.tried = append(st.tried, e)
	st.release(false)
	if st.rec.Attempts >= maxAttempts || len(st.tried) >= len(st.service.Endpoints()) {
		st.fail(record.ConnectFailed, st.unreachable(err.Error()))
		return
	}
	st.connect()
}

func (st *stream) unreachable(why string) string {
	return unreachable(st.service.Name, st.rec.Endpoint, why)
}

func unreachable(service string, last netip.AddrPort, why string) string {
	text := "no endpoint of service " + service + " accepted a connection"
	if last.IsValid() {
		text += "; the last was " + last.String()
	}
	if why != "" {
		text += " (" + why + ")"
	}
	return text
}

// downReady is called by the loop for the client's connection.
func (st *stream) downReady(r loop.Ready) {
	switch st.phase {
	case streamPeeking:
		st.peek(r)
	case streamShaking:
		st.shaken(r)
	case streamConnecting:
		if r.Err != nil {
			st.fail(record.ClientGone, "the client left before an endpoint accepted the connection")
		}
	case streamRelaying:
		st.relay(r, &st.answered, &st.sent)
	case streamLeaving:
		st.discard()
	case streamOver:
	}
}

// upReady is called by the loop for the endpoint's connection.
func (st *stream) upReady(r loop.Ready) {
	switch st.phase {
	case streamConnecting:
		w := st.w
		w.shook(st.endpoint, st.up, r.Err)
		if r.Err != nil {
			st.refused(r.Err)
			return
		}
		st.phase = streamRelaying
		st.endpoint.Connected()
		w.tel.UpstreamOpened++
		now := w.loop.Clock()
		st.rec.Upstream = time.Duration(now - st.attempt)
		st.rec.LastTry().Connected = st.since(now)
		st.activity = w.loop.Now()
		st.arm()
		st.relay(loop.Ready{Read: r.Read, Drained: true, Hangup: r.Hangup}, &st.sent, &st.answered)
	case streamRelaying:
		st.relay(r, &st.sent, &st.answered)
	case streamPeeking, streamShaking, streamLeaving, streamOver:
	}
}

// arm sets the timer for what the stream waits for.
func (st *stream) arm() {
	s := st.w.view.settings
	line := int64(0)
	switch st.phase {
	case streamPeeking, streamShaking:
		line = st.activity + int64(s.HandshakeTimeout)
	case streamConnecting:
		line = st.w.loop.Now() + int64(s.ConnectTimeout)
	case streamRelaying:
		line = st.activity + int64(st.view.settings.TunnelTimeout)
	case streamLeaving:
		line = st.w.loop.Now() + lingerTime
	case streamOver:
		return
	}
	if st.drainLine != 0 {
		line = min(line, st.drainLine)
	}
	st.w.loop.Arm(&st.timer, line)
}

func (st *stream) expired() {
	now := st.w.loop.Now()
	if st.drainLine != 0 && now >= st.drainLine && st.phase != streamShaking {
		st.fail(record.Draining, "windrose or the listener goes away, and the connection lasted longer than the drain timeout")
		return
	}
	switch st.phase {
	case streamPeeking:
		st.w.tel.Handshake(telemetry.HandshakeTimeout)
		st.fail(record.HeaderTimeout, "the client's first handshake message did not arrive in time")
	case streamShaking:
		st.down.CancelHandshake()
	case streamConnecting:
		st.w.shook(st.endpoint, st.up, errConnectTimeout)
		st.refused(errConnectTimeout)
	case streamRelaying:
		if now < st.activity+int64(st.view.settings.TunnelTimeout) {
			st.arm() // something moved since the timer was set
			return
		}
		st.cutOff() // neither end has said that it is done
	case streamLeaving:
		st.close()
	case streamOver:
	}
}

// leave bounds a stream whose socket goes away: there is no way to ask its ends
// to come to one.
func (st *stream) leave(deadline int64) {
	st.drainLine = deadline
	st.arm()
}

// fail ends the stream with a fault before or after it stood.
func (st *stream) fail(flag record.Flag, reason string) {
	if st.phase == streamOver {
		return
	}
	early := st.phase == streamPeeking || st.phase == streamConnecting
	if early && !st.secure && st.rec.Host != nil && flag != record.ClientGone {
		st.release(false)
		st.alert(alertInternalError, flag, reason) // it waits for a handshake
		return
	}
	st.rec.Fault, st.rec.Reason = flag, reason
	st.cutOff()
}

// cutOff ends the stream so that both ends see that it was not to end there.
func (st *stream) cutOff() {
	if st.endpoint != nil {
		st.release(true)
	}
	st.down.Reset()
	st.close()
}

// release gives the endpoint and its connection back.
func (st *stream) release(reset bool) {
	if st.endpoint == nil {
		return
	}
	st.endpoint.End()
	st.endpoint = nil
	if reset {
		st.up.Reset()
	} else {
		st.up.Close()
	}
	st.w.tel.UpstreamActive--
}

// close ends the stream; everything but the record may have ended before.
func (st *stream) close() {
	if st.phase == streamOver {
		return
	}
	w := st.w
	st.release(false)
	for _, l := range [2]*lane{&st.sent, &st.answered} {
		w.loop.GivePipe(l.pipe)
		l.pipe = nil
	}
	if st.phase != streamLeaving {
		st.emit()
	}
	st.forget()
	st.down.Close()
}

// emit gives the record away.
func (st *stream) emit() {
	st.rec.Duration = time.Duration(st.w.loop.Clock() - st.begun)
	st.rec.BytesIn, st.rec.BytesOut = st.sent.bytes, st.answered.bytes
	tryOver(&st.rec)
	st.w.tel.Emit(&st.rec)
}

// forget takes the stream out of its loop's books.
func (st *stream) forget() {
	st.phase = streamOver
	st.w.loop.Stop(&st.timer)
	st.w.streams.remove(st)
	st.counts.Active--
	st.w.ended()
}

// cut ends the stream because its loop ends.
func (st *stream) cut() { st.fail(record.Draining, "windrose ended before the connection did") }

// streamList is the streams of a loop.
type streamList struct{ head stream }

func (l *streamList) init() { l.head.next, l.head.prev = &l.head, &l.head }

func (l *streamList) add(st *stream) {
	st.next, st.prev = &l.head, l.head.prev
	l.head.prev.next, l.head.prev = st, st
}

func (l *streamList) remove(st *stream) {
	st.prev.next, st.next.prev = st.next, st.prev
	st.next, st.prev = nil, nil
}

// each calls f for every stream; f may remove the one it is given.
func (l *streamList) each(f func(*stream)) {
	for st := l.head.next; st != &l.head; {
		next := st.next
		f(st)
		st = next
	}
}
