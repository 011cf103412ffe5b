package h2

import "windrose.dev/windrose/internal/h1"

// Decoder is the HPACK decoder alone, for tests.
type Decoder struct {
	d decoder
	h head
}

// NewDecoder makes a decoder with a table of the usual size.
func NewDecoder() *Decoder {
	d := &Decoder{}
	d.d.size, d.d.allowed = initialTable, initialTable
	return d
}

// Decode gives the fields of a block as they are, unless some of them are
// malformed as fields, which does not hinder decoding.
func (d *Decoder) Decode(block []byte) (fields []h1.Field, wellFormed bool, err *Error) {
	cfg := Config{MaxHeadBytes: 1 << 20, MaxFields: 1 << 16}
	d.h.reset(&cfg)
	err = d.d.decode(block, &d.h)
	return d.h.fields, d.h.bad == "" && !d.h.anyPseudo(), err
}

// Table gives the dynamic table, newest entry first.
func (d *Decoder) Table() (fields [][2]string, used int) {
	for age := 1; age <= d.d.len(); age++ {
		e := d.d.at(age)
		fields = append(fields, [2]string{string(d.d.name(e)), string(d.d.value(e))})
	}
	return fields, d.d.used
}

// Encoder is the HPACK encoder alone, for tests.
type Encoder struct{ e encoder }

// NewEncoder makes an encoder whose table is at most limit bytes.
func NewEncoder(limit int) *Encoder {
	e := &Encoder{}
	e.e.limit, e.e.told, e.e.lowest = limit, initialTable, initialTable
	e.e.resize(initialTable)
	return e
}

// Resize is what a peer's SETTINGS do.
func (e *Encoder) Resize(size int) { e.e.resize(size) }

// Encode makes a block.
func (e *Encoder) Encode(fields []h1.Field) []byte {
	dst := e.e.begin(nil)
	for _, f := range fields {
		keep := keepingOf(f.Name, f.Known)
		if f.Sensitive {
			keep = neverKeep
		}
		dst = e.e.append(dst, f.Name, f.Value, keep)
	}
	return dst
}

// Used is how much of the encoder's table is used.
func (e *Encoder) Used() int { return e.e.used }

// The Huffman code, for tests.
var (
	AppendHuffman     = appendHuffman
	AppendHuffmanCode = appendHuffmanCode
	HuffmanLen        = huffmanLen
)

// SkipTo makes a client go on as if it had opened all streams up to last.
func (c *Conn) SkipTo(last uint32) { c.lastID = last }

// Table is the table of streams alone, for tests.
type Table struct{ t table }

// Add adds a stream.
func (t *Table) Add(id uint32) { t.t.add(&stream{id: id}) }

// Remove removes a stream that is there.
func (t *Table) Remove(id uint32) { t.t.remove(t.t.find(id)) }

// Has says whether a stream is there.
func (t *Table) Has(id uint32) bool { s := t.t.find(id); return s != nil && s.id == id }

// Len counts the streams in two ways.
func (t *Table) Len() (n, counted int) {
	t.t.each(func(*stream) { counted++ })
	return t.t.n, counted
}
