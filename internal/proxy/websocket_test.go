package proxy_test

import (
	"crypto/sha1"
	"encoding/base64"
	"io"
	"strings"
	"testing"
	"time"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/h2"
	"windrose.dev/windrose/internal/plan"
)

// mux is one end of an HTTP/2 connection of a test.
type mux struct {
	*peer
	h    *h2.Conn
	left []byte // read, and not looked at
	buf  []byte
}

// note is what a test remembers of an event.
type note struct {
	kind   h2.Kind
	stream uint32
	end    bool
	status int
	method string
	path   string
	upto   string // :protocol
	data   string
	code   h2.Code
	fields map[string]string
}

func newMux(p *peer, h *h2.Conn) *mux { return &mux{peer: p, h: h, buf: make([]byte, 32<<10)} }

func (g *gateway) dialH2() *mux {
	return newMux(g.dial(), h2.NewClient(h2.NewScratch(h2.Config{})))
}

// endpointH2 is an endpoint that speaks HTTP/2 with prior knowledge.
func endpointH2(tb testing.TB, cfg h2.Config, serve func(m *mux)) string {
	return endpoint(tb, func(p *peer) { serve(newMux(p, h2.NewServer(h2.NewScratch(cfg)))) })
}

func (m *mux) flush() {
	_, _ = m.Write(m.h.Out())
	m.h.Sent()
}

// next reads the next event about a stream; its kind is 0 at the end of the
// connection.
func (m *mux) next() note {
	m.flush()
	for {
		ev, n, err := m.h.Next(m.left)
		m.left = m.left[n:]
		if err != nil {
			m.tb.Errorf("HTTP/2: %v", err)
			return note{}
		}
		switch ev.Kind {
		case 0:
			m.flush()
			n, err := m.Read(m.buf)
			if err != nil {
				return note{}
			}
			m.left = m.buf[:n]
			continue
		case h2.Settings, h2.SettingsAck, h2.PingAck, h2.Goaway:
			continue
		default:
		}
		e := note{kind: ev.Kind, stream: ev.Stream, end: ev.End, data: string(ev.Data), code: ev.Code, fields: map[string]string{}}
		m.h.Consumed(ev.Stream, len(ev.Data))
		fields := ev.Fields
		switch {
		case ev.Request != nil:
			e.method, e.path, e.upto = string(ev.Request.Method), string(ev.Request.Path), string(ev.Request.Upgrade)
			fields = ev.Request.Fields
		case ev.Response != nil:
			e.status = ev.Response.Status
			fields = ev.Response.Fields
		}
		for _, f := range fields {
			e.fields[string(f.Name)] += string(f.Value)
		}
		return e
	}
}

// until reads up to an event of a kind, which must come.
func (m *mux) until(kind h2.Kind) note {
	m.tb.Helper()
	for {
		switch e := m.next(); e.kind {
		case kind:
			return e
		case 0:
			m.tb.Errorf("the connection ended, want %v", kind)
			return e
		default:
		}
	}
}

// connect begins a WebSocket.
func (m *mux) connect(protocol string, fields ...string) uint32 {
	m.tb.Helper()
	for !m.h.TakesConnect() { // the settings, which say so, come first
		if len(m.left) == 0 {
			m.flush()
			n, err := m.Read(m.buf)
			if err != nil {
				m.tb.Fatalf("extended CONNECT is not announced: %v", err)
			}
			m.left = m.buf[:n]
		}
		_, n, err := m.h.Next(m.left)
		m.left = m.left[n:]
		if err != nil {
			m.tb.Fatal(err)
		}
	}
	l := h2.Line{Method: []byte("CONNECT"), Scheme: []byte("http"), Authority: []byte("x"), Path: []byte("/chat?a=b"), Protocol: []byte(protocol)}
	id, ok := m.h.BeginRequest(&l, nil)
	if !ok {
		m.tb.Fatal("no stream can be opened")
	}
	m.h.AddString("sec-websocket-version", "13")
	for i := 0; i < len(fields); i += 2 {
		m.h.AddString(fields[i], fields[i+1])
	}
	m.h.EndHead(false)
	return id
}

// push sends all of text; what comes meanwhile is returned.
func (m *mux) push(stream uint32, text string, end bool) string {
	var got strings.Builder
	for {
		n := m.h.WriteData(stream, []byte(text), end)
		text = text[n:]
		if text == "" {
			m.flush()
			return got.String()
		}
		e := m.next()
		if e.kind == 0 || e.kind == h2.Reset {
			m.tb.Errorf("got %+v while sending", e)
			return got.String()
		}
		got.WriteString(e.data)
	}
}

// echo sends back what came, what comes meanwhile too, and the end.
func (m *mux) echo(e note) {
	for data := []byte(e.data); ; {
		n := m.h.WriteData(e.stream, data, e.end)
		if data = data[n:]; len(data) == 0 {
			return
		}
		more := m.next()
		if more.kind == 0 || more.kind == h2.Reset {
			return
		}
		data = append(data, more.data...)
		e.end = e.end || more.end
	}
}

// pull reads what comes on a stream until it has as much as want, or to its end
// if that is 0.
func (m *mux) pull(stream uint32, want int) string {
	m.tb.Helper()
	var got strings.Builder
	for want == 0 || got.Len() < want {
		e := m.next()
		if e.kind != 0 && e.stream != stream {
			continue
		}
		got.WriteString(e.data)
		if e.kind == 0 || e.kind == h2.Reset {
			m.tb.Errorf("got %+v after %d bytes", e, got.Len())
			break
		}
		if e.end {
			break
		}
	}
	return got.String()
}

// accepting is an endpoint of HTTP/1 that accepts WebSockets by the rules.
func accepting(tb testing.TB, talk func(p *peer)) string {
	return endpoint(tb, func(p *peer) {
		head := p.head()
		req := new(h1.Request)
		if _, err := req.Parse([]byte(head), 0, h1.Limits{}); err != nil {
			tb.Errorf("endpoint got %q: %v", head, err)
			return
		}
		key, _ := h1.Lookup(req.Fields, "sec-websocket-key")
		for _, want := range []string{"GET /chat?a=b HTTP/1.1\r\n", "connection: upgrade\r\n", "upgrade: websocket\r\n", "sec-websocket-version: 13\r\n", "host: x\r\n"} {
			if !strings.Contains(head, want) {
				tb.Errorf("endpoint got %q, want it to contain %q", head, want)
			}
		}
		if strings.Count(head, "sec-websocket-key") != 1 || len(key) != 24 {
			tb.Errorf("endpoint got %q, want one key", head)
		}
		p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: chat\r\nSec-WebSocket-Accept: " + acceptOf(string(key)) + "\r\n\r\n")
		talk(p)
	})
}

// acceptingH2 is an endpoint of HTTP/2 that accepts WebSockets and echoes.
func acceptingH2(tb testing.TB) string {
	return endpointH2(tb, h2.Config{Connect: true}, func(m *mux) {
		for {
			switch e := m.next(); e.kind {
			case 0:
				return
			case h2.Head:
				if e.method != "CONNECT" || e.upto != "websocket" || e.path != "/chat" || e.fields["sec-websocket-key"] != "" || e.fields["sec-websocket-version"] != "13" {
					tb.Errorf("endpoint got %+v", e)
				}
				m.h.BeginResponse(e.stream, 200)
				m.h.AddString("sec-websocket-protocol", "chat")
				m.h.AddString("sec-websocket-accept", "forged")
				m.h.EndHead(false)
			case h2.Data:
				m.echo(e)
			default:
			}
		}
	})
}

// sockets runs a test with an endpoint of each protocol.
func sockets(t *testing.T, f func(t *testing.T, parts []plan.Part)) {
	t.Helper()
	r := route("r", all(plan.Backend{Service: "s", Weight: 1}))
	t.Run("to HTTP/1", func(t *testing.T) { f(t, []plan.Part{r, service("s", accepting(t, echo))}) })
	t.Run("to HTTP/2", func(t *testing.T) { f(t, []plan.Part{r, h2cService("s", acceptingH2(t))}) })
}

func TestWebSocketOverH2(t *testing.T) {
	sockets(t, func(t *testing.T, parts []plan.Part) {
		g := start(t, 1, parts...)
		m := g.dialH2()
		id := m.connect("websocket", "sec-websocket-key", "bWluZSBhbmQgbm90IHlvdXI=", "content-type", "application/grpc")
		e := m.until(h2.Head)
		if e.status != 200 || e.end || e.fields["sec-websocket-protocol"] != "chat" || e.fields["sec-websocket-accept"] != "" || len(e.fields["x-request-id"]) != 32 {
			t.Fatalf("got %+v, want 200 and the subprotocol alone", e)
		}
		for range 50 {
			m.push(id, "ping", false)
			if got := m.pull(id, 4); got != "ping" {
				t.Fatalf("got %q, want ping", got)
			}
		}
		if n := g.metric("windrose_tunnels_active"); n != 1 {
			t.Errorf("%v tunnels are counted as active, want 1", n)
		}
		m.push(id, "", true)
		if rest := m.pull(id, 0); rest != "" {
			t.Errorf("got %q behind the end", rest)
		}
		l := g.wantLines(1)[0]
		if l.Status != 200 || l.Method != "CONNECT" || l.Fault != "" || l.BytesIn != 200 || l.BytesOut != 200 {
			t.Errorf("record: got %+v, want CONNECT, 200 and 200 bytes each way", l)
		}
		if n := g.metric("windrose_tunnels_active"); n != 0 {
			t.Errorf("%v tunnels are counted as active, want 0", n)
		}
	})
}

func TestWebSocketOverH2CarriesMuch(t *testing.T) {
	sockets(t, func(t *testing.T, parts []plan.Part) {
		g := start(t, 1, parts...)
		m := g.dialH2()
		id := m.connect("websocket")
		m.until(h2.Head)
		sent := strings.Repeat("0123456789abcdef", 4<<20/16)
		got := m.push(id, sent, true)
		got += m.pull(id, 0)
		if got != sent {
			t.Errorf("%d bytes came back of %d, or others", len(got), len(sent))
		}
		g.wantLines(1)
	})
}

func TestWebSocketToH2(t *testing.T) {
	g := start(t, 1, route("r", all(plan.Backend{Service: "s", Weight: 1})), h2cService("s", acceptingH2(t)))
	p := g.dial()
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	p.send("GET /chat HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: WebSocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: " + key + "\r\n\r\nearly")
	head := p.head()
	for _, want := range []string{"HTTP/1.1 101 ", "upgrade: websocket\r\n", "connection: upgrade\r\n", "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", "sec-websocket-protocol: chat\r\n"} {
		if !strings.Contains(head, want) {
			t.Errorf("head is %q, want it to contain %q", head, want)
		}
	}
	if strings.Contains(head, "forged") {
		t.Errorf("head is %q, with the endpoint's Sec-WebSocket-Accept", head)
	}
	p.exactly("early")
	const size = 4 << 20
	go func() {
		_, _ = io.Copy(p.Conn, io.LimitReader(zeroes{}, size))
		p.closeWrite()
	}()
	if n, err := io.Copy(io.Discard, p.r); n != size || err != nil {
		t.Errorf("got %d bytes back (%v), want %d", n, err, size)
	}
	if l := g.wantLines(1)[0]; l.Status != 101 || l.BytesIn != size+5 || l.BytesOut != size+5 {
		t.Errorf("record: got %+v, want 101 and %d bytes each way", l, size+5)
	}
}

func TestWebSocketToH2IsRefused(t *testing.T) {
	const head = "GET /chat HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\n"
	const good = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	for _, c := range []struct {
		name, send string
		status     int
		why        string
	}{
		{"not announced", head + "upgrade: websocket\r\n" + good, 501, "does not announce extended CONNECT"},
		{"another protocol", head + "upgrade: chat\r\n" + good, 501, "no upgrade but that of a WebSocket"},
		{"no key", head + "upgrade: websocket\r\n", 400, "Sec-WebSocket-Key"},
		{"two keys", head + "upgrade: websocket\r\n" + good + good, 400, "Sec-WebSocket-Key"},
		{"a short key", head + "upgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZ\r\n", 400, "Sec-WebSocket-Key"},
		{"a long key", head + "upgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==AAAA\r\n", 400, "Sec-WebSocket-Key"},
		{"a POST", strings.Replace(head, "GET", "POST", 1) + "upgrade: websocket\r\n" + good, 400, "GET"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := start(t, 1, route("r", all(plan.Backend{Service: "s", Weight: 1})), h2cService("s", endpointH2(t, h2.Config{}, func(m *mux) {
				if e := m.next(); e.kind != 0 {
					t.Errorf("endpoint got %+v, want nothing", e)
				}
			})))
			p := g.dial()
			p.send(c.send + "\r\n")
			resp, body := p.answer("GET")
			if resp.StatusCode != c.status || !strings.Contains(body, c.why) {
				t.Errorf("got %d %q, want %d and %q", resp.StatusCode, body, c.status, c.why)
			}
		})
	}
}

func TestConnectOverH2IsRefused(t *testing.T) {
	for _, c := range []struct{ name, protocol string }{
		{"another protocol", "connect-udp"},
		{"a plain CONNECT", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := start(t, 1, to(answering(t, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"))...)
			m := g.dialH2()
			if c.protocol != "" {
				m.connect(c.protocol, "content-type", "application/grpc")
			} else {
				m.h.BeginRequest(&h2.Line{Method: []byte("CONNECT"), Authority: []byte("x:80")}, nil)
				m.h.AddString("content-type", "application/grpc") // in gRPC's way a fault has status 200
				m.h.EndHead(false)
			}
			if e := m.until(h2.Head); e.status != 501 || e.fields["x-windrose-fault"] != "not-supported" {
				t.Errorf("got %+v, want 501", e)
			}
		})
	}
}

func TestWebSocketForgedByTheEndpoint(t *testing.T) {
	const sw = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
	for _, c := range []struct{ name, say, why string }{
		{"200", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "did not switch protocols"},
		{"204", "HTTP/1.1 204 No Content\r\n\r\n", "did not switch protocols"},
		{"no accept", sw + "Upgrade: websocket\r\n\r\n", "does not answer the key"},
		{"another accept", sw + "Upgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", "does not answer the key"},
		{"another protocol", sw + "Upgrade: chat\r\n\r\n", "another protocol"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := start(t, 1, to(once(t, c.say))...)
			m := g.dialH2()
			id := m.connect("websocket")
			m.h.WriteData(id, []byte("GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"), false)
			e := m.until(h2.Head)
			if e.status != 502 || e.fields["x-windrose-fault"] != "upstream-protocol" {
				t.Errorf("got %+v, want 502", e)
			}
			if body := m.pull(id, 0); !strings.Contains(body, c.why) {
				t.Errorf("got %q, want %q", body, c.why)
			}
		})
	}
}

// What a client sends behind a CONNECT that is refused must not be taken for
// the next request by the endpoint.
func TestWebSocketRefusedByTheEndpointSmugglesNothing(t *testing.T) {
	g := start(t, 1, to(answering(t, "HTTP/1.1 403 No\r\ncontent-length: 2\r\n\r\nno"))...)
	m := g.dialH2()
	id := m.connect("websocket")
	m.push(id, "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n", false)
	if e := m.until(h2.Head); e.status != 403 {
		t.Fatalf("got %+v, want 403", e)
	}
	if body := m.pull(id, 0); body != "no" {
		t.Errorf("got %q, want no", body)
	}
	next, _ := m.h.BeginRequest(&h2.Line{Method: []byte("GET"), Scheme: []byte("http"), Authority: []byte("x"), Path: []byte("/next")}, nil)
	m.h.EndHead(true)
	if body := m.pull(next, 4); body != "next" {
		t.Errorf("got %q, want next", body)
	}
	if n := g.metric("windrose_upstream_connections_opened_total"); n != 1 {
		t.Errorf("%v connections to the endpoint, want the one used again", n)
	}
}

// What a client sends before the endpoint has agreed comes once it has.
func TestWebSocketEarlyData(t *testing.T) {
	for _, end := range []bool{false, true} {
		g := start(t, 1, to(accepting(t, func(p *peer) {
			p.exactly("early")
			p.send("late")
		}))...)
		m := g.dialH2()
		id := m.connect("websocket")
		m.h.WriteData(id, []byte("early"), end)
		if got := m.pull(id, 0); got != "late" {
			t.Errorf("got %q, want late", got)
		}
	}
}

func TestWebSocketOverH2HalfClose(t *testing.T) {
	t.Run("the client ends first", func(t *testing.T) {
		g := start(t, 1, to(accepting(t, func(p *peer) {
			if all := p.rest(); all != "question" {
				t.Errorf("endpoint got %q", all)
			}
			p.send("answer")
		}))...)
		m := g.dialH2()
		id := m.connect("websocket")
		m.until(h2.Head)
		m.push(id, "question", true)
		if got := m.pull(id, 0); got != "answer" {
			t.Errorf("got %q, want answer", got)
		}
		g.wantLines(1)
	})
	t.Run("the endpoint ends first", func(t *testing.T) {
		got := make(chan string, 1)
		g := start(t, 1, to(accepting(t, func(p *peer) {
			p.send("question")
			p.closeWrite()
			all, _ := io.ReadAll(p.r)
			got <- string(all)
		}))...)
		m := g.dialH2()
		id := m.connect("websocket")
		if text := m.pull(id, 0); text != "question" {
			t.Errorf("got %q, want question", text)
		}
		m.push(id, "answer", true)
		if all := <-got; all != "answer" {
			t.Errorf("endpoint got %q, want answer", all)
		}
		g.wantLines(1)
	})
}

func TestWebSocketOverH2Ends(t *testing.T) {
	for _, c := range []struct {
		name     string
		settings plan.Settings
		talk     func(p *peer)
		leave    func(g *gateway, m *mux, id uint32)
	}{
		{"when nothing moves", plan.Settings{TunnelTimeout: 50 * time.Millisecond}, echo, func(*gateway, *mux, uint32) {}},
		{"when the endpoint is lost", plan.Settings{}, func(p *peer) { _, _ = p.r.ReadByte(); p.reset() }, func(_ *gateway, m *mux, id uint32) { m.push(id, "x", false) }},
		{"when its listener goes and time runs out", plan.Settings{DrainTimeout: 50 * time.Millisecond}, echo, func(g *gateway, _ *mux, _ uint32) { g.drop(plan.KindSocket, "tcp/"+g.addr) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := start(t, 1, append(to(accepting(t, c.talk)), settings(c.settings))...)
			m := g.dialH2()
			id := m.connect("websocket")
			m.until(h2.Head)
			c.leave(g, m, id)
			if e := m.until(h2.Reset); e.code != h2.Cancel {
				t.Errorf("got %+v, want the stream reset with CANCEL", e)
			}
			g.wantLines(1)
			if n := g.metric("windrose_tunnels_active"); n != 0 {
				t.Errorf("%v tunnels are counted as active, want 0", n)
			}
		})
	}
}

func TestWebSocketResetByTheClient(t *testing.T) {
	lost := make(chan struct{})
	g := start(t, 1, to(accepting(t, func(p *peer) {
		_, _ = io.Copy(io.Discard, p.r)
		close(lost)
	}))...)
	m := g.dialH2()
	id := m.connect("websocket")
	m.until(h2.Head)
	m.h.Reset(id, h2.Cancel)
	m.flush()
	select {
	case <-lost:
	case <-time.After(patience):
		t.Error("the endpoint still has its connection")
	}
	g.wantLines(1)
}

// acceptOf is the answer to a key, as RFC 6455 1.3 computes it.
func acceptOf(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
