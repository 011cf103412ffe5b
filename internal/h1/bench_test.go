package h1_test

import (
	"bytes"
	"testing"

	"windrose.dev/windrose/internal/h1"
)

const (
	bigRequest = "GET /api/v1/orders/12345?expand=items&lang=en HTTP/1.1\r\n" +
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

	smallRequest = "GET / HTTP/1.1\r\nHost: a.example\r\nUser-Agent: load\r\nAccept: */*\r\n\r\n"

	bigResponse = "HTTP/1.1 200 OK\r\n" +
		"Date: Tue, 24 Nov 2026 12:00:00 GMT\r\n" +
		"Server: shop\r\n" +
		"Content-Type: application/json\r\n" +
		"Content-Length: 1024\r\n" +
		"Cache-Control: no-store\r\n" +
		"X-Version: 42\r\n\r\n"
)

func BenchmarkRequestOfTenFields(b *testing.B)   { benchmarkRequest(b, bigRequest) }
func BenchmarkRequestOfThreeFields(b *testing.B) { benchmarkRequest(b, smallRequest) }

func benchmarkRequest(b *testing.B, in string) {
	buf := []byte(in)
	var r h1.Request
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if n, err := r.Parse(buf, 0, h1.Limits{}); n != len(buf) || err != nil {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkRequestByteByByte(b *testing.B) {
	buf := []byte(bigRequest)
	var r h1.Request
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		for i := 1; i <= len(buf); i++ {
			r.Parse(buf[:i], i-1, h1.Limits{})
		}
	}
}

func BenchmarkResponseOfSixFields(b *testing.B) {
	buf, method := []byte(bigResponse), []byte("GET")
	var r h1.Response
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if n, err := r.Parse(buf, 0, method, h1.Limits{}); n != len(buf) || err != nil {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkBodyInChunksOf4KiB(b *testing.B) { benchmarkBody(b, 4<<10) }
func BenchmarkBodyInChunksOf16B(b *testing.B)  { benchmarkBody(b, 16) }

func benchmarkBody(b *testing.B, size int) {
	var buf []byte
	for range 64 << 10 / size {
		buf = h1.AppendChunk(buf, bytes.Repeat([]byte("x"), size))
	}
	buf = h1.AppendLastChunk(buf, nil)
	var body h1.Body
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		body.Reset(h1.Chunked, 0)
		for in := buf; !body.Done(); {
			_, n, _, err := body.Next(in)
			if err != nil {
				b.Fatal(err)
			}
			in = in[n:]
		}
	}
}

func BenchmarkAppendChunk(b *testing.B) {
	data := bytes.Repeat([]byte("x"), 4<<10)
	dst := make([]byte, 0, 8<<10)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		dst = h1.AppendChunk(dst[:0], data)
	}
}
