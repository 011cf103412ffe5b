package h1

import (
	"encoding/binary"
	"math/bits"
)

// The classes of bytes that the grammar of heads needs.
const (
	isToken  = 1 << iota // tchar, RFC 9110 5.6.2
	isTarget             // what a request target may hold
	isPath               // isTarget without "?" and "%", which need a look
	isHost               // a host name, without port and brackets
	isHex
	isText // HTAB, SP, VCHAR, obs-text: field values and reason phrases
	isQuoted
)

var class = classes()

func classes() (t [256]uint8) {
	for c := range t {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z' && c < 0x80
		digit := '0' <= c && c <= '9'
		if letter || digit {
			t[c] |= isToken | isHost
		}
		if digit || 'a' <= c|0x20 && c|0x20 <= 'f' && c < 0x80 {
			t[c] |= isHex
		}
		if c > ' ' && c < 0x7f && c != '#' {
			t[c] |= isTarget
			if c != '?' && c != '%' {
				t[c] |= isPath
			}
		}
		if c == '\t' || c >= ' ' && c != 0x7f {
			t[c] |= isText
			if c != '"' && c != '\\' {
				t[c] |= isQuoted
			}
		}
	}
	for _, c := range []byte("!#$%&'*+-.^_`|~") {
		t[c] |= isToken
	}
	for _, c := range []byte("-._") {
		t[c] |= isHost
	}
	return t
}

// all says whether b is not empty and every byte of it has the class.
func all(b []byte, want uint8) bool {
	for _, c := range b {
		if class[c]&want == 0 {
			return false
		}
	}
	return len(b) > 0
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' }

// trim cuts white space from both ends.
func trim(b []byte) []byte {
	for len(b) > 0 && isSpace(b[0]) {
		b = b[1:]
	}
	for len(b) > 0 && isSpace(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

// textEnd returns the index of the first byte at or after i that is not text,
// or len(b).
//
// It looks at eight bytes at once. For each byte of w, the high bit of
// (w - 0x20) &^ w is set if the byte is below 0x20; a borrow can set it falsely
// only in bytes above a true one, so the lowest bit that is set is right. The
// high bit of (w & 0x7f) + 1 &^ w is set if the byte is 0x7f; nothing carries.
func textEnd(b []byte, i int) int {
	const (
		ones = 0x0101010101010101
		high = 0x80 * ones
	)
	for i+8 <= len(b) {
		w := binary.LittleEndian.Uint64(b[i:])
		m := ((w - 0x20*ones) | (w&(0x7f*ones) + ones)) &^ w & high
		if m == 0 {
			i += 8
			continue
		}
		i += bits.TrailingZeros64(m) / 8
		if b[i] != '\t' {
			return i
		}
		i++
	}
	for i < len(b) && class[b[i]]&isText != 0 {
		i++
	}
	return i
}

// EqualFold says whether b is lower, ignoring the case of ASCII letters in b.
// lower must be in lower case already.
func EqualFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i := range len(lower) {
		c, l := b[i], lower[i]
		if c != l && (c|0x20 != l || l < 'a' || l > 'z') {
			return false
		}
	}
	return true
}

// sameName compares two tokens, ignoring the case of ASCII letters.
func sameName(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i, c := range a {
		d := b[i]
		if c == d {
			continue
		}
		if c|0x20 != d|0x20 || c|0x20 < 'a' || c|0x20 > 'z' {
			return false
		}
	}
	return true
}

// hasPrefixFold says whether b begins with lower, ignoring case in b.
func hasPrefixFold(b []byte, lower string) bool {
	return len(b) >= len(lower) && EqualFold(b[:len(lower)], lower)
}
