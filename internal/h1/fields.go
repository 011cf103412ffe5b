package h1

import "slices"

// parseFields appends the field lines at the start of b to fields. It returns
// the number of bytes they take with the empty line after them, or 0 if b does
// not hold that line.
func parseFields(fields []Field, b []byte, limit int) (_ []Field, n int, err *Error) {
	for i := 0; i < len(b); {
		start := i
		for i < len(b) && class[b[i]]&isToken != 0 {
			i++
		}
		if i == start && i+1 < len(b) && b[i] == '\r' && b[i+1] == '\n' {
			return fields, i + 2, nil
		}
		if i == start || i == len(b) || b[i] != ':' {
			return fields, 0, badName(b[start:], i-start)
		}
		name := b[start:i:i]
		i++
		for i < len(b) && isSpace(b[i]) {
			i++
		}
		start = i
		i = textEnd(b, i)
		if i+1 >= len(b) || b[i] != '\r' || b[i+1] != '\n' {
			return fields, 0, badValue(b[i:])
		}
		end := i
		for end > start && isSpace(b[end-1]) {
			end--
		}
		i += 2
		if len(fields) >= limit {
			return fields, 0, &Error{Status: 431, Reason: "the message has more header fields than are allowed"}
		}
		if len(fields) == cap(fields) {
			fields = slices.Grow(fields, 16)
		}
		fields = fields[:len(fields)+1]
		f := &fields[len(fields)-1]
		f.Name, f.Value, f.Known = name, b[start:end:end], Classify(name)
	}
	return fields, 0, nil
}

// badName says why a line is refused that does not begin with a name and a
// colon; n bytes of it are a token. It is nil if the reason may be that the line
// has not arrived.
func badName(line []byte, n int) *Error {
	if n == len(line) {
		return nil
	}
	switch c := line[n]; {
	case c == '\r' && n+1 == len(line):
		return nil
	case c == '\r' && line[n+1] == '\n':
		return bad("a header field line has no colon")
	case c == '\r' || c == '\n':
		return badValue(line[n:])
	case n == 0 && isSpace(c):
		return bad("a header field is folded over several lines, or a line begins with white space")
	case n == 0 && c == ':':
		return bad("a header field has an empty name")
	case isSpace(c):
		return bad("there is white space between a header field name and its colon")
	}
	return bad("a header field name has a character that is not allowed")
}

// badValue says why the byte that ends a value is refused; nil as for badName.
func badValue(rest []byte) *Error {
	switch {
	case len(rest) == 0, len(rest) == 1 && rest[0] == '\r':
		return nil
	case rest[0] == '\n':
		return bad(bareLF)
	case rest[0] == '\r':
		return bad(bareCR)
	}
	return bad("a header field value has a control character")
}

// Lookup returns the value of the first field with the name, which must be in
// lower case.
func Lookup(fields []Field, lowerName string) (value []byte, ok bool) {
	for i := range fields {
		if EqualFold(fields[i].Name, lowerName) {
			return fields[i].Value, true
		}
	}
	return nil, false
}

// ValidName says whether name can be the name of a field.
func ValidName(name []byte) bool { return all(name, isToken) }

// ValidValue says whether value can be the value of a field: no control
// character but HTAB.
func ValidValue(value []byte) bool { return textEnd(value, 0) == len(value) }

// Classify finds the Known of a field name, in any case; 0 if there is none.
func Classify(name []byte) Known {
	is := func(lower string, k Known) Known {
		if EqualFold(name, lower) {
			return k
		}
		return 0
	}
	if len(name) < 2 {
		return 0
	}
	first := name[0] | 0x20
	switch len(name) {
	case 2:
		return is("te", TE)
	case 4:
		if first == 'h' {
			return is("host", Host)
		}
		return is("date", Date)
	case 6:
		if first == 's' {
			return is("server", Server)
		}
		return is("expect", Expect)
	case 7:
		if first == 'u' {
			return is("upgrade", Upgrade)
		}
		return is("trailer", Trailer)
	case 9:
		return is("forwarded", Forwarded)
	case 10:
		switch first {
		case 'c':
			return is("connection", Connection)
		case 'u':
			return is("user-agent", UserAgent)
		}
		return is("keep-alive", KeepAlive)
	case 12:
		return is("x-request-id", RequestID)
	case 14:
		if first == 'c' {
			return is("content-length", ContentLength)
		}
		return is("http2-settings", HTTP2Settings)
	case 15:
		return is("x-forwarded-for", ForwardedFor)
	case 16:
		if first == 'p' {
			return is("proxy-connection", ProxyConnection)
		}
		if k := is("x-forwarded-host", ForwardedHost); k != 0 {
			return k
		}
		return is("x-windrose-fault", FaultFlag)
	case 17:
		if first == 't' {
			return is("transfer-encoding", TransferEncoding)
		}
		return is("x-forwarded-proto", ForwardedProto)
	case 18:
		return is("proxy-authenticate", ProxyAuthenticate)
	case 19:
		return is("proxy-authorization", ProxyAuthorization)
	case 23:
		return is("x-forwarded-client-cert", ForwardedClientCert)
	}
	return 0
}

// HopByHop says whether fields of this kind are for one connection only, so
// that an intermediary never forwards them, whether Connection names them or
// not (RFC 9110 7.6.1). Trailer is not one: it belongs to the message.
func (k Known) HopByHop() bool {
	switch k {
	case TransferEncoding, Connection, KeepAlive, ProxyConnection, TE, Upgrade,
		HTTP2Settings, ProxyAuthenticate, ProxyAuthorization:
		return true
	}
	return false
}
