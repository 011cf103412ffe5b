package plan

import (
	"encoding/binary"
	"math/bits"
)

// An index finds the position of a name among a few or thousands. It is an
// open-addressing hash table in one pointer-free slice, because the garbage
// collector walks it for as long as the plan lives, and because most changes
// keep the names and so can share it.
//
// Hashes are not seeded: names come from configuration, and a request can only
// look up, so the length of a probe does not depend on what a client sends.
type index struct {
	names []string
	slots []uint64 // high half: tag of the hash; low half: position + 1; nil for a few names
}

// fewNames is up to where comparing all is quicker than hashing.
const fewNames = 4

const (
	hashSeed = 0x9e3779b97f4a7c15
	hashA    = 0xa0761d6478bd642f
	hashB    = 0xe7037ed1a0b428db
)

// newIndex builds an index of names, which it keeps. All must differ.
func newIndex(names []string, hashOf func(string) uint64) index {
	x := index{names: names}
	if len(names) <= fewNames {
		return x
	}
	size := 1 << bits.Len(uint(len(names)*3/2))
	x.slots = make([]uint64, size)
	for i, name := range names {
		h := hashOf(name)
		at := int(h) & (size - 1)
		for x.slots[at] != 0 {
			at = (at + 1) & (size - 1)
		}
		x.slots[at] = h&^0xffffffff | uint64(i+1)
	}
	return x
}

// hashed says whether find needs a hash.
func (x *index) hashed() bool { return x.slots != nil }

// find is the position of name, or -1. The hash matters only if hashed.
func (x *index) find(h uint64, name []byte) int {
	if x.slots == nil {
		for i, have := range x.names {
			if have == string(name) {
				return i
			}
		}
		return -1
	}
	mask := len(x.slots) - 1
	for at := int(h) & mask; ; at = (at + 1) & mask {
		slot := x.slots[at]
		if slot == 0 {
			return -1
		}
		if slot>>32 == h>>32 && x.names[uint32(slot)-1] == string(name) {
			return int(uint32(slot)) - 1
		}
	}
}

// hashBytes hashes s on top of h, eight bytes at a time.
func hashBytes(h uint64, s []byte) uint64 {
	n := len(s)
	for ; len(s) >= 8; s = s[8:] {
		h = mix(h^binary.LittleEndian.Uint64(s)^hashA, hashB)
	}
	var tail uint64
	for _, c := range s {
		tail = tail<<8 | uint64(c)
	}
	return mix(h^tail^hashB, hashA^uint64(n))
}

func hashString(s string) uint64 { return hashBytes(hashSeed, []byte(s)) }

func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}
