package h2_test

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/h2"
)

// browser is the head that h1's benchmark has, as a browser sends it.
var browser = []string{
	"user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
	"accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
	"accept-language", "en-US,en;q=0.5",
	"accept-encoding", "gzip, deflate, br, zstd",
	"referer", "https://shop.example.com/cart",
	"cookie", "session=0123456789abcdef0123456789abcdef; theme=dark",
	"x-request-id", "4bf92f35-77b3-4da6-a3ce-929d0e0e4736",
	"x-forwarded-for", "203.0.113.7",
}

// pair is a client and a server of ours, joined by hand, that exchange a request
// and its answer.
type pair struct {
	client, server *h2.Conn
	line           h2.Line
	fields         []h1.Field
	n              int
	failed         error
	body           []byte
}

func newPair() *pair {
	p := &pair{
		client: h2.NewClient(h2.NewScratch(h2.Config{})),
		server: h2.NewServer(h2.NewScratch(h2.Config{})),
		line:   h2.Line{Method: []byte("GET"), Scheme: []byte("https"), Authority: []byte("shop.example.com"), Path: []byte("/api/v1/orders/00000?expand=items&lang=en")},
		body:   []byte(strings.Repeat("x", 1024)),
	}
	for i := 0; i < len(browser); i += 2 {
		name := []byte(browser[i])
		p.fields = append(p.fields, h1.Field{Name: name, Value: []byte(browser[i+1]), Known: h1.Classify(name)})
	}
	for range 3 {
		p.exchange()
	}
	return p
}

// exchange is what a proxy does with both ends for a request: no two have the
// same path, id and cookie.
func (p *pair) exchange() {
	p.n++
	for _, b := range [][]byte{p.line.Path[len("/api/v1/orders/"):], p.fields[5].Value[len("session="):], p.fields[6].Value} {
		b[0], b[1], b[2] = '0'+byte(p.n%10), '0'+byte(p.n/10%10), '0'+byte(p.n/100%10)
	}
	if _, ok := p.client.BeginRequest(&p.line, p); ok {
		for i := range p.fields {
			p.client.AddField(&p.fields[i])
		}
	}
	p.client.EndHead(true)
	p.serve(p.client.Out())
	p.client.Sent()
	p.drain(p.client, p.server.Out())
	p.server.Sent()
}

func (p *pair) serve(in []byte) {
	for {
		ev, n, err := p.server.Next(in)
		in = in[n:]
		switch {
		case err != nil:
			p.failed = err
			return
		case ev.Kind == 0:
			return
		case ev.Kind == h2.Head:
			answer(p.server, ev.Stream)
			p.server.WriteData(ev.Stream, p.body, true)
		}
	}
}

// answer is the head of h1's benchmark.
func answer(c *h2.Conn, stream uint32) {
	c.BeginResponse(stream, 200)
	c.AddString("date", "Tue, 24 Nov 2026 12:00:00 GMT")
	c.AddString("server", "shop")
	c.AddString("content-type", "application/json")
	c.AddString("content-length", "1024")
	c.AddString("cache-control", "no-store")
	c.AddString("x-version", "42")
	c.EndHead(false)
}

func (p *pair) drain(c *h2.Conn, in []byte) {
	for {
		ev, n, err := c.Next(in)
		in = in[n:]
		switch {
		case err != nil:
			p.failed = err
			return
		case ev.Kind == 0:
			return
		case ev.Kind == h2.Data:
			c.Consumed(ev.Stream, len(ev.Data))
		}
	}
}

func TestExchangesAllocateNothing(t *testing.T) {
	p := newPair()
	if got := testing.AllocsPerRun(2000, p.exchange); got != 0 || p.failed != nil {
		t.Errorf("%v allocations for an exchange; %v", got, p.failed)
	}
}

// TestManyStreamsAllocateNothing has 50 streams open at a time.
func TestManyStreamsAllocateNothing(t *testing.T) {
	p := newPair()
	round := func() {
		for range 50 {
			p.client.BeginRequest(&p.line, p)
			p.client.EndHead(true)
		}
		p.serve(p.client.Out())
		p.client.Sent()
		p.drain(p.client, p.server.Out())
		p.server.Sent()
	}
	for range 3 {
		round()
	}
	// A large table of streams is not kept: one allocation for each step of its
	// growth, on both sides, and one for each end of a pair of buffers.
	if got := testing.AllocsPerRun(200, round); got > 12 || p.failed != nil {
		t.Errorf("%v allocations for 50 exchanges at a time; %v", got, p.failed)
	}
}

// idleBytes is what an idle connection may take. Measured on 2026-11-24: 1.6 KiB
// for a server's end after requests of a browser.
const idleBytes = 4 << 10

func TestIdleConnectionsAreSmall(t *testing.T) {
	const conns = 2000
	client := h2.NewScratch(h2.Config{})
	server := h2.NewScratch(h2.Config{})
	var before, after runtime.MemStats
	kept := make([]*h2.Conn, 0, conns)
	runtime.GC()
	runtime.ReadMemStats(&before)
	p := newPair()
	for range conns {
		p.client, p.server = h2.NewClient(client), h2.NewServer(server)
		for range 5 {
			p.exchange()
		}
		kept = append(kept, p.server)
		p.client.Close()
	}
	p.client = nil
	runtime.GC()
	runtime.ReadMemStats(&after)
	got := int(after.HeapAlloc-before.HeapAlloc) / conns
	t.Logf("%d bytes for an idle connection", got)
	if got > idleBytes || p.failed != nil {
		t.Errorf("%d bytes for an idle connection, want %d; %v", got, idleBytes, p.failed)
	}
	runtime.KeepAlive(kept)
}

// BenchmarkExchange is a request of ten fields and an answer of seven with a
// body of 1 KiB, written and read at both ends.
func BenchmarkExchange(b *testing.B) {
	p := newPair()
	b.ReportAllocs()
	for b.Loop() {
		p.exchange()
	}
	if p.failed != nil {
		b.Fatal(p.failed)
	}
}

// BenchmarkServer is the server's half: it reads the head of a request and
// writes that of an answer.
func BenchmarkServer(b *testing.B) {
	p := newPair()
	// What follows on a connection that has seen the fields before.
	var in []byte
	const rounds = 1000
	starts := make([]int, 0, rounds+1)
	for range rounds {
		starts = append(starts, len(in))
		p.client.BeginRequest(&p.line, p)
		for i := range p.fields {
			p.client.AddField(&p.fields[i])
		}
		p.client.EndHead(true)
		in = append(in, p.client.Out()...)
		p.client.Sent()
		p.server.Sent()
		p.serve(in[starts[len(starts)-1]:])
		p.drain(p.client, p.server.Out())
		p.server.Sent()
	}
	starts = append(starts, len(in))
	b.SetBytes(int64(len(in) / rounds))
	b.ReportAllocs()
	fresh := func() *h2.Conn {
		q := newPair()
		return q.server
	}
	i, c := 0, fresh()
	for b.Loop() {
		if i == rounds {
			b.StopTimer()
			i, c = 0, fresh()
			b.StartTimer()
		}
		for buf := in[starts[i]:starts[i+1]]; ; {
			ev, n, err := c.Next(buf)
			buf = buf[n:]
			if err != nil {
				b.Fatal(err)
			}
			if ev.Kind == 0 {
				break
			}
			answer(c, ev.Stream)
			c.WriteData(ev.Stream, nil, true)
		}
		c.Sent()
		i++
	}
}

// BenchmarkRequestOfLiterals reads a head that uses no table, as x/net's encoder
// writes it: all strings are Huffman coded.
func BenchmarkRequestOfLiterals(b *testing.B) {
	fields := []string{":method: GET", ":scheme: https", ":authority: shop.example.com", ":path: /api/v1/orders/12345?expand=items&lang=en"}
	for i := 0; i < len(browser); i += 2 {
		fields = append(fields, browser[i]+": "+browser[i+1])
	}
	block := block(fields...)
	c := h2.NewServer(h2.NewScratch(h2.Config{}))
	if _, _, err := c.Next(hello); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(block)))
	b.ReportAllocs()
	id := uint32(1)
	in := frame(headers, ends, 1, block...)
	for b.Loop() {
		in[5], in[6], in[7], in[8] = byte(id>>24), byte(id>>16), byte(id>>8), byte(id)
		for buf := in; ; {
			ev, n, err := c.Next(buf)
			buf = buf[n:]
			if err != nil {
				b.Fatal(err)
			}
			if ev.Kind == 0 {
				break
			}
		}
		c.BeginResponse(id, 204)
		c.EndHead(true)
		c.Sent()
		id += 2
	}
}

// BenchmarkDataIn reads DATA, and BenchmarkDataOut writes it, with windows that
// open as they go.
func BenchmarkDataIn(b *testing.B) {
	for _, size := range []int{16384, 1024} {
		b.Run(fmt.Sprintf("frame=%d", size), func(b *testing.B) {
			c := h2.NewServer(h2.NewScratch(h2.Config{}))
			in := cat(hello, open(1))
			once := bytes.Repeat(frame(data, 0, 1, make([]byte, size)...), 65536/size)
			read := func(buf []byte) {
				for {
					ev, n, err := c.Next(buf)
					buf = buf[n:]
					if err != nil {
						b.Fatal(err)
					}
					if ev.Kind == 0 {
						return
					}
					c.Consumed(ev.Stream, len(ev.Data))
				}
			}
			read(in)
			b.SetBytes(65536)
			b.ReportAllocs()
			for b.Loop() {
				read(once)
				c.Sent()
			}
		})
	}
}

func BenchmarkDataOut(b *testing.B) {
	c := h2.NewServer(h2.NewScratch(h2.Config{}))
	more := cat(frame(window, 0, 0, num(65536)...), frame(window, 0, 1, num(65536)...))
	read := func(buf []byte) {
		for {
			ev, n, err := c.Next(buf)
			buf = buf[n:]
			if err != nil {
				b.Fatal(err)
			}
			if ev.Kind == 0 {
				return
			}
		}
	}
	read(cat(hello, open(1), more))
	c.BeginResponse(1, 200)
	c.EndHead(false)
	c.Sent()
	body := make([]byte, 65536)
	b.SetBytes(65536)
	b.ReportAllocs()
	for b.Loop() {
		if n := c.WriteData(1, body, false); n != len(body) {
			b.Fatal(n)
		}
		c.Sent()
		read(more)
	}
}
