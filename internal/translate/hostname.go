package translate

import (
	"slices"
	"strings"
)

// intersect gives the hostname that stands for what both hostnames match. A
// hostname is "" for all, exact, or "*.suffix".
func intersect(a, b string) (string, bool) {
	switch {
	case a == "" || a == b:
		return b, true
	case b == "":
		return a, true
	case covers(a, b):
		return b, true
	case covers(b, a):
		return a, true
	}
	return "", false
}

// covers says whether all that hostname b matches is matched by wildcard a.
func covers(a, b string) bool {
	if !strings.HasPrefix(a, "*.") {
		return false
	}
	suffix := a[1:]
	return strings.HasSuffix(strings.TrimPrefix(b, "*"), suffix) && len(b) > len(suffix)
}

// hasName says whether names have a host. A wildcard among them stands for one
// label, as it does in certificates and in Ingress.
func hasName(names []string, host string) bool {
	_, parent, dotted := strings.Cut(host, ".")
	return slices.Contains(names, host) || dotted && slices.Contains(names, "*."+parent)
}
