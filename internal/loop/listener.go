package loop

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Backlog of a listening socket; the kernel caps it at net.core.somaxconn.
const Backlog = 4096

// acceptBudget is how many connections one turn accepts from a socket.
const acceptBudget = 64

// Bind opens a listening TCP socket at addr. Several may be bound to one
// address (SO_REUSEPORT), one for each loop: the kernel spreads connections
// over them. "::" takes IPv4 too.
func Bind(addr netip.AddrPort) (fd int, err error) {
	fd, err = bind(addr, 1)
	if err != nil {
		return -1, err
	}
	if err := unix.Listen(fd, Backlog); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listen on %v: %w", addr, err)
	}
	return fd, nil
}

// Free says with nil that no socket listens at addr. Bind alone cannot tell: it
// shares the address with any other program of the same user that shares too,
// and the kernel would give that program half of the connections.
func Free(addr netip.AddrPort) error {
	fd, err := bind(addr, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// bind makes a socket with an address; share is the value of SO_REUSEPORT.
func bind(addr netip.AddrPort, share int) (fd int, err error) {
	sa, family := sockaddr(addr)
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil && addr.Addr() == netip.IPv6Unspecified() && errors.Is(err, unix.EAFNOSUPPORT) {
		return bind(netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port()), share)
	}
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
			fd = -1
		}
	}()
	options := [][3]int{
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
		{unix.SOL_SOCKET, unix.SO_REUSEPORT, share},
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}, // accepted sockets inherit it
	}
	if addr.Addr() == netip.IPv6Unspecified() {
		options = append(options, [3]int{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0})
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o[0], o[1], o[2]); err != nil {
			return fd, fmt.Errorf("set socket option: %w", err)
		}
	}
	if err := unix.Bind(fd, sa); err != nil {
		return fd, fmt.Errorf("bind %v: %w", addr, err)
	}
	return fd, nil
}

// Listener accepts connections on a loop.
type Listener struct {
	loop   *Loop
	fd     int
	id     uint32
	accept func(fd int, peer netip.AddrPort)
	full   func(error)
	retry  Timer
}

// Listen has accept called for each connection that comes in on fd, a socket of
// Bind, which the Listener closes. accept owns the descriptor it is given; full,
// if not nil, is told when the process cannot accept for want of descriptors or
// memory: the listener tries again by itself.
func (l *Loop) Listen(fd int, accept func(fd int, peer netip.AddrPort), full func(error)) (*Listener, error) {
	ln := &Listener{loop: l, fd: fd, accept: accept, full: full}
	ln.retry.F = func() { ln.event(unix.EPOLLIN) }
	id, err := l.register(fd, ln)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	ln.id = id
	return ln, nil
}

func (ln *Listener) event(uint32) {
	for range acceptBudget {
		if ln.fd < 0 || !ln.acceptOne() {
			return
		}
	}
	// Edge-triggered: nobody tells of the rest again. The rest waits its turn.
	if ln.loop.Post(ln.retry.F) != nil {
		ln.loop.Arm(&ln.retry, ln.loop.Now())
	}
}

func (ln *Listener) acceptOne() bool {
	fd, peer, e := sysAccept(ln.fd)
	switch e {
	case 0:
		ln.accept(fd, peer)
		return true
	case unix.EAGAIN:
		return false
	case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
		if ln.full != nil {
			ln.full(e)
		}
		ln.loop.Arm(&ln.retry, ln.loop.Now()+100e6)
		return false
	}
	return true // the peer gave up while it waited
}

// Yield has the kernel give new connections to another process that shares the
// address, if there is one, from now on: n is how many sockets of this process
// share it. What the kernel has begun to give to these still comes.
//
// The kernel keeps the sockets of an address in the order in which they came,
// and puts the last in the place of one that goes. So n is a socket of the other
// process until the last of ours has gone, and then, with as many sockets there,
// nobody: then the kernel spreads connections as before.
func (ln *Listener) Yield(n int) error {
	if ln.fd < 0 {
		return nil
	}
	program := [1]unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: uint32(n)}}
	err := unix.SetsockoptSockFprog(ln.fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &unix.SockFprog{Len: 1, Filter: &program[0]})
	if err != nil {
		return fmt.Errorf("yield connections: %w", err)
	}
	return nil
}

// Close takes what already waits to be accepted, then closes the socket: a
// connection that the kernel completed is served, not reset.
func (ln *Listener) Close() {
	if ln.fd < 0 {
		return
	}
	for range Backlog {
		if !ln.acceptOne() {
			break
		}
	}
	ln.drop()
}

// drop closes the socket with what waits in it.
func (ln *Listener) drop() {
	ln.loop.Stop(&ln.retry)
	unix.Close(ln.fd)
	ln.fd = -1
	ln.loop.unregister(ln.id)
}
