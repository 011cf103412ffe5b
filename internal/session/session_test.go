package session_test

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"windrose.dev/windrose/internal/session"
)

func sealer(tb testing.TB, fill byte) *session.Sealer {
	tb.Helper()
	s, err := session.New(bytes.Repeat([]byte{fill}, session.KeySize))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func pins(n int) []session.Pin {
	var list []session.Pin
	for i := range n {
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), uint16(8000+i))
		if i%2 == 1 {
			addr = netip.MustParseAddrPort("[2001:db8::1]:9000")
		}
		list = append(list, session.Pin{Service: session.Hash("s") + uint64(i), Endpoint: addr, Since: uint32(1_700_000_000 + i)})
	}
	return list
}

func TestTokensSayWhatWasSealed(t *testing.T) {
	s := sealer(t, 1)
	for n := range session.MaxPins + 1 {
		want := pins(n)
		token := s.Seal(want)
		if len(token) > session.MaxToken {
			t.Errorf("%d pins: %d bytes, more than MaxToken", n, len(token))
		}
		got, ok := s.Open(token)
		if !ok || !slices.Equal(got, want) {
			t.Errorf("%d pins: got %v %v, want %v", n, got, ok, want)
		}
	}
	if got, ok := s.Open(s.Seal(pins(session.MaxPins + 3))); !ok || !slices.Equal(got, pins(session.MaxPins)) {
		t.Errorf("too many pins: got %v %v, want the first %d", got, ok, session.MaxPins)
	}
	large := pins(session.MaxPins)
	for i := range large {
		large[i].Endpoint = netip.MustParseAddrPort("[2001:db8::1]:9000")
	}
	if got, ok := s.Open(s.Seal(large)); !ok || !slices.Equal(got, large) || len(s.Seal(large)) != session.MaxToken {
		t.Errorf("the largest token has %d bytes and says %v %v, want %d bytes", len(s.Seal(large)), got, ok, session.MaxToken)
	}
	other, _ := session.New(bytes.Repeat([]byte{1}, session.KeySize))
	if _, ok := other.Open(s.Seal(pins(1))); !ok {
		t.Error("a second sealer with the same key does not read the token")
	}
}

func TestTokensAreForgedByNobody(t *testing.T) {
	s := sealer(t, 1)
	token := s.Seal(pins(2))
	if again := s.Seal(pins(2)); bytes.Equal(again, token) {
		t.Error("two tokens of the same pins are equal: they tell who shares an endpoint")
	}
	if _, ok := sealer(t, 2).Open(token); ok {
		t.Error("a token of another key was taken")
	}
	for i := range token {
		for _, c := range []byte{'A', 'B', '_', '=', '!', 0} {
			if token[i] == c {
				continue
			}
			bad := bytes.Clone(token)
			bad[i] = c
			if _, ok := s.Open(bad); ok {
				t.Fatalf("a token with %q at %d was taken", c, i)
			}
		}
		if _, ok := s.Open(token[:i]); ok {
			t.Fatalf("the first %d bytes of a token were taken", i)
		}
	}
	if _, ok := s.Open(append(bytes.Clone(token), 'A')); ok {
		t.Error("a token with a byte more was taken")
	}
	first, second := s.Seal(pins(1)), s.Seal(pins(1))
	spliced := append(bytes.Clone(first[:20]), second[20:]...)
	if _, ok := s.Open(spliced); ok {
		t.Error("the halves of two tokens were taken for one")
	}
	for _, text := range []string{"", "10.0.0.1:80", "AAAA", string(bytes.Repeat([]byte{'A'}, 71)), string(bytes.Repeat([]byte{'A'}, 100_000))} {
		if _, ok := s.Open([]byte(text)); ok {
			t.Errorf("%.40q was taken for a token", text)
		}
	}
}

func TestKeysHaveTheirSize(t *testing.T) {
	for _, n := range []int{0, 16, 31, 33} {
		if _, err := session.New(make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes was taken", n)
		}
	}
}

func TestExpired(t *testing.T) {
	since := time.Unix(1_700_000_000, 0)
	p := session.Pin{Since: uint32(since.Unix())}
	for _, c := range []struct {
		after, life time.Duration
		want        bool
	}{
		{0, 0, false},
		{1000 * time.Hour, 0, false},
		{59 * time.Second, time.Minute, false},
		{time.Minute, time.Minute, true},
		{-30 * time.Second, time.Minute, false},
		{-2 * time.Minute, time.Minute, true},
		{-2 * time.Minute, 0, true},
	} {
		if got := p.Expired(since.Add(c.after), c.life); got != c.want {
			t.Errorf("after %v with a life of %v: expired %v, want %v", c.after, c.life, got, c.want)
		}
	}
}

func FuzzOpen(f *testing.F) {
	s := sealer(f, 7)
	f.Add(s.Seal(pins(1)))
	f.Add(s.Seal(pins(session.MaxPins)))
	f.Add([]byte(""))
	f.Add([]byte("AAAA====="))
	f.Fuzz(func(t *testing.T, token []byte) {
		list, ok := s.Open(token)
		if !ok && list != nil {
			t.Errorf("%q is no token, and gives %v", token, list)
		}
		if len(list) > session.MaxPins {
			t.Errorf("%d pins", len(list))
		}
	})
}

func FuzzRead(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 19))
	f.Add(bytes.Repeat([]byte{4}, 200))
	f.Fuzz(func(t *testing.T, plain []byte) {
		list, ok := session.Read(plain)
		if len(list) > session.MaxPins || !ok && list != nil {
			t.Errorf("%x gives %v %v", plain, list, ok)
		}
	})
}
