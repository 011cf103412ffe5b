package translate

import "strings"

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

// moreSpecific says whether hostname a wins over b as the original of one and
// the same host: more characters without a wildcard, then more characters.
func moreSpecific(a, b string) bool {
	wildA, wildB := a == "" || a[0] == '*', b == "" || b[0] == '*'
	if wildA != wildB {
		return !wildA
	}
	return len(a) > len(b)
}
