package loop

import (
	"errors"
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

// Bytes that go from one socket to another and that nobody looks at need not
// come to the process: splice(2) moves the pages that hold them, through a pipe.
// A pipe is needed only while it holds something, so a loop keeps a few and
// lends them out.

// ErrNoSplice says that the kernel does not splice these sockets: copy instead.
var ErrNoSplice = errors.New("splice is not possible")

const (
	// PipeSize is the capacity that is asked for, the most that the kernel gives
	// by default (fs.pipe-max-size): the calls cost more than the bytes. All pipes
	// of a user together have 64 MiB (fs.pipe-user-pages-soft); beyond, the kernel
	// gives less.
	PipeSize = 1 << 20
	// leastPipe is what is worth its calls.
	leastPipe = 64 << 10
	// maxPipes bounds the pipes of a loop, and with them the memory that streams
	// hold whose destination takes nothing.
	maxPipes = 32
	// sparePipes is how many of them are kept while nobody uses them.
	sparePipes = 4
)

// Pipe holds bytes on their way between two sockets of a loop.
type Pipe struct {
	r, w int
	n    int // bytes in it
}

// Len is how many bytes are in the pipe.
func (p *Pipe) Len() int { return p.n }

// pipes is a loop's store of pipes.
type pipes struct {
	free []*Pipe
	open int
}

// TakePipe gives an empty pipe; nil if the loop has lent out all that it may
// have, or the process has no descriptors left.
func (l *Loop) TakePipe() *Pipe {
	if n := len(l.pipes.free); n > 0 {
		p := l.pipes.free[n-1]
		l.pipes.free = l.pipes.free[:n-1]
		return p
	}
	if l.pipes.open >= maxPipes || l.cfg.Files.room(2) != nil {
		return nil
	}
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC) != nil {
		return nil
	}
	// Where the kernel refuses, the pipe is as small as it was made.
	size, err := unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, PipeSize)
	if err != nil {
		size, err = unix.FcntlInt(uintptr(fds[1]), unix.F_GETPIPE_SZ, 0)
	}
	l.pipes.open++
	l.cfg.Files.add(2)
	p := &Pipe{r: fds[0], w: fds[1]}
	if err != nil || size < leastPipe {
		l.closePipe(p)
		return nil
	}
	return p
}

// GivePipe takes a pipe back; nil is fine. What is in it is lost.
func (l *Loop) GivePipe(p *Pipe) {
	if p == nil {
		return
	}
	if p.n == 0 && len(l.pipes.free) < sparePipes {
		l.pipes.free = append(l.pipes.free, p)
		return
	}
	l.closePipe(p)
}

func (l *Loop) closePipe(p *Pipe) {
	unix.Close(p.r)
	unix.Close(p.w)
	l.pipes.open--
	l.cfg.Files.add(-2)
}

// SpliceTo moves what c has to read, most bytes of it, into p, which must be
// empty. It returns ErrAgain when there is nothing now, io.EOF at the end, and
// ErrNoSplice where Read must be used instead. It is for cleartext.
func (c *Conn) SpliceTo(p *Pipe, most int) (int, error) {
	switch {
	case c.err != nil:
		return 0, c.err
	case c.fd < 0:
		return 0, io.EOF
	case !c.canRead:
		return 0, ErrAgain
	}
	n, e := sysSplice(c.fd, p.w, min(most, PipeSize))
	switch {
	case e == unix.EAGAIN:
		c.canRead = false // the pipe is empty, so it is the socket
		return 0, ErrAgain
	case e == unix.EINVAL || e == unix.ENOSYS || e == unix.EPERM:
		return 0, ErrNoSplice
	case e != 0:
		c.err = c.lost("read", e)
		return 0, c.err
	case n == 0:
		c.hangup = true
		if c.broken != nil {
			c.err = c.broken
			return 0, c.err
		}
		return 0, io.EOF
	}
	p.n = n
	return n, nil
}

// SpliceFrom sends what is in p. It returns ErrAgain when the socket takes no
// more: Ready tells with Drained when it does. It is for cleartext.
func (c *Conn) SpliceFrom(p *Pipe) error {
	switch {
	case c.broken != nil:
		return c.broken
	case c.fd < 0:
		return io.ErrClosedPipe
	}
	for p.n > 0 {
		if !c.canWrite || len(c.out) > 0 {
			c.wanted = true
			return ErrAgain
		}
		n, e := sysSplice(p.r, c.fd, p.n)
		switch {
		case e == unix.EAGAIN:
			c.canWrite = false
		case e != 0:
			return c.lost("write", e)
		default:
			p.n -= n
		}
	}
	return nil
}

func sysSplice(from, to, n int) (int, syscall.Errno) {
	const flags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK
	for {
		n, _, e := syscall.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), flags)
		if e != unix.EINTR {
			return int(n), e
		}
	}
}
