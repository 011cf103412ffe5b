package loop

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrAgain is returned by Read when there is nothing to read now: Handler.Ready
// is called when there is.
var ErrAgain = errors.New("nothing to read now")

// Handler is told what can be done with a Conn.
type Handler interface {
	// Ready is called on the loop. It must not keep the loop's read buffer, and
	// should leave after a bounded amount of work (Conn.Again asks for more).
	Ready(Ready)
}

// Ready says why a handler is called; several may be true.
type Ready struct {
	Read    bool // Read may give bytes, or the end
	Drained bool // what Write had to keep has been sent; or a connection stands
	// Hangup says that the peer will send no more (its end may still be behind
	// unread bytes).
	Hangup bool
	// Err is set when the connection is lost, could not be made, or its TLS
	// handshake failed. What came before the loss can still be read. Nothing else
	// follows; Close it.
	Err error
}

// Conn is a TCP connection on a loop, in cleartext or under TLS. The zero value
// is not usable: see Adopt and Dial.
type Conn struct {
	loop *Loop
	h    Handler
	fd   int
	id   uint32

	canRead    bool // the socket may have bytes
	canWrite   bool
	hangup     bool // the peer's end was seen
	connecting bool
	queued     bool // in loop.again
	wanted     bool // SpliceFrom waits for the socket to take more
	tls        *session
	out        []byte // what the socket did not take
	sent       int    // how much of out is gone
	// broken is why the connection is lost. What had come before can still be
	// read; then Read returns it too.
	broken error
	err    error // of Read: nothing can be read any more
}

// Adopt makes c the owner of a connected, non-blocking descriptor, which c
// closes. On an error the descriptor is closed.
func (l *Loop) Adopt(c *Conn, fd int, h Handler) error {
	*c = Conn{loop: l, h: h, fd: fd, canRead: true, canWrite: true}
	id, err := l.register(fd, c)
	if err != nil {
		unix.Close(fd)
		c.fd = -1
		return err
	}
	c.id = id
	l.cfg.Files.add(1)
	return nil
}

// Dial starts a connection to addr. Write may be called at once; Ready tells
// with Drained that the connection stands, or with Err that it does not. The
// time it may take is the caller's to bound.
func (l *Loop) Dial(c *Conn, addr netip.AddrPort, h Handler) error {
	sa, family := sockaddr(addr)
	if err := l.cfg.Files.room(1); err != nil {
		c.fd = -1
		return fmt.Errorf("open socket: %w", err)
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		c.fd = -1
		return fmt.Errorf("open socket: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	err = unix.Connect(fd, sa)
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		unix.Close(fd)
		c.fd = -1
		return fmt.Errorf("connect: %w", err)
	}
	if err := l.Adopt(c, fd, h); err != nil {
		return err
	}
	c.connecting = true
	c.canRead, c.canWrite = false, false
	return nil
}

// Open says whether c has a descriptor.
func (c *Conn) Open() bool { return c.loop != nil && c.fd >= 0 }

// Loop is the loop that c belongs to.
func (c *Conn) Loop() *Loop { return c.loop }

// SetHandler makes h the one who is told.
func (c *Conn) SetHandler(h Handler) { c.h = h }

// Connecting says whether the connection does not stand yet.
func (c *Conn) Connecting() bool {
	return c.connecting || c.tls != nil && c.tls.client && c.tls.handshaking()
}

// Shaking says whether a TLS handshake is under way.
func (c *Conn) Shaking() bool { return !c.connecting && c.tls != nil && c.tls.handshaking() }

// Buffered is how many bytes Write had to keep.
func (c *Conn) Buffered() int {
	n := len(c.out) - c.sent
	if c.tls != nil {
		n += len(c.tls.early)
	}
	return n
}

// Full says whether the socket takes no more now: Ready tells with Drained when
// it does.
func (c *Conn) Full() bool { return c.wanted || c.Buffered() > 0 }

// Hangup says whether the peer will send no more.
func (c *Conn) Hangup() bool { return c.hangup }

// Broken says whether the connection is lost. What had come before may still be
// there to read.
func (c *Conn) Broken() bool { return c.broken != nil }

// Again has Ready called once more although no event comes, for a handler that
// stopped with bytes left to read: at the end of this turn, or in the next one
// if it was called by Again already.
func (c *Conn) Again() {
	if !c.queued && c.fd >= 0 {
		c.queued = true
		c.loop.again = append(c.loop.again, c)
	}
}

// Readable says whether Read may give something without a new event.
func (c *Conn) Readable() bool { return c.canRead || (c.tls != nil && c.tls.pending) }

// Read reads what is there into p. It returns ErrAgain when there is nothing
// now, and io.EOF at the end.
func (c *Conn) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	if c.fd < 0 {
		return 0, io.EOF
	}
	if c.tls != nil {
		return c.tls.read(p)
	}
	return c.readRaw(p)
}

func (c *Conn) readRaw(p []byte) (int, error) {
	if !c.canRead {
		return 0, ErrAgain
	}
	n, e := sysRead(c.fd, p)
	switch {
	case e == unix.EAGAIN:
		c.canRead = false
		return 0, ErrAgain
	case e != 0:
		c.err = c.lost("read", e)
		return 0, c.err
	case n == 0:
		c.hangup = true
		if c.broken != nil {
			// The error was told already, and the kernel tells it once.
			c.err = c.broken
			return 0, c.err
		}
		return 0, io.EOF
	}
	// A short read has drained the socket; an end that follows makes a new
	// event, one that was already seen would not.
	if n < len(p) && !c.hangup {
		c.canRead = false
	}
	return n, nil
}

// Ended looks whether the peer's end is next, without reading. Use it when
// Hangup is set. Under TLS the peer says goodbye first, so only Read can tell.
func (c *Conn) Ended() bool {
	if c.fd < 0 || c.broken != nil {
		return true
	}
	var b [1]byte
	n, e := sysPeek(c.fd, b[:])
	return (e == 0 && n == 0) || (e != 0 && e != unix.EAGAIN && e != unix.EINTR)
}

// Silent looks whether there is nothing to read, not even an end: use it before
// an idle connection is used for what cannot be sent twice, and for what is
// left behind a message that should be the last.
func (c *Conn) Silent() bool {
	if c.fd < 0 || c.broken != nil || (c.tls != nil && c.tls.pending) {
		return false
	}
	var b [1]byte
	_, e := sysPeek(c.fd, b[:])
	if e == unix.EAGAIN {
		c.canRead = false
		return true
	}
	return false
}

// Quiet is Silent for a connection under TLS, whose peer may have sent what is
// TLS's own, as session tickets are: that is read. If Quiet says no, a byte may
// be lost, and the connection is good for nothing more.
func (c *Conn) Quiet() bool {
	if c.tls == nil {
		return c.Silent()
	}
	if c.fd < 0 || c.broken != nil || c.err != nil || c.tls.handshaking() {
		return false
	}
	c.canRead = true // there may be more than was told
	n, err := c.tls.read(c.tls.probe[:])
	return n == 0 && errors.Is(err, ErrAgain)
}

// Write sends p, keeping what the socket does not take: look at Buffered to
// bound that. p may be reused when it returns.
func (c *Conn) Write(p []byte) error { return c.Write2(p, nil) }

// Write2 sends a and then b as one.
func (c *Conn) Write2(a, b []byte) error {
	if c.broken != nil {
		return c.broken
	}
	if c.fd < 0 {
		return io.ErrClosedPipe
	}
	if c.tls != nil {
		return c.tls.write(a, b)
	}
	return c.writeRaw(a, b)
}

func (c *Conn) writeRaw(a, b []byte) error {
	n := 0
	if c.canWrite && len(c.out) == 0 {
		var e syscall.Errno
		if len(b) == 0 {
			n, e = sysWrite(c.fd, a)
		} else {
			n, e = sysWrite2(c.fd, a, b)
		}
		if e != 0 {
			if e != unix.EAGAIN {
				return c.lost("write", e)
			}
			n = 0 // what the kernel gives with an error is -1
		}
		if n == len(a)+len(b) {
			return nil
		}
		c.canWrite = false
	}
	if n < len(a) {
		c.keep(a[n:])
		n = 0
	} else {
		n -= len(a)
	}
	c.keep(b[n:])
	return nil
}

func (c *Conn) keep(p []byte) {
	if len(p) == 0 {
		return
	}
	if c.sent > 0 && len(c.out)+len(p) > cap(c.out) {
		c.out = c.out[:copy(c.out, c.out[c.sent:])]
		c.sent = 0
	}
	c.out = c.loop.Buffers.Append(c.out, p)
}

// CloseWrite tells the peer that no more comes. What is buffered is lost unless
// Buffered is 0.
func (c *Conn) CloseWrite() {
	if c.fd < 0 {
		return
	}
	if c.tls != nil {
		c.tls.closeNotify()
	}
	_ = unix.Shutdown(c.fd, unix.SHUT_WR)
}

// Close closes the connection. Its handler is not called any more.
func (c *Conn) Close() {
	if c.fd < 0 {
		return
	}
	if c.tls != nil && c.tls.leave() {
		return // the handshake's goroutine still uses the descriptor
	}
	c.release()
}

// Reset closes the connection so that the peer sees it was cut off.
func (c *Conn) Reset() {
	if c.fd >= 0 {
		_ = unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		if c.broken == nil {
			c.broken = io.ErrClosedPipe // no goodbye of TLS either
		}
	}
	c.Close()
}

func (c *Conn) release() {
	unix.Close(c.fd)
	c.forget()
}

// forget ends c without its descriptor.
func (c *Conn) forget() {
	c.fd = -1
	c.loop.cfg.Files.add(-1)
	c.loop.unregister(c.id)
	c.loop.Buffers.Give(c.out)
	c.out, c.sent = nil, 0
	if c.tls != nil {
		c.loop.Buffers.Give(c.tls.early)
		c.tls.early = nil
	}
	c.h = nil
}

func (c *Conn) fail() {
	if c.fd >= 0 {
		c.call(Ready{Err: errPanic})
	}
}

var errPanic = errors.New("the handler of the connection broke down")

// lost notes that the connection is gone. Reads go on until the kernel has
// nothing left of what came before.
func (c *Conn) lost(what string, e syscall.Errno) error {
	if c.broken == nil {
		c.broken = &LostError{Op: what, Errno: e}
	}
	c.canRead, c.hangup = true, true
	c.loop.Buffers.Give(c.out)
	c.out, c.sent = nil, 0
	return c.broken
}

// LostError says which call found that a connection is gone.
type LostError struct {
	Op    string // "connect", "read", "write"
	Errno syscall.Errno
}

func (e *LostError) Error() string { return e.Op + ": " + e.Errno.Error() }

// Unwrap gives the errno, for errors.Is.
func (e *LostError) Unwrap() error { return e.Errno }

// event is called by the loop.
func (c *Conn) event(bits uint32) {
	if c.connecting {
		c.connected(bits)
		return
	}
	if bits&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		c.hangup = true
	}
	if bits&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		c.canRead = true
	}
	if bits&unix.EPOLLOUT != 0 {
		c.canWrite = true
	}
	if c.tls != nil && c.tls.handshaking() {
		c.tls.poke()
		return
	}
	var r Ready
	if bits&unix.EPOLLERR != 0 {
		if e := c.socketError(); e != 0 {
			r.Err = c.lost("read", e)
		}
	}
	if c.canWrite && len(c.out) > 0 {
		r.Drained, r.Err = c.flush()
	}
	if c.wanted && c.canWrite && len(c.out) == 0 {
		c.wanted = false
		r.Drained = true
	}
	r.Read, r.Hangup = c.canRead, c.hangup
	if r.Read || r.Drained || r.Hangup || r.Err != nil {
		c.call(r)
	}
}

func (c *Conn) call(r Ready) {
	c.loop.running = c
	c.h.Ready(r)
}

func (c *Conn) socketError() syscall.Errno {
	e, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return 0
	}
	return syscall.Errno(e)
}

func (c *Conn) connected(bits uint32) {
	if bits&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) == 0 {
		return
	}
	c.connecting = false
	if e := c.socketError(); e != 0 {
		c.call(Ready{Err: c.lost("connect", e)})
		return
	}
	c.canWrite = true
	c.canRead = bits&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP) != 0
	c.hangup = bits&(unix.EPOLLRDHUP|unix.EPOLLHUP) != 0
	if c.tls != nil {
		c.tls.begin()
		return
	}
	if len(c.out) > 0 {
		if _, err := c.flush(); err != nil {
			c.call(Ready{Err: err})
			return
		}
	}
	c.call(Ready{Drained: true, Read: c.canRead, Hangup: c.hangup})
}

// flush sends what was kept; it says whether all of it is gone.
func (c *Conn) flush() (bool, error) {
	n, e := sysWrite(c.fd, c.out[c.sent:])
	if e != 0 {
		c.canWrite = false
		if e == unix.EAGAIN {
			return false, nil
		}
		return false, c.lost("write", e)
	}
	c.sent += n
	if c.sent < len(c.out) {
		c.canWrite = false
		return false, nil
	}
	c.loop.Buffers.Give(c.out)
	c.out, c.sent = nil, 0
	return true, nil
}

// TLSState is the state of the TLS session; nil in cleartext and before the
// handshake has ended.
func (c *Conn) TLSState() *tls.ConnectionState {
	if c.tls == nil {
		return nil
	}
	return c.tls.state
}
