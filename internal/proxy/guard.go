package proxy

import (
	"bytes"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/plan"
)

// This file is about fields of requests that pass for what they are not.

// pretends says whether a service must not see a field: it says what only the
// gateway or a trusted peer can know, or a service may read its name as one
// that does.
func (x *exchange) pretends(name []byte) bool {
	switch {
	case len(name) == len("proxy") && h1.EqualFold(name, "proxy"):
		// CGI programs take it for the proxy that they are to use: HTTP_PROXY.
		return true
	case bytes.IndexByte(name, '_') >= 0 && disguised(name):
		return true
	}
	return !x.c.trusted && (hasPrefix(name, "x-forwarded-") || hasPrefix(name, "x-real-ip") && len(name) == len("x-real-ip"))
}

// disguised says whether a name is one that windrose itself looks at once it is
// read as CGI, and what follows it, reads it: there "_" and "-" are the same.
func disguised(name []byte) bool {
	var dashed [24]byte // more than the longest
	if len(name) > len(dashed) {
		return false
	}
	n := copy(dashed[:], name)
	for i, c := range dashed[:n] {
		if c == '_' {
			dashed[i] = '-'
		}
	}
	return h1.Classify(dashed[:n]) != 0
}

// hasPrefix says whether a name begins with lower, in any case and with "_"
// for "-".
func hasPrefix(name []byte, lower string) bool {
	if len(name) < len(lower) {
		return false
	}
	for i := range len(lower) {
		c := name[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] && (c != '_' || lower[i] != '-') {
			return false
		}
	}
	return true
}

// honest leaves out the request's trailers that would not pass as fields of the
// head: some servers merge the two.
func (x *exchange) honest(trailers []h1.Field) []h1.Field {
	if len(trailers) == 0 || x.tunnel {
		return trailers
	}
	steps := x.filters()
	kept := trailers[:0]
	for _, f := range trailers {
		if !x.pretends(f.Name) && !dropped(steps, plan.StepRequestHeaders, f.Name) {
			kept = append(kept, f)
		}
	}
	return kept
}
