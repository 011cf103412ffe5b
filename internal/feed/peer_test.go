package feed

import (
	"net"
	"path/filepath"
	"testing"
)

func TestLocalPeer(t *testing.T) {
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "feed.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	near, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if err := LocalPeer()(far); err != nil {
		t.Errorf("our own user: %v", err)
	}
	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	if err := LocalPeer()(pipe); err == nil {
		t.Error("a connection without credentials may come")
	}
}

func TestMayRead(t *testing.T) {
	tests := []struct {
		uid, own uint32
		uids     []uint32
		want     bool
	}{
		{0, 1000, nil, true},
		{1000, 1000, nil, true},
		{1001, 1000, nil, false},
		{1001, 1000, []uint32{1001}, true},
		{1001, 0, nil, false},
		{65534, 0, []uint32{1001, 65534}, true},
	}
	for _, tt := range tests {
		if got := mayRead(tt.uid, tt.own, tt.uids); got != tt.want {
			t.Errorf("user %d, own %d, also %v: got %v", tt.uid, tt.own, tt.uids, got)
		}
	}
}
