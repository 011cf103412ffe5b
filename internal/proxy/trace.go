package proxy

import (
	"sync/atomic"

	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/record"
	"windrose.dev/windrose/internal/telemetry"
	"windrose.dev/windrose/internal/trace"
)

// This file gives requests their place in a trace: what they bring of one is
// read, it is decided whether it is sampled, and endpoints are told. A request of
// a listener that does not trace comes by here with one look at a nil pointer,
// and its fields are forwarded as they are.

// tracing is what a Tracing of the plan counts over all loops, so that shares are
// exact.
type tracing struct {
	name    string
	begun   atomic.Uint64 // traces that begin here
	carried atomic.Uint64 // of those that came sampled
}

// tracings gives the counters of a plan's Tracings by slot. Those of a name go
// on where they were.
func tracings(p *plan.Plan, old []*tracing) []*tracing {
	list := make([]*tracing, len(p.Tracings()))
	for slot, t := range p.Tracings() {
		if t == nil {
			continue
		}
		list[slot] = &tracing{name: t.Name}
		for _, was := range old {
			if was != nil && was.name == t.Name {
				list[slot] = was
			}
		}
	}
	return list
}

// useTracers gets what takes the spans of each of the plan's Tracings.
func (w *worker) useTracers() {
	all := w.view.plan.Tracings()
	if len(all) == 0 && len(w.tracers) == 0 {
		return
	}
	names := make([]string, len(all))
	for slot, t := range all {
		if t != nil {
			names[slot] = t.Name
		}
	}
	w.tracers, w.traced = w.tel.UseTracers(names), names
}

// tracer takes the spans of a request; nil if its Tracing is gone.
func (w *worker) tracer(t *plan.BoundTracing) *telemetry.Tracer {
	if t.Slot >= len(w.tracers) || w.traced[t.Slot] != t.Name {
		return nil
	}
	return w.tracers[t.Slot]
}

// traceParts is how many fields tell endpoints the span.
const traceParts = 3

// traceBegins gives the request in w.req its place in a trace.
func (x *exchange) traceBegins(t *plan.BoundTracing) {
	w, rec := x.w, &x.rec.Trace
	x.tracing = t
	var p trace.Parent
	believed := t.Parents != plan.ParentsTrusted || x.c.trusted
	if believed {
		p, x.state = incoming(w.req.Fields)
	}
	x.b3 = p.Form
	if p.Begun() {
		rec.ID, rec.Parent = p.Trace, p.Span
	} else if id, ok := trace.ID(x.rec.ID); ok && x.newID {
		rec.ID = id // so that one number finds the request everywhere
	} else {
		rec.ID = w.ids.Trace()
	}
	rec.Span = w.ids.Span()
	counts := x.view.tracing[t.Slot]
	switch {
	case p.Decision == trace.Undecided || t.Parents == plan.ParentsIgnored:
		rec.Sampled = sampled(t.Sampling, &counts.begun)
	case p.Decision == trace.Sampled:
		rec.Sampled = sampled(t.ParentSampling, &counts.carried)
	}
	if len(t.Attributes) > 0 {
		x.traceTags(t.Attributes)
	}
}

func sampled(share plan.Share, count *atomic.Uint64) bool {
	if share.Always() {
		return share.Num > 0
	}
	return share.Takes(count.Add(1) - 1)
}

// incoming reads what a request says of its trace: traceparent goes before b3,
// and that before B3's several fields. A field that is there twice says nothing.
// state says whether tracestate may go on.
func incoming(fields []h1.Field) (p trace.Parent, state bool) {
	var parent, single fieldOnce
	var b3 trace.B3Fields
	var list trace.State
	state = true
	for i := range fields {
		f := &fields[i]
		switch traceField(f.Name) {
		case traceNone:
		case traceParent:
			parent.see(f.Value)
		case traceState:
			state = state && list.Add(f.Value)
		case traceB3:
			single.see(f.Value)
		case traceB3Trace:
			b3.Trace = f.Value
		case traceB3Span:
			b3.Span = f.Value
		case traceB3Sampled:
			b3.Sampled = f.Value
		case traceB3Flags:
			b3.Flags = f.Value
		case traceB3Parent:
		}
	}
	var form trace.Form
	multi, ok := b3.Parse()
	if ok {
		form = trace.B3Multi
	}
	if single.n == 1 {
		if p, ok := trace.ParseB3(single.value); ok {
			multi, form = p, trace.B3Single
		}
	}
	if parent.n == 1 {
		if p, ok := trace.ParseTraceparent(parent.value); ok {
			p.Form = form // who reads B3 only goes on being told
			return p, state
		}
	}
	multi.Form = form
	return multi, false
}

// fieldOnce is a field that may be there once.
type fieldOnce struct {
	value []byte
	n     int
}

func (f *fieldOnce) see(value []byte) { f.value, f.n = value, f.n+1 }

// traceKind is what a field of a request says of a trace.
type traceKind uint8

const (
	traceNone traceKind = iota
	traceParent
	traceState
	traceB3
	traceB3Trace
	traceB3Span
	traceB3Parent
	traceB3Sampled
	traceB3Flags
)

// traceField tells by its name what a field says; "_" passes for "-", as it does
// with services that read both.
func traceField(name []byte) traceKind {
	is := func(lower string, k traceKind) traceKind {
		if hasPrefix(name, lower) {
			return k
		}
		return traceNone
	}
	switch len(name) {
	case 2:
		return is("b3", traceB3)
	case 10:
		if k := is("tracestate", traceState); k != traceNone {
			return k
		}
		return is("x-b3-flags", traceB3Flags)
	case 11:
		if k := is("traceparent", traceParent); k != traceNone {
			return k
		}
		return is("x-b3-spanid", traceB3Span)
	case 12:
		if k := is("x-b3-traceid", traceB3Trace); k != traceNone {
			return k
		}
		return is("x-b3-sampled", traceB3Sampled)
	case 17:
		return is("x-b3-parentspanid", traceB3Parent)
	}
	return traceNone
}

// traces says whether a field is not forwarded because windrose says itself what
// it says.
func (x *exchange) traces(name []byte) bool {
	switch traceField(name) {
	case traceNone:
		return false
	case traceState:
		return !x.state
	case traceParent, traceB3, traceB3Trace, traceB3Span, traceB3Parent, traceB3Sampled, traceB3Flags:
	}
	return true
}

// appendTrace appends the fields that tell the endpoint its place in the trace.
// Whose child it is differs from attempt to attempt, so where the span stands is
// kept.
func (x *exchange) appendTrace(dst []byte, steps [2][]plan.Step) []byte {
	t := &x.rec.Trace
	x.spanAt = [traceParts]int{}
	own := func(name string) bool { return !dropped(steps, plan.StepRequestHeaders, bytesOf(name)) }
	if own("traceparent") {
		dst = append(dst, "traceparent: "...)
		dst, x.spanAt[0] = trace.AppendTraceparent(dst, t.ID, t.Span, t.Sampled)
		dst = append(dst, "\r\n"...)
	}
	if (x.b3 == trace.B3Single || x.tracing.B3) && own("b3") {
		dst = append(dst, "b3: "...)
		dst, x.spanAt[1] = trace.AppendB3(dst, t.ID, t.Span, t.Sampled)
		dst = append(dst, "\r\n"...)
	}
	if (x.b3 == trace.B3Multi || x.tracing.B3Multi) && own("x-b3-traceid") {
		dst = append(dst, "x-b3-traceid: "...)
		dst = trace.AppendB3Trace(dst, t.ID)
		dst = append(dst, "\r\nx-b3-spanid: "...)
		x.spanAt[2] = len(dst)
		dst = trace.AppendHex(dst, t.Span[:])
		if t.Sampled {
			dst = append(dst, "\r\nx-b3-sampled: 1\r\n"...)
		} else {
			dst = append(dst, "\r\nx-b3-sampled: 0\r\n"...)
		}
	}
	return dst
}

// tryTraced gives the attempt that begins its span, and tells the endpoint. What
// was sent is still at hand: an attempt gives the endpoint all of the request.
func (x *exchange) tryTraced() {
	t := x.rec.LastTry()
	t.Span = x.w.ids.Span()
	for _, at := range x.spanAt {
		if at != 0 && x.whole {
			trace.PutHex(x.sent[at:], t.Span[:])
		}
	}
}

// traceTags gathers the values of attributes that somebody asked for: those of
// the request's fields, while they are at hand.
func (x *exchange) traceTags(attributes []plan.TraceAttribute) {
	r := &x.rec.Trace
	for i := range attributes {
		a := &attributes[i]
		r.Tags = append(r.Tags, record.Tag{Name: a.Name, Key: a.Key})
		tag := &r.Tags[i]
		switch {
		case a.Literal != "":
			tag.Value = bytesOf(a.Literal)
		case a.Header != "":
			if v, ok := h1.Lookup(x.w.req.Fields, a.Header); ok {
				tag.Value = x.note(v)
			}
		}
	}
}

// traceAnswer is traceTags for the answer's fields, where the request had none of
// the name.
func (x *exchange) traceAnswer() {
	for i := range x.tracing.Attributes {
		a := &x.tracing.Attributes[i]
		if tag := &x.rec.Trace.Tags[i]; a.Header != "" && tag.Value == nil {
			if v, ok := h1.Lookup(x.w.resp.Fields, a.Header); ok {
				tag.Value = x.note(v)
			}
		}
	}
}

// maxNote bounds what is kept of one field.
const maxNote = 1024

// note copies a value to where it lives as long as the record. What was noted
// before stays where it is when the memory moves.
func (x *exchange) note(v []byte) []byte {
	start := len(x.meta)
	x.meta = append(x.meta, v[:min(len(v), maxNote)]...)
	return x.meta[start:len(x.meta):len(x.meta)]
}

// traceEnds gives the spans away.
func (x *exchange) traceEnds() {
	t := x.tracing
	if late := t.Errors && x.rec.Erred(); !late && !x.rec.Trace.Sampled {
		return
	}
	if to := x.w.tracer(t); to != nil {
		to.Trace(&x.rec)
	}
}
