package plan

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// streamPart is a listener of a protocol on a socket.
func streamPart(name, socket string, protocol Protocol, host string) Part {
	return Part{Key: Key{KindListener, name}, Listener: &Listener{Sockets: []string{socket}, Protocol: protocol, Hostname: host}}
}

// attachTo is a route for everything on a listener under a host.
func attachTo(name, listener, host string) Part {
	p := routePart(name, host, parseMatch("prefix /"))
	p.Route.Attach[0].Listener = listener
	return p
}

func TestClasses(t *testing.T) {
	addr := netip.MustParseAddrPort("[::]:53")
	udp := Part{Key: Key{KindSocket, UDPSocketName(addr)}, Socket: &Socket{Addr: addr, UDP: true}}
	tcp := Part{Key: Key{KindSocket, SocketName(addr)}, Socket: &Socket{Addr: addr}}
	if udp.Key.Name != "udp/[::]:53" {
		t.Errorf("name of the UDP socket: got %q", udp.Key.Name)
	}
	pass := streamPart("b-pass", tcp.Key.Name, TLS, "pass.example")
	pass.Listener.Passthrough = true
	https := streamPart("a-https", tcp.Key.Name, HTTPS, "web.example")
	https.Listener.Passthrough = true // means nothing here
	for _, c := range []struct {
		name     string
		parts    []Part
		class    Class
		tls      bool
		streams  bool
		problems []string
	}{
		{"http", []Part{streamPart("a", tcp.Key.Name, HTTP, "")}, ClassHTTP, false, false, nil},
		{"https", []Part{https}, ClassTLS, true, false, nil},
		{"https and tls share", []Part{https, pass}, ClassTLS, true, true, nil},
		{"tls alone", []Part{pass}, ClassTLS, true, true, nil},
		{"tcp", []Part{streamPart("a", tcp.Key.Name, TCP, "")}, ClassTCP, false, false, nil},
		{"two tcp", []Part{streamPart("a", tcp.Key.Name, TCP, ""), streamPart("b", tcp.Key.Name, TCP, "")}, ClassTCP, false, false, []string{"listener/b ListenerConflict"}},
		{"tcp and tls", []Part{streamPart("a", tcp.Key.Name, TCP, ""), pass}, ClassTCP, false, false, []string{"listener/b-pass ListenerConflict"}},
		{"tls before http", []Part{pass, streamPart("c", tcp.Key.Name, HTTP, "")}, ClassTLS, true, true, []string{"listener/c ListenerConflict"}},
		{"one name twice", []Part{https, streamPart("c", tcp.Key.Name, TLS, "web.example")}, ClassTLS, true, false, []string{"listener/c ListenerConflict"}},
		{"udp on tcp", []Part{streamPart("a", tcp.Key.Name, UDP, "")}, 0, false, false, []string{"listener/a ListenerConflict"}},
		{"udp", []Part{streamPart("a", udp.Key.Name, UDP, "")}, ClassUDP, false, false, nil},
		{"tcp on udp", []Part{streamPart("a", udp.Key.Name, TCP, ""), streamPart("b", udp.Key.Name, UDP, "")}, ClassUDP, false, false, []string{"listener/a ListenerConflict"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			socket := tcp
			if c.parts[0].Listener.Sockets[0] == udp.Key.Name {
				socket = udp
			}
			p, problems := NewBuilder().Apply(append([]Part{socket}, c.parts...), nil)
			if got := reasons(problems); !slices.Equal(got, c.problems) {
				t.Errorf("problems: got %v, want %v", problems, c.problems)
			}
			bound := p.Bound(socket.Key.Name)
			if bound.Class != c.class || bound.TLS != c.tls || bound.Streams != c.streams || bound.UDP != socket.Socket.UDP {
				t.Errorf("got class %d, TLS %v, streams %v, UDP %v", bound.Class, bound.TLS, bound.Streams, bound.UDP)
			}
			for _, l := range bound.Listeners() {
				if l.Passthrough != (l.Name == "b-pass") {
					t.Errorf("listener %s: passthrough is %v", l.Name, l.Passthrough)
				}
			}
		})
	}
}

func TestClassFollowsTheListener(t *testing.T) {
	addr := netip.MustParseAddrPort("127.0.0.1:1")
	name := SocketName(addr)
	b := NewBuilder()
	l := streamPart("l", name, TLS, "")
	p, _ := b.Apply([]Part{{Key: Key{KindSocket, name}, Socket: &Socket{Addr: addr}}, l}, nil)
	if got := p.Bound(name); got.Class != ClassTLS || got.Listeners()[0].Passthrough {
		t.Fatalf("got %+v", got)
	}
	pass := *l.Listener
	pass.Passthrough = true
	p, _ = b.Apply([]Part{{Key: l.Key, Listener: &pass}}, nil)
	if got := p.Bound(name); !got.Listeners()[0].Passthrough {
		t.Error("the socket kept the listener without passthrough")
	}
	p, _ = b.Apply([]Part{streamPart("l", name, TCP, "")}, nil)
	if got := p.Bound(name); got.Class != ClassTCP || got.TLS || got.Streams {
		t.Errorf("got %+v", got)
	}
}

func TestStream(t *testing.T) {
	addr := netip.MustParseAddrPort("127.0.0.1:1")
	name := SocketName(addr)
	p, problems := NewBuilder().Apply([]Part{
		{Key: Key{KindSocket, name}, Socket: &Socket{Addr: addr}},
		servicePart("default/v1:80"),
		streamPart("tls", name, TLS, "*.example"), streamPart("https", name, HTTPS, "web.example"), streamPart("bare", name, TLS, "bare.example"),
		attachTo("one", "tls", "one.example"), attachTo("any", "tls", "*.example"), attachTo("deep", "tls", "*.deep.example"),
		attachTo("web", "https", "web.example"),
	}, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	bound := p.Bound(name)
	for _, c := range []struct{ sni, listener, route string }{
		{"one.example", "tls", "one"},
		{"ONE.example.", "tls", "one"},
		{"two.example", "tls", "any"},
		{"a.b.deep.example", "tls", "deep"},
		{"web.example", "https", "web"},
		{"bare.example", "bare", ""},
		{"example", "", ""},
		{"", "", ""},
	} {
		l := bound.Listener([]byte(c.sni))
		if l == nil {
			if c.listener != "" {
				t.Errorf("%q: no listener, want %s", c.sni, c.listener)
			}
			continue
		}
		if l.Name != c.listener {
			t.Errorf("%q: got listener %s, want %s", c.sni, l.Name, c.listener)
		}
		got := ""
		if hit, ok := l.Stream(p, []byte(c.sni)); ok {
			got = strings.TrimPrefix(hit.Route.Name, "HTTPRoute/default/")
		}
		if got != c.route {
			t.Errorf("%q: got route %q, want %q", c.sni, got, c.route)
		}
	}
	// A Host header must not reach what hangs on a listener of bytes.
	l := bound.Listener([]byte("one.example"))
	if hit, ok := l.Match(p, request(t, "GET one.example/")); ok {
		t.Errorf("a request landed at %s", hit.Route.Name)
	}
	sni := []byte("two.example")
	if n := testing.AllocsPerRun(100, func() { l.Stream(p, sni) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
