package h1_test

import (
	"strings"
	"testing"

	"windrose.dev/windrose/internal/h1"
)

const bigRequest = "GET /api/v1/orders/12345?expand=items&lang=en HTTP/1.1\r\n" +
	"Host: shop.example.com\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n" +
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n" +
	"Accept-Language: en-US,en;q=0.5\r\n" +
	"Accept-Encoding: gzip, deflate, br, zstd\r\n" +
	"Referer: https://shop.example.com/cart\r\n" +
	"Connection: keep-alive\r\n" +
	"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n" +
	"X-Request-Id: 4bf92f35-77b3-4da6-a3ce-929d0e0e4736\r\n" +
	"X-Forwarded-For: 203.0.113.7\r\n\r\n"

func BenchmarkRequestParseTenFields(b *testing.B) {
	buf := []byte(bigRequest)
	var r h1.Request
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if n, err := r.Parse(buf, 0, h1.Limits{}); n != len(buf) || err != nil {
			b.Fatal(n, err)
		}
	}
}

func TestRequestIsParsedInPlace(t *testing.T) {
	var r h1.Request
	n, err := r.Parse([]byte(bigRequest+"rest"), 0, h1.Limits{})
	if err != nil || n != len(bigRequest) {
		t.Fatalf("Parse = %d, %v, want %d", n, err, len(bigRequest))
	}
	if got, want := string(r.Host), "shop.example.com"; got != want {
		t.Errorf("Host = %q, want %q", got, want)
	}
	if got, want := string(r.Path)+" "+string(r.Query), "/api/v1/orders/12345 expand=items&lang=en"; got != want {
		t.Errorf("path and query = %q, want %q", got, want)
	}
	if len(r.Fields) != 10 || !r.KeepAlive || r.Body != h1.NoBody {
		t.Errorf("got %d fields, keep-alive %v, body %v", len(r.Fields), r.KeepAlive, r.Body)
	}
}

func TestChunkedBodyIsDecoded(t *testing.T) {
	var b h1.Body
	b.Reset(h1.Chunked, 0)
	in := []byte("5;a=\"x;y\"\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\n\r\nnext")
	var out strings.Builder
	for !b.Done() {
		data, n, _, err := b.Next(in)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(data)
		in = in[n:]
	}
	if got, want := out.String(), "hello world"; got != want {
		t.Errorf("content = %q, want %q", got, want)
	}
	if got, want := string(in), "next"; got != want {
		t.Errorf("rest = %q, want %q", got, want)
	}
	if v, ok := h1.Lookup(b.Trailers(), "x-sum"); !ok || string(v) != "1" {
		t.Errorf("trailer = %q, %v", v, ok)
	}
}

func TestResponseIsParsed(t *testing.T) {
	var r h1.Response
	in := "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n"
	n, err := r.Parse([]byte(in), 0, []byte("GET"), h1.Limits{})
	if err != nil || n != len(in) || r.Body != h1.Length || r.Length != 5 || !r.KeepAlive {
		t.Errorf("Parse = %d, %v: %+v", n, err, r)
	}
}
