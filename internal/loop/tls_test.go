package loop

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// These tests hold every Go release to what the loop needs of crypto/tls: a
// session stays usable across temporary errors of its transport, wherever the
// bytes stop.

var serverConfig = sync.OnceValue(func() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"x"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return &tls.Config{
		Certificates:                []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		DynamicRecordSizingDisabled: true,
	}
})

func clientConfig(version uint16) *tls.Config {
	return &tls.Config{ServerName: "x", InsecureSkipVerify: true, MaxVersion: version}
}

func bothVersions(t *testing.T, f func(t *testing.T, version uint16)) {
	t.Helper()
	t.Run("TLS 1.2", func(t *testing.T) { f(t, tls.VersionTLS12) })
	t.Run("TLS 1.3", func(t *testing.T) { f(t, tls.VersionTLS13) })
}

// serveTLS gives an address whose connections are under TLS; ready is called
// with everything that happens on them.
func serveTLS(tb testing.TB, l *Loop, limits *Handshakes, ready func(c *Conn, r Ready)) string {
	tb.Helper()
	cfg := serverConfig()
	return listen(tb, l, func(fd int) {
		c := new(Conn)
		if err := l.Adopt(c, fd, handler(func(r Ready) { ready(c, r) })); err != nil {
			tb.Error(err)
			return
		}
		c.StartTLS(cfg, limits)
	})
}

// dripping writes its first bytes, up to at, apart from the rest of a write.
type dripping struct {
	*net.TCPConn
	at func(n int) int // of a write of n bytes
}

func (d *dripping) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n := d.at(len(p) - done)
		if n <= 0 || n > len(p)-done {
			n = len(p) - done
		}
		if _, err := d.TCPConn.Write(p[done : done+n]); err != nil {
			return done, err
		}
		done += n
		runtime.Gosched()
	}
	return done, nil
}

func TestTLSRecordsSplitAnywhere(t *testing.T) {
	bothVersions(t, func(t *testing.T, version uint16) {
		l := start(t, Config{})
		limits := NewHandshakes(2, 100)
		addr := serveTLS(t, l, limits, echo)
		raw := &dripping{dial(t, addr), func(n int) int { return 0 }}
		client := tls.Client(raw, clientConfig(version))
		if err := client.Handshake(); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 64)
		for split := 1; split < 5+16+8+10; split++ {
			first := true
			raw.at = func(int) int {
				if !first {
					return 0
				}
				first = false
				return split
			}
			text := fmt.Sprintf("message %02d", split)
			if _, err := client.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
			if n, err := io.ReadFull(client, b[:len(text)]); err != nil || string(b[:n]) != text {
				t.Fatalf("split at %d: got %q (%v), want %q", split, b[:n], err, text)
			}
		}
		// Byte by byte, and the goodbye too.
		raw.at = func(int) int { return 1 }
		if _, err := client.Write([]byte("slowly")); err != nil {
			t.Fatal(err)
		}
		if err := client.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if all, err := io.ReadAll(client); string(all) != "slowly" || err != nil {
			t.Errorf("got %q (%v), want %q and a clean end", all, err, "slowly")
		}
	})
}

func TestTLSHandshakeByteByByte(t *testing.T) {
	bothVersions(t, func(t *testing.T, version uint16) {
		l := start(t, Config{})
		addr := serveTLS(t, l, NewHandshakes(1, 100), echo)
		client := tls.Client(&dripping{dial(t, addr), func(int) int { return 1 }}, clientConfig(version))
		_, _ = io.WriteString(client, "hello")
		b := make([]byte, 5)
		if _, err := io.ReadFull(client, b); err != nil || string(b) != "hello" {
			t.Errorf("got %q (%v), want hello", b, err)
		}
	})
}

// Several small records may arrive, and be taken off the socket, at once.
func TestTLSRecordsTogether(t *testing.T) {
	bothVersions(t, func(t *testing.T, version uint16) {
		l := start(t, Config{})
		text := ""
		addr := serveTLS(t, l, NewHandshakes(1, 100), func(c *Conn, r Ready) {
			// One read a call, as a handler does that has something else to wait for.
			n, err := c.Read(l.In)
			if err == nil {
				text += string(l.In[:n])
				if c.Readable() {
					c.Again()
				}
			}
			if len(text) == 100 {
				_ = c.Write([]byte(text))
				c.Close()
			}
		})
		raw := &gathering{TCPConn: dial(t, addr)}
		client := tls.Client(raw, clientConfig(version))
		if err := client.Handshake(); err != nil {
			t.Fatal(err)
		}
		raw.hold = true
		want := ""
		for i := range 50 {
			piece := fmt.Sprintf("%02d", i)
			want += piece
			_, _ = io.WriteString(client, piece)
		}
		raw.hold = false
		if _, err := raw.Write(nil); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(client); string(got) != want || err != nil {
			t.Errorf("got %q (%v), want %q", got, err, want)
		}
	})
}

// gathering sends what it held with the next write.
type gathering struct {
	*net.TCPConn
	hold bool
	held []byte
}

func (g *gathering) Write(p []byte) (int, error) {
	g.held = append(g.held, p...)
	if g.hold {
		return len(p), nil
	}
	_, err := g.TCPConn.Write(g.held)
	g.held = nil
	return len(p), err
}

func TestTLSKeyUpdate(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip(err)
	}
	l := start(t, Config{})
	addr := serveTLS(t, l, NewHandshakes(1, 100), echo)
	cmd := exec.CommandContext(t.Context(), openssl, "s_client", "-connect", addr, "-tls1_3")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout // where it tells of key updates
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	watch := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer watch.Stop()
	var seen bytes.Buffer
	until := func(text string) {
		t.Helper()
		b := make([]byte, 4096)
		for !bytes.Contains(seen.Bytes(), []byte(text)) {
			n, err := out.Read(b)
			seen.Write(b[:n])
			if err != nil {
				t.Fatalf("no %q in what s_client says: %v, %q", text, err, seen.Bytes())
			}
		}
		seen.Reset()
	}
	until("---\n")
	for i := range 5 {
		text := fmt.Sprintf("round-%d", i)
		_, _ = io.WriteString(in, "K\n") // a key update, and a demand for one
		until("KEYUPDATE")
		_, _ = io.WriteString(in, text+"\n")
		until(text)
		_, _ = io.WriteString(in, "k\n") // a key update alone
		until("KEYUPDATE")
	}
	in.Close()
	_ = cmd.Wait()
}

func TestTLSLargeWriteToAStalledReader(t *testing.T) {
	bothVersions(t, func(t *testing.T, version uint16) {
		l := start(t, Config{})
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
		drained := make(chan bool, 1)
		kept := make(chan int, 1)
		written := false
		addr := serveTLS(t, l, NewHandshakes(1, 100), func(c *Conn, r Ready) {
			switch {
			case r.Err != nil:
				c.Close()
			case !written:
				written = true
				if err := c.Write2(data[:1<<20], data[1<<20:]); err != nil {
					t.Error(err)
				}
				kept <- c.Buffered()
			case r.Drained:
				drained <- c.Buffered() == 0
				c.Close()
			}
		})
		raw := dial(t, addr)
		// Kernels differ in how much they take for a reader that does not read.
		if err := raw.SetReadBuffer(64 << 10); err != nil {
			t.Fatal(err)
		}
		client := tls.Client(raw, clientConfig(version))
		if err := client.Handshake(); err != nil {
			t.Fatal(err)
		}
		if n := <-kept; n == 0 {
			t.Fatal("nothing was kept of 16 MiB for a reader that does not read")
		}
		got, err := io.ReadAll(client)
		if !bytes.Equal(got, data) || err != nil {
			t.Errorf("got %d bytes (%v), want the %d written and a clean end", len(got), err, len(data))
		}
		if !<-drained {
			t.Error("drained was told with bytes left")
		}
	})
}

// A client's alert is an error of Read; without its goodbye the end is none.
func TestTLSEnds(t *testing.T) {
	bothVersions(t, func(t *testing.T, version uint16) {
		for _, c := range []struct {
			name  string
			leave func(raw *net.TCPConn, client *tls.Conn)
			clean bool
		}{
			{"goodbye", func(_ *net.TCPConn, client *tls.Conn) { client.Close() }, true},
			{"cut off within a record", func(raw *net.TCPConn, _ *tls.Conn) { _, _ = raw.Write([]byte{23, 3, 3, 0, 50, 1}); raw.Close() }, false},
			{"reset", func(raw *net.TCPConn, _ *tls.Conn) { _ = raw.SetLinger(0); raw.Close() }, false},
			{"garbage", func(raw *net.TCPConn, _ *tls.Conn) { _, _ = raw.Write([]byte("GET / HTTP/1.1\r\n\r\n")) }, false},
			{"a record that is not authentic", func(raw *net.TCPConn, _ *tls.Conn) {
				_, _ = raw.Write(append([]byte{23, 3, 3, 0, 50}, make([]byte, 50)...))
			}, false},
		} {
			t.Run(c.name, func(t *testing.T) {
				l := start(t, Config{})
				end := make(chan error, 1)
				addr := serveTLS(t, l, NewHandshakes(1, 100), func(c *Conn, r Ready) {
					for {
						_, err := c.Read(l.In)
						if errors.Is(err, ErrAgain) {
							return
						}
						if err != nil {
							_, again := c.Read(l.In)
							if again == nil || errors.Is(again, ErrAgain) {
								t.Errorf("a read after %v gives %v", err, again)
							}
							c.Close()
							end <- err
							return
						}
					}
				})
				raw := dial(t, addr)
				client := tls.Client(raw, clientConfig(version))
				_, _ = io.WriteString(client, "x")
				c.leave(raw, client)
				if err := <-end; errors.Is(err, io.EOF) != c.clean {
					t.Errorf("got %v, want a clean end=%v", err, c.clean)
				}
			})
		}
	})
}

func TestTLSHandshakesThatFail(t *testing.T) {
	files, goroutines := openFiles(t), runtime.NumGoroutine()
	t.Run("cases", func(t *testing.T) {
		for _, c := range []struct {
			name    string
			client  func(raw *net.TCPConn)
			cancel  bool
			timeout bool
		}{
			{"nothing is said", func(*net.TCPConn) {}, true, true},
			{"half a hello", func(raw *net.TCPConn) { _, _ = raw.Write([]byte{22, 3, 1, 1, 0, 1}) }, true, true},
			{"the client vanishes", func(raw *net.TCPConn) { _, _ = raw.Write([]byte{22, 3, 1, 1, 0, 1}); raw.Close() }, false, false},
			{"the client resets", func(raw *net.TCPConn) { _, _ = raw.Write([]byte{22, 3, 1, 1, 0, 1}); _ = raw.SetLinger(0); raw.Close() }, false, false},
			{"garbage", func(raw *net.TCPConn) { _, _ = raw.Write([]byte("GET / HTTP/1.1\r\nhost: x\r\n\r\n")) }, false, false},
			{"an old version", func(raw *net.TCPConn) {
				go func() {
					_ = tls.Client(raw, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10, InsecureSkipVerify: true}).Handshake()
				}()
			}, false, false},
			{"the client stops behind the server's hello", func(raw *net.TCPConn) {
				client := tls.Client(&stopping{raw}, clientConfig(tls.VersionTLS13))
				go func() { _ = client.Handshake() }()
			}, true, true},
		} {
			t.Run(c.name, func(t *testing.T) {
				l := start(t, Config{})
				failed := make(chan error, 1)
				conn := make(chan *Conn, 1)
				timer := Timer{}
				cfg := serverConfig().Clone()
				cfg.MinVersion = tls.VersionTLS12
				addr := listen(t, l, func(fd int) {
					s := new(Conn)
					if err := l.Adopt(s, fd, handler(func(r Ready) {
						if r.Err == nil {
							t.Error("the handshake ended well")
						}
						s.Close()
						failed <- r.Err
					})); err != nil {
						t.Error(err)
					}
					s.StartTLS(cfg, NewHandshakes(1, 10))
					if c.cancel {
						timer.F = s.CancelHandshake
						l.Arm(&timer, l.Now()+int64(50*time.Millisecond))
					}
					conn <- s
				})
				raw := dial(t, addr)
				c.client(raw)
				err := <-failed
				var timeout net.Error
				if got := errors.As(err, &timeout) && timeout.Timeout(); got != c.timeout {
					t.Errorf("got %v, want a timeout=%v", err, c.timeout)
				}
				on(t, l, func() {
					if s := <-conn; s.Open() {
						t.Error("the connection is open")
					}
				})
			})
		}
	})
	eventually(t, "all descriptors and goroutines are gone", func() bool {
		return openFiles(t) <= files && runtime.NumGoroutine() <= goroutines
	})
}

// stopping sends one record and swallows what follows.
type stopping struct{ *net.TCPConn }

func (s *stopping) Write(p []byte) (int, error) {
	if len(p) > 200 {
		return s.TCPConn.Write(p)
	}
	return len(p), nil
}

func TestTLSCloseWithinHandshake(t *testing.T) {
	files, goroutines := openFiles(t), runtime.NumGoroutine()
	t.Run("close", func(t *testing.T) {
		l := start(t, Config{})
		limits := NewHandshakes(1, 100)
		conns := make(chan *Conn, 50)
		cfg := serverConfig()
		addr := listen(t, l, func(fd int) {
			c := new(Conn)
			if err := l.Adopt(c, fd, handler(func(r Ready) { t.Errorf("called with %+v after Close", r) })); err != nil {
				t.Error(err)
			}
			c.StartTLS(cfg, limits)
			conns <- c
		})
		for range cap(conns) {
			raw := dial(t, addr)
			_, _ = raw.Write([]byte{22, 3, 1, 1, 0, 1})
		}
		eventually(t, "all handshakes have begun", func() bool { return limits.open.Load() == 50 })
		on(t, l, func() {
			for range cap(conns) {
				c := <-conns
				c.Close()
				c.Close()
			}
		})
		eventually(t, "all handshakes have ended", func() bool { return limits.open.Load() == 0 })
	})
	t.Run("end of the loop", func(t *testing.T) {
		l := start(t, Config{})
		addr := serveTLS(t, l, NewHandshakes(1, 100), func(*Conn, Ready) {})
		for range 20 {
			_, _ = dial(t, addr).Write([]byte{22, 3, 1, 1, 0, 1})
		}
	})
	eventually(t, "all descriptors and goroutines are gone", func() bool {
		return openFiles(t) <= files && runtime.NumGoroutine() <= goroutines
	})
}

func TestTLSManyHandshakes(t *testing.T) {
	l := start(t, Config{})
	var refused atomic.Int64
	limits := NewHandshakes(1, 1000)
	addr := serveTLS(t, l, limits, func(c *Conn, r Ready) {
		if r.Err != nil {
			refused.Add(1)
		}
		echo(c, r)
	})
	// A client that stops must not hold the one token.
	_, _ = dial(t, addr).Write([]byte{22, 3, 1, 1, 0, 1})
	var wg sync.WaitGroup
	for range 64 {
		raw := dial(t, addr)
		wg.Go(func() {
			client := tls.Client(raw, clientConfig(tls.VersionTLS13))
			defer client.Close()
			_, _ = io.WriteString(client, "hello")
			b := make([]byte, 5)
			if _, err := io.ReadFull(client, b); err != nil {
				t.Error(err)
			}
			if curve := client.ConnectionState().CurveID; curve != tls.X25519MLKEM768 {
				t.Errorf("key exchange: got %v, want X25519MLKEM768", curve)
			}
		})
	}
	wg.Wait()
	if n := refused.Load(); n != 0 {
		t.Errorf("%d handshakes failed", n)
	}
}

// Who begins handshakes and ends none does not keep others out.
func TestTLSTooManyHandshakes(t *testing.T) {
	l := start(t, Config{})
	errs := make(chan error, 10)
	limits := NewHandshakes(1, 2)
	addr := serveTLS(t, l, limits, func(c *Conn, r Ready) {
		if r.Err != nil {
			c.Close()
		}
		errs <- r.Err
	})
	for i := range int64(2) {
		_, _ = dial(t, addr).Write([]byte{22, 3, 1, 1, 0, 1})
		eventually(t, "it waits for its client", func() bool {
			limits.mu.Lock()
			defer limits.mu.Unlock()
			last := limits.age.Back()
			return limits.open.Load() == i+1 && last != nil && last.Value.(*session).waits
		})
	}
	limits.mu.Lock()
	oldest := limits.age.Front()
	limits.mu.Unlock()
	if err := tls.Client(dial(t, addr), clientConfig(tls.VersionTLS13)).Handshake(); err != nil {
		t.Fatalf("handshake while others wait: %v", err)
	}
	if err := <-errs; !errors.Is(err, ErrBusy) {
		t.Errorf("the one that gave way got %v, want ErrBusy", err)
	}
	limits.mu.Lock()
	defer limits.mu.Unlock()
	if oldest.Value.(*session).place != nil || limits.age.Len() > 2 {
		t.Errorf("%d handshakes are open, and the oldest is one of them", limits.age.Len())
	}
}

// Nothing gives way that does not wait for its client.
func TestTLSHandshakesThatComputeStay(t *testing.T) {
	limits := NewHandshakes(1, 1)
	first, second := &session{limits: limits}, &session{limits: limits}
	if !limits.begin(first) {
		t.Fatal("the first was refused")
	}
	if limits.begin(second) {
		t.Error("the second came in")
	}
	limits.end(first)
	if !limits.begin(second) {
		t.Error("the second was refused although the first had ended")
	}
}

func TestTLSSessionsResume(t *testing.T) {
	bothVersions(t, func(t *testing.T, version uint16) {
		l := start(t, Config{})
		resumed := make(chan bool, 1)
		addr := serveTLS(t, l, NewHandshakes(1, 10), func(c *Conn, r Ready) {
			if r.Drained && c.TLSState() != nil {
				select {
				case resumed <- c.TLSState().DidResume:
				default:
				}
			}
			echo(c, r)
		})
		cfg := clientConfig(version)
		cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		for i := range 3 {
			client := tls.Client(dial(t, addr), cfg)
			_, _ = io.WriteString(client, "hello")
			b := make([]byte, 5)
			if _, err := io.ReadFull(client, b); err != nil { // the ticket came before
				t.Fatal(err)
			}
			if got, want := client.ConnectionState().DidResume, i > 0; got != want || <-resumed != want {
				t.Errorf("connection %d: resumed=%v, want %v", i, got, want)
			}
			client.Close()
		}
	})
}

// Reset must not end with a goodbye, which would look like a clean end.
func TestTLSReset(t *testing.T) {
	l := start(t, Config{})
	addr := serveTLS(t, l, NewHandshakes(1, 10), func(c *Conn, r Ready) {
		if n, err := c.Read(l.In); err == nil {
			_ = c.Write(l.In[:n])
			c.Reset()
		}
	})
	client := tls.Client(dial(t, addr), clientConfig(tls.VersionTLS13))
	_, _ = io.WriteString(client, "hello")
	if got, err := io.ReadAll(client); err == nil {
		t.Errorf("got %q and a clean end, want an error", got)
	}
}
