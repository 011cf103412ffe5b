package h1_test

import (
	"reflect"
	"testing"

	"windrose.dev/windrose/internal/h1"
)

// What is kept is the same, and stays so when the buffer is written over.
func TestKeep(t *testing.T) {
	for _, head := range []string{
		"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n",
		"POST /a/b?c=d HTTP/1.1\r\nHost: a.example:80\r\nX-A: 1\r\nx-a: \r\nconnection: x-a, keep-alive\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n",
		"GET /chat HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
		"GET /old HTTP/1.0\r\n\r\n",
	} {
		buf := []byte(head)
		var r, want, got h1.Request
		for _, into := range []*h1.Request{&r, &want} {
			if n, err := into.Parse([]byte(head), 0, h1.Limits{}); n != len(head) || err != nil {
				t.Fatalf("%q: %d, %v", head, n, err)
			}
		}
		if _, err := r.Parse(buf, 0, h1.Limits{}); err != nil {
			t.Fatal(err)
		}
		room := make([]byte, 0, r.Size()+1)
		kept := r.Keep(&got, room)
		if len(kept) != r.Size() || &kept[:1][0] != &room[:1][0] {
			t.Errorf("%q: took %d bytes of %d, or others", head, len(kept), r.Size())
		}
		clear(buf)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v, want %+v", head, got, want)
		}
	}
}
