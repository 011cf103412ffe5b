package loop

import (
	"math/bits"
	"time"
)

// Timers live in a hierarchical wheel: arming, moving and stopping are a few
// pointer writes, whatever the number of timers. Level 0 has slots of one tick
// (8.4 ms); a slot of a higher level is as wide as the whole level below, and
// its timers move down when their time comes near. A bitmap for each level
// finds the next occupied slot, so that an idle loop sleeps.

const (
	tickBits  = 23 // a tick is 2^23 ns = 8.4 ms
	levelBits = 8
	levels    = 4 // 2^(23+4*8) ns: more than a year
	slotCount = 1 << levelBits
	slotMask  = slotCount - 1
)

// Resolution is the length of a tick: a timer fires at most this late.
const Resolution = time.Duration(1 << tickBits)

// Timer calls Fire once, on the loop, when its time has come. The zero value
// with F set is ready for use; it may be embedded by value but not copied.
type Timer struct {
	// F is called when the timer fires. It must be set before Arm.
	F func()

	next, prev *Timer
	tick       int64 // 0: not armed
	where      uint16
}

type wheel struct {
	tick  int64 // all ticks up to and including this one have fired
	heads [levels * slotCount]Timer
	used  [levels][slotCount / 64]uint64
	count int
}

func (w *wheel) init() {
	for i := range w.heads {
		h := &w.heads[i]
		h.next, h.prev = h, h
	}
}

// Arm sets t to fire at when (on the clock of Now), moving it if it was armed.
func (l *Loop) Arm(t *Timer, when int64) {
	l.timers.remove(t)
	t.tick = max((when+(1<<tickBits)-1)>>tickBits, l.timers.tick+1)
	l.timers.insert(t)
}

// Stop keeps t from firing.
func (l *Loop) Stop(t *Timer) { l.timers.remove(t) }

// Armed says whether t will fire.
func (t *Timer) Armed() bool { return t.tick != 0 }

func (w *wheel) insert(t *Timer) {
	delta := t.tick - w.tick
	level := 0
	for level < levels-1 && delta >= 1<<(levelBits*(level+1)) {
		level++
	}
	at := t.tick
	if level == levels-1 {
		at = min(at, w.tick+(1<<(levelBits*levels))-1)
	}
	index := int(at>>(levelBits*level)) & slotMask
	t.where = uint16(level*slotCount + index)
	h := &w.heads[t.where]
	t.next, t.prev = h, h.prev
	h.prev.next, h.prev = t, t
	w.used[level][index/64] |= 1 << (index % 64)
	w.count++
}

func (w *wheel) remove(t *Timer) {
	if t.tick == 0 {
		return
	}
	t.prev.next, t.next.prev = t.next, t.prev
	t.next, t.prev = nil, nil
	t.tick = 0
	w.count--
	if h := &w.heads[t.where]; h.next == h {
		level, index := int(t.where)/slotCount, int(t.where)&slotMask
		w.used[level][index/64] &^= 1 << (index % 64)
	}
}

// next is when something is to be done, in nanoseconds; 0 if there is no timer.
func (w *wheel) next() int64 {
	if w.count == 0 {
		return 0
	}
	best := int64(0)
	for level := range levels {
		shift := levelBits * level
		now := w.tick >> shift
		d := w.distance(level, int(now)&slotMask)
		if d == 0 {
			continue
		}
		at := (now + int64(d)) << shift
		if best == 0 || at < best {
			best = at
		}
	}
	return best << tickBits
}

// distance is how many slots after from the next occupied slot of a level is,
// 1 to slotCount; 0 if the level is empty.
func (w *wheel) distance(level, from int) int {
	used := &w.used[level]
	for d := 1; d <= slotCount; {
		i := (from + d) & slotMask
		word := used[i/64] >> (i % 64)
		if word != 0 {
			d += bits.TrailingZeros64(word)
			if d > slotCount {
				return 0
			}
			return d
		}
		d += 64 - i%64
	}
	return 0
}

// advance fires what is due at now.
func (w *wheel) advance(l *Loop, now int64) {
	target := now >> tickBits
	for w.tick < target {
		if w.count == 0 {
			w.tick = target
			return
		}
		// Jump over empty slots, but never over the start of a slot of a higher
		// level: that one has to be taken apart there.
		next := w.next() >> tickBits
		if next > target {
			w.tick = target
			return
		}
		w.tick = next
		w.cascade()
		w.fire(l)
	}
}

// cascade takes apart the slots of higher levels that begin at this tick.
func (w *wheel) cascade() {
	for level := levels - 1; level > 0; level-- {
		shift := levelBits * level
		if w.tick&(1<<shift-1) != 0 {
			continue
		}
		h := &w.heads[level*slotCount+int(w.tick>>shift)&slotMask]
		for t := h.next; t != h; {
			next := t.next
			tick := t.tick
			w.remove(t)
			t.tick = tick
			w.insert(t)
			t = next
		}
	}
}

func (w *wheel) fire(l *Loop) {
	h := &w.heads[int(w.tick)&slotMask]
	for h.next != h {
		t := h.next
		w.remove(t)
		l.guard(t.F)
	}
}
