package loop

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestEchoWithBackPressure(t *testing.T) {
	bothWays(t, func(t *testing.T, cfg Config) {
		l := start(t, cfg)
		most := 0
		_, peer := pair(t, l, func(c *Conn, r Ready) {
			echo(c, r)
			most = max(most, c.Buffered())
		})
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
		go func() {
			if _, err := peer.Write(data); err != nil {
				t.Error(err)
			}
			_ = peer.CloseWrite()
		}()
		// Everything that fits the sockets moves before the first read.
		var got bytes.Buffer
		if _, err := io.Copy(&got, peer); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), data) {
			t.Errorf("got %d bytes back that are not the %d sent", got.Len(), len(data))
		}
		on(t, l, func() {
			if most > 64<<10 {
				t.Errorf("kept %d bytes for a slow reader, want at most one read", most)
			}
		})
	})
}

func TestHalfClose(t *testing.T) {
	l := start(t, Config{})
	_, peer := pair(t, l, func(c *Conn, r Ready) {
		for {
			_, err := c.Read(l.In)
			if errors.Is(err, ErrAgain) {
				return
			}
			if errors.Is(err, io.EOF) {
				if !c.Hangup() || !c.Ended() {
					t.Error("the end was read, but hangup and ended are not both true")
				}
				_ = c.Write([]byte("bye"))
				c.CloseWrite()
				c.Close()
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	_, _ = io.WriteString(peer, "hello")
	_ = peer.CloseWrite()
	if got, err := io.ReadAll(peer); string(got) != "bye" || err != nil {
		t.Errorf("got %q (%v), want bye", got, err)
	}
}

// What came before a reset can be read, then the reset is told.
func TestResetBehindData(t *testing.T) {
	l := start(t, Config{})
	lost := make(chan error, 1)
	_, peer := pair(t, l, func(c *Conn, r Ready) {
		if r.Err == nil {
			return // leaves the data where it is
		}
		n, err := c.Read(l.In)
		if string(l.In[:n]) != "data" || err != nil {
			t.Errorf("got %q (%v), want data", l.In[:n], err)
		}
		_, err = c.Read(l.In)
		if werr := c.Write([]byte("x")); werr == nil {
			t.Error("a write after the reset is no error")
		}
		c.Close()
		lost <- err
	})
	_, _ = io.WriteString(peer, "data")
	_ = peer.SetLinger(0)
	peer.Close()
	if err := <-lost; !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("got %v, want ECONNRESET", err)
	}
}

func TestDial(t *testing.T) {
	bothWays(t, func(t *testing.T, cfg Config) {
		l := start(t, cfg)
		addr := listen(t, l, func(fd int) {
			c := new(Conn)
			if err := l.Adopt(c, fd, handler(func(r Ready) { echo(c, r) })); err != nil {
				t.Error(err)
			}
		})
		t.Run("writes before the connection stands", func(t *testing.T) {
			got := make(chan string, 1)
			c := new(Conn)
			on(t, l, func() {
				var text []byte
				err := l.Dial(c, netip.MustParseAddrPort(addr), handler(func(r Ready) {
					if r.Err != nil {
						t.Error(r.Err)
					}
					n, err := c.Read(l.In)
					if err == nil {
						text = append(text, l.In[:n]...)
					}
					if string(text) == "hello" {
						got <- string(text)
						c.Close()
					}
				}))
				if err != nil {
					t.Error(err)
				}
				if !c.Connecting() {
					t.Error("the connection stands already")
				}
				_ = c.Write([]byte("he"))
				_ = c.Write2([]byte("l"), []byte("lo"))
			})
			if s := <-got; s != "hello" {
				t.Errorf("got %q, want hello", s)
			}
		})
		t.Run("refused", func(t *testing.T) {
			fd, err := Bind(netip.MustParseAddrPort("127.0.0.1:0"))
			if err != nil {
				t.Fatal(err)
			}
			sa, _ := unix.Getsockname(fd)
			unix.Close(fd)
			refused := make(chan error, 1)
			c := new(Conn)
			on(t, l, func() {
				addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sa.(*unix.SockaddrInet4).Port))
				if err := l.Dial(c, addr, handler(func(r Ready) { c.Close(); refused <- r.Err })); err != nil {
					refused <- err
				}
			})
			var lost *LostError
			if err := <-refused; !errors.Is(err, unix.ECONNREFUSED) || errors.As(err, &lost) && lost.Op != "connect" {
				t.Errorf("got %v, want connect: refused", err)
			}
		})
	})
}

// An event of a connection that was closed in the same turn does not reach the
// one that has its place.
func TestEventsDoNotReachASuccessor(t *testing.T) {
	l := start(t, Config{})
	var a, b, next Conn
	var closedAt, calledAt int64
	done := make(chan struct{})
	pipe := func() (int, int) {
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(p[1]) })
		return p[0], p[1]
	}
	fdNext, _ := pipe()
	successor := handler(func(Ready) {
		if calledAt == 0 {
			calledAt = l.Now()
			close(done)
		}
	})
	// Whoever is called first closes the other and puts the successor there.
	replace := func(other *Conn) {
		if closedAt != 0 || !other.Open() {
			return
		}
		closedAt = l.Now()
		id := other.id
		other.Close()
		if err := l.Adopt(&next, fdNext, successor); err != nil {
			t.Error(err)
		}
		if next.id != id {
			t.Errorf("the successor has slot %d, want %d", next.id, id)
		}
	}
	on(t, l, func() {
		fdA, peerA := pipe()
		fdB, peerB := pipe()
		_, _ = unix.Write(peerA, []byte("x"))
		_, _ = unix.Write(peerB, []byte("x"))
		for _, c := range []struct {
			c, other *Conn
			fd       int
		}{{&a, &b, fdA}, {&b, &a, fdB}} {
			if err := l.Adopt(c.c, c.fd, handler(func(Ready) { replace(c.other) })); err != nil {
				t.Error(err)
			}
		}
	})
	<-done
	on(t, l, func() {
		if calledAt == closedAt {
			t.Error("the successor was called in the turn of its predecessor's event")
		}
		a.Close()
		b.Close()
		next.Close()
	})
}

func TestAgain(t *testing.T) {
	l := start(t, Config{})
	var turns []int64
	text := ""
	_, peer := pair(t, l, func(c *Conn, r Ready) {
		n, err := c.Read(l.In[:1])
		if err != nil {
			if errors.Is(err, io.EOF) {
				c.Close()
			}
			return
		}
		turns = append(turns, l.Now())
		text += string(l.In[:n])
		c.Again()
		c.Again() // once is enough
	})
	_, _ = io.WriteString(peer, "abcdef")
	eventually(t, "all is read, a byte at a time", func() bool {
		all := false
		on(t, l, func() { all = text == "abcdef" })
		return all
	})
	on(t, l, func() {
		for i := 2; i < len(turns); i++ {
			if turns[i] == turns[i-2] {
				t.Error("more than two shares in one turn")
			}
		}
	})
}

func TestSilent(t *testing.T) {
	l := start(t, Config{})
	c, peer := pair(t, l, func(*Conn, Ready) {})
	silent := func() (yes bool) {
		on(t, l, func() { yes = c.Silent() })
		return yes
	}
	if !silent() {
		t.Error("a connection on which nothing was said is not silent")
	}
	_, _ = io.WriteString(peer, "x")
	eventually(t, "a byte is noticed", func() bool { return !silent() })
	on(t, l, func() {
		c.canRead = true
		_, _ = c.Read(l.In)
	})
	if !silent() {
		t.Error("a connection that was read to the end is not silent")
	}
	peer.Close()
	eventually(t, "the end is noticed", func() bool { return !silent() })
}

func TestFreeTellsOfASocketThatShares(t *testing.T) {
	fd, err := Bind(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*unix.SockaddrInet4).Port))
	if err := Free(addr); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("while somebody listens: %v", err)
	}
	second, err := Bind(addr)
	if err != nil {
		t.Errorf("a second of ours: %v", err)
	}
	unix.Close(second)
	unix.Close(fd)
	if err := Free(addr); err != nil {
		t.Errorf("when nobody listens: %v", err)
	}
}
