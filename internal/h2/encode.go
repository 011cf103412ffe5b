package h2

import "windrose.dev/windrose/internal/h1"

// encoder writes field blocks. A field goes into the table when it is seen for
// the second time: values that come once, such as ids and dates, would only push
// out what is worth keeping.
type encoder struct {
	entries
	limit  int  // of the table, whatever the peer allows
	told   int  // the size that the peer knows
	lowest int  // the smallest size since then
	plain  bool // strings are written as they are: see text
	seen   [32]uint16
}

// resize follows the peer's SETTINGS_HEADER_TABLE_SIZE.
func (e *encoder) resize(allowed int) {
	size := min(allowed, e.limit)
	e.lowest = min(e.lowest, size)
	e.entries.resize(size)
}

// begin appends what the peer must know before the first field (RFC 7541 4.2).
func (e *encoder) begin(dst []byte) []byte {
	if e.lowest < e.size {
		dst = appendInt(dst, 0x20, 5, e.lowest)
		e.told = e.lowest
	}
	if e.told != e.size {
		dst = appendInt(dst, 0x20, 5, e.size)
	}
	e.told, e.lowest = e.size, e.size
	return dst
}

// keeping says what a table may do with a field.
type keeping uint8

const (
	mayKeep   keeping = iota
	wontKeep          // its values hardly come twice
	neverKeep         // nobody may
)

// append appends a field; its name must be in lower case.
func (e *encoder) append(dst, name, value []byte, keep keeping) []byte {
	nh := hash(name)
	index, whole := static.lookup(nh, name, value)
	if whole && keep != neverKeep {
		return appendInt(dst, 0x80, 7, index)
	}
	if keep == mayKeep && len(name)+len(value)+entryOverhead <= e.size/2 {
		h := nh ^ hash(value)*0x85ebca6b
		if age := e.find(h, name, value); age > 0 {
			return appendInt(dst, 0x80, 7, staticLen+age)
		}
		if e.again(h) {
			dst = e.literal(dst, 0x40, 6, index, name, value)
			e.add(name, value, entry{hash: h})
			return dst
		}
	}
	if keep == neverKeep {
		return e.literal(dst, 0x10, 4, index, name, value)
	}
	return e.literal(dst, 0, 4, index, name, value)
}

// again says whether a hash was seen lately.
func (e *encoder) again(h uint32) bool {
	slot, rest := h%uint32(len(e.seen)), uint16(h>>16)|1
	if e.seen[slot] == rest {
		return true
	}
	e.seen[slot] = rest
	return false
}

// literal appends a field as a literal whose name is that of a static entry, if
// index is not 0.
func (e *encoder) literal(dst []byte, first byte, prefix, index int, name, value []byte) []byte {
	dst = appendInt(dst, first, prefix, index)
	if index == 0 {
		dst = e.text(dst, name)
	}
	return e.text(dst, value)
}

// appendInt appends an integer after the bits of first (RFC 7541 5.1).
func appendInt(dst []byte, first byte, prefix, n int) []byte {
	most := 1<<prefix - 1
	if n < most {
		return append(dst, first|byte(n))
	}
	dst = append(dst, first|byte(most))
	for n -= most; n >= 0x80; n >>= 7 {
		dst = append(dst, byte(n)|0x80)
	}
	return append(dst, byte(n))
}

// text appends a string, in Huffman's code where that is shorter. A plain
// encoder's is never: its peer is near, where the quarter that the code saves of a
// string is worth less than the time to make and read it.
func (e *encoder) text(dst, text []byte) []byte {
	if !e.plain {
		if n := huffmanLen(text); n < len(text) {
			return appendHuffmanCode(appendInt(dst, 0x80, 7, n), text)
		}
	}
	return append(appendInt(dst, 0, 7, len(text)), text...)
}

// keepingOf decides by the name of a field.
func keepingOf(name []byte, known h1.Known) keeping {
	switch known {
	case h1.ContentLength, h1.RequestID, h1.Date, h1.ForwardedFor, h1.Forwarded:
		return wontKeep
	case h1.ProxyAuthorization:
		return neverKeep
	}
	switch string(name) {
	case "authorization":
		return neverKeep
	case "cookie", "set-cookie":
		// Short ones could be guessed by a neighbour on the same connection to an
		// endpoint (RFC 7541 7.1.3).
		return neverKeep
	case ":path", "etag", "last-modified", "traceparent", "tracestate", "location", "content-range", "age":
		return wontKeep
	}
	return mayKeep
}
