package workload

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// Bounds of what is kept and logged of a process's output.
const (
	maxLine      = 4096 // bytes; the rest of a longer line is dropped
	maxLines     = 100  // kept for describe
	maxLineBytes = 32 << 10
	linesPerSec  = 100 // logged on average
	lineBurst    = 500
)

// Line is one line that a process wrote.
type Line struct {
	Time   time.Time
	Stream string // stdout or stderr
	Text   string
}

// output takes what the processes of one workload write. It never makes a
// process wait: what is too much is dropped and counted.
type output struct {
	log *slog.Logger

	mu      sync.Mutex // guards what follows
	ring    []Line     // oldest first
	bytes   int        // in ring
	tokens  float64
	last    time.Time // when tokens was counted
	dropped int
}

func newOutput(log *slog.Logger) *output {
	return &output{log: log, tokens: lineBurst, last: time.Now()}
}

// read takes lines until r ends.
func (o *output) read(r io.Reader, stream string) {
	b := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := b.ReadSlice('\n')
		cut := errors.Is(err, bufio.ErrBufferFull)
		if len(line) > 0 {
			o.take(stream, line, cut)
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = b.ReadSlice('\n')
		}
		if err != nil {
			return
		}
	}
}

func (o *output) take(stream string, raw []byte, cut bool) {
	text := clean(bytes.TrimRight(raw, "\r\n"))
	if cut {
		text += " ..."
	}
	now := time.Now()
	o.mu.Lock()
	o.keep(Line{Time: now, Stream: stream, Text: text})
	o.tokens = min(lineBurst, o.tokens+now.Sub(o.last).Seconds()*linesPerSec)
	o.last = now
	if o.tokens < 1 {
		o.dropped++
		o.mu.Unlock()
		return
	}
	o.tokens--
	dropped := o.dropped
	o.dropped = 0
	o.mu.Unlock()

	o.confess(dropped)
	o.log.LogAttrs(context.Background(), slog.LevelInfo, text, slog.String("stream", stream))
}

// keep needs o.mu.
func (o *output) keep(l Line) {
	o.ring = append(o.ring, l)
	o.bytes += len(l.Text)
	drop := 0
	for len(o.ring)-drop > maxLines || o.bytes > maxLineBytes {
		o.bytes -= len(o.ring[drop].Text)
		drop++
	}
	if drop > 0 {
		n := copy(o.ring, o.ring[drop:])
		clear(o.ring[n:])
		o.ring = o.ring[:n]
	}
}

// flush tells what was dropped last.
func (o *output) flush() {
	o.mu.Lock()
	dropped := o.dropped
	o.dropped = 0
	o.mu.Unlock()
	o.confess(dropped)
}

func (o *output) confess(dropped int) {
	if dropped > 0 {
		o.log.Warn("lines of output were not logged: the workload writes too fast", "lines", dropped)
	}
}

func (o *output) lines() []Line {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]Line(nil), o.ring...)
}

// clean makes output fit for a terminal: no control sequences, valid UTF-8.
func clean(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(b), "\uFFFD"))
}
