package h2_test

import (
	"strings"
	"testing"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/h2"
)

func line(method string) *h2.Line {
	return &h2.Line{Method: []byte(method), Scheme: []byte("https"), Authority: []byte("a.example"), Path: []byte("/p?q")}
}

// request sends a request that ends at once, on a client.
func (e *end) request(method string) uint32 {
	e.tb.Helper()
	id, ok := e.c.BeginRequest(line(method), "v")
	if !ok {
		e.tb.Fatal("no stream may be opened")
	}
	e.c.EndHead(true)
	e.flush()
	return id
}

func TestClientBegins(t *testing.T) {
	c := h2.NewClient(h2.NewScratch(h2.Config{ConnWindow: 65535}))
	e := &end{tb: t, c: c}
	e.flush()
	if !strings.HasPrefix(string(e.out), h2.Preface) {
		t.Errorf("sent %q", e.out)
	}
	if got, want := e.sent(), "SETTINGS 0 ENABLE_PUSH=0 INITIAL_WINDOW_SIZE=262144 MAX_HEADER_LIST_SIZE=65536"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestClientRequests(t *testing.T) {
	e := newClient(t, h2.Config{})
	id, _ := e.c.BeginRequest(line("POST"), nil)
	e.c.AddField(&h1.Field{Name: []byte("Host"), Value: []byte("a"), Known: h1.Host})
	e.c.AddString("Accept", "*/*")
	e.c.EndHead(false)
	e.c.WriteData(id, []byte("abc"), true)
	if _, ok := e.c.BeginRequest(&h2.Line{Method: []byte("CONNECT"), Protocol: []byte("websocket")}, nil); ok {
		t.Error("extended CONNECT is sent to a peer that does not take it")
	}
	id, _ = e.c.BeginRequest(&h2.Line{Method: []byte("CONNECT"), Authority: []byte("b:1")}, nil)
	e.c.EndHead(false)
	e.feed(frame(settings, 0, 0, setting(8, 1)...), 100)
	l := line("CONNECT")
	l.Protocol = []byte("websocket")
	if _, ok := e.c.BeginRequest(l, nil); !ok || id != 3 {
		t.Error("extended CONNECT is not sent")
	}
	e.c.EndHead(false)
	e.flush()
	want := "HEADERS 1 [:method: POST] [:scheme: https] [:authority: a.example] [:path: /p?q] [accept: */*]\n" +
		"DATA 1 end 3 bytes\n" +
		"HEADERS 3 [:method: CONNECT] [:authority: b:1]\n" +
		"SETTINGS 0 ack\n" +
		"HEADERS 5 [:method: CONNECT] [:scheme: https] [:authority: a.example] [:path: /p?q] [:protocol: websocket]"
	if got := e.sent(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestResponsesRead(t *testing.T) {
	answer := func(flags byte, fields ...string) []byte { return frame(headers, flags, 1, block(fields...)...) }
	for _, test := range []struct {
		name, method string
		in           []byte
		want         string // joined by commas
	}{
		{"without a body", "GET", answer(ends, ":status: 204", "a: b"), "head 1 end 204 body=0:0 [a: b] <v>"},
		{"with a body", "GET", cat(answer(goesOn, ":status: 200"), frame(data, endStream, 1, 'a')), `head 1 200 body=2:0 <v>, data 1 end "a"`},
		{"with a length", "GET", cat(answer(goesOn, ":status: 200", "content-length: 1"), frame(data, endStream, 1, 'a')), `head 1 200 body=1:1 [content-length: 1] <v>, data 1 end "a"`},
		{"interim", "GET", cat(answer(goesOn, ":status: 103", "link: x"), answer(ends, ":status: 200")), "interim 1 103 body=0:0 [link: x] <v>, head 1 end 200 body=0:0 <v>"},
		{"trailers", "GET", cat(answer(goesOn, ":status: 200"), answer(ends, "grpc-status: 0")), "head 1 200 body=2:0 <v>, trailers 1 end [grpc-status: 0] <v>"},
		{"HEAD has a length", "HEAD", answer(ends, ":status: 200", "content-length: 5"), "head 1 end 200 body=0:0 [content-length: 5] <v>"},
		{"HEAD ends with empty DATA", "HEAD", cat(answer(goesOn, ":status: 200", "content-length: 5"), frame(data, endStream, 1)), `head 1 200 body=0:0 [content-length: 5] <v>, data 1 end ""`},
		{"304 has a length", "GET", answer(ends, ":status: 304", "content-length: 5"), "head 1 end 304 body=0:0 [content-length: 5] <v>"},
		{"tunnel", "CONNECT", cat(answer(goesOn, ":status: 200"), frame(data, 0, 1, 'a')), `head 1 200 body=0:0 <v>, data 1 "a"`},
		{"refused tunnel", "CONNECT", cat(answer(goesOn, ":status: 400"), frame(data, endStream, 1, 'a')), `head 1 400 body=2:0 <v>, data 1 end "a"`},
		{"refused", "GET", frame(reset, 0, 1, num(7)...), "reset 1 REFUSED_STREAM untouched <v>"},
		{"reset", "GET", frame(reset, 0, 1, num(8)...), "reset 1 CANCEL <v>"},
		{"refused after the head", "GET", cat(answer(goesOn, ":status: 200"), frame(reset, 0, 1, num(7)...)), "head 1 200 body=2:0 <v>, reset 1 REFUSED_STREAM <v>"},

		{"HEAD with a body", "HEAD", cat(answer(goesOn, ":status: 200"), frame(data, 0, 1, 'a')), "head 1 200 body=0:0 <v>, reset 1 PROTOCOL_ERROR local (there is more DATA than the Content-Length says) <v>"},
		{"no status", "GET", answer(ends, "a: b"), "reset 1 PROTOCOL_ERROR local (the response does not have a :status of three digits alone) <v>"},
		{"a method", "GET", answer(ends, ":status: 200", ":method: GET"), "reset 1 PROTOCOL_ERROR local (the response does not have a :status of three digits alone) <v>"},
		{"status of two digits", "GET", answer(ends, ":status: 20"), "reset 1 PROTOCOL_ERROR local (the response does not have a :status of three digits alone) <v>"},
		{"101", "GET", answer(goesOn, ":status: 101"), "reset 1 PROTOCOL_ERROR local (the status is not one that HTTP/2 has) <v>"},
		{"interim that ends", "GET", answer(ends, ":status: 100"), "reset 1 PROTOCOL_ERROR local (an interim response ends the stream) <v>"},
		{"DATA first", "GET", frame(data, 0, 1, 'a'), "reset 1 PROTOCOL_ERROR local (there is DATA before the head of the response) <v>"},
		{"connection", "GET", answer(ends, ":status: 200", "connection: close"), "reset 1 PROTOCOL_ERROR local (there is a field that is about the connection) <v>"},
		{"no body for a length", "GET", answer(ends, ":status: 200", "content-length: 1"), "reset 1 PROTOCOL_ERROR local (the Content-Length promises a body, and none follows) <v>"},
		{"too many fields", "GET", answer(ends, append([]string{":status: 200"}, strings.Split(strings.Repeat("a: b,", 101), ",")[:101]...)...), "reset 1 PROTOCOL_ERROR local (the response head is larger than is allowed, or has more fields) <v>"},
		{"a stream that was not opened", "GET", frame(headers, ends, 3, block(":status: 200")...), "error PROTOCOL_ERROR: there are HEADERS on a stream that the peer may not open"},
		{"an even stream", "GET", frame(headers, ends, 2, block(":status: 200")...), "error PROTOCOL_ERROR: there are HEADERS on a stream that the peer may not open"},
		{"push", "GET", frame(push, endHeaders, 1, append(num(2), get()...)...), "error PROTOCOL_ERROR: the peer pushes, which is not allowed"},
		{"push is enabled", "GET", frame(settings, 0, 0, setting(2, 1)...), "error PROTOCOL_ERROR: SETTINGS_ENABLE_PUSH has a value that is not allowed"},
		{"extended CONNECT is taken back", "GET", frame(settings, 0, 0, cat(setting(8, 1), setting(8, 0))...), "error PROTOCOL_ERROR: SETTINGS_ENABLE_CONNECT_PROTOCOL has a value that is not allowed"},
		{"HEADERS after the end", "GET", cat(answer(ends, ":status: 200"), answer(ends, ":status: 200")), "head 1 end 200 body=0:0 <v>, error STREAM_CLOSED: there is HEADERS after the end of the stream"},
	} {
		t.Run(test.name, func(t *testing.T) {
			fresh := func() *end {
				e := newClient(t, h2.Config{})
				e.request(test.method)
				return e
			}
			e := checkCuts(t, fresh, test.in)
			if got := strings.Join(e.log, ", "); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestClientKeepsToTheServersStreams(t *testing.T) {
	e := newClient(t, h2.Config{MaxStreams: 50})
	if got := e.c.Room(); got != 50 {
		t.Errorf("room for %d", got)
	}
	e.feed(frame(settings, 0, 0, setting(3, 2)...), 100)
	e.request("GET")
	e.request("GET")
	if _, ok := e.c.BeginRequest(line("GET"), nil); ok || e.c.Room() != 0 {
		t.Error("a third stream is opened")
	}
	e.feed(frame(headers, ends, 1, block(":status: 200")...), 100)
	if e.c.Room() != 1 {
		t.Errorf("room for %d", e.c.Room())
	}
	e.feed(frame(settings, 0, 0, setting(3, 0)...), 100)
	if e.c.Room() != 0 {
		t.Errorf("room for %d", e.c.Room())
	}
}

func TestStreamsRunOut(t *testing.T) {
	e := newClient(t, h2.Config{})
	e.c.SkipTo(1<<31 - 5)
	if got := e.c.Room(); got != 2 {
		t.Errorf("room for %d", got)
	}
	e.request("GET")
	if got := e.request("GET"); got != 1<<31-1 {
		t.Errorf("the last stream is %d", got)
	}
	if _, ok := e.c.BeginRequest(line("GET"), nil); ok || e.c.Room() != 0 {
		t.Error("a stream without a number is opened")
	}
	e.feed(frame(headers, ends, 1<<31-1, block(":status: 200")...), 100)
	if got, want := strings.Join(e.log, ", "), "head 2147483647 end 200 body=0:0 <v>"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestGoawaySaysWhatWasNotServed(t *testing.T) {
	e := newClient(t, h2.Config{})
	for range 4 {
		e.request("GET")
	}
	e.feed(frame(goaway, 0, 0, cat(num(1<<31-1), num(0))...), 100)
	if e.c.Room() != 0 || e.c.Streams() != 4 {
		t.Errorf("room for %d, %d streams", e.c.Room(), e.c.Streams())
	}
	e.feed(frame(goaway, 0, 0, cat(num(3), num(0))...), 100)
	e.feed(frame(headers, ends, 1, block(":status: 200")...), 100)
	want := "goaway NO_ERROR, goaway NO_ERROR, reset 5 REFUSED_STREAM untouched <v>, reset 7 REFUSED_STREAM untouched <v>, head 1 end 200 body=0:0 <v>"
	if got := strings.Join(e.log, ", "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if e.c.Drained() || e.c.Streams() != 1 {
		t.Errorf("%d streams", e.c.Streams())
	}
	e.feed(frame(headers, ends, 3, block(":status: 200")...), 100)
	if !e.c.Drained() {
		t.Error("not drained")
	}
}

func TestServerMayFloodNoClient(t *testing.T) {
	e := newClient(t, h2.Config{})
	e.request("GET")
	interim := frame(headers, endHeaders, 1, block(":status: 103")...)
	for range 2000 {
		e.feed(interim, 100)
	}
	if e.err == nil || e.err.Code != h2.EnhanceYourCalm {
		t.Errorf("after 2000 interim responses: %v", e.err)
	}
}

// TestManyRequests uses a connection for long, with many streams open at a time,
// both ends being ours.
func TestManyRequests(t *testing.T) {
	server := standing(t, h2.Config{}).answer()
	client := newClient(t, h2.Config{})
	for round := range 200 {
		for range 1 + round%70 {
			client.request("GET")
		}
		server.feed(client.out, 100)
		client.out = nil
		client.feed(server.out, 100)
		server.out = nil
		if server.err != nil || client.err != nil || client.c.Streams() != 0 || server.c.Streams() != 0 {
			t.Fatalf("round %d: %v, %v, %d and %d streams", round, server.err, client.err, server.c.Streams(), client.c.Streams())
		}
	}
}
