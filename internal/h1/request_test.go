package h1_test

import (
	"fmt"
	"strings"
	"testing"

	"windrose.dev/windrose/internal/h1"
)

// get is a request with further lines after Host.
func get(lines ...string) string {
	return head(append([]string{"GET / HTTP/1.1", "Host: a.example"}, lines...)...)
}

func head(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }

func mustParse(t *testing.T, in string) *h1.Request {
	t.Helper()
	var r h1.Request
	n, err := r.Parse([]byte(in), 0, small)
	if err != nil || n == 0 {
		t.Fatalf("Parse(%q) = %d, %v", in, n, err)
	}
	return &r
}

func TestRequestTarget(t *testing.T) {
	tests := []struct{ name, line, host, path, query string }{
		{"a path", "GET /a/b HTTP/1.1", "a.example", "/a/b", ""},
		{"a path and a query", "GET /a?b=c&d HTTP/1.1", "a.example", "/a", "?b=c&d"},
		{"an empty query is not the same as none", "GET /a? HTTP/1.1", "a.example", "/a", "?"},
		{"a question mark in a query", "GET /a?b?c HTTP/1.1", "a.example", "/a", "?b?c"},
		{"a path that looks like an authority", "GET //b.example/c HTTP/1.1", "a.example", "//b.example/c", ""},
		{"an escape stays as it came", "GET /%2F%e4 HTTP/1.1", "a.example", "/%2F%e4", ""},
		{"a stray percent sign in a query", "GET /?100% HTTP/1.1", "a.example", "/", "?100%"},
		{"characters that clients forget to escape", `GET /a|b{c}"d\e^f HTTP/1.1`, "a.example", `/a|b{c}"d\e^f`, ""},
		{"an absolute target wins over Host", "GET http://b.example:81/c?d HTTP/1.1", "b.example:81", "/c", "?d"},
		{"an absolute target without a path", "GET https://b.example HTTP/1.1", "b.example", "/", ""},
		{"an absolute target without a path, with a query", "GET HTTP://b.example?d HTTP/1.1", "b.example", "/", "?d"},
		{"an absolute target with an IPv6 address", "GET http://[2001:db8::1]:80/ HTTP/1.1", "[2001:db8::1]:80", "/", ""},
		{"OPTIONS for the server", "OPTIONS * HTTP/1.1", "a.example", "*", ""},
		{"OPTIONS for a server, by an absolute target", "OPTIONS http://b.example HTTP/1.1", "b.example", "*", ""},
		{"CONNECT", "CONNECT b.example:443 HTTP/1.1", "b.example:443", "", ""},
		{"an unknown method", "BREW-2 /pot HTTP/1.1", "a.example", "/pot", ""},
		{"methods are in the case of the client", "get / HTTP/1.1", "a.example", "/", ""},
		{"an empty line before", "\r\nGET / HTTP/1.1", "a.example", "/", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := mustParse(t, head(test.line, "Host: a.example"))
			query := ""
			if r.HasQuery {
				query = "?" + string(r.Query)
			}
			got := fmt.Sprintf("%s %s %s", r.Host, r.Path, query)
			want := fmt.Sprintf("%s %s %s", test.host, test.path, test.query)
			if got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if got, want := string(r.Target), strings.Fields(test.line)[1]; got != want {
				t.Errorf("Target = %s, want %s", got, want)
			}
		})
	}
}

func TestRequestHost(t *testing.T) {
	good := []string{
		"a", "a.example", "A.Example.", "a_b.example:8080", "xn--bcher-kva.example", "10.0.0.1:80",
		"[::1]", "[::]:80", "[2001:db8::1]:443", "[::ffff:10.0.0.1]", "[1:2:3:4:5:6:7:8]", "a:65535",
	}
	for _, h := range good {
		if r := mustParse(t, head("GET / HTTP/1.1", "Host: "+h)); string(r.Host) != h {
			t.Errorf("Host = %q, want %q", r.Host, h)
		}
	}
	evil := []string{
		"", "a b", "a,b", "a/b", "a?b", "a#b", "a@b", "user:pw@a", "a\\b", "b\xfccher.example", "a%41",
		"a:", "a:b", "a:-1", "a:65536", "a:000080", "a:80:80", ":80", "a;b", "a'b", "*", "<a>",
		"[", "[]", "[::1", "::1", "[::1]x", "[::1]:", "[::1%25eth0]", "[::g]", "[1:2:3]", "[1:2:3:4:5:6:7:8:9]",
		"[1::2::3]", "[:1]", "[1:2:3:4:5:6:7:]", "[12345::]", "[::1.2.3]", "[::1.2.3.256]", "[::01.2.3.4]",
		"[1.2.3.4]", "[v1.a]", strings.Repeat("a", 300),
	}
	for _, h := range evil {
		wantRefused(t, head("GET / HTTP/1.1", "Host: "+h), 400)
		wantRefused(t, head("GET http://a.example/ HTTP/1.1", "Host: "+h), 400)
		if !strings.ContainsAny(h, "/?") && len(h) < small.TargetBytes-10 {
			wantRefused(t, head("GET http://"+h+"/ HTTP/1.1", "Host: a.example"), 400)
		}
	}
}

func wantRefused(t *testing.T, in string, status int) {
	t.Helper()
	var r h1.Request
	n, err := r.Parse([]byte(in), 0, small)
	if err == nil {
		t.Errorf("%q was accepted: %d bytes", in, n)
		return
	}
	if err.Status != status || err.Reason == "" || n != 0 {
		t.Errorf("%q: %d, error %d %q, want status %d", in, n, err.Status, err.Reason, status)
	}
	if got := err.Error(); got != err.Reason {
		t.Errorf("Error() = %q, want the reason %q", got, err.Reason)
	}
}

func TestRequestIsRefused(t *testing.T) {
	many := make([]string, 71)
	for i := range many {
		many[i] = "X: y"
	}
	tests := []struct {
		name   string
		in     string
		status int
		reason string
	}{
		{"HTTP/0.9", "GET /\r\n", 400, "no HTTP version"},
		{"no target", "GET HTTP/1.1\r\n", 400, "no HTTP version"},
		{"two spaces", head("GET  / HTTP/1.1", "Host: a"), 400, "more than one space"},
		{"a space in the target", head("GET /a b HTTP/1.1", "Host: a"), 400, "more than two spaces"},
		{"a space after the version", head("GET / HTTP/1.1 ", "Host: a"), 400, "more than two spaces|end in an HTTP version"},
		{"a tab for a space", head("GET\t/ HTTP/1.1", "Host: a"), 400, "a method and a space"},
		{"a space before the method", head(" GET / HTTP/1.1", "Host: a"), 400, "a method and a space"},
		{"a method that is no token", head("G(T / HTTP/1.1", "Host: a"), 400, "a method and a space"},
		{"an endless method", strings.Repeat("A", 65), 400, "method is too long"},
		{"two empty lines before", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "a method and a space"},
		{"a TLS handshake", "\x16\x03\x01\x02\x00\x01", 400, "TLS"},
		{"lower-case http", head("GET / http/1.1", "Host: a"), 400, "end in an HTTP version"},
		{"a version with two digits", head("GET / HTTP/1.10", "Host: a"), 400, "end in an HTTP version"},
		{"a version that is no number", head("GET / HTTP/1.x", "Host: a"), 400, "end in an HTTP version"},
		{"a CR in the version", head("GET / HTTP/1.1\r", "Host: a"), 400, "end in an HTTP version"},
		{"HTTP/1.2", head("GET / HTTP/1.2", "Host: a"), 505, "not 1.0 or 1.1"},
		{"HTTP/2.0", head("GET / HTTP/2.0", "Host: a"), 505, "not 1.0 or 1.1"},
		{"HTTP/0.9 by name", head("GET / HTTP/0.9", "Host: a"), 505, "not 1.0 or 1.1"},
		{"the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/2"},

		{"a control character in the path", head("GET /\x01 HTTP/1.1", "Host: a"), 400, "control"},
		{"a NUL in the path", head("GET /\x00 HTTP/1.1", "Host: a"), 400, "control"},
		{"a DEL in the query", head("GET /?\x7f HTTP/1.1", "Host: a"), 400, "control"},
		{"a CR in the path", head("GET /\rX HTTP/1.1", "Host: a"), 400, "control"},
		{"a raw byte in the path", head("GET /caf\xc3\xa9 HTTP/1.1", "Host: a"), 400, "not ASCII"},
		{"a fragment", head("GET /a#b HTTP/1.1", "Host: a"), 400, "fragment"},
		{"a fragment in the query", head("GET /?a#b HTTP/1.1", "Host: a"), 400, "fragment"},
		{"half an escape", head("GET /%4 HTTP/1.1", "Host: a"), 400, "escape"},
		{"an escape that is none", head("GET /%zz HTTP/1.1", "Host: a"), 400, "escape"},
		{"a relative path", head("GET a/b HTTP/1.1", "Host: a"), 400, "neither a path"},
		{"another scheme", head("GET ftp://a/b HTTP/1.1", "Host: a"), 400, "neither a path"},
		{"user information", head("GET http://u@a/b HTTP/1.1", "Host: a"), 400, "host name"},
		{"an absolute target without a host", head("GET http:///b HTTP/1.1", "Host: a"), 400, "host name"},
		{"an absolute target that ends in a fragment", head("GET http://a#b HTTP/1.1", "Host: a"), 400, "host name"},
		{"* for another method", head("GET * HTTP/1.1", "Host: a"), 400, "OPTIONS"},
		{"CONNECT to a path", head("CONNECT /a HTTP/1.1", "Host: a"), 400, "CONNECT"},
		{"CONNECT without a port", head("CONNECT a HTTP/1.1", "Host: a"), 400, "CONNECT"},
		{"CONNECT to an address without a port", head("CONNECT [::1] HTTP/1.1", "Host: a"), 400, "CONNECT"},
		{"CONNECT with a body", head("CONNECT a:1 HTTP/1.1", "Host: a", "Content-Length: 3"), 400, "body"},

		{"no Host", head("GET / HTTP/1.1"), 400, "Host is missing"},
		{"no Host beside an absolute target", head("GET http://a/ HTTP/1.1"), 400, "Host is missing"},
		{"two equal Hosts", head("GET / HTTP/1.1", "Host: a", "Host: a"), 400, "more than one Host"},
		{"two Hosts in HTTP/1.0", head("GET / HTTP/1.0", "Host: a", "Host: b"), 400, "more than one Host"},

		{"a folded value", get("X: a", " b"), 400, "folded"},
		{"a first field that begins with a space", head("GET / HTTP/1.1", " Host: a"), 400, "folded"},
		{"a space before the colon", get("X : a"), 400, "before|between"},
		{"a tab before the colon", get("X\t: a"), 400, "before|between"},
		{"an empty name", get(": a"), 400, "empty name"},
		{"a name that is no token", get("X(y): a"), 400, "not allowed"},
		{"a NUL in a name", get("X\x00y: a"), 400, "not allowed"},
		{"a raw byte in a name", get("X\xe9: a"), 400, "not allowed"},
		{"a line without a colon", get("X"), 400, "no colon"},
		{"a NUL in a value", get("X: a\x00b"), 400, "control"},
		{"an ESC in a value", get("X: \x1b[0m"), 400, "control"},
		{"a DEL in a value", get("X: a\x7f"), 400, "control"},
		{"a CR in a value", get("X: a\rb"), 400, "CR"},
		{"a CR in a name", get("X\ry: a"), 400, "CR"},
		{"a CR before CRLF", get("X: a\r"), 400, "CR"},
		{"an LF in a value", get("X: a\nY: b"), 400, "LF"},
		{"an LF in a name", get("X\nY: b"), 400, "LF"},
		{"an LF after the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n", 400, "LF"},
		{"LF everywhere, before the end is clear", "GET / HTTP/1.1\nHost: a\n\n", 400, "LF"},
		{"an LF that ends the head", "GET / HTTP/1.1\r\nHost: a\r\n\n", 400, "LF"},

		{"too many fields", get(many...), 431, "more header fields"},
		{"a head that is too large", get("X: " + strings.Repeat("a", 2048)), 431, "larger"},
		{"a head that is too large and not complete", strings.TrimSpace(get("X: " + strings.Repeat("a", 2048))), 431, "larger"},
		{"a target that is too long", head("GET /"+strings.Repeat("a", 100)+" HTTP/1.1", "Host: a"), 414, "longer"},
		{"a target that is too long and not complete", "GET /" + strings.Repeat("a", 300), 414, "longer"},
		{"an expectation that nobody knows", get("Expect: a-miracle"), 417, "Expect"},
		{"a Connection that names everything", get("Connection: " + strings.Repeat("a,", 40)), 400, "too many"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			wantRefused(t, test.in, test.status)
			var r h1.Request
			_, err := r.Parse([]byte(test.in), 0, small)
			found := false
			for part := range strings.SplitSeq(test.reason, "|") {
				found = found || err != nil && strings.Contains(err.Reason, part)
			}
			if !found {
				t.Errorf("reason %v, want one with %q", err, test.reason)
			}
			checkPieces(t, []byte(test.in), parseRequest(small))
		})
	}
}

func TestRequestLineMayFillTheHead(t *testing.T) {
	lim := h1.Limits{HeadBytes: 50, TargetBytes: 100, Fields: 1}
	in := []byte("GET /" + strings.Repeat("a", 60))
	var r h1.Request
	if _, err := r.Parse(in, 0, lim); err == nil || err.Status != 414 {
		t.Errorf("got %v, want status 414", err)
	}
	checkPieces(t, in, parseRequest(lim))
}

func TestRequestAtItsLimitsIsAccepted(t *testing.T) {
	in := "GET /" + strings.Repeat("a", 99) + " HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", 69)
	in += "\r\n"
	r := mustParse(t, in)
	if len(r.Target) != 100 || len(r.Fields) != 70 {
		t.Errorf("target of %d bytes, %d fields", len(r.Target), len(r.Fields))
	}
	fill := get("X: ")
	in = get("X: " + strings.Repeat("a", 2048-len(fill)))
	if len(in) != 2048 {
		t.Fatalf("the head has %d bytes", len(in))
	}
	mustParse(t, in)
	checkPieces(t, []byte(in+"GET"), parseRequest(small))
}

func TestRequestFields(t *testing.T) {
	r := mustParse(t, get("A:b", "C: \t d e \t ", "Empty:", "Raw: \xe9\xff", "Tab: a\tb"))
	want := "\nHost: a.example (1)\nA: b (0)\nC: d e (0)\nEmpty:  (0)\nRaw: \xe9\xff (0)\nTab: a\tb (0)"
	var s strings.Builder
	describeFields(&s, r.Fields)
	if got := s.String(); got != want {
		t.Errorf("fields = %q, want %q", got, want)
	}
}

func TestRequestKeepAlive(t *testing.T) {
	tests := []struct {
		name    string
		version string
		lines   []string
		want    bool
	}{
		{"HTTP/1.1 stays", "HTTP/1.1", nil, true},
		{"HTTP/1.1 closes if asked", "HTTP/1.1", []string{"Connection: close"}, false},
		{"in any case", "HTTP/1.1", []string{"cOnnection: ClOsE"}, false},
		{"in a list", "HTTP/1.1", []string{"Connection: x , close,"}, false},
		{"in a second field", "HTTP/1.1", []string{"Connection: keep-alive", "Connection: close"}, false},
		{"close wins", "HTTP/1.1", []string{"Connection: close, keep-alive"}, false},
		{"a word that contains close", "HTTP/1.1", []string{"Connection: closed"}, true},
		{"what cannot be read may be a close", "HTTP/1.1", []string{"Connection: close;"}, false},
		{"HTTP/1.0 closes", "HTTP/1.0", nil, false},
		{"HTTP/1.0 stays if asked", "HTTP/1.0", []string{"Connection: Keep-Alive"}, true},
		{"HTTP/1.0 closes if asked both", "HTTP/1.0", []string{"Connection: keep-alive, close"}, false},
		{"Proxy-Connection means nothing", "HTTP/1.0", []string{"Proxy-Connection: keep-alive"}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := mustParse(t, head(append([]string{"GET / " + test.version, "Host: a"}, test.lines...)...))
			if r.KeepAlive != test.want {
				t.Errorf("KeepAlive = %v, want %v", r.KeepAlive, test.want)
			}
		})
	}
}

func TestConnectionNamesFields(t *testing.T) {
	tests := []struct {
		name  string
		lines []string
		want  string // the fields that stay
	}{
		{"none", []string{"A: 1"}, "Host A"},
		{"one, in any case", []string{"Connection: a", "A: 1", "B: 2"}, "Host Connection B"},
		{"one that came before", []string{"A: 1", "Connection: a"}, "Host Connection"},
		{"every field of the name", []string{"A: 1", "Connection: x, A", "a: 2", "X: 3"}, "Host Connection"},
		{"Keep-Alive", []string{"Keep-Alive: timeout=5", "Connection: keep-alive"}, "Host Connection"},
		{"TE and Upgrade", []string{"TE: trailers", "Upgrade: x", "Connection: TE, upgrade"}, "Host Connection"},
		{"close is no field", []string{"Close: 1", "Connection: close"}, "Host Close Connection"},
		{
			"a name cannot take away what frames, routes or authenticates",
			[]string{
				"Connection: host, content-length, content-type, x-forwarded-for, x-forwarded-client-cert",
				"Connection: forwarded, x-request-id, authorization, cookie, x-real-ip, x-windrose-fault",
				"Content-Length: 0", "Content-Type: t", "X-Forwarded-For: f", "X-Forwarded-Client-Cert: c",
				"Forwarded: f", "X-Request-Id: r", "Authorization: a", "Cookie: c", "X-Real-IP: i",
			},
			"Host Connection Connection Content-Length Content-Type X-Forwarded-For X-Forwarded-Client-Cert " +
				"Forwarded X-Request-Id Authorization Cookie X-Real-IP",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := remaining(mustParse(t, get(test.lines...))); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// remaining are the names without those that HopByHop marks.
func remaining(r *h1.Request) string {
	var names []string
	for i, f := range r.Fields {
		if i >= 64 || r.HopByHop&(1<<i) == 0 {
			names = append(names, string(f.Name))
		}
	}
	return strings.Join(names, " ")
}

func TestConnectionNamesFieldsPastTheBits(t *testing.T) {
	lines := make([]string, 0, 70)
	for i := range 62 {
		lines = append(lines, fmt.Sprintf("X%d: y", i))
	}
	lines = append(lines, "A: 63", "A: 64", "B: 65", "Connection: b", "A: 67", "Connection: a")
	r := mustParse(t, get(lines...))
	got := remaining(r)
	if !strings.HasSuffix(got, "X61 Connection Connection") {
		t.Errorf("remaining fields are %s", got)
	}
	if r.HopByHop != 1<<63 {
		t.Errorf("HopByHop = %b, want the bit of the first A", r.HopByHop)
	}
}

func TestRequestFraming(t *testing.T) {
	tests := []struct {
		name string
		in   string
		want string
	}{
		{"no body", get(), "0:0"},
		{"a length", get("Content-Length: 42"), "1:42"},
		{"a length of zero", get("Content-Length: 0"), "1:0"},
		{"leading zeros", get("Content-Length: 007"), "1:7"},
		{"the greatest length", get("Content-Length: 9223372036854775807"), "1:9223372036854775807"},
		{"chunked", get("Transfer-Encoding: chunked"), "2:0"},
		{"chunked in any case", get("transfer-ENCODING:  CHUNKED "), "2:0"},
		{"HTTP/1.0 with a length", head("POST / HTTP/1.0", "Content-Length: 5"), "1:5"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := mustParse(t, test.in)
			if got := fmt.Sprintf("%d:%d", r.Body, r.Length); got != test.want {
				t.Errorf("body = %s, want %s", got, test.want)
			}
		})
	}
}

func TestRequestExpectUpgradeTrailers(t *testing.T) {
	const body = "Content-Length: 5"
	tests := []struct {
		name string
		in   string
		want string
	}{
		{"nothing", get(), "false  false"},
		{"100-continue", get(body, "Expect: 100-Continue"), "true  false"},
		{"100-continue without a body", get("Expect: 100-continue"), "false  false"},
		{"an expectation means nothing in HTTP/1.0", head("POST / HTTP/1.0", body, "Expect: more"), "false  false"},
		{"an upgrade", get("Connection: Upgrade", "Upgrade: websocket"), "false websocket false"},
		{"an upgrade with a version", get("Upgrade: a/1.0", "Connection: keep-alive, upgrade"), "false a/1.0 false"},
		{"an upgrade that Connection does not name", get("Upgrade: websocket"), "false  false"},
		{"an upgrade in HTTP/1.0", head("GET / HTTP/1.0", "Connection: upgrade", "Upgrade: websocket"), "false  false"},
		{"an upgrade with a body", get(body, "Connection: upgrade", "Upgrade: websocket"), "false  false"},
		{"an upgrade with chunks", get("Transfer-Encoding: chunked", "Connection: upgrade", "Upgrade: websocket"), "false  false"},
		{"an upgrade with a length of zero", get("Content-Length: 0", "Connection: upgrade", "Upgrade: websocket"), "false websocket false"},
		{"two upgrades", get("Connection: upgrade", "Upgrade: websocket", "Upgrade: x"), "false  false"},
		{"a list of upgrades", get("Connection: upgrade", "Upgrade: websocket, x"), "false  false"},
		{"an upgrade to a malformed version", get("Connection: upgrade", "Upgrade: a/("), "false  false"},
		{"an empty upgrade", get("Connection: upgrade", "Upgrade:"), "false  false"},
		{"an upgrade to HTTP/2", get("Connection: upgrade, http2-settings", "Upgrade: H2C", "HTTP2-Settings: x"), "false  false"},
		{"trailers", get("TE: trailers"), "false  true"},
		{"trailers in a list", get("TE: gzip;q=0.5 , Trailers"), "false  true"},
		{"other codings", get("TE: gzip"), "false  false"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := mustParse(t, test.in)
			if got := fmt.Sprintf("%v %s %v", r.Continue, r.Upgrade, r.Trailers); got != test.want {
				t.Errorf("continue, upgrade, trailers = %q, want %q", got, test.want)
			}
		})
	}
}

func TestRequestIsResetAndReused(t *testing.T) {
	var r h1.Request
	first := get("Transfer-Encoding: chunked", "Connection: close, a", "A: 1", "TE: trailers", "Expect: 100-continue")
	for _, in := range []string{first, "G\x00T", "GET / HTTP/1.1\r\nHo"} {
		r.Parse([]byte(in), 0, small)
		want := mustParse(t, get("B: 2"))
		if _, err := r.Parse([]byte(get("B: 2")), 0, small); err != nil {
			t.Fatal(err)
		}
		if got, want := describe(&r), describe(want); got != want {
			t.Errorf("after %q\ngot  %s\nwant %s", in, got, want)
		}
	}
}

func TestRefusedRequestKeepsWhatALogNeeds(t *testing.T) {
	var r h1.Request
	in := []byte(get("X : y"))
	r.Parse(in[:20], 0, small)
	if _, err := r.Parse(in, 20, small); err == nil || string(r.Method) != "GET" || string(r.Path) != "/" {
		t.Errorf("after %v the request is %s", err, describe(&r))
	}
}

func TestRequestInPieces(t *testing.T) {
	for _, in := range []string{
		bigRequest, bigRequest + bigRequest, get(), "\r\n" + get("A: b"), "\r", "", "GET", "\r\n\r",
		get("Connection: a", "A: 1") + "\r\n", get("Content-Length: 3") + "a\nb",
	} {
		checkPieces(t, []byte(in), parseRequest(small))
	}
}

func TestParseAllocatesNothing(t *testing.T) {
	var r h1.Request
	requests := [][]byte{
		[]byte(bigRequest),
		[]byte(get("Connection: upgrade, a", "Upgrade: websocket", "A: 1")),
		[]byte(head("GET http://[2001:db8::1]:80/ HTTP/1.1", "Host: [::1]")),
	}
	r.Parse(requests[0], 0, small)
	for _, in := range requests {
		if got := testing.AllocsPerRun(100, func() {
			if n, err := r.Parse(in, 0, small); n == 0 || err != nil {
				t.Fatal(err)
			}
			r.Parse(in[:len(in)-1], len(in)-3, small)
		}); got != 0 {
			t.Errorf("%q: %v allocations", in, got)
		}
	}
	var s h1.Response
	in := []byte(bigResponse)
	s.Parse(in, 0, nil, small)
	if got := testing.AllocsPerRun(100, func() {
		if n, err := s.Parse(in, 0, nil, small); n == 0 || err != nil {
			t.Fatal(err)
		}
	}); got != 0 {
		t.Errorf("response: %v allocations", got)
	}
}
