package h1

// framing is what the fields of a head say about the message and its
// connection, the same for requests and responses.
type framing struct {
	length    int64
	hasLength bool
	codings   int // transfer codings, over all fields
	chunked   int // of which chunked
	lastIs    bool

	close, keep, upgrade bool // options of Connection
	upgrades             int  // Upgrade fields
	protocol             []byte

	named    int // options that can name fields
	hopByHop uint64
	late     bool // a field past the 64th is named
}

// maxOptions bounds the fields that Connection may name, because each costs a
// walk over all fields.
const maxOptions = 32

// read collects the framing of a head. Connection options are looked up in all
// the fields, also those before.
func (g *framing) read(fields []Field) *Error {
	for i := range fields {
		f := &fields[i]
		switch f.Known {
		case ContentLength:
			if g.hasLength {
				return bad("there is more than one Content-Length")
			}
			n, ok := parseLength(f.Value)
			if !ok {
				return bad("the Content-Length is not a number that fits")
			}
			g.length, g.hasLength = n, true
		case TransferEncoding:
			if err := g.readCodings(f.Value); err != nil {
				return err
			}
		case Connection:
			if err := g.readOptions(f.Value, fields); err != nil {
				return err
			}
		case Upgrade:
			g.upgrades++
			g.protocol = f.Value
		}
	}
	if g.hasLength && g.codings > 0 {
		return bad("there are both a Content-Length and a Transfer-Encoding")
	}
	return nil
}

// parseLength reads 1*DIGIT that fits an int64; no sign, space or list.
func parseLength(b []byte) (n int64, ok bool) {
	if len(b) == 0 || len(b) > 19 {
		return 0, false
	}
	var u uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		u = u*10 + uint64(c-'0')
	}
	return int64(u), u <= 1<<63-1
}

// readCodings counts the transfer codings of one field.
func (g *framing) readCodings(list []byte) *Error {
	for done := false; !done; {
		var e []byte
		e, list, done = element(list)
		name := e
		for i, c := range e {
			if c == ';' || isSpace(c) {
				name = e[:i]
				break
			}
		}
		if !all(name, isToken) {
			return bad("the Transfer-Encoding is malformed")
		}
		g.codings++
		g.lastIs = EqualFold(e, "chunked")
		if EqualFold(name, "chunked") {
			g.chunked++
		}
	}
	return nil
}

// checkCodings accepts chunked alone. Another coding before it is a message
// that could be delimited but not understood.
func (g *framing) checkCodings() *Error {
	switch {
	case g.codings == 0 || g.codings == 1 && g.lastIs:
		return nil
	case g.lastIs && g.chunked == 1:
		return &Error{Status: 501, Reason: "the Transfer-Encoding has a coding other than chunked"}
	}
	return bad("the Transfer-Encoding does not end in exactly one chunked")
}

// element cuts the first element from a list, without the white space around
// it; done says that it was the last one.
func element(list []byte) (e, rest []byte, done bool) {
	for i, c := range list {
		if c == ',' {
			return trim(list[:i]), list[i+1:], false
		}
	}
	return trim(list), nil, true
}

// readOptions reads one Connection field.
func (g *framing) readOptions(list []byte, fields []Field) *Error {
	if EqualFold(list, "keep-alive") { // by far the most frequent
		g.keep = true
		g.mark(nil, KeepAlive, fields)
		return nil
	}
	for done := false; !done; {
		var o []byte
		o, list, done = element(list)
		if len(o) == 0 {
			continue
		}
		if !all(o, isToken) {
			// It may have been meant as close, so no message follows this one.
			g.close = true
			continue
		}
		if EqualFold(o, "close") {
			g.close = true
			continue
		}
		if g.named++; g.named > maxOptions {
			return bad("the Connection field names too many fields")
		}
		k := Classify(o)
		g.keep = g.keep || k == KeepAlive
		g.upgrade = g.upgrade || k == Upgrade
		if !endToEnd(o, k) {
			g.mark(o, k, fields)
		}
	}
	return nil
}

// mark sets the bit of each field that has the name.
func (g *framing) mark(name []byte, k Known, fields []Field) {
	for i := range fields {
		if fields[i].Known != k || k == 0 && !sameName(fields[i].Name, name) {
			continue
		}
		if i >= 64 {
			g.late = true
			return
		}
		g.hopByHop |= 1 << i
	}
}

// endToEnd says whether Connection has no power over a field, although it may
// name it. A sender must not name such a field (RFC 9110 7.6.1), and honouring
// it would let a client remove what a proxy in front of windrose wrote, or what
// frames, routes or authenticates the message.
func endToEnd(name []byte, k Known) bool {
	switch k {
	case 0:
		for _, n := range endToEndNames {
			if EqualFold(name, n) {
				return true
			}
		}
		return hasPrefixFold(name, "x-forwarded-") || hasPrefixFold(name, "content-") ||
			hasPrefixFold(name, "x-windrose-")
	case KeepAlive, ProxyConnection, TE, Trailer, Upgrade, HTTP2Settings,
		ProxyAuthenticate, ProxyAuthorization, UserAgent:
		return false
	}
	return true
}

var endToEndNames = [...]string{
	"authorization", "cache-control", "cookie", "origin", "set-cookie",
	"location", "traceparent", "tracestate", "via", "x-real-ip",
}

// dropNamed removes the fields past the 64th that Connection names: their bits
// do not fit HopByHop, and they must not be forwarded.
func (g *framing) dropNamed(fields []Field) []Field {
	var names [maxOptions][]byte
	n := 0
	for i := range fields {
		if fields[i].Known != Connection {
			continue
		}
		list := fields[i].Value
		for done := false; !done; {
			var o []byte
			o, list, done = element(list)
			if all(o, isToken) && !endToEnd(o, Classify(o)) && n < len(names) {
				names[n] = o
				n++
			}
		}
	}
	kept := fields[:64]
	for _, f := range fields[64:] {
		drop := false
		for _, o := range names[:n] {
			drop = drop || sameName(o, f.Name)
		}
		if !drop {
			kept = append(kept, f)
		}
	}
	return kept
}

// upgradeTo returns the protocol that the head offers or accepts, or nil. h2c
// is never one: RFC 9113 withdrew it, and a tunnel of HTTP/2 requests that no
// rule has seen is how it was abused. A list of protocols is not one either.
func (g *framing) upgradeTo(minor uint8) []byte {
	if minor == 0 || !g.upgrade || g.upgrades != 1 || EqualFold(g.protocol, "h2c") {
		return nil
	}
	name := g.protocol
	for i, c := range name {
		if c == '/' {
			if !all(name[i+1:], isToken) { // the version
				return nil
			}
			name = name[:i]
			break
		}
	}
	if !all(name, isToken) {
		return nil
	}
	return g.protocol
}

// persistent says whether the connection stays for another message.
func (g *framing) persistent(minor uint8) bool {
	return !g.close && (minor == 1 || g.keep)
}
