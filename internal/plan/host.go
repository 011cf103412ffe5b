package plan

import (
	"bytes"
	"strings"
)

// maxHost is the longest host that named hosts are looked up for. A name in
// DNS has at most 253 characters; a longer one can only be meant for a listener
// or route that takes every host.
const maxHost = 255

// Host writes the comparable form of a Host header, an authority or a server
// name to dst and returns it: without port and trailing dot, in lower case, an
// IPv6 literal in its brackets. What needs no change is returned without a
// copy. A host longer than any name is empty.
func Host(dst, host []byte) []byte {
	if len(host) > 0 && host[0] == '[' {
		if end := bytes.IndexByte(host, ']'); end >= 0 {
			host = host[:end+1]
		}
	} else if colon := bytes.IndexByte(host, ':'); colon >= 0 {
		host = host[:colon]
	}
	if n := len(host); n > 0 && host[n-1] == '.' {
		host = host[:n-1]
	}
	if len(host) > maxHost {
		return nil
	}
	for i, c := range host {
		if 'A' <= c && c <= 'Z' {
			return appendLower(dst[:0], host, i)
		}
	}
	return host
}

// appendLower appends host to dst, in lower case from position i on.
func appendLower(dst, host []byte, i int) []byte {
	dst = append(dst, host[:i]...)
	for _, c := range host[i:] {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		dst = append(dst, c)
	}
	return dst
}

// A hostIndex finds what is kept under host patterns: exact names, "*.suffix"
// and "" for every host.
type hostIndex struct {
	index         // exact names as they are, wildcards without their star
	wild     bool // some are wildcards
	longest  int  // longest name
	everyPos int  // position of "", or -1
}

func newHostIndex(patterns []string) hostIndex {
	names := make([]string, len(patterns))
	x := hostIndex{everyPos: -1}
	for i, pattern := range patterns {
		name := pattern
		switch {
		case pattern == "":
			x.everyPos = i
		case pattern[0] == '*':
			name = pattern[1:]
			x.wild = true
		}
		names[i] = name
		x.longest = max(x.longest, len(name))
	}
	x.index = newIndex(names, hashString)
	return x
}

// pattern is the pattern at a position.
func (x *hostIndex) pattern(i int) string {
	if strings.HasPrefix(x.names[i], ".") {
		return "*" + x.names[i]
	}
	return x.names[i]
}

// A hostWalk goes through the patterns that fit a host, most specific first.
type hostWalk struct {
	host   []byte // canonical
	dot    int    // where the next wildcard suffix starts; -1 before the exact name
	single bool   // the wildcard just found stands for one label
}

func walkHost(host []byte) hostWalk { return hostWalk{host: host, dot: -1} }

// next is the position of the next pattern, or -1 at the end. The pattern for
// every host comes last.
func (x *hostIndex) next(w *hostWalk) int {
	if w.dot < 0 {
		w.dot = 0
		w.single = true
		// A host that starts with a dot would find a wildcard.
		if len(w.host) == 0 || w.host[0] == '.' {
			w.dot = len(w.host)
		} else if i := x.lookup(w.host); i >= 0 {
			return i
		}
	}
	for x.wild && w.dot < len(w.host) {
		dot := bytes.IndexByte(w.host[w.dot:], '.')
		if dot < 0 {
			w.dot = len(w.host)
			break
		}
		start := w.dot + dot
		w.single = w.dot == 0
		w.dot = start + 1
		if i := x.lookup(w.host[start:]); i >= 0 {
			return i
		}
	}
	if w.dot <= len(w.host) {
		w.dot = len(w.host) + 1
		return x.everyPos
	}
	return -1
}

func (x *hostIndex) lookup(name []byte) int {
	if len(name) > x.longest {
		return -1
	}
	var h uint64
	if x.hashed() {
		h = hashBytes(hashSeed, name)
	}
	return x.find(h, name)
}
