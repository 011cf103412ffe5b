package proxy

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"windrose.dev/windrose/internal/loop"
	"windrose.dev/windrose/internal/record"
	"windrose.dev/windrose/internal/telemetry"
	"windrose.dev/windrose/internal/upstream"
)

// UDP has no connections, so what belongs together is a flow: the datagrams of
// one peer to one of our addresses, and the answers to them. A flow has a socket
// of its own to the endpoint, which is how its answers are known, and lasts until
// nothing was said for FlowTimeout. Its backend is picked once, by the rule's
// counter. One record is emitted when it ends.
//
// windrose says nothing by itself, so that a forged peer gets no more bytes than
// the service sends.

const (
	// maxFlows bounds the flows of one socket on one loop; each has a descriptor.
	maxFlows = 16 << 10
	// turnBatches bounds the batches that one socket receives in one turn.
	turnBatches = 8
)

// udpSide is one bound UDP socket on one loop.
type udpSide struct {
	w       *worker
	sock    *socket
	udp     loop.UDP
	counts  *telemetry.Socket
	flows   map[flowKey]*flow
	sources map[netip.Addr]int // flows by the peer's address
	closing bool
	timer   loop.Timer // of closing
}

// flowKey is what makes datagrams one flow.
type flowKey struct {
	peer  netip.AddrPort
	local netip.Addr // what they came to; invalid where the socket has one address
}

type flow struct {
	s        *udpSide
	key      flowKey
	up       loop.UDP
	endpoint *upstream.Endpoint
	silence  int64 // how long it may be silent
	begun    int64
	activity int64
	timer    loop.Timer
	rec      record.Record
}

// listenUDP receives on a bound socket.
func (w *worker) listenUDP(s *socket, fd int) *udpSide {
	u := &udpSide{w: w, sock: s, counts: w.tel.Socket(s.name), flows: map[flowKey]*flow{}, sources: map[netip.Addr]int{}}
	if err := w.loop.ListenUDP(&u.udp, fd, u); err != nil {
		w.proxy.cfg.Log("cannot receive datagrams", "socket", s.name, "error", err)
		return nil
	}
	u.timer.F = u.close
	w.udp = append(w.udp, u)
	return u
}

// Received is called by the loop.
func (u *udpSide) Received(error) {
	for range turnBatches {
		n, err := u.udp.Receive()
		if err != nil {
			return
		}
		u.forward(n)
	}
	u.udp.Again()
}

// forward gives the datagrams of a batch to their flows.
func (u *udpSide) forward(n int) {
	d := u.udp.Datagrams()
	for i := 0; i < n; {
		key := flowKey{d.Peer(i), d.Local(i)}
		j := i + 1
		for j < n && d.Peer(j) == key.peer && d.Local(j) == key.local {
			j++
		}
		f := u.flows[key]
		if f != nil && f.endpoint.Gone() {
			f.close() // its peer may go on for ever: it must not hold on to what is gone
			f = nil
		}
		if f == nil {
			f = u.begin(key)
		}
		if f != nil {
			i = f.send(i, j)
		}
		// An endpoint refused what came before: the rest is another flow's.
		if f != nil && i < j {
			if f = u.begin(key); f != nil {
				f.send(i, j)
			}
		}
		i = j
	}
}

// begin makes a flow; nil if it cannot be.
func (u *udpSide) begin(key flowKey) *flow {
	w := u.w
	if !u.admit(key.peer.Addr()) {
		u.counts.Refused++
		return nil
	}
	u.counts.Accepted++
	f := &flow{s: u, key: key, begun: w.loop.Clock(), activity: w.loop.Now()}
	f.rec = record.Record{Start: w.loop.At(f.begun), ID: w.ids.Append(nil), Protocol: "UDP", Client: key.peer}
	service, flag, reason := f.aim()
	if service == nil {
		f.rec.Fault, f.rec.Reason = flag, reason
		f.emit()
		return nil
	}
	if !f.dial(service) {
		f.emit()
		return nil
	}
	f.silence = int64(w.view.settings.FlowTimeout)
	u.flows[key] = f
	u.sources[key.peer.Addr()]++
	u.counts.Active++
	w.proxy.conns.Add(1)
	f.timer.F = f.expired
	w.loop.Arm(&f.timer, f.activity+f.silence)
	return f
}

// admit says whether a source may have another flow. When the table is more than
// half full, one source has at most an eighth of it.
func (u *udpSide) admit(source netip.Addr) bool {
	n := len(u.flows)
	switch {
	case u.closing, n >= maxFlows, int(u.w.proxy.conns.Load()) >= u.w.view.settings.MaxConnections:
		return false
	case n > maxFlows/2:
		return u.sources[source] < maxFlows/8
	}
	return true
}

func (f *flow) aim() (*upstream.Service, record.Flag, string) {
	w := f.s.w
	bound := w.view.plan.Bound(f.s.sock.name)
	if bound == nil || len(bound.Listeners()) == 0 {
		return nil, record.NoRoute, "no listener serves this socket"
	}
	return w.aim(&f.rec, w.view, bound.Listeners()[0], nil)
}

// dial makes the flow's socket; without one the record says why not.
func (f *flow) dial(service *upstream.Service) bool {
	w := f.s.w
	var tried []*upstream.Endpoint
	for range maxAttempts {
		e := service.Pick(w.loop.Now(), w.rng.Uint64(), tried)
		if e == nil {
			break
		}
		if e.Active() >= w.view.settings.MaxInFlight {
			f.rec.Fault, f.rec.Reason = record.Overload, "the limit of flows to "+e.Addr.String()+" (limits.inFlight) is reached"
			return false
		}
		f.rec.Attempts++
		f.rec.Endpoint = e.Addr
		t := f.rec.Try()
		t.Service, t.Endpoint, t.Begun = service.Name, e.Addr, f.since()
		err := w.loop.DialUDP(&f.up, e.Addr, f)
		if err == nil {
			e.Begin()
			f.endpoint = e
			t.Connected = t.Begun // a socket is all there is
			return true
		}
		if exhausted(err) {
			f.rec.Fault, f.rec.Reason = record.Overload, "windrose cannot open another socket ("+err.Error()+")"
			return false
		}
		t.Ended, t.Fault, t.Reason = f.since(), record.ConnectFailed, err.Error()
		e.Refused(w.loop.Now())
		tried = append(tried, e)
	}
	f.rec.Fault, f.rec.Reason = record.ConnectFailed, unreachable(service.Name, f.rec.Endpoint, "")
	return false
}

// send gives datagrams of the batch to the endpoint. It returns where it stopped:
// at to, or before if the endpoint refused, which ends the flow.
func (f *flow) send(from, to int) int {
	d := f.up.Datagrams()
	f.activity = f.s.w.loop.Now()
	for from < to {
		n, err := f.up.Send(from, to)
		for i := from; i < from+n; i++ {
			f.rec.BytesIn += int64(len(d.Data(i)))
		}
		from += n
		switch {
		case err == nil:
		case err == loop.ErrAgain: //nolint:errorlint // see client.read
			return to // there is no room: datagrams may get lost
		case errors.Is(err, unix.ECONNREFUSED):
			f.refused(err)
			return from
		default:
			from++ // this one cannot be sent; the next may be smaller
		}
	}
	return to
}

// Received is called by the loop when the endpoint has answered, or its host has
// said that nobody listens.
func (f *flow) Received(err error) {
	if err != nil {
		f.refused(err)
		return
	}
	for range turnBatches {
		n, err := f.up.Receive()
		if err == loop.ErrAgain { //nolint:errorlint // see client.read
			return
		}
		if err != nil {
			f.refused(err)
			return
		}
		f.endpoint.Connected()
		f.answer(n)
	}
	f.up.Again()
}

// answer gives the answers of a batch to the peer, from the address it asked.
func (f *flow) answer(n int) {
	d := f.up.Datagrams()
	f.activity = f.s.w.loop.Now()
	if f.rec.Upstream == 0 {
		f.rec.Upstream = f.since()
		f.rec.LastTry().Answered = f.rec.Upstream
	}
	for i := 0; i < n; {
		m, err := f.s.udp.SendTo(i, n, f.key.peer, f.key.local)
		for j := i; j < i+m; j++ {
			f.rec.BytesOut += int64(len(d.Data(j)))
		}
		i += m
		if err == loop.ErrAgain { //nolint:errorlint // see client.read
			return
		}
		if err != nil {
			i++ // this one cannot be sent
		}
	}
}

// refused ends the flow because nobody listens at the endpoint: the peer's next
// datagram begins another, elsewhere if there is an elsewhere.
func (f *flow) refused(err error) {
	w := f.s.w
	f.endpoint.Refused(w.loop.Now())
	w.tel.UpstreamFailed++
	f.rec.Fault, f.rec.Reason = record.ConnectFailed, unreachable(f.rec.Service, f.rec.Endpoint, err.Error())
	f.close()
}

func (f *flow) expired() {
	line := f.activity + f.silence
	if f.s.w.loop.Now() < line {
		f.s.w.loop.Arm(&f.timer, line)
		return
	}
	f.close()
}

func (f *flow) close() {
	u := f.s
	if u.flows[f.key] != f {
		return
	}
	delete(u.flows, f.key)
	source := f.key.peer.Addr()
	if u.sources[source]--; u.sources[source] == 0 {
		delete(u.sources, source)
	}
	u.w.loop.Stop(&f.timer)
	f.up.Close()
	f.endpoint.End()
	u.counts.Active--
	u.w.proxy.conns.Add(-1)
	f.emit()
}

// since is how long ago the flow began.
func (f *flow) since() time.Duration { return time.Duration(max(f.s.w.loop.Clock()-f.begun, 1)) }

func (f *flow) emit() {
	f.rec.Duration = time.Duration(f.s.w.loop.Clock() - f.begun)
	tryOver(&f.rec)
	f.s.w.tel.Emit(&f.rec)
}

// leave closes the socket after a moment in which answers that are on their way
// still reach those who asked.
func (u *udpSide) leave() {
	u.closing = true
	if len(u.flows) == 0 {
		u.close()
		return
	}
	u.w.loop.Arm(&u.timer, u.w.loop.Now()+lameDuckTime)
}

// close ends the socket with its flows.
func (u *udpSide) close() {
	u.w.loop.Stop(&u.timer)
	for _, f := range u.flows {
		f.close()
	}
	u.udp.Close()
	u.w.udp = slices.DeleteFunc(u.w.udp, func(o *udpSide) bool { return o == u })
}
