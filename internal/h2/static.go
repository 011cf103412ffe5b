package h2

import (
	"golang.org/x/net/http2/hpack"

	"windrose.dev/windrose/internal/h1"
)

// staticLen is the length of the static table (RFC 7541 appendix A).
const staticLen = 61

// static is the static table, as x/net has it.
var static = newStatic()

type staticTable struct {
	fields [staticLen + 1]h1.Field // from 1
	first  [staticLen + 1]uint8    // the first entry with the same name
	// names finds the first entry with a name by its hash, by linear probing.
	names [256]uint8
}

func newStatic() *staticTable {
	t := &staticTable{}
	for i := 1; i <= staticLen; i++ {
		var f hpack.HeaderField
		d := hpack.NewDecoder(0, func(g hpack.HeaderField) { f = g })
		if _, err := d.Write([]byte{0x80 | byte(i)}); err != nil {
			panic(err) // x/net is not what it was
		}
		name := []byte(f.Name)
		t.fields[i] = h1.Field{Name: name, Value: []byte(f.Value), Known: h1.Classify(name)}
		h := hash(name)
		if first := t.find(h, name); first > 0 {
			t.first[i] = uint8(first)
			continue
		}
		t.first[i] = uint8(i)
		at := h % 256
		for t.names[at] != 0 {
			at = (at + 1) % 256
		}
		t.names[at] = uint8(i)
	}
	return t
}

// find gives the first entry with the name, or 0.
func (t *staticTable) find(h uint32, name []byte) int {
	for at := h % 256; t.names[at] != 0; at = (at + 1) % 256 {
		if i := int(t.names[at]); string(t.fields[i].Name) == string(name) {
			return i
		}
	}
	return 0
}

// lookup gives the entry with name and value, or else one with the name, or 0.
func (t *staticTable) lookup(h uint32, name, value []byte) (i int, whole bool) {
	first := t.find(h, name)
	for i = first; i > 0 && i <= staticLen && int(t.first[i]) == first; i++ {
		if len(t.fields[i].Value) > 0 && string(t.fields[i].Value) == string(value) {
			return i, true
		}
	}
	return first, false
}
