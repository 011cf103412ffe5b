package feed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"

	"windrose.dev/windrose/internal/wait"
)

// This file is the data plane's end of its connection for questions.

// Answerer answers the control part's questions.
type Answerer struct {
	Node  string // who we are, for the other end's messages
	Build string // of this windrose
	// Answer answers one question by calls of send, and says why if it cannot. It
	// ends with its context. Questions are answered at the same time.
	Answer func(ctx context.Context, question []byte, send Send) error
}

// Send sends an answer as JSON. It says how many things the answer tells, which
// are what is lost if who asks is too slow for it.
type Send func(answer any, things int) error

// Run keeps connected to a server until ctx ends, and returns ctx's error.
func (a *Answerer) Run(ctx context.Context, dial func(context.Context) (net.Conn, error)) error {
	for pause := firstBackoff; ; {
		if a.connect(ctx, dial) {
			pause = firstBackoff
		}
		if !wait.Sleep(ctx, pause/2+rand.N(pause/2)) {
			return ctx.Err()
		}
		pause = min(2*pause, maxBackoff)
	}
}

// connect is one connection; it says whether the server let us in. Why it ended
// is told by the plan stream, which shares its fate.
func (a *Answerer) connect(ctx context.Context, dial func(context.Context) (net.Conn, error)) bool {
	conn, err := dial(ctx)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithCancel(ctx)
	var answers sync.WaitGroup
	defer answers.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	w := newWire(conn)
	if err := w.send(&message{Type: typeHello, Protocol: Protocol, Build: a.Build, Node: a.Node, Purpose: purposeQuestions}); err != nil {
		return false
	}
	if m, err := readGreeting(w); err != nil || m.Type != typeWelcome || m.Protocol != Protocol {
		return false
	}
	open := openQuestions{cancel: map[uint64]context.CancelFunc{}}
	for {
		data, err := w.receive(silence)
		if err != nil {
			return true
		}
		m := &message{}
		if err := json.Unmarshal(data, m); err != nil {
			return true
		}
		switch m.Type {
		case typePing:
			if w.send(&message{Type: typePong}) != nil {
				return true
			}
		case typeAsk:
			qctx, ok := open.begin(ctx, m.ID)
			if !ok {
				return true // the server keeps below the limit
			}
			answers.Go(func() {
				defer open.end(m.ID)
				a.answer(qctx, w, m)
			})
		case typeCancel:
			open.end(m.ID)
		}
	}
}

// answer answers one question.
func (a *Answerer) answer(ctx context.Context, w *wire, m *message) {
	send := func(v any, things int) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		body, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode an answer: %w", err)
		}
		if err := w.send(&message{Type: typeAnswer, ID: m.ID, Body: body, Says: uint64(things)}); err != nil {
			w.conn.Close() // the connection ends by it
			return err
		}
		return nil
	}
	err := a.Answer(ctx, m.Body, send)
	end := &message{Type: typeEnd, ID: m.ID}
	if err != nil && !errors.Is(err, context.Canceled) {
		end.Reason = err.Error()
	}
	if w.send(end) != nil {
		w.conn.Close() // as above
	}
}

// openQuestions are those that are being answered.
type openQuestions struct {
	mu     sync.Mutex
	cancel map[uint64]context.CancelFunc
}

func (o *openQuestions) begin(ctx context.Context, id uint64) (context.Context, bool) {
	ctx, cancel := context.WithCancel(ctx)
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, twice := o.cancel[id]; twice || len(o.cancel) >= 2*maxQuestions {
		cancel()
		return nil, false
	}
	o.cancel[id] = cancel
	return ctx, true
}

func (o *openQuestions) end(id uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if cancel := o.cancel[id]; cancel != nil {
		cancel()
		delete(o.cancel, id)
	}
}
