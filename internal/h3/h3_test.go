package h3

import (
	"context"
	"net"
	"testing"

	"github.com/quic-go/quic-go"
)

// Handshakes that nobody ends keep others out of QUIC, but take no more memory
// than their bound; those that end make room.
func TestHandshakesAreBounded(t *testing.T) {
	s := &Server{cfg: Config{Begin: func(*Conn) bool { return true }}}
	info := &quic.ClientInfo{RemoteAddr: &net.UDPAddr{IP: net.IPv6loopback, Port: 1}}
	begun, end := context.WithCancel(t.Context())
	defer end()
	var last context.Context
	for n := range maxShaking {
		ctx, err := s.begin(begun, info)
		if err != nil {
			t.Fatalf("handshake %d: %v", n, err)
		}
		last = ctx
	}
	if _, err := s.begin(begun, info); err == nil {
		t.Fatalf("more than %d handshakes at one time", maxShaking)
	}
	s.shook(ConnOf(last)) // as when it has ended well
	s.shook(ConnOf(last))
	if _, err := s.begin(begun, info); err != nil {
		t.Errorf("a handshake ended, and the next is refused: %v", err)
	}
	if _, err := s.begin(begun, info); err == nil {
		t.Error("one handshake ended, and two more are taken")
	}
}
