package feed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/wait"
)

// Server is the control part's end. Set the exported fields before Run. Use and
// Clients may be called at any time.
type Server struct {
	Build string // of this windrose, for the other end's messages
	// Check decides who may connect; nil is LocalPeer().
	Check func(net.Conn) error
	// OnAck is told each answer. It must not wait. Nil is allowed.
	OnAck func(Peer, Ack)
	// OnPeer is told when a data plane has come (nil) or gone, and why it went
	// or was refused. It must not wait. Nil is allowed.
	OnPeer func(Peer, error)

	mu      sync.Mutex
	version uint64        // the caller's; 0 before the first Use
	seq     uint64        // counts calls of Use
	cells   []cell        // by key
	graves  []grave       // removed parts, for clients that may still have them
	changed chan struct{} // closed by the next Use
	clients map[*follower]struct{}

	answering map[*answering]struct{} // connections for questions
	came      chan struct{}           // closed by the next of them; nil while nobody waits
	questions map[*question]struct{}  // that are not answered yet
	asked     uint64                  // questions so far
}

// A cell is one part as the server knows it.
type cell struct {
	part *plan.Part
	hash Hash
	seq  uint64 // when its content last changed
}

type grave struct {
	key plan.Key
	seq uint64
}

func compareKeys(a, b plan.Key) int {
	return cmp.Or(strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Name, b.Name))
}

// Use makes parts what every data plane is to have. A part that kept its
// pointer is taken to be unchanged, one with the same content counts as
// unchanged too. The server keeps the slice's pointers, not the slice. It does
// not wait for anybody. Version is the caller's name for this state and comes
// back in the acks.
func (s *Server) Use(version uint64, parts []*plan.Part) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if aligned(s.cells, parts) {
		if err := s.replace(parts); err != nil {
			return err
		}
	} else if err := s.rebuild(parts); err != nil {
		return err
	}
	s.seq++
	s.version = version
	s.fillGraves()
	if s.changed != nil {
		close(s.changed)
	}
	s.changed = make(chan struct{})
	return nil
}

// aligned says whether parts are the old ones, key by key. That is the usual
// change, and telling it by pointers is much cheaper than comparing names.
func aligned(cells []cell, parts []*plan.Part) bool {
	if len(cells) != len(parts) {
		return false
	}
	for i, part := range parts {
		if cells[i].part != part && cells[i].part.Key != part.Key {
			return false
		}
	}
	return true
}

// replace takes over the parts whose pointers changed, all or none. The lock is
// held.
func (s *Server) replace(parts []*plan.Part) error {
	type change struct {
		at   int
		hash Hash
	}
	var changes []change
	for i, part := range parts {
		if s.cells[i].part == part {
			continue
		}
		_, hash, err := encode(part)
		if err != nil {
			return err
		}
		changes = append(changes, change{i, hash})
	}
	for _, c := range changes {
		cell := &s.cells[c.at]
		cell.part = parts[c.at]
		if cell.hash != c.hash {
			cell.hash, cell.seq = c.hash, s.seq+1
		}
	}
	return nil
}

// rebuild takes over parts of which some came or went. The lock is held.
func (s *Server) rebuild(parts []*plan.Part) error {
	byKey := func(a, b *plan.Part) int { return compareKeys(a.Key, b.Key) }
	if !slices.IsSortedFunc(parts, byKey) {
		parts = slices.SortedFunc(slices.Values(parts), byKey)
	}
	cells, graves, err := merge(s.cells, parts, s.seq+1)
	if err != nil {
		return err
	}
	s.cells = cells
	s.graves = append(s.graves, graves...)
	return nil
}

// merge walks the old cells and the new parts in the order of their keys.
func merge(old []cell, parts []*plan.Part, seq uint64) ([]cell, []grave, error) {
	next := make([]cell, 0, len(parts))
	var graves []grave
	for i, part := range parts {
		if i > 0 && parts[i-1].Key == part.Key {
			return nil, nil, fmt.Errorf("two parts have the key %s", part.Key)
		}
		for len(old) > 0 && compareKeys(old[0].part.Key, part.Key) < 0 {
			graves = append(graves, grave{old[0].part.Key, seq})
			old = old[1:]
		}
		made := cell{part: part, seq: seq}
		if len(old) > 0 && old[0].part.Key == part.Key {
			was := old[0]
			old = old[1:]
			if was.part == part {
				next = append(next, was)
				continue
			}
			made.seq, made.hash = was.seq, was.hash
		}
		_, hash, err := encode(part)
		if err != nil {
			return nil, nil, err
		}
		if hash != made.hash {
			made.hash, made.seq = hash, seq
		}
		next = append(next, made)
	}
	for _, was := range old {
		graves = append(graves, grave{was.part.Key, seq})
	}
	return next, graves, nil
}

// maxGraves bounds the memory of removed parts.
const maxGraves = 1 << 16

// fillGraves forgets removals that no client has still to be told. The lock is
// held.
func (s *Server) fillGraves() {
	oldest := s.seq
	for c := range s.clients {
		oldest = min(oldest, c.has(s.seq))
	}
	if len(s.graves) > maxGraves {
		// Who is so far behind had better begin again from its hashes.
		for c := range s.clients {
			if c.has(s.seq) == oldest && oldest+1 < s.seq {
				c.wire.conn.Close()
			}
		}
	}
	s.graves = slices.DeleteFunc(s.graves, func(g grave) bool { return g.seq <= oldest })
	// A part that is there again is no longer gone.
	s.graves = slices.DeleteFunc(s.graves, func(g grave) bool {
		_, found := s.find(g.key)
		return found
	})
}

func (s *Server) find(key plan.Key) (int, bool) {
	return slices.BinarySearchFunc(s.cells, key, func(c cell, key plan.Key) int { return compareKeys(c.part.Key, key) })
}

// Run serves data planes until ctx ends, closes ln, and returns when all have
// been left.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	for pause := time.Duration(0); ; {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept on the plan stream: %w", err)
		case err != nil:
			// Out of file descriptors, most likely: try again, not at once.
			pause = min(max(2*pause, firstBackoff), time.Second)
			if !wait.Sleep(ctx, pause) {
				return nil
			}
			continue
		}
		pause = 0
		wg.Go(func() { s.serve(ctx, conn) })
	}
}

// serve carries one connection from its first byte to its last.
func (s *Server) serve(ctx context.Context, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	c := &follower{server: s, wire: newWire(conn), acks: make(chan Ack, 1)}
	purpose, err := s.carry(ctx, c)
	if ctx.Err() == nil && s.OnPeer != nil && purpose == "" {
		s.OnPeer(c.peer, err)
	}
}

// carry serves a connection for its purpose.
func (s *Server) carry(ctx context.Context, c *follower) (purpose string, err error) {
	if err := s.enter(c); err != nil {
		return "", err
	}
	defer s.leave(c)
	deadline := time.Now().Add(helloTimeout)
	hello, err := c.hello(deadline)
	switch {
	case err != nil:
		return "", err
	case hello.Purpose == purposeQuestions:
		return purposeQuestions, s.question(ctx, c)
	case hello.Purpose != "":
		return "", c.refuse(fmt.Sprintf("the purpose %q is not known here", clip(hello.Purpose)))
	}
	return "", c.run(ctx, c.wire.conn, deadline)
}

// enter counts a connection in, if it may come.
func (s *Server) enter(c *follower) error {
	check := s.Check
	if check == nil {
		check = LocalPeer()
	}
	if err := check(c.wire.conn); err != nil {
		return err // and not a word to a stranger
	}
	s.mu.Lock()
	full := len(s.clients) >= maxClients
	if !full {
		if s.clients == nil {
			s.clients = map[*follower]struct{}{}
		}
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		s.clients[c] = struct{}{}
	}
	s.mu.Unlock()
	if full {
		return c.refuse(fmt.Sprintf("%d data planes are connected, which is the limit", maxClients))
	}
	return nil
}

func (s *Server) leave(c *follower) {
	s.mu.Lock()
	delete(s.clients, c)
	s.mu.Unlock()
}
