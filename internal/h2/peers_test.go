package h2_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/h2"
)

// driver runs one end of a connection over a net.Conn, as an event loop would.
// All that touches the codec runs in run.
type driver struct {
	tb    testing.TB
	c     *h2.Conn
	conn  net.Conn
	on    func(ev *h2.Event)
	tasks chan func()
	err   *h2.Error
}

// run ends when the peer closes the connection, or breaks the protocol.
func (d *driver) run() {
	in, out := make(chan []byte), make(chan []byte, 1<<12)
	var wg, writer sync.WaitGroup
	defer wg.Wait()
	defer d.conn.Close()
	defer writer.Wait()
	defer close(out)
	wg.Go(func() {
		defer close(in)
		for {
			buf := make([]byte, 10000)
			n, err := d.conn.Read(buf)
			if err != nil {
				return
			}
			in <- buf[:n]
		}
	})
	writer.Go(func() {
		for b := range out {
			_, _ = d.conn.Write(b) // the reader sees that it is closed
		}
	})
	for {
		if b := d.c.Out(); len(b) > 0 {
			out <- bytes.Clone(b)
			d.c.Sent()
		}
		if d.err != nil {
			go func() { // the reader may be about to give more
				for range in {
				}
			}()
			return
		}
		select {
		case task := <-d.tasks:
			task()
		case buf, ok := <-in:
			if !ok {
				return
			}
			d.turn(buf)
		}
	}
}

func (d *driver) turn(buf []byte) {
	for {
		ev, n, err := d.c.Next(buf)
		buf = buf[n:]
		if err != nil {
			d.err = err
			return
		}
		if ev.Kind == 0 {
			return
		}
		d.on(&ev)
	}
}

// echo is a server on our codec: it gives back what it gets, in trailers what
// the query asks for.
type echo struct {
	d    *driver
	left map[uint32]*reply
}

type reply struct {
	body bytes.Buffer
	end  bool
	tail string
}

func (s *echo) on(ev *h2.Event) {
	c := s.d.c
	switch ev.Kind {
	case h2.Head:
		r := &reply{end: ev.End, tail: string(ev.Request.Query)}
		s.left[ev.Stream] = r
		if ev.Request.Continue {
			c.BeginResponse(ev.Stream, 100)
			c.EndHead(false)
		}
		c.BeginResponse(ev.Stream, 200)
		c.AddString("x-path", string(ev.Request.Path))
		c.AddString("x-host", string(ev.Request.Host))
		for i := range ev.Request.Fields {
			if f := &ev.Request.Fields[i]; bytes.HasPrefix(f.Name, []byte("x-")) {
				c.AddField(f)
			}
		}
		c.EndHead(false)
		s.write(ev.Stream, r)
	case h2.Data:
		r := s.left[ev.Stream]
		r.body.Write(ev.Data)
		r.end = ev.End
		s.write(ev.Stream, r)
		c.Consumed(ev.Stream, len(ev.Data))
	case h2.Trailers:
		r := s.left[ev.Stream]
		r.end = true
		r.tail += string(ev.Fields[0].Value)
		s.write(ev.Stream, r)
	case h2.Writable:
		s.write(ev.Stream, s.left[ev.Stream])
	case h2.Reset:
		delete(s.left, ev.Stream)
	case h2.Interim, h2.Goaway, h2.Settings, h2.SettingsAck, h2.PingAck:
	}
}

func (s *echo) write(stream uint32, r *reply) {
	n := s.d.c.WriteData(stream, r.body.Bytes(), r.end && r.tail == "")
	r.body.Next(n)
	if r.end && r.body.Len() == 0 {
		delete(s.left, stream)
		if r.tail != "" {
			s.d.c.BeginTrailers(stream)
			s.d.c.AddString("x-tail", r.tail)
			s.d.c.EndHead(true)
		}
	}
}

// cleartext is HTTP/2 with prior knowledge.
func cleartext() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

// startEcho gives a client of net/http each of whose connections is served by an
// echo.
func startEcho(t *testing.T, cfg h2.Config) *http.Client {
	t.Helper()
	var wg sync.WaitGroup
	dial := func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		d := &driver{tb: t, c: h2.NewServer(h2.NewScratch(cfg)), conn: ours}
		s := &echo{d: d, left: map[uint32]*reply{}}
		d.on = s.on
		wg.Go(func() {
			if d.run(); d.err != nil {
				t.Errorf("the server: %v", d.err)
			}
		})
		return theirs, nil
	}
	tr := &http.Transport{Protocols: cleartext(), DialContext: dial}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		wg.Wait()
	})
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func TestClientOfNetHTTP(t *testing.T) {
	client := startEcho(t, h2.Config{})
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() { exchange(t, client, i) })
	}
	wg.Wait()
	for i := range 60 {
		exchange(t, client, i)
	}
}

// exchange sends a body of a size that depends on i, and wants it back.
func exchange(t *testing.T, client *http.Client, i int) {
	body := strings.Repeat("0123456789abcdef", i*i*10)
	req, err := http.NewRequestWithContext(t.Context(), "POST", fmt.Sprintf("http://a.example/p/%d?tail%d", i, i), io.NopCloser(strings.NewReader(body)))
	if err != nil {
		t.Error(err)
		return
	}
	if i%2 == 0 {
		req.ContentLength = int64(len(body))
	}
	if i%3 == 0 {
		req.Trailer = http.Header{"X-Late": {"-late"}}
	}
	req.Header.Set("X-Field", strings.Repeat("v", i*300))
	req.Header.Set("Cookie", "a=1; b=2")
	resp, err := client.Do(req)
	if err != nil {
		t.Errorf("%d: %v", i, err)
		return
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	tail := fmt.Sprintf("tail%d", i)
	if i%3 == 0 {
		tail += "-late"
	}
	if err != nil || string(got) != body || resp.StatusCode != 200 || resp.Header.Get("X-Path") != fmt.Sprintf("/p/%d", i) ||
		resp.Header.Get("X-Host") != "a.example" || resp.Header.Get("X-Field") != req.Header.Get("X-Field") || resp.Trailer.Get("X-Tail") != tail {
		t.Errorf("%d: %d bytes of %d, %v, %v, trailers %v", i, len(got), len(body), err, resp.Header, resp.Trailer)
	}
}

// single is a listener that has one connection, and ends.
type single struct{ conn chan net.Conn }

func (s single) Accept() (net.Conn, error) {
	if c, ok := <-s.conn; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (single) Close() error   { return nil }
func (single) Addr() net.Addr { return &net.TCPAddr{} }

// startServer gives a client of ours that talks to a server of net/http.
func startServer(t *testing.T, cfg h2.Config, h http.Handler) *driver {
	t.Helper()
	ours, theirs := net.Pipe()
	d := &driver{tb: t, c: h2.NewClient(h2.NewScratch(cfg)), conn: ours, tasks: make(chan func())}
	var wg sync.WaitGroup
	l := single{make(chan net.Conn, 1)}
	l.conn <- theirs
	close(l.conn)
	server := &http.Server{Handler: h, Protocols: cleartext(), HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 20}, ReadHeaderTimeout: time.Minute}
	wg.Go(func() { _ = server.Serve(l) }) // that the listener ends is no news
	t.Cleanup(func() {
		ours.Close()
		server.Close()
		wg.Wait()
		if d.err != nil {
			t.Errorf("the client: %v", d.err)
		}
	})
	return d
}

// call is a request of ours, and what has come of it.
type call struct {
	body, got []byte
	status    int
	interim   int
	tail      string
	done      bool
}

func TestServerOfNetHTTP(t *testing.T) {
	const calls = 80
	d := startServer(t, h2.Config{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Tail")
		w.Header().Set("Link", "</x>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("X-Cookie", r.Header.Get("Cookie"))
		w.WriteHeader(http.StatusCreated)
		_, _ = io.Copy(w, r.Body)
		w.Header().Set("X-Tail", r.URL.RawQuery+r.Trailer.Get("X-Late"))
	}))
	left := map[uint32]*call{}
	var all []*call
	begin := func() {
		for len(all) < calls && d.c.Room() > 0 {
			x := &call{body: bytes.Repeat([]byte("0123456789"), len(all)*len(all)*10)}
			id, ok := d.c.BeginRequest(&h2.Line{Method: []byte("POST"), Scheme: []byte("http"), Authority: []byte("a"), Path: fmt.Appendf(nil, "/?%d", len(all))}, x)
			if !ok {
				t.Error("no stream in spite of room")
			}
			d.c.AddString("Trailer", "x-late")
			d.c.AddString("cookie", "a=1; b=2")
			d.c.EndHead(false)
			left[id] = x
			all = append(all, x)
			x.send(d.c, id)
		}
	}
	d.on = func(ev *h2.Event) {
		x, _ := ev.Value.(*call)
		switch ev.Kind {
		case h2.Settings:
			begin()
		case h2.Interim:
			x.interim++
		case h2.Head:
			x.status = ev.Response.Status
			if v, _ := h1.Lookup(ev.Response.Fields, "x-cookie"); string(v) != "a=1; b=2" {
				t.Errorf("cookie %q", v)
			}
		case h2.Data:
			x.got = append(x.got, ev.Data...)
			d.c.Consumed(ev.Stream, len(ev.Data))
		case h2.Trailers:
			x.tail = string(ev.Fields[0].Value)
		case h2.Writable:
			x.send(d.c, ev.Stream)
		case h2.Reset:
			t.Errorf("stream %d: %v %s", ev.Stream, ev.Code, ev.Reason)
		case h2.Goaway, h2.SettingsAck, h2.PingAck:
		}
		if ev.End || ev.Kind == h2.Reset {
			x.done = true
			delete(left, ev.Stream)
			begin()
			if len(all) == calls && len(left) == 0 {
				d.conn.Close()
			}
		}
	}
	d.run()
	for i, x := range all {
		if !x.done || x.status != 201 || x.interim != 1 || !bytes.Equal(x.got, bytes.Repeat([]byte("0123456789"), i*i*10)) || x.tail != fmt.Sprint(i, "-late") {
			t.Errorf("call %d: %+v with %d bytes", i, x.status, len(x.got))
		}
	}
	if len(all) != calls {
		t.Errorf("%d calls", len(all))
	}
}

// send goes on with the body, and ends it with trailers.
func (x *call) send(c *h2.Conn, stream uint32) {
	x.body = x.body[c.WriteData(stream, x.body, false):]
	if len(x.body) == 0 && c.BeginTrailers(stream) {
		c.AddString("x-late", "-late")
		c.EndHead(true)
	}
}

func TestInterimForNetHTTP(t *testing.T) {
	client := startEcho(t, h2.Config{})
	got := 0
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, _ textproto.MIMEHeader) error { got = code; return nil },
	})
	req, _ := http.NewRequestWithContext(ctx, "PUT", "http://a/", strings.NewReader("abc"))
	req.Header.Set("Expect", "100-continue")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got != 100 {
		t.Errorf("got %d", got)
	}
}
