package proxy_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"windrose.dev/windrose/internal/plan"
)

// udpEndpoint answers each datagram with what answer makes of it; nil is no
// answer.
func udpEndpoint(tb testing.TB, answer func(p []byte) [][]byte) string {
	tb.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue
			}
			for _, p := range answer(buf[:n]) {
				_, _ = c.WriteTo(p, from)
			}
		}
	})
	tb.Cleanup(func() { c.Close(); wg.Wait() })
	return c.LocalAddr().String()
}

func udpParrot(tb testing.TB) string {
	return udpEndpoint(tb, func(p []byte) [][]byte { return [][]byte{p} })
}

// udpNamed answers with a name.
func udpNamed(tb testing.TB, name string) string {
	return udpEndpoint(tb, func([]byte) [][]byte { return [][]byte{[]byte(name)} })
}

func freeUDP(tb testing.TB, ip string) netip.AddrPort {
	tb.Helper()
	c, err := net.ListenPacket("udp", net.JoinHostPort(ip, "0"))
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close()
	return netip.MustParseAddrPort(c.LocalAddr().String())
}

// datagrams adds a UDP listener on a socket of its own, with a route to
// backends, and gives its address.
func (g *gateway) datagrams(ip string, backends ...plan.Backend) netip.AddrPort {
	g.t.Helper()
	if backends == nil {
		backends = []plan.Backend{{Service: "grams", Weight: 1}}
	}
	addr := freeUDP(g.t, ip)
	name := plan.UDPSocketName(addr)
	g.use(
		plan.Part{Key: plan.Key{Kind: plan.KindSocket, Name: name}, Socket: &plan.Socket{Addr: addr, UDP: true}},
		plan.Part{Key: plan.Key{Kind: plan.KindListener, Name: "grams"}, Listener: &plan.Listener{Sockets: []string{name}, Protocol: plan.UDP}},
		plan.Part{Key: plan.Key{Kind: plan.KindRoute, Name: "UDPRoute/default/grams"}, Route: &plan.Route{
			Attach: []plan.Attachment{{Listener: "grams"}}, Rules: []plan.Rule{all(backends...)},
		}})
	return addr
}

// asker is a peer with a port of its own.
type asker struct {
	tb testing.TB
	net.Conn
}

func ask(tb testing.TB, addr netip.AddrPort) *asker {
	tb.Helper()
	c, err := net.Dial("udp", addr.String())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &asker{tb, c}
}

// exchange sends a datagram and gives the next that comes.
func (a *asker) exchange(text string) string {
	a.tb.Helper()
	if _, err := a.Write([]byte(text)); err != nil {
		a.tb.Fatalf("send: %v", err)
	}
	return a.next()
}

func (a *asker) next() string {
	a.tb.Helper()
	buf := make([]byte, 1<<16)
	n, err := a.Read(buf)
	if err != nil {
		a.tb.Fatalf("receive: %v", err)
	}
	return string(buf[:n])
}

// silence fails if a datagram comes within a moment.
func (a *asker) silence() {
	a.tb.Helper()
	_ = a.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := a.Read(make([]byte, 1<<16)); !errors.Is(err, os.ErrDeadlineExceeded) {
		a.tb.Errorf("got %d bytes and %v, want silence", n, err)
	}
	_ = a.SetReadDeadline(time.Now().Add(patience))
}

// covers: UDPRoute
func TestFlow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, bind, at string }{
		{"one address", "127.0.0.1", "127.0.0.1"},
		{"all of IPv4", "0.0.0.0", "127.0.0.2"},
		{"all addresses, by IPv4", "::", "127.0.0.3"},
		{"all addresses, by IPv6", "::", "::1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := udpParrot(t)
			g := start(t, 2, settings(plan.Settings{FlowTimeout: 200 * time.Millisecond}), service("grams", b))
			addr := g.datagrams(c.bind)
			a := ask(t, netip.AddrPortFrom(netip.MustParseAddr(c.at), addr.Port()))
			for i := range 3 {
				text := fmt.Sprint("question ", i)
				if got := a.exchange(text); got != text {
					t.Fatalf("got %q, want %q", got, text)
				}
			}
			if len(g.lines()) != 0 || g.proxy.Connections() != 1 {
				t.Errorf("%d records and %d flows before the end", len(g.lines()), g.proxy.Connections())
			}
			l := g.streamLines(1)[0]
			id := l.ID
			l.ID = ""
			want := streamLine{Protocol: "UDP", Listener: "grams", Route: "UDPRoute/default/grams", Service: "grams", Endpoint: b, Attempts: 1, BytesIn: 30, BytesOut: 30}
			if l != want || len(id) != 32 {
				t.Errorf("record: got %+v, want %+v", l, want)
			}
			// The flow is over; the next question begins another.
			if got := a.exchange("again"); got != "again" {
				t.Errorf("got %q", got)
			}
			g.streamLines(2)
			eventually(t, "nothing is left", func() bool { return g.proxy.Connections() == 0 })
		})
	}
}

// A flow lives for as long as somebody speaks, whoever it is.
func TestFlowLivesWhileItSpeaks(t *testing.T) {
	t.Parallel()
	const silence = 400 * time.Millisecond
	g := start(t, 1, settings(plan.Settings{FlowTimeout: silence}), service("grams", udpParrot(t)))
	a := ask(t, g.datagrams("127.0.0.1"))
	tick := time.NewTicker(silence / 8)
	defer tick.Stop()
	for range 24 {
		<-tick.C
		if got := a.exchange("x"); got != "x" {
			t.Fatalf("got %q", got)
		}
	}
	if n := len(g.lines()); n != 0 {
		t.Errorf("%d flows ended while they spoke", n)
	}
	if l := g.streamLines(1)[0]; l.BytesIn != 24 {
		t.Errorf("record: got %+v", l)
	}
}

func TestFlowSizes(t *testing.T) {
	b := udpEndpoint(t, func(p []byte) [][]byte {
		if string(p) == "many" {
			var all [][]byte
			for i := range 100 {
				all = append(all, fmt.Append(nil, "answer ", i))
			}
			return all
		}
		return [][]byte{p}
	})
	g := start(t, 1, service("grams", b))
	a := ask(t, g.datagrams("127.0.0.1"))
	for _, n := range []int{0, 1, 512, 65507} {
		if got := a.exchange(strings.Repeat("x", n)); len(got) != n {
			t.Errorf("got %d bytes back, want %d", len(got), n)
		}
	}
	if got := a.exchange("many"); got != "answer 0" {
		t.Errorf("got %q", got)
	}
	for i := 1; i < 100; i++ {
		if got, want := a.next(), fmt.Sprint("answer ", i); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

// Many peers at once, over all loops: each gets its own answers.
func TestFlowsDoNotMix(t *testing.T) {
	g := start(t, 2, service("grams", udpParrot(t), udpParrot(t)))
	addr := g.datagrams("127.0.0.1")
	var wg sync.WaitGroup
	for i := range 50 {
		a := ask(t, addr)
		wg.Go(func() {
			for j := range 20 {
				text := fmt.Sprint(i, " asks ", j)
				if _, err := a.Write([]byte(text)); err != nil {
					t.Errorf("send: %v", err)
					return
				}
				buf := make([]byte, 100)
				n, err := a.Read(buf)
				if err != nil || string(buf[:n]) != text {
					t.Errorf("got %q (%v), want %q", buf[:n], err, text)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := g.proxy.Connections(); n != 50 {
		t.Errorf("got %d flows, want 50", n)
	}
}

// covers: UDPRouteWeightedRouting
func TestFlowWeightsAreExact(t *testing.T) {
	g := start(t, 2, service("a", udpNamed(t, "a")), service("b", udpNamed(t, "b")))
	addr := g.datagrams("127.0.0.1", plan.Backend{Service: "a", Weight: 9}, plan.Backend{Service: "b", Weight: 1})
	for range 3 {
		got := map[string]int{}
		for range 10 {
			a := ask(t, addr)
			first := a.exchange("?")
			got[first]++
			if again := a.exchange("?"); again != first {
				t.Errorf("one flow went to %s and to %s", first, again)
			}
		}
		if got["a"] != 9 || got["b"] != 1 {
			t.Errorf("got %v, want 9 and 1", got)
		}
	}
}

// An endpoint that nobody listens at loses its flows, not its peers.
func TestFlowRefused(t *testing.T) {
	dead := freeUDP(t, "127.0.0.1").String()
	s := service("grams", dead, udpNamed(t, "alive"))
	s.Service.Balance = plan.RoundRobin
	g := start(t, 1, s)
	a := ask(t, g.datagrams("127.0.0.1"))
	if _, err := a.Write([]byte("lost")); err != nil {
		t.Fatal(err)
	}
	if l := g.streamLines(1)[0]; l.Fault != "connect-failed" || l.Endpoint != dead || l.BytesOut != 0 {
		t.Errorf("record: got %+v", l)
	}
	a.silence() // windrose says nothing by itself
	for range 3 {
		if got := a.exchange("again"); got != "alive" {
			t.Errorf("got %q", got)
		}
	}
	if got := ask(t, netip.MustParseAddrPort(a.RemoteAddr().String())).exchange("another"); got != "alive" {
		t.Errorf("another flow got %q", got)
	}
}

func TestFlowFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		backend plan.Backend
		fault   string
	}{
		{plan.Backend{Service: "none", Weight: 1}, "no-endpoint"},
		{plan.Backend{Service: "nowhere", Weight: 1}, "backend-missing"},
		{plan.Backend{Service: "none", Weight: 0}, "no-backend"},
	} {
		t.Run(c.fault, func(t *testing.T) {
			g := start(t, 1, service("none"))
			a := ask(t, g.datagrams("127.0.0.1", c.backend))
			if _, err := a.Write([]byte("anybody?")); err != nil {
				t.Fatal(err)
			}
			if l := g.streamLines(1)[0]; l.Fault != c.fault || l.Protocol != "UDP" {
				t.Errorf("record: got %+v", l)
			}
			a.silence()
			if n := g.proxy.Connections(); n != 0 {
				t.Errorf("%d flows are left", n)
			}
		})
	}
}

// A full table turns the newest away and counts it; who is in stays in.
func TestFlowTableIsBounded(t *testing.T) {
	t.Parallel()
	g := start(t, 1, settings(plan.Settings{MaxConnections: 2, FlowTimeout: 300 * time.Millisecond}), service("grams", udpParrot(t)))
	addr := g.datagrams("127.0.0.1")
	first, second, third := ask(t, addr), ask(t, addr), ask(t, addr)
	first.exchange("x")
	second.exchange("x")
	if _, err := third.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	third.silence()
	if n := g.metric("windrose_connections_refused_total"); n != 1 {
		t.Errorf("refused: got %v, want 1", n)
	}
	if got := first.exchange("still"); got != "still" {
		t.Errorf("got %q", got)
	}
	g.streamLines(2) // silence ends them
	if got := third.exchange("now"); got != "now" {
		t.Errorf("got %q", got)
	}
}

// A flow that never falls silent must not keep its peer with an endpoint that
// is gone.
func TestFlowLeavesAnEndpointThatIsGone(t *testing.T) {
	g := start(t, 2, service("grams", udpNamed(t, "old")))
	addr := g.datagrams("127.0.0.1")
	a := ask(t, addr)
	if got := a.exchange("?"); got != "old" {
		t.Fatalf("got %q", got)
	}
	// A plan that leaves the endpoint leaves the flow.
	g.use(service("other", udpNamed(t, "other")))
	if got := a.exchange("?"); got != "old" || len(g.lines()) != 0 {
		t.Errorf("got %q and %d records", got, len(g.lines()))
	}
	g.use(service("grams", udpNamed(t, "new")))
	if got := a.exchange("?"); got != "new" {
		t.Errorf("got %q", got)
	}
	if l := g.streamLines(1)[0]; l.Fault != "" || l.BytesIn != 2 {
		t.Errorf("record: got %+v", l)
	}
}

// A UDP socket that goes away lets answers on their way through, for a moment.
func TestFlowDrain(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	b := udpEndpoint(t, func(p []byte) [][]byte {
		if string(p) == "slow" {
			<-hold
		}
		return [][]byte{p}
	})
	g := start(t, 2, service("grams", b))
	addr := g.datagrams("127.0.0.1")
	a := ask(t, addr)
	a.exchange("x")
	if _, err := a.Write([]byte("slow")); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); g.proxy.Drain(t.Context()) }()
	g.proxy.Hold(0, func() {})
	close(hold)
	if got := a.next(); got != "slow" {
		t.Errorf("got %q", got)
	}
	<-done
	if l := g.streamLines(1)[0]; l.Fault != "" || l.BytesOut != 5 {
		t.Errorf("record: got %+v", l)
	}
	if c, err := net.ListenPacket("udp", addr.String()); err != nil {
		t.Errorf("the socket is still there: %v", err)
	} else {
		c.Close()
	}
}

// A TCP and a UDP socket may have one address.
func TestUDPBesideTCP(t *testing.T) {
	g := start(t, 2, service("bytes", parrot(t)), service("grams", udpParrot(t)))
	addr := netip.MustParseAddrPort(g.carry(plan.Listener{Protocol: plan.TCP}))
	name := plan.UDPSocketName(addr)
	g.use(
		plan.Part{Key: plan.Key{Kind: plan.KindSocket, Name: name}, Socket: &plan.Socket{Addr: addr, UDP: true}},
		plan.Part{Key: plan.Key{Kind: plan.KindListener, Name: "grams"}, Listener: &plan.Listener{Sockets: []string{name}, Protocol: plan.UDP}},
		plan.Part{Key: plan.Key{Kind: plan.KindRoute, Name: "UDPRoute/default/grams"}, Route: &plan.Route{
			Attach: []plan.Attachment{{Listener: "grams"}}, Rules: []plan.Rule{all(plan.Backend{Service: "grams", Weight: 1})},
		}})
	if got := ask(t, addr).exchange("gram"); got != "gram" {
		t.Errorf("got %q", got)
	}
	p := dialTCP(t, addr.String())
	p.send("bytes")
	p.exactly("bytes")
}

// Somebody else's socket is not shared.
func TestUDPAddressInUse(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	addr := netip.MustParseAddrPort(c.LocalAddr().String())
	g := start(t, 1)
	name := plan.UDPSocketName(addr)
	next, _ := g.builder.Apply([]plan.Part{
		{Key: plan.Key{Kind: plan.KindSocket, Name: name}, Socket: &plan.Socket{Addr: addr, UDP: true}},
		{Key: plan.Key{Kind: plan.KindListener, Name: "grams"}, Listener: &plan.Listener{Sockets: []string{name}, Protocol: plan.UDP}},
	}, nil)
	problems := g.proxy.Use(next, g.table.Use(next))
	if len(problems) != 1 || problems[0].Socket != name {
		t.Errorf("got %v, want a problem with %s", problems, name)
	}
}
