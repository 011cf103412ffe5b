package loop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const patience = 10 * time.Second

// eventually waits until cond is true.
func eventually(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			tb.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// start runs a loop until the test ends.
func start(tb testing.TB, cfg Config) *Loop {
	tb.Helper()
	l, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	return l
}

// on runs f on the loop and waits for it.
func on(tb testing.TB, l *Loop, f func()) {
	tb.Helper()
	done := make(chan struct{})
	if err := l.Post(func() { defer close(done); f() }); err != nil {
		tb.Fatal(err)
	}
	<-done
}

// bothWays runs a test with both ways of waiting.
func bothWays(t *testing.T, f func(t *testing.T, cfg Config)) {
	t.Helper()
	t.Run("nested", func(t *testing.T) { f(t, Config{}) })
	t.Run("blocking", func(t *testing.T) { f(t, Config{Blocking: true}) })
}

// handler is a Handler that is a function.
type handler func(Ready)

func (h handler) Ready(r Ready) { h(r) }

// listen has accept called on the loop with each connection to the address that
// is given.
func listen(tb testing.TB, l *Loop, accept func(fd int)) string {
	tb.Helper()
	fd, err := Bind(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		tb.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		tb.Fatal(err)
	}
	on(tb, l, func() {
		if _, err := l.Listen(fd, func(fd int, _ netip.AddrPort) { accept(fd) }, nil); err != nil {
			tb.Error(err)
		}
	})
	return fmt.Sprintf("127.0.0.1:%d", sa.(*unix.SockaddrInet4).Port)
}

func dial(tb testing.TB, addr string) *net.TCPConn {
	tb.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	tb.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// pair is a connection of the loop, not used yet, and its other end.
func pair(tb testing.TB, l *Loop, ready func(c *Conn, r Ready)) (*Conn, *net.TCPConn) {
	tb.Helper()
	conn := make(chan *Conn, 1)
	addr := listen(tb, l, func(fd int) {
		c := new(Conn)
		if err := l.Adopt(c, fd, handler(func(r Ready) { ready(c, r) })); err != nil {
			tb.Error(err)
		}
		conn <- c
	})
	peer := dial(tb, addr)
	return <-conn, peer
}

// echo sends back what it reads, as long as that is taken, and passes the end on.
func echo(c *Conn, r Ready) {
	if r.Err != nil {
		c.Close()
		return
	}
	l := c.Loop()
	for c.Buffered() == 0 {
		n, err := c.Read(l.In)
		if errors.Is(err, ErrAgain) {
			return
		}
		if err == nil {
			err = c.Write(l.In[:n])
		}
		if err != nil {
			c.Close()
			return
		}
	}
}

func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestIdleLoopCostsNothing(t *testing.T) {
	bothWays(t, func(t *testing.T, cfg Config) {
		turns := 0
		cfg.Turn = func(time.Duration) { turns++ }
		l := start(t, cfg)
		_, _ = pair(t, l, echo)
		far := Timer{F: func() {}}
		on(t, l, func() { l.Arm(&far, l.Now()+int64(time.Hour)) })
		var before, after int
		on(t, l, func() { before = turns })
		cpu := cpuTime(t)
		const window = 300 * time.Millisecond
		<-time.NewTimer(window).C
		if used := cpuTime(t) - cpu; used > window/6 {
			t.Errorf("used %v of processor time in %v", used, window)
		}
		on(t, l, func() { after = turns })
		if after-before > 2 { // the two that looked
			t.Errorf("%d turns in %v, want none", after-before-1, window)
		}
	})
}

func TestLoopWakes(t *testing.T) {
	bothWays(t, func(t *testing.T, cfg Config) {
		l := start(t, cfg)
		t.Run("by Post", func(t *testing.T) {
			for range 100 {
				on(t, l, func() {})
			}
		})
		t.Run("by a socket", func(t *testing.T) {
			_, peer := pair(t, l, echo)
			b := make([]byte, 4)
			for range 100 {
				if _, err := io.WriteString(peer, "ping"); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(peer, b); err != nil || string(b) != "ping" {
					t.Fatalf("got %q (%v)", b, err)
				}
			}
		})
		t.Run("by a timer", func(t *testing.T) {
			for _, d := range []time.Duration{0, time.Millisecond, 30 * time.Millisecond} {
				late := make(chan time.Duration, 1)
				timer := Timer{}
				on(t, l, func() {
					when := l.Clock() + int64(d)
					timer.F = func() { late <- time.Duration(l.Clock() - when) }
					l.Arm(&timer, when)
				})
				// Generous, for machines with other things to do.
				if late := <-late; late < 0 || late > time.Second {
					t.Errorf("after %v: %v late", d, late)
				}
			}
		})
		t.Run("by an earlier timer", func(t *testing.T) {
			fired := make(chan string, 2)
			slow, fast := Timer{F: func() { fired <- "slow" }}, Timer{F: func() { fired <- "fast" }}
			on(t, l, func() { l.Arm(&slow, l.Now()+int64(time.Hour)) })
			on(t, l, func() { l.Arm(&fast, l.Now()+int64(10*time.Millisecond)) })
			if got := <-fired; got != "fast" {
				t.Errorf("%s fired first", got)
			}
			on(t, l, func() { l.Stop(&slow) })
		})
	})
}

func TestPost(t *testing.T) {
	bothWays(t, func(t *testing.T, cfg Config) {
		l, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		var wg sync.WaitGroup
		const posters, each = 8, 2000
		sum, accepted := 0, make([]int, posters)
		for i := range posters {
			wg.Go(func() {
				for j := range each {
					if j == each/2 && i == 0 {
						cancel()
					}
					switch err := l.Post(func() { sum++ }); {
					case err == nil:
						accepted[i]++
					case !errors.Is(err, ErrClosed):
						t.Errorf("post: %v", err)
					}
				}
			})
		}
		wg.Wait()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		want := 0
		for _, n := range accepted {
			want += n
		}
		if sum != want {
			t.Errorf("%d functions ran, want the %d that were accepted", sum, want)
		}
		if err := l.Post(func() { t.Error("ran after the end") }); !errors.Is(err, ErrClosed) {
			t.Errorf("after the end: got %v, want ErrClosed", err)
		}
	})
}

func TestPanicCostsOneConnection(t *testing.T) {
	var panics int
	l := start(t, Config{Panicked: func(any) { panics++ }})
	_, bystander := pair(t, l, echo)
	for _, again := range []bool{false, true} {
		c, peer := pair(t, l, func(c *Conn, r Ready) {
			if r.Err != nil && !again {
				c.Close()
				return
			}
			if r.Read {
				if _, err := c.Read(l.In); err == nil || r.Err != nil {
					panic("broken handler")
				}
			}
			if r.Err != nil {
				panic("broken handler, again")
			}
		})
		if _, err := io.WriteString(peer, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(peer); err != nil {
			t.Errorf("the connection did not end: %v", err)
		}
		on(t, l, func() {
			if c.Open() {
				t.Error("the connection is still open")
			}
		})
	}
	on(t, l, func() {
		if panics != 3 {
			t.Errorf("%d panics were told, want 3", panics)
		}
	})
	b := make([]byte, 1)
	_, _ = io.WriteString(bystander, "y")
	if _, err := io.ReadFull(bystander, b); err != nil {
		t.Errorf("another connection suffered: %v", err)
	}
}

func openFiles(tb testing.TB) int {
	tb.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(list)
}

func TestEndClosesWhatIsOpen(t *testing.T) {
	bothWays(t, func(t *testing.T, cfg Config) {
		files, goroutines := openFiles(t), runtime.NumGoroutine()
		ended := make(chan struct{})
		cfg.End = func() { close(ended) }
		l, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		c, peer := pair(t, l, echo)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		<-ended
		if _, err := io.ReadAll(peer); err != nil {
			t.Errorf("the peer saw %v, want the end", err)
		}
		peer.Close()
		if c.Open() {
			t.Error("the connection is open")
		}
		eventually(t, "all descriptors and goroutines are gone", func() bool {
			return openFiles(t) <= files && runtime.NumGoroutine() <= goroutines
		})
	})
}

func TestAcceptGoesOnAfterWantOfDescriptors(t *testing.T) {
	l := start(t, Config{})
	fd, err := Bind(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	full, accepted := make(chan error, 100), make(chan int, 1)
	on(t, l, func() {
		_, err := l.Listen(fd, func(fd int, _ netip.AddrPort) { accepted <- fd }, func(err error) { full <- err })
		if err != nil {
			t.Error(err)
		}
	})
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(sock)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: limit.Max}); err != nil {
		t.Skip(err)
	}
	restore := func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	}
	defer restore()
	if err := unix.Connect(sock, sa); err != nil {
		t.Fatal(err)
	}
	if err := <-full; !errors.Is(err, unix.EMFILE) {
		t.Errorf("told %v, want EMFILE", err)
	}
	restore()
	unix.Close(<-accepted)
}

func TestBuffers(t *testing.T) {
	var b Buffers
	var p []byte
	want := ""
	for i := range 3000 {
		piece := fmt.Sprintf("%d,", i*i)
		p = b.Append(p, []byte(piece))
		want += piece
	}
	if string(p) != want {
		t.Error("what was appended is not what is there")
	}
	b.Give(p)
	b.Give(nil)
	seen := map[*byte]bool{}
	for range 500 {
		b.Give(make([]byte, 10, 4<<10))
	}
	for range 500 {
		p := b.Take(1)
		if len(p) != 0 || cap(p) < 1 {
			t.Fatalf("got %d of %d bytes, want an empty buffer", len(p), cap(p))
		}
		if first := &p[:1][0]; seen[first] {
			t.Fatal("one buffer was given to two")
		} else {
			seen[first] = true
		}
	}
	if got := cap(b.Take(100_000)); got < 100_000 {
		t.Errorf("got room for %d bytes, want 100000", got)
	}
}
