package h1_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"testing"

	"windrose.dev/windrose/internal/h1"
)

// The fuzz tests hold the codec against net/http: what is accepted here must be
// accepted there and mean the same. The reverse is not wanted, as this codec is
// stricter. The exceptions are in skip.

// fuzzLimits are larger than what the fuzzer writes, so that it looks for more
// than limits.
var fuzzLimits = h1.Limits{HeadBytes: 8 << 10, TargetBytes: 1 << 10, Fields: 100}

func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		bigRequest, smallRequest, "\r\n" + smallRequest,
		get("Content-Length: 3") + "abcGET",
		get("Transfer-Encoding: chunked") + "3\r\nabc\r\n0\r\nA: b\r\n\r\nGET",
		get("Connection: upgrade, a", "Upgrade: websocket", "TE: trailers", "A: b"),
		head("OPTIONS * HTTP/1.0", "Connection: keep-alive"),
		head("CONNECT a:1 HTTP/1.1", "Host: a:1"),
		head("GET http://[::1]:80?a HTTP/1.1", "Host: a"),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(checkRequest)
}

// FuzzRequestOfParts makes requests out of parts that matter, so that more of
// what it tries comes close to being accepted.
func FuzzRequestOfParts(f *testing.F) {
	for _, s := range []string{"\x00\x10\x00\x05\x10", "\x03\x13\x01\x00\x04\x07", "\x01\x11\x00\x05\x09\x0a"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, picks []byte) {
		if len(picks) < 4 || len(picks) > 24 {
			return
		}
		pick := func(from []string, i byte) string { return from[int(i)%len(from)] }
		var in strings.Builder
		in.WriteString(pick(partMethods, picks[0]) + pick(partTargets, picks[1]) + pick(partVersions, picks[2]))
		for _, p := range picks[4:] {
			in.WriteString(pick(partFields, p))
		}
		in.WriteString("\r\n" + pick(partBodies, picks[3]))
		checkRequest(t, []byte(in.String()))
	})
}

var (
	partMethods  = []string{"GET ", "POST ", "OPTIONS ", "CONNECT ", "HEAD ", "PRI ", "\r\nGET ", "get ", "GET", "GET  ", "GET\t"}
	partTargets  = []string{"/", "*", "http://a", "http://a/b?c", "a:1", "/%41?%", "//a", "/?", "HTTPS://[::1]:1?", "http://a:", "/a b", "/#", "/\xff", ""}
	partVersions = []string{" HTTP/1.1\r\nHost: a\r\n", " HTTP/1.0\r\n", " HTTP/1.1\r\n", " HTTP/1.1\n", " HTTP/1.1 \r\n", " HTTP/1.2\r\n", "\r\n"}
	partFields   = []string{
		"A: b\r\n", "a:\r\n", "A: \t c \t\r\n", "Host: a\r\n", "host: b:1\r\n", "Content-Length: 3\r\n", "content-length:0\r\n",
		"Content-Length: 3, 3\r\n", "Content-Length: +3\r\n", "Transfer-Encoding: chunked\r\n", "TRANSFER-ENCODING:CHUNKED\t\r\n",
		"Transfer-Encoding: chunked, chunked\r\n", "Transfer-Encoding: gzip, chunked\r\n", "Transfer-Encoding : chunked\r\n",
		"Transfer-Encoding:\r\n chunked\r\n", "Transfer-Encoding: \x0bchunked\r\n", "Connection: close\r\n", "Connection: keep-alive\r\n",
		"Connection: a, content-length, transfer-encoding\r\n", "Connection: upgrade\r\nUpgrade: x\r\n", "Expect: 100-continue\r\n",
		"TE: trailers\r\n", "Pragma: no-cache\r\n", "A: b\n", "A: b\r", " A: b\r\n", ": b\r\n", "A\r\n", "A: \x00\r\n", "A: \xff\r\n", "A;: b\r\n",
	}
	partBodies = []string{
		"", "abc", "abcGET / HTTP/1.1\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n", "3;a=\"\\\"\"\r\nabc\r\n0\r\nA: b\r\n\r\nGET", "3\nabc\n0\n\n",
		"3 \r\nabc\r\n0\r\n\r\n", "3\r\nabcX0\r\n\r\n", "0\r\n\r\nGET", "0\r\nContent-Length: 3\r\n\r\nabc", "-1\r\n", "03\r\nabc\r\n00\r\n\r\n",
	}
)

func checkRequest(t *testing.T, in []byte) {
	if len(in) > 1<<12 {
		return
	}
	checkPieces(t, in, parseRequest(fuzzLimits))
	var r h1.Request
	n, err := r.Parse(in, 0, fuzzLimits)
	if err != nil || n == 0 {
		return
	}
	body := checkBodyPieces(t, r.Body, r.Length, in[n:])
	if body.err != "" || skip(r.Fields) {
		return
	}
	var b h1.Body
	b.Reset(r.Body, r.Length)
	decode(t, &b, in[n:], len(in))
	br := bufio.NewReaderSize(bytes.NewReader(bytes.TrimPrefix(in, []byte("\r\n"))), 1<<14)
	theirs, e := http.ReadRequest(br)
	if e != nil {
		t.Fatalf("net/http refuses %q: %v", in, e)
	}
	sameRequest(t, &r, theirs)
	sameBody(t, body, b.Trailers(), theirs.Body, &theirs.Trailer, br, in[n:])
}

// skip says whether net/http treats fields in a way of its own: it refuses some
// values of Trailer, which has no effect here.
func skip(fields []h1.Field) bool {
	return slices.ContainsFunc(fields, func(f h1.Field) bool { return f.Known == h1.Trailer })
}

func sameRequest(t *testing.T, r *h1.Request, theirs *http.Request) {
	t.Helper()
	same(t, "method", string(r.Method), theirs.Method)
	same(t, "target", string(r.Target), theirs.RequestURI)
	same(t, "host", string(r.Host), theirs.Host)
	same(t, "minor version", int(r.Minor), theirs.ProtoMinor)
	path, err := url.PathUnescape(string(r.Path))
	if err != nil {
		t.Errorf("path %q: %v", r.Path, err)
	}
	// net/http leaves the path of http://host empty.
	if theirs.URL.Path != "" || r.Target[0] == '/' {
		same(t, "path", path, theirs.URL.Path)
	}
	same(t, "query", string(r.Query), theirs.URL.RawQuery)
	same(t, "has query", r.HasQuery, theirs.URL.RawQuery != "" || theirs.URL.ForceQuery)
	if r.KeepAlive && theirs.Close {
		t.Errorf("net/http closes the connection")
	}
	switch r.Body {
	case h1.NoBody:
		same(t, "length", theirs.ContentLength, 0)
	case h1.Length:
		same(t, "length", r.Length, theirs.ContentLength)
	case h1.Chunked:
		same(t, "coding", fmt.Sprint(theirs.TransferEncoding), "[chunked]")
	default:
		t.Errorf("a request has body %d", r.Body)
	}
	sameFields(t, r.Fields, theirs.Header)
}

func same[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v as net/http", what, got, want)
	}
}

// sameFields compares all fields but those that net/http takes out or adds.
func sameFields(t *testing.T, fields []h1.Field, theirs http.Header) {
	t.Helper()
	ours := make(http.Header)
	for _, f := range fields {
		name := textproto.CanonicalMIMEHeaderKey(string(f.Name))
		ours[name] = append(ours[name], string(f.Value))
	}
	theirs = theirs.Clone()
	for _, name := range []string{"Host", "Transfer-Encoding", "Connection", "Content-Length"} {
		ours.Del(name)
		theirs.Del(name)
	}
	if ours.Get("Pragma") == "no-cache" && ours["Cache-Control"] == nil {
		theirs.Del("Cache-Control")
	}
	if !maps.EqualFunc(ours, theirs, slices.Equal) {
		t.Errorf("fields: got %q, want %q as net/http", ours, theirs)
	}
}

// sameBody wants that net/http reads the same content and stops at the same
// byte, or finds the same end missing.
func sameBody(t *testing.T, ours bodyResult, trailers []h1.Field, body io.Reader, theirTrailers *http.Header, br *bufio.Reader, in []byte) {
	t.Helper()
	content, err := io.ReadAll(body)
	same(t, "content", ours.content, string(content))
	if !ours.done {
		if err == nil && len(in) > 0 {
			t.Errorf("net/http sees the end of a body in %q", in)
		}
		return
	}
	if err != nil {
		t.Errorf("net/http cannot read the body: %v", err)
		return
	}
	rest, _ := io.ReadAll(br)
	same(t, "next message", string(in[ours.consumed:]), string(rest))
	for _, f := range trailers {
		name := textproto.CanonicalMIMEHeaderKey(string(f.Name))
		if !slices.Contains((*theirTrailers)[name], string(f.Value)) {
			t.Errorf("trailer %s: %s is not in %q", f.Name, f.Value, *theirTrailers)
		}
	}
}

func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		bigResponse,
		head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked") + "3\r\nabc\r\n0\r\n\r\n",
		head("HTTP/1.0 200") + "until the end",
		head("HTTP/1.1 204 ", "Connection: close"),
		head("HTTP/1.1 304 Not Modified", "Content-Length: 5"),
		head("HTTP/1.1 101 Switching", "Connection: upgrade", "Upgrade: websocket"),
	} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, in []byte, isHead bool) {
		if len(in) > 1<<12 {
			return
		}
		method := "GET"
		if isHead {
			method = "HEAD"
		}
		checkPieces(t, in, parseResponse(method, fuzzLimits))
		var r h1.Response
		n, err := r.Parse(in, 0, []byte(method), fuzzLimits)
		if err != nil || n == 0 {
			return
		}
		var b h1.Body
		b.Reset(r.Body, r.Length)
		body := decode(t, &b, in[n:], len(in))
		if body.err != "" || skip(r.Fields) || r.Status == 101 {
			return // net/http hands the connection over at 101
		}
		br := bufio.NewReaderSize(bytes.NewReader(in), 1<<14)
		theirs, e := http.ReadResponse(br, &http.Request{Method: method})
		if e != nil {
			t.Fatalf("net/http refuses %q: %v", in, e)
		}
		same(t, "status", r.Status, theirs.StatusCode)
		same(t, "minor version", int(r.Minor), theirs.ProtoMinor)
		if r.KeepAlive && theirs.Close {
			t.Errorf("net/http closes the connection")
		}
		sameFields(t, r.Fields, theirs.Header)
		if r.Body == h1.UntilClose {
			body.done, body.consumed = true, len(in)-n
		}
		if r.Body == h1.NoBody {
			body = bodyResult{done: true}
		}
		sameBody(t, body, b.Trailers(), theirs.Body, &theirs.Trailer, br, in[n:])
	})
}

func FuzzChunks(f *testing.F) {
	for _, s := range []string{
		"5\r\nhello\r\n0\r\n\r\n", "A;a=\"\\\"\";b\r\n0123456789\r\n0\r\nA: b\r\nC: d\r\n\r\nrest",
		"1\r\nx\r\n1\r\ny\r\n0; a = b\r\n\r\n", "ffffffffffffffff\r\n", "5\n", "0\r\n\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		got := checkBodyPieces(t, h1.Chunked, 0, in)
		if !strings.HasPrefix(string(in), "0") && got.done && got.content == "" && !strings.Contains(string(in), "0") {
			t.Errorf("%q ended without a last chunk", in)
		}
		if got.err != "" {
			return
		}
		content, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(in)))
		same(t, "content", got.content, string(content))
		if got.done && err != nil {
			t.Errorf("net/http cannot read %q: %v", in, err)
		}
		if !got.done {
			return
		}
		// What was read can be written, and read again to the same end.
		wire := h1.AppendLastChunk(nil, nil)
		if got.content != "" {
			wire = append(h1.AppendChunk(nil, []byte(got.content)), wire...)
		}
		again := checkBodyPieces(t, h1.Chunked, 0, wire)
		if again.content != got.content || !again.done || again.consumed != len(wire) {
			t.Errorf("%q was written as %q and read as %+v", got.content, wire, again)
		}
	})
}
