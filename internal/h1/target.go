package h1

import "bytes"

var (
	slash    = []byte("/")
	asterisk = []byte("*")
)

// parseTarget splits the request target by its form (RFC 9112 3.2).
func (r *Request) parseTarget() *Error {
	t := r.Target
	switch {
	case len(t) == 0, t[0] == ' ':
		return bad("the request line has no target, or more than one space before it")
	case string(r.Method) == "CONNECT":
		return r.authorityForm(t)
	case t[0] == '/':
		return r.splitPath(t)
	case string(t) == "*":
		if string(r.Method) != "OPTIONS" {
			return bad("the request target * is for OPTIONS only")
		}
		r.Path = t
		return nil
	}
	return r.absoluteForm(t)
}

// splitPath reads path and query.
//
// Raw bytes above 0x7e are refused, as a URI has none (RFC 3986 2): what they
// mean is left to each server, so a rule and the service behind it could see
// different paths. So is an escape in the path that is not one. The query is
// not interpreted, so a stray percent sign in it is forwarded as it is.
// Characters such as | and { are no URI either, but everybody reads them alike
// and many clients send them.
func (r *Request) splitPath(t []byte) *Error {
	i := 0
	for ; i < len(t) && t[i] != '?'; i++ {
		if class[t[i]]&isPath != 0 {
			continue
		}
		if t[i] != '%' {
			return badTarget(t[i])
		}
		if i+2 >= len(t) || !all(t[i+1:i+3], isHex) {
			return bad("the path of the request target has an invalid percent escape")
		}
	}
	r.Path = t[:i:i]
	if i == len(t) {
		return nil
	}
	r.Query, r.HasQuery = t[i+1:], true
	for _, c := range r.Query {
		if class[c]&isTarget == 0 {
			return badTarget(c)
		}
	}
	return nil
}

func badTarget(c byte) *Error {
	switch {
	case c == ' ':
		return bad("the request line has more than two spaces")
	case c == '#':
		return bad("the request target has a fragment")
	case c >= 0x80:
		return bad("the request target has a raw byte that is not ASCII")
	}
	return bad("the request target has a control character")
}

// authorityForm reads the target of CONNECT, which must have a port.
func (r *Request) authorityForm(t []byte) *Error {
	if !validHost(t) || t[len(t)-1] == ']' || bytes.IndexByte(t, ':') < 0 {
		return bad("the target of CONNECT is not a host name and port")
	}
	r.Host = t
	return nil
}

// absoluteForm reads a target with scheme and authority. The scheme is not
// kept: what the connection is decides.
func (r *Request) absoluteForm(t []byte) *Error {
	var rest []byte
	switch {
	case hasPrefixFold(t, "http://"):
		rest = t[len("http://"):]
	case hasPrefixFold(t, "https://"):
		rest = t[len("https://"):]
	default:
		return bad("the request target is neither a path nor an http or https URI")
	}
	end := bytes.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	if !validHost(rest[:end]) {
		return bad("the request target does not have a valid host name and port")
	}
	r.Host = rest[:end:end]
	rest = rest[end:]
	switch {
	case len(rest) == 0 && string(r.Method) == "OPTIONS":
		// RFC 9112 3.2.4: it is about the server.
		r.Path = asterisk
		return nil
	case len(rest) == 0:
		r.Path = slash
		return nil
	}
	err := r.splitPath(rest)
	if len(r.Path) == 0 {
		r.Path = slash
	}
	return err
}

// validHost accepts uri-host [ ":" port ] (RFC 3986 3.2.2): a name of letters,
// digits, "-", "." and "_", an IPv4 address or an IPv6 address in brackets. The
// escapes and punctuation that the grammar also allows are in no name that
// resolves, and are read differently by different programs. A colon needs a
// port after it.
func validHost(b []byte) bool {
	if len(b) == 0 || len(b) > 255+len(":65535") {
		return false
	}
	if b[0] == '[' {
		end := bytes.IndexByte(b, ']')
		return end > 0 && validIPv6(b[1:end]) && validPort(b[end+1:])
	}
	i := 0
	for i < len(b) && class[b[i]]&isHost != 0 {
		i++
	}
	return i > 0 && validPort(b[i:])
}

// validPort accepts nothing, or a colon and a number below 65536.
func validPort(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	if b[0] != ':' || len(b) == 1 || len(b) > len(":65535") {
		return false
	}
	n := 0
	for _, c := range b[1:] {
		if c < '0' || c > '9' {
			return false
		}
		n = n*10 + int(c-'0')
	}
	return n < 1<<16
}

// validIPv6 accepts an IPv6 address without zone (RFC 4291 2.2).
func validIPv6(b []byte) bool {
	groups, compressed := 0, false
	if len(b) >= 2 && b[0] == ':' && b[1] == ':' {
		compressed, b = true, b[2:]
	}
	for len(b) > 0 {
		n := 0
		for n < len(b) && class[b[n]]&isHex != 0 {
			n++
		}
		if n < len(b) && b[n] == '.' {
			if !validIPv4(b) {
				return false
			}
			groups += 2
			break
		}
		if n == 0 || n > 4 {
			return false
		}
		groups, b = groups+1, b[n:]
		switch {
		case len(b) == 0:
		case len(b) >= 2 && b[0] == ':' && b[1] == ':' && !compressed:
			compressed, b = true, b[2:]
		case len(b) >= 2 && b[0] == ':' && b[1] != ':':
			b = b[1:]
		default:
			return false
		}
	}
	if compressed {
		return groups < 8
	}
	return groups == 8
}

// validIPv4 accepts four decimal numbers below 256 without leading zeros.
func validIPv4(b []byte) bool {
	for part := 0; ; part++ {
		n, v := 0, 0
		for n < len(b) && n < 4 && '0' <= b[n] && b[n] <= '9' {
			v = v*10 + int(b[n]-'0')
			n++
		}
		if n == 0 || v > 255 || n > 1 && b[0] == '0' {
			return false
		}
		b = b[n:]
		if part == 3 {
			return len(b) == 0
		}
		if len(b) == 0 || b[0] != '.' {
			return false
		}
		b = b[1:]
	}
}
