package h2_test

import (
	"bytes"
	"testing"

	"golang.org/x/net/http2/hpack"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/h2"
)

// parts are frames that matter, of which the fuzzer makes connections. The
// stream of those that have one is replaced.
func parts() [][]byte {
	return [][]byte{
		frame(headers, endHeaders, 1, request("POST")...),
		frame(headers, ends, 1, get()...),
		frame(headers, 0, 1, request("POST")...),
		frame(headers, endHeaders|padded|prioed, 1, cat([]byte{1, 0, 0, 0, 5, 9}, request("PUT", "content-length: 3"), []byte{0})...),
		frame(headers, ends, 1, block("grpc-status: 0")...),
		frame(headers, ends, 1, block(":status: 200")...),
		frame(headers, endHeaders, 1, block(":status: 200", "content-length: 3")...),
		frame(headers, endHeaders, 1, block(":status: 103")...),
		frame(headers, endHeaders, 1, block(":method: CONNECT", ":authority: a:1")...),
		frame(headers, ends, 1, 0x82, 0x86, 0x84, 0x41, 1, 'a', 0x40, 1, 'b', 1, 'c'),
		frame(headers, ends, 1, 0x82, 0x86, 0x84, 0xbf, 0xbe),
		frame(continuation, endHeaders, 1),
		frame(continuation, 0, 1, block("a: b")...),
		frame(data, 0, 1, 'a', 'b', 'c'),
		frame(data, endStream, 1),
		frame(data, endStream|padded, 1, 2, 'a', 0, 0),
		frame(data, padded, 1, 0),
		frame(data, 0, 1, make([]byte, 9000)...),
		frame(reset, 0, 1, num(8)...),
		frame(window, 0, 1, num(1)...),
		frame(window, 0, 0, num(1<<20)...),
		frame(window, 0, 1, num(0)...),
		frame(settings, 0, 0),
		frame(settings, ack, 0),
		frame(settings, 0, 0, cat(setting(4, 0), setting(1, 0), setting(1, 4096), setting(3, 1), setting(5, 20000), setting(8, 1))...),
		frame(settings, 0, 0, setting(4, 100)...),
		frame(ping, 0, 0, make([]byte, 8)...),
		frame(goaway, 0, 0, cat(num(3), num(0), []byte("why"))...),
		frame(priority, 0, 1, 0, 0, 0, 3, 1),
		frame(push, endHeaders, 1, cat(num(2), get())...),
		frame(0x42, 0xff, 1, 1, 2, 3),
	}
}

// assemble makes bytes of picks: a part, and the stream that it is for; or as
// they are, if the first is odd.
func assemble(first []byte, picks []byte) []byte {
	if len(picks) == 0 {
		return nil
	}
	if picks[0]%2 == 1 {
		return cat(first, picks[1:])
	}
	all := parts()
	out := bytes.Clone(first)
	for i := 1; i+1 < len(picks); i += 2 {
		p := bytes.Clone(all[int(picks[i])%len(all)])
		if p[8] != 0 {
			p[8] = picks[i+1] % 12
		}
		out = append(out, p...)
	}
	return out
}

// check runs what every connection must bear: the same result however the bytes
// are cut, answers in HTTP/2, and no stream that nobody knows of.
func check(t *testing.T, fresh func() *end, in []byte) {
	if len(in) > 1<<16 {
		return
	}
	e := checkPieces(t, fresh, in, 1, 3, 64)
	if e.c.Streams() > 100 {
		t.Fatalf("%d streams are open", e.c.Streams())
	}
	e.c.Close()
}

func FuzzServer(f *testing.F) {
	seed(f, string(frame(headers, ends, 1, get()...)))
	f.Fuzz(func(t *testing.T, picks []byte) {
		if len(picks) > 300 {
			return
		}
		check(t, func() *end {
			e := newServer(t, h2.Config{Connect: true})
			e.on = func(ev *h2.Event) { act(e, ev) }
			return e
		}, assemble(hello, picks))
	})
}

// act does this and that, depending on the stream, in answer to an event.
func act(e *end, ev *h2.Event) {
	c := e.c
	if ev.Stream == 0 {
		return
	}
	switch {
	case ev.Kind == h2.Writable:
		c.WriteData(ev.Stream, make([]byte, 1000), true)
	case ev.Kind == h2.Trailers && ev.Stream%8 == 7:
		c.Reset(ev.Stream, h2.Cancel)
	case ev.Kind != h2.Head:
	case ev.Stream%8 == 1:
		c.BeginResponse(ev.Stream, 200)
		c.AddString("server", "shop")
		c.EndHead(false)
		c.WriteData(ev.Stream, make([]byte, 30000), false)
	case ev.Stream%8 == 3:
		c.BeginResponse(ev.Stream, 204)
		c.EndHead(true)
	case ev.Stream%8 == 5:
		c.Reset(ev.Stream, h2.RefusedStream)
	}
}

func FuzzClient(f *testing.F) {
	seed(f, string(frame(headers, ends, 1, block(":status: 200", "content-length: 0")...)))
	f.Fuzz(func(t *testing.T, picks []byte) {
		if len(picks) > 300 {
			return
		}
		check(t, func() *end {
			e := &end{tb: t, c: h2.NewClient(h2.NewScratch(h2.Config{}))}
			for _, m := range []string{"GET", "HEAD", "CONNECT", "POST"} {
				id, _ := e.c.BeginRequest(line(m), m)
				e.c.EndHead(m != "CONNECT" && m != "POST")
				e.c.WriteData(id, make([]byte, 40000), m == "POST")
			}
			e.flush()
			e.out = nil
			return e
		}, assemble(frame(settings, 0, 0), picks))
	})
}

func seed(f *testing.F, raw string) {
	f.Add([]byte("\x01" + raw))
	for _, s := range [][]byte{
		{0, 0, 1, 13, 1, 14, 1, 1, 3, 18, 3},
		{0, 3, 1, 13, 1, 4, 1, 9, 3, 10, 5},
		{0, 2, 1, 12, 1, 11, 1, 15, 1, 20, 0, 24, 0, 25, 0, 26, 0},
		{0, 8, 1, 13, 1, 14, 1, 27, 0, 28, 1, 30, 1, 19, 1, 21, 3},
		{0, 5, 1, 7, 3, 6, 3, 13, 3, 14, 3, 27, 0},
		{0, 6, 1, 15, 1, 29, 1},
	} {
		f.Add(s)
	}
}

// FuzzRequest holds what becomes of a head of fuzzed fields against the rules
// that a request must keep to go into HTTP/1 unharmed.
func FuzzRequest(f *testing.F) {
	f.Add("GET", "https", "a.example", "/p?q", "x-a", "b")
	f.Add("OPTIONS", "http", "[::1]:80", "*", "cookie", "a=1")
	f.Add("CONNECT", "", "a:1", "", "te", "trailers")
	f.Fuzz(func(t *testing.T, method, scheme, authority, path, name, value string) {
		var b bytes.Buffer
		enc := hpack.NewEncoder(&b)
		for _, x := range [][2]string{{":method", method}, {":scheme", scheme}, {":authority", authority}, {":path", path}, {name, value}} {
			if x[1] == "" && method == "CONNECT" {
				continue
			}
			_ = enc.WriteField(hpack.HeaderField{Name: x[0], Value: x[1]})
		}
		if b.Len() > 16000 {
			return
		}
		e := newServer(t, h2.Config{})
		e.on = func(ev *h2.Event) {
			if ev.Kind == h2.Head && ev.Refused == nil {
				inHTTP1(t, ev.Request)
			}
		}
		e.feed(cat(hello, frame(headers, ends, 1, b.Bytes()...)), 1<<20)
	})
}

// inHTTP1 writes a request as HTTP/1, and wants it to be read back as one and
// the same.
func inHTTP1(t *testing.T, r *h2.Request) {
	t.Helper()
	var b []byte
	b = append(append(append(b, r.Method...), ' '), r.Target...)
	b = append(b, " HTTP/1.1\r\n"...)
	b = h1.AppendField(b, "host", r.Host)
	for _, f := range r.Fields {
		if f.Known != h1.Host {
			b = h1.AppendField(b, f.Name, f.Value)
		}
	}
	b = append(b, "\r\n"...)
	var back h1.Request
	n, err := back.Parse(b, 0, h1.Limits{})
	if err != nil || n != len(b) {
		t.Fatalf("%q is no HTTP/1: %v, %d of %d bytes", b, err, n, len(b))
	}
	if !bytes.Equal(back.Path, r.Path) || !bytes.Equal(back.Query, r.Query) || back.HasQuery != r.HasQuery ||
		!bytes.Equal(back.Host, r.Host) || !bytes.Equal(back.Method, r.Method) {
		t.Fatalf("%q is another request: %s %s %s", b, back.Method, back.Host, back.Target)
	}
}
