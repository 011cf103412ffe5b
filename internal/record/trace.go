package record

// Trace is where a request stands in a distributed trace. Of the spans that are
// made of a record, one is the request's own and its child is one for each
// attempt.
type Trace struct {
	ID      [16]byte // zero: nobody traces the request
	Span    [8]byte  // the request's own
	Parent  [8]byte  // the span that it is a child of; zero: the trace begins here
	Sampled bool     // as decided when the request came: endpoints were told so
	Tags    []Tag    // attributes that were asked for
}

// Traced says whether the request has a place in a trace.
func (t *Trace) Traced() bool { return t.ID != [16]byte{} }

// Tag is an attribute that somebody asked for. Its value is Value, or if Key is
// given that of the attribute of that name.
type Tag struct {
	Name  string
	Value []byte // nil: there is none
	Key   string
}

// Erred says whether the request ended in an error that its client is not to
// blame for: a stranger must not be able to have requests count as errors.
func (r *Record) Erred() bool {
	if r.Fault != 0 {
		return r.Fault.Side() != Client
	}
	return r.Status >= 500
}
