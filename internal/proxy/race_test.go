package proxy_test

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"windrose.dev/windrose/internal/plan"
)

// These tests are about things that happen at the same time.

// What an endpoint said before a request was sent is not its answer, even if
// both are seen in one turn.
func TestStaleAnswerOfTheSameTurn(t *testing.T) {
	var conns sync.Map
	b := endpoint(t, func(p *peer) {
		conns.Store(p, true)
		for {
			if req, _ := p.request(); req == nil {
				return
			}
			// The gateway may have given the connection up.
			_, _ = io.WriteString(p, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfresh")
		}
	})
	g := start(t, 1, to(b)...)
	for _, method := range []string{"GET", "POST"} {
		p := g.dial()
		p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
		p.answer("GET")
		eventually(t, "the connection is in the pool", func() bool { return g.metric("windrose_upstream_connections_idle") == 1 })
		g.proxy.Hold(0, func() {
			p.send(method + " / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
			conns.Range(func(c, _ any) bool {
				_, _ = io.WriteString(c.(*peer), "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")
				return true
			})
		})
		if resp, body := p.answer(method); resp.StatusCode != 200 || body != "fresh" {
			t.Errorf("%s: got %d %q, want 200 fresh", method, resp.StatusCode, body)
		}
	}
}

// An answer may end where the loop's read buffer does, with more behind it.
func TestBytesBehindAnAnswerThatFillsTheBuffer(t *testing.T) {
	head := "HTTP/1.1 200 OK\r\ncontent-length: 65486\r\n\r\n"
	answer := head + strings.Repeat("x", 65486)
	if pad := 64<<10 - len(answer); pad != 0 {
		head = "HTTP/1.1 200 OK\r\npad: " + strings.Repeat("p", pad-7) + "\r\ncontent-length: 65486\r\n\r\n"
		answer = head + strings.Repeat("x", 65486)
	}
	if len(answer) != 64<<10 {
		t.Fatalf("the answer has %d bytes", len(answer))
	}
	b := endpoint(t, func(p *peer) {
		if req, _ := p.request(); req != nil {
			p.send(answer + "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")
			p.request()
		}
	})
	g := start(t, 1, to(b)...)
	p := g.dial()
	for range 50 {
		p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
		if _, body := p.answer("GET"); len(body) != 65486 {
			t.Fatalf("got %d bytes %.10q, want 65486", len(body), body)
		}
	}
}

// Where one pooled connection turns out closed, the others may be too.
func TestRetryTakesAFreshConnection(t *testing.T) {
	var seen atomic.Int64
	g := start(t, 1, to(closing(t, &seen))...)
	var wg sync.WaitGroup
	peers := []*peer{g.dial(), g.dial(), g.dial()}
	g.proxy.Hold(0, func() { // so that each has a connection of its own
		for _, p := range peers {
			p.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
		}
	})
	for _, p := range peers {
		wg.Go(func() { p.answer("GET") })
	}
	wg.Wait()
	eventually(t, "all connections are in the pool", func() bool { return g.metric("windrose_upstream_connections_idle") == 3 })
	peers[0].send("GET / HTTP/1.1\r\nhost: x\r\n\r\n")
	if resp, _ := peers[0].answer("GET"); resp.StatusCode != 200 {
		t.Errorf("got %d, want 200", resp.StatusCode)
	}
	g.wantLines(4)
}

// The reset of an endpoint that has answered comes while nothing is written to
// it.
func TestAnswerBeforeAReset(t *testing.T) {
	b := endpoint(t, func(p *peer) {
		p.head()
		p.send("HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig")
		p.reset()
	})
	g := start(t, 1, to(b)...)
	p := g.dial()
	p.send("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc")
	eventually(t, "the endpoint was connected to", func() bool { return g.metric("windrose_upstream_connections_opened_total") == 1 })
	resp, err := http.ReadResponse(p.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); resp.StatusCode != 413 || string(body) != "big" || err != nil {
		t.Errorf("got %d %q (%v), want 413 big", resp.StatusCode, body, err)
	}
}

// A client that stops reading is given up; if it reads on, what it has must not
// look whole.
func TestSlowReaderIsCutOff(t *testing.T) {
	b := endpoint(t, func(p *peer) {
		p.head()
		p.send("HTTP/1.1 200 OK\r\n\r\n")
		_, _ = io.Copy(p.Conn, io.LimitReader(zeroes{}, 64<<20))
	})
	g := start(t, 1, append(to(b), settings(plan.Settings{BodyTimeout: 100 * time.Millisecond}))...)
	p := g.dial()
	p.send("GET / HTTP/1.0\r\n\r\n") // the end of the connection is the end of the body
	if l := g.wantLines(1)[0]; l.Fault != "client-gone" {
		t.Errorf("record: got %+v, want client-gone", l)
	}
	if n, err := io.Copy(io.Discard, p.r); !cutOff(err) {
		t.Errorf("read %d bytes and %v, want that the answer was cut off", n, err)
	}
}
