package feed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"windrose.dev/windrose/internal/plan"
)

// A follower is one connected data plane as the server sees it.
type follower struct {
	server *Server
	wire   *wire
	acks   chan Ack // from the reader; one is in flight at most

	// Guarded by the server's mutex.
	peer    Peer
	welcome bool
	sent    uint64 // the server's seq of the last delta
	acked   uint64 // the server's seq that the data plane has
	// held is what the data plane said that it has, until it has taken a first
	// delta; acked counts from then on.
	held map[plan.Key]Hash
}

// has is the oldest state that the next delta may start from; latest if it will
// start from hashes. The server's mutex is held.
func (c *follower) has(latest uint64) uint64 {
	switch {
	case c.held == nil && c.welcome:
		return c.acked
	case c.sent > 0: // the first delta is on its way
		return c.sent
	}
	return latest
}

// refuse tells the other end why, and gives it as an error.
func (c *follower) refuse(reason string) error {
	err := errors.Join(&RefusedError{Reason: reason}, c.wire.send(&message{Type: typeRefuse, Reason: reason}))
	// Closing with something unread may take the reason away from the other
	// end, which is still sending.
	if c.wire.conn.SetReadDeadline(time.Now().Add(time.Second)) == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(c.wire.conn, maxFrame))
	}
	return err
}

func (c *follower) run(ctx context.Context, conn net.Conn, deadline time.Time) error {
	if err := c.greet(deadline); err != nil {
		return err
	}
	if s := c.server; s.OnPeer != nil {
		s.OnPeer(c.peer, nil)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		cancel(c.read())
	}()
	err := c.feed(ctx)
	conn.Close()
	<-done
	return err
}

// hello reads what the data plane says of itself.
func (c *follower) hello(deadline time.Time) (*message, error) {
	hello := &message{}
	if err := c.expect(hello, deadline); err != nil {
		return nil, err
	}
	if hello.Type != typeHello {
		return nil, c.refuse(fmt.Sprintf("the stream begins with %q instead of %q", clip(hello.Type), typeHello))
	}
	c.server.mu.Lock()
	c.peer = Peer{Node: clip(hello.Node), Build: clip(hello.Build)}
	c.server.mu.Unlock()
	if hello.Protocol != Protocol {
		return nil, c.refuse(protocolMismatch(hello.Protocol, clip(hello.Build)))
	}
	return hello, nil
}

// greet reads what the data plane holds, and answers.
func (c *follower) greet(deadline time.Time) error {
	held := map[plan.Key]Hash{}
	for last := false; !last; {
		var m message
		if err := c.expect(&m, deadline); err != nil {
			return err
		}
		if m.Type != typeHeld {
			return c.refuse(fmt.Sprintf("got %q while waiting for what is held", clip(m.Type)))
		}
		if len(held)+len(m.Held) > maxHeld {
			return c.refuse(fmt.Sprintf("more than %d parts are held", maxHeld))
		}
		for _, h := range m.Held {
			held[h.Key] = h.Hash
		}
		last = m.Last
	}
	if err := c.wire.send(&message{Type: typeWelcome, Protocol: Protocol, Build: c.server.Build}); err != nil {
		return err
	}
	c.server.mu.Lock()
	c.welcome, c.held = true, held
	c.server.mu.Unlock()
	return nil
}

// maxHeld bounds what a client says that it has.
const maxHeld = 1 << 20

// clip shortens what the other end says of itself.
func clip(s string) string {
	if len(s) > 200 {
		return s[:200]
	}
	return s
}

// expect reads a message. Unknown fields are let through: what is new in a
// hello must not hide that the protocol differs.
func (c *follower) expect(m *message, deadline time.Time) error {
	data, err := c.wire.receive(time.Until(deadline))
	if err != nil {
		return fmt.Errorf("wait for the data plane's greeting: %w", err)
	}
	if err := json.Unmarshal(data, m); err != nil {
		return c.refuse("the greeting is not understood: " + err.Error())
	}
	return nil
}

// read takes what the data plane sends until the connection ends.
func (c *follower) read() error {
	for {
		data, err := c.wire.receive(silence)
		if err != nil {
			return fmt.Errorf("read from the data plane: %w", err)
		}
		var m message
		if err := decodeStrict(data, &m); err != nil {
			return fmt.Errorf("decode from the data plane: %w", err)
		}
		switch {
		case m.Type == typePong:
			continue
		case (m.Type != typeAck && m.Type != typeReport) || m.Ack == nil:
			return fmt.Errorf("the data plane sent %q out of turn", clip(m.Type))
		}
		if c.server.OnAck != nil {
			c.server.OnAck(c.peer, *m.Ack)
		}
		if m.Type == typeAck {
			select {
			case c.acks <- *m.Ack:
			default:
				return errors.New("the data plane answered what it was not asked")
			}
		}
	}
}

// feed sends deltas, one at a time, and the newest each time.
func (c *follower) feed(ctx context.Context) error {
	for {
		d, changed := c.server.next(c)
		if d == nil {
			if err := c.idle(ctx, changed); err != nil {
				return err
			}
			continue
		}
		if err := c.send(d); err != nil {
			return fmt.Errorf("send version %d: %w", d.version, err)
		}
		if err := c.await(ctx, d); err != nil {
			return err
		}
	}
}

// idle waits for news, and shows now and then that this end lives.
func (c *follower) idle(ctx context.Context, changed <-chan struct{}) error {
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
			return nil
		case <-ping.C:
			if err := c.wire.send(&message{Type: typePing}); err != nil {
				return fmt.Errorf("ping the data plane: %w", err)
			}
		}
	}
}

// await waits for the ack of a delta. A refused one leaves the data plane where
// it was: the next version carries what this one did.
func (c *follower) await(ctx context.Context, d *outgoing) error {
	timeout := time.NewTimer(ackTimeout)
	defer timeout.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timeout.C:
			return fmt.Errorf("no answer to version %d within %v", d.version, ackTimeout)
		case ack := <-c.acks:
			if ack.Version != d.version {
				continue
			}
			if ack.Refused == "" {
				c.server.accepted(c, d.seq)
			}
			return nil
		}
	}
}

// An outgoing is a delta about to be sent.
type outgoing struct {
	version uint64
	seq     uint64
	parts   []cell
	removed []plan.Key
}

// next is what the client lacks, if there is a state that it was not sent yet;
// else the channel that tells of the next one.
func (s *Server) next(c *follower) (*outgoing, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seq == c.sent {
		return nil, s.changed
	}
	c.sent = s.seq
	d := &outgoing{version: s.version, seq: s.seq}
	if c.held != nil {
		for _, cell := range s.cells {
			if h, ok := c.held[cell.part.Key]; !ok || h != cell.hash {
				d.parts = append(d.parts, cell)
			}
		}
		for key := range c.held {
			if _, ok := s.find(key); !ok {
				d.removed = append(d.removed, key)
			}
		}
		return d, nil
	}
	for _, cell := range s.cells {
		if cell.seq > c.acked {
			d.parts = append(d.parts, cell)
		}
	}
	for _, g := range s.graves {
		if g.seq > c.acked {
			d.removed = append(d.removed, g.key)
		}
	}
	return d, nil
}

// accepted notes that a client has a state.
func (s *Server) accepted(c *follower, seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.held = nil
	c.acked = seq
}

// send writes a delta in frames of moderate size.
func (c *follower) send(d *outgoing) error {
	frame := appendHead(nil, d.version)
	parts := 0
	for _, cell := range d.parts {
		data, _, err := encode(cell.part)
		if err != nil {
			return err
		}
		if parts > 0 && len(frame)+len(data) > chunkBytes {
			if err := c.wire.sendRaw(append(frame, "]}"...)); err != nil {
				return err
			}
			frame, parts = appendHead(frame[:0], d.version), 0
		}
		if parts > 0 {
			frame = append(frame, ',')
		}
		parts++
		frame = append(frame, `{"hash":"`...)
		text, _ := cell.hash.MarshalText()
		frame = append(frame, text...)
		frame = append(frame, `","part":`...)
		frame = append(frame, data...)
		frame = append(frame, '}')
	}
	if parts > 0 {
		if err := c.wire.sendRaw(append(frame, "]}"...)); err != nil {
			return err
		}
	}
	return c.sendRemoved(d)
}

// appendHead begins a frame of parts. It is written by hand so that each part
// is encoded once.
func appendHead(dst []byte, version uint64) []byte {
	return fmt.Appendf(dst, `{"type":%q,"version":%d,"parts":[`, typeDelta, version)
}

// removedAtOnce keeps a frame of keys far below the limit.
const removedAtOnce = 10_000

// sendRemoved ends a delta with the keys that are gone.
func (c *follower) sendRemoved(d *outgoing) error {
	for rest := d.removed; ; {
		n := min(len(rest), removedAtOnce)
		m := &message{Type: typeDelta, Version: d.version, Removed: rest[:n], Last: n == len(rest)}
		if err := c.wire.send(m); err != nil {
			return err
		}
		if rest = rest[n:]; m.Last {
			return nil
		}
	}
}
