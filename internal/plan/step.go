package plan

import (
	"bytes"
	"strconv"
	"strings"
)

// StepKind says what a Step does.
type StepKind uint8

// The kinds of steps; the zero value is not set.
const (
	StepRequestHeaders  StepKind = iota + 1 // Headers
	StepResponseHeaders                     // Headers
	StepRedirect                            // Redirect; the rule answers by itself
	StepRewrite                             // Rewrite
	StepCORS                                // CORS; the rule answers preflights by itself
	StepMirror                              // Mirror
	StepAuth                                // Auth; nothing is forwarded before its yes
)

func (k StepKind) String() string {
	switch k {
	case StepRequestHeaders:
		return "request headers"
	case StepResponseHeaders:
		return "response headers"
	case StepRedirect:
		return "redirect"
	case StepRewrite:
		return "rewrite"
	case StepCORS:
		return "CORS"
	case StepMirror:
		return "mirror"
	case StepAuth:
		return "authorisation"
	}
	return "unset"
}

// A Step is a filter as the data plane does it. Steps run in order, those of
// the rule before those of the backend. The field that Kind names is set.
type Step struct {
	Kind     StepKind
	Headers  *HeaderEdit
	Redirect *Redirect
	Rewrite  *Rewrite
	CORS     *BoundCORS
	Mirror   *BoundMirror
	Auth     *BoundAuth
}

// compileSteps is nil if a filter has no field set, or one whose text would
// change where a message ends: the rule must not be served without it.
func compileSteps(filters []Filter) ([]Step, bool) {
	if len(filters) == 0 {
		return nil, true
	}
	steps := make([]Step, 0, len(filters))
	for _, f := range filters {
		if !f.clean() {
			return nil, false
		}
		switch {
		case f.RequestHeaders != nil:
			steps = append(steps, Step{Kind: StepRequestHeaders, Headers: f.RequestHeaders})
		case f.ResponseHeaders != nil:
			steps = append(steps, Step{Kind: StepResponseHeaders, Headers: f.ResponseHeaders})
		case f.Redirect != nil:
			steps = append(steps, Step{Kind: StepRedirect, Redirect: f.Redirect})
		case f.Rewrite != nil:
			steps = append(steps, Step{Kind: StepRewrite, Rewrite: f.Rewrite})
		case f.CORS != nil:
			cors, _ := compileCORS(f.CORS) // clean has looked
			steps = append(steps, Step{Kind: StepCORS, CORS: cors})
		case f.Mirror != nil:
			m := f.Mirror
			steps = append(steps, Step{Kind: StepMirror, Mirror: &BoundMirror{ServiceName: m.Service, Share: Share{m.Num, m.Den}}})
		case f.Auth != nil:
			steps = append(steps, Step{Kind: StepAuth, Auth: newBoundAuth(f.Auth)})
		default:
			return nil, false
		}
	}
	return steps, true
}

// clean says whether what a filter writes into a head stays where it is
// written: no line break or other control character, no space in a path or host.
// Schemas refuse most of it; a head must be safe even where one has a hole.
func (f *Filter) clean() bool {
	ok := f.RequestHeaders.clean() && f.ResponseHeaders.clean() && f.Mirror.clean() && f.Auth.clean()
	if r := f.Redirect; r != nil {
		ok = ok && cleanWord(r.Scheme) && cleanWord(r.Host) && r.Path.clean()
	}
	if r := f.Rewrite; r != nil {
		ok = ok && cleanWord(r.Host) && r.Path.clean()
	}
	if f.CORS != nil {
		_, clean := compileCORS(f.CORS)
		ok = ok && clean
	}
	return ok
}

func (e *HeaderEdit) clean() bool {
	if e == nil {
		return true
	}
	for _, list := range [2][]Header{e.Set, e.Add} {
		for _, h := range list {
			if h.Name == "" || !cleanWord(h.Name) || strings.ContainsRune(h.Name, ':') || !cleanText(h.Value) {
				return false
			}
		}
	}
	return true
}

func (e *PathEdit) clean() bool {
	return e == nil || (e.Full == nil || cleanWord(*e.Full)) && (e.Prefix == nil || cleanWord(*e.Prefix))
}

func cleanWord(s string) bool { return cleanText(s) && !strings.ContainsAny(s, " \t") }

func cleanText(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// Drops says whether a field that was there before the edit is gone after it:
// Set replaces it, Remove removes it. The name may be in any case, and with "_"
// for "-": CGI and what follows it read both as one, so that X_User would stand
// for the X-User that a filter sets.
func (e *HeaderEdit) Drops(name []byte) bool {
	for i := range e.Set {
		if sameField(name, e.Set[i].Name) {
			return true
		}
	}
	return e.removes(name)
}

func (e *HeaderEdit) removes(name []byte) bool {
	for i := range e.Remove {
		if sameField(name, e.Remove[i]) {
			return true
		}
	}
	return false
}

// Added is the number of fields that the edit brings, see Field.
func (e *HeaderEdit) Added() int { return len(e.Set) + len(e.Add) }

// Field is the i-th field that the edit brings: those of Set, then those of Add,
// which stand beside what is there. It is false if Remove takes it again.
func (e *HeaderEdit) Field(i int) (Header, bool) {
	var h Header
	if i < len(e.Set) {
		h = e.Set[i]
	} else {
		h = e.Add[i-len(e.Set)]
	}
	for _, name := range e.Remove {
		if strings.EqualFold(name, h.Name) {
			return h, false
		}
	}
	return h, true
}

// Drops says whether the steps of a kind take a field of the message away.
func Drops(steps []Step, kind StepKind, name []byte) bool {
	for i := range steps {
		if steps[i].Kind == kind && steps[i].Headers.Drops(name) {
			return true
		}
	}
	return false
}

// Fields calls yield with the fields that the steps of a kind bring into a
// message, without those that a later step drops.
func Fields(steps []Step, kind StepKind, yield func(Header)) {
	for i := range steps {
		if steps[i].Kind != kind {
			continue
		}
		for j := range steps[i].Headers.Added() {
			h, ok := steps[i].Headers.Field(j)
			if ok && !Drops(steps[i+1:], kind, []byte(h.Name)) {
				yield(h)
			}
		}
	}
}

// sameField compares names of fields: ASCII without case, "_" like "-".
func sameField(a []byte, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i, c := range a {
		d := b[i]
		if c == d || c == '_' && d == '-' || c == '-' && d == '_' {
			continue
		}
		if c|0x20 != d|0x20 || c|0x20 < 'a' || c|0x20 > 'z' {
			return false
		}
	}
	return true
}

// AppendPath appends the path that an edit makes of path. Prefix is the length
// that Hit gives. A nil edit leaves the path as it is. The result begins with a
// slash.
func AppendPath(dst, path []byte, edit *PathEdit, prefix int) []byte {
	switch {
	case edit == nil || edit.Full == nil && edit.Prefix == nil:
		return append(dst, path...)
	case edit.Full != nil:
		return appendRooted(dst, *edit.Full)
	}
	start := len(dst)
	if replace := strings.TrimSuffix(*edit.Prefix, "/"); replace != "" {
		dst = appendRooted(dst, replace)
	}
	rest := path[min(max(prefix, 0), len(path)):]
	if len(rest) > 0 && rest[0] != '/' {
		dst = append(dst, '/')
	}
	dst = append(dst, rest...)
	if len(dst) == start {
		dst = append(dst, '/')
	}
	return dst
}

func appendRooted(dst []byte, path string) []byte {
	if path == "" || path[0] != '/' {
		dst = append(dst, '/')
	}
	return append(dst, path...)
}

// Target is what a redirect starts from: the request and where it came in.
type Target struct {
	Scheme string // "http" or "https", as the client spoke
	Host   []byte // Host header; may carry a port, which counts for nothing
	Port   uint16 // of the listener
	Path   []byte // normalised
	Query  []byte // without the question mark
	Prefix int    // of the Hit
}

// AppendLocation appends the Location of a redirect. Ports follow the rules of
// HTTPRequestRedirectFilter: the redirect's own; else, if it names a scheme,
// the one known for the scheme; else the listener's. Port 80 of http and 443 of
// https are not written. The query is kept. Without any host, as HTTP/1.0
// allows, the Location is relative to the server.
func AppendLocation(dst []byte, r *Redirect, from *Target) []byte {
	scheme, port := from.Scheme, from.Port
	if r.Scheme != "" {
		scheme = r.Scheme
		if known := knownPort(scheme); known != 0 {
			port = known
		}
	}
	if r.Port != 0 {
		port = r.Port
	}
	host := hostOnly(from.Host)
	if r.Host != "" || len(host) > 0 {
		dst = append(dst, scheme...)
		dst = append(dst, "://"...)
		if r.Host != "" {
			dst = append(dst, r.Host...)
		} else {
			dst = append(dst, host...)
		}
		if port != 0 && port != knownPort(scheme) {
			dst = append(dst, ':')
			dst = strconv.AppendUint(dst, uint64(port), 10)
		}
	}
	dst = AppendPath(dst, from.Path, r.Path, from.Prefix)
	if len(from.Query) > 0 {
		dst = append(dst, '?')
		dst = append(dst, from.Query...)
	}
	return dst
}

// knownPort is the port that goes without saying, or 0.
func knownPort(scheme string) uint16 {
	switch scheme {
	case "http":
		return 80
	case "https":
		return 443
	}
	return 0
}

// hostOnly is a Host header without its port.
func hostOnly(host []byte) []byte {
	colon := bytes.LastIndexByte(host, ':')
	if colon < 0 || colon < bytes.IndexByte(host, ']') {
		return host
	}
	return host[:colon]
}
