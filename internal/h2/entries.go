package h2

import (
	"encoding/binary"
	"math/bits"

	"windrose.dev/windrose/internal/h1"
)

// entries is a dynamic table (RFC 7541 2.3.2): the bytes of all fields one after
// another, oldest first, and where each of them is. It holds no pointers, and
// takes hardly more memory than what is in it.
//
//	bytes  |gone|name|value|name|value|...
//	list   |gone|entry     |entry     |...
//	             ^ first
type entries struct {
	bytes []byte
	list  []entry
	first int // the oldest that is not evicted
	used  int // by the rules of RFC 7541 4.1
	size  int // what may be used
}

type entry struct {
	at, name, value uint16 // where it is in bytes, and how long
	known           h1.Known
	valid           bool // name and value may be in a message
	hash            uint32
}

// entryOverhead is what an entry counts beside its bytes (RFC 7541 4.1).
const entryOverhead = 32

func (t *entries) len() int { return len(t.list) - t.first }

// at gives an entry by its age: 1 is the newest.
func (t *entries) at(age int) *entry { return &t.list[len(t.list)-age] }

func (t *entries) name(e *entry) []byte { return t.bytes[e.at:][:e.name:e.name] }

func (t *entries) value(e *entry) []byte { return t.bytes[e.at+e.name:][:e.value:e.value] }

// resize sets what may be used.
func (t *entries) resize(size int) {
	t.size = size
	t.evict(size)
	if t.len() == 0 {
		t.bytes, t.list, t.first = nil, nil, 0
	}
}

// evict drops the oldest entries until at most room is used.
func (t *entries) evict(room int) {
	for t.used > room && t.first < len(t.list) {
		e := &t.list[t.first]
		t.used -= int(e.name) + int(e.value) + entryOverhead
		t.first++
	}
}

// add adds an entry, whose place and length it fills in. An entry that is larger
// than the table empties it (RFC 7541 4.4). name and value must not lie in t.
func (t *entries) add(name, value []byte, e entry) {
	need := len(name) + len(value)
	t.evict(t.size - need - entryOverhead)
	if need+entryOverhead > t.size {
		return
	}
	t.makeRoom(need)
	e.at, e.name, e.value = uint16(len(t.bytes)), uint16(len(name)), uint16(len(value))
	t.bytes = append(append(t.bytes, name...), value...)
	t.list = append(t.list, e)
	t.used += need + entryOverhead
}

// makeRoom moves what is left of bytes and list to their beginnings if the next
// entry does not fit behind, and makes them a little larger if it still does
// not.
func (t *entries) makeRoom(need int) {
	if t.first > 0 && len(t.list) == cap(t.list) || len(t.bytes)+need > cap(t.bytes) {
		t.compact(need)
	}
	if len(t.list) == cap(t.list) {
		list := make([]entry, len(t.list), len(t.list)+8)
		copy(list, t.list)
		t.list = list
	}
}

func (t *entries) compact(need int) {
	gone := len(t.bytes)
	if t.first < len(t.list) {
		gone = int(t.list[t.first].at)
	}
	live := t.bytes[gone:]
	if len(live)+need > cap(t.bytes) {
		const step = 128
		grown := make([]byte, len(live), min((len(live)+need+step-1)/step*step+step, max(t.size, len(live)+need)))
		copy(grown, live)
		t.bytes = grown
	} else {
		t.bytes = t.bytes[:copy(t.bytes[:cap(t.bytes)], live)]
	}
	t.list = t.list[:copy(t.list, t.list[t.first:])]
	t.first = 0
	for i := range t.list {
		t.list[i].at -= uint16(gone)
	}
}

// find gives the age of the newest entry with name and value, or 0.
func (t *entries) find(h uint32, name, value []byte) int {
	for i := len(t.list) - 1; i >= t.first; i-- {
		e := &t.list[i]
		if e.hash == h && string(t.name(e)) == string(name) && string(t.value(e)) == string(value) {
			return len(t.list) - i
		}
	}
	return 0
}

// hash is for finding alone: what it gives for chosen bytes does not matter, as
// bytes are compared too and tables are small.
func hash(b []byte) uint32 {
	const k = 0x9e3779b97f4a7c15
	h := uint64(len(b)) * k
	for len(b) >= 8 {
		h = bits.RotateLeft64((h^binary.LittleEndian.Uint64(b))*k, 29)
		b = b[8:]
	}
	var last uint64
	for i, c := range b {
		last |= uint64(c) << (8 * i)
	}
	h = (h ^ last) * k
	return uint32(h >> 32)
}
