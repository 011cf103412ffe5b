package tap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"windrose.dev/windrose/internal/record"
)

const (
	// MaxTaps bounds the taps that are open at one time.
	MaxTaps = 16
	// MaxRecent bounds the requests of one answer to Recent.
	MaxRecent = 1000
	// maxFound bounds the requests with one id: a client's own may come often.
	maxFound = 16

	// A tap gives at most so many requests for each pace; what comes faster fills
	// its queue, and then is dropped.
	pace      = 50 * time.Millisecond
	paceMost  = 100
	queueSize = 1024
	// tellDropped is how often a tap says what was dropped while nothing else is
	// to be said.
	tellDropped = 250 * time.Millisecond
	// patience is how long a loop may take to give a piece of its memory.
	patience = time.Second
)

// Hub asks the loops. It is safe for concurrent use.
type Hub struct {
	bytes int // for each loop

	mu    sync.Mutex // guards what follows
	loops []member
	taps  int
}

type member struct {
	loop *Loop
	post func(func()) error
}

// NewHub makes a Hub for so many loops.
func NewHub(loops int) *Hub { return &Hub{bytes: MemoryBytes / max(loops, 1)} }

// Attach makes the Loop of an event loop. post has a function run on that event
// loop; it must not block, and returns an error where the function will not run.
func (h *Hub) Attach(post func(func()) error) *Loop {
	l := newLoop(h.bytes)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.loops = append(h.loops, member{l, post})
	return l
}

func (h *Hub) members() []member {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.loops)
}

// Answer answers a question by calls of send. It returns when all is said, which
// with a tap is never before ctx ends, when send fails, or when the question
// cannot be answered.
func (h *Hub) Answer(ctx context.Context, q *Question, send func(*Answer) error) error {
	switch {
	case q.Tap != nil:
		return h.tap(ctx, q.Tap, send)
	case q.Find != "":
		return h.find(ctx, q.Find, send)
	case q.Recent != nil:
		return h.recent(ctx, q.Recent, send)
	}
	return errors.New("the question asks nothing that this data plane knows")
}

func (h *Hub) tap(ctx context.Context, f *Filter, send func(*Answer) error) error {
	m, err := f.Compile()
	if err != nil {
		return err
	}
	if !h.enter() {
		return fmt.Errorf("%d taps are open, which is the limit", MaxTaps)
	}
	defer h.leave()
	t := &tap{matcher: m, queue: make(chan []byte, queueSize)}
	loops := h.members()
	for _, l := range loops {
		_ = l.post(func() { l.loop.taps = append(l.loop.taps, t) }) // a loop that has ended has nothing to tell
	}
	defer func() {
		for _, l := range loops {
			_ = l.post(func() { l.loop.taps = slices.DeleteFunc(l.loop.taps, func(o *tap) bool { return o == t }) }) // as above
		}
	}()
	return t.run(ctx, send)
}

func (h *Hub) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.taps >= MaxTaps {
		return false
	}
	h.taps++
	return true
}

func (h *Hub) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.taps--
}

// run gives what is queued, no faster than the pace. It begins with an empty
// answer: from then on nothing is missed.
func (t *tap) run(ctx context.Context, send func(*Answer) error) error {
	if err := send(&Answer{}); err != nil {
		return err
	}
	rest := time.NewTimer(0)
	defer rest.Stop()
	tell := time.NewTicker(tellDropped)
	defer tell.Stop()
	var r record.Record
	for {
		var a Answer
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tell.C:
		case entry := <-t.queue:
			for n := 0; ; n++ {
				next(entry, &r)
				a.Events = append(a.Events, EventOf(&r))
				if n == paceMost-1 || len(t.queue) == 0 {
					break
				}
				entry = <-t.queue // nobody else takes from it
			}
		}
		if a.Dropped = t.dropped.Swap(0); a.Dropped == 0 && a.Events == nil {
			continue
		}
		if err := send(&a); err != nil {
			return err
		}
		rest.Reset(pace)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-rest.C:
		}
	}
}

func (h *Hub) find(ctx context.Context, id string, send func(*Answer) error) error {
	m, err := h.memory(ctx)
	if err != nil {
		return err
	}
	a := &Answer{Reach: &m.reach}
	m.newest(func(r *record.Record) bool {
		if string(r.ID) == id {
			a.Events = append(a.Events, EventOf(r))
		}
		return len(a.Events) < maxFound
	})
	return send(a)
}

func (h *Hub) recent(ctx context.Context, q *Recent, send func(*Answer) error) error {
	matcher, err := q.Filter.Compile()
	if err != nil {
		return err
	}
	if q.Limit < 1 || q.Limit > MaxRecent {
		return fmt.Errorf("a limit of %d is not between 1 and %d", q.Limit, MaxRecent)
	}
	m, err := h.memory(ctx)
	if err != nil {
		return err
	}
	a := &Answer{Reach: &m.reach}
	m.newest(func(r *record.Record) bool {
		if matcher.Takes(r) {
			a.Events = append(a.Events, EventOf(r))
		}
		return len(a.Events) < q.Limit
	})
	return send(a)
}

// memory copies what the loops remember, piece by piece, so that no loop is kept
// long.
func (h *Hub) memory(ctx context.Context) (*memory, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	all := &memory{}
	for _, l := range h.members() {
		for _, favoured := range [2]bool{false, true} {
			since, err := all.copy(ctx, l, favoured)
			if err != nil {
				return nil, err
			}
			reach := &all.reach.Ordinary
			if favoured {
				reach = &all.reach.Favoured
			}
			if since.After(*reach) { // what one loop has forgotten is unknown
				*reach = since
			}
		}
	}
	return all, nil
}

// copy copies one ring of a loop, and says since when it remembers.
func (m *memory) copy(ctx context.Context, l member, favoured bool) (since time.Time, err error) {
	type piece struct {
		bytes []byte
		next  uint64
		since time.Time
	}
	got := make(chan piece, 1) // the loop never waits
	for from := uint64(0); ; {
		room := make([]byte, 0, l.loop.ordinary.size)
		given := func() {
			g := &l.loop.ordinary
			if favoured {
				g = &l.loop.favoured
			}
			b, next := g.after(from, room)
			got <- piece{b, next, g.since()}
		}
		if l.post(given) != nil {
			return since, nil //nolint:nilerr // the loop has ended, and its memory with it
		}
		select {
		case p := <-got:
			if len(p.bytes) == 0 {
				return p.since, nil
			}
			m.pieces = append(m.pieces, p.bytes)
			from = p.next
		case <-ctx.Done():
			return since, fmt.Errorf("an event loop does not answer: %w", context.Cause(ctx))
		}
	}
}
