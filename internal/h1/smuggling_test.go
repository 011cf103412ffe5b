package h1_test

import (
	"testing"

	"windrose.dev/windrose/internal/h1"
)

// TestSmugglingIsRefused goes through the known ways to make two programs see
// different messages in the same bytes (RFC 9112 11.2 and what has been
// published since). Each is refused, before anything is forwarded.
func TestSmugglingIsRefused(t *testing.T) {
	const chunked = "Transfer-Encoding: chunked"
	tests := []struct {
		name   string
		lines  []string
		status int
	}{
		{"CL.TE", []string{"Content-Length: 13", chunked}, 400},
		{"TE.CL", []string{chunked, "Content-Length: 3"}, 400},
		{"CL.TE with a length of zero", []string{"Content-Length: 0", chunked}, 400},
		{"a length with a coding that is not chunked", []string{"Content-Length: 3", "Transfer-Encoding: identity"}, 400},
		{"a length with an empty coding", []string{"Content-Length: 3", "Transfer-Encoding:"}, 400},

		{"TE.TE: two, the second unknown", []string{chunked, "Transfer-Encoding: cow"}, 400},
		{"TE.TE: two, the first unknown", []string{"Transfer-Encoding: cow", chunked}, 501},
		{"TE.TE: two equal ones", []string{chunked, "transfer-encoding: chunked"}, 400},
		{"chunked, chunked", []string{"Transfer-Encoding: chunked, chunked"}, 400},
		{"chunked, gzip", []string{"Transfer-Encoding: chunked, gzip"}, 400},
		{"gzip, chunked", []string{"Transfer-Encoding: gzip, chunked"}, 501},
		{"chunked, gzip, chunked", []string{"Transfer-Encoding: chunked, gzip, chunked"}, 400},
		{"gzip alone", []string{"Transfer-Encoding: gzip"}, 400},
		{"identity", []string{"Transfer-Encoding: identity"}, 400},
		{"chunked, identity", []string{"Transfer-Encoding: chunked, identity"}, 400},
		{"xchunked", []string{"Transfer-Encoding: xchunked"}, 400},
		{"chunkedx", []string{"Transfer-Encoding: chunkedx"}, 400},
		{"chunk", []string{"Transfer-Encoding: chunk"}, 400},
		{"x chunked", []string{"Transfer-Encoding: x chunked"}, 400},
		{"chunked with a parameter", []string{"Transfer-Encoding: chunked;q=1"}, 400},
		{"chunked in quotes", []string{`Transfer-Encoding: "chunked"`}, 400},
		{"an empty element before chunked", []string{"Transfer-Encoding: , chunked"}, 400},
		{"an empty element after chunked", []string{"Transfer-Encoding: chunked,"}, 400},
		{"a vertical tab before chunked", []string{"Transfer-Encoding: \x0bchunked"}, 400},
		{"a form feed after chunked", []string{"Transfer-Encoding: chunked\x0c"}, 400},
		{"a NUL in chunked", []string{"Transfer-Encoding: chun\x00ked"}, 400},
		{"a raw byte after chunked", []string{"Transfer-Encoding: chunked\xff"}, 400},
		{"a letter that folds to k", []string{"Transfer-Encoding: chun\xe2\x84\xaaed"}, 400},
		{"a space before the colon", []string{"Transfer-Encoding : chunked"}, 400},
		{"a tab before the colon", []string{"Transfer-Encoding\t: chunked"}, 400},
		{"a NUL before the colon", []string{"Transfer-Encoding\x00: chunked"}, 400},
		{"a space before the name", []string{" Transfer-Encoding: chunked"}, 400},
		{"a vertical tab before the name", []string{"\x0bTransfer-Encoding: chunked"}, 400},
		{"a coding on the next line", []string{"Transfer-Encoding:", " chunked"}, 400},
		{"a coding hidden behind a CR", []string{"X: y\rTransfer-Encoding: chunked"}, 400},
		{"a coding hidden behind an LF", []string{"X: y\nTransfer-Encoding: chunked"}, 400},
		{"a name in quotes", []string{`"Transfer-Encoding": chunked`}, 400},
		{"no colon", []string{"Transfer-Encoding chunked"}, 400},

		{"two lengths", []string{"Content-Length: 3", "Content-Length: 4"}, 400},
		{"two equal lengths", []string{"Content-Length: 3", "Content-Length: 3"}, 400},
		{"a list of lengths", []string{"Content-Length: 3, 4"}, 400},
		{"a list of equal lengths", []string{"Content-Length: 3,3"}, 400},
		{"a length with a sign", []string{"Content-Length: +3"}, 400},
		{"a negative length", []string{"Content-Length: -3"}, 400},
		{"a length of minus zero", []string{"Content-Length: -0"}, 400},
		{"an empty length", []string{"Content-Length:"}, 400},
		{"a hexadecimal length", []string{"Content-Length: 0x3"}, 400},
		{"a length with a point", []string{"Content-Length: 3.0"}, 400},
		{"a length with an exponent", []string{"Content-Length: 3e1"}, 400},
		{"a length with an underscore", []string{"Content-Length: 1_0"}, 400},
		{"a length with a space", []string{"Content-Length: 1 0"}, 400},
		{"a length with a semicolon", []string{"Content-Length: 3;"}, 400},
		{"a length with letters", []string{"Content-Length: 3x"}, 400},
		{"a length in other digits", []string{"Content-Length: \xd9\xa3"}, 400},
		{"a length that overflows by one", []string{"Content-Length: 9223372036854775808"}, 400},
		{"a length that wraps around", []string{"Content-Length: 18446744073709551619"}, 400},
		{"a length of very many digits", []string{"Content-Length: 000000000000000000003"}, 400},
		{"a length with a space before the colon", []string{"Content-Length : 3"}, 400},
		{"a folded length", []string{"Content-Length:", "\t3"}, 400},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			in := head(append([]string{"POST / HTTP/1.1", "Host: a"}, test.lines...)...)
			wantRefused(t, in, test.status)
			checkPieces(t, []byte(in+"0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n"), parseRequest(small))
		})
	}
	t.Run("chunks in HTTP/1.0", func(t *testing.T) {
		wantRefused(t, head("POST / HTTP/1.0", "Host: a", chunked), 400)
		wantRefused(t, head("POST / HTTP/1.0", "Host: a", "Content-Length: 3", chunked), 400)
	})
}

// TestNamesThatResembleAreOrdinary makes sure that a field which only looks like
// framing is neither obeyed nor confused with it.
func TestNamesThatResembleAreOrdinary(t *testing.T) {
	for _, name := range []string{
		"Transfer_Encoding", "X-Transfer-Encoding", "Transfer-Encodin", "Transfer-Encoding-", "Content_Length",
		"Content-Lengt", "Content-Length-", "Transfer\u002dEncodinG2", "Content~Length", "Hos", "Hostt", "Connectio", "connection_",
	} {
		r := mustParse(t, head("POST / HTTP/1.1", "Host: a", name+": chunked"))
		if r.Body != h1.NoBody || r.Fields[1].Known != 0 {
			t.Errorf("%s: body %d, known %d", name, r.Body, r.Fields[1].Known)
		}
	}
}

// TestPipelinedRequestsDoNotLeak decodes a connection with several requests and
// wants each to begin where the one before ended.
func TestPipelinedRequestsDoNotLeak(t *testing.T) {
	in := []byte("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /" +
		"POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nGET /\r\n0\r\nA: b\r\n\r\n" +
		"\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n")
	var r h1.Request
	var b h1.Body
	for _, want := range []string{"/1 GET /", "/2 GET /", "/3 "} {
		n, err := r.Parse(in, 0, small)
		if n == 0 || err != nil {
			t.Fatalf("Parse(%q) = %d, %v", in, n, err)
		}
		b.Reset(r.Body, r.Length)
		body := decode(t, &b, in[n:], 3)
		if got := string(r.Path) + " " + body.content; got != want || body.err != "" {
			t.Errorf("got %q, error %q, want %q", got, body.err, want)
		}
		in = in[n+body.consumed:]
	}
	if len(in) != 0 {
		t.Errorf("%q is left", in)
	}
}
