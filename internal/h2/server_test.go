package h2_test

import (
	"fmt"
	"strings"
	"testing"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/h2"
)

func TestServerBegins(t *testing.T) {
	e := newServer(t, h2.Config{Connect: true, DecodeTable: 8192})
	want := "SETTINGS 0 MAX_CONCURRENT_STREAMS=100 HEADER_TABLE_SIZE=8192 INITIAL_WINDOW_SIZE=262144 MAX_HEADER_LIST_SIZE=65536 ENABLE_CONNECT_PROTOCOL=1\n" +
		"WINDOW_UPDATE 0 983041"
	if got := e.sent(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	e.feed(cat(hello, frame(settings, ack, 0)), 1)
	if got, want := strings.Join(e.log, ","), "settings,settings ack"; got != want {
		t.Errorf("events %s, want %s", got, want)
	}
	if !e.c.Standing() {
		t.Error("the connection does not stand")
	}
}

// requestCase is a message of a client and what becomes of it: an event, or a
// stream error with a reason.
type requestCase struct {
	name  string
	block []byte
	flags byte
	want  string
}

const (
	ends   = endHeaders | endStream
	goesOn = endHeaders
)

func TestGoodRequests(t *testing.T) {
	for _, test := range []requestCase{
		{"a plain request", get("a: b"), ends, "head 1 end GET https a.example path=/p query=true:q body=0:0 [a: b]"},
		{"a body of unknown length", request("POST"), goesOn, "head 1 POST https a.example path=/p query=true:q body=2:0"},
		{"a body with a length", request("PUT", "content-length: 3"), goesOn, "body=1:3 [content-length: 3]"},
		{"an empty body with a length", request("PUT", "content-length: 0"), ends, "body=1:0"},
		{"cookies are joined where the first was", get("cookie: a=1", "x: y", "cookie: b=2", "cookie: c=3"), ends, "[cookie: a=1; b=2; c=3] [x: y]"},
		{"trailers are wanted", get("te: trailers"), ends, "continue=false trailers=true"},
		{"expectation", request("PUT", "expect: 100-continue", "content-length: 3"), goesOn, "continue=true"},
		{"nothing to wait for", get("expect: 100-continue"), ends, "body=0:0 [expect"},
		{"another expectation", get("expect: tea"), ends, "refused 417"},
		{"host alone", block(":method: GET", ":scheme: http", ":path: /", "host: b:1"), ends, "GET http b:1 path=/"},
		{"host and authority agree", get("host: A.EXAMPLE"), ends, "https a.example path"},
		{"asterisk", block(":method: OPTIONS", ":scheme: http", ":authority: a", ":path: *"), ends, "OPTIONS http a path=*"},
		{"connect", block(":method: CONNECT", ":authority: a:1"), goesOn, "head 1 CONNECT  a:1 path= query=false: body=0:0"},
		{
			"extended connect", block(":method: CONNECT", ":scheme: https", ":authority: a", ":path: /chat", ":protocol: websocket"), goesOn,
			"head 1 CONNECT https a path=/chat query=false: body=0:0 upgrade=websocket",
		},
		{"a long target", block(":method: GET", ":scheme: http", ":authority: a", ":path: /"+strings.Repeat("a", 9000)), ends, "refused 414"},
		{"a large field", get("a: " + strings.Repeat("x", 70000)), ends, "refused 431"},
		{"many fields", get(strings.Split(strings.Repeat("a: b,", 101), ",")[:101]...), ends, "refused 431"},
		{"as many fields as are allowed", get(strings.Split(strings.Repeat("a: b,", 100), ",")[:100]...), ends, "[a: b]"},
		{"bytes above ASCII in a value", get("a: \xff"), ends, "[a: \xff]"},
		{"an empty value", get("a:"), ends, "[a: ]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if e := test.run(t); !strings.HasPrefix(e.log[0], "head 1 ") || e.sent() != "" {
				t.Errorf("events %q, sent %q", e.log, e.sent())
			}
		})
	}
}

func TestMalformedRequests(t *testing.T) {
	for _, test := range []requestCase{
		{"an empty block", nil, ends, ":method is missing"},
		{"no method", block(":scheme: http", ":authority: a", ":path: /"), ends, ":method is missing"},
		{"no scheme", block(":method: GET", ":authority: a", ":path: /"), ends, ":scheme or the :path is missing"},
		{"no path", block(":method: GET", ":scheme: http", ":authority: a"), ends, ":scheme or the :path is missing"},
		{"empty path", block(":method: GET", ":scheme: http", ":authority: a", ":path:"), ends, ":path is empty"},
		{"no host", block(":method: GET", ":scheme: http", ":path: /"), ends, "neither"},
		{"empty authority", block(":method: GET", ":scheme: http", ":authority:", ":path: /"), ends, ":authority is not"},
		{"user in the authority", block(":method: GET", ":scheme: http", ":authority: u@a", ":path: /"), ends, ":authority is not"},
		{"relative path", block(":method: GET", ":scheme: http", ":authority: a", ":path: a"), ends, "slash"},
		{"asterisk for GET", block(":method: GET", ":scheme: http", ":authority: a", ":path: *"), ends, "slash"},
		{"absolute path", block(":method: GET", ":scheme: http", ":authority: a", ":path: http://a/"), ends, "slash"},
		{"fragment", block(":method: GET", ":scheme: http", ":authority: a", ":path: /#a"), ends, "fragment"},
		{"raw byte in the path", block(":method: GET", ":scheme: http", ":authority: a", ":path: /\xff"), ends, "ASCII"},
		{"bad escape", block(":method: GET", ":scheme: http", ":authority: a", ":path: /%4"), ends, "escape"},
		{"bad scheme", block(":method: GET", ":scheme: h ttp", ":authority: a", ":path: /"), ends, ":scheme is malformed"},
		{"bad method", block(":method: G T", ":scheme: http", ":authority: a", ":path: /"), ends, ":method is malformed"},
		{"long method", block(":method: "+strings.Repeat("A", 65), ":scheme: http", ":authority: a", ":path: /"), ends, ":method is malformed"},
		{"hosts differ", get("host: b.example"), ends, "differs"},
		{"two hosts", get("host: a.example", "host: a.example"), ends, "more than one Host"},
		{"method twice", get(":method: GET"), ends, "twice"},
		{"path twice", block(":path: /", ":path: /"), ends, "twice"},
		{"pseudo after others", block(":method: GET", "a: b", ":scheme: http", ":path: /"), ends, "after other"},
		{"unknown pseudo", block(":method: GET", ":test: a"), ends, "unknown"},
		{"status in a request", block(":method: GET", ":scheme: http", ":authority: a", ":path: /", ":status: 200"), ends, ":status"},
		{"upper case", get("X-Test: a"), ends, "upper-case"},
		{"space in a name", get("a b: c"), ends, "not allowed"},
		{"a newline in a value", get("a: b\r\nc: d"), ends, "not allowed"},
		{"a zero in a value", get("a: \x00"), ends, "not allowed"},
		{"space before a value", get("a:  b"), ends, "white space"},
		{"space after a value", get("a: b\t"), ends, "white space"},
		{"a newline in the path", block(":method: GET", ":scheme: http", ":authority: a", ":path: /\n"), ends, "not allowed"},
		{"connection", get("connection: close"), ends, "about the connection"},
		{"keep-alive", get("keep-alive: 5"), ends, "about the connection"},
		{"proxy-connection", get("proxy-connection: close"), ends, "about the connection"},
		{"transfer-encoding", request("POST", "transfer-encoding: chunked"), goesOn, "about the connection"},
		{"upgrade", get("upgrade: h2c"), ends, "about the connection"},
		{"te", get("te: trailers, deflate"), ends, "TE"},
		{"two lengths", request("POST", "content-length: 1", "content-length: 1"), goesOn, "more than one Content-Length"},
		{"length is no number", request("POST", "content-length: +1"), goesOn, "number"},
		{"length too large", request("POST", "content-length: 9223372036854775808"), goesOn, "number"},
		{"no body for a length", request("POST", "content-length: 1"), ends, "none follows"},
		{"connect with scheme", block(":method: CONNECT", ":scheme: http", ":authority: a:1"), goesOn, "CONNECT request has a :scheme"},
		{"connect with path", block(":method: CONNECT", ":path: /", ":authority: a:1"), goesOn, "CONNECT request has a :scheme"},
		{"connect without authority", block(":method: CONNECT", "host: a:1"), goesOn, "no :authority"},
		{"connect without port", block(":method: CONNECT", ":authority: a"), goesOn, "no port"},
		{"connect with a length", block(":method: CONNECT", ":authority: a:1", "content-length: 3"), goesOn, "Content-Length"},
		{"protocol without connect", get(":protocol: websocket"), ends, ":protocol"},
		{"protocol is no token", block(":method: CONNECT", ":scheme: https", ":authority: a", ":path: /", ":protocol: a b"), goesOn, ":protocol is malformed"},
		{"extended connect without path", block(":method: CONNECT", ":scheme: https", ":authority: a", ":protocol: websocket"), goesOn, "missing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if e := test.run(t); e.sent() != "RST_STREAM 1 PROTOCOL_ERROR" {
				t.Errorf("sent %q", e.sent())
			}
		})
	}
}

// run wants a single event, however the request is cut.
func (r *requestCase) run(t *testing.T) *end {
	t.Helper()
	fresh := func() *end { return standing(t, h2.Config{Connect: true}) }
	e := checkPieces(t, fresh, inFrames(r.flags, r.block), 1, 2, 3, 7, 10, 4096)
	if len(e.log) != 1 || !strings.Contains(e.log[0], r.want) {
		t.Fatalf("got  %s\nwant %s", e.log, r.want)
	}
	return e
}

// inFrames makes HEADERS, and CONTINUATION for what is too long.
func inFrames(flags byte, block []byte) []byte {
	const most = 16384
	if len(block) <= most {
		return frame(headers, flags, 1, block...)
	}
	out := frame(headers, flags&^endHeaders, 1, block[:most]...)
	for block = block[most:]; len(block) > most; block = block[most:] {
		out = append(out, frame(continuation, 0, 1, block[:most]...)...)
	}
	return append(out, frame(continuation, endHeaders, 1, block...)...)
}

func TestExtendedConnectIsOffered(t *testing.T) {
	e := standing(t, h2.Config{})
	e.feed(frame(headers, endHeaders, 1, block(":method: CONNECT", ":scheme: https", ":authority: a", ":path: /", ":protocol: websocket")...), 100)
	if got := e.sent(); got != "RST_STREAM 1 PROTOCOL_ERROR" {
		t.Errorf("sent %s", got)
	}
}

// protocolCase is what a client does on a connection that stands. want is the
// end of the log; it is a stream error if it begins with "reset", an error of
// the connection if it begins with "error".
type protocolCase struct {
	name string
	in   []byte
	want string
}

func TestServerHoldsThePeerToTheProtocol(t *testing.T) {
	noise := strings.Repeat("x", 16385)
	for _, test := range []protocolCase{
		// RFC 9113 4.1, 4.2
		{"a frame of unknown type", cat(frame(0xff, 0xff, 0, 1, 2, 3), ask(1)), "head 1 end"},
		{"flags that are not defined", frame(ping, 0xfe, 0, make([]byte, 8)...), ""},
		{"the reserved bit", frame(ping, 0, 1<<31, make([]byte, 8)...), ""},
		{"DATA that is too large", cat(open(1), frame(data, 0, 1, []byte(noise)...)), "error FRAME_SIZE_ERROR"},
		{"HEADERS that are too large", frame(headers, endHeaders, 1, []byte(noise)...), "error FRAME_SIZE_ERROR"},

		// 4.3
		{"a block that cannot be decoded", frame(headers, endHeaders|endStream, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), "error COMPRESSION_ERROR"},
		{"a block that is cut short", frame(headers, endHeaders|endStream, 1, 0x40, 5, 'a'), "error COMPRESSION_ERROR"},
		{"index 0", frame(headers, endHeaders|endStream, 1, 0x80), "error COMPRESSION_ERROR"},
		{"index beyond the table", frame(headers, endHeaders|endStream, 1, 0xbe), "error COMPRESSION_ERROR"},
		{"name beyond the table", frame(headers, endHeaders|endStream, 1, 0x7e, 0), "error COMPRESSION_ERROR"},
		{"a size update after a field", frame(headers, endHeaders|endStream, 1, append(get(), 0x20)...), "error COMPRESSION_ERROR"},
		{"a size update that is too large", frame(headers, endHeaders|endStream, 1, 0x3f, 0xe2, 0x1f), "error COMPRESSION_ERROR"},
		{"padding of a string that is too long", frame(headers, endHeaders|endStream, 1, 0x40, 1, 'a', 0x82, 0x1f, 0xff), "error COMPRESSION_ERROR"},
		{"padding of a string that is not ones", frame(headers, endHeaders|endStream, 1, 0x40, 1, 'a', 0x81, 0x18), "error COMPRESSION_ERROR"},
		{"the end symbol in a string", frame(headers, endHeaders|endStream, 1, 0x40, 1, 'a', 0x84, 0xff, 0xff, 0xff, 0xff), "error COMPRESSION_ERROR"},
		{"a block that is interrupted", cat(frame(headers, 0, 1, get()...), frame(ping, 0, 0, make([]byte, 8)...)), "error PROTOCOL_ERROR"},
		{"a block that another stream interrupts", cat(frame(headers, 0, 1, get()...), frame(headers, endHeaders, 3, get()...)), "error PROTOCOL_ERROR"},
		{"a block that an unknown frame interrupts", cat(frame(headers, 0, 1, get()...), frame(0x20, 0, 1)), "error PROTOCOL_ERROR"},

		// 5.1
		{"idle: DATA", frame(data, 0, 1, 'a'), "error PROTOCOL_ERROR"},
		{"idle: RST_STREAM", frame(reset, 0, 1, num(8)...), "error PROTOCOL_ERROR"},
		{"idle: WINDOW_UPDATE", frame(window, 0, 1, num(8)...), "error PROTOCOL_ERROR"},
		{"idle: CONTINUATION", frame(continuation, endHeaders, 1, get()...), "error PROTOCOL_ERROR"},
		{"idle: PRIORITY", frame(priority, 0, 1, 0, 0, 0, 0, 0), ""},
		{"half closed: DATA", cat(ask(1), frame(data, endStream, 1, 'a')), "reset 1 STREAM_CLOSED"},
		{"half closed: HEADERS", cat(ask(1), ask(1)), "reset 1 STREAM_CLOSED"},
		{"half closed: CONTINUATION", cat(ask(1), frame(continuation, endHeaders, 1, get()...)), "error PROTOCOL_ERROR"},
		{"half closed: WINDOW_UPDATE, PRIORITY", cat(ask(1), frame(window, 0, 1, num(8)...), frame(priority, 0, 1, 0, 0, 0, 0, 0)), "head 1 end"},
		{"half closed: RST_STREAM", cat(ask(1), frame(reset, 0, 1, num(8)...)), "reset 1 CANCEL"},
		{"an even stream", ask(2), "error PROTOCOL_ERROR"},
		{"a stream that was left out", cat(ask(5), ask(3)), "error PROTOCOL_ERROR"},
		{"DATA on a stream that was left out", cat(ask(5), frame(data, 0, 3, 'a')), "error PROTOCOL_ERROR"},
		{"a stream that depends on itself", frame(headers, endHeaders|endStream|prioed, 1, append(append(num(1), 0xff), get()...)...), "reset 1 PROTOCOL_ERROR"},
		{"an open stream that comes to depend on itself", cat(open(1), frame(priority, 0, 1, append(num(1), 0xff)...)), "reset 1 PROTOCOL_ERROR"},
		{"an idle stream that depends on itself", frame(priority, 0, 1, append(num(1), 0xff)...), "error PROTOCOL_ERROR"},

		// 6.1
		{"DATA on stream 0", frame(data, 0, 0, 'a'), "error PROTOCOL_ERROR"},
		{"padded DATA", cat(open(1), frame(data, padded|endStream, 1, 2, 'a', 0, 0)), `data 1 end "a"`},
		{"DATA that is padding alone", cat(open(1), frame(data, padded|endStream, 1, 2, 0, 0)), `data 1 end ""`},
		{"padding of length 0", cat(open(1), frame(data, padded|endStream, 1, 0)), `data 1 end ""`},
		{"padding as large as its frame", cat(open(1), frame(data, padded, 1, 4, 'a', 0, 0)), "error PROTOCOL_ERROR"},
		{"padding without its length", cat(open(1), frame(data, padded, 1)), "error FRAME_SIZE_ERROR"},
		// 6.2
		{"HEADERS on stream 0", ask(0), "error PROTOCOL_ERROR"},
		{"padded HEADERS", frame(headers, endHeaders|endStream|padded, 1, cat([]byte{2}, get(), []byte{0, 0})...), "head 1 end"},
		{"padding larger than HEADERS", frame(headers, endHeaders|endStream|padded, 1, 9, 0x82), "error PROTOCOL_ERROR"},
		{"HEADERS too short for padding", frame(headers, endHeaders|endStream|padded, 1), "error FRAME_SIZE_ERROR"},
		{"HEADERS too short for priority", frame(headers, endHeaders|endStream|prioed, 1, 0, 0), "error FRAME_SIZE_ERROR"},
		// 6.3
		{"PRIORITY on stream 0", frame(priority, 0, 0, 0, 0, 0, 0, 0), "error PROTOCOL_ERROR"},
		{"PRIORITY of the wrong length", cat(open(1), frame(priority, 0, 1, 0, 0, 0, 0)), "reset 1 FRAME_SIZE_ERROR"},
		// 6.4
		{"RST_STREAM on stream 0", frame(reset, 0, 0, num(8)...), "error PROTOCOL_ERROR"},
		{"RST_STREAM of the wrong length", cat(open(1), frame(reset, 0, 1, 0, 0, 0)), "error FRAME_SIZE_ERROR"},
		// 6.5
		{"SETTINGS ack with payload", frame(settings, ack, 0, setting(1, 1)...), "error FRAME_SIZE_ERROR"},
		{"SETTINGS on a stream", frame(settings, 0, 1), "error PROTOCOL_ERROR"},
		{"SETTINGS of the wrong length", frame(settings, 0, 0, 0, 1, 0), "error FRAME_SIZE_ERROR"},
		{"ENABLE_PUSH of 2", frame(settings, 0, 0, setting(2, 2)...), "error PROTOCOL_ERROR"},
		{"INITIAL_WINDOW_SIZE too large", frame(settings, 0, 0, setting(4, 1<<31)...), "error FLOW_CONTROL_ERROR"},
		{"MAX_FRAME_SIZE too small", frame(settings, 0, 0, setting(5, 16383)...), "error PROTOCOL_ERROR"},
		{"MAX_FRAME_SIZE too large", frame(settings, 0, 0, setting(5, 1<<24)...), "error PROTOCOL_ERROR"},
		{"ENABLE_CONNECT_PROTOCOL of 2", frame(settings, 0, 0, setting(8, 2)...), "error PROTOCOL_ERROR"},
		{"an unknown setting", frame(settings, 0, 0, setting(0xff, 2)...), "settings"},
		// 6.6
		{"PUSH_PROMISE", cat(open(1), frame(push, endHeaders, 1, append(num(2), get()...)...)), "error PROTOCOL_ERROR"},
		// 6.7
		{"PING on a stream", frame(ping, 0, 1, make([]byte, 8)...), "error PROTOCOL_ERROR"},
		{"PING of the wrong length", frame(ping, 0, 0, make([]byte, 7)...), "error FRAME_SIZE_ERROR"},
		{"PING that nobody asked for", frame(ping, ack, 0, make([]byte, 8)...), "ping ack"},
		// 6.8
		{"GOAWAY on a stream", frame(goaway, 0, 1, make([]byte, 8)...), "error PROTOCOL_ERROR"},
		{"GOAWAY that is too short", frame(goaway, 0, 0, make([]byte, 7)...), "error FRAME_SIZE_ERROR"},
		{"GOAWAY", frame(goaway, 0, 0, append(append(num(0), num(2)...), "why"...)...), "goaway INTERNAL_ERROR"},
		// 6.9
		{"WINDOW_UPDATE of 0", frame(window, 0, 0, num(0)...), "error PROTOCOL_ERROR"},
		{"WINDOW_UPDATE of 0 on a stream", cat(open(1), frame(window, 0, 1, num(0)...)), "reset 1 PROTOCOL_ERROR"},
		{"WINDOW_UPDATE of the wrong length", frame(window, 0, 0, 0, 0, 1), "error FRAME_SIZE_ERROR"},
		{"a window that is too large", cat(frame(window, 0, 0, num(1<<31-1)...)), "error FLOW_CONTROL_ERROR"},
		{"a stream's window that is too large", cat(open(1), frame(window, 0, 1, num(1<<31-1)...)), "reset 1 FLOW_CONTROL_ERROR"},
		{
			"SETTINGS that make a window too large",
			cat(open(1), frame(window, 0, 1, num(100)...), frame(settings, 0, 0, setting(4, 1<<31-1)...)), "error FLOW_CONTROL_ERROR",
		},
		// 6.10
		{"CONTINUATION", cat(frame(headers, endStream, 1, get()[:5]...), frame(continuation, 0, 1, get()[5:8]...), frame(continuation, endHeaders, 1, get()[8:]...)), "head 1 end"},
		{"CONTINUATION that is empty", cat(frame(headers, endStream, 1), frame(continuation, 0, 1), frame(continuation, endHeaders, 1, get()...)), "head 1 end"},
		{"CONTINUATION of padded HEADERS", cat(frame(headers, endStream|padded, 1, cat([]byte{1}, get()[:9], []byte{0})...), frame(continuation, endHeaders, 1, get()[9:]...)), "head 1 end"},
		{"CONTINUATION of another stream", cat(frame(headers, 0, 1, get()...), frame(continuation, endHeaders, 3)), "error PROTOCOL_ERROR"},
		{"CONTINUATION after the end", cat(open(1), frame(continuation, endHeaders, 1, get()...)), "error PROTOCOL_ERROR"},
		{"CONTINUATION after DATA", cat(open(1), frame(data, 0, 1, 'a'), frame(continuation, endHeaders, 1, get()...)), "error PROTOCOL_ERROR"},

		// 8.1
		{"trailers", cat(open(1), frame(data, 0, 1, 'a'), frame(headers, endHeaders|endStream, 1, block("grpc-status: 0", "content-length: 4", "host: a")...)), "trailers 1 end [grpc-status: 0]"},
		{"trailers that do not end", cat(open(1), frame(headers, endHeaders, 1, block("a: b")...)), "reset 1 PROTOCOL_ERROR"},
		{"trailers with a pseudo-header field", cat(open(1), frame(headers, endHeaders|endStream, 1, block(":method: GET")...)), "reset 1 PROTOCOL_ERROR"},
		{"trailers with a bad field", cat(open(1), frame(headers, endHeaders|endStream, 1, block("A: b")...)), "reset 1 PROTOCOL_ERROR"},
		{"HEADERS in a tunnel", cat(frame(headers, endHeaders, 1, block(":method: CONNECT", ":authority: a:1")...), frame(headers, endHeaders|endStream, 1, block("a: b")...)), "reset 1 PROTOCOL_ERROR"},
		{"as much DATA as promised", cat(frame(headers, endHeaders, 1, request("POST", "content-length: 3")...), frame(data, 0, 1, 'a', 'b'), frame(data, endStream, 1, 'c')), `data 1 end "abc"`},
		{"less DATA than promised", cat(frame(headers, endHeaders, 1, request("POST", "content-length: 3")...), frame(data, endStream, 1, 'a')), "reset 1 PROTOCOL_ERROR"},
		{"less DATA before trailers", cat(frame(headers, endHeaders, 1, request("POST", "content-length: 3")...), frame(headers, endHeaders|endStream, 1, block("a: b")...)), "reset 1 PROTOCOL_ERROR"},
		{"more DATA than promised", cat(frame(headers, endHeaders, 1, request("POST", "content-length: 3")...), frame(data, 0, 1, 'a', 'b', 'c', 'd')), "reset 1 PROTOCOL_ERROR"},
		{"more DATA than promised in two frames", cat(frame(headers, endHeaders, 1, request("POST", "content-length: 1")...), frame(data, 0, 1, 'a'), frame(data, endStream, 1, 'b'), ask(3)), "head 3 end"},
	} {
		t.Run(test.name, func(t *testing.T) {
			fresh := func() *end { return standing(t, h2.Config{}) }
			e := checkCutsIfShort(t, fresh, test.in)
			last := ""
			if len(e.log) > 0 {
				last = e.log[len(e.log)-1]
			}
			if !strings.HasPrefix(last, test.want) || test.want == "" && last != "" {
				t.Fatalf("got  %s\nwant %s", last, test.want)
			}
			checkSaid(t, e, test.want)
		})
	}
}

func checkCutsIfShort(t *testing.T, fresh func() *end, in []byte) *end {
	t.Helper()
	if len(in) < 500 {
		return checkCuts(t, fresh, in)
	}
	return checkPieces(t, fresh, in, 1, 7, 4096)
}

// checkSaid wants the peer to be told of an error.
func checkSaid(t *testing.T, e *end, want string) {
	t.Helper()
	var id uint32
	var code string
	frame := ""
	switch {
	case strings.HasPrefix(want, "error "):
		_, frame, _ = strings.Cut(want, " ")
		if !strings.Contains(e.sent(), "GOAWAY 0 ") {
			t.Errorf("sent %s", e.sent())
		}
	case strings.HasPrefix(want, "reset ") && !strings.HasSuffix(want, "CANCEL"):
		fmt.Sscanf(want, "reset %d %s", &id, &code)
		frame = fmt.Sprintf("RST_STREAM %d %s", id, code)
	}
	if !strings.Contains(e.sent(), frame) {
		t.Errorf("sent %s, want %s", e.sent(), frame)
	}
}

func TestFirstBytes(t *testing.T) {
	for _, test := range []struct{ name, in, want string }{
		{"HTTP/1", "GET / HTTP/1.1\r\n", "error PROTOCOL_ERROR"},
		{"almost the preface", h2.Preface[:23] + "x", "error PROTOCOL_ERROR"},
		{"no SETTINGS", h2.Preface + string(frame(ping, 0, 0, make([]byte, 8)...)), "error PROTOCOL_ERROR"},
		{"SETTINGS that acknowledge", h2.Preface + string(frame(settings, ack, 0)), "error PROTOCOL_ERROR"},
		{"good", string(hello), "settings"},
	} {
		e := checkCuts(t, func() *end { return newServer(t, h2.Config{}) }, []byte(test.in))
		if got := e.log[0]; !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
	}
}

// answer has a server answer every request at its end.
func (e *end) answer() *end {
	e.on = func(ev *h2.Event) {
		if ev.End && e.c.BeginResponse(ev.Stream, 200) {
			e.c.EndHead(false)
			e.c.WriteData(ev.Stream, []byte("hi"), true)
		}
	}
	return e
}

func TestFramesOnClosedStreams(t *testing.T) {
	late := frame(headers, endHeaders|endStream, 1, block("a: b")...)
	cancel := frame(reset, 0, 1, num(8)...)
	for _, test := range []struct {
		name   string
		before []byte
		reset  bool // the server does
		after  []byte
		want   string // the last line sent
	}{
		{"ended: DATA", ask(1), false, frame(data, endStream, 1, 'a'), "GOAWAY 0 1 STREAM_CLOSED"},
		{"ended: HEADERS", ask(1), false, ask(1), "GOAWAY 0 1 STREAM_CLOSED"},
		{"ended: CONTINUATION", ask(1), false, frame(continuation, endHeaders, 1), "GOAWAY 0 1 PROTOCOL_ERROR"},
		{"ended: WINDOW_UPDATE, RST_STREAM, PRIORITY", ask(1), false, cat(frame(window, 0, 1, num(1)...), cancel, frame(priority, 0, 1, 0, 0, 0, 0, 0)), "DATA 1 end 2 bytes"},
		{"reset by the client: DATA", cat(open(1), cancel), false, frame(data, endStream, 1, 'a'), "RST_STREAM 1 STREAM_CLOSED"},
		{"reset by the client: HEADERS", cat(open(1), cancel), false, late, "RST_STREAM 1 STREAM_CLOSED"},
		{"reset by the client: CONTINUATION", cat(open(1), cancel), false, frame(continuation, endHeaders, 1), "GOAWAY 0 1 PROTOCOL_ERROR"},
		{"reset here: DATA, HEADERS, RST_STREAM", open(1), true, cat(frame(data, 0, 1, 'a'), late, cancel), "RST_STREAM 1 CANCEL"},
	} {
		fresh := func() *end {
			e := standing(t, h2.Config{}).answer()
			e.feed(test.before, len(test.before))
			if test.reset {
				e.c.Reset(1, h2.Cancel)
				e.flush()
			}
			return e
		}
		e := checkCuts(t, fresh, test.after)
		lines := strings.Split(e.sent(), "\n")
		if got := lines[len(lines)-1]; got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
		if e.c.Streams() != 0 {
			t.Errorf("%s: %d streams are open", test.name, e.c.Streams())
		}
	}
}

func TestTooManyStreams(t *testing.T) {
	e := standing(t, h2.Config{MaxStreams: 2})
	e.feed(cat(open(1), open(3), open(5)), 1000)
	if got, want := e.sent(), "RST_STREAM 5 REFUSED_STREAM"; got != want {
		t.Errorf("sent %s, want %s", got, want)
	}
	e.c.Reset(1, h2.NoError)
	e.feed(open(7), 1000)
	if got, want := e.log[len(e.log)-1], "head 7"; !strings.HasPrefix(got, want) {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestResponses(t *testing.T) {
	e := standing(t, h2.Config{})
	e.feed(ask(1), 1000)
	c := e.c
	c.SetValue(1, "mine")
	if c.BeginResponse(1, 103) {
		c.AddString("Link", "</a>")
	}
	c.EndHead(true) // an interim head does not end the stream
	if c.BeginResponse(1, 101) {
		t.Error("101 may be sent")
	}
	if !c.BeginResponse(1, 200) {
		t.Fatal("no response may be sent")
	}
	if c.BeginResponse(1, 200) {
		t.Error("a second response may begin")
	}
	for _, f := range []string{"Server: shop", "connection: x", "transfer-encoding: chunked", "te: gzip", "te: trailers", "keep-alive: 1", "Set-Cookie: a"} {
		name, value, _ := strings.Cut(f, ": ")
		c.Add([]byte(name), []byte(value))
	}
	c.AddField(&h1.Field{Name: []byte("x-secret"), Value: []byte("s"), Sensitive: true})
	c.EndHead(false)
	if got := c.Value(1); got != "mine" {
		t.Errorf("value %v", got)
	}
	if n := c.WriteData(1, []byte("hello"), false); n != 5 {
		t.Errorf("WriteData took %d", n)
	}
	c.BeginTrailers(1)
	c.AddString("grpc-status", "0")
	c.EndHead(false)
	e.flush()
	want := "HEADERS 1 [:status: 103] [link: </a>]\n" +
		"HEADERS 1 [:status: 200] [server: shop] [te: trailers] [set-cookie: a] [x-secret: s]\n" +
		"DATA 1 5 bytes\n" +
		"HEADERS 1 end [grpc-status: 0]"
	if got := e.sent(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if c.Streams() != 0 || c.BeginResponse(1, 200) || c.BeginTrailers(1) || c.WriteData(1, []byte("abc"), true) != 3 || len(c.Out()) > 0 {
		t.Error("something can be sent on a stream that has ended")
	}
}

func TestTrailersWithoutFields(t *testing.T) {
	e := standing(t, h2.Config{})
	e.feed(ask(1), 1000)
	e.c.BeginResponse(1, 200)
	e.c.EndHead(false)
	e.c.BeginTrailers(1)
	e.c.EndHead(true)
	e.flush()
	if got, want := e.sent(), "HEADERS 1 [:status: 200]\nDATA 1 end 0 bytes"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestLargeHead writes heads that need CONTINUATION frames, and has the other
// end of this codec read them.
func TestLargeHead(t *testing.T) {
	for _, size := range []int{16360, 16384, 16400, 40000, 60000} {
		value := strings.Repeat("{", size) // no shorter when it is Huffman coded
		s := standing(t, h2.Config{})
		s.feed(ask(1), 1000)
		s.c.BeginResponse(1, 200)
		s.c.AddString("a", value)
		s.c.EndHead(true)
		s.flush()
		client := newClient(t, h2.Config{})
		client.c.BeginRequest(&h2.Line{Method: []byte("GET"), Scheme: []byte("http"), Authority: []byte("a"), Path: []byte("/")}, nil)
		client.c.EndHead(true)
		client.feed(s.out, 1000)
		if got, want := client.log[0], "head 1 end 200 body=0:0 [a: "+value+"]"; got != want {
			t.Errorf("%d: got %.100s", size, got)
		}
	}
}

func TestDrain(t *testing.T) {
	e := standing(t, h2.Config{})
	e.feed(open(1), 1000)
	e.c.Drain()
	e.c.Ping([8]byte{1})
	e.flush()
	e.feed(cat(open(3), frame(ping, ack, 0, 1, 0, 0, 0, 0, 0, 0, 0)), 1000)
	e.c.Goaway(h2.NoError)
	e.flush()
	// What comes too late is ignored; what is open goes on.
	e.feed(cat(open(5), frame(data, endStream, 5, 'a'), frame(window, 0, 5, num(1)...), frame(data, endStream, 3, 'b')), 1000)
	if got, want := e.log[len(e.log)-1], `data 3 end "b"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	want := "GOAWAY 0 2147483647 NO_ERROR\nPING 0 ack=false 0100000000000000\nGOAWAY 0 3 NO_ERROR"
	if got := e.sent(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if e.c.Drained() {
		t.Error("drained with streams open")
	}
	e.c.Reset(1, h2.Cancel)
	e.c.Reset(3, h2.Cancel)
	if !e.c.Drained() {
		t.Error("not drained without streams")
	}
}

func TestTableSizeMustShrink(t *testing.T) {
	small := func() *end {
		e := standing(t, h2.Config{DecodeTable: 1024})
		return e.feed(frame(settings, ack, 0), 100)
	}
	plain := []byte{0x82, 0x86, 0x84, 0x41, 1, 'a'}
	if e := small().feed(frame(headers, endHeaders|endStream, 1, plain...), 100); e.err == nil || e.err.Code != h2.CompressionError {
		t.Errorf("without an update: %v", e.log)
	}
	if e := small().feed(frame(headers, endHeaders|endStream, 1, append([]byte{0x3f, 0xe1, 0x07}, plain...)...), 100); e.err != nil {
		t.Errorf("with an update: %v", e.err)
	}
	// Before the acknowledgement the peer does not know.
	if e := standing(t, h2.Config{DecodeTable: 1024}).feed(frame(headers, endHeaders|endStream, 1, plain...), 100); e.err != nil {
		t.Errorf("before the acknowledgement: %v", e.err)
	}
}
