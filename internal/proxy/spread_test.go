package proxy_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"windrose.dev/windrose/internal/h2"
	"windrose.dev/windrose/internal/plan"
)

// Connections that last are on all loops, however the kernel spreads them.
func TestFewConnectionsAreOnAllLoops(t *testing.T) {
	for _, protocol := range []plan.Protocol{plan.HTTP, plan.TCP} {
		t.Run(string(protocol), func(t *testing.T) {
			g := start(t, 3, to(answering(t, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"))...)
			addr := g.addr
			if protocol == plan.TCP {
				addr = g.carry(plan.Listener{Protocol: plan.TCP}, plan.Backend{Service: "s", Weight: 1})
			}
			for i := range 12 {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				p := newPeer(t, c)
				p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
				if _, body := p.answer("GET"); body != "ok" {
					t.Fatalf("got %q, want ok", body)
				}
				least, most := (i+1)/3, (i+3)/3
				for loop, n := range g.proxy.Held() {
					if n < least || n > most {
						t.Errorf("after %d connections loop %d holds %d, want %d to %d", i+1, loop, n, least, most)
					}
				}
			}
			if n := g.metric("windrose_connections_accepted_total"); n != 12 {
				t.Errorf("%v connections are counted as accepted, want 12", n)
			}
		})
	}
}

// While connections come, a socket goes: each of them is told to leave.
func TestConnectionsHandedWhileTheSocketGoes(t *testing.T) {
	g := start(t, 2, append(to(answering(t, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")), settings(plan.Settings{DrainTimeout: 100 * time.Millisecond}))...)
	var muxes []*mux
	for range 20 {
		muxes = append(muxes, g.dialH2())
	}
	g.drop(plan.KindSocket, "tcp/"+g.addr)
	for _, m := range muxes {
		m.flush()
		for m.next().kind != 0 { // the connection is closed
		}
	}
	eventually(t, "no connection is left", func() bool { return g.proxy.Connections() == 0 })
	for loop, n := range g.proxy.Held() {
		if n != 0 {
			t.Errorf("loop %d still counts %d", loop, n)
		}
	}
}

// BenchmarkFewConnections has four busy connections of HTTP/2 on two loops: what
// one loop does more than the other is time that all wait for.
func BenchmarkFewConnections(b *testing.B) {
	g := start(b, 2, to(answering(b, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"))...)
	muxes := make([]*mux, 4)
	for i := range muxes {
		muxes[i] = g.dialH2()
		_ = muxes[i].SetDeadline(time.Time{})
	}
	pad := strings.Repeat("x", 1000)
	done := make(chan error)
	for _, m := range muxes {
		go func() {
			for range b.N {
				id, ok := m.h.BeginRequest(&h2.Line{Method: []byte("GET"), Scheme: []byte("http"), Authority: []byte("x"), Path: []byte("/" + pad)}, nil)
				if !ok {
					done <- fmt.Errorf("no room")
					return
				}
				m.h.EndHead(true)
				if body := m.pull(id, 0); body != "ok" {
					done <- fmt.Errorf("got %q", body)
					return
				}
			}
			done <- nil
		}()
	}
	for range muxes {
		if err := <-done; err != nil {
			b.Error(err)
		}
	}
}
