package tap

import (
	"slices"
	"time"

	"windrose.dev/windrose/internal/record"
)

// ring remembers the newest records in pieces of equal size: when all are full,
// the oldest is begun anew. It takes a piece of memory only when it needs one.
//
// Of a flood it keeps as many each second as it has room for, and leaves out the
// rest: so it always reaches back a second, and a flood, of which nobody could find
// one anyhow before it is pushed out, costs next to nothing.
type ring struct {
	pieces [][]byte
	most   int    // pieces
	size   int    // of a piece
	begun  uint64 // pieces begun so far: the newest is number begun-1

	second int64 // the newest in which a record began, about
	kept   int   // since then
	paced  int64 // from when on the next may be kept where there are many
	left   int64 // when the newest that was left out began, in nanoseconds of Unix time; 0 none
}

// usualBytes is more than the entry of a common request has.
const usualBytes = 512

// add remembers a record.
func (g *ring) add(r *record.Record) {
	start := r.Start.UnixNano()
	if s := start >> 30; s > g.second {
		g.second, g.kept = s, 0
	}
	// The first half of a second's share may come at once, the other is spread.
	half := g.most * g.size / usualBytes / 2
	if g.kept >= half && start < g.paced {
		g.left = max(g.left, start)
		return
	}
	g.kept++
	g.paced = start + (1<<30)/int64(half)
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

// since is from when on all are remembered; zero while nothing was left out or
// forgotten.
func (g *ring) since() (since time.Time) {
	if g.left != 0 {
		since = time.Unix(0, g.left)
	}
	if g.begun > uint64(len(g.pieces)) {
		oldest := g.pieces[g.begun%uint64(g.most)] // the next to be begun anew
		if t := startOf(oldest); t.After(since) {
			since = t
		}
	}
	return since
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
