package h2

import (
	"bytes"

	"windrose.dev/windrose/internal/h1"
)

// decoder reads field blocks.
type decoder struct {
	entries
	allowed int  // the largest size that the peer may choose
	owes    bool // the peer must say a size that is allowed, before all else
}

// allow sets the largest size that the peer may choose, once it knows.
func (d *decoder) allow(size int) {
	d.allowed = size
	d.owes = d.size > size
}

func badBlock(reason string) *Error { return &Error{Code: CompressionError, Reason: reason} }

// decode reads a block into h. Also what is too much for h is read, as the table
// must stay in step with the peer's.
func (d *decoder) decode(block []byte, h *head) *Error {
	for began := false; len(block) > 0; {
		b := block[0]
		if b&0xe0 == 0x20 {
			if began {
				return badBlock("a table size is changed after the first field of a block")
			}
			n, rest, ok := readInt(block, 5)
			if !ok || n > d.allowed {
				return badBlock("a table size is malformed, or larger than is allowed")
			}
			d.resize(n)
			d.owes = d.owes && n > d.allowed
			block = rest
			continue
		}
		if d.owes {
			return badBlock("the table is larger than the settings that the peer acknowledged")
		}
		began = true
		var err *Error
		switch {
		case b&0x80 != 0:
			block, err = d.indexed(block, h)
		case b&0xc0 == 0x40:
			block, err = d.literal(block, 6, h)
		default:
			block, err = d.literal(block, 4, h)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// indexed reads a field that is in a table.
func (d *decoder) indexed(block []byte, h *head) ([]byte, *Error) {
	n, rest, ok := readInt(block, 7)
	switch {
	case !ok || n == 0:
		return nil, badBlock("an index is malformed")
	case n <= staticLen:
		f := &static.fields[n]
		if h.fits(len(f.Name) + len(f.Value)) {
			h.take(*f, true)
		}
		return rest, nil
	case n-staticLen > d.len():
		return nil, badBlock("an index is beyond the table")
	}
	e := d.at(n - staticLen)
	if h.fits(int(e.name) + int(e.value)) {
		h.take(h1.Field{Name: h.keep(d.name(e)), Value: h.keep(d.value(e)), Known: e.known}, e.valid)
	}
	return rest, nil
}

// literal reads a field that is spelled out, or whose name alone is in a table.
func (d *decoder) literal(block []byte, prefix int, h *head) ([]byte, *Error) {
	index, rest, ok := readInt(block, prefix)
	if !ok {
		return nil, badBlock("an index is malformed")
	}
	start := len(h.arena)
	var f h1.Field
	valid := true
	switch {
	case index == 0:
		if f.Name, rest, ok = h.readText(rest); !ok {
			return nil, badBlock("a name is malformed")
		}
		f.Known = h1.Classify(f.Name)
		valid = validName(f.Name)
	case index <= staticLen:
		f.Name, f.Known = static.fields[index].Name, static.fields[index].Known
	case index-staticLen > d.len():
		return nil, badBlock("an index is beyond the table")
	default:
		e := d.at(index - staticLen)
		// Adding the field may push its own name out.
		f.Name, f.Known = h.keep(d.name(e)), e.known
		valid = e.valid || validName(f.Name)
	}
	if f.Value, rest, ok = h.readText(rest); !ok {
		return nil, badBlock("a value is malformed")
	}
	valid = valid && validValue(f.Value)
	f.Sensitive = block[0]&0xf0 == 0x10
	if prefix == 6 {
		d.add(f.Name, f.Value, entry{known: f.Known, valid: valid})
	}
	if h.fits(len(f.Name) + len(f.Value)) {
		h.take(f, valid)
	} else {
		h.arena = h.arena[:start]
	}
	return rest, nil
}

// readInt reads an integer of RFC 7541 5.1. It is false if b does not hold all
// of it, or it is larger than any that makes sense.
func readInt(b []byte, prefix int) (n int, rest []byte, ok bool) {
	if len(b) == 0 {
		return 0, nil, false
	}
	most := 1<<prefix - 1
	n = int(b[0]) & most
	if n < most {
		return n, b[1:], true
	}
	for i, c := range b[1:] {
		if i == 4 {
			return 0, nil, false
		}
		n += int(c&0x7f) << (7 * i)
		if c&0x80 == 0 {
			return n, b[i+2:], true
		}
	}
	return 0, nil, false
}

// readText reads a string literal.
func (h *head) readText(b []byte) (text, rest []byte, ok bool) {
	n, rest, ok := readInt(b, 7)
	if !ok || n > len(rest) {
		return nil, nil, false
	}
	raw := rest[:n]
	start := len(h.arena)
	if b[0]&0x80 == 0 {
		h.arena = append(h.arena, raw...)
	} else if h.arena, ok = appendHuffman(h.arena, raw); !ok {
		return nil, nil, false
	}
	return h.arena[start:len(h.arena):len(h.arena)], rest[n:], true
}

// keep copies b, which may soon be overwritten.
func (h *head) keep(b []byte) []byte {
	start := len(h.arena)
	h.arena = append(h.arena, b...)
	return h.arena[start:len(h.arena):len(h.arena)]
}

// validName accepts a field name in lower case (RFC 9113 8.2.1), or a colon and
// one.
func validName(b []byte) bool {
	if len(b) > 1 && b[0] == ':' {
		b = b[1:]
	}
	for _, c := range b {
		if c-'A' < 26 {
			return false
		}
	}
	return h1.ValidName(b)
}

// validValue accepts what may be a value (RFC 9113 8.2.1).
func validValue(b []byte) bool {
	return h1.ValidValue(b) && len(bytes.Trim(b, " \t")) == len(b)
}
