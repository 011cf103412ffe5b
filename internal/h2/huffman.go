package h2

import (
	"bytes"

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
	var acc uint64 // the low bits are the next ones
	n := 0         // how many
	for {
		for n <= 56-8+1 && len(v) > 0 {
			acc = acc<<8 | uint64(v[0])
			v = v[1:]
			n += 8
		}
		if n == 0 {
			return dst, true
		}
		// The next 32 bits, with ones after the end: no code but the end symbol is
		// all ones, so that padding is not taken for a symbol.
		var next uint32
		if n >= 32 {
			next = uint32(acc >> (n - 32))
		} else {
			next = uint32(acc<<(32-n)) | (1<<(32-n) - 1)
		}
		var bits int
		var symbol byte
		if q := huffman.quick[next>>(32-quickBits)]; q != 0 {
			bits, symbol = int(q&0xff), byte(q>>8)
		} else {
			bits = quickBits + 1
			for bits <= maxBits && uint64(next) >= huffman.limit[bits] {
				bits++
			}
			if bits <= maxBits {
				symbol = huffman.symbols[int(next>>(32-bits))+huffman.base[bits]]
			}
		}
		if bits > n {
			return dst, len(v) == 0 && n < 8 && uint32(acc)&(1<<n-1) == 1<<n-1
		}
		if bits > maxBits {
			return dst, false
		}
		dst = append(dst, symbol)
		n -= bits
	}
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
