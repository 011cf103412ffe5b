package telemetry

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"windrose.dev/windrose/internal/record"
)

const (
	// flushBytes is when a loop hands its lines over within a turn.
	flushBytes = 32 << 10
	// flushAfter is how long a line may wait in a loop.
	flushAfter = 100 * time.Millisecond
	// queueDefault is how many buffers may wait for the writer: 2 MiB of lines.
	queueDefault = 64
	// spareTimeout is how long empty buffers are kept after the last write.
	spareTimeout = 10 * time.Second
	// drainTimeout bounds how long Run waits at its end for a writer that hangs.
	drainTimeout = 2 * time.Second
)

// lines are lines of the access log on their way from a loop to the writer.
type lines struct {
	text []byte
	n    int
}

// Log writes the access log: loops hand it buffers, one goroutine writes them.
// Where the writer is slower than the traffic, whole buffers are dropped and
// their lines counted; a loop never waits.
type Log struct {
	w      io.Writer
	queue  chan *lines
	spares chan *lines
	failed atomic.Uint64 // lines that w did not take
}

// NewLog makes a Log that writes to w, of which up to queue buffers of about
// 32 KiB may wait; 0 is 64.
func NewLog(w io.Writer, queue int) *Log {
	if queue <= 0 {
		queue = queueDefault
	}
	return &Log{w: w, queue: make(chan *lines, queue), spares: make(chan *lines, queue)}
}

// Run writes until ctx ends, then writes what is queued and returns; so ctx
// ends after the event loops did. If the writer hangs, Run gives it two seconds
// and leaves it behind. An error of the writer costs its lines and is counted,
// never returned.
func (g *Log) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.writeAll(ctx)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	patience := time.NewTimer(drainTimeout)
	defer patience.Stop()
	select {
	case <-done:
	case <-patience.C:
	}
	return nil
}

func (g *Log) writeAll(ctx context.Context) {
	idle := time.NewTimer(spareTimeout) // after a burst its buffers would stay for good
	defer idle.Stop()
	for {
		select {
		case b := <-g.queue:
			g.write(b)
			idle.Reset(spareTimeout)
		case <-idle.C:
			for range len(g.spares) {
				g.spare()
			}
		case <-ctx.Done():
			for range len(g.queue) {
				g.write(<-g.queue)
			}
			return
		}
	}
}

func (g *Log) write(b *lines) {
	if _, err := g.w.Write(b.text); err != nil {
		g.failed.Add(uint64(b.n))
	}
	b.text, b.n = b.text[:0], 0
	select {
	case g.spares <- b:
	default:
	}
}

// spare gives an empty buffer.
func (g *Log) spare() *lines {
	select {
	case b := <-g.spares:
		return b
	default:
		return new(lines)
	}
}

// logs says whether r is written to the access log.
func (l *Loop) logs(r *record.Record) bool {
	if l.log == nil {
		return false
	}
	switch l.logging.Mode {
	case LogOff:
		return false
	case LogSampled:
		if r.Fault != 0 {
			return true
		}
		l.skipped++
		if l.skipped < l.logging.Every {
			return false
		}
		l.skipped = 0
	case LogOn, "":
	}
	return true
}

// write appends the line of r.
func (l *Loop) write(r *record.Record) {
	l.lines.text = appendLine(l.lines.text, r, &l.stamp)
	l.lines.n++
	if len(l.lines.text) >= flushBytes {
		l.flushLog()
	}
}

// Tick flushes lines and spans that have waited long enough. The event loop calls
// it at the end of each turn; it returns how long until it must be called again,
// 0 if nothing waits.
func (l *Loop) Tick(now time.Time) time.Duration {
	next := l.tickLog(now)
	for _, t := range l.tracers {
		if wait := t.tick(now); wait > 0 && (next == 0 || wait < next) {
			next = wait
		}
	}
	return next
}

func (l *Loop) tickLog(now time.Time) time.Duration {
	if l.lines.n == 0 {
		return 0
	}
	if l.deadline.IsZero() {
		l.deadline = now.Add(flushAfter)
	}
	if wait := l.deadline.Sub(now); wait > 0 {
		return wait
	}
	l.flushLog()
	return 0
}

// Flush hands over lines and spans. The event loop calls it before it ends.
func (l *Loop) Flush() {
	l.flushLog()
	for _, t := range l.tracers {
		t.flush()
	}
}

// flushLog hands the lines to the writer.
func (l *Loop) flushLog() {
	l.deadline = time.Time{}
	if l.lines.n == 0 {
		return
	}
	select {
	case l.log.queue <- l.lines:
		l.lines = l.log.spare()
	default:
		l.fixed.dropped += uint64(l.lines.n)
		l.lines.text, l.lines.n = l.lines.text[:0], 0
	}
}
