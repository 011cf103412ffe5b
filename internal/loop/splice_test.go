package loop

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"golang.org/x/sys/unix"
)

// spliceEcho sends back what comes, through a pipe.
type spliceEcho struct {
	l     *Loop
	p     *Pipe
	moved int
	err   error
}

func (s *spliceEcho) ready(c *Conn, r Ready) {
	if r.Err != nil {
		s.err = r.Err
		return
	}
	if s.p == nil {
		s.p = s.l.TakePipe()
	}
	for {
		if s.p.Len() > 0 {
			if s.err = c.SpliceFrom(s.p); s.err != nil {
				return
			}
		}
		n, err := c.SpliceTo(s.p, PipeSize)
		if s.err = err; err != nil {
			if errors.Is(err, io.EOF) {
				c.Close()
			}
			return
		}
		s.moved += n
	}
}

func TestSpliceWithBackPressure(t *testing.T) {
	bothWays(t, func(t *testing.T, cfg Config) {
		l := start(t, cfg)
		s := &spliceEcho{l: l}
		_, peer := pair(t, l, s.ready)
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
		go func() {
			if _, err := peer.Write(data); err != nil {
				t.Error(err)
			}
			_ = peer.CloseWrite()
		}()
		// Nothing is read until the kernel's buffers hold all that they can.
		eventually(t, "the socket takes no more", func() bool {
			full := false
			on(t, l, func() { full = errors.Is(s.err, ErrAgain) && s.p != nil && s.p.Len() > 0 })
			return full
		})
		var got bytes.Buffer
		if _, err := io.Copy(&got, peer); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), data) {
			t.Errorf("got %d bytes back that are not the %d sent", got.Len(), len(data))
		}
		on(t, l, func() {
			if s.moved != len(data) || s.p.Len() != 0 {
				t.Errorf("moved %d, %d in the pipe", s.moved, s.p.Len())
			}
		})
	})
}

func TestSpliceTellsOfAReset(t *testing.T) {
	l := start(t, Config{})
	s := &spliceEcho{l: l}
	_, peer := pair(t, l, s.ready)
	_, _ = io.WriteString(peer, "hello")
	if _, err := io.ReadFull(peer, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	_ = peer.SetLinger(0)
	peer.Close()
	eventually(t, "the handler is told of the reset", func() bool {
		var err error
		on(t, l, func() { err = s.err })
		return errors.Is(err, unix.ECONNRESET)
	})
}

func TestPipesAreBounded(t *testing.T) {
	l := start(t, Config{})
	on(t, l, func() {
		var all []*Pipe
		for p := l.TakePipe(); p != nil; p = l.TakePipe() {
			all = append(all, p)
		}
		if len(all) != maxPipes {
			t.Errorf("got %d pipes, want %d", len(all), maxPipes)
		}
		all[0].n = 1 // as if something were left in it
		for _, p := range all {
			l.GivePipe(p)
		}
		if l.pipes.open != sparePipes || len(l.pipes.free) != sparePipes {
			t.Errorf("got %d open and %d free pipes, want %d", l.pipes.open, len(l.pipes.free), sparePipes)
		}
		for _, p := range l.pipes.free {
			if p == all[0] {
				t.Error("a pipe with something in it is used again")
			}
		}
	})
}

func TestPeekLeavesWhatItSees(t *testing.T) {
	l := start(t, Config{})
	var seen []string
	second, done := new(Conn), make(chan string, 1)
	_, peer := pair(t, l, func(c *Conn, _ Ready) {
		n, err := c.Peek(l.In)
		if errors.Is(err, ErrAgain) {
			return
		}
		if err != nil {
			t.Errorf("peek: %v", err)
			return
		}
		seen = append(seen, string(l.In[:n]))
		if n < len("hello") {
			return
		}
		// Another takes over, and reads from the beginning.
		err = l.Adopt(second, c.Detach(), handler(func(Ready) {
			n, err := second.Read(l.In)
			if err != nil && !errors.Is(err, ErrAgain) && !errors.Is(err, io.EOF) {
				t.Errorf("read: %v", err)
			}
			if n > 0 {
				done <- string(l.In[:n])
			}
		}))
		if err != nil {
			t.Error(err)
		}
		if c.Open() {
			t.Error("the connection is open without its descriptor")
		}
	})
	_, _ = io.WriteString(peer, "he")
	eventually(t, "the first bytes are seen", func() bool {
		n := 0
		on(t, l, func() { n = len(seen) })
		return n > 0
	})
	_, _ = io.WriteString(peer, "llo")
	if got := <-done; got != "hello" {
		t.Errorf("the second owner read %q", got)
	}
	on(t, l, func() {
		if len(seen) != 2 || seen[0] != "he" || seen[1] != "hello" {
			t.Errorf("seen: %q", seen)
		}
	})
}
