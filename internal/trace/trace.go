// Package trace speaks the languages of distributed tracing: it reads and
// writes what requests say of the trace that they belong to (W3C Trace Context,
// B3 in one field or several), and encodes spans for collectors (OTLP, Zipkin).
//
// It is pure: bytes in, bytes out. What a peer says is parsed strictly, because
// a half-understood context joins requests that have nothing to do with each
// other; a value that is not exactly as its specification has it counts as
// absent. Nothing here allocates once its buffers are warm.
package trace

// Decision is what a peer decided about exporting a trace.
type Decision uint8

// The decisions; the zero value leaves it to whoever comes next.
const (
	Undecided Decision = iota
	Dropped
	Sampled
)

// Form is how B3 is written.
type Form uint8

// The forms of B3.
const (
	B3None   Form = iota
	B3Single      // field b3
	B3Multi       // fields x-b3-traceid, x-b3-spanid, x-b3-sampled
)

// Parent is what a request says of the trace that it belongs to.
type Parent struct {
	Trace    [16]byte // zero: only a decision was sent
	Span     [8]byte  // of the caller; zero like Trace
	Decision Decision
	Form     Form // of B3, where it came so
}

// Begun says whether there is a trace to go on with.
func (p *Parent) Begun() bool { return p.Trace != [16]byte{} }

// The lengths of hexadecimal ids.
const (
	idLen     = 32
	shortLen  = 16 // of a span's id, and of B3's old trace ids
	parentLen = 55 // of a traceparent of version 00
)

// ParseTraceparent reads the value of a traceparent field (W3C Trace Context
// Level 1, 3.2).
func ParseTraceparent(v []byte) (p Parent, ok bool) {
	if len(v) < parentLen || v[2] != '-' || v[35] != '-' || v[52] != '-' {
		return Parent{}, false
	}
	var version, flags [1]byte
	if !unhex(version[:], v[:2]) || !unhex(p.Trace[:], v[3:35]) || !unhex(p.Span[:], v[36:52]) || !unhex(flags[:], v[53:55]) {
		return Parent{}, false
	}
	switch {
	case version[0] == 0xff,
		version[0] == 0 && len(v) != parentLen,
		len(v) > parentLen && v[parentLen] != '-', // a later version may add fields
		!p.Begun(), p.Span == [8]byte{}:
		return Parent{}, false
	}
	p.Decision = Dropped
	if flags[0]&1 != 0 {
		p.Decision = Sampled
	}
	return p, true
}

// ParseB3 reads the value of a b3 field.
func ParseB3(v []byte) (p Parent, ok bool) {
	p.Form = B3Single
	if len(v) == 1 {
		p.Decision, ok = b3Decision(v)
		return p, ok
	}
	n := idLen
	if len(v) > shortLen && v[shortLen] == '-' {
		n = shortLen
	}
	if len(v) < n+1+shortLen || v[n] != '-' || !b3Trace(&p, v[:n]) || !unhex(p.Span[:], v[n+1:n+1+shortLen]) || p.Span == [8]byte{} {
		return Parent{}, false
	}
	rest := v[n+1+shortLen:]
	if len(rest) == 0 {
		return p, true
	}
	if len(rest) < 2 || rest[0] != '-' {
		return Parent{}, false
	}
	if p.Decision, ok = b3Decision(rest[1:2]); !ok {
		return Parent{}, false
	}
	if rest = rest[2:]; len(rest) == 0 {
		return p, true
	}
	var grandparent [8]byte
	if len(rest) != 1+shortLen || rest[0] != '-' || !unhex(grandparent[:], rest[1:]) {
		return Parent{}, false
	}
	return p, true
}

// B3Fields are the values of the several fields of B3; nil for an absent one.
type B3Fields struct{ Trace, Span, Sampled, Flags []byte }

// Parse reads them.
func (f *B3Fields) Parse() (p Parent, ok bool) {
	p.Form = B3Multi
	switch {
	case f.Flags != nil && string(f.Flags) == "1":
		p.Decision = Sampled // debug
	case f.Flags != nil && string(f.Flags) != "0":
		return Parent{}, false
	}
	switch string(f.Sampled) {
	case "":
	case "1", "true":
		p.Decision = Sampled
	case "0", "false":
		if p.Decision == Undecided {
			p.Decision = Dropped
		}
	default:
		return Parent{}, false
	}
	if f.Trace == nil && f.Span == nil {
		return p, p.Decision != Undecided
	}
	if !b3Trace(&p, f.Trace) || !unhex(p.Span[:], f.Span) || p.Span == [8]byte{} {
		return Parent{}, false
	}
	return p, true
}

// b3Trace reads a trace's id, which may be one of 64 bits.
func b3Trace(p *Parent, v []byte) bool {
	switch len(v) {
	case idLen:
		return unhex(p.Trace[:], v) && p.Begun()
	case shortLen:
		return unhex(p.Trace[8:], v) && p.Begun()
	}
	return false
}

func b3Decision(v []byte) (Decision, bool) {
	switch v[0] {
	case '1', 'd':
		return Sampled, true
	case '0':
		return Dropped, true
	}
	return Undecided, false
}

// unhex reads lower-case hexadecimal digits, two for each byte of dst.
func unhex(dst, digits []byte) bool {
	if len(digits) != 2*len(dst) {
		return false
	}
	for i := range dst {
		hi, lo := nibble[digits[2*i]], nibble[digits[2*i+1]]
		if hi|lo > 15 {
			return false
		}
		dst[i] = hi<<4 | lo
	}
	return true
}

// nibble is the value of each digit, and 0xff of what is none.
var nibble = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for i := range byte(10) {
		t['0'+i] = i
	}
	for i := range byte(6) {
		t['a'+i] = 10 + i
	}
	return t
}()

// ID reads a trace's id as 32 digits.
func ID(digits []byte) (id [16]byte, ok bool) {
	ok = unhex(id[:], digits) && id != [16]byte{}
	return id, ok
}

// AppendHex appends bytes as hexadecimal digits.
func AppendHex(dst, b []byte) []byte {
	const digits = "0123456789abcdef"
	for _, c := range b {
		dst = append(dst, digits[c>>4], digits[c&15])
	}
	return dst
}

// PutHex writes bytes as hexadecimal digits to the start of dst.
func PutHex(dst, b []byte) { AppendHex(dst[:0:2*len(b)], b) }

// AppendTraceparent appends the value of a traceparent field, and says where in
// it the span's id begins, which is another for each attempt.
func AppendTraceparent(dst []byte, id [16]byte, span [8]byte, sampled bool) (_ []byte, at int) {
	dst = append(dst, "00-"...)
	dst = AppendHex(dst, id[:])
	dst = append(dst, '-')
	at = len(dst)
	dst = AppendHex(dst, span[:])
	return append(dst, '-', '0', bit(sampled)), at
}

// AppendB3 appends the value of a b3 field, and says where the span's id begins.
func AppendB3(dst []byte, id [16]byte, span [8]byte, sampled bool) (_ []byte, at int) {
	dst = AppendB3Trace(dst, id)
	dst = append(dst, '-')
	at = len(dst)
	dst = AppendHex(dst, span[:])
	return append(dst, '-', bit(sampled)), at
}

// AppendB3Trace appends a trace's id as B3 has it: one that came with 64 bits
// goes on with 64, for services that know no other.
func AppendB3Trace(dst []byte, id [16]byte) []byte {
	if [8]byte(id[:8]) == [8]byte{} {
		return AppendHex(dst, id[8:])
	}
	return AppendHex(dst, id[:])
}

func bit(b bool) byte {
	if b {
		return '1'
	}
	return '0'
}
