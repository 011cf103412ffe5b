package h2

// stream is an open stream. It is in the table of its Conn as long as one side
// may still send.
type stream struct {
	id     uint32
	value  any
	opened int64 // when

	send   int64 // what may be sent; below zero after the peer made it smaller
	recv   int64 // what the peer may send
	credit int64 // Consumed, and not yet told
	unread int64 // given as events, and not yet Consumed

	want, got int64 // Content-Length, or -1; what came of it

	peerDone    bool // the peer has ended the stream
	ownDone     bool // we have
	known       bool // its head was an event
	headSeen    bool // the final head of the peer
	headSent    bool // our final head
	headRequest bool // the method is HEAD
	connect     bool // the method is CONNECT
	tunnel      bool // of a CONNECT that was accepted
	wants       bool // WriteData has not taken everything
	queued      bool

	next, prev *stream // in the queue
}

func (s *Scratch) newStream() *stream {
	if n := len(s.streams); n > 0 {
		st := s.streams[n-1]
		s.streams = s.streams[:n-1]
		return st
	}
	return &stream{}
}

func (s *Scratch) freeStream(st *stream) {
	*st = stream{}
	if len(s.streams) < maxFreeStreams {
		s.streams = append(s.streams, st)
	}
}

// table finds streams by id: open addressing, with the id itself as the hash, as
// ids are consecutive. It has few slots while no stream is open and many were.
type table struct {
	slots []*stream // a power of two, at most half full
	n     int
}

const (
	leastSlots = 8
	keptSlots  = 64 // while no stream is open: what a burst of requests needs
)

func (t *table) home(id uint32) int { return int(id>>1) & (len(t.slots) - 1) }

func (t *table) find(id uint32) *stream {
	if t.n == 0 {
		return nil
	}
	for i := t.home(id); t.slots[i] != nil; i = (i + 1) & (len(t.slots) - 1) {
		if t.slots[i].id == id {
			return t.slots[i]
		}
	}
	return nil
}

func (t *table) add(s *stream) {
	if 2*(t.n+1) > len(t.slots) {
		old := t.slots
		t.slots = make([]*stream, max(leastSlots, 2*len(old)))
		for _, o := range old {
			if o != nil {
				t.put(o)
			}
		}
	}
	t.put(s)
	t.n++
}

func (t *table) put(s *stream) {
	i := t.home(s.id)
	for t.slots[i] != nil {
		i = (i + 1) & (len(t.slots) - 1)
	}
	t.slots[i] = s
}

func (t *table) remove(s *stream) {
	mask := len(t.slots) - 1
	i := t.home(s.id)
	for t.slots[i] != s {
		i = (i + 1) & mask
	}
	// What comes behind moves up, unless that would put it before its home.
	for j := (i + 1) & mask; t.slots[j] != nil; j = (j + 1) & mask {
		if home := t.home(t.slots[j].id); (j-home)&mask >= (j-i)&mask {
			t.slots[i] = t.slots[j]
			i = j
		}
	}
	t.slots[i] = nil
	if t.n--; t.n == 0 && len(t.slots) > keptSlots {
		t.slots = nil
	}
}

// each calls f for every stream; f must not change the table.
func (t *table) each(f func(*stream)) {
	for _, s := range t.slots {
		if s != nil {
			f(s)
		}
	}
}

// queue holds the streams that wait to write, first come first served.
type queue struct{ first, last *stream }

func (q *queue) push(s *stream) {
	if s.queued {
		return
	}
	s.queued = true
	s.prev = q.last
	if q.last != nil {
		q.last.next = s
	} else {
		q.first = s
	}
	q.last = s
}

func (q *queue) drop(s *stream) {
	if !s.queued {
		return
	}
	s.queued = false
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		q.first = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	} else {
		q.last = s.prev
	}
	s.next, s.prev = nil, nil
}

// ending is how a stream came to its end.
type ending uint8

const (
	forgotten ending = iota
	endedBoth        // the peer had ended it itself
	resetPeer        // the peer reset it
	resetHere        // it was reset here, and the peer may not know yet
	neverUsed        // the peer left the id out
)

// memory knows how the latest streams ended, because what may still come on them
// depends on it (RFC 9113 5.1).
type memory struct {
	recent [16]uint32 // id>>1 <<2 | ending; ids of one side have the same last bit
	at     uint8
	// The ids that the peer left out most lately.
	skippedFrom, skippedTo uint32
}

func (m *memory) add(id uint32, e ending) {
	m.recent[m.at%uint8(len(m.recent))] = id>>1<<2 | uint32(e)
	m.at++
}

func (m *memory) find(id uint32) ending {
	if m.skippedFrom <= id && id <= m.skippedTo {
		return neverUsed
	}
	for _, r := range m.recent {
		if r>>2 == id>>1 && r&3 != 0 {
			return ending(r & 3)
		}
	}
	return forgotten
}

// open adds a stream to the table.
func (c *Conn) open(id uint32) *stream {
	s := c.s.newStream()
	s.id, s.opened = id, c.now
	s.send, s.recv, s.want = c.initial, int64(c.s.cfg.StreamWindow), -1
	c.streams.add(s)
	return s
}

// close takes a stream out of the table. What it held of the connection's window
// goes back to the peer.
func (c *Conn) close(s *stream, e ending) {
	if s.peerDone && e == resetHere {
		e = endedBoth
	}
	c.gone.add(s.id, e)
	c.ready.drop(s)
	c.streams.remove(s)
	c.give(s.unread)
	c.s.freeStream(s)
}

// closeIfDone takes a stream out of the table when both sides have ended it.
func (c *Conn) closeIfDone(s *stream) {
	if s.peerDone && s.ownDone {
		c.close(s, endedBoth)
		c.reward(rewardStream)
		c.resets = min(c.s.cfg.Resets, c.resets+1)
	}
}

// endOwn notes that nothing more will be written.
func (c *Conn) endOwn(s *stream) {
	s.ownDone, s.wants = true, false
	c.ready.drop(s)
	c.closeIfDone(s)
}

// idle says whether a stream has never been opened.
func (c *Conn) idle(id uint32) bool {
	if id%2 == 0 {
		return true // there is no server push
	}
	if c.client {
		return c.lastID == ^uint32(0) || id > c.lastID
	}
	// After the last GOAWAY the client may go on for a while with new streams.
	return id > c.lastID && !c.leaving
}
