package h1

// What follows is for the HTTP/2 codec, so that a request is held to the same
// rules however it came.

// SetTarget reads a target in origin form, or "*" for OPTIONS, for the method
// that r has, which may be CONNECT (RFC 8441). It sets Target, Path, Query and
// HasQuery.
func (r *Request) SetTarget(target []byte) *Error {
	r.Target = target
	switch {
	case len(target) > 0 && target[0] == '/':
		return r.splitPath(target)
	case string(target) == "*" && string(r.Method) == "OPTIONS":
		r.Path = target
		return nil
	}
	return bad("the path of the request does not begin with a slash")
}

// ValidHost says whether b is a host name or address, with or without a port.
func ValidHost(b []byte) bool { return validHost(b) }

// ParseLength reads the value of a Content-Length.
func ParseLength(b []byte) (n int64, ok bool) { return parseLength(b) }

// TrailerAllowed says whether a field may come after the body: not if it frames,
// routes, authenticates or controls the message, or says what its content is.
func TrailerAllowed(f *Field) bool { return trailerAllowed(f) }
