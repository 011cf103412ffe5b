package h1

import "bytes"

// Parse reads a response head like Request.Parse. method is the request's: a
// response to HEAD or to a successful CONNECT has no body. Interim responses
// (1xx) are heads without a body, 101 has Upgrade set. An *Error has status
// 502.
func (r *Response) Parse(buf []byte, from int, method []byte, lim Limits) (n int, err *Error) {
	lim = lim.withDefaults()
	if from <= 0 || headEnd(buf, 0, from) > 0 {
		*r = Response{Fields: r.Fields[:0]}
		n, err = r.parse(buf[:min(len(buf), lim.HeadBytes)], method, lim)
		if n > 0 && err == nil {
			return n, nil
		}
	}
	return 0, gateway(r.refuse(buf, from, lim, err))
}

// gateway makes an error that of a response.
func gateway(err *Error) *Error {
	if err == nil {
		return nil
	}
	return &Error{Status: 502, Reason: err.Reason}
}

// refuse is like that of Request.
func (r *Response) refuse(buf []byte, from int, lim Limits, err *Error) *Error {
	*r = Response{Fields: r.Fields[:0]}
	end := headEnd(buf, 0, from)
	complete := end > 0 && end <= lim.HeadBytes
	seen := buf[:min(len(buf), lim.HeadBytes)]
	if complete {
		seen, from = buf[:end], 0
	}
	end = bytes.IndexByte(seen, '\n')
	if end < 0 {
		if !bytes.HasPrefix(seen, versionPrefix[:min(len(seen), len(versionPrefix))]) {
			return bad(notHTTP1)
		}
	} else if end >= from {
		if early := r.parseLine(seen[:end]); early != nil {
			return early
		}
	}
	if early := checkLF(seen, from); early != nil {
		return early
	}
	switch {
	case complete:
		return err
	case len(buf) >= lim.HeadBytes:
		return bad("the response head is larger than is allowed")
	}
	return nil
}

const notHTTP1 = "the response does not begin with HTTP/1"

var versionPrefix = []byte("HTTP/1.")

// parse reads a head, and gives 0 if b does not hold all of it.
func (r *Response) parse(b, method []byte, lim Limits) (n int, err *Error) {
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		return 0, nil
	}
	if err = r.parseLine(b[:end]); err != nil {
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
	r.KeepAlive = g.persistent(r.Minor)
	if err = r.frame(&g, method); err != nil {
		return 0, err
	}
	r.HopByHop = g.hopByHop
	if g.late {
		r.Fields = g.dropNamed(r.Fields)
	}
	return end + 1 + n, nil
}

// parseLine reads a status line, given without its LF. The reason phrase may be
// empty, and so may be the space before it, which many servers leave out.
func (r *Response) parseLine(line []byte) *Error {
	if !bytes.HasPrefix(line, versionPrefix) {
		return bad(notHTTP1)
	}
	if line[len(line)-1] != '\r' {
		return bad(bareLF)
	}
	line = line[:len(line)-1]
	// HTTP/1.1 200
	if len(line) < 12 || line[7] != '0' && line[7] != '1' || line[8] != ' ' ||
		len(line) > 12 && line[12] != ' ' {
		return bad("the status line is malformed")
	}
	r.Minor = line[7] - '0'
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return bad("the status is not a number of three digits")
		}
		r.Status = r.Status*10 + int(c-'0')
	}
	if r.Status < 100 {
		return bad("the status is below 100")
	}
	if len(line) > 13 {
		r.Reason = line[13:]
		if textEnd(line, 13) != len(line) {
			return bad("the reason phrase has a control character")
		}
	}
	return nil
}

// frame decides how the body ends (RFC 9112 6.3).
func (r *Response) frame(g *framing, method []byte) *Error {
	if g.codings > 0 && r.Minor == 0 {
		// RFC 9112 6.1: its framing is faulty.
		return bad("there is a Transfer-Encoding in an HTTP/1.0 response")
	}
	if err := g.checkCodings(); err != nil {
		return err
	}
	switch {
	case r.Status == 101:
		if r.Upgrade = g.upgradeTo(r.Minor); r.Upgrade == nil {
			return bad("the response switches protocols without naming one")
		}
		return nil
	case r.Status < 200 || r.Status == 204:
		// A body that must not be there may follow, and would be taken for the
		// next response.
		if g.codings > 0 || g.length > 0 {
			r.KeepAlive = false
		}
		return nil
	case r.Status == 304 || string(method) == "HEAD",
		string(method) == "CONNECT" && r.Status < 300:
		return nil
	case g.codings > 0:
		r.Body = Chunked
	case g.hasLength:
		r.Body, r.Length = Length, g.length
	default:
		r.Body, r.KeepAlive = UntilClose, false
	}
	return nil
}
