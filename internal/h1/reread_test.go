package h1_test

import (
	"testing"

	"windrose.dev/windrose/internal/h1"
)

// Reread must find what Parse finds in every head that this program can write.
func TestRereadAgreesWithParse(t *testing.T) {
	for _, head := range []string{
		"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n",
		"POST /a?b=c HTTP/1.1\r\nhost: a.example\r\nX-Empty: \r\nx-colon: a: b\r\ncontent-length: 12\r\nconnection: te\r\nte: trailers\r\n\r\n",
	} {
		var parsed, reread h1.Request
		if n, err := parsed.Parse([]byte(head), 0, h1.Limits{}); err != nil || n != len(head) {
			t.Fatalf("%q: %d, %v", head, n, err)
		}
		if !reread.Reread([]byte(head)) {
			t.Errorf("%q was not read again", head)
			continue
		}
		if string(reread.Method) != string(parsed.Method) || string(reread.Target) != string(parsed.Target) || string(reread.Host) != string(parsed.Host) {
			t.Errorf("%q: got %s %s of %s, want %s %s of %s", head, reread.Method, reread.Target, reread.Host, parsed.Method, parsed.Target, parsed.Host)
		}
		if len(reread.Fields) != len(parsed.Fields) {
			t.Errorf("%q: got %d fields, want %d", head, len(reread.Fields), len(parsed.Fields))
			continue
		}
		for i, f := range reread.Fields {
			if want := parsed.Fields[i]; string(f.Name) != string(want.Name) || string(f.Value) != string(want.Value) || f.Known != want.Known {
				t.Errorf("%q: field %d is %s: %s, want %s: %s", head, i, f.Name, f.Value, want.Name, want.Value)
			}
		}
	}
}

func TestRereadRefuses(t *testing.T) {
	for _, head := range []string{
		"", "\n", "GET\r\n\r\n", "GET /\r\n\r\n", "GET  HTTP/1.1\r\n\r\n", " / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\na: b\r\n",
		"GET / HTTP/1.1\n\n", "GET / HTTP/1.1\r\nab\r\n\r\n", "GET / HTTP/1.1\r\n: b\r\n\r\n", "GET / HTTP/1.1\r\na: b\r\n\r\nmore",
	} {
		if new(h1.Request).Reread([]byte(head)) {
			t.Errorf("%q was taken", head)
		}
	}
}
