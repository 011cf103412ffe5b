package loop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// UDPHandler is told what can be done with a UDP socket.
type UDPHandler interface {
	// Received is called on the loop when there may be datagrams to receive, or
	// with an error that the peer of a connected socket caused, such as
	// ECONNREFUSED.
	Received(err error)
}

// UDP is a UDP socket on a loop: one that is bound, or one that is connected.
// The zero value is not usable: see ListenUDP and DialUDP.
type UDP struct {
	loop    *Loop
	h       UDPHandler
	fd      int
	id      uint32
	six     bool // the socket's family is IPv6
	every   bool // bound to all addresses: datagrams say to which one they came
	canRead bool
	queued  bool
}

// BindUDP opens a UDP socket at addr. Several may be bound to one address, one
// for each loop: the kernel gives all datagrams of one peer to the same one, as
// long as none comes or goes. "::" takes IPv4 too.
func BindUDP(addr netip.AddrPort) (fd int, err error) { return bindUDP(addr, 1) }

// FreeUDP says with nil that no socket has addr; see Free.
func FreeUDP(addr netip.AddrPort) error {
	fd, err := bindUDP(addr, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func bindUDP(addr netip.AddrPort, share int) (fd int, err error) {
	sa, family := sockaddr(addr)
	fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil && addr.Addr() == netip.IPv6Unspecified() && errors.Is(err, unix.EAFNOSUPPORT) {
		return bindUDP(netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port()), share)
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
	options := [][3]int{{unix.SOL_SOCKET, unix.SO_REUSEPORT, share}}
	if addr.Addr().IsUnspecified() {
		if family == unix.AF_INET {
			options = append(options, [3]int{unix.IPPROTO_IP, unix.IP_PKTINFO, 1})
		} else {
			options = append(options, [3]int{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0}, [3]int{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1})
		}
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

// ListenUDP makes u the owner of a socket of BindUDP, which u closes. On an
// error the descriptor is closed.
func (l *Loop) ListenUDP(u *UDP, fd int, h UDPHandler) error {
	*u = UDP{loop: l, h: h, fd: fd, canRead: true}
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err == nil {
		u.six = family == unix.AF_INET6
		level, option := unix.IPPROTO_IP, unix.IP_PKTINFO
		if u.six {
			level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
		}
		info, e := unix.GetsockoptInt(fd, level, option)
		u.every, err = info != 0, e
	}
	if err != nil {
		unix.Close(fd)
		u.fd = -1
		return fmt.Errorf("ask a socket for its options: %w", err)
	}
	return u.register()
}

// DialUDP makes u a socket that sends to addr and receives from there alone.
func (l *Loop) DialUDP(u *UDP, addr netip.AddrPort, h UDPHandler) error {
	sa, family := sockaddr(addr)
	*u = UDP{loop: l, h: h, fd: -1, six: family == unix.AF_INET6}
	if err := l.cfg.Files.room(1); err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	if err := unix.Connect(fd, sa); err != nil {
		unix.Close(fd)
		return fmt.Errorf("connect: %w", err)
	}
	u.fd = fd
	return u.register()
}

// register asks for what can be received only: the kernel tells after each
// datagram sent that there is room for another.
func (u *UDP) register() error {
	id, err := u.loop.registerFor(u.fd, u, unix.EPOLLIN)
	if err != nil {
		unix.Close(u.fd)
		u.fd = -1
		return err
	}
	u.id = id
	u.loop.cfg.Files.add(1)
	if u.loop.grams == nil {
		u.loop.grams = newDatagrams()
	}
	return nil
}

// Open says whether u has a descriptor.
func (u *UDP) Open() bool { return u.loop != nil && u.fd >= 0 }

// Close closes the socket. Its handler is not called any more.
func (u *UDP) Close() {
	if !u.Open() {
		return
	}
	unix.Close(u.fd)
	u.fd = -1
	u.loop.cfg.Files.add(-1)
	u.loop.unregister(u.id)
	u.h = nil
}

// Again has Received called once more although no event comes, for a handler
// that stopped with datagrams left.
func (u *UDP) Again() {
	if u.queued || u.fd < 0 {
		return
	}
	u.queued = u.loop.Post(func() {
		u.queued = false
		if u.fd >= 0 {
			u.h.Received(nil)
		}
	}) == nil
}

func (u *UDP) event(bits uint32) {
	u.canRead = true
	if bits&unix.EPOLLERR != 0 {
		if e, err := unix.GetsockoptInt(u.fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && e != 0 {
			u.h.Received(&LostError{Op: "send", Errno: syscall.Errno(e)})
			return
		}
	}
	u.h.Received(nil)
}

// Datagrams returns the loop's store of datagrams.
func (u *UDP) Datagrams() *Datagrams { return u.loop.grams }

const (
	batch       = 16
	maxDatagram = 64 << 10
	controlSize = 64 // for one message with an address
)

// Datagrams is where a loop receives: a batch, valid until the next Receive.
type Datagrams struct {
	control [batch][controlSize]byte // first, for its alignment
	heads   [batch]mmsghdr
	vectors [batch]syscall.Iovec
	names   [batch]syscall.RawSockaddrAny
	data    []byte // batch times maxDatagram; the kernel gives pages when they are touched
	six     bool   // what the batch was received on
	every   bool
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	head syscall.Msghdr
	len  uint32
	_    [4]byte
}

func newDatagrams() *Datagrams {
	return &Datagrams{data: make([]byte, batch*maxDatagram)}
}

// Data is datagram i of the batch.
func (d *Datagrams) Data(i int) []byte { return d.data[i*maxDatagram:][:d.heads[i].len] }

// Peer is who sent datagram i.
func (d *Datagrams) Peer(i int) netip.AddrPort {
	sa := &d.names[i]
	addr := addrOf(sa)
	if sa.Addr.Family == unix.AF_INET6 {
		if zone := (*syscall.RawSockaddrInet6)(unsafe.Pointer(sa)).Scope_id; zone != 0 {
			addr = netip.AddrPortFrom(addr.Addr().WithZone(strconv.FormatUint(uint64(zone), 10)), addr.Port())
		}
	}
	return addr
}

// Local is the address that datagram i was sent to, where the socket is bound to
// all addresses; else the zero Addr.
func (d *Datagrams) Local(i int) netip.Addr {
	if !d.every {
		return netip.Addr{}
	}
	p := d.control[i][:min(int(d.heads[i].head.Controllen), controlSize)]
	for len(p) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(p)))
		n := int(h.Len)
		if n < unix.SizeofCmsghdr || n > len(p) {
			break
		}
		data := p[unix.SizeofCmsghdr:n] // the head's size is its alignment
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			return netip.AddrFrom4([4]byte(data[4:8])) // ipi_spec_dst: what to answer from
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			return netip.AddrFrom16([16]byte(data[:16])).Unmap()
		}
		p = p[min((n+7)&^7, len(p)):]
	}
	return netip.Addr{}
}

// Receive receives a batch. It returns ErrAgain when there is nothing now.
func (u *UDP) Receive() (int, error) {
	d := u.loop.grams
	if u.fd < 0 || !u.canRead {
		return 0, ErrAgain
	}
	d.six, d.every = u.six, u.every
	for i := range d.heads {
		d.vectors[i] = syscall.Iovec{Base: &d.data[i*maxDatagram], Len: maxDatagram}
		d.heads[i].head = syscall.Msghdr{
			Name: (*byte)(unsafe.Pointer(&d.names[i])), Namelen: uint32(unsafe.Sizeof(d.names[i])), Iov: &d.vectors[i], Iovlen: 1,
		}
		if u.every {
			d.heads[i].head.Control, d.heads[i].head.Controllen = &d.control[i][0], controlSize
		}
	}
	for {
		n, _, e := syscall.RawSyscall6(unix.SYS_RECVMMSG, uintptr(u.fd), uintptr(unsafe.Pointer(&d.heads[0])), batch, unix.MSG_DONTWAIT, 0, 0)
		switch {
		case e == unix.EINTR:
			continue
		case e == unix.EAGAIN:
			u.canRead = false
			return 0, ErrAgain
		case e != 0:
			return 0, &LostError{Op: "receive", Errno: e}
		}
		if n < batch {
			u.canRead = false
		}
		return int(n), nil
	}
}

// Send sends datagrams from to to of the batch on a connected socket. It returns
// how many the socket took; the error is about the one behind them. ErrAgain
// means that the socket's buffer is full.
func (u *UDP) Send(from, to int) (int, error) {
	d := u.loop.grams
	for i := from; i < to; i++ {
		d.prepare(i)
	}
	return u.send(from, to)
}

// SendTo sends datagrams from to to of the batch to a peer, from a local address
// if that is valid.
func (u *UDP) SendTo(from, to int, peer netip.AddrPort, local netip.Addr) (int, error) {
	d := u.loop.grams
	for i := from; i < to; i++ {
		h := d.prepare(i)
		h.Name = (*byte)(unsafe.Pointer(&d.names[i]))
		h.Namelen = putAddr(&d.names[i], peer, u.six)
		if local.IsValid() {
			h.Control = &d.control[i][0]
			h.Controllen = uint64(putInfo(&d.control[i], local, u.six))
		}
	}
	return u.send(from, to)
}

// prepare makes a received datagram one to be sent.
func (d *Datagrams) prepare(i int) *syscall.Msghdr {
	d.vectors[i] = syscall.Iovec{Base: &d.data[i*maxDatagram], Len: uint64(d.heads[i].len)}
	d.heads[i].head = syscall.Msghdr{Iov: &d.vectors[i], Iovlen: 1}
	return &d.heads[i].head
}

func (u *UDP) send(from, to int) (int, error) {
	d := u.loop.grams
	for i := from; i < to; {
		if u.fd < 0 {
			return i - from, ErrAgain
		}
		// The kernel writes to len how much it sent, which for a datagram is all.
		n, _, e := syscall.RawSyscall6(unix.SYS_SENDMMSG, uintptr(u.fd), uintptr(unsafe.Pointer(&d.heads[i])), uintptr(to-i), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch {
		case e == unix.EINTR:
		case e == unix.EAGAIN:
			return i - from, ErrAgain
		case e != 0:
			return i - from, &LostError{Op: "send", Errno: e}
		default:
			i += int(n)
		}
	}
	return to - from, nil
}

// putAddr writes a peer's address for a socket of a family.
func putAddr(sa *syscall.RawSockaddrAny, peer netip.AddrPort, six bool) uint32 {
	if !six {
		in := (*syscall.RawSockaddrInet4)(unsafe.Pointer(sa))
		*in = syscall.RawSockaddrInet4{Family: unix.AF_INET, Addr: peer.Addr().Unmap().As4()}
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&in.Port))[:], peer.Port())
		return syscall.SizeofSockaddrInet4
	}
	in := (*syscall.RawSockaddrInet6)(unsafe.Pointer(sa))
	*in = syscall.RawSockaddrInet6{Family: unix.AF_INET6, Addr: peer.Addr().As16()}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&in.Port))[:], peer.Port())
	if zone := peer.Addr().Zone(); zone != "" {
		if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
			in.Scope_id = uint32(n)
		}
	}
	return syscall.SizeofSockaddrInet6
}

// putInfo writes the control message that sets the address to send from.
func putInfo(p *[controlSize]byte, local netip.Addr, six bool) int {
	h := (*unix.Cmsghdr)(unsafe.Pointer(p))
	data := p[unix.SizeofCmsghdr:]
	if !six {
		*h = unix.Cmsghdr{Level: unix.IPPROTO_IP, Type: unix.IP_PKTINFO, Len: uint64(unix.SizeofCmsghdr + unix.SizeofInet4Pktinfo)}
		clear(data[:unix.SizeofInet4Pktinfo])
		addr := local.As4()
		copy(data[4:], addr[:])
		return (int(h.Len) + 7) &^ 7
	}
	*h = unix.Cmsghdr{Level: unix.IPPROTO_IPV6, Type: unix.IPV6_PKTINFO, Len: uint64(unix.SizeofCmsghdr + unix.SizeofInet6Pktinfo)}
	clear(data[:unix.SizeofInet6Pktinfo])
	addr := local.As16()
	copy(data, addr[:])
	return (int(h.Len) + 7) &^ 7
}
