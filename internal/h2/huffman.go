package h2

import (
	"bytes"
	"encoding/binary"
	"slices"

	"golang.org/x/net/http2/hpack"
)

// The Huffman code of RFC 7541 is canonical: codes of the same length are
// consecutive numbers in the order of their symbols, and all shorter codes are
// smaller. So the lengths alone give everything. Decoding looks at the next ten
// bits, which hold whole all codes of letters, digits and common punctuation
// (5 to 10 bits); longer codes are found by comparing with the first code of
// each length.

const (
	quickBits = 10
	maxBits   = 30
)

// huffman is the code, made from what x/net knows of it.
var huffman = newHuffman()

type huffmanCode struct {
	code [256]uint32
	bits [256]uint8
	// quick has for each ten bits the symbol that they begin with and its length:
	// symbol<<8 | length; 0 for longer codes.
	quick [1 << quickBits]uint16
	// limit is the first value of 32 bits, left-aligned, that is no code of this
	// length or a shorter one. base is the index in symbols minus the code.
	limit   [maxBits + 1]uint64
	base    [maxBits + 1]int
	symbols [256]uint8
}

func newHuffman() *huffmanCode {
	h := &huffmanCode{}
	for c := range 256 {
		// Eight times the same symbol take as many bytes as its code has bits.
		eight := string(bytes.Repeat([]byte{byte(c)}, 8))
		bits := int(hpack.HuffmanEncodeLength(eight))
		var v uint32
		for _, b := range hpack.AppendHuffmanString(nil, eight)[:min(bits, 4)] {
			v = v<<8 | uint32(b)
		}
		h.bits[c] = uint8(bits)
		h.code[c] = v >> (8*min(bits, 4) - bits)
	}
	n := 0
	var end uint64
	for bits := 1; bits <= maxBits; bits++ {
		first := true
		for c := range 256 {
			if int(h.bits[c]) != bits {
				continue
			}
			if first {
				h.base[bits] = n - int(h.code[c])
				first = false
			}
			end = uint64(h.code[c]+1) << (32 - bits)
			h.symbols[n] = uint8(c)
			n++
			if bits <= quickBits {
				from := h.code[c] << (quickBits - bits)
				for i := range uint32(1) << (quickBits - bits) {
					h.quick[from+i] = uint16(c)<<8 | uint16(bits)
				}
			}
		}
		h.limit[bits] = end
	}
	return h
}

// appendHuffman appends what v stands for. It is false if v is not the code of
// anything: it has the end symbol, or its padding is not the beginning of that
// (RFC 7541 5.2).
func appendHuffman(dst, v []byte) ([]byte, bool) {
	const shortest = 5
	at := len(dst)
	dst = slices.Grow(dst, len(v)*8/shortest+1)
	out := dst[:cap(dst)]
	var acc uint64 // the next bits are the highest
	n := 0         // how many there are
	for {
		for n <= 32 && len(v) >= 4 {
			acc |= uint64(binary.BigEndian.Uint32(v)) << (32 - n)
			v = v[4:]
			n += 32
		}
		for n <= 56 && len(v) > 0 {
			acc |= uint64(v[0]) << (56 - n)
			v = v[1:]
			n += 8
		}
		var q uint16
		for n >= quickBits {
			if q = huffman.quick[acc>>(64-quickBits)]; q == 0 {
				break
			}
			out[at] = byte(q >> 8)
			at++
			acc <<= q & 0xff
			n -= int(q & 0xff)
		}
		// A longer code needs more bits, if there are more.
		if n >= maxBits || len(v) == 0 {
			symbol, bits := huffman.next(acc, n)
			if bits == 0 {
				return dst[:at], len(v) == 0 && n < 8 && acc>>(64-n) == 1<<n-1
			}
			out[at] = symbol
			at++
			acc <<= bits
			n -= bits
		}
	}
}

// next gives the symbol that the first n bits of acc begin with, and its length;
// 0 if they are not enough for any.
func (h *huffmanCode) next(acc uint64, n int) (symbol byte, bits int) {
	// With ones after the end no symbol is found in padding, as only the end
	// symbol is all ones.
	first := uint32(acc >> 32)
	if n < 32 {
		first |= 1<<(32-n) - 1
	}
	if q := h.quick[first>>(32-quickBits)]; q != 0 {
		symbol, bits = byte(q>>8), int(q&0xff)
	} else {
		bits = quickBits + 1
		for bits <= maxBits && uint64(first) >= h.limit[bits] {
			bits++
		}
		if bits > maxBits {
			return 0, 0
		}
		symbol = h.symbols[int(first>>(32-bits))+h.base[bits]]
	}
	if bits > n {
		return 0, 0
	}
	return symbol, bits
}

// huffmanLen is how many bytes the code of v takes.
func huffmanLen(v []byte) int {
	n := 0
	for _, c := range v {
		n += int(huffman.bits[c])
	}
	return (n + 7) / 8
}

// appendHuffmanCode appends the code of v.
func appendHuffmanCode(dst, v []byte) []byte {
	var acc uint64
	n := 0
	for _, c := range v {
		b := int(huffman.bits[c])
		acc = acc<<b | uint64(huffman.code[c])
		for n += b; n >= 8; {
			n -= 8
			dst = append(dst, byte(acc>>n))
		}
	}
	if n > 0 {
		dst = append(dst, byte(acc<<(8-n))|byte(1<<(8-n)-1))
	}
	return dst
}
