// Package sniff tells from the first bytes of a connection what it is, without
// consuming them: whether a TLS handshake begins, and what the client asks for
// in it. It is pure: bytes in, a verdict out.
//
// A ClientHello is read as far as routing needs it. What a TLS server would
// refuse for other reasons (a cipher suite, a key share) is the server's
// business; what it would read differently is refused here, so that nobody is
// sent to a service for a name that the service does not see.
package sniff

import "encoding/binary"

// Verdict is what ClientHello found.
type Verdict uint8

// The verdicts.
const (
	More   Verdict = iota + 1 // a ClientHello so far; more bytes are needed
	NotTLS                    // not a ClientHello, or a malformed or an oversized one
	Found                     // a whole ClientHello
)

func (v Verdict) String() string {
	switch v {
	case More:
		return "more"
	case NotTLS:
		return "not TLS"
	case Found:
		return "found"
	}
	return "unset"
}

// Hello is what a client says when it opens a TLS connection. Its slices point
// into the bytes it was read from or, if the hello came in several records,
// into memory of its own.
type Hello struct {
	ServerName []byte   // as sent; empty if the client names no server
	ALPN       [][]byte // protocols that it offers, in its order
	Versions   []uint16 // versions that it offers; without GREASE values
}

// Bounds of a hello. The largest that browsers send, with post-quantum key
// shares, have some 2 KiB; a resumption with a large ticket has more.
const (
	// MaxHello is the longest ClientHello that is read.
	MaxHello = 16 << 10
	// MaxBytes is how many bytes of a connection may be needed to find it:
	// records have heads.
	MaxBytes = MaxHello + maxRecords*recordHead

	maxRecords = 64 // that a hello is divided into
	maxALPN    = 64 // protocols that are kept
	maxRecord  = 16 << 10
	recordHead = 5
	helloHead  = 4
)

// ClientHello looks whether p begins with a ClientHello. h is filled if it does,
// and empty else.
func ClientHello(p []byte, h *Hello) Verdict {
	*h = Hello{}
	body, verdict := message(p)
	if verdict != Found {
		return verdict
	}
	if !h.parse(body) {
		*h = Hello{}
		return NotTLS
	}
	return Found
}

// message gives the body of the handshake message that the records in p begin
// with.
func message(p []byte) ([]byte, Verdict) {
	var gathered []byte // if there is more than one record
	size := -1          // of the message with its head
	for n := 0; ; n++ {
		if len(p) < recordHead {
			return nil, partial(p, n)
		}
		length := int(binary.BigEndian.Uint16(p[3:]))
		if !recordBegins(p) || length == 0 || length > maxRecord || n >= maxRecords {
			return nil, NotTLS
		}
		whole := len(p) >= recordHead+length
		data := p[recordHead:min(len(p), recordHead+length)]
		if n > 0 || (whole && length < helloHead) {
			gathered = append(gathered, data...)
			data = gathered
		}
		if size < 0 && len(data) > 0 && data[0] != typeClientHello {
			return nil, NotTLS
		}
		if size < 0 && len(data) >= helloHead {
			size = helloHead + int(data[1])<<16 + int(data[2])<<8 + int(data[3])
			if size > MaxHello {
				return nil, NotTLS
			}
		}
		switch {
		case size >= 0 && len(data) > size:
			return nil, NotTLS // nothing may follow a hello before it is answered
		case size >= 0 && len(data) == size && whole:
			return data[helloHead:], Found
		case !whole:
			return nil, More
		}
		if n == 0 && gathered == nil {
			gathered = append(make([]byte, 0, max(size, 512)), data...)
		}
		p = p[recordHead+length:]
	}
}

const (
	typeHandshake   = 22
	typeClientHello = 1
)

// recordBegins says whether p, a record's head, is of a handshake in some
// version of TLS.
func recordBegins(p []byte) bool { return p[0] == typeHandshake && p[1] == 3 }

// partial judges the beginning of a record's head.
func partial(p []byte, n int) Verdict {
	switch {
	case n >= maxRecords, len(p) > 0 && p[0] != typeHandshake, len(p) > 1 && p[1] != 3:
		return NotTLS
	}
	return More
}

// The extensions that are read.
const (
	extServerName = 0
	extALPN       = 16
	extVersions   = 43
)

// parse reads the body of a ClientHello; it says whether it is well formed.
func (h *Hello) parse(body []byte) bool {
	r := reader{body}
	version, ok := r.uint16()
	if !ok || version < 0x0300 {
		return false
	}
	if _, ok = r.take(32); !ok { // random
		return false
	}
	if id, ok := r.vector8(); !ok || len(id) > 32 {
		return false
	}
	if suites, ok := r.vector16(); !ok || len(suites) == 0 || len(suites)%2 != 0 {
		return false
	}
	if methods, ok := r.vector8(); !ok || len(methods) == 0 {
		return false
	}
	if len(r.rest) == 0 { // before TLS 1.2 there need not be extensions
		h.older(version)
		return true
	}
	all, ok := r.vector16()
	if !ok || len(r.rest) > 0 {
		return false
	}
	if !h.extensions(all) {
		return false
	}
	if h.Versions == nil {
		h.older(version)
	}
	return true
}

// older notes the versions of a client that names the highest one alone.
func (h *Hello) older(version uint16) {
	for v := min(version, 0x0303); v >= 0x0300; v-- {
		h.Versions = append(h.Versions, v)
	}
}

func (h *Hello) extensions(p []byte) bool {
	var seen [4]uint64 // of the first 256 types, which are all that is assigned low
	r := reader{p}
	for len(r.rest) > 0 {
		kind, ok := r.uint16()
		if !ok {
			return false
		}
		data, ok := r.vector16()
		if !ok {
			return false
		}
		if kind < 256 {
			// Twice is an error (RFC 8446, 4.2): the service might look at the other.
			if seen[kind/64]&(1<<(kind%64)) != 0 {
				return false
			}
			seen[kind/64] |= 1 << (kind % 64)
		}
		switch kind {
		case extServerName:
			ok = h.serverName(data)
		case extALPN:
			ok = h.protocols(data)
		case extVersions:
			ok = h.versions(data)
		}
		if !ok {
			return false
		}
	}
	return true
}

// serverName reads the extension of RFC 6066, section 3. Only one kind of name
// was ever defined, and one name of a kind is allowed.
func (h *Hello) serverName(data []byte) bool {
	r := reader{data}
	list, ok := r.vector16()
	if !ok || len(r.rest) > 0 || len(list) == 0 {
		return false
	}
	r = reader{list}
	for len(r.rest) > 0 {
		kind, ok := r.take(1)
		if !ok {
			return false
		}
		name, ok := r.vector16()
		if !ok || len(name) == 0 {
			return false
		}
		if kind[0] != 0 {
			continue
		}
		if h.ServerName != nil || !validName(name) {
			return false
		}
		h.ServerName = name
	}
	return true
}

// validName takes what can be part of a hostname, and refuses what could be
// read as something else along the way: an address with a port, a dot at the
// end.
func validName(name []byte) bool {
	if len(name) > 255 || name[len(name)-1] == '.' || name[0] == '.' {
		return false
	}
	for _, c := range name {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
		default:
			return false
		}
	}
	return true
}

// protocols reads the extension of RFC 7301.
func (h *Hello) protocols(data []byte) bool {
	r := reader{data}
	list, ok := r.vector16()
	if !ok || len(r.rest) > 0 || len(list) == 0 {
		return false
	}
	r = reader{list}
	for len(r.rest) > 0 {
		name, ok := r.vector8()
		if !ok || len(name) == 0 {
			return false
		}
		if len(h.ALPN) < maxALPN && !isGrease(name) {
			h.ALPN = append(h.ALPN, name)
		}
	}
	return true
}

// versions reads the extension of RFC 8446, section 4.2.1.
func (h *Hello) versions(data []byte) bool {
	r := reader{data}
	list, ok := r.vector8()
	if !ok || len(r.rest) > 0 || len(list) == 0 || len(list)%2 != 0 {
		return false
	}
	h.Versions = make([]uint16, 0, len(list)/2)
	for i := 0; i < len(list); i += 2 {
		if !isGrease(list[i : i+2]) {
			h.Versions = append(h.Versions, binary.BigEndian.Uint16(list[i:]))
		}
	}
	return true
}

// isGrease says whether a value was made up to keep servers tolerant
// (RFC 8701).
func isGrease(v []byte) bool { return len(v) == 2 && v[0] == v[1] && v[0]&0x0f == 0x0a }

// reader takes a message apart.
type reader struct{ rest []byte }

func (r *reader) take(n int) ([]byte, bool) {
	if len(r.rest) < n {
		return nil, false
	}
	p := r.rest[:n]
	r.rest = r.rest[n:]
	return p, true
}

func (r *reader) uint16() (uint16, bool) {
	p, ok := r.take(2)
	if !ok {
		return 0, false
	}
	return binary.BigEndian.Uint16(p), true
}

// vector8 is a vector whose length has one byte.
func (r *reader) vector8() ([]byte, bool) {
	p, ok := r.take(1)
	if !ok {
		return nil, false
	}
	return r.take(int(p[0]))
}

// vector16 is a vector whose length has two bytes.
func (r *reader) vector16() ([]byte, bool) {
	n, ok := r.uint16()
	if !ok {
		return nil, false
	}
	return r.take(int(n))
}
