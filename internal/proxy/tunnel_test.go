package proxy_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"windrose.dev/windrose/internal/plan"
)

const upgrade = "GET /chat HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: abc\r\n\r\n"

// switching is an endpoint that accepts each upgrade, says early at once, and
// then has talk go on.
func switching(tb testing.TB, early string, talk func(p *peer)) string {
	return endpoint(tb, func(p *peer) {
		head := p.head()
		for _, want := range []string{"connection: upgrade\r\n", "upgrade: websocket\r\n", "sec-websocket-key: abc\r\n"} {
			if !strings.Contains(head, want) {
				tb.Errorf("the endpoint got %q, want it to contain %q", head, want)
			}
		}
		p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-Websocket-Accept: xyz\r\n\r\n" + early)
		talk(p)
	})
}

func echo(p *peer) { _, _ = io.Copy(p, p.r) }

// covers: HTTPRouteBackendProtocolWebSocket
func TestUpgradeEchoes(t *testing.T) {
	g := start(t, 1, to(switching(t, "early", echo))...)
	p := g.dial()
	p.send(upgrade + "sent before the answer ")
	head := p.head()
	for _, want := range []string{"HTTP/1.1 101 ", "upgrade: websocket\r\n", "connection: upgrade\r\n", "Sec-Websocket-Accept: xyz\r\n"} {
		if !strings.Contains(head, want) {
			t.Errorf("head is %q, want it to contain %q", head, want)
		}
	}
	p.exactly("earlysent before the answer ")
	for range 50 {
		p.send("ping")
		p.exactly("ping")
	}
	p.closeWrite() // the echo then ends its side too
	if rest := p.rest(); rest != "" {
		t.Errorf("got %q behind the end", rest)
	}
	l := g.wantLines(1)[0]
	if l.Status != 101 || l.Fault != "" || l.BytesIn != 23+200 || l.BytesOut != 5+23+200 {
		t.Errorf("record: got %+v, want 101, 223 bytes in and 228 out", l)
	}
}

func TestTunnelHalfClose(t *testing.T) {
	t.Run("the client ends first", func(t *testing.T) {
		g := start(t, 1, to(switching(t, "", func(p *peer) {
			all, err := io.ReadAll(p.r) // the end is passed on
			if err != nil || string(all) != "question" {
				t.Errorf("endpoint got %q (%v)", all, err)
			}
			p.send("answer")
		}))...)
		p := g.dial()
		p.send(upgrade)
		p.head()
		p.send("question")
		p.closeWrite()
		if rest := p.rest(); rest != "answer" {
			t.Errorf("got %q, want %q", rest, "answer")
		}
		g.wantLines(1)
	})
	t.Run("the endpoint ends first", func(t *testing.T) {
		got := make(chan string, 1)
		g := start(t, 1, to(switching(t, "", func(p *peer) {
			p.send("question")
			p.closeWrite()
			all, _ := io.ReadAll(p.r)
			got <- string(all)
		}))...)
		p := g.dial()
		p.send(upgrade)
		p.head()
		if rest := p.rest(); rest != "question" {
			t.Errorf("got %q, want %q", rest, "question")
		}
		p.send("answer")
		p.closeWrite()
		if all := <-got; all != "answer" {
			t.Errorf("endpoint got %q, want %q", all, "answer")
		}
		g.wantLines(1)
	})
}

func TestTunnelCarriesMuchBothWays(t *testing.T) {
	const size = 8 << 20
	g := start(t, 1, to(switching(t, "", echo))...)
	p := g.dial()
	p.send(upgrade)
	p.head()
	go func() {
		_, _ = io.Copy(p.Conn, io.LimitReader(zeroes{}, size))
		p.closeWrite()
	}()
	n, err := io.Copy(io.Discard, p.r)
	if n != size || err != nil {
		t.Errorf("got %d bytes back (%v), want %d", n, err, size)
	}
	if l := g.wantLines(1)[0]; l.BytesIn != size || l.BytesOut != size {
		t.Errorf("record: got %+v, want %d bytes each way", l, size)
	}
}

func TestUpgradeRefused(t *testing.T) {
	g := start(t, 1, to(answering(t, "HTTP/1.1 403 No\r\ncontent-length: 2\r\n\r\nno"))...)
	p := g.dial()
	p.send(upgrade)
	if resp, body := p.answer("GET"); resp.StatusCode != 403 || body != "no" {
		t.Errorf("got %d %q, want 403 no", resp.StatusCode, body)
	}
	p.send("GET /next HTTP/1.1\r\nhost: x\r\n\r\n")
	if _, body := p.answer("GET"); body != "next" {
		t.Errorf("got %q, want %q", body, "next")
	}
	g.wantLines(2)
}

func TestTunnelEnds(t *testing.T) {
	for _, c := range []struct {
		name     string
		settings plan.Settings
		talk     func(p *peer)
		leave    func(g *gateway, p *peer)
	}{
		{"when nothing moves", plan.Settings{TunnelTimeout: 50 * time.Millisecond}, echo, func(*gateway, *peer) {}},
		{"when the client is lost", plan.Settings{}, echo, func(_ *gateway, p *peer) { p.reset() }},
		{"when the endpoint is lost", plan.Settings{}, func(p *peer) { p.r.ReadByte(); p.reset() }, func(_ *gateway, p *peer) { p.send("x") }},
		{"when its listener goes and time runs out", plan.Settings{DrainTimeout: 50 * time.Millisecond}, echo, func(g *gateway, _ *peer) { g.drop(plan.KindSocket, "tcp/"+g.addr) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := start(t, 1, append(to(switching(t, "", c.talk)), settings(c.settings))...)
			p := g.dial()
			p.send(upgrade)
			p.head()
			c.leave(g, p)
			eventually(t, "no connection is left", func() bool { return g.proxy.Connections() == 0 })
			g.wantLines(1)
			if n := g.metric("windrose_tunnels_active"); n != 0 {
				t.Errorf("%v tunnels are counted as active, want 0", n)
			}
		})
	}
}
