package h2_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"windrose.dev/windrose/internal/h2"
)

// dataFrames makes DATA of n bytes in all.
func dataFrames(stream uint32, n int) []byte {
	var out []byte
	for n > 0 {
		size := min(n, 16384)
		out = append(out, frame(data, 0, stream, make([]byte, size)...)...)
		n -= size
	}
	return out
}

func TestPeerMustKeepToItsWindows(t *testing.T) {
	cfg := h2.Config{StreamWindow: 65535, ConnWindow: 65536}
	fresh := func() *end {
		e := standing(t, cfg)
		e.hold = true
		return e.feed(cat(open(1), open(3)), 1000)
	}
	e := fresh().feed(dataFrames(1, 65535), 4096)
	if e.err != nil || e.sent() != "" {
		t.Fatalf("within the window: %v, sent %s", e.err, e.sent())
	}
	if e = fresh().feed(dataFrames(1, 65536), 4096); e.sent() != "RST_STREAM 1 FLOW_CONTROL_ERROR\nWINDOW_UPDATE 0 65536" {
		t.Errorf("beyond the stream's window: sent %s", e.sent())
	}
	if e = fresh().feed(cat(dataFrames(1, 65535), dataFrames(3, 2)), 4096); e.err == nil || e.err.Code != h2.FlowControlError {
		t.Errorf("beyond the connection's window: %v", e.log)
	}
}

func TestWindowsOpenByHalves(t *testing.T) {
	e := standing(t, h2.Config{StreamWindow: 100000, ConnWindow: 200000})
	e.hold = true
	e.feed(cat(open(1), dataFrames(1, 100000)), 1<<20)
	e.c.Consumed(1, 49999)
	e.flush()
	if e.sent() != "" {
		t.Errorf("sent %s", e.sent())
	}
	e.c.Consumed(1, 1)
	e.c.Consumed(1, 1<<30) // more than there was
	e.flush()
	if got, want := e.sent(), "WINDOW_UPDATE 1 50000\nWINDOW_UPDATE 0 100000\nWINDOW_UPDATE 1 50000"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// All of it may be used again.
	e.feed(dataFrames(1, 100000), 1<<20)
	if e.err != nil || strings.Contains(e.sent(), "RST") {
		t.Errorf("%v, sent %s", e.err, e.sent())
	}
}

// TestWindowOfConnectionComesBack sends DATA that nobody consumes on streams
// that end in every way there is: none of it may be lost for the connection.
func TestWindowOfConnectionComesBack(t *testing.T) {
	const size = 30000
	for _, test := range []struct {
		name string
		end  func(e *end, stream uint32)
	}{
		{"reset by the peer", func(e *end, s uint32) { e.feed(frame(reset, 0, s, num(0)...), 100) }},
		{"reset here", func(e *end, s uint32) { e.c.Reset(s, h2.Cancel); e.flush() }},
		{"reset here, and more comes", func(e *end, s uint32) { e.c.Reset(s, h2.Cancel); e.flush(); e.feed(dataFrames(s, 1000), 100) }},
		{"reset in the middle of DATA", func(e *end, s uint32) {
			d := frame(data, padded, s, append([]byte{100}, make([]byte, 5000)...)...)
			e.feed(d[:2000], 5000)
			e.c.Reset(s, h2.Cancel)
			e.flush()
			e.feed(d[2000:], 100)
		}},
		{"reset between padding and content", func(e *end, s uint32) {
			d := frame(data, padded, s, append([]byte{100}, make([]byte, 5000)...)...)
			e.feed(d[:9], 5000)
			e.c.Reset(s, h2.Cancel)
			e.flush()
			e.feed(d[9:], 100)
		}},
		{"a mistake in the middle of DATA", func(e *end, s uint32) { e.feed(frame(window, 0, s, num(0)...), 100) }},
		{"padding", func(e *end, s uint32) {
			e.feed(frame(data, padded, s, append([]byte{255}, make([]byte, 255)...)...), 100)
			e.c.Reset(s, h2.Cancel)
			e.flush()
		}},
		{"both have ended", func(e *end, s uint32) {
			e.feed(frame(data, endStream, s), 100)
			e.c.BeginResponse(s, 200)
			e.c.EndHead(true)
			e.flush()
		}},
	} {
		e := standing(t, h2.Config{ConnWindow: 65536, Resets: 1000, Glitches: 100000})
		e.hold = true
		for i := range uint32(50) {
			s := 2*i + 1
			e.feed(cat(open(s), dataFrames(s, size)), 1<<20)
			test.end(e, s)
		}
		if e.err != nil || e.c.Streams() != 0 {
			t.Errorf("%s: %v, %d streams", test.name, e.err, e.c.Streams())
		}
	}
}

// TestWritesKeepToTheWindows sends two bodies to a client with small windows.
func TestWritesKeepToTheWindows(t *testing.T) {
	e := standing(t, h2.Config{})
	body := bytes.Repeat([]byte("x"), 150000)
	sent := map[uint32]int{}
	e.on = func(ev *h2.Event) {
		if ev.Kind == h2.Head {
			e.c.BeginResponse(ev.Stream, 200)
			e.c.EndHead(false)
		}
		if ev.Kind == h2.Head || ev.Kind == h2.Writable {
			sent[ev.Stream] += e.c.WriteData(ev.Stream, body[sent[ev.Stream]:], true)
		}
	}
	check := func(what string, one, three int) {
		t.Helper()
		if sent[1] != one || sent[3] != three {
			t.Errorf("%s: sent %d and %d, want %d and %d", what, sent[1], sent[3], one, three)
		}
	}
	e.feed(cat(frame(settings, 0, 0, setting(4, 50000)...), ask(1), ask(3)), 1000)
	check("at first", 50000, 15535) // 65535 in all
	if got := e.c.Window(1); got != 0 {
		t.Errorf("window %d", got)
	}
	e.feed(frame(window, 0, 1, num(10000)...), 100)
	check("with a window for the stream alone", 50000, 15535)
	e.feed(frame(window, 0, 0, num(40000)...), 100)
	// Both wait, and are served in the order in which they came to wait.
	check("with one for the connection", 55535, 50000)
	e.feed(frame(settings, 0, 0, setting(4, 40000)...), 100)
	e.feed(cat(frame(window, 0, 0, num(1000000)...), frame(window, 0, 3, num(9999)...)), 100)
	check("with a window below zero", 55535, 50000)
	e.feed(frame(window, 0, 3, num(2)...), 100)
	check("one byte above zero", 55535, 50001)
	e.feed(frame(settings, 0, 0, setting(4, 200000)...), 100)
	check("with larger windows", 150000, 150000)
	if e.c.Streams() != 0 || e.err != nil {
		t.Errorf("%d streams are open; %v", e.c.Streams(), e.err)
	}
	ended := strings.Count(e.sent(), "DATA 1 end") + strings.Count(e.sent(), "DATA 3 end")
	if ended != 2 {
		t.Errorf("%d streams have ended", ended)
	}
}

func TestFramesOfThePeersSize(t *testing.T) {
	for _, test := range []struct{ size, want int }{{16384, 16384}, {20000, 20000}, {1<<24 - 1, 65535}} {
		e := standing(t, h2.Config{})
		e.feed(cat(frame(settings, 0, 0, setting(5, uint32(test.size))...), ask(1)), 1000)
		e.c.BeginResponse(1, 200)
		e.c.EndHead(false)
		e.c.WriteData(1, make([]byte, 65535), false)
		e.flush()
		if want := fmt.Sprintf("DATA 1 %d bytes", test.want); !strings.Contains(e.sent(), want) {
			t.Errorf("%d: sent %s", test.size, e.sent())
		}
	}
}

func TestOneByteWindow(t *testing.T) {
	e := standing(t, h2.Config{}).answer()
	e.feed(cat(frame(settings, 0, 0, setting(4, 1)...), ask(1)), 1000)
	if got := e.sent(); !strings.HasSuffix(got, "DATA 1 1 bytes") {
		t.Errorf("sent %s", got)
	}
}
