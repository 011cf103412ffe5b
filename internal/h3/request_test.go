package h3

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestHeadsAreWrittenAsTheyAre(t *testing.T) {
	ask := func(change func(r *http.Request)) *Request {
		r := &http.Request{
			Method: "POST", RequestURI: "/a?b=c", Host: "shop.example", Proto: "HTTP/3.0", ProtoMajor: 3, ContentLength: -1,
			Header: http.Header{"Host": {"shop.example"}, "X-Two": {"1", "2"}}, Trailer: http.Header{"X-Sum": nil},
		}
		change(r)
		return &Request{r: r}
	}
	for _, c := range []struct {
		name   string
		change func(r *http.Request)
		want   []string // first line, and fields in any order
	}{
		{"a body of unknown length", func(*http.Request) {}, []string{
			"POST /a?b=c HTTP/1.1", "host: shop.example", "x-two: 1", "x-two: 2", "trailer: x-sum", "transfer-encoding: chunked",
		}},
		{"a body of known length", func(r *http.Request) {
			r.ContentLength, r.Trailer = 5, nil
			r.Header.Set("Content-Length", "5")
		}, []string{"POST /a?b=c HTTP/1.1", "host: shop.example", "x-two: 1", "x-two: 2", "content-length: 5"}},
		{"extended CONNECT", func(r *http.Request) {
			r.Method, r.Proto, r.Trailer = "CONNECT", "websocket", nil
		}, []string{"GET /a?b=c HTTP/1.1", "host: shop.example", "x-two: 1", "x-two: 2"}},
		{"CONNECT", func(r *http.Request) {
			r.Method, r.RequestURI, r.Host, r.Trailer, r.Header = "CONNECT", "shop.example:80", "shop.example:80", nil, nil
		}, []string{"CONNECT shop.example:80 HTTP/1.1", "host: shop.example:80"}},
		{"a space in the path", func(r *http.Request) { r.RequestURI = "/a HTTP/1.1" }, nil},
		{"a line end in the path", func(r *http.Request) { r.RequestURI = "/a\r\nx: y" }, nil},
		{"a space in the host", func(r *http.Request) { r.Host = "a b" }, nil},
		{"a line end in the host", func(r *http.Request) { r.Host = "a\n" }, nil},
		{"a line end in the method", func(r *http.Request) { r.Method = "GET\r\n" }, nil},
		{"a line end in a value", func(r *http.Request) { r.Header.Set("X", "a\r\nb: c") }, nil},
		{"a bare CR in a value", func(r *http.Request) { r.Header.Set("X", "a\rb") }, nil},
		{"a NUL in a value", func(r *http.Request) { r.Header.Set("X", "a\x00") }, nil},
		{"a line end in a name", func(r *http.Request) { r.Header["X\n"] = []string{"a"} }, nil},
		{"a space in a name", func(r *http.Request) { r.Header["X y"] = []string{"a"} }, nil},
		{"a line end in an announced trailer", func(r *http.Request) { r.Trailer["X\r\n"] = nil }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := ask(c.change)
			ok := r.read(0)
			if ok != (c.want != nil) {
				t.Fatalf("taken: %v, with %q", ok, r.Head)
			}
			if !ok {
				return
			}
			lines := strings.Split(strings.TrimSuffix(string(r.Head), "\r\n\r\n"), "\r\n")
			slices.Sort(lines[1:])
			slices.Sort(c.want[1:])
			if !slices.Equal(lines, c.want) {
				t.Errorf("got %q, want %q", lines, c.want)
			}
		})
	}
}
