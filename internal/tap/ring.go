package tap

import (
	"slices"
	"time"

	"windrose.dev/windrose/internal/record"
)

// ring remembers the newest records in pieces of equal size: when all are full,
// the oldest is begun anew. It takes a piece of memory only when it needs one.
type ring struct {
	pieces [][]byte
	most   int    // pieces
	size   int    // of a piece
	begun  uint64 // pieces begun so far: the newest is number begun-1
}

// add remembers a record.
func (g *ring) add(r *record.Record) {
	p := g.newest()
	if p == nil || len(*p)+sizeOf(r) > cap(*p) {
		p = g.begin()
	}
	*p = appendEntry(*p, r, false)
}

func (g *ring) newest() *[]byte {
	if g.begun == 0 {
		return nil
	}
	return &g.pieces[(g.begun-1)%uint64(g.most)]
}

func (g *ring) begin() *[]byte {
	if len(g.pieces) < g.most {
		g.pieces = append(g.pieces, make([]byte, 0, g.size))
	}
	g.begun++
	p := g.newest()
	*p = (*p)[:0]
	return p
}

// after copies into dst the oldest piece whose number is at least from. It gives
// the number that follows, or from if there is none.
func (g *ring) after(from uint64, dst []byte) ([]byte, uint64) {
	if held := uint64(len(g.pieces)); g.begun > held {
		from = max(from, g.begun-held)
	}
	if from >= g.begun {
		return dst[:0], from
	}
	return append(dst[:0], g.pieces[from%uint64(g.most)]...), from + 1
}

// since is when the oldest that is remembered began; zero while nothing was
// forgotten.
func (g *ring) since() time.Time {
	if g.begun <= uint64(len(g.pieces)) {
		return time.Time{}
	}
	oldest := g.pieces[g.begun%uint64(g.most)] // the next to be begun anew
	return startOf(oldest)
}

// bytes is the memory that the ring has taken.
func (g *ring) bytes() int {
	n := 0
	for _, p := range g.pieces {
		n += cap(p)
	}
	return n
}

// memory is what loops remember, copied.
type memory struct {
	pieces [][]byte
	reach  Reach
}

// newest calls yield with each record, from the newest to the oldest, until it
// says no. The record is used again.
func (m *memory) newest(yield func(*record.Record) bool) {
	type place struct {
		start int64
		at    []byte
	}
	var places []place
	for _, p := range m.pieces {
		for len(p) > 0 {
			places = append(places, place{startOf(p).UnixNano(), p})
			p = p[length(p):]
		}
	}
	slices.SortStableFunc(places, func(a, b place) int { return int(min(max(b.start-a.start, -1), 1)) })
	var r record.Record
	for _, p := range places {
		next(p.at, &r)
		if !yield(&r) {
			return
		}
	}
}
