package loop

import (
	"io"

	"golang.org/x/sys/unix"
)

// This file is for who must see the first bytes of a connection before anybody
// knows who reads it.

// Peek copies to p what can be read, from its beginning, and leaves it to be
// read. It returns ErrAgain when there is nothing, and io.EOF at the end. A
// handler that wants more than it got waits for Ready. It is for cleartext.
func (c *Conn) Peek(p []byte) (int, error) {
	switch {
	case c.err != nil:
		return 0, c.err
	case c.fd < 0:
		return 0, io.EOF
	case !c.canRead:
		return 0, ErrAgain
	}
	n, e := sysPeek(c.fd, p)
	switch {
	case e == unix.EAGAIN:
		c.canRead = false
		return 0, ErrAgain
	case e == unix.EINTR:
		c.Again()
		return 0, ErrAgain
	case e != 0:
		c.err = c.lost("read", e)
		return 0, c.err
	case n == 0:
		c.hangup = true
		return 0, io.EOF
	}
	return n, nil
}

// Detach takes the descriptor from c, which is closed afterwards without closing
// it: another may Adopt it and gets what was not read. Nothing may have been
// written that is still kept, and there must be no TLS.
func (c *Conn) Detach() int {
	fd := c.fd
	if fd < 0 {
		return -1
	}
	// The descriptor is ours, so there is nothing to fail for.
	_ = unix.EpollCtl(c.loop.epfd, unix.EPOLL_CTL_DEL, fd, nil)
	c.forget()
	return fd
}

// Handshake begins the handshake of StartTLS at once, for whoever has peeked:
// the bytes are there already, and no event tells of them again. It may call the
// handler, so it is the last thing to do.
func (c *Conn) Handshake() {
	if s := c.tls; s != nil && s.phase == waiting {
		s.poke()
	}
}
