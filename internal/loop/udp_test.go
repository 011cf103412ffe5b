package loop

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// received is a UDPHandler that is a function.
type received func(error)

func (f received) Received(err error) { f(err) }

// udpEcho answers every datagram with itself, on the address it came to.
func udpEcho(tb testing.TB, l *Loop, addr netip.AddrPort) netip.AddrPort {
	tb.Helper()
	fd, err := BindUDP(addr)
	if err != nil {
		tb.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		tb.Fatal(err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		addr = netip.AddrPortFrom(addr.Addr(), uint16(sa.Port))
	case *unix.SockaddrInet6:
		addr = netip.AddrPortFrom(addr.Addr(), uint16(sa.Port))
	}
	u := new(UDP)
	on(tb, l, func() {
		err := l.ListenUDP(u, fd, received(func(err error) {
			for err == nil {
				var n int
				if n, err = u.Receive(); err != nil {
					return
				}
				d := u.Datagrams()
				for i := range n {
					if sent, err := u.SendTo(i, i+1, d.Peer(i), d.Local(i)); sent != 1 {
						tb.Errorf("answer: %v", err)
					}
				}
			}
		}))
		if err != nil {
			tb.Error(err)
		}
	})
	tb.Cleanup(func() { on(tb, l, u.Close) })
	return addr
}

func TestUDPAnswersFromWhereItWasAsked(t *testing.T) {
	for _, c := range []struct{ bind, ask string }{
		{"127.0.0.1", "127.0.0.1"},
		{"0.0.0.0", "127.0.0.1"},
		{"0.0.0.0", "127.0.0.2"},
		{"::", "127.0.0.1"},
		{"::", "127.0.0.3"},
		{"::", "::1"},
		{"::1", "::1"},
	} {
		t.Run(c.bind+" by "+c.ask, func(t *testing.T) {
			l := start(t, Config{})
			addr := udpEcho(t, l, netip.AddrPortFrom(netip.MustParseAddr(c.bind), 0))
			peer, err := net.Dial("udp", netip.AddrPortFrom(netip.MustParseAddr(c.ask), addr.Port()).String())
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			_ = peer.SetDeadline(time.Now().Add(patience))
			buf := make([]byte, 1<<16)
			for i := range 3 * batch {
				text := fmt.Sprint("datagram ", i)
				if _, err := peer.Write([]byte(text)); err != nil {
					t.Fatal(err)
				}
				// A connected socket takes answers from the address it asked alone.
				n, err := peer.Read(buf)
				if err != nil || string(buf[:n]) != text {
					t.Fatalf("got %q (%v), want %q", buf[:n], err, text)
				}
			}
		})
	}
}

func TestUDPLargestAndEmptyDatagrams(t *testing.T) {
	l := start(t, Config{})
	addr := udpEcho(t, l, netip.MustParseAddrPort("127.0.0.1:0"))
	peer, err := net.Dial("udp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	_ = peer.SetDeadline(time.Now().Add(patience))
	for _, size := range []int{65507, 0, 1} {
		if _, err := peer.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1<<16)
		if n, err := peer.Read(buf); n != size || err != nil {
			t.Errorf("got %d bytes (%v), want %d", n, err, size)
		}
	}
}

func TestUDPRefused(t *testing.T) {
	l := start(t, Config{})
	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(closed.LocalAddr().String())
	closed.Close()
	told := make(chan error, 8)
	u := new(UDP)
	on(t, l, func() {
		if err := l.DialUDP(u, addr, received(func(err error) {
			if err != nil {
				told <- err
			}
		})); err != nil {
			t.Error(err)
			return
		}
		u.Datagrams().heads[0].len = 1
		if n, err := u.Send(0, 1); n != 1 {
			t.Errorf("send: %v", err)
		}
	})
	if err := <-told; !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("got %v, want that the peer refuses", err)
	}
}

func TestFreeUDP(t *testing.T) {
	fd, err := BindUDP(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*unix.SockaddrInet4).Port))
	if err := FreeUDP(addr); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("while it is bound: got %v", err)
	}
	second, err := BindUDP(addr)
	if err != nil {
		t.Errorf("another loop cannot bind: %v", err)
	}
	unix.Close(fd)
	unix.Close(second)
	if err := FreeUDP(addr); err != nil {
		t.Errorf("after it was closed: got %v", err)
	}
}
