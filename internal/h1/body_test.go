package h1_test

import (
	"bufio"
	"bytes"
	"io"
	"net/http/httputil"
	"strings"
	"testing"

	"windrose.dev/windrose/internal/h1"
)

func TestChunkedBody(t *testing.T) {
	tests := []struct{ name, in, content, trailers, rest string }{
		{"an empty one", "0\r\n\r\n", "", "", ""},
		{"one chunk", "5\r\nhello\r\n0\r\n\r\n", "hello", "", ""},
		{"two chunks and the next message", "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\nGET /", "hello!", "", "GET /"},
		{"sizes in both cases", "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789", "", ""},
		{"leading zeros", "0005\r\nhello\r\n0000\r\n\r\n", "hello", "", ""},
		{"content that looks like framing", "7\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n\r\n", "", ""},
		{"an extension", "5;a\r\nhello\r\n0;b=c\r\n\r\n", "hello", "", ""},
		{"extensions with spaces", "5; a = b\t; c\r\nhello\r\n0\r\n\r\n", "hello", "", ""},
		{"a quoted extension with a semicolon", "5;a=\";\\\";=\"\r\nhello\r\n0\r\n\r\n", "hello", "", ""},
		{"a trailer", "0\r\nGrpc-Status: 0\r\n\r\nnext", "", "\nGrpc-Status: 0 (0)", "next"},
		{"trailers", "1\r\nx\r\n0\r\nA: b\r\nC:  d \r\n\r\n", "x", "\nA: b (0)\nC: d (0)", ""},
		{
			"trailers that must not be any are dropped",
			"0\r\nHost: evil\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nA: b\r\nAuthorization: c\r\n" +
				"X-Forwarded-For: d\r\nContent-Type: e\r\nSet-Cookie: f\r\nIf-Match: g\r\nConnection: close\r\nX-Request-Id: h\r\n\r\n",
			"", "\nA: b (0)", "",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := checkBodyPieces(t, h1.Chunked, 0, []byte(test.in))
			want := bodyResult{test.content, len(test.in) - len(test.rest), true, "", test.trailers}
			if got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestChunkedBodyIsRefused(t *testing.T) {
	long := strings.Repeat("a", 2000)
	tests := []struct{ name, in, reason string }{
		{"no size", "\r\nhello", "hexadecimal"},
		{"a space before the size", " 5\r\nhello\r\n", "hexadecimal"},
		{"a sign", "+5\r\nhello\r\n", "hexadecimal"},
		{"a negative size", "-1\r\n", "hexadecimal"},
		{"a prefix", "0x5\r\nhello\r\n", "hexadecimal"},
		{"an underscore", "0_5\r\nhello\r\n", "hexadecimal"},
		{"a decimal point", "5.0\r\nhello\r\n", "hexadecimal"},
		{"a list", "5,5\r\nhello\r\n", "hexadecimal"},
		{"a NUL", "5\x00\r\nhello\r\n", "hexadecimal"},
		{"a size that overflows", "8000000000000000\r\n", "too large"},
		{"a size that wraps around to five", "10000000000000005\r\nhello", "digits|too large"},
		{"too many digits", "00000000000000005\r\nhello\r\n", "digits"},
		{"a space after the size", "5 \r\nhello\r\n", "hexadecimal"},
		{"a space before an extension", "5 ;a\r\nhello\r\n", "hexadecimal"},
		{"a size in two words", "5 5\r\nhello\r\n", "hexadecimal"},
		{"an LF for CRLF after the size", "5\nhello\r\n0\r\n\r\n", "hexadecimal"},
		{"a CR alone after the size", "5\rhello\r\n", "CR"},
		{"CR CR LF after the size", "5\r\r\nhello\r\n", "CR"},
		{"an LF in an extension", "5;a\nhello\r\n0\r\n\r\n", "LF"},
		{"an LF in a quoted string", "5;a=\"\nhello\"\r\n", "LF"},
		{"an escaped CR in a quoted string", "5;a=\"\\\r\n", "malformed"},
		{"a CRLF in a quoted string", "5;a=\"\r\n\"\r\nhello", "malformed"},
		{"a quoted string for a name", "5;\"a\"\r\nhello\r\n", "malformed"},
		{"an extension without a name", "5;\r\nhello\r\n", "malformed"},
		{"an extension without a value", "5;a=\r\nhello\r\n", "malformed"},
		{"an extension with two values", "5;a=b c\r\nhello\r\n", "malformed"},
		{"a NUL in an extension", "5;a\x00\r\nhello\r\n", "malformed"},
		{"a long extension", "5;" + long + "\r\nhello\r\n", "too long"},
		{"a long extension without an end", "5;" + long, "too long"},
		{"a long quoted string", "5;a=\"" + long, "too long"},
		{"many long extensions", strings.Repeat("1;"+long[:900]+"\r\nx\r\n", 30), "more framing"},
		{"data longer than its size", "5\r\nhello!\r\n0\r\n\r\n", "longer"},
		{"data shorter than its size", "6\r\nhello\r\n0\r\n\r\n", "longer"},
		{"an LF after data", "5\r\nhello\n0\r\n\r\n", "followed"},
		{"a CR alone after data", "5\r\nhello\r0\r\n\r\n", "followed"},
		{"an LF after the last chunk", "0\r\n\n", "LF"},
		{"a CR alone after the last chunk", "0\r\n\rGET", "CR"},
		{"an LF in the trailers", "0\r\nA: b\nC: d\r\n\r\n", "LF"},
		{"a folded trailer", "0\r\nA: b\r\n c\r\n\r\n", "folded"},
		{"a trailer without a colon", "0\r\nGET / HTTP/1.1\r\n\r\n", "colon"},
		{"a NUL in a trailer", "0\r\nA: \x00\r\n\r\n", "control"},
		{"a long trailer", "0\r\nA: " + strings.Repeat("b", 9000) + "\r\n\r\n", "larger"},
		{"a long trailer without an end", "0\r\nA: " + strings.Repeat("b", 9000), "larger"},
		{"many trailers", "0\r\n" + strings.Repeat("A: b\r\n", 33) + "\r\n", "more"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := checkBodyPieces(t, h1.Chunked, 0, []byte(test.in))
			found := false
			for part := range strings.SplitSeq(test.reason, "|") {
				found = found || strings.Contains(got.err, part)
			}
			if got.err == "" || !found {
				t.Errorf("got %+v, want an error with %q", got, test.reason)
			}
		})
	}
}

func TestBodyOfALength(t *testing.T) {
	if got, want := checkBodyPieces(t, h1.Length, 5, []byte("hello, next")), (bodyResult{"hello", 5, true, "", ""}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, want := checkBodyPieces(t, h1.Length, 5, []byte("hell")), (bodyResult{"hell", 4, false, "", ""}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestBodyThatIsEmpty(t *testing.T) {
	var zero, none, length h1.Body
	none.Reset(h1.NoBody, 0)
	length.Reset(h1.Length, 0)
	for i, b := range []*h1.Body{&zero, &none, &length} {
		data, n, done, err := b.Next([]byte("next"))
		if len(data) != 0 || n != 0 || !done || err != nil || !b.Done() {
			t.Errorf("body %d: Next = %q, %d, %v, %v; Done = %v", i, data, n, done, err, b.Done())
		}
	}
}

func TestBodyUntilClose(t *testing.T) {
	got := checkBodyPieces(t, h1.UntilClose, 0, []byte("0\r\n\r\nx"))
	if want := (bodyResult{"0\r\n\r\nx", 6, false, "", ""}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestChunksOfOneByteAreNoFlood(t *testing.T) {
	in := strings.Repeat("1\r\nx\r\n", 100_000) + "0\r\n\r\n"
	var b h1.Body
	b.Reset(h1.Chunked, 0)
	if got := decode(t, &b, []byte(in), len(in)); !got.done || len(got.content) != 100_000 {
		t.Errorf("done %v, error %q, %d bytes", got.done, got.err, len(got.content))
	}
}

func TestBodyIsResetAndReused(t *testing.T) {
	var b h1.Body
	for _, in := range []string{"0\r\nA: b\r\n\r\n", "zzz", "5;a=\"", "3\r\nab", "0\r\nA: " + strings.Repeat("b", 5000) + "\r\n\r\n"} {
		b.Reset(h1.Chunked, 0)
		decode(t, &b, []byte(in), 100)
		b.Reset(h1.Chunked, 0)
		want := bodyResult{"x", 11, true, "", ""}
		if got := decode(t, &b, []byte("1\r\nx\r\n0\r\n\r\nrest"), 100); got != want {
			t.Errorf("after %.20q: got %+v, want %+v", in, got, want)
		}
	}
}

func TestBodyAllocatesNothing(t *testing.T) {
	in := []byte("5;a=b\r\nhello\r\n0\r\nGrpc-Status: 0\r\n\r\n")
	var b h1.Body
	run := func() {
		b.Reset(h1.Chunked, 0)
		for at := 0; !b.Done(); {
			_, n, _, err := b.Next(in[at:])
			if err != nil {
				t.Fatal(err)
			}
			at += n
		}
	}
	run()
	if got := testing.AllocsPerRun(100, run); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

func TestChunksThatAreWrittenCanBeRead(t *testing.T) {
	var wire, want []byte
	for _, n := range []int{1, 15, 16, 255, 4096, 70_000} {
		data := bytes.Repeat([]byte{'a' + byte(n%26)}, n)
		wire, want = h1.AppendChunk(wire, data), append(want, data...)
	}
	wire = h1.AppendChunkSize(wire, 3)
	wire, want = append(wire, "end\r\n"...), append(want, "end"...)
	wire = h1.AppendLastChunk(wire, []h1.Field{{Name: []byte("A"), Value: []byte("b")}})

	var b h1.Body
	b.Reset(h1.Chunked, 0)
	got := decode(t, &b, wire, 1000)
	if got.content != string(want) || got.consumed != len(wire) || got.trailers != "\nA: b (0)" {
		t.Errorf("read %d of %d bytes, %d of content, trailers %q, error %q",
			got.consumed, len(wire), len(got.content), got.trailers, got.err)
	}
	theirs, err := io.ReadAll(httputil.NewChunkedReader(bufio.NewReader(bytes.NewReader(wire))))
	if err != nil || !bytes.Equal(theirs, want) {
		t.Errorf("net/http read %d bytes, %v", len(theirs), err)
	}
}

func TestAppendField(t *testing.T) {
	got := string(h1.AppendField([]byte("x"), "A", []byte("b")))
	if want := "xA: b\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
