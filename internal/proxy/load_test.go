package proxy_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"windrose.dev/windrose/internal/plan"
)

// crowd is clients that ask again and again on connections that stay.
type crowd struct {
	wg     sync.WaitGroup
	stop   chan struct{}
	asked  atomic.Int64
	failed atomic.Int64
	first  atomic.Pointer[string] // failure
}

// gather starts n clients. Each asks until the crowd leaves, on a connection
// that it opens again when the gateway asks it to.
func gather(n int, addr, request string) *crowd {
	c := &crowd{stop: make(chan struct{})}
	for range n {
		c.wg.Go(func() {
			for c.keepAsking(addr, request) {
			}
		})
	}
	return c
}

// keepAsking asks on one connection; it says whether to go on with another.
func (c *crowd) keepAsking(addr, request string) bool {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		c.fail("connect: " + err.Error())
		return false
	}
	defer conn.Close()
	p := bufio.NewReader(conn)
	for {
		select {
		case <-c.stop:
			return false
		default:
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(conn, request); err != nil {
			c.fail("send: " + err.Error())
			return false
		}
		resp, err := http.ReadResponse(p, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
		}
		if err != nil {
			c.fail("read: " + err.Error())
			return false
		}
		c.asked.Add(1)
		if resp.StatusCode != 200 {
			c.fail(resp.Status + " " + resp.Header.Get("X-Windrose-Fault"))
		}
		if resp.Close {
			return true
		}
	}
}

func (c *crowd) fail(text string) {
	c.failed.Add(1)
	c.first.CompareAndSwap(nil, &text)
}

// leave ends the crowd and wants that nobody had to complain.
func (c *crowd) leave(tb testing.TB) {
	tb.Helper()
	close(c.stop)
	c.wg.Wait()
	if n := c.failed.Load(); n > 0 {
		tb.Errorf("%d of %d requests failed, the first: %s", n, c.asked.Load(), *c.first.Load())
	}
	if c.asked.Load() == 0 {
		tb.Error("nobody asked anything")
	}
}

func seconds(n int) time.Duration {
	if testing.Short() {
		return 200 * time.Millisecond
	}
	return time.Duration(n) * time.Second
}

func TestPlanChangesUnderLoad(t *testing.T) {
	backends := make([]string, 4)
	for i := range backends {
		backends[i] = answering(t, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
	}
	g := start(t, 2, to(backends[0])...)
	c := gather(8, g.addr, "GET / HTTP/1.1\r\nhost: x\r\n\r\n")
	end := time.Now().Add(seconds(2))
	for i := 0; time.Now().Before(end); i++ {
		switch i % 4 {
		case 0:
			g.use(service("s", backends[i%3], backends[i%3+1]))
		case 1:
			g.use(service("s", backends[(i/4)%4]))
		case 2:
			g.use(route(fmt.Sprintf("other%d", i%7), all(plan.Backend{Service: "s", Weight: 1})))
			g.use(route("r", all(plan.Backend{Service: "s", Weight: 1}, plan.Backend{Service: "t", Weight: int32(i % 3)})), service("t", backends[3]))
		case 3:
			g.drop(plan.KindRoute, fmt.Sprintf("other%d", (i-1)%7))
		}
	}
	c.leave(t)
	g.wantLines(int(c.asked.Load()))
}

// The split is exact in each hundred requests, whichever loop they came in on
// and whatever changes meanwhile.
func TestSplitIsExact(t *testing.T) {
	var canary atomic.Int64
	stable := answering(t, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
	other := answering(t, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
	b := endpoint(t, func(p *peer) {
		for {
			if req, _ := p.request(); req == nil {
				return
			}
			canary.Add(1)
			p.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
		}
	})
	split := func(route string) plan.Part {
		return plan.Part{Key: plan.Key{Kind: plan.KindRoute, Name: route}, Route: &plan.Route{
			Attach: []plan.Attachment{{Listener: "l"}},
			Rules:  []plan.Rule{all(plan.Backend{Service: "stable", Weight: 99}, plan.Backend{Service: "canary", Weight: 1})},
		}}
	}
	g := start(t, 2, split("r"), service("stable", stable), service("canary", b))
	const clients, windows = 10, 12
	for window := range windows {
		var wg sync.WaitGroup
		for range clients {
			p := g.dial()
			wg.Go(func() {
				for range 100 / clients {
					p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
					if resp, _ := p.answer("GET"); resp.StatusCode != 200 {
						t.Errorf("got %d, want 200", resp.StatusCode)
					}
				}
				p.Close()
			})
		}
		// The counters outlive what changes here.
		g.use(service("stable", stable, other), service("new", other), split("unrelated"))
		g.use(service("stable", stable))
		wg.Wait()
		if got := canary.Load(); got != int64(window+1) {
			t.Fatalf("after %d requests the canary had %d, want %d", (window+1)*100, got, window+1)
		}
	}
}

func TestRemovedSocketDrains(t *testing.T) {
	t.Parallel()
	came, answer := make(chan struct{}), make(chan struct{})
	b := endpoint(t, func(p *peer) {
		p.head()
		close(came)
		<-answer
		p.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
	})
	g := start(t, 2, to(b)...)
	p := g.dial()
	p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
	<-came
	idle := g.dial()
	eventually(t, "both clients are connected", func() bool { return g.proxy.Connections() == 2 })
	g.drop(plan.KindSocket, "tcp/"+g.addr)
	if c, err := net.Dial("tcp", g.addr); err == nil {
		c.Close()
		t.Error("the socket still accepts connections")
	}
	close(answer)
	resp, body := p.answer("GET")
	if body != "ok" {
		t.Errorf("the request in flight got %d %q, want its answer", resp.StatusCode, body)
	}
	if rest := p.rest(); rest != "" {
		t.Errorf("got %q behind the answer", rest)
	}
	if rest := idle.rest(); rest != "" {
		t.Errorf("an idle connection got %q, want its end", rest)
	}
}

func TestDrainUnderLoad(t *testing.T) {
	b := answering(t, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
	g := start(t, 2, to(b)...)
	c := gather(8, g.addr, "GET / HTTP/1.1\r\nhost: x\r\n\r\n")
	eventually(t, "the crowd asks", func() bool { return c.asked.Load() > 500 })
	before := time.Now()
	g.proxy.Drain(t.Context())
	if d := time.Since(before); d > 5*time.Second {
		t.Errorf("drain took %v although requests are short", d)
	}
	// Connections end with an answer that says so; only then are new ones refused.
	close(c.stop)
	c.wg.Wait()
	if first := c.first.Load(); c.failed.Load() > 0 && !strings.HasPrefix(*first, "connect: ") {
		t.Errorf("%d requests failed, the first: %s", c.failed.Load(), *first)
	}
	if n := g.proxy.Connections(); n != 0 {
		t.Errorf("%d connections are left after the drain", n)
	}
}

func TestRecordsOutliveTheLoop(t *testing.T) {
	came := make(chan struct{})
	g := start(t, 1, to(endpoint(t, func(p *peer) { p.head(); close(came); _, _ = io.Copy(io.Discard, p.r) }))...)
	p := g.dial()
	p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
	<-came
	g.cancel()
	if resp, _ := p.answer("GET"); resp.StatusCode != 503 || resp.Header.Get("X-Windrose-Fault") != "draining" {
		t.Errorf("got %d %q, want 503 draining", resp.StatusCode, resp.Header.Get("X-Windrose-Fault"))
	}
	if l := g.wantLines(1)[0]; l.Fault != "draining" {
		t.Errorf("record: got %+v, want draining", l)
	}
}

func TestMaxConnections(t *testing.T) {
	release := make(chan struct{})
	slow := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-release
		}
		fmt.Fprint(w, "ok")
	})
	g := start(t, 1, append(to(slow), settings(plan.Settings{MaxConnections: 3}))...)
	ask := func(path string) *peer {
		p := g.dial()
		p.send("GET " + path + " HTTP/1.1\r\nhost: x\r\n\r\n")
		return p
	}
	busy := []*peer{ask("/slow"), ask("/slow")}
	eventually(t, "two requests are under way", func() bool { return g.metric("windrose_requests_active") == 2 })
	idle := ask("/")
	idle.answer("GET")

	// One that waits for its client makes room for one that asks.
	next := ask("/")
	next.answer("GET")
	if _, err := idle.r.ReadByte(); err == nil {
		t.Error("the connection that made room is still there")
	}
	// One with a request does not.
	third := g.dial()
	third.send("GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
	eventually(t, "three requests are under way", func() bool { return g.metric("windrose_requests_active") == 3 })
	if _, err := g.dial().r.ReadByte(); err == nil {
		t.Error("a fourth connection is served")
	}
	close(release)
	for _, p := range append(busy, third) {
		if resp, _ := p.answer("GET"); resp.StatusCode != 200 {
			t.Errorf("status %d", resp.StatusCode)
		}
	}
}

// resident is the memory of the process that is its own, in bytes.
func resident(tb testing.TB) int {
	tb.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		tb.Fatal(err)
	}
	var size, all, shared int
	if _, err := fmt.Sscan(string(text), &size, &all, &shared); err != nil {
		tb.Fatal(err)
	}
	return (all - shared) * os.Getpagesize()
}

// A body of any size takes little memory, also where one side is far slower
// than the other.
func TestBodiesTakeBoundedMemory(t *testing.T) {
	size := int64(256 << 20)
	if testing.Short() {
		size = 32 << 20
	}
	if os.Getenv("WINDROSE_TEST_LARGE") != "" {
		size = 1 << 30
	}
	b := endpoint(t, func(p *peer) {
		_ = p.SetDeadline(time.Now().Add(time.Minute))
		head := p.head()
		if strings.HasPrefix(head, "GET") {
			p.send(fmt.Sprintf("HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n", size))
			_, _ = io.Copy(p.Conn, io.LimitReader(zeroes{}, size))
			return
		}
		n, _ := io.Copy(io.Discard, &slow{r: io.LimitReader(p.r, size)})
		p.send(fmt.Sprintf("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-got: %d\r\n\r\n", n))
	})
	g := start(t, 1, to(b)...)
	before := resident(t)
	peak := 0
	watch := func(int64) { peak = max(peak, resident(t)) }

	p := g.dial()
	_ = p.SetDeadline(time.Now().Add(time.Minute))
	p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
	resp, err := http.ReadResponse(p.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, &slow{r: resp.Body, watch: watch}); n != size || err != nil {
		t.Errorf("download: got %d bytes (%v), want %d", n, err, size)
	}
	p.send(fmt.Sprintf("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n", size))
	if _, err := io.Copy(p.Conn, &slow{r: io.LimitReader(zeroes{}, size), watch: watch}); err != nil {
		t.Errorf("upload: %v", err)
	}
	if resp, _ := p.answer("POST"); resp.Header.Get("X-Got") != fmt.Sprint(size) {
		t.Errorf("upload: the endpoint got %q, want %d", resp.Header.Get("X-Got"), size)
	}
	if grown := peak - before; grown > 12<<20 {
		t.Errorf("memory grew by %d KiB for bodies of %d MiB", grown>>10, size>>20)
	}
}

// slow gives the processor to the rest of the program every MiB, so that a
// buffer that has no bound would fill.
type slow struct {
	r     io.Reader
	watch func(int64)
	n     int64
}

func (s *slow) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if before := s.n; before>>20 != (before+int64(n))>>20 {
		pause(100 * time.Microsecond)
		if s.watch != nil && before>>22 != (before+int64(n))>>22 {
			s.watch(before)
		}
	}
	s.n += int64(n)
	return n, err
}

// pause holds a peer up; nothing is waited for.
func pause(d time.Duration) {
	t := time.NewTimer(d)
	<-t.C
}

// A client that sends requests and reads no answers is not read any more: its
// answers must not pile up. When it reads, all are there.
func TestAnswersThatNobodyReadsDoNotPileUp(t *testing.T) {
	t.Parallel()
	r := all()
	r.Filters = []plan.Filter{{Redirect: &plan.Redirect{Scheme: "https", Status: 302}}}
	g := start(t, 1, route("r", r))
	p := g.dial()
	tcp := p.Conn.(*net.TCPConn)
	_ = tcp.SetReadBuffer(64 << 10)
	_ = tcp.SetWriteBuffer(64 << 10)
	request := "GET /" + strings.Repeat("a", 7<<10) + " HTTP/1.1\r\nhost: x\r\n\r\n"
	const most = 8000 // more than 56 MiB of answers
	whole := 0
	for ; whole < most; whole++ {
		_ = p.SetWriteDeadline(time.Now().Add(time.Second))
		if n, err := io.WriteString(p, request); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			_ = p.SetWriteDeadline(time.Now().Add(patience))
			go io.WriteString(p, request[n:])
			whole++
			break
		}
	}
	if whole == most {
		t.Fatalf("%d requests were read although no answer was", whole)
	}
	for i := range whole {
		if resp, _ := p.answer("GET"); resp.StatusCode != 302 {
			t.Fatalf("answer %d of %d: status %d", i, whole, resp.StatusCode)
		}
	}
}
