package proxy_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"windrose.dev/windrose/internal/plan"
)

// patience is how long a test waits for what must come.
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

// line is what the tests look at of a line of the access log.
type line struct {
	Method   string `json:"method"`
	Path     string `json:"path"`
	Status   int    `json:"status"`
	BytesIn  int64  `json:"bytes_in"`
	BytesOut int64  `json:"bytes_out"`
	Fault    string `json:"fault"`
	Reason   string `json:"reason"`
	Attempts int    `json:"attempts"`
	Identity string `json:"identity"`
}

func (g *gateway) lines() []line {
	g.t.Helper()
	var lines []line
	for text := range strings.Lines(g.log.String()) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			g.t.Fatalf("access log: %v in %q", err, text)
		}
		lines = append(lines, l)
	}
	return lines
}

// wantLines waits until n requests are in the access log, and gives them.
func (g *gateway) wantLines(n int) []line {
	g.t.Helper()
	eventually(g.t, "the access log has a line for each request", func() bool { return len(g.lines()) >= n })
	lines := g.lines()
	if len(lines) != n {
		g.t.Fatalf("access log: got %d lines, want %d: %+v", len(lines), n, lines)
	}
	return lines
}

// peer is one end of a connection of a test.
type peer struct {
	net.Conn
	tb testing.TB
	r  *bufio.Reader
}

func newPeer(tb testing.TB, c net.Conn) *peer {
	_ = c.SetDeadline(time.Now().Add(patience))
	tb.Cleanup(func() { c.Close() })
	return &peer{c, tb, bufio.NewReader(c)}
}

func (g *gateway) dial() *peer {
	g.t.Helper()
	c, err := net.Dial("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	return newPeer(g.t, c)
}

func (p *peer) send(text string) {
	p.tb.Helper()
	if _, err := io.WriteString(p, text); err != nil {
		p.tb.Errorf("send: %v", err)
	}
}

// answer reads one answer to a request with the given method.
func (p *peer) answer(method string) (*http.Response, string) {
	p.tb.Helper()
	resp, err := http.ReadResponse(p.r, &http.Request{Method: method})
	if err != nil {
		p.tb.Fatalf("read answer: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.tb.Fatalf("read body: %v after %q", err, body)
	}
	return resp, string(body)
}

// rest reads to the end of the connection.
func (p *peer) rest() string {
	p.tb.Helper()
	b, err := io.ReadAll(p.r)
	if err != nil {
		p.tb.Fatalf("read to the end: %v after %q", err, b)
	}
	return string(b)
}

// exactly reads as many bytes as want has, and compares.
func (p *peer) exactly(want string) {
	p.tb.Helper()
	b := make([]byte, len(want))
	n, err := io.ReadFull(p.r, b)
	if err != nil || string(b) != want {
		p.tb.Fatalf("got %q (%v), want %q", b[:n], err, want)
	}
}

// head reads to the end of a head.
func (p *peer) head() string {
	p.tb.Helper()
	var head strings.Builder
	for {
		text, err := p.r.ReadString('\n')
		head.WriteString(text)
		if err != nil {
			p.tb.Fatalf("read head: %v after %q", err, head.String())
		}
		if text == "\r\n" {
			return head.String()
		}
	}
}

// reset closes the connection so that the other end sees it as lost.
func (p *peer) reset() {
	_ = p.Conn.(*net.TCPConn).SetLinger(0)
	p.Close()
}

// metric is the sum of the series of a metric.
func (g *gateway) metric(name string) float64 {
	g.t.Helper()
	sum := 0.0
	for text := range strings.Lines(string(g.hub.AppendMetrics(g.t.Context(), nil))) {
		series, value, _ := strings.Cut(strings.TrimSpace(text), " ")
		if series, _, _ = strings.Cut(series, "{"); series != name {
			continue
		}
		n, err := strconv.ParseFloat(value[strings.LastIndexByte(value, ' ')+1:], 64)
		if err != nil {
			g.t.Fatalf("metric %s: %v", name, err)
		}
		sum += n
	}
	return sum
}

func (p *peer) closeWrite() {
	p.tb.Helper()
	if err := p.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		p.tb.Errorf("close for writing: %v", err)
	}
}

// endpoint listens and has serve called, on a goroutine of its own, with each
// connection, which is closed afterwards.
func endpoint(tb testing.TB, serve func(p *peer)) string {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(patience))
			go func() {
				defer c.Close()
				serve(&peer{c, tb, bufio.NewReader(c)})
			}()
		}
	}()
	tb.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

// request reads a request with its body; nil at the end of the connection.
func (p *peer) request() (*http.Request, string) {
	req, err := http.ReadRequest(p.r)
	if err != nil {
		return nil, ""
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, ""
	}
	return req, string(body)
}

// answering is an endpoint that answers each request with the same bytes, but
// /next, which it answers with "next".
func answering(tb testing.TB, text string) string {
	return endpoint(tb, func(p *peer) {
		for {
			req, _ := p.request()
			if req == nil {
				return
			}
			reply := text
			if req.URL.Path == "/next" {
				reply = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnext"
			}
			if _, err := io.WriteString(p, reply); err != nil {
				return
			}
		}
	})
}

// once is an endpoint that reads a head, says text and closes.
func once(tb testing.TB, text string) string {
	return endpoint(tb, func(p *peer) {
		if req, _ := p.request(); req != nil {
			_, _ = io.WriteString(p, text)
		}
	})
}

func settings(s plan.Settings) plan.Part {
	return plan.Part{Key: plan.Key{Kind: plan.KindSettings, Name: "default"}, Settings: &s}
}

// to is a route for everything to one service with the given endpoints.
func to(addrs ...string) []plan.Part {
	return []plan.Part{route("r", all(plan.Backend{Service: "s", Weight: 1})), service("s", addrs...)}
}

// listen adds a listener with a socket of its own and gives its address.
func (g *gateway) listen(name string, l plan.Listener, parts ...plan.Part) string {
	g.t.Helper()
	addr := freeAddr(g.t)
	l.Sockets = []string{plan.SocketName(addr)}
	g.use(append(parts,
		plan.Part{Key: plan.Key{Kind: plan.KindSocket, Name: plan.SocketName(addr)}, Socket: &plan.Socket{Addr: addr}},
		plan.Part{Key: plan.Key{Kind: plan.KindListener, Name: name}, Listener: &l})...)
	return addr.String()
}

func closedAddr(tb testing.TB) string { return freeAddr(tb).String() }

// cutOff says whether an error of a read means that the connection ended before
// its message did.
func cutOff(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &op) && !op.Timeout()
}

// waitSent waits until the other end's kernel has all that was sent, so that
// what is sent next is another read for it.
func (p *peer) waitSent() {
	p.tb.Helper()
	raw, err := p.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		p.tb.Fatal(err)
	}
	eventually(p.tb, "what was sent arrived", func() bool {
		left := 0
		_ = raw.Control(func(fd uintptr) { left, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		return left == 0
	})
}

// fullQueue is the address of a listening socket that nobody accepts from and
// whose queue is full: a connection to it is never made, and never refused.
func fullQueue(tb testing.TB) string {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		tb.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		tb.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		tb.Fatal(err)
	}
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sa.(*unix.SockaddrInet4).Port)).String()
	for {
		c, err := net.DialTimeout("tcp", addr, 50*time.Millisecond)
		if err != nil {
			return addr
		}
		tb.Cleanup(func() { c.Close() })
	}
}
