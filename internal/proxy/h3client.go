package proxy

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/h3"
	"windrose.dev/windrose/internal/loop"
)

// A request of HTTP/3 is served by three: its exchange on a loop, and two
// goroutines, which may block. One reads the body and hands it to the loop a
// piece at a time; the other writes what the loop has gathered for the client:
//
//	reader ── piece ──> h3stream on its loop ── todo, bounded ──> writer
//	       <── more ──  (clientSide of an exchange) <── drained ──
//
// The writer is the goroutine of the request itself: when it returns, the request
// is over. All requests of a connection are on one loop.

// h3conn is a client's connection, as far as its loop knows of it.
type h3conn struct {
	client // what an exchange asks of a connection; it has no socket here
	conn   *h3.Conn
	resets int64 // what is left of the budget for requests that were given up
	filled int64 // when it was filled up last

	held atomic.Int64 // bytes that are to be written, of all its requests
}

// The budget is that of HTTP/2: see package h2.
const (
	h3Resets     = 250
	h3ResetsBack = 25 // in a second
	h3Streams    = 100
)

// What HTTP/2 reads of endpoints, the client's windows bound. QUIC's are not to be
// seen here: a client that reads none of many answers would have a read of each
// kept. So where a connection holds h3Full, a request may only have something to
// write when it had nothing, and not more than h3Piece.
const (
	h3Full  = 1 << 20
	h3Piece = 8 << 10
)

// room is how much of p an answer's next read may fill.
func (x *exchange) room(p []byte) []byte {
	if s, ok := x.down.(*h3stream); ok && s.m.held.Load() >= h3Full {
		return p[:min(len(p), h3Piece)]
	}
	return p
}

// h3stream is one request of an HTTP/3 client.
type h3stream struct {
	m   *h3conn
	req *h3.Request
	x   *exchange // nil once it is over

	in      []byte // the piece of the body that is not taken yet
	inEnd   bool
	ended   bool // the whole request was passed on
	over    bool // the end was written
	tunnel  bool
	trailer []h1.Field
	pending []byte // of the answer, gathered in this turn

	more chan struct{} // size 1: the reader may go on
	wake chan struct{} // size 1: the writer has something to do
	done chan struct{} // the writer has returned

	mu    sync.Mutex // guards what follows
	todo  []h3write
	size  int  // bytes in todo
	waits bool // the loop is to hear when there is room
	left  bool // the writer has: nothing is written any more
	last  bool // nothing more comes
	cut   bool // with last: the answer is not whole

	next, prev *h3stream
}

// h3write is something to be written: a head, or a piece of the body, or the
// end.
type h3write struct {
	status   int // of a head
	tunnel   bool
	fields   []h3.Field
	data     []byte
	end      bool
	trailers []h3.Field
}

// serveH3 carries a request; it runs on the request's goroutine.
func (w *worker) serveH3(m *h3conn, req *h3.Request) {
	s := &h3stream{
		m: m, req: req, ended: req.Empty,
		more: make(chan struct{}, 1), wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	defer close(s.done)
	defer req.Leave()
	defer s.leave()
	if w.loop.Post(s.begin) != nil {
		req.Abort()
		return
	}
	if !req.Empty {
		go s.read()
	}
	for {
		select {
		case <-s.wake:
		case <-req.Done():
			w.insist(s.onReset)
			return
		}
		todo, last, cut := s.take()
		for i := range todo {
			if cut || !s.write(&todo[i]) {
				cut = true
				break
			}
		}
		if cut {
			req.Abort()
			w.insist(s.onReset)
			return
		}
		if last {
			return
		}
	}
}

// insist has f called on the loop, however much waits there: what it does is not to
// be left out. It is for the goroutines of requests, which may wait. False: the
// loop has ended.
func (w *worker) insist(f func()) bool {
	for {
		err := w.loop.Post(f)
		if err == nil || errors.Is(err, loop.ErrClosed) {
			return err == nil
		}
		time.Sleep(time.Millisecond)
	}
}

// take gives the writer what there is to write.
func (s *h3stream) take() (todo []h3write, last, cut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	todo, s.todo = s.todo, nil
	return todo, s.last, s.cut
}

// write writes one piece, which may block.
func (s *h3stream) write(h *h3write) bool {
	var err error
	switch {
	case h.tunnel:
		err = s.req.Tunnel(h.fields)
	case h.status >= 200:
		err = s.req.Respond(h.status, h.fields)
	case h.status > 0:
		err = s.req.Interim(h.status, h.fields)
	case h.end:
		err = s.req.End(h.trailers)
	default:
		err = s.req.Write(h.data)
		s.wrote(len(h.data))
	}
	return err == nil
}

// leave forgets what will not be written.
func (s *h3stream) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m.held.Add(-int64(s.size))
	s.todo, s.size, s.left = nil, 0, true
}

// full says whether no more is taken for now. The caller holds s.mu.
func (s *h3stream) full() bool {
	return s.size >= outFull || s.size > 0 && s.m.held.Load() >= h3Full
}

// wrote makes room.
func (s *h3stream) wrote(n int) {
	s.mu.Lock()
	s.size -= n
	s.m.held.Add(-int64(n))
	tell := s.waits && s.size <= outFull/2 && !s.full()
	if tell {
		s.waits = false
	}
	s.mu.Unlock()
	if tell {
		s.m.w.insist(func() {
			if s.x != nil {
				s.x.clientDrained()
			}
		})
	}
}

// read reads the body and gives the loop a piece at a time.
func (s *h3stream) read() {
	buf := make([]byte, 16<<10)
	for {
		n, err := s.req.Read(buf)
		if n == 0 && err == nil {
			continue // trailers came, or a frame without content
		}
		var trailers []h3.Field
		if err != nil {
			trailers = s.req.Trailers()
		}
		if !s.m.w.insist(func() { s.onBody(buf[:n], err, trailers) }) || err != nil {
			return
		}
		select {
		case <-s.more:
		case <-s.done:
			return
		}
	}
}

// add gives the writer something to do.
func (s *h3stream) add(h h3write) {
	s.mu.Lock()
	if !s.left {
		s.todo = append(s.todo, h)
		s.size += len(h.data)
		s.m.held.Add(int64(len(h.data)))
	}
	s.mu.Unlock()
	signal(s.wake)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// What follows runs on the loop.

// begin starts the request.
func (s *h3stream) begin() {
	m, w := s.m, s.m.w
	w.h3streams.add(s)
	req := &w.req1
	w.req = req
	x := w.exchange()
	s.x = x
	now := w.loop.Clock()
	_, err := req.Parse(s.req.Head, 0, w.limits())
	if s.req.Protocol != "" {
		req.Method, req.Upgrade = connectBytes, bytesOf(s.req.Protocol)
		req.Body, req.Length = h1.NoBody, 0
	}
	if err != nil {
		x.refused(&m.client, s, now, err)
		return
	}
	connect := s.req.Protocol != ""
	if !x.begin(&m.client, s, now) {
		return
	}
	if s.ended || connect {
		x.keepEnd(nil)
	}
	x.launch()
}

// onBody takes a piece of the body, or its end.
func (s *h3stream) onBody(p []byte, err error, trailers []h3.Field) {
	x := s.x
	if x == nil {
		return // the reader ends with the request
	}
	if err != nil && !errors.Is(err, io.EOF) {
		x.clientLost()
		return
	}
	s.in, s.inEnd = p, err != nil
	for _, f := range trailers {
		field := h1.Field{Name: []byte(f.Name), Value: []byte(f.Value), Known: h1.Classify([]byte(f.Name))}
		if h1.TrailerAllowed(&field) {
			s.trailer = append(s.trailer, field)
		}
	}
	s.resume()
}

// onReset is called when the client has gone, or has given the request up.
func (s *h3stream) onReset() {
	if s.x == nil {
		return
	}
	m, now := s.m, s.m.w.loop.Now()
	m.resets = min(h3Resets, m.resets+(now-m.filled)*h3ResetsBack/1e9) - 1
	m.filled = now
	if m.resets < 0 {
		m.conn.Close()
	}
	s.x.clientLost()
}

// What follows makes h3stream the clientSide of its exchange.

func (s *h3stream) whole() bool { return s.ended || s.x.waits() }

func (s *h3stream) blocked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waits = s.full()
	return s.waits
}

func (s *h3stream) resume() {
	x := s.x
	if x.waits() {
		return
	}
	if len(s.in) > 0 {
		if !x.wants() {
			return
		}
		p := s.in
		s.in = nil
		if !x.onBody(p) || s.x != x {
			return
		}
		if !s.inEnd {
			signal(s.more)
		}
	}
	if s.inEnd {
		s.inEnd = false
		s.ended = true
		if !x.onBodyEnd(s.trailer) {
			return
		}
	}
	x.flushUp()
}

func (s *h3stream) interim() error {
	if s.m.w.resp.Status == http.StatusSwitchingProtocols {
		return errNoTunnel
	}
	h := h3write{status: s.m.w.resp.Status}
	s.x.interimFields(h.field)
	s.add(h)
	return nil
}

func (h *h3write) field(f h1.Field) {
	h.fields = append(h.fields, h3.Field{Name: string(f.Name), Value: string(f.Value)})
}

func (s *h3stream) respond(bool) {
	resp := s.m.w.resp
	h := h3write{status: resp.Status}
	s.x.responseFields(h.field)
	if resp.Body == h1.Length {
		h.field(h1.Field{Name: contentLengthName, Value: appendInt(nil, resp.Length)})
	}
	s.add(h)
}

func (s *h3stream) turn() error {
	x := s.x
	s.tunnel = true
	x.rec.Status = http.StatusOK
	h := h3write{tunnel: true}
	x.switchFields(func(name, value []byte) { h.field(h1.Field{Name: name, Value: value}) })
	s.add(h)
	// Not now: the endpoint's first bytes are in hand.
	return s.m.w.loop.Post(func() {
		if s.x == x {
			s.resume()
		}
	})
}

func (s *h3stream) data(p []byte) error {
	s.pending = append(s.pending, p...)
	return nil
}

func (s *h3stream) end(trailers []h1.Field) error {
	_ = s.flush()
	if s.over {
		return nil
	}
	s.over = true
	h := h3write{end: true}
	for i := range trailers {
		h.trailers = append(h.trailers, h3.Field{Name: string(trailers[i].Name), Value: string(trailers[i].Value)})
	}
	s.add(h)
	return nil
}

func (s *h3stream) flush() error {
	if len(s.pending) > 0 {
		s.add(h3write{data: s.pending})
		s.pending = nil
	}
	return nil
}

func (s *h3stream) finished()     { s.close(false) }
func (s *h3stream) broken(_ bool) { s.close(!s.over) }

// close ends the stream once what is to be written is; or at once, if it is cut
// off.
func (s *h3stream) close(cut bool) {
	s.x = nil
	s.in = nil
	s.m.w.h3streams.remove(s)
	s.mu.Lock()
	s.last, s.cut = true, cut
	s.mu.Unlock()
	if cut {
		s.req.Abort() // the writer may be in the middle of something
	}
	signal(s.wake)
}

// h3list is the requests of HTTP/3 of a loop.
type h3list struct{ first *h3stream }

func (l *h3list) add(s *h3stream) {
	s.next = l.first
	if l.first != nil {
		l.first.prev = s
	}
	l.first = s
}

func (l *h3list) remove(s *h3stream) {
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		l.first = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	}
	s.next, s.prev = nil, nil
}

// each calls f for every request; f may remove the one it is given.
func (l *h3list) each(f func(*h3stream)) {
	for s := l.first; s != nil; {
		next := s.next
		f(s)
		s = next
	}
}
