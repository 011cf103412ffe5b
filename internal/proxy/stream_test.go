package proxy_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"windrose.dev/windrose/internal/plan"
)

// streamLine is what the tests look at of a stream's line in the access log.
type streamLine struct {
	Protocol string `json:"protocol"`
	TLS      string `json:"tls"`
	Host     string `json:"host"`
	Method   string `json:"method"`
	Status   int    `json:"status"`
	ID       string `json:"id"`
	Listener string `json:"listener"`
	Route    string `json:"route"`
	Service  string `json:"service"`
	Endpoint string `json:"endpoint"`
	Attempts int    `json:"attempts"`
	BytesIn  int64  `json:"bytes_in"`
	BytesOut int64  `json:"bytes_out"`
	Fault    string `json:"fault"`
	Reason   string `json:"reason"`
}

// streamLines waits until there are n lines in the access log, and gives them.
func (g *gateway) streamLines(n int) []streamLine {
	g.t.Helper()
	g.wantLines(n)
	var lines []streamLine
	for text := range strings.Lines(g.log.String()) {
		var l streamLine
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			g.t.Fatal(err)
		}
		lines = append(lines, l)
	}
	return lines
}

// carry adds a listener that carries bytes, with a route to one service, and
// gives its address.
func (g *gateway) carry(l plan.Listener, backends ...plan.Backend) string {
	g.t.Helper()
	if backends == nil {
		backends = []plan.Backend{{Service: "bytes", Weight: 1}}
	}
	return g.listen("bytes", l, plan.Part{Key: plan.Key{Kind: plan.KindRoute, Name: "TCPRoute/default/bytes"}, Route: &plan.Route{
		Attach: []plan.Attachment{{Listener: "bytes"}}, Rules: []plan.Rule{all(backends...)},
	}})
}

func dialTCP(tb testing.TB, addr string) *peer {
	tb.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	return newPeer(tb, c)
}

// parrot is an endpoint that sends back what it gets, and its end.
func parrot(tb testing.TB) string {
	// Package net would splice, and keep its pipes.
	return endpoint(tb, func(p *peer) { _, _ = io.Copy(onlyWriter{p.Conn}, p.r) })
}

func TestStreamEcho(t *testing.T) {
	b := parrot(t)
	g := start(t, 1, service("bytes", b))
	p := dialTCP(t, g.carry(plan.Listener{Protocol: plan.TCP}))
	for i := range 3 {
		text := fmt.Sprint("hello ", i)
		p.send(text)
		p.exactly(text)
	}
	if len(g.lines()) != 0 {
		t.Error("a record was emitted before the end")
	}
	if n := g.metric("windrose_connections_active"); n != 1 {
		t.Errorf("active connections: got %v, want 1", n)
	}
	p.closeWrite()
	if got := p.rest(); got != "" {
		t.Errorf("got %q behind the end", got)
	}
	l := g.streamLines(1)[0]
	id := l.ID
	l.ID = ""
	want := streamLine{Protocol: "TCP", Listener: "bytes", Route: "TCPRoute/default/bytes", Service: "bytes", Endpoint: b, Attempts: 1, BytesIn: 21, BytesOut: 21}
	if l != want || len(id) != 32 {
		t.Errorf("record: got %+v, want %+v", l, want)
	}
	eventually(t, "nothing is left", func() bool { return g.proxy.Connections() == 0 && g.proxy.Streams() == 0 })
	if n := g.metric("windrose_upstream_connections_active"); n != 0 {
		t.Errorf("connections to endpoints: got %v, want 0", n)
	}
}

// Either end may say that it is done, and still listen.
func TestStreamHalfClose(t *testing.T) {
	t.Run("the client first", func(t *testing.T) {
		b := endpoint(t, func(p *peer) {
			got, _ := io.ReadAll(p.r)
			fmt.Fprintf(p, "got %q", got)
		})
		g := start(t, 1, service("bytes", b))
		p := dialTCP(t, g.carry(plan.Listener{Protocol: plan.TCP}))
		p.send("question")
		p.closeWrite()
		if got := p.rest(); got != `got "question"` {
			t.Errorf("got %q", got)
		}
	})
	t.Run("the endpoint first", func(t *testing.T) {
		later := make(chan string, 1)
		b := endpoint(t, func(p *peer) {
			p.send("greeting")
			p.closeWrite()
			got, _ := io.ReadAll(p.r)
			later <- string(got)
		})
		g := start(t, 1, service("bytes", b))
		p := dialTCP(t, g.carry(plan.Listener{Protocol: plan.TCP}))
		if got := p.rest(); got != "greeting" {
			t.Errorf("got %q", got)
		}
		p.send("thanks")
		p.closeWrite()
		if got := <-later; got != "thanks" {
			t.Errorf("the endpoint got %q", got)
		}
	})
}

// Bulk is spliced; the far end gets every byte, and memory stays where it was.
func TestStreamBulk(t *testing.T) {
	size := int64(256 << 20)
	if testing.Short() {
		size = 16 << 20
	}
	sums := make(chan [32]byte, 1)
	b := endpoint(t, func(p *peer) {
		h := sha256.New()
		if n, err := io.Copy(h, p.r); n != size || err != nil {
			t.Errorf("the endpoint got %d bytes (%v), want %d", n, err, size)
		}
		sums <- [32]byte(h.Sum(nil))
		p.send("done")
	})
	g := start(t, 1, service("bytes", b))
	p := dialTCP(t, g.carry(plan.Listener{Protocol: plan.TCP}))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	h := sha256.New()
	_ = p.SetDeadline(time.Now().Add(time.Minute))
	if n, err := io.Copy(io.MultiWriter(onlyWriter{p.Conn}, h), io.LimitReader(&noise{}, size)); n != size || err != nil {
		t.Fatalf("sent %d bytes: %v", n, err)
	}
	p.closeWrite()
	if got := p.rest(); got != "done" {
		t.Errorf("got %q", got)
	}
	runtime.ReadMemStats(&after)
	if got, want := <-sums, [32]byte(h.Sum(nil)); got != want {
		t.Error("the endpoint got other bytes than were sent")
	}
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 16<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	if l := g.streamLines(1)[0]; l.BytesIn != size || l.BytesOut != 4 || l.Fault != "" {
		t.Errorf("record: got %+v", l)
	}
	if n := g.proxy.Spliced(); n < uint64(size)/2 {
		t.Errorf("%d of %d bytes were spliced", n, size)
	}
}

// noise is bytes that do not repeat soon.
type noise struct{ state uint32 }

func (n *noise) Read(p []byte) (int, error) {
	for i := range p {
		n.state = n.state*1664525 + 1013904223
		p[i] = byte(n.state >> 24)
	}
	return len(p), nil
}

// onlyWriter hides what else a writer can do.
type onlyWriter struct{ io.Writer }

// Both ends send much and read little for a while: nothing is lost, and nothing
// is kept but what the kernel and one pipe hold.
func TestStreamBackPressureBothWays(t *testing.T) {
	const size = 64 << 20 // more than the kernel keeps
	g := start(t, 1, service("bytes", parrot(t)))
	p := dialTCP(t, g.carry(plan.Listener{Protocol: plan.TCP}))
	data := make([]byte, size)
	_, _ = (&noise{}).Read(data)
	sent := make(chan error, 1)
	go func() {
		_, err := p.Write(data)
		p.closeWrite()
		sent <- err
	}()
	p.waitSentFull()
	got, err := io.ReadAll(p.r)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d bytes back (%v) that are not the %d sent", len(got), err, size)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if g.proxy.Spliced() == 0 {
		t.Error("nothing was spliced")
	}
}

// waitSentFull waits until the kernel takes no more of what is sent.
func (p *peer) waitSentFull() {
	p.tb.Helper()
	raw, err := p.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		p.tb.Fatal(err)
	}
	last := -1
	eventually(p.tb, "the kernel's buffers are full", func() bool {
		now := 0
		_ = raw.Control(func(fd uintptr) { now, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		same := now > 0 && now == last
		last = now
		return same
	})
}

// A reset at one end is a reset at the other, behind what came before it.
func TestStreamReset(t *testing.T) {
	t.Parallel()
	for _, spliced := range []bool{false, true} {
		name := map[bool]string{false: "copied", true: "spliced"}[spliced]
		amount := 5
		if spliced {
			amount = 4 << 20
		}
		t.Run(name+", by the client", func(t *testing.T) {
			seen := make(chan error, 1)
			b := endpoint(t, func(p *peer) {
				p.send("ready")
				_, err := io.Copy(io.Discard, p.r)
				seen <- err
			})
			g := start(t, 1, service("bytes", b))
			p := dialTCP(t, g.carry(plan.Listener{Protocol: plan.TCP}))
			p.exactly("ready")
			_, _ = p.Write(make([]byte, amount))
			p.reset()
			if err := <-seen; !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("the endpoint saw %v, want a reset", err)
			}
			if l := g.streamLines(1)[0]; l.Fault != "client-gone" {
				t.Errorf("record: got %+v", l)
			}
		})
		t.Run(name+", by the endpoint", func(t *testing.T) {
			b := endpoint(t, func(p *peer) {
				p.exactly("go")
				_, _ = p.Write(make([]byte, amount))
				p.waitSent()
				p.reset()
			})
			g := start(t, 1, service("bytes", b))
			p := dialTCP(t, g.carry(plan.Listener{Protocol: plan.TCP}))
			p.send("go")
			if _, err := io.Copy(io.Discard, p.r); !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("the client saw %v, want a reset", err)
			}
			if l := g.streamLines(1)[0]; l.Fault != "upstream-reset" || !strings.Contains(l.Reason, b) {
				t.Errorf("record: got %+v", l)
			}
		})
	}
}

// A client that has said all and is then gone must not stay in the books.
func TestStreamClientLeavesAfterItsEnd(t *testing.T) {
	began, release := make(chan struct{}), make(chan struct{})
	b := endpoint(t, func(p *peer) {
		_, _ = io.ReadAll(p.r)
		close(began)
		<-release
		for {
			if _, err := p.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	})
	g := start(t, 1, service("bytes", b))
	p := dialTCP(t, g.carry(plan.Listener{Protocol: plan.TCP}))
	p.closeWrite()
	<-began
	p.Close()
	close(release)
	if l := g.streamLines(1)[0]; l.Fault != "client-gone" {
		t.Errorf("record: got %+v", l)
	}
}

func TestStreamGoesToTheNextEndpoint(t *testing.T) {
	b := parrot(t)
	s := service("bytes", closedAddr(t), closedAddr(t), b)
	s.Service.Balance = plan.RoundRobin
	g := start(t, 1, s)
	addr := g.carry(plan.Listener{Protocol: plan.TCP})
	for range 4 {
		p := dialTCP(t, addr)
		p.send("x")
		p.exactly("x")
		p.closeWrite()
		p.rest()
	}
	most := 0
	for _, l := range g.streamLines(4) {
		if l.Endpoint != b || l.Fault != "" {
			t.Errorf("record: got %+v", l)
		}
		most = max(most, l.Attempts)
	}
	if most != 3 {
		t.Errorf("most attempts: got %d, want 3", most)
	}
	if l := g.streamLines(4)[3]; l.Attempts != 1 {
		t.Errorf("endpoints that refused are asked again at once: %+v", l)
	}
}

// wantReset connects and sees its connection reset, which may be as early as
// in the call that makes it.
func wantReset(tb testing.TB, addr string) {
	tb.Helper()
	c, err := net.Dial("tcp", addr)
	if err == nil {
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, unix.ECONNRESET) {
		tb.Errorf("the client saw %v, want a reset", err)
	}
}

func TestStreamFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		backends []plan.Backend
		settings plan.Settings
		fault    string
		reason   string
	}{
		{"no backend", []plan.Backend{{Service: "live", Weight: 0}}, plan.Settings{}, "no-backend", "weight"},
		{"backend missing", []plan.Backend{{Service: "nowhere", Weight: 1}}, plan.Settings{}, "backend-missing", "nowhere"},
		{"no endpoint", []plan.Backend{{Service: "none", Weight: 1}}, plan.Settings{}, "no-endpoint", "none"},
		{"refused", []plan.Backend{{Service: "dead", Weight: 1}}, plan.Settings{}, "connect-failed", "dead"},
		{"silent", []plan.Backend{{Service: "hung", Weight: 1}}, plan.Settings{ConnectTimeout: 50 * time.Millisecond}, "connect-failed", "connect timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			parts := []plan.Part{settings(c.settings), service("live", parrot(t)), service("none"), service("dead", closedAddr(t))}
			if c.name == "silent" {
				parts = append(parts, service("hung", fullQueue(t)))
			}
			g := start(t, 1, parts...)
			wantReset(t, g.carry(plan.Listener{Protocol: plan.TCP}, c.backends...))
			if l := g.streamLines(1)[0]; l.Fault != c.fault || !strings.Contains(l.Reason, c.reason) {
				t.Errorf("record: got %+v", l)
			}
			eventually(t, "nothing is left", func() bool { return g.proxy.Connections() == 0 })
		})
	}
}

func TestStreamLimits(t *testing.T) {
	b := parrot(t)
	g := start(t, 1, settings(plan.Settings{MaxInFlight: 1}), service("bytes", b))
	addr := g.carry(plan.Listener{Protocol: plan.TCP})
	p := dialTCP(t, addr)
	p.send("x")
	p.exactly("x")
	wantReset(t, addr)
	if l := g.streamLines(1)[0]; l.Fault != "overload" {
		t.Errorf("record: got %+v", l)
	}
	p.Close()
	eventually(t, "the first has ended", func() bool { return g.proxy.Connections() == 0 })
	third := dialTCP(t, addr)
	third.send("y")
	third.exactly("y")
}

func TestStreamIdleTimeout(t *testing.T) {
	t.Parallel()
	g := start(t, 1, settings(plan.Settings{TunnelTimeout: 100 * time.Millisecond}), service("bytes", parrot(t)))
	p := dialTCP(t, g.carry(plan.Listener{Protocol: plan.TCP}))
	p.send("x")
	p.exactly("x")
	if _, err := p.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("got %v, want a reset after the silence", err)
	}
	if l := g.streamLines(1)[0]; l.Fault != "" || l.BytesIn != 1 {
		t.Errorf("record: got %+v", l)
	}
}

// named is an endpoint that says its name and ends.
func named(tb testing.TB, name string) string {
	return endpoint(tb, func(p *peer) { p.send(name) })
}

// In each run of connections as long as the weights' sum, each backend has
// exactly its share, over all loops.
//
// covers: TCPRouteWeightedRouting
func TestStreamWeightsAreExact(t *testing.T) {
	g := start(t, 2, service("a", named(t, "a")), service("b", named(t, "b")), service("c", named(t, "c")))
	addr := g.carry(plan.Listener{Protocol: plan.TCP},
		plan.Backend{Service: "a", Weight: 7}, plan.Backend{Service: "b", Weight: 2}, plan.Backend{Service: "c", Weight: 1})
	for range 3 {
		got := map[string]int{}
		for range 10 {
			got[dialTCP(t, addr).rest()]++
		}
		if got["a"] != 7 || got["b"] != 2 || got["c"] != 1 {
			t.Errorf("got %v, want 7, 2 and 1", got)
		}
	}
}

func TestStreamOutlivesPlans(t *testing.T) {
	old, next := parrot(t), named(t, "next")
	g := start(t, 2, service("bytes", old))
	addr := g.carry(plan.Listener{Protocol: plan.TCP})
	p := dialTCP(t, addr)
	p.send("x")
	p.exactly("x")
	g.use(service("bytes", next))
	q := dialTCP(t, addr)
	if got := q.rest(); got != "next" {
		t.Errorf("a new connection got %q", got)
	}
	q.Close()
	g.streamLines(1)
	p.send("still here")
	p.exactly("still here")
	g.drop(plan.KindRoute, "TCPRoute/default/bytes")
	p.send("and here")
	p.exactly("and here")
	p.closeWrite()
	p.rest()
	if l := g.streamLines(2)[1]; l.Endpoint != old || l.Fault != "" || l.Route != "TCPRoute/default/bytes" {
		t.Errorf("record: got %+v", l)
	}
}

func TestStreamDrain(t *testing.T) {
	t.Parallel()
	g := start(t, 2, settings(plan.Settings{DrainTimeout: 400 * time.Millisecond}), service("bytes", parrot(t)))
	addr := g.carry(plan.Listener{Protocol: plan.TCP})
	quick, slow := dialTCP(t, addr), dialTCP(t, addr)
	for _, p := range []*peer{quick, slow} {
		p.send("x")
		p.exactly("x")
	}
	var wg sync.WaitGroup
	wg.Go(func() { g.proxy.Drain(t.Context()) })
	eventually(t, "nothing is accepted any more", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	quick.send("on its way")
	quick.exactly("on its way")
	quick.closeWrite()
	quick.rest()
	if _, err := slow.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the slow one saw %v", err)
	}
	wg.Wait()
	eventually(t, "one record says that the connection was cut off", func() bool {
		n := 0
		for _, l := range g.lines() {
			if l.Fault == "draining" {
				n++
			}
		}
		return n == 1
	})
}

// A listener that goes away takes its socket along; another protocol may follow
// on the same address.
func TestStreamSocketChangesItsClass(t *testing.T) {
	web := answering(t, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
	g := start(t, 2, settings(plan.Settings{DrainTimeout: time.Second}), service("bytes", parrot(t)), service("web", web))
	addr := g.carry(plan.Listener{Protocol: plan.TCP})
	p := dialTCP(t, addr)
	p.send("x")
	p.exactly("x")
	g.apply([]plan.Part{
		{Key: plan.Key{Kind: plan.KindListener, Name: "bytes"}, Listener: &plan.Listener{Sockets: []string{"tcp/" + addr}, Protocol: plan.HTTP}},
		{Key: plan.Key{Kind: plan.KindRoute, Name: "web"}, Route: &plan.Route{
			Attach: []plan.Attachment{{Listener: "bytes"}}, Rules: []plan.Rule{all(plan.Backend{Service: "web", Weight: 1})},
		}},
	}, plan.Key{Kind: plan.KindRoute, Name: "TCPRoute/default/bytes"})
	h := dialTCP(t, addr)
	h.send("GET /a HTTP/1.1\r\nhost: x\r\n\r\n")
	if resp, _ := h.answer("GET"); resp.StatusCode != 200 {
		t.Errorf("got %d", resp.StatusCode)
	}
	p.send("y")
	p.exactly("y")
}

func TestStreamEndsWithTheLoop(t *testing.T) {
	g := start(t, 1, service("bytes", parrot(t)))
	p := dialTCP(t, g.carry(plan.Listener{Protocol: plan.TCP}))
	p.send("x")
	p.exactly("x")
	g.cancel()
	if _, err := p.Read(make([]byte, 1)); err == nil {
		t.Error("the connection goes on")
	}
	if l := g.streamLines(1)[0]; l.Fault != "draining" {
		t.Errorf("record: got %+v", l)
	}
}
