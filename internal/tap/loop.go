package tap

import (
	"sync/atomic"
	"time"

	"windrose.dev/windrose/internal/record"
)

const (
	// MemoryBytes is about what all loops remember of requests: half of it of
	// ordinary ones, half of those that are favoured.
	MemoryBytes = 1 << 20
	// pieceBytes is the size of a ring's piece where there is room for enough.
	pieceBytes = 32 << 10
	// leastPieces is how many pieces a ring has at least: when one is begun anew,
	// the others still remember.
	leastPieces = 4

	// slowTimes is how many times as long as usual a slow request took to be
	// answered, slowLeast how long it took at least; from slowAlways on it is slow
	// in any case.
	slowTimes  = 8
	slowLeast  = 5 * time.Millisecond
	slowAlways = time.Second
)

// Loop is the part of a Hub that lives on one event loop.
type Loop struct {
	ordinary ring
	favoured ring
	usual    time.Duration // moving average to an answer's head
	taps     []*tap
}

// newLoop makes a Loop that may remember so many bytes.
func newLoop(bytes int) *Loop {
	size := max(min(pieceBytes, bytes/2/leastPieces), maxEntry)
	most := max(bytes/2/size, leastPieces)
	return &Loop{ordinary: ring{most: most, size: size}, favoured: ring{most: most, size: size}}
}

// Emit takes a record. Only the event loop calls it; it keeps nothing of r, and
// does not block.
func (l *Loop) Emit(r *record.Record) {
	if l.favours(r) {
		l.favoured.add(r)
	} else {
		l.ordinary.add(r)
	}
	for _, t := range l.taps {
		if t.matcher.Takes(r) {
			t.offer(r)
		}
	}
}

// favours says whether somebody will sooner ask for this request than for
// another.
func (l *Loop) favours(r *record.Record) bool {
	slow := false
	if r.Answered > 0 {
		slow = r.Answered >= slowAlways || r.Answered >= slowLeast && r.Answered > slowTimes*l.usual
		l.usual += (r.Answered - l.usual) / 64
	}
	return slow || r.Fault != 0 || r.Status >= 500 || r.Attempts > 1
}

// tap is one tap, on all loops.
type tap struct {
	matcher *Matcher
	queue   chan []byte // entries
	dropped atomic.Uint64
}

// offer queues a record, unless the queue is full.
func (t *tap) offer(r *record.Record) {
	if len(t.queue) == cap(t.queue) {
		t.dropped.Add(1)
		return
	}
	select {
	case t.queue <- appendEntry(make([]byte, 0, sizeOf(r)), r, t.matcher.query):
	default:
		t.dropped.Add(1)
	}
}
