package h2_test

import (
	"bytes"
	"strings"
	"testing"

	"windrose.dev/windrose/internal/h2"
)

// TestFloods sends things that cost windrose more than the peer, without end,
// and wants the connection to be ended early.
func TestFloods(t *testing.T) {
	pingFrame := frame(ping, 0, 0, make([]byte, 8)...)
	for _, test := range []struct {
		name   string
		before []byte
		// each makes round i of the flood, on stream 2i+3.
		each  func(stream uint32) []byte
		most  int // rounds
		least int
	}{
		{"PING", nil, func(uint32) []byte { return pingFrame }, 1001, 900},
		{"PING acknowledgements", nil, func(uint32) []byte { return frame(ping, ack, 0, make([]byte, 8)...) }, 1001, 900},
		{"SETTINGS", nil, func(uint32) []byte { return frame(settings, 0, 0) }, 251, 200},
		{"SETTINGS that are large", nil, func(uint32) []byte { return frame(settings, 0, 0, bytes.Repeat(setting(4, 70000), 2000)...) }, 5, 3},
		{"SETTINGS acknowledgements", nil, func(uint32) []byte { return frame(settings, ack, 0) }, 252, 200},
		{"PRIORITY", nil, func(s uint32) []byte { return frame(priority, 0, s, 0, 0, 0, 0, 0) }, 1001, 900},
		{"empty DATA", open(1), func(uint32) []byte { return frame(data, 0, 1) }, 251, 200},
		{"DATA of padding alone", open(1), func(uint32) []byte { return frame(data, padded, 1, 3, 0, 0, 0) }, 251, 200},
		{"WINDOW_UPDATE", nil, func(uint32) []byte { return frame(window, 0, 0, num(1)...) }, 1001, 900},
		{"WINDOW_UPDATE on a stream", open(1), func(uint32) []byte { return frame(window, 0, 1, num(1)...) }, 1001, 900},
		{"unknown frames", nil, func(uint32) []byte { return frame(0x42, 0, 0, 1, 2, 3) }, 1001, 900},
		{"GOAWAY", nil, func(uint32) []byte { return frame(goaway, 0, 0, make([]byte, 8)...) }, 1001, 900},
		{"RST_STREAM of what has ended", cat(open(1), frame(reset, 0, 1, num(8)...)), func(uint32) []byte { return frame(reset, 0, 1, num(8)...) }, 1001, 900},
		{"DATA after RST_STREAM", cat(open(1), frame(reset, 0, 1, num(8)...)), func(uint32) []byte { return frame(data, 0, 1) }, 251, 200},
		// CVE-2023-44487
		{"rapid reset", nil, func(s uint32) []byte { return cat(open(s), frame(reset, 0, s, num(8)...)) }, 251, 200},
		// CVE-2025-8671: the server resets, in all the ways it can be made to
		{"MadeYouReset by a window of nothing", nil, func(s uint32) []byte { return cat(open(s), frame(window, 0, s, num(0)...)) }, 251, 200},
		{"MadeYouReset by a window too large", nil, func(s uint32) []byte { return cat(open(s), frame(window, 0, s, num(1<<31-1)...)) }, 251, 200},
		{"MadeYouReset by DATA after the end", nil, func(s uint32) []byte { return cat(ask(s), frame(data, 0, s, 'a')) }, 251, 200},
		{"MadeYouReset by HEADERS after the end", nil, func(s uint32) []byte { return cat(ask(s), ask(s)) }, 251, 200},
		{"MadeYouReset by PRIORITY", nil, func(s uint32) []byte { return cat(open(s), frame(priority, 0, s, append(num(s), 0)...)) }, 251, 200},
		{"MadeYouReset by a short PRIORITY", nil, func(s uint32) []byte { return cat(open(s), frame(priority, 0, s, 0)) }, 251, 200},
		{"MadeYouReset by too little DATA", nil, func(s uint32) []byte {
			return cat(frame(headers, endHeaders, s, request("POST", "content-length: 9")...), frame(data, endStream, s, 'a'))
		}, 251, 200},
		{"malformed requests", nil, func(s uint32) []byte { return frame(headers, ends, s, block("a: b")...) }, 251, 200},
		{"fields without names", nil, func(s uint32) []byte { return frame(headers, ends, s, 0, 0, 0, 0, 0, 0) }, 251, 200},
		{"more streams than are allowed", cat(open(1)), open, 351, 300},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := standing(t, h2.Config{})
			e.feed(cat(frame(settings, ack, 0), test.before), 1000)
			rounds := 0
			for e.err == nil && rounds <= test.most {
				e.feed(test.each(uint32(2*rounds+3)), 1<<20)
				rounds++
			}
			if e.err == nil || e.err.Code != h2.EnhanceYourCalm {
				t.Fatalf("after %d rounds: %v", rounds, e.err)
			}
			if rounds < test.least || rounds > test.most {
				t.Errorf("ended after %d rounds, want %d to %d", rounds, test.least, test.most)
			}
			if got := e.sent(); !strings.Contains(got, "ENHANCE_YOUR_CALM") {
				t.Errorf("the peer is not told: %.200s", got)
			}
		})
	}
}

// TestBudgetsComeBack lives through what a slow and honest peer does.
func TestBudgetsComeBack(t *testing.T) {
	const second = int64(1e9)
	pings := bytes.Repeat(frame(ping, 0, 0, make([]byte, 8)...), 50)
	e := standing(t, h2.Config{})
	for i := range int64(100) {
		e.c.Tick(1 + i*second)
		e.feed(pings, len(pings))
	}
	if e.err != nil {
		t.Fatalf("50 PINGs in a second: %v", e.err)
	}
	// With time standing still, good answers pay for bad streams.
	e = standing(t, h2.Config{}).answer()
	for i := range uint32(2000) {
		e.feed(cat(ask(4*i+1), open(4*i+3), frame(reset, 0, 4*i+3, num(8)...)), 1000)
	}
	if e.err != nil {
		t.Fatalf("every second stream is cancelled: %v", e.err)
	}
	// A client that cancels what was answered already costs nothing.
	e = standing(t, h2.Config{})
	e.on = func(ev *h2.Event) {
		if ev.Kind == h2.Head {
			e.c.BeginResponse(ev.Stream, 200)
			e.c.EndHead(true)
		}
	}
	for i := range uint32(2000) {
		e.feed(cat(open(2*i+1), frame(reset, 0, 2*i+1, num(8)...)), 1000)
	}
	if e.err != nil {
		t.Fatalf("uploads are cancelled after the answer: %v", e.err)
	}
	// Calls that run into their deadlines are cancelled all at once.
	e = standing(t, h2.Config{})
	for i := range uint32(3000) {
		if i%100 == 0 {
			e.c.Tick(1 + int64(i)/100*second)
		}
		if i >= 100 {
			e.feed(frame(reset, 0, 2*(i-100)+1, num(8)...), 100)
		}
		e.feed(open(2*i+1), 1000)
	}
	if e.err != nil {
		t.Fatalf("late cancellations: %v", e.err)
	}
	// Each small message on a stream is answered with PING and WINDOW_UPDATE.
	e = standing(t, h2.Config{})
	e.feed(open(1), 1000)
	e.c.BeginResponse(1, 200)
	e.c.EndHead(false)
	for range 5000 {
		e.c.WriteData(1, []byte("message"), false)
		e.feed(cat(pings[:17], frame(window, 0, 1, num(7)...)), 100)
	}
	if e.err != nil {
		t.Fatalf("a stream of small messages: %v", e.err)
	}
	// Time that jumps gives no more than there was.
	e = standing(t, h2.Config{})
	e.c.Tick(1)
	e.c.Tick(1<<63 - 1)
	for range 30 {
		e.feed(pings, len(pings))
	}
	if e.err == nil {
		t.Error("1500 PINGs are let through at once")
	}
}

// TestContinuationFlood (CVE-2024-27316): a block that never ends.
func TestContinuationFlood(t *testing.T) {
	for _, size := range []int{0, 1, 100, 1000, 16384} {
		e := standing(t, h2.Config{})
		e.feed(frame(headers, endStream, 1, get()...), 1000)
		fragment := frame(continuation, 0, 1, bytes.Repeat([]byte{0x82}, size)...)
		rounds := 0
		for ; e.err == nil && rounds < 200; rounds++ {
			e.feed(fragment, len(fragment))
		}
		if e.err == nil || e.err.Code != h2.EnhanceYourCalm {
			t.Errorf("frames of %d: after %d of them: %v", size, rounds, e.err)
		}
		if rounds > 100 {
			t.Errorf("frames of %d: ended after %d", size, rounds)
		}
	}
}

// TestHeaderBomb puts a large field into the table and refers to it again and
// again.
func TestHeaderBomb(t *testing.T) {
	e := standing(t, h2.Config{})
	large := append([]byte{0x40, 1, 'a', 0x7f, 0x81, 0x1e}, bytes.Repeat([]byte{'b'}, 127+0xf01)...)
	plain := []byte{0x82, 0x86, 0x84, 0x01, 1, 'h'}
	large = append(bytes.Clone(plain), large...)
	e.feed(frame(headers, ends, 1, large...), 1<<20)
	if got := e.log[0]; !strings.HasPrefix(got, "head 1 end GET") {
		t.Fatalf("got %.200s", got)
	}
	bomb := frame(headers, ends, 3, append(bytes.Clone(plain), bytes.Repeat([]byte{0xbe}, 16000)...)...)
	e.feed(bomb, 1<<20)
	if got, want := e.log[1], "head 3 end GET   path= query=false: body=0:0 refused 431"; got != want {
		t.Errorf("got %.200s", got)
	}
	// The table has stayed in step.
	e.feed(frame(headers, ends, 5, append(bytes.Clone(plain), 0xbe)...), 1<<20)
	if got := e.log[2]; !strings.Contains(got, "[a: bbbb") {
		t.Errorf("got %.200s", got)
	}
	allocated := testing.AllocsPerRun(10, func() {
		e := standing(t, h2.Config{})
		e.feed(bomb, 1<<20)
	})
	if allocated > 200 {
		t.Errorf("%v allocations for a bomb", allocated)
	}
}

// TestTinyWindows has a client ask for DATA in tiny pieces.
func TestTinyWindows(t *testing.T) {
	e := standing(t, h2.Config{})
	body := bytes.Repeat([]byte("x"), 1<<20)
	sent := 0
	e.on = func(ev *h2.Event) {
		if ev.Kind == h2.Head {
			e.c.BeginResponse(ev.Stream, 200)
			e.c.EndHead(false)
		}
		if ev.Kind == h2.Head || ev.Kind == h2.Writable {
			sent += e.c.WriteData(ev.Stream, body[sent:], true)
		}
	}
	e.feed(cat(frame(settings, 0, 0, setting(4, 1)...), ask(1)), 1000)
	rounds := 0
	for ; e.err == nil && rounds < 2000; rounds++ {
		e.feed(frame(window, 0, 1, num(1)...), 100)
	}
	if e.err == nil || e.err.Code != h2.EnhanceYourCalm || rounds > 1001 {
		t.Errorf("after %d: %v", rounds, e.err)
	}
	if sent < 900 || sent > 1001 {
		t.Errorf("sent %d bytes", sent)
	}
}

// TestAnswersThatNobodyReads bounds Out while it is not sent.
func TestAnswersThatNobodyReads(t *testing.T) {
	c := h2.NewServer(h2.NewScratch(h2.Config{Glitches: 1 << 20}))
	in := cat(hello, bytes.Repeat(frame(ping, 0, 0, make([]byte, 8)...), 5000))
	for len(in) > 0 {
		_, n, err := c.Next(in)
		if err != nil {
			if err.Code != h2.EnhanceYourCalm || len(c.Out()) > 20<<10 {
				t.Errorf("%v with %d bytes to send", err, len(c.Out()))
			}
			return
		}
		in = in[n:]
	}
	t.Errorf("%d bytes pile up", len(c.Out()))
}
