package trace

import "bytes"

const (
	// maxMembers bounds the members of a tracestate (3.3.1.1).
	maxMembers = 32
	// maxState bounds the bytes of one field of tracestate that is passed on; the
	// specification asks for 512.
	maxState = 2048
)

// State counts the members of a request's tracestate fields, which together are
// one list (W3C Trace Context Level 1, 3.3).
type State struct{ members, bytes int }

// Add looks at the value of one field; it says whether all so far may be passed
// on.
func (s *State) Add(v []byte) bool {
	if s.bytes += len(v); s.bytes > maxState {
		return false
	}
	for len(v) > 0 {
		member := v
		if i := bytes.IndexByte(v, ','); i >= 0 {
			member, v = v[:i], v[i+1:]
		} else {
			v = nil
		}
		member = bytes.Trim(member, " \t")
		if len(member) == 0 {
			continue // empty members are allowed
		}
		if s.members++; s.members > maxMembers || !validMember(member) {
			return false
		}
	}
	return true
}

func validMember(m []byte) bool {
	eq := bytes.IndexByte(m, '=')
	return eq > 0 && validKey(m[:eq]) && validValue(m[eq+1:])
}

func validKey(k []byte) bool {
	tenant, system, multi := bytes.Cut(k, []byte("@"))
	if !multi {
		return len(k) <= 256 && lower(k[0]) && keyChars(k)
	}
	return len(tenant) > 0 && len(tenant) <= 241 && (lower(tenant[0]) || digit(tenant[0])) && keyChars(tenant) &&
		len(system) > 0 && len(system) <= 14 && lower(system[0]) && keyChars(system)
}

func keyChars(k []byte) bool {
	for _, c := range k {
		if !lower(c) && !digit(c) && c != '_' && c != '-' && c != '*' && c != '/' {
			return false
		}
	}
	return true
}

func validValue(v []byte) bool {
	for _, c := range v {
		if c < ' ' || c > '~' || c == ',' || c == '=' {
			return false
		}
	}
	return len(v) > 0 && len(v) <= 256 && v[len(v)-1] != ' '
}

func lower(c byte) bool { return 'a' <= c && c <= 'z' }
func digit(c byte) bool { return '0' <= c && c <= '9' }
