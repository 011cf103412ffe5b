// Package loop is the engine under the data plane: event loops over epoll, one
// goroutine each, with sockets, timers, buffers and TLS that belong to exactly
// one loop.
//
// Everything that belongs to a loop (Conn, Listener, Timer, Buffers) is used by
// code that runs on the loop only: handlers that the loop calls, and functions
// given to Post. There are no locks because there is no sharing. Post is the
// only way in from outside.
//
// A loop waits through the Go runtime's own poller: its private epoll
// descriptor is itself registered there (a nested epoll), so that an idle loop
// parks like any goroutine waiting for I/O and no thread is held. Where that
// does not work, Config.Blocking waits in epoll_wait instead.
//
// Sockets are registered once, edge-triggered. A read that returns fewer bytes
// than asked for has drained the socket, so no second read is spent on EAGAIN.
package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Config of a Loop.
type Config struct {
	// Blocking waits in epoll_wait rather than in the runtime's poller. New falls
	// back to it where the poller does not take an epoll descriptor.
	Blocking bool
	// ReadBuffer is the size of the buffer that all reads of the loop share;
	// default 64 KiB.
	ReadBuffer int
	// Start is where the clock of Now begins; default: now. Loops that are given
	// the same Start have the same clock.
	Start time.Time
	// Turn, if set, is called at the end of each turn, on the loop, with how long
	// the turn took: what a socket that became ready at its start had to wait.
	Turn func(busy time.Duration)
	// End, if set, is called on the loop when it ends, before what is still
	// registered is closed.
	End func()
	// Files, if set, bounds the descriptors of loops that share it.
	Files *Files
	// Panicked, if set, is told of a panic in a handler or posted function; the
	// connection it happened on is closed. Without it the panic goes on.
	Panicked func(v any)
}

const (
	maxEvents = 256
	// maxInbox bounds what can be posted and not yet run. Plan changes, scrapes and
	// handshakes that end are few; each request of HTTP/3 posts too, one piece at a
	// time for each direction.
	maxInbox = 1 << 16
)

// Loop is one event loop. Make it with New, then call Run.
type Loop struct {
	cfg  Config
	epfd int
	file *os.File
	raw  syscall.RawConn
	wake int // eventfd

	mu     sync.Mutex // guards inbox, closed
	inbox  []func()
	closed bool

	// In is the read buffer that handlers share: valid until the handler that
	// filled it returns.
	In []byte
	// Buffers are for what has to be kept longer.
	Buffers Buffers

	cipher []byte // TLS records on their way out, reused
	pipes  pipes
	grams  *Datagrams // nil until there is a UDP socket

	slots    []slot
	free     []uint32
	again    []*Conn // connections that used up their share of a turn
	spare    []*Conn // the memory of again, while that is worked off
	timers   wheel
	now      int64 // nanoseconds since base
	base     time.Time
	running  *Conn // whose handler is being called
	events   [maxEvents]unix.EpollEvent
	ready    int
	poll     func(fd uintptr) bool
	deadline int64 // what the runtime's poller was told, nanoseconds since base; 0 none
}

// slot names a registered descriptor. The generation tells events of the
// present owner from those of a predecessor that was closed in the same turn.
type slot struct {
	owner owner
	gen   uint32
}

// owner gets a descriptor's events.
type owner interface{ event(bits uint32) }

// ErrClosed is returned by Post on a loop that has ended.
var ErrClosed = errors.New("event loop has ended")

// New makes a loop. Close it by ending Run's context.
func New(cfg Config) (*Loop, error) {
	if cfg.ReadBuffer == 0 {
		cfg.ReadBuffer = 64 << 10
	}
	if cfg.Start.IsZero() {
		cfg.Start = time.Now()
	}
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epfd)
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	l := &Loop{cfg: cfg, epfd: epfd, wake: wake, In: make([]byte, cfg.ReadBuffer), base: cfg.Start}
	l.timers.init()
	l.poll = l.pollOnce
	l.slots = append(l.slots, slot{}) // slot 0 is the eventfd
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET}
	if err := unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, wake, &ev); err != nil {
		unix.Close(epfd)
		unix.Close(wake)
		return nil, fmt.Errorf("register eventfd: %w", err)
	}
	if cfg.Blocking {
		return l, nil
	}
	if err := unix.SetNonblock(epfd, true); err != nil {
		unix.Close(epfd)
		unix.Close(wake)
		return nil, fmt.Errorf("set epoll descriptor non-blocking: %w", err)
	}
	l.file = os.NewFile(uintptr(epfd), "epoll")
	if l.raw, err = l.file.SyscallConn(); err == nil {
		err = l.file.SetReadDeadline(time.Time{})
	}
	if err != nil {
		// This runtime's poller does not take it: wait in the kernel instead.
		l.file.Close()
		unix.Close(wake)
		cfg.Blocking = true
		return New(cfg)
	}
	return l, nil
}

// Post has f called on the loop, soon. It may be called from anywhere, the loop
// included. After the loop has ended it returns ErrClosed, and another error where
// too much waits already; f is not called then.
func (l *Loop) Post(f func()) error {
	l.mu.Lock()
	if l.closed || len(l.inbox) >= maxInbox {
		closed := l.closed
		l.mu.Unlock()
		if closed {
			return ErrClosed
		}
		return fmt.Errorf("event loop's inbox is full (%d)", maxInbox)
	}
	first := len(l.inbox) == 0
	l.inbox = append(l.inbox, f)
	if first {
		// Under the lock: a loop that ends meanwhile would close the descriptor,
		// and somebody else may have its number. It never blocks: EAGAIN means
		// that it is already signalled.
		one := [8]byte{1}
		_, _ = unix.Write(l.wake, one[:])
	}
	l.mu.Unlock()
	return nil
}

// Now is the loop's clock: nanoseconds since an arbitrary start, read once a
// turn.
func (l *Loop) Now() int64 { return l.now }

// Wall is Now as a time.
func (l *Loop) Wall() time.Time { return l.At(l.now) }

// At is a moment that Now or Clock gave, as a time.
func (l *Loop) At(moment int64) time.Time { return l.base.Add(time.Duration(moment)) }

// Clock reads the clock afresh, for measuring below the length of a turn.
func (l *Loop) Clock() int64 { return int64(time.Since(l.base)) }

// Run runs the loop until ctx ends. What is still registered then is closed
// without ceremony: whoever wants to drain does so before.
func (l *Loop) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Post(func() {}) })
	defer stop()
	defer l.close()
	for ctx.Err() == nil {
		if err := l.wait(); err != nil {
			return err
		}
		l.turn()
	}
	return nil
}

func (l *Loop) turn() {
	start := l.Clock()
	l.now = start
	for i := range l.ready {
		ev := &l.events[i]
		id, gen := uint32(ev.Fd), uint32(ev.Pad)
		if id == 0 {
			var b [8]byte
			_, _ = unix.Read(l.wake, b[:])
			continue
		}
		if s := &l.slots[id]; s.gen == gen && s.owner != nil {
			l.guard(func() { s.owner.event(ev.Events) })
		}
	}
	l.ready = 0
	l.runInbox()
	l.runAgain()
	l.timers.advance(l, l.now)
	if l.cfg.Turn != nil {
		l.cfg.Turn(time.Duration(l.Clock() - start))
	}
}

// guard keeps a panic from taking the other connections with it.
func (l *Loop) guard(f func()) {
	if l.cfg.Panicked == nil {
		f()
		return
	}
	l.running = nil
	defer func() {
		if v := recover(); v != nil {
			c := l.running
			l.cfg.Panicked(v)
			if c != nil {
				l.abandon(c)
			}
		}
	}()
	f()
}

// abandon tells the handler of a connection that it broke down, and does
// without the handler where it breaks down again.
func (l *Loop) abandon(c *Conn) {
	defer func() {
		if v := recover(); v != nil {
			l.cfg.Panicked(v)
			c.Close()
		}
	}()
	c.fail()
}

func (l *Loop) runInbox() {
	l.mu.Lock()
	todo := l.inbox
	l.inbox = nil
	l.mu.Unlock()
	for _, f := range todo {
		l.guard(f)
	}
}

func (l *Loop) runAgain() {
	// Handlers may ask for another share: those wait for the next turn.
	todo := l.again
	l.again = l.spare[:0]
	for _, c := range todo {
		c.queued = false
		if c.fd >= 0 && !c.connecting {
			l.guard(func() { c.call(Ready{Read: c.Readable(), Hangup: c.hangup}) })
		}
	}
	clear(todo)
	l.spare = todo[:0]
}

// wait blocks until a socket, the inbox or a timer wants attention.
func (l *Loop) wait() error {
	if l.cfg.Blocking {
		return l.waitBlocking()
	}
	for {
		if err := l.arm(); err != nil {
			return err
		}
		err := l.raw.Read(l.poll)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			l.deadline = 0
			if err := l.file.SetReadDeadline(time.Time{}); err != nil {
				return fmt.Errorf("clear the poller's deadline: %w", err)
			}
			l.ready = 0
			return nil
		default:
			return fmt.Errorf("wait for events: %w", err)
		}
	}
}

// pollOnce is called by the runtime: false parks the goroutine until the epoll
// descriptor is readable.
func (l *Loop) pollOnce(fd uintptr) bool {
	n := epollWait(int(fd), l.events[:], 0)
	l.ready = max(n, 0)
	return n != 0 || len(l.again) > 0
}

// arm tells the runtime's poller when the next timer is due. A deadline that is
// too early costs one idle turn, so it is only ever moved when it is too late
// or has passed.
func (l *Loop) arm() error {
	next := l.timers.next()
	if next == 0 || (l.deadline != 0 && l.deadline <= next) {
		return nil
	}
	l.deadline = next
	if err := l.file.SetReadDeadline(l.base.Add(time.Duration(next))); err != nil {
		return fmt.Errorf("set the poller's deadline: %w", err)
	}
	return nil
}

func (l *Loop) waitBlocking() error {
	ms := -1
	if next := l.timers.next(); next != 0 {
		ms = int(max(0, (next-l.Clock()+int64(time.Millisecond)-1)/int64(time.Millisecond)))
	}
	if len(l.again) > 0 {
		ms = 0
	}
	n, err := unix.EpollWait(l.epfd, l.events[:], ms)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for events: %w", err)
	}
	l.ready = max(n, 0)
	return nil
}

func (l *Loop) register(fd int, o owner) (uint32, error) {
	return l.registerFor(fd, o, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP)
}

// registerFor has o called for some events only.
func (l *Loop) registerFor(fd int, o owner, events uint32) (uint32, error) {
	var id uint32
	if n := len(l.free); n > 0 {
		id = l.free[n-1]
		l.free = l.free[:n-1]
	} else {
		id = uint32(len(l.slots))
		l.slots = append(l.slots, slot{})
	}
	s := &l.slots[id]
	s.gen++
	s.owner = o
	ev := unix.EpollEvent{Events: events | unix.EPOLLET, Fd: int32(id), Pad: int32(s.gen)}
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		s.owner = nil
		l.free = append(l.free, id)
		return 0, fmt.Errorf("register descriptor: %w", err)
	}
	return id, nil
}

func (l *Loop) unregister(id uint32) {
	l.slots[id].owner = nil
	l.free = append(l.free, id)
}

func (l *Loop) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.runInbox() // what was accepted by Post still runs
	if l.cfg.End != nil {
		l.guard(l.cfg.End)
	}
	for i := range l.slots {
		switch o := l.slots[i].owner.(type) {
		case *Conn:
			o.Close()
		case *Listener:
			o.drop()
		case *UDP:
			o.Close()
		}
	}
	for _, p := range l.pipes.free {
		l.closePipe(p)
	}
	unix.Close(l.wake)
	if l.file != nil {
		l.file.Close()
		return
	}
	unix.Close(l.epfd)
}
