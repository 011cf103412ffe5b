package h1

import "bytes"

// maxMethodBytes is more than any registered method needs. What a program that
// does not speak HTTP sends first is told from a method that is still arriving.
const maxMethodBytes = 64

// Parse reads a request head from the start of buf. It returns the number of
// bytes the head takes, or 0 if buf does not hold all of it yet; from tells how
// many bytes of buf an earlier call has already seen without finding the end,
// so that a head that arrives in small pieces costs linear time. An empty line
// before the request line is skipped (RFC 9112 2.2). r is reset first; its
// Fields slice is reused.
//
// A wrong request line, a bare LF and a head that is too long are refused as
// soon as they are seen, so that a client that does not speak HTTP has its
// answer at once. After an error r holds method and target, if they were
// understood.
func (r *Request) Parse(buf []byte, from int, lim Limits) (n int, err *Error) {
	lim = lim.withDefaults()
	start := 0
	if len(buf) >= 2 && buf[0] == '\r' && buf[1] == '\n' {
		start = 2
	}
	// Most heads arrive whole: the first look parses without a search for the end.
	if from <= start || headEnd(buf, start, from) > 0 {
		*r = Request{Fields: r.Fields[:0]}
		n, err = r.parse(buf[start:max(start, min(len(buf), lim.HeadBytes))], lim)
		if n > 0 && err == nil {
			return start + n, nil
		}
	}
	return 0, r.refuse(buf, start, from, lim, err)
}

// refuse says why a head is refused that has not ended, is too long or failed
// to parse with err; nil if it may still become a good one. A head is refused
// for the same reason however it arrives: first come the reasons that need only
// a part of it.
func (r *Request) refuse(buf []byte, start, from int, lim Limits, err *Error) *Error {
	*r = Request{Fields: r.Fields[:0]}
	end := headEnd(buf, start, from)
	complete := end > 0 && end <= lim.HeadBytes
	seen := buf[:min(len(buf), lim.HeadBytes)]
	if complete {
		seen, from = buf[:end], 0
	}
	line := seen[min(start, len(seen)):]
	if len(line) == 1 && line[0] == '\r' && start == 0 {
		return nil // half of the empty line that may come first
	}
	end = bytes.IndexByte(line, '\n')
	if end < 0 {
		if early := checkLine(line, lim); early != nil {
			return early
		}
	} else if start+end >= from {
		if early := r.parseLine(line[:end], lim); early != nil {
			return early
		}
	}
	early := checkLF(seen, from)
	switch {
	case early != nil:
		err = early
	case complete:
	case len(buf) < lim.HeadBytes:
		return nil
	case end < 0:
		return errTarget
	default:
		err = &Error{Status: 431, Reason: "the request head is larger than is allowed"}
	}
	if r.Method == nil {
		_ = r.parseLine(line[:end], lim) // for the record; err is why it is refused
	}
	return err
}

var errTarget = &Error{Status: 414, Reason: "the request target is longer than is allowed"}

// parse reads a head, and gives 0 if b does not hold all of it.
func (r *Request) parse(b []byte, lim Limits) (n int, err *Error) {
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		return 0, nil
	}
	if err = r.parseLine(b[:end], lim); err != nil {
		return 0, err
	}
	r.Fields, n, err = parseFields(r.Fields, b[end+1:], lim.Fields)
	if n == 0 || err != nil {
		return 0, err
	}
	var g framing
	if err = g.read(r.Fields); err != nil {
		return 0, err
	}
	if err = r.readFields(); err != nil {
		return 0, err
	}
	if err = r.frame(&g); err != nil {
		return 0, err
	}
	r.KeepAlive = g.persistent(r.Minor)
	r.HopByHop = g.hopByHop
	if g.late {
		r.Fields = g.dropNamed(r.Fields)
	}
	// An Upgrade with a body is served as the plain request it is too.
	if r.Body != Chunked && r.Length == 0 {
		r.Upgrade = g.upgradeTo(r.Minor)
	}
	return end + 1 + n, nil
}

// checkLine checks what can be checked of a request line before its end.
func checkLine(line []byte, lim Limits) *Error {
	n := 0
	for n < len(line) && n <= maxMethodBytes && class[line[n]]&isToken != 0 {
		n++
	}
	switch {
	case n > maxMethodBytes:
		return bad("the method is too long")
	case n == len(line):
		return nil
	case line[0] == 0x16:
		return bad("this port speaks plain HTTP, and the client began a TLS handshake")
	case n == 0 || line[n] != ' ':
		return bad("the request line does not begin with a method and a space")
	case len(line) > lim.TargetBytes+maxMethodBytes+len("  HTTP/1.1\r"):
		return errTarget
	}
	return nil
}

// parseLine reads a request line, given without its LF.
func (r *Request) parseLine(line []byte, lim Limits) *Error {
	if err := checkLine(line, lim); err != nil {
		return err
	}
	if len(line) == 0 || line[len(line)-1] != '\r' {
		return bad(bareLF)
	}
	line = line[:len(line)-1]
	first, last := bytes.IndexByte(line, ' '), bytes.LastIndexByte(line, ' ')
	if first < 0 || first == last {
		return bad("the request line has no HTTP version")
	}
	r.Method = line[:first:first]
	r.Target = line[first+1 : last : last]
	if len(r.Target) > lim.TargetBytes {
		return errTarget
	}
	if err := r.parseVersion(line[last+1:]); err != nil {
		return err
	}
	return r.parseTarget()
}

// parseVersion accepts HTTP/1.0 and HTTP/1.1. A later minor version would have
// to be served as 1.1 only if somebody spoke one; nobody does.
func (r *Request) parseVersion(v []byte) *Error {
	if len(v) != 8 || string(v[:5]) != "HTTP/" || v[6] != '.' ||
		v[5]-'0' > 9 || v[7]-'0' > 9 {
		return bad("the request line does not end in an HTTP version")
	}
	switch {
	case string(v[5:]) == "1.1":
		r.Minor = 1
		return nil
	case string(v[5:]) == "1.0":
		return nil
	case v[5] == '2' && string(r.Method) == "PRI":
		return &Error{Status: 505, Reason: "the client speaks HTTP/2 without having agreed on it; this port speaks HTTP/1.1"}
	}
	return &Error{Status: 505, Reason: "the HTTP version is not 1.0 or 1.1"}
}

// readFields reads the fields that only requests have.
func (r *Request) readFields() *Error {
	hosts := 0
	for i := range r.Fields {
		f := &r.Fields[i]
		switch f.Known {
		case Host:
			if hosts++; hosts > 1 {
				return bad("there is more than one Host")
			}
			if !validHost(f.Value) {
				return bad("the Host is not a valid host name and port")
			}
			if r.Host == nil {
				r.Host = f.Value
			}
		case Expect:
			if r.Minor == 0 {
				continue
			}
			if !EqualFold(f.Value, "100-continue") {
				return &Error{Status: 417, Reason: "the Expect field has an expectation other than 100-continue"}
			}
			r.Continue = true
		case TE:
			r.Trailers = r.Trailers || hasElement(f.Value, "trailers")
		}
	}
	if hosts == 0 && r.Minor == 1 {
		return bad("the Host is missing")
	}
	return nil
}

// frame decides how the body ends (RFC 9112 6.3).
func (r *Request) frame(g *framing) *Error {
	if g.codings > 0 && r.Minor == 0 {
		return bad("there is a Transfer-Encoding in an HTTP/1.0 request")
	}
	if err := g.checkCodings(); err != nil {
		return err
	}
	switch {
	case g.codings > 0:
		r.Body = Chunked
	case g.hasLength:
		r.Body, r.Length = Length, g.length
	}
	if string(r.Method) == "CONNECT" && (r.Body == Chunked || r.Length > 0) {
		return bad("a CONNECT request has a body")
	}
	// There is nothing to wait for without a body.
	r.Continue = r.Continue && (r.Body == Chunked || r.Length > 0)
	return nil
}

func hasElement(list []byte, lower string) bool {
	for done := false; !done; {
		var e []byte
		e, list, done = element(list)
		if EqualFold(e, lower) {
			return true
		}
	}
	return false
}
