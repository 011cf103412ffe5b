package h2_test

import (
	"math/rand/v2"
	"testing"

	"windrose.dev/windrose/internal/h2"
)

// TestTableIsASet holds the table of streams against a map, with ids that fall
// on the same places more often than those of connections do.
func TestTableIsASet(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for round := range 50 {
		var table h2.Table
		want := map[uint32]bool{}
		for range 2000 {
			id := uint32(r.IntN(64))*uint32(2+14*(round%3)) + 1
			switch {
			case want[id]:
				table.Remove(id)
				delete(want, id)
			case len(want) < 5+round:
				table.Add(id)
				want[id] = true
			}
			if n, counted := table.Len(); n != len(want) || counted != n {
				t.Fatalf("%d and %d streams, want %d", n, counted, len(want))
			}
			for i := range uint32(64) {
				id := i*uint32(2+14*(round%3)) + 1
				if table.Has(id) != want[id] {
					t.Fatalf("stream %d is there: %v", id, !want[id])
				}
			}
		}
	}
}

func TestWhatACallerMayAsk(t *testing.T) {
	e := newServer(t, h2.Config{})
	c := e.c
	if c.Standing() || c.Partial() || c.TakesConnect() {
		t.Error("a connection without a byte stands")
	}
	e.feed(hello, 1000)
	block := request("POST")
	for _, test := range []struct {
		in   []byte
		want bool
	}{
		{frame(headers, 0, 1, block[:9]...)[:12], true},
		{frame(headers, 0, 1, block[:9]...)[12:], true},
		{frame(continuation, 0, 1), true},
		{frame(continuation, endHeaders, 1, block[9:]...), false},
		{frame(data, 0, 1, 'a')[:5], false},
	} {
		if e.feed(test.in, 1000); c.Partial() != test.want {
			t.Errorf("after %x a head is on its way: %v", test.in, c.Partial())
		}
	}
	c.SetValue(3, "nobody's")
	if c.Streams() != 1 || c.Value(1) != nil || c.Value(3) != nil || c.Window(1) != 65535 || c.Window(3) != 0 {
		t.Error("the answers about streams are wrong")
	}
	c.Close()
	if _, _, err := c.Next(nil); err == nil || c.Streams() != 0 || c.BeginResponse(1, 200) {
		t.Error("a closed connection goes on")
	}
}

// TestLongAgo sends DATA and HEADERS on a stream that was reset so long ago that
// the codec has forgotten: the peer is not punished for it.
func TestLongAgo(t *testing.T) {
	e := standing(t, h2.Config{}).answer()
	e.feed(open(1), 1000)
	e.c.Reset(1, h2.Cancel)
	for i := range uint32(100) {
		e.feed(ask(2*i+3), 1000)
	}
	e.feed(cat(frame(data, 0, 1, 'a'), frame(headers, ends, 1, block("a: b")...), ask(301)), 1000)
	if e.err != nil || e.c.Streams() != 0 {
		t.Errorf("%v", e.err)
	}
}
