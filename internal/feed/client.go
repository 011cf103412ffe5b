package feed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"

	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/wait"
)

// Client is the data plane's end. Set the exported fields before Run. Report
// may be called at any time.
type Client struct {
	Node  string // who we are, for the other end's messages
	Build string // of this windrose
	// Held are the parts that the data plane already serves, from its Store.
	Held []plan.Part
	// OnState is told when the stream was joined (nil) or has ended, and why.
	// It must not wait. Nil is allowed.
	OnState func(error)

	held map[plan.Key]Hash // by Run's goroutine alone

	mu      sync.Mutex
	wire    *wire // while joined
	version uint64
}

// Run keeps joined to a server until ctx ends: it dials, says what it has, and
// calls apply for each delta, one at a time. Apply does all of a delta and
// answers with the problems that remain, or does none of it and answers with
// Refused set; the answer's version is filled in. After a lost connection Run
// dials again, with growing pauses. It returns ctx's error.
func (c *Client) Run(ctx context.Context, dial func(context.Context) (net.Conn, error), apply func(Delta) Ack) error {
	if err := c.hold(); err != nil {
		return err
	}
	for pause := firstBackoff; ; {
		joined, err := c.connect(ctx, dial, apply)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if c.OnState != nil {
			c.OnState(err)
		}
		if joined {
			pause = firstBackoff
		}
		// Half of the pause is random, so that many do not come at once.
		if !wait.Sleep(ctx, pause/2+rand.N(pause/2)) {
			return ctx.Err()
		}
		pause = min(2*pause, maxBackoff)
	}
}

// hold computes the hashes of what the Store gave.
func (c *Client) hold() error {
	if c.held == nil {
		c.held = make(map[plan.Key]Hash, len(c.Held))
	}
	for i := range c.Held {
		_, hash, err := encode(&c.Held[i])
		if err != nil {
			return err
		}
		c.held[c.Held[i].Key] = hash
	}
	c.Held = nil
	return nil
}

// Report sends the problems of the version that is served, when they changed
// since its ack: a socket that could be bound after all, for one. It does
// nothing while the stream is down; the next ack tells.
func (c *Client) Report(problems []plan.Problem) {
	c.mu.Lock()
	w, version := c.wire, c.version
	c.mu.Unlock()
	if w == nil || version == 0 {
		return
	}
	ack := Ack{Version: version, Problems: bounded(problems)}
	if err := w.send(&message{Type: typeReport, Ack: &ack}); err != nil {
		w.conn.Close() // Run sees it and joins again
	}
}

// bounded cuts a list of problems to what an ack may carry.
func bounded(problems []plan.Problem) []plan.Problem {
	return problems[:min(len(problems), maxProblems)]
}

// connect is one connection. It says whether the server let us in.
func (c *Client) connect(ctx context.Context, dial func(context.Context) (net.Conn, error), apply func(Delta) Ack) (bool, error) {
	conn, err := dial(ctx)
	if err != nil {
		return false, fmt.Errorf("dial the plan stream: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	w := newWire(conn)
	if err := c.greet(w); err != nil {
		return false, err
	}
	c.join(w)
	defer c.join(nil)
	if c.OnState != nil {
		c.OnState(nil)
	}
	return true, c.follow(w, apply)
}

func (c *Client) join(w *wire) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wire = w
	c.version = 0
}

// heldAtOnce keeps a frame of hashes far below the limit.
const heldAtOnce = 10_000

// greet says who we are and what we hold, and reads the server's word on it.
func (c *Client) greet(w *wire) error {
	sent := make(chan error, 1)
	go func() { sent <- c.sendGreeting(w) }()
	m, err := readGreeting(w)
	if err != nil {
		w.conn.Close()
	}
	// A server that refuses may not read to the end: its reason counts more
	// than our failure to write.
	if sendErr := <-sent; err == nil && sendErr != nil {
		return fmt.Errorf("greet the control part: %w", sendErr)
	}
	switch {
	case err != nil:
		return err
	case m.Type != typeWelcome:
		return fmt.Errorf("the control part answered the greeting with %q", clip(m.Type))
	case m.Protocol != Protocol:
		return errors.New(protocolMismatch(m.Protocol, clip(m.Build)))
	}
	return nil
}

func readGreeting(w *wire) (*message, error) {
	data, err := w.receive(2 * helloTimeout)
	if err != nil {
		return nil, fmt.Errorf("wait for the control part's greeting: %w", err)
	}
	m := &message{}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("decode the control part's greeting: %w", err)
	}
	if m.Type == typeRefuse {
		return nil, &RefusedError{Reason: clip(m.Reason)}
	}
	return m, nil
}

func (c *Client) sendGreeting(w *wire) error {
	if err := w.send(&message{Type: typeHello, Protocol: Protocol, Build: c.Build, Node: c.Node}); err != nil {
		return err
	}
	held := make([]heldPart, 0, min(len(c.held), heldAtOnce))
	for key, hash := range c.held {
		if len(held) == heldAtOnce {
			if err := w.send(&message{Type: typeHeld, Held: held}); err != nil {
				return err
			}
			held = held[:0]
		}
		held = append(held, heldPart{key, hash})
	}
	return w.send(&message{Type: typeHeld, Held: held, Last: true})
}

// follow takes deltas until the connection ends.
func (c *Client) follow(w *wire, apply func(Delta) Ack) error {
	in := incoming{names: names{}}
	for {
		data, err := w.receive(silence)
		if err != nil {
			return fmt.Errorf("read the plan stream: %w", err)
		}
		m, err := in.take(data)
		switch {
		case err != nil:
			return err
		case m.Type == typePing:
			err = w.send(&message{Type: typePong})
		case m.Type == typeDelta && m.Last:
			ack := c.apply(&in, apply)
			err = w.send(&message{Type: typeAck, Ack: &ack})
			in = incoming{names: names{}}
		}
		if err != nil {
			return fmt.Errorf("answer on the plan stream: %w", err)
		}
	}
}

// apply hands a whole delta on, or refuses it.
func (c *Client) apply(in *incoming, apply func(Delta) Ack) Ack {
	if in.refused != "" {
		return Ack{Version: in.delta.Version, Refused: in.refused}
	}
	ack := apply(in.delta)
	ack.Version = in.delta.Version
	ack.Problems = bounded(ack.Problems)
	if ack.Refused != "" {
		return ack
	}
	for _, key := range in.delta.Removed {
		delete(c.held, key)
	}
	for i := range in.delta.Parts {
		c.held[in.delta.Parts[i].Key] = in.hashes[i]
	}
	c.mu.Lock()
	c.version = ack.Version
	c.mu.Unlock()
	return ack
}

// incoming gathers the frames of one delta.
type incoming struct {
	delta   Delta
	hashes  []Hash
	names   names
	bytes   int
	refused string // why the whole delta will be refused
}

// take reads a frame. A part that is not understood spoils the delta, anything
// else the connection.
func (in *incoming) take(data []byte) (*message, error) {
	if in.bytes += len(data); in.bytes > maxSnapshot {
		return nil, fmt.Errorf("a delta is over the limit of %d bytes", maxSnapshot)
	}
	m := &message{}
	if err := decodeStrict(data, m); err != nil {
		var loose looseDelta
		if json.Unmarshal(data, &loose) != nil || loose.Type != typeDelta {
			return nil, fmt.Errorf("decode the plan stream: %w", err)
		}
		in.refuse(loose.blame(err))
		m = &message{Type: loose.Type, Version: loose.Version, Last: loose.Last}
	}
	switch m.Type {
	case typePing:
		in.bytes -= len(data)
		return m, nil
	case typeDelta:
	default:
		return nil, fmt.Errorf("the control part sent %q out of turn", clip(m.Type))
	}
	in.delta.Version = m.Version
	if in.refused != "" {
		return m, nil
	}
	in.delta.Removed = append(in.delta.Removed, m.Removed...)
	for i := range m.Parts {
		if !whole(&m.Parts[i].Part) {
			in.refuse(fmt.Sprintf("part %s is empty or of a kind that this data plane does not know", m.Parts[i].Part.Key))
			return m, nil
		}
		in.names.share(&m.Parts[i].Part)
		in.delta.Parts = append(in.delta.Parts, m.Parts[i].Part)
		in.hashes = append(in.hashes, m.Parts[i].Hash)
	}
	return m, nil
}

// refuse keeps the first reason, and no part any more.
func (in *incoming) refuse(reason string) {
	if in.refused == "" {
		in.refused = reason
	}
	in.delta.Parts, in.delta.Removed, in.hashes = nil, nil, nil
}

// looseDelta is a delta of which not all is understood.
type looseDelta struct {
	Type    string            `json:"type"`
	Version uint64            `json:"version"`
	Parts   []json.RawMessage `json:"parts"`
	Last    bool              `json:"last"`
}

// blame finds the part that is not understood.
func (l *looseDelta) blame(err error) string {
	for _, raw := range l.Parts {
		var sent sentPart
		partErr := decodeStrict(raw, &sent)
		if partErr == nil {
			continue
		}
		var named struct {
			Part struct {
				Key plan.Key `json:"key"`
			} `json:"part"`
		}
		if json.Unmarshal(raw, &named) == nil {
			return fmt.Sprintf("part %s is not understood: %v", named.Part.Key, partErr)
		}
		return fmt.Sprintf("a part is not understood: %v", partErr)
	}
	return fmt.Sprintf("the delta is not understood: %v", err)
}

// whole says whether a part holds what its key says, and nothing else.
func whole(p *plan.Part) bool {
	set := 0
	for _, is := range []bool{p.Settings != nil, p.Socket != nil, p.Listener != nil, p.Route != nil, p.Service != nil, p.Certificate != nil, p.Tracing != nil} {
		if is {
			set++
		}
	}
	if set != 1 {
		return false
	}
	switch p.Key.Kind {
	case plan.KindSettings:
		return p.Settings != nil
	case plan.KindSocket:
		return p.Socket != nil
	case plan.KindListener:
		return p.Listener != nil
	case plan.KindRoute:
		return p.Route != nil
	case plan.KindService:
		return p.Service != nil
	case plan.KindCertificate:
		return p.Certificate != nil
	case plan.KindTracing:
		return p.Tracing != nil
	}
	return false
}
