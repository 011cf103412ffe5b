package telemetry

import (
	"math/bits"
	"slices"
	"time"
)

const (
	// maxCells bounds the routes, and the services, that one loop counts apart.
	maxCells = 1 << 15
	// maxSlots bounds the table of short cuts (8 bytes each); a slot beyond is
	// looked up by name.
	maxSlots = 1 << 17
	// maxCodes bounds the status codes counted apart for one route: a service
	// can answer with any, and each is a series.
	maxCodes = 32
	// codeOther stands for every code out of 100..599 or beyond maxCodes.
	codeOther = 0
	// codeNone stands for what has no status: connections and flows of bytes.
	codeNone = 1
)

// numBounds is the number of finite buckets of a histogram.
const numBounds = 14

// bounds are the upper ends of the buckets. They are dense where a proxy's
// times are and end where a user gave up long ago.
var bounds = [numBounds]time.Duration{
	500 * time.Microsecond,
	1 * time.Millisecond,
	2500 * time.Microsecond,
	5 * time.Millisecond,
	10 * time.Millisecond,
	25 * time.Millisecond,
	50 * time.Millisecond,
	100 * time.Millisecond,
	250 * time.Millisecond,
	500 * time.Millisecond,
	1 * time.Second,
	2500 * time.Millisecond,
	5 * time.Second,
	10 * time.Second,
}

// firstBucket gives, for the bit length of a time in nanoseconds, the first
// bucket that such a time can fall into. A power of two spans at most two
// bounds, so that a search ends after two comparisons.
var firstBucket = func() (first [65]uint8) {
	for n := 1; n < len(first); n++ {
		least := uint64(1) << (n - 1)
		for int(first[n]) < numBounds && uint64(bounds[first[n]]) < least {
			first[n]++
		}
	}
	return first
}()

// bucket is the index of the bucket that d falls into; numBounds is the last,
// endless one.
func bucket(d time.Duration) int {
	i := int(firstBucket[bits.Len64(uint64(d))])
	for i < numBounds && d > bounds[i] {
		i++
	}
	return i
}

// histogram counts times by bucket; the counts are not cumulative.
type histogram struct {
	buckets [numBounds + 1]uint64
	nanos   uint64
}

func (h *histogram) observe(d time.Duration) {
	d = max(d, 0)
	h.buckets[bucket(d)]++
	h.nanos += uint64(d)
}

func (h *histogram) add(o *histogram) {
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
	h.nanos += o.nanos
}

func (h *histogram) empty() bool { return *h == histogram{} }

// codeCount is how many answers had one status code.
type codeCount struct {
	code uint16
	n    uint64
}

// tally is what is counted for one route or one service.
type tally struct {
	codes []codeCount
	times histogram
}

// answer counts an answer with a status code.
func (t *tally) answer(status int) {
	code := uint16(codeOther)
	if status == 0 {
		code = codeNone
	}
	if status >= 100 && status <= 599 {
		code = uint16(status)
	}
	for i := range t.codes {
		if t.codes[i].code == code {
			t.codes[i].n++
			return
		}
	}
	if len(t.codes) >= maxCodes && code != codeOther {
		t.answer(codeOther)
		return
	}
	t.codes = append(t.codes, codeCount{code: code, n: 1})
}

// moveTo copies t into dst, whose memory it reuses, and begins t anew. The
// codes stay, with zero counts, so that the next request finds its place.
func (t *tally) moveTo(dst *tally) {
	dst.codes = append(dst.codes[:0], t.codes...)
	dst.times = t.times
	for i := range t.codes {
		t.codes[i].n = 0
	}
	t.times = histogram{}
}

// cell is a tally under a name, on a loop.
type cell struct {
	name  string
	dirty bool // is in its table's dirty list
	tally
}

// table holds the cells of one kind on one loop. byName is the truth; slots are
// short cuts into it that hold only as far as the name agrees.
type table struct {
	slots  []*cell
	byName map[string]*cell
	dirty  []*cell // counted since the last fold
}

// at gives the cell for name, and marks it as counted.
func (t *table) at(slot int, name string) *cell {
	var c *cell
	if uint(slot) < uint(len(t.slots)) {
		c = t.slots[slot]
	}
	if c == nil || c.name != name {
		c = t.find(slot, name)
	}
	if !c.dirty {
		c.dirty = true
		t.dirty = append(t.dirty, c)
	}
	return c
}

// find looks a cell up by name, makes it where there is none, and remembers it
// under slot.
func (t *table) find(slot int, name string) *cell {
	c := t.byName[name]
	if c == nil && len(t.byName) >= maxCells {
		name = nameOther
		c = t.byName[name]
	}
	if c == nil {
		if t.byName == nil {
			t.byName = make(map[string]*cell)
		}
		c = &cell{name: name, codes: make([]codeCount, 0, 4)}
		t.byName[name] = c
	}
	if slot < 0 || slot >= maxSlots || c.name == nameOther {
		return c
	}
	if slot >= len(t.slots) {
		t.slots = slices.Grow(t.slots, slot+1-len(t.slots))[:slot+1]
	}
	t.slots[slot] = c
	return c
}

// drop forgets the cells of names. What they hold is still folded: it ends up
// under "_other".
func (t *table) drop(names []string) {
	for _, name := range names {
		delete(t.byName, name)
	}
	clear(t.slots) // several slots may lead to one cell
}
