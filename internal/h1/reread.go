package h1

import "bytes"

// Reread reads a whole request head that this program has written itself, so as
// to write it again in another codec: of its shape no more is checked than is
// needed to stay inside it. It fills in Method, Target, Host and Fields. It is
// false for what AppendField and a request line cannot have made.
func (r *Request) Reread(head []byte) bool {
	*r = Request{Fields: r.Fields[:0]}
	line, rest, ok := cutLine(head)
	first, last := bytes.IndexByte(line, ' '), bytes.LastIndexByte(line, ' ')
	if !ok || first <= 0 || last <= first+1 {
		return false
	}
	r.Method, r.Target = line[:first], line[first+1:last]
	for {
		if line, rest, ok = cutLine(rest); !ok {
			return false
		}
		if len(line) == 0 {
			return len(rest) == 0
		}
		name, value, ok := bytes.Cut(line, separator)
		if !ok || len(name) == 0 {
			return false
		}
		f := Field{Name: name, Value: value, Known: Classify(name)}
		if f.Known == Host {
			r.Host = value
		}
		r.Fields = append(r.Fields, f)
	}
}

var separator = []byte(": ")

// cutLine cuts off a line that ends with CRLF.
func cutLine(p []byte) (line, rest []byte, ok bool) {
	i := bytes.IndexByte(p, '\n')
	if i < 1 || p[i-1] != '\r' {
		return nil, nil, false
	}
	return p[:i-1], p[i+1:], true
}
