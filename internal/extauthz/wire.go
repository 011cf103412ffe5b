package extauthz

import (
	"errors"
	"unicode/utf8"
)

// This file is the encoding of protocol buffers: a message is a list of fields,
// each a number and a value.

const (
	wireVarint = 0
	wire64     = 1
	wireBytes  = 2
	wire32     = 5
)

var errMalformed = errors.New("it is not a message of protocol buffers, or has a field of another type than the protocol says")

func appendUvarint(dst []byte, v uint64) []byte {
	for v >= 0x80 {
		dst = append(dst, byte(v)|0x80)
		v >>= 7
	}
	return append(dst, byte(v))
}

func appendVarint(dst []byte, field, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return appendUvarint(appendUvarint(dst, field<<3|wireVarint), v)
}

func appendBytes(dst []byte, field uint64, v []byte) []byte {
	if len(v) == 0 {
		return dst
	}
	dst = appendUvarint(appendUvarint(dst, field<<3|wireBytes), uint64(len(v)))
	return append(dst, v...)
}

// appendText appends a string, which must be UTF-8: other bytes become "!".
func appendText[T ~string | ~[]byte](dst []byte, field uint64, v T) []byte {
	if len(v) == 0 {
		return dst
	}
	dst = appendUvarint(appendUvarint(dst, field<<3|wireBytes), uint64(len(v)))
	start := len(dst)
	dst = append(dst, v...)
	for i := start; i < len(dst); {
		r, n := utf8.DecodeRune(dst[i:])
		if r == utf8.RuneError && n == 1 {
			dst[i] = '!'
		}
		i += n
	}
	return dst
}

// appendMessage appends what body appends, as a field, with its length before it.
func appendMessage(dst []byte, field uint64, body func([]byte) []byte) []byte {
	dst = appendUvarint(dst, field<<3|wireBytes)
	start := len(dst)
	dst = body(dst)
	var length [10]byte
	n := len(appendUvarint(length[:0], uint64(len(dst)-start)))
	dst = append(dst, length[:n]...)
	copy(dst[start+n:], dst[start:])
	appendUvarint(dst[start:start], uint64(len(dst)-start-n))
	return dst
}

// field is one field of a message.
type field struct {
	number uint64
	wire   uint64
	value  uint64 // of wireVarint
	bytes  []byte // of wireBytes
}

func readUvarint(b []byte) (v uint64, n int) {
	for i, c := range b {
		if i == 10 || i == 9 && c > 1 {
			return 0, 0
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			return v, i + 1
		}
	}
	return 0, 0
}

// each calls f with the fields of a message.
func each(b []byte, f func(field) error) error {
	for len(b) > 0 {
		tag, n := readUvarint(b)
		b = b[n:]
		x := field{number: tag >> 3, wire: tag & 7}
		if n == 0 || x.number == 0 || x.number > 1<<29-1 {
			return errMalformed
		}
		var skip int
		switch x.wire {
		case wireVarint:
			if x.value, skip = readUvarint(b); skip == 0 {
				return errMalformed
			}
		case wireBytes:
			size, n := readUvarint(b)
			if n == 0 || size > uint64(len(b)-n) {
				return errMalformed
			}
			x.bytes = b[n : n+int(size)]
			skip = n + int(size)
		case wire64:
			skip = 8
		case wire32:
			skip = 4
		default:
			return errMalformed
		}
		if skip > len(b) {
			return errMalformed
		}
		b = b[skip:]
		if err := f(x); err != nil {
			return err
		}
	}
	return nil
}

func (x *field) message() ([]byte, error) {
	if x.wire != wireBytes {
		return nil, errMalformed
	}
	return x.bytes, nil
}

func (x *field) number32() (uint64, error) {
	if x.wire != wireVarint {
		return 0, errMalformed
	}
	return x.value, nil
}
