package h2

import (
	"windrose.dev/windrose/internal/h1"
)

// pseudo is a field that begins with a colon.
type pseudo uint8

const (
	method pseudo = iota
	scheme
	authority
	path
	protocol
	status
	pseudos
)

// pseudoOf gives pseudos for a name that is none.
func pseudoOf(name []byte) pseudo {
	switch string(name) {
	case ":method":
		return method
	case ":scheme":
		return scheme
	case ":authority":
		return authority
	case ":path":
		return path
	case ":protocol":
		return protocol
	case ":status":
		return status
	}
	return pseudos
}

// head is a field block that is decoded: of a request, a response, or trailers.
type head struct {
	maxBytes, maxFields int

	arena  []byte // the bytes of fields
	fields []h1.Field
	pseudo [pseudos][]byte
	has    [pseudos]bool
	size   int // by the rules of RFC 9113 10.5.1
	count  int
	tooBig bool
	bad    string // why it is malformed

	length    int64 // of the content
	hasLength bool
	host      []byte
	hasHost   bool
	cookies   int
	trailers  bool // te: trailers
	expect    bool
	expects   bool // something that is not 100-continue
}

// reset makes h ready for the next block.
func (h *head) reset(cfg *Config) {
	arena, fields := h.arena[:0], h.fields[:0]
	if cap(arena) > 2*cfg.MaxHeadBytes {
		arena = nil
	}
	*h = head{maxBytes: cfg.MaxHeadBytes, maxFields: cfg.MaxFields, arena: arena, fields: fields}
}

// fits counts a field, and says whether it is wanted.
func (h *head) fits(n int) bool {
	h.size += n + entryOverhead
	h.count++
	if h.size > h.maxBytes || h.count > h.maxFields+int(pseudos) {
		h.tooBig = true
	}
	return !h.tooBig
}

// malformed notes the first reason.
func (h *head) malformed(reason string) {
	if h.bad == "" {
		h.bad = reason
	}
}

// take adds a field.
func (h *head) take(f h1.Field, valid bool) {
	if !valid {
		h.malformed("a field has an upper-case letter or a character that is not allowed, or white space around its value")
		return
	}
	if f.Name[0] == ':' {
		h.takePseudo(f.Name, f.Value)
		return
	}
	if len(h.fields) >= h.maxFields {
		h.tooBig = true
		return
	}
	if f.Known != 0 {
		h.takeKnown(&f)
	} else if len(f.Name) == 6 && string(f.Name) == "cookie" {
		h.cookies++
	}
	h.fields = append(h.fields, f)
}

func (h *head) takePseudo(name, value []byte) {
	p := pseudoOf(name)
	switch {
	case p == pseudos:
		h.malformed("there is an unknown pseudo-header field")
	case h.has[p]:
		h.malformed("a pseudo-header field comes twice")
	case len(h.fields) > 0:
		h.malformed("a pseudo-header field comes after other fields")
	default:
		h.pseudo[p], h.has[p] = value, true
	}
}

// takeKnown looks at the fields that frame or route a message, and at those that
// HTTP/2 does not have (RFC 9113 8.2.2).
func (h *head) takeKnown(f *h1.Field) {
	switch f.Known {
	case h1.Connection, h1.KeepAlive, h1.ProxyConnection, h1.TransferEncoding, h1.Upgrade:
		h.malformed("there is a field that is about the connection")
	case h1.TE:
		if !h1.EqualFold(f.Value, "trailers") {
			h.malformed("the TE field has something other than trailers")
		}
		h.trailers = true
	case h1.ContentLength:
		n, ok := h1.ParseLength(f.Value)
		switch {
		case h.hasLength:
			h.malformed("there is more than one Content-Length")
		case !ok:
			h.malformed("the Content-Length is not a number that fits")
		}
		h.length, h.hasLength = n, true
	case h1.Host:
		if h.hasHost {
			h.malformed("there is more than one Host")
		}
		h.host, h.hasHost = f.Value, true
	case h1.Expect:
		if h1.EqualFold(f.Value, "100-continue") {
			h.expect = true
		} else {
			h.expects = true
		}
	}
}

// anyPseudo says whether there is a pseudo-header field other than those.
func (h *head) anyPseudo(but ...pseudo) bool {
	for p := range pseudos {
		if !h.has[p] {
			continue
		}
		found := false
		for _, b := range but {
			found = found || b == p
		}
		if !found {
			return true
		}
	}
	return false
}

const maxMethodBytes = 64 // as in package h1

// request makes a request of the head. It returns why it is malformed; or else
// with what it must be refused.
func (h *head) request(r *Request, cfg *Config, end bool) (malformed string, refused *h1.Error) {
	*r = Request{Request: h1.Request{Minor: 1, KeepAlive: true}}
	r.Method = h.pseudo[method]
	if h.bad != "" {
		return h.bad, nil
	}
	if h.tooBig {
		return "", &h1.Error{Status: 431, Reason: "the request head is larger than is allowed, or has more fields"}
	}
	if reason := h.checkPseudo(cfg); reason != "" {
		return reason, nil
	}
	r.Scheme = h.pseudo[scheme]
	if reason := h.authority(r); reason != "" {
		return reason, nil
	}
	if reason := h.frame(r, end); reason != "" {
		return reason, nil
	}
	if h.cookies > 1 {
		h.joinCookies()
	}
	r.Fields = h.fields
	r.Trailers = h.trailers
	r.Continue = h.expect && (r.Body == h1.Chunked || r.Length > 0)
	r.Upgrade = h.pseudo[protocol]
	return h.target(r, cfg)
}

// checkPseudo holds the pseudo-header fields of a request to RFC 9113 8.3.1 and
// 8.5, and RFC 8441 4.
func (h *head) checkPseudo(cfg *Config) string {
	m := h.pseudo[method]
	connect := string(m) == "CONNECT"
	switch {
	case !h.has[method]:
		return "the :method is missing"
	case len(m) > maxMethodBytes || !h1.ValidName(m):
		return "the :method is malformed"
	case h.has[status]:
		return "a request has a :status"
	case h.has[protocol] && (!connect || !cfg.Connect):
		return "there is a :protocol, which was not offered or is not for this method"
	case h.has[protocol] && !h1.ValidName(h.pseudo[protocol]):
		return "the :protocol is malformed"
	case connect && !h.has[protocol]:
		if h.has[scheme] || h.has[path] {
			return "a CONNECT request has a :scheme or a :path"
		}
		if !h.has[authority] {
			return "a CONNECT request has no :authority"
		}
		return ""
	case !h.has[scheme] || !h.has[path]:
		return "the :scheme or the :path is missing"
	case !validScheme(h.pseudo[scheme]):
		return "the :scheme is malformed"
	case len(h.pseudo[path]) == 0:
		return "the :path is empty"
	}
	return ""
}

// validScheme accepts the grammar of RFC 3986 3.1, in lower case.
func validScheme(b []byte) bool {
	for i, c := range b {
		letter := 'a' <= c && c <= 'z'
		if !letter && (i == 0 || (c < '0' || c > '9') && c != '+' && c != '-' && c != '.') {
			return false
		}
	}
	return len(b) > 0
}

// authority settles the host.
func (h *head) authority(r *Request) string {
	a := h.pseudo[authority]
	switch {
	case h.has[authority] && !h1.ValidHost(a):
		return "the :authority is not a valid host name and port"
	case h.hasHost && !h1.ValidHost(h.host):
		return "the Host is not a valid host name and port"
	case h.has[authority] && h.hasHost && !sameFold(a, h.host):
		// RFC 9113 8.3.1: whoever looks at one of them is deceived by the other.
		return "the Host differs from the :authority"
	case h.has[authority]:
		r.Host = a
	case h.hasHost:
		r.Host = h.host
	default:
		return "there is neither an :authority nor a Host"
	}
	return ""
}

// sameFold compares two host names, which are ASCII.
func sameFold(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i, c := range a {
		if lower(c) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if c-'A' < 26 {
		return c | 0x20
	}
	return c
}

// frame decides what body follows.
func (h *head) frame(r *Request, end bool) string {
	switch {
	case string(r.Method) == "CONNECT":
		if h.hasLength {
			return "a CONNECT request has a Content-Length"
		}
	case end && h.length > 0:
		return "the Content-Length promises a body, and none follows"
	case h.hasLength:
		r.Body, r.Length = h1.Length, h.length
	case !end:
		r.Body = h1.Chunked
	}
	return ""
}

// target reads the :path.
func (h *head) target(r *Request, cfg *Config) (malformed string, refused *h1.Error) {
	if h.expects {
		refused = &h1.Error{Status: 417, Reason: "the Expect field has an expectation other than 100-continue"}
	}
	if !h.has[path] {
		if a := h.pseudo[authority]; !hasPort(a) {
			return "the :authority of CONNECT has no port", nil
		}
		r.Target = h.pseudo[authority]
		return "", refused
	}
	if len(h.pseudo[path]) > cfg.MaxTargetBytes {
		return "", &h1.Error{Status: 414, Reason: "the request target is longer than is allowed"}
	}
	wrong := r.SetTarget(h.pseudo[path])
	if wrong == nil {
		return "", refused
	}
	return wrong.Reason, nil
}

// hasPort says whether a valid host has a port.
func hasPort(b []byte) bool {
	for i := len(b) - 1; i >= 0 && b[i] != ']'; i-- {
		if b[i] == ':' {
			return true
		}
	}
	return false
}

// joinCookies makes one field of all cookies (RFC 9113 8.2.3), in the place of
// the first.
func (h *head) joinCookies() {
	start := len(h.arena)
	kept := h.fields[:0]
	first := -1
	for _, f := range h.fields {
		if string(f.Name) != "cookie" {
			kept = append(kept, f)
			continue
		}
		if first < 0 {
			first = len(kept)
			kept = append(kept, f)
		} else {
			h.arena = append(h.arena, "; "...)
			kept[first].Sensitive = kept[first].Sensitive || f.Sensitive
		}
		h.arena = append(h.arena, f.Value...)
	}
	kept[first].Value = h.arena[start:len(h.arena):len(h.arena)]
	h.fields = kept
}

// response makes a response of the head, and returns why it is malformed.
func (h *head) response(r *h1.Response, s *stream, end bool) string {
	*r = h1.Response{Minor: 1, KeepAlive: true}
	code := h.pseudo[status]
	switch {
	case h.bad != "":
		return h.bad
	case h.tooBig:
		return "the response head is larger than is allowed, or has more fields"
	case len(code) != 3 || h.anyPseudo(status):
		return "the response does not have a :status of three digits alone"
	}
	for _, c := range code {
		if c < '0' || c > '9' {
			return "the response does not have a :status of three digits alone"
		}
		r.Status = r.Status*10 + int(c-'0')
	}
	r.Fields = h.fields
	tunnel := s.connect && r.Status/100 == 2
	switch {
	case r.Status < 100 || r.Status == 101:
		return "the status is not one that HTTP/2 has"
	case r.Status < 200:
		if end {
			return "an interim response ends the stream"
		}
	case s.headRequest || r.Status == 204 || r.Status == 304 || tunnel:
		// A Content-Length tells what a GET would have given.
	case h.hasLength && end && h.length > 0:
		return "the Content-Length promises a body, and none follows"
	case h.hasLength:
		r.Body, r.Length = h1.Length, h.length
	case !end:
		r.Body = h1.Chunked
	}
	return ""
}

// trailer keeps the trailer fields that may be ones, and says why they are
// malformed.
func (h *head) trailer() string {
	switch {
	case h.bad != "":
		return h.bad
	case h.tooBig:
		return "the trailer fields are larger than is allowed"
	case h.anyPseudo():
		return "there is a pseudo-header field in the trailers"
	}
	kept := h.fields[:0]
	for i := range h.fields {
		if h1.TrailerAllowed(&h.fields[i]) {
			kept = append(kept, h.fields[i])
		}
	}
	h.fields = kept
	return ""
}
