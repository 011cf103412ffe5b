package h1

// Keep copies r to dst, which reuses its Fields, and all that r points to behind
// buf, whose new end it returns: a request that must outlive the buffer it was
// parsed in. The bytes in buf must not move as long as dst is used, so that it
// must have room for Size.
func (r *Request) Keep(dst *Request, buf []byte) []byte {
	fields := dst.Fields[:0]
	fields = append(fields, r.Fields...)
	*dst = *r
	keep := func(p []byte) []byte {
		if p == nil {
			return nil
		}
		start := len(buf)
		buf = append(buf, p...)
		return buf[start:len(buf):len(buf)]
	}
	dst.Method, dst.Target, dst.Path, dst.Query = keep(r.Method), keep(r.Target), keep(r.Path), keep(r.Query)
	dst.Host, dst.Upgrade = keep(r.Host), keep(r.Upgrade)
	for i := range fields {
		fields[i].Name, fields[i].Value = keep(fields[i].Name), keep(fields[i].Value)
	}
	dst.Fields = fields
	return buf
}

// Size is how much room Keep needs.
func (r *Request) Size() int {
	n := len(r.Method) + len(r.Target) + len(r.Path) + len(r.Query) + len(r.Host) + len(r.Upgrade)
	for i := range r.Fields {
		n += len(r.Fields[i].Name) + len(r.Fields[i].Value)
	}
	return n
}
