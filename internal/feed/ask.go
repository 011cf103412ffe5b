package feed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// This file is the control part's end of the connections for questions.

// ErrNobody means that no data plane is there to be asked.
var ErrNobody = errors.New("no data plane is connected")

// RefusedQuestionError says that a data plane does not answer a question.
type RefusedQuestionError struct{ Reason string }

func (e *RefusedQuestionError) Error() string { return e.Reason }

const (
	maxQuestions = 64
	// arrival is how long a question waits for a data plane, which may just be
	// starting.
	arrival = 2 * time.Second
	// maxAnswers is how many answers may wait for who asked. One who is slower
	// loses what comes beyond.
	maxAnswers = 64
)

// Asking is a question.
type Asking struct {
	Body any // as JSON
	// Standing says that data planes that come while it is asked are asked too, that
	// none need be there, and that it ends only with its context.
	Standing bool
	// Answer is called with each answer, and with how many things were in answers
	// before it that were lost because this function was slow. An error ends the
	// question.
	Answer func(body []byte, lost uint64) error
}

// Ask has all connected data planes asked and their answers told, until all have
// said that they are done. One that goes away is done.
func (s *Server) Ask(ctx context.Context, a Asking) error {
	body, err := json.Marshal(a.Body)
	if err != nil {
		return fmt.Errorf("encode the question: %w", err)
	}
	q := &question{body: body, standing: a.Standing, answers: make(chan []byte, maxAnswers), done: make(chan error, maxClients), open: map[*answering]struct{}{}}
	if err := s.await(ctx, q); err != nil {
		return err
	}
	defer s.drop(q)
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case answer := <-q.answers:
			if err := a.Answer(answer, q.lost.Swap(0)); err != nil {
				return err
			}
		case err := <-q.done:
			if err != nil {
				return err
			}
			return q.rest(a)
		}
	}
}

// question is one that is being asked.
type question struct {
	id       uint64
	body     json.RawMessage
	standing bool
	answers  chan []byte
	lost     atomic.Uint64
	done     chan error // one for each data plane that refused, and one when all are done

	open map[*answering]struct{} // who has not said that it is done; guarded by the server's mutex
}

// rest tells what came before the end.
func (q *question) rest(a Asking) error {
	for {
		select {
		case answer := <-q.answers:
			if err := a.Answer(answer, q.lost.Swap(0)); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

// answering is a data plane's connection for questions.
type answering struct {
	wire *wire
	out  chan *message // to be sent
}

// await asks all who are there, or who comes first within a short time. A
// standing question needs nobody yet.
func (s *Server) await(ctx context.Context, q *question) error {
	late := time.NewTimer(arrival)
	defer late.Stop()
	for {
		came, err := s.raise(q)
		if !errors.Is(err, ErrNobody) {
			return err
		}
		select {
		case <-came:
		case <-late.C:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// raise asks all who are there. If nobody is, the channel tells when somebody
// comes.
func (s *Server) raise(q *question) (<-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.came == nil {
		s.came = make(chan struct{})
	}
	switch {
	case len(s.answering) == 0 && !q.standing:
		return s.came, ErrNobody
	case len(s.questions) >= maxQuestions:
		return nil, fmt.Errorf("%d questions are open, which is the limit", maxQuestions)
	}
	if s.questions == nil {
		s.questions = map[*question]struct{}{}
	}
	s.asked++
	q.id = s.asked
	s.questions[q] = struct{}{}
	for c := range s.answering {
		s.put(q, c)
	}
	return nil, nil
}

// put asks one. The lock is held.
func (s *Server) put(q *question, c *answering) {
	q.open[c] = struct{}{}
	c.send(&message{Type: typeAsk, ID: q.id, Body: q.body})
}

// send queues a message. Who takes none for so long is not worth waiting for.
func (c *answering) send(m *message) {
	select {
	case c.out <- m:
	default:
		c.wire.conn.Close()
	}
}

// drop ends a question.
func (s *Server) drop(q *question) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.questions, q)
	for c := range q.open {
		c.send(&message{Type: typeCancel, ID: q.id})
	}
}

// finish notes that one is done with a question. The lock is held.
func (s *Server) finish(q *question, c *answering, err error) {
	if _, open := q.open[c]; !open {
		return
	}
	delete(q.open, c)
	if err == nil && (q.standing || len(q.open) > 0) {
		return
	}
	select {
	case q.done <- err:
	default: // it ends already
	}
}

// question serves a connection for questions until it ends.
func (s *Server) question(ctx context.Context, f *follower) error {
	s.leave(f) // it has no part in the plan
	s.mu.Lock()
	full := len(s.answering) >= maxClients
	s.mu.Unlock()
	if full {
		return f.refuse(fmt.Sprintf("%d data planes are connected, which is the limit", maxClients))
	}
	if err := f.wire.send(&message{Type: typeWelcome, Protocol: Protocol, Build: s.Build}); err != nil {
		return err
	}
	c := &answering{wire: f.wire, out: make(chan *message, 2*maxQuestions)}
	s.mu.Lock()
	if s.answering == nil {
		s.answering = map[*answering]struct{}{}
	}
	s.answering[c] = struct{}{}
	if s.came != nil {
		close(s.came)
		s.came = nil
	}
	for q := range s.questions {
		if q.standing {
			s.put(q, c)
		}
	}
	s.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		cancel(s.listen(c))
	}()
	err := c.talk(ctx)
	c.wire.conn.Close()
	<-done
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.answering, c)
	for q := range s.questions {
		s.finish(q, c, nil)
	}
	return err
}

// talk sends what is queued, and shows now and then that this end lives.
func (c *answering) talk(ctx context.Context) error {
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		var m *message
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case m = <-c.out:
		case <-ping.C:
			m = &message{Type: typePing}
		}
		if err := c.wire.send(m); err != nil {
			return fmt.Errorf("ask the data plane: %w", err)
		}
	}
}

// listen takes answers until the connection ends. It never waits for who asked.
func (s *Server) listen(c *answering) error {
	for {
		data, err := c.wire.receive(silence)
		if err != nil {
			return fmt.Errorf("read answers of the data plane: %w", err)
		}
		m := &message{}
		if err := decodeStrict(data, m); err != nil {
			return fmt.Errorf("decode an answer of the data plane: %w", err)
		}
		switch m.Type {
		case typePong:
		case typeAnswer, typeEnd:
			s.hear(c, m)
		default:
			return fmt.Errorf("the data plane sent %q out of turn", clip(m.Type))
		}
	}
}

func (s *Server) hear(c *answering, m *message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for q := range s.questions {
		if _, open := q.open[c]; q.id != m.ID || !open {
			continue
		}
		if m.Type == typeEnd {
			var err error
			if m.Reason != "" {
				err = &RefusedQuestionError{clip(m.Reason)}
			}
			s.finish(q, c, err)
			return
		}
		select {
		case q.answers <- m.Body:
		default:
			q.lost.Add(m.Says)
		}
	}
}
