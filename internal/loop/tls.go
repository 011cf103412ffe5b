package loop

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// TLS is crypto/tls on a loop. A handshake costs hundreds of microseconds of
// processor time and cannot be suspended, so it runs on a goroutine of its own
// from the first bytes of the client on, at most Handshakes.Running of them at
// a time. Afterwards the session is the loop's alone: crypto/tls reads from and
// writes to the socket through transport, whose Read returns a temporary error
// when the socket is empty. crypto/tls keeps a session usable across such
// errors; tls_test.go holds every Go release to that.

// Handshakes bounds what TLS handshakes may cost. It is shared by the loops of
// a process.
//
// Who opens so many handshakes and ends none would keep everybody else out. So
// where the limit is met, the oldest one that waits for its client gives way: a
// client that means it is done within its round trips, long before it is the
// oldest of thousands.
type Handshakes struct {
	running chan struct{} // tokens for using the processor
	open    atomic.Int64  // handshakes begun and not ended, waiting ones included
	max     int64

	mu  sync.Mutex // guards age and session.waits of what is in it
	age list.List  // of *session: those that are open, oldest first
}

// maxSearch bounds the look for a handshake that gives way.
const maxSearch = 256

// begin takes in a handshake if there is room or if another gives way.
func (h *Handshakes) begin(s *session) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.open.Load() >= h.max && !h.evict() {
		return false
	}
	h.open.Add(1)
	s.place = h.age.PushBack(s)
	return true
}

func (h *Handshakes) end(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open.Add(-1)
	if s.place != nil {
		h.age.Remove(s.place)
		s.place = nil
	}
}

// evict ends the oldest handshake that waits for its client; it says whether
// there was one. The caller holds h.mu.
func (h *Handshakes) evict() bool {
	at := h.age.Front()
	for range maxSearch {
		if at == nil {
			return false
		}
		s := at.Value.(*session) //nolint:errcheck // nothing else is in it
		if s.waits {
			h.age.Remove(at)
			s.place = nil
			s.evicted.Store(true)
			s.cancelled.Store(true)
			s.signal()
			return true
		}
		at = at.Next()
	}
	return false
}

// waits notes that a handshake waits for its client, or does no more.
func (h *Handshakes) waits(s *session, on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.waits = on
}

// NewHandshakes allows so many to compute at the same time, and so many to be
// open.
func NewHandshakes(running, open int) *Handshakes {
	return &Handshakes{running: make(chan struct{}, running), max: int64(open)}
}

// ErrBusy is the error of a handshake that was refused, or had to give way to
// another, because too many are open.
var ErrBusy = errors.New("too many TLS handshakes are open")

// errCancelled is told to a handler when CancelHandshake ended a handshake.
var errCancelled error = cancelledError{}

// cancelledError is a net.Error, so that it is known for a timeout.
type cancelledError struct{}

func (cancelledError) Error() string   { return "the TLS handshake took too long" }
func (cancelledError) Timeout() bool   { return true }
func (cancelledError) Temporary() bool { return false }

// session is the TLS side of a Conn.
type session struct {
	c       *Conn
	conn    *tls.Conn
	owner   Handler // when the session began
	limits  *Handshakes
	state   *tls.ConnectionState
	phase   phase
	pending bool // conn may hold plaintext that was not read yet
	left    bool // Close was called while the handshake ran
	client  bool
	early   []byte  // what Write got before a client's handshake ended
	probe   [1]byte // of Quiet

	wakeup    chan struct{} // size 1: the socket has something new
	cancelled atomic.Bool
	evicted   atomic.Bool
	waits     bool          // for the client; see Handshakes.mu
	place     *list.Element // in Handshakes.age; nil if it is not in it
	batch     bool          // writes gather in the loop's cipher buffer
}

type phase uint8

const (
	waiting  phase = iota // for the first bytes of the handshake
	shaking               // a goroutine owns the descriptor
	standing              // the loop owns the session
)

// StartTLS makes c a TLS server connection. Ready is first called with Drained
// when the handshake has ended well, or with Err.
func (c *Conn) StartTLS(cfg *tls.Config, limits *Handshakes) {
	s := &session{c: c, owner: c.h, limits: limits, wakeup: make(chan struct{}, 1)}
	s.conn = tls.Server((*transport)(s), cfg)
	c.tls = s
}

// StartTLSClient has a connection that Dial began be one under TLS. Ready is
// first called with Drained when the handshake has ended well, or with Err. What
// Write is given before is kept, and sent then.
func (c *Conn) StartTLSClient(cfg *tls.Config, limits *Handshakes) {
	s := &session{c: c, limits: limits, client: true, wakeup: make(chan struct{}, 1)}
	s.conn = tls.Client((*transport)(s), cfg)
	c.tls = s
}

// Owner is whom the loop tells of a connection that crypto/tls knows as conn,
// which a Config's callbacks can ask for while the handshake is under way.
func Owner(conn net.Conn) Handler {
	t, ok := conn.(*transport)
	if !ok {
		return nil
	}
	return t.owner
}

// CancelHandshake ends a handshake that takes too long: Ready is called with an
// Err. It does nothing once the handshake has ended.
func (c *Conn) CancelHandshake() {
	s := c.tls
	if s == nil || s.phase == standing {
		return
	}
	if s.phase == waiting {
		c.call(Ready{Err: errCancelled})
		return
	}
	s.cancelled.Store(true)
	_ = unix.Shutdown(c.fd, unix.SHUT_RDWR)
	s.signal()
}

func (s *session) handshaking() bool { return s.phase != standing }

// poke is called by the loop when the socket has an event during a handshake.
func (s *session) poke() {
	if s.phase == shaking {
		s.signal()
		return
	}
	if s.c.canRead {
		s.begin()
	}
}

// begin starts the handshake.
func (s *session) begin() {
	if !s.limits.begin(s) {
		s.c.call(Ready{Err: ErrBusy})
		return
	}
	s.phase = shaking
	go s.handshake()
}

func (s *session) signal() {
	select {
	case s.wakeup <- struct{}{}:
	default:
	}
}

// handshake runs on its own goroutine, the only user of the descriptor until it
// posts its result. It ends when the socket does: the loop bounds its time with
// CancelHandshake.
func (s *session) handshake() {
	s.limits.running <- struct{}{}
	err := s.conn.HandshakeContext(context.Background())
	<-s.limits.running
	s.limits.end(s)
	if s.c.loop.Post(func() { s.settle(err) }) != nil {
		unix.Close(s.c.fd) // the loop is gone, and left the descriptor to us
	}
}

// settle gives the session to the loop.
func (s *session) settle(err error) {
	c := s.c
	s.phase = standing
	if s.left {
		c.release()
		return
	}
	switch {
	case err == nil:
		state := s.conn.ConnectionState()
		s.state = &state
	case s.evicted.Load():
		err = ErrBusy
	case s.cancelled.Load():
		err = errCancelled
	}
	// Events that came meanwhile were only signals.
	c.canRead, c.canWrite, s.pending = true, true, true
	s.wakeup = nil
	if early := s.early; err == nil && len(early) > 0 {
		s.early = nil
		err = s.write(early, nil)
		c.loop.Buffers.Give(early)
	}
	c.call(Ready{Read: true, Drained: true, Hangup: c.hangup, Err: err})
}

// leave is called by Close; it says whether the descriptor must stay open
// because a handshake still uses it.
func (s *session) leave() bool {
	if s.phase != shaking {
		if s.phase == standing && s.c.err == nil && s.c.broken == nil && len(s.c.out) == 0 {
			s.closeNotify()
		}
		return false
	}
	if !s.left {
		s.left = true
		s.cancelled.Store(true)
		_ = unix.Shutdown(s.c.fd, unix.SHUT_RDWR)
		s.signal()
	}
	return true
}

func (s *session) closeNotify() {
	if s.phase != standing {
		return
	}
	_ = s.conn.CloseWrite() // best effort: transport never blocks
}

func (s *session) read(p []byte) (int, error) {
	if s.phase != standing {
		return 0, ErrAgain
	}
	n, err := s.conn.Read(p)
	if n > 0 {
		s.pending = true // crypto/tls may have read more records than one
		return n, nil
	}
	s.pending = false
	if err == nil {
		return 0, ErrAgain
	}
	if _, again := errors.AsType[temporary](err); again {
		return 0, ErrAgain
	}
	if !errors.Is(err, io.EOF) && s.c.err == nil {
		s.c.err = err
	}
	return 0, err
}

// write encrypts a and b and sends the records with one call.
func (s *session) write(a, b []byte) error {
	l := s.c.loop
	if s.client && s.handshaking() {
		s.early = l.Buffers.Append(s.early, a)
		if len(b) > 0 {
			s.early = l.Buffers.Append(s.early, b)
		}
		return nil
	}
	l.cipher = l.cipher[:0]
	s.batch = true
	_, err := s.conn.Write(a)
	if err == nil && len(b) > 0 {
		_, err = s.conn.Write(b)
	}
	s.batch = false
	if err != nil {
		return err
	}
	err = s.c.writeRaw(l.cipher, nil)
	if cap(l.cipher) > 1<<20 {
		l.cipher = nil
	}
	return err
}

// transport is the net.Conn that crypto/tls sees.
type transport session

// temporary is the error of a Read that finds the socket empty. It must be a
// net.Error that is Temporary: that is what keeps the session usable.
type temporary struct{}

func (temporary) Error() string   { return ErrAgain.Error() }
func (temporary) Timeout() bool   { return true }
func (temporary) Temporary() bool { return true }

func (t *transport) Read(p []byte) (int, error) {
	s := (*session)(t)
	if s.phase == standing {
		n, err := s.c.readRaw(p)
		if errors.Is(err, ErrAgain) {
			return 0, temporary{}
		}
		return n, err
	}
	for {
		if s.cancelled.Load() {
			return 0, errCancelled
		}
		n, e := sysRead(s.c.fd, p)
		switch {
		case e == 0 && n == 0:
			return 0, io.EOF
		case e == 0:
			return n, nil
		case e != unix.EAGAIN:
			return 0, &LostError{Op: "read", Errno: e}
		}
		s.wait()
	}
}

func (t *transport) Write(p []byte) (int, error) {
	s := (*session)(t)
	if s.phase == standing {
		if s.batch {
			s.c.loop.cipher = append(s.c.loop.cipher, p...)
			return len(p), nil
		}
		// Alerts and key updates that crypto/tls sends on its own.
		if err := s.c.writeRaw(p, nil); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	done := 0
	for done < len(p) {
		if s.cancelled.Load() {
			return done, errCancelled
		}
		n, e := sysWrite(s.c.fd, p[done:])
		switch e {
		case 0:
			done += n
		case unix.EAGAIN:
			s.wait()
		default:
			return done, &LostError{Op: "write", Errno: e}
		}
	}
	return done, nil
}

// wait gives the processor to another handshake until the socket has an event.
func (s *session) wait() {
	<-s.limits.running
	s.limits.waits(s, true)
	<-s.wakeup
	s.limits.waits(s, false)
	s.limits.running <- struct{}{}
}

// crypto/tls asks for these; deadlines are the loop's business.

func (t *transport) Close() error                     { return nil }
func (t *transport) LocalAddr() net.Addr              { return nil }
func (t *transport) RemoteAddr() net.Addr             { return nil }
func (t *transport) SetDeadline(time.Time) error      { return nil }
func (t *transport) SetReadDeadline(time.Time) error  { return nil }
func (t *transport) SetWriteDeadline(time.Time) error { return nil }
