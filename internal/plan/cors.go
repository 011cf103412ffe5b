package plan

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
)

// BoundCORS is a CORS filter as the data plane does it (Fetch, 3.2: CORS
// protocol). The gateway alone says what browsers let pages of other origins do:
// what the service says of that is replaced.
type BoundCORS struct {
	origins     []originPattern
	anyOrigin   bool
	credentials bool
	methods     corsList
	headers     corsList
	expose      []byte
	maxAge      []byte
}

// corsList is a list as its field shows it.
type corsList struct {
	text []byte
	any  bool // "*"
}

// originPattern is an origin that is allowed; its host may hold "*", which
// stands for any text, dots included.
type originPattern struct {
	scheme, host string
	port         uint16
}

// Preflight is what a browser asks before a request that could do something.
type Preflight struct {
	Origin  []byte // empty if it is not allowed
	Method  []byte // Access-Control-Request-Method
	Headers []byte // Access-Control-Request-Headers; may be empty
}

// Values that are always the same.
var (
	starBytes     = []byte("*")
	trueBytes     = []byte("true")
	varyOrigin    = []byte("Origin")
	varyPreflight = []byte("Origin, Access-Control-Request-Method, Access-Control-Request-Headers")
)

// defaultMaxAge is how long browsers remember what a preflight said, in seconds,
// where the filter does not say (HTTPCORSFilter.maxAge).
const defaultMaxAge = 5

// compileCORS is false if the filter's text would not stay in the fields that
// it is for, or an origin is none.
func compileCORS(f *CORS) (*BoundCORS, bool) {
	c := &BoundCORS{credentials: f.Credentials}
	for _, text := range f.Origins {
		if text == "*" {
			c.anyOrigin = true
			continue
		}
		scheme, host, port, ok := splitOrigin([]byte(text))
		if !ok {
			return nil, false
		}
		c.origins = append(c.origins, originPattern{strings.ToLower(string(scheme)), strings.ToLower(string(host)), port})
	}
	for _, list := range [3][]string{f.Methods, f.Headers, f.Expose} {
		for _, name := range list {
			if name == "" || !cleanWord(name) || strings.ContainsAny(name, ",;\"") {
				return nil, false
			}
		}
	}
	c.methods, c.headers = newCORSList(f.Methods), newCORSList(f.Headers)
	expose := newCORSList(f.Expose)
	c.expose = expose.text
	if expose.any && f.Credentials {
		// With credentials a browser would take it for a field of that name.
		c.expose = newCORSList(slices.DeleteFunc(slices.Clone(f.Expose), func(s string) bool { return s == "*" })).text
	}
	age := int64(f.MaxAge)
	if age <= 0 {
		age = defaultMaxAge
	}
	c.maxAge = strconv.AppendInt(nil, age, 10)
	return c, true
}

func newCORSList(names []string) corsList {
	if slices.Contains(names, "*") {
		return corsList{starBytes, true}
	}
	return corsList{text: []byte(strings.Join(names, ", "))}
}

// splitOrigin takes an origin, or a pattern of one, apart: SCHEME://HOST[:PORT].
// A port that is not written is the one that goes without saying.
func splitOrigin(text []byte) (scheme, host []byte, port uint16, ok bool) {
	at := bytes.Index(text, []byte("://"))
	if at <= 0 || len(text) > maxHost+32 {
		return nil, nil, 0, false
	}
	scheme, host = text[:at], text[at+3:]
	for _, c := range scheme {
		if c == '*' || c == ':' || c != '+' && !originChar(c) {
			return nil, nil, 0, false
		}
	}
	port = schemePort(scheme)
	if colon := bytes.LastIndexByte(host, ':'); colon > bytes.IndexByte(host, ']') {
		n, err := strconv.ParseUint(string(host[colon+1:]), 10, 16)
		if err != nil || n == 0 {
			return nil, nil, 0, false
		}
		host, port = host[:colon], uint16(n)
	}
	for _, c := range host {
		if !originChar(c) {
			return nil, nil, 0, false
		}
	}
	return scheme, host, port, len(host) > 0 && host[0] != '.'
}

// schemePort is knownPort for a scheme in any case.
func schemePort(scheme []byte) uint16 {
	switch {
	case equalFold(scheme, "http"):
		return 80
	case equalFold(scheme, "https"):
		return 443
	}
	return 0
}

func originChar(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("-._[]:*", c) >= 0
}

// Open says that answers are for pages of every origin and do not depend on it.
func (c *BoundCORS) Open() bool { return c.anyOrigin && !c.credentials }

// Allows says whether pages of an origin may see answers.
func (c *BoundCORS) Allows(origin []byte) bool {
	if string(origin) == "null" {
		return c.anyOrigin
	}
	scheme, host, port, ok := splitOrigin(origin)
	if !ok || bytes.IndexByte(host, '*') >= 0 {
		return false
	}
	if c.anyOrigin {
		return true
	}
	for i := range c.origins {
		p := &c.origins[i]
		if p.port == port && equalFold(scheme, p.scheme) && glob(p.host, host) {
			return true
		}
	}
	return false
}

func equalFold(text []byte, lower string) bool {
	if len(text) != len(lower) {
		return false
	}
	for i, c := range text {
		if lowerByte(c) != lower[i] {
			return false
		}
	}
	return true
}

func lowerByte(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c | 0x20
	}
	return c
}

// glob says whether text, in any case, fits a pattern in which "*" stands for
// any text. It goes back to the last star only, so that it takes no more than
// len(pattern) * len(text) steps.
func glob(pattern string, text []byte) bool {
	p, t := 0, 0
	star, from := -1, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, t
			p++
		case p < len(pattern) && pattern[p] == lowerByte(text[t]):
			p++
			t++
		case star >= 0:
			from++
			p, t = star+1, from
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// Speaks says whether a field is of the CORS protocol and an answer's: the
// filter has it.
func (c *BoundCORS) Speaks(name []byte) bool {
	const prefix = "access-control-"
	return len(name) > len(prefix) && equalFold(name[:len(prefix)], prefix)
}

// Fields calls yield with what an answer to a page of an origin carries; origin
// is empty if it is not allowed.
func (c *BoundCORS) Fields(origin []byte, yield func(name string, value []byte)) {
	if !c.Open() {
		yield("vary", varyOrigin)
	}
	c.origin(origin, yield)
}

func (c *BoundCORS) origin(origin []byte, yield func(name string, value []byte)) {
	switch {
	case c.Open():
		yield("access-control-allow-origin", starBytes)
	case len(origin) == 0:
		return
	default:
		yield("access-control-allow-origin", origin)
	}
	if c.credentials {
		yield("access-control-allow-credentials", trueBytes)
	}
	if len(c.expose) > 0 {
		yield("access-control-expose-headers", c.expose)
	}
}

// Preflight calls yield with what the answer to a preflight carries.
func (c *BoundCORS) Preflight(p *Preflight, yield func(name string, value []byte)) {
	yield("vary", varyPreflight)
	c.origin(p.Origin, yield)
	if !c.Open() && len(p.Origin) == 0 {
		return
	}
	c.list("access-control-allow-methods", &c.methods, p.Method, yield)
	c.list("access-control-allow-headers", &c.headers, p.Headers, yield)
	yield("access-control-max-age", c.maxAge)
}

// list tells what is allowed. With credentials "*" is a name as any other, so
// that what was asked for stands for all.
func (c *BoundCORS) list(name string, l *corsList, asked []byte, yield func(name string, value []byte)) {
	value := l.text
	if l.any && c.credentials {
		value = asked
	}
	if len(value) > 0 {
		yield(name, value)
	}
}
