package loop

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

// tlsPeer is a server of one connection at a time, made by crypto/tls; serve has
// the session after its handshake.
func tlsPeer(tb testing.TB, version uint16, serve func(c *tls.Conn)) netip.AddrPort {
	tb.Helper()
	cfg := serverConfig().Clone()
	cfg.MaxVersion = version
	return peerOf(tb, func(raw net.Conn) {
		c := tls.Server(raw, cfg)
		if c.Handshake() == nil && serve != nil {
			serve(c)
		}
		c.Close()
	})
}

// peerOf is a server whose connections serve has.
func peerOf(tb testing.TB, serve func(raw net.Conn)) netip.AddrPort {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { ln.Close() })
	go func() {
		for {
			raw, err := ln.Accept()
			if err != nil {
				return
			}
			_ = raw.SetDeadline(time.Now().Add(patience))
			go serve(raw)
		}
	}()
	return netip.MustParseAddrPort(ln.Addr().String())
}

// dialOut has the loop make a connection under TLS; then is called on the loop
// right after.
func dialOut(tb testing.TB, l *Loop, addr netip.AddrPort, cfg *tls.Config, limits *Handshakes, ready func(c *Conn, r Ready), then func(c *Conn)) *Conn {
	tb.Helper()
	c := new(Conn)
	on(tb, l, func() {
		if err := l.Dial(c, addr, handler(func(r Ready) { ready(c, r) })); err != nil {
			tb.Error(err)
			return
		}
		c.StartTLSClient(cfg, limits)
		if then != nil {
			then(c)
		}
	})
	return c
}

// What is written before the handshake has ended is sent after it, in order, and
// nothing of it before.
func TestTLSClientKeepsWhatComesEarly(t *testing.T) {
	bothVersions(t, func(t *testing.T, version uint16) {
		addr := tlsPeer(t, version, func(c *tls.Conn) { _, _ = io.Copy(c, c) })
		l := start(t, Config{})
		got, stood := make(chan struct{}), false
		var text []byte
		dialOut(t, l, addr, clientConfig(version), NewHandshakes(1, 10), func(c *Conn, r Ready) {
			if !stood {
				stood = true
				if r.Err != nil || !r.Drained || c.Connecting() || c.TLSState() == nil {
					t.Errorf("first told %+v, connecting %v, want Drained on a connection that stands", r, c.Connecting())
				}
				_ = c.Write([]byte(" and late"))
			}
			for {
				n, err := c.Read(l.In)
				if err != nil {
					return // nothing now; the whole of it is waited for
				}
				if text = append(text, l.In[:n]...); string(text) == "early 1 early 2 and late" {
					c.Close()
					close(got)
					return
				}
			}
		}, func(c *Conn) {
			if !c.Connecting() || c.Quiet() {
				t.Error("a connection that is being made looks as if it stood")
			}
			_ = c.Write2([]byte("early 1"), []byte(" early"))
			_ = c.Write([]byte(" 2"))
			if n := c.Buffered(); n != len("early 1 early 2") {
				t.Errorf("%d bytes are kept", n)
			}
		})
		<-got
	})
}

// A server that is not believed gets nothing of what was to be sent.
func TestTLSClientThatDoesNotBelieve(t *testing.T) {
	bothVersions(t, func(t *testing.T, version uint16) {
		got := make(chan string, 1)
		addr := peerOf(t, func(raw net.Conn) {
			cfg := serverConfig().Clone()
			cfg.MaxVersion = version
			c := tls.Server(raw, cfg)
			b, _ := io.ReadAll(c)
			got <- string(b)
			raw.Close()
		})
		l := start(t, Config{})
		told := make(chan error, 2)
		cfg := clientConfig(version)
		cfg.InsecureSkipVerify = false
		dialOut(t, l, addr, cfg, NewHandshakes(1, 10), func(c *Conn, r Ready) {
			told <- r.Err
			c.Close()
		}, func(c *Conn) { _ = c.Write([]byte("secret")) })
		var untrusted *tls.CertificateVerificationError
		if err := <-told; !errors.As(err, &untrusted) {
			t.Errorf("told %v, want that the certificate is not believed", err)
		}
		if b := <-got; b != "" {
			t.Errorf("the server got %q", b)
		}
	})
}

func TestTLSClientEndsOfHandshakes(t *testing.T) {
	files, goroutines := openFiles(t), runtime.NumGoroutine()
	silent := func(t *testing.T) netip.AddrPort {
		t.Helper()
		return peerOf(t, func(raw net.Conn) { _, _ = io.Copy(io.Discard, raw); raw.Close() })
	}
	t.Run("cancelled", func(t *testing.T) {
		l, limits := start(t, Config{}), NewHandshakes(1, 10)
		told := make(chan error, 1)
		c := dialOut(t, l, silent(t), clientConfig(0), limits, func(c *Conn, r Ready) { told <- r.Err; c.Close() }, nil)
		eventually(t, "the handshake has begun", func() (begun bool) {
			on(t, l, func() { begun = c.Shaking() })
			return begun && limits.open.Load() == 1
		})
		on(t, l, c.CancelHandshake)
		var timeout net.Error
		if err := <-told; !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("told %v, want a timeout", err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		l, limits := start(t, Config{}), NewHandshakes(1, 10)
		c := dialOut(t, l, silent(t), clientConfig(0), limits, func(_ *Conn, r Ready) { t.Errorf("told %+v after Close", r) }, func(c *Conn) { _ = c.Write([]byte("early")) })
		eventually(t, "the handshake has begun", func() bool { return limits.open.Load() == 1 })
		on(t, l, c.Close)
		eventually(t, "the handshake has ended", func() bool { return limits.open.Load() == 0 })
	})
	t.Run("too many", func(t *testing.T) {
		l, limits := start(t, Config{}), NewHandshakes(1, 0)
		told := make(chan error, 1)
		dialOut(t, l, silent(t), clientConfig(0), limits, func(c *Conn, r Ready) { told <- r.Err; c.Close() }, nil)
		if err := <-told; !errors.Is(err, ErrBusy) {
			t.Errorf("told %v, want %v", err, ErrBusy)
		}
	})
	t.Run("refused", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := netip.MustParseAddrPort(ln.Addr().String())
		ln.Close()
		l := start(t, Config{})
		told := make(chan error, 1)
		dialOut(t, l, addr, clientConfig(0), NewHandshakes(1, 10), func(c *Conn, r Ready) { told <- r.Err; c.Close() }, nil)
		var lost *LostError
		if err := <-told; !errors.As(err, &lost) || lost.Op != "connect" {
			t.Errorf("told %v, want that it could not connect", err)
		}
	})
	eventually(t, "all descriptors and goroutines are gone", func() bool {
		return openFiles(t) <= files && runtime.NumGoroutine() <= goroutines
	})
}

// A connection whose peer sent nothing but what is TLS's own is quiet; one whose
// peer said something, or said goodbye, is not.
func TestTLSQuiet(t *testing.T) {
	bothVersions(t, func(t *testing.T, version uint16) {
		for _, c := range []struct {
			name string
			say  func(c *tls.Conn)
			want bool
		}{
			{"tickets alone", func(*tls.Conn) {}, true},
			{"a byte", func(c *tls.Conn) { _, _ = c.Write([]byte("x")) }, false},
			{"goodbye", func(c *tls.Conn) { _ = c.CloseWrite() }, false},
			{"a reset", func(c *tls.Conn) {
				raw := c.NetConn().(*net.TCPConn)
				_ = raw.SetLinger(0)
				raw.Close()
			}, false},
		} {
			t.Run(c.name, func(t *testing.T) {
				say, said, end := make(chan struct{}), make(chan struct{}), make(chan struct{})
				defer close(end)
				addr := tlsPeer(t, version, func(conn *tls.Conn) {
					b := make([]byte, 4)
					_, _ = io.ReadFull(conn, b)
					_, _ = conn.Write(b) // by then the client has the tickets too
					<-say
					c.say(conn)
					close(said)
					<-end
				})
				l := start(t, Config{})
				ready := make(chan struct{}, 1)
				n := 0
				conn := dialOut(t, l, addr, clientConfig(version), NewHandshakes(1, 10), func(c *Conn, _ Ready) {
					for n < 4 { // what comes then is left for Quiet to find
						got, err := c.Read(l.In)
						if err != nil {
							return
						}
						if n += got; n >= 4 {
							ready <- struct{}{}
						}
					}
				}, func(c *Conn) { _ = c.Write([]byte("ping")) })
				<-ready
				on(t, l, func() {
					if !conn.Quiet() {
						t.Error("not quiet before anything was said")
					}
				})
				close(say)
				<-said
				eventually(t, "what was said has come", func() bool {
					got := false
					on(t, l, func() { got = conn.Quiet() == c.want })
					return got
				})
				on(t, l, conn.Close)
			})
		}
	})
}

// In cleartext, Quiet leaves what is there where it is.
func TestQuietInCleartext(t *testing.T) {
	l := start(t, Config{})
	c, peer := pair(t, l, func(*Conn, Ready) {})
	on(t, l, func() {
		if !c.Quiet() {
			t.Error("not quiet before anything was said")
		}
	})
	if _, err := peer.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the byte has come", func() (came bool) {
		on(t, l, func() { came = !c.Quiet() })
		return came
	})
	on(t, l, func() {
		c.canRead = true
		if n, err := c.Read(l.In); n != 1 || err != nil {
			t.Errorf("read %d bytes (%v), want the one", n, err)
		}
		c.Close()
	})
}
