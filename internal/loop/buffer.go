package loop

// Buffers is a loop's store of buffers in three sizes. A connection takes one
// only while it has something to keep, so that an idle one owns none.
type Buffers struct {
	free [3][][]byte
}

var bufferSizes = [3]int{4 << 10, 16 << 10, 64 << 10}

// maxFree bounds what is kept for reuse of each size: 1 MiB in all.
var maxFree = [3]int{64, 16, 8}

// Take gives an empty buffer that holds at least n bytes.
func (b *Buffers) Take(n int) []byte {
	for i, size := range bufferSizes {
		if n > size {
			continue
		}
		if last := len(b.free[i]) - 1; last >= 0 {
			p := b.free[i][last]
			b.free[i] = b.free[i][:last]
			return p
		}
		return make([]byte, 0, size)
	}
	return make([]byte, 0, n)
}

// Give takes a buffer back; nil is fine. The caller must not use it any more.
func (b *Buffers) Give(p []byte) {
	for i, size := range bufferSizes {
		if cap(p) == size && len(b.free[i]) < maxFree[i] {
			b.free[i] = append(b.free[i], p[:0])
			return
		}
	}
}

// Append appends to a buffer of this store (or nil), moving to a larger one
// where needed.
func (b *Buffers) Append(p, data []byte) []byte {
	if len(p)+len(data) <= cap(p) {
		return append(p, data...)
	}
	need := len(p) + len(data)
	if need > bufferSizes[2] {
		need = max(need, 2*cap(p))
	}
	q := append(b.Take(need), p...)
	b.Give(p)
	return append(q, data...)
}
