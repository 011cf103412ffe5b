package h1_test

import (
	"fmt"
	"strings"
	"testing"

	"windrose.dev/windrose/internal/h1"
)

func TestResponse(t *testing.T) {
	tests := []struct {
		name   string
		method string
		in     string
		want   string // status, reason, body, keep-alive, upgrade
	}{
		{"a length", "GET", head("HTTP/1.1 200 OK", "Content-Length: 5"), "200 OK 1:5 true "},
		{"a length of zero", "GET", head("HTTP/1.1 200 OK", "Content-Length: 0"), "200 OK 1:0 true "},
		{"chunked", "GET", head("HTTP/1.1 200 OK", "Transfer-Encoding: Chunked"), "200 OK 2:0 true "},
		{"neither: until the end", "GET", head("HTTP/1.1 200 OK"), "200 OK 3:0 false "},
		{"no fields and no reason", "GET", "HTTP/1.1 200\r\n\r\n", "200  3:0 false "},
		{"an empty reason", "GET", head("HTTP/1.1 404 ", "Content-Length: 1"), "404  1:1 true "},
		{"a reason of several words, not ASCII", "GET", head("HTTP/1.1 500 \xc4rger im \tHaus", "Content-Length: 1"), "500 \xc4rger im \tHaus 1:1 true "},
		{"a status that nobody knows", "GET", head("HTTP/1.1 999 No", "Content-Length: 1"), "999 No 1:1 true "},
		{"close", "GET", head("HTTP/1.1 200 OK", "Content-Length: 5", "Connection: close"), "200 OK 1:5 false "},
		{"HTTP/1.0", "GET", head("HTTP/1.0 200 OK", "Content-Length: 5"), "200 OK 1:5 false "},
		{"HTTP/1.0 that stays", "GET", head("HTTP/1.0 200 OK", "Content-Length: 5", "Connection: keep-alive"), "200 OK 1:5 true "},
		{"HTTP/1.0 that stays but ends with its connection", "GET", head("HTTP/1.0 200 OK", "Connection: keep-alive"), "200 OK 3:0 false "},
		{"HEAD with a length", "HEAD", head("HTTP/1.1 200 OK", "Content-Length: 5"), "200 OK 0:0 true "},
		{"HEAD with chunked", "HEAD", head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked"), "200 OK 0:0 true "},
		{"HEAD with neither", "HEAD", head("HTTP/1.1 200 OK"), "200 OK 0:0 true "},
		{"304 with a length", "GET", head("HTTP/1.1 304 Not Modified", "Content-Length: 5"), "304 Not Modified 0:0 true "},
		{"204", "GET", head("HTTP/1.1 204 No Content"), "204 No Content 0:0 true "},
		{"204 with a length of zero", "GET", head("HTTP/1.1 204 No Content", "Content-Length: 0"), "204 No Content 0:0 true "},
		{"204 with a body that it must not have", "GET", head("HTTP/1.1 204 No Content", "Content-Length: 5"), "204 No Content 0:0 false "},
		{"204 with chunks that it must not have", "GET", head("HTTP/1.1 204 No Content", "Transfer-Encoding: chunked"), "204 No Content 0:0 false "},
		{"100", "GET", head("HTTP/1.1 100 Continue"), "100 Continue 0:0 true "},
		{"103 with fields", "GET", head("HTTP/1.1 103 Early Hints", "Link: </a>"), "103 Early Hints 0:0 true "},
		{"101", "GET", head("HTTP/1.1 101 Switching", "Connection: Upgrade", "Upgrade: websocket"), "101 Switching 0:0 true websocket"},
		{"an upgrade that is only offered", "GET", head("HTTP/1.1 426 Up", "Connection: Upgrade", "Upgrade: x", "Content-Length: 0"), "426 Up 1:0 true "},
		{"CONNECT that was accepted", "CONNECT", head("HTTP/1.1 200 OK", "Content-Length: 5"), "200 OK 0:0 true "},
		{"CONNECT that was refused", "CONNECT", head("HTTP/1.1 403 No", "Content-Length: 5"), "403 No 1:5 true "},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var r h1.Response
			n, err := r.Parse([]byte(test.in+"rest"), 0, []byte(test.method), small)
			if err != nil || n != len(test.in) {
				t.Fatalf("Parse = %d, %v, want %d", n, err, len(test.in))
			}
			got := fmt.Sprintf("%d %s %d:%d %v %s", r.Status, r.Reason, r.Body, r.Length, r.KeepAlive, r.Upgrade)
			if got != test.want {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
			checkPieces(t, []byte(test.in), parseResponse(test.method, small))
		})
	}
}

func TestResponseIsRefused(t *testing.T) {
	ok := func(lines ...string) string { return head(append([]string{"HTTP/1.1 200 OK"}, lines...)...) }
	tests := []struct{ name, in, reason string }{
		{"something else", "SSH-2.0-OpenSSH_9.9\r\n", "begin with HTTP/1"},
		{"something else, one byte of it", "\x00", "begin with HTTP/1"},
		{"HTTP/2", head("HTTP/2.0 200 OK"), "begin with HTTP/1"},
		{"ICY", head("ICY 200 OK"), "begin with HTTP/1"},
		{"an empty line before", "\r\n" + ok(), "begin with HTTP/1"},
		{"lower case", head("http/1.1 200 OK"), "begin with HTTP/1"},
		{"a version that nobody speaks", head("HTTP/1.2 200 OK"), "malformed"},
		{"no status", head("HTTP/1.1"), "malformed"},
		{"a status of two digits", head("HTTP/1.1 20 OK"), "malformed|digits"},
		{"a status of four digits", head("HTTP/1.1 2000 OK"), "malformed"},
		{"a status with a sign", head("HTTP/1.1 +20 OK"), "digits"},
		{"a status below 100", head("HTTP/1.1 099 OK"), "below"},
		{"a tab before the reason", head("HTTP/1.1 200\tOK"), "malformed"},
		{"a control character in the reason", head("HTTP/1.1 200 O\x00K"), "control"},
		{"a CR in the reason", head("HTTP/1.1 200 O\rK"), "control"},
		{"an LF after the status line", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", "LF"},
		{"a folded field", ok("X: a", " b"), "folded"},
		{"a space before the colon", ok("Content-Length : 5"), "colon"},
		{"both lengths", ok("Content-Length: 5", "Transfer-Encoding: chunked"), "both"},
		{"two equal lengths", ok("Content-Length: 5", "Content-Length: 5"), "more than one"},
		{"two lengths in a list", ok("Content-Length: 5, 5"), "not a number"},
		{"a coding that is not chunked", ok("Transfer-Encoding: gzip"), "chunked"},
		{"a coding before chunked", ok("Transfer-Encoding: gzip, chunked"), "other than chunked"},
		{"chunked twice", ok("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), "exactly one"},
		{"chunks from HTTP/1.0", head("HTTP/1.0 200 OK", "Transfer-Encoding: chunked"), "HTTP/1.0"},
		{"101 without a protocol", head("HTTP/1.1 101 Switching", "Connection: upgrade"), "protocols"},
		{"101 without Connection", head("HTTP/1.1 101 Switching", "Upgrade: websocket"), "protocols"},
		{"101 in HTTP/1.0", head("HTTP/1.0 101 Switching", "Connection: upgrade", "Upgrade: websocket"), "protocols"},
		{"a head that is too large", ok("X: " + strings.Repeat("a", 2048)), "larger"},
		{"a status line without an end", "HTTP/1.1 200 " + strings.Repeat("a", 2048), "larger"},
		{"too many fields", ok(strings.Repeat("X: y\r\n", 71) + "X: y"), "more header fields"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var r h1.Response
			n, err := r.Parse([]byte(test.in), 0, []byte("GET"), small)
			if err == nil {
				t.Fatalf("accepted: %d bytes", n)
			}
			found := false
			for part := range strings.SplitSeq(test.reason, "|") {
				found = found || strings.Contains(err.Reason, part)
			}
			if err.Status != 502 || !found {
				t.Errorf("error %d %q, want 502 with %q", err.Status, err.Reason, test.reason)
			}
			checkPieces(t, []byte(test.in), parseResponse("GET", small))
		})
	}
}

func TestResponseConnectionNamesFields(t *testing.T) {
	var r h1.Response
	in := head("HTTP/1.1 200 OK", "Connection: a, set-cookie", "A: 1", "Set-Cookie: b")
	if _, err := r.Parse([]byte(in), 0, []byte("GET"), small); err != nil || r.HopByHop != 0b10 {
		t.Errorf("HopByHop = %b, %v, want the bit of A", r.HopByHop, err)
	}
}

func TestResponseConnectionNamesFieldsPastTheBits(t *testing.T) {
	var r h1.Response
	in := head("HTTP/1.1 200 OK", strings.Repeat("X: y\r\n", 65)+"A: 1", "Connection: a")
	_, err := r.Parse([]byte(in), 0, []byte("GET"), small)
	if _, ok := h1.Lookup(r.Fields, "a"); ok || err != nil || len(r.Fields) != 66 {
		t.Errorf("%d fields, A is there: %v, error %v", len(r.Fields), ok, err)
	}
}
