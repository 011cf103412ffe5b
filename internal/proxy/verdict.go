package proxy

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"windrose.dev/windrose/internal/extauthz"
	"windrose.dev/windrose/internal/h1"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/record"
)

// This file reads what an authoriser says, and carries it out.

// failed ends the exchange because an authoriser said neither yes nor no.
func (g *gate) failed(why string) {
	g.x.w.tel.AuthFailed++
	g.x.fail(record.AuthFailed, g.check.name()+" "+why)
}

// judge is called when an authoriser has answered, or will not.
func (g *gate) judge() {
	c := g.check
	g.x.rec.Asked = g.x.since(g.x.w.loop.Clock())
	cut := c.large && !c.auth.GRPC // what was wanted of the answer is there
	switch {
	case c.fault == record.RequestTimeout:
		g.failed("did not answer within " + g.x.view.settings.AuthTimeout.String() + " (timeouts.auth)")
	case c.large && c.auth.GRPC:
		g.failed("gives an answer that is too large")
	case c.fault != 0 && !cut:
		g.failed("gives no answer that can be used: " + c.reason)
	case c.auth.GRPC:
		g.judgeGRPC(c)
	default:
		g.judgeHTTP(c)
	}
}

// judgeHTTP: 200 is a yes. What is neither that nor a status that refuses is told
// as a failure, or as a plain no.
func (g *gate) judgeHTTP(c *check) {
	said := fmt.Sprintf("%s answered %d", c.name(), c.status)
	switch {
	case c.status == http.StatusOK:
		g.allow(g.granted(c), nil)
	case c.status >= 500:
		g.failed(fmt.Sprintf("answered %d", c.status))
	case c.status < 300 || c.status == http.StatusNotModified:
		g.deny(http.StatusForbidden, said+", and only 200 is a yes", nil, nil)
	case c.large:
		g.deny(c.status, said+" with a body that is too large to pass on", slices.DeleteFunc(c.fields, describesBody), nil)
	default:
		g.deny(c.status, said, c.fields, append([]byte{}, c.body...))
	}
}

// describesBody says whether a field is about a body.
func describesBody(f h1.Field) bool {
	const content = "content-"
	return len(f.Name) > len(content) && h1.EqualFold(f.Name[:len(content)], content)
}

// granted is what the answer of an authoriser that is asked by HTTP brings into
// the request.
func (g *gate) granted(c *check) *plan.HeaderEdit {
	e := &plan.HeaderEdit{}
	for i := range c.fields {
		if f := &c.fields[i]; mayGrant(f.Known) && c.auth.Grants(f.Name) {
			set(e, f.Name, f.Value)
		}
	}
	return e
}

// mayGrant says whether an authoriser may bring a field into a request: not what
// the gateway alone can know.
func mayGrant(k h1.Known) bool { return k == 0 || k == h1.UserAgent || k == h1.Date || k == h1.Server }

// set has an edit set a field; several values of a name stand side by side.
func set(e *plan.HeaderEdit, name, value []byte) {
	h := plan.Header{Name: string(name), Value: string(value)}
	if slices.ContainsFunc(e.Set, func(o plan.Header) bool { return h1.EqualFold(bytesOf(o.Name), lowerText(name)) }) {
		e.Add = append(e.Add, h)
		return
	}
	e.Set = append(e.Set, h)
}

func lowerText(name []byte) string { return string(bytes.ToLower(name)) }

// judgeGRPC reads a CheckResponse.
func (g *gate) judgeGRPC(c *check) {
	status, ok := h1.Lookup(c.trailers, "grpc-status")
	if !ok {
		status, ok = h1.Lookup(c.fields, "grpc-status")
	}
	switch {
	case c.status != http.StatusOK:
		g.failed(fmt.Sprintf("answered with HTTP status %d", c.status))
		return
	case !ok:
		g.failed("ended its answer without a gRPC status")
		return
	case string(status) != "0":
		g.failed("answered with gRPC status " + string(status[:min(len(status), 8)]))
		return
	}
	message, ok := unframe(c.body)
	if !ok {
		g.failed("gives an answer that is not one gRPC message without compression")
		return
	}
	a, err := extauthz.Parse(message)
	if err != nil {
		g.failed("gives an answer that cannot be read: " + err.Error())
		return
	}
	if a.Allowed {
		g.allowGRPC(&a)
		return
	}
	g.denyGRPC(&a)
}

// unframe is the one message of an answer by gRPC.
func unframe(b []byte) ([]byte, bool) {
	if len(b) < 5 || b[0] != 0 {
		return nil, false
	}
	size := uint32(b[1])<<24 | uint32(b[2])<<16 | uint32(b[3])<<8 | uint32(b[4])
	return b[5:], uint64(size) == uint64(len(b)-5)
}

func (g *gate) allowGRPC(a *extauthz.Answer) {
	request, ok := g.edit(a.Request, true)
	if !ok {
		return
	}
	response, ok := g.edit(a.Response, false)
	if !ok {
		return
	}
	for _, name := range a.Remove {
		switch {
		case fixed(name):
		case !h1.ValidName(name):
			g.unfit(name)
			return
		default:
			request.Remove = append(request.Remove, lowerText(name))
		}
	}
	if len(a.QuerySet)+len(a.QueryRemove) > 0 {
		g.req.Query = editQuery(g.req.Query, a)
		g.req.HasQuery = len(g.req.Query) > 0
	}
	g.allow(request, response)
}

// editQuery is a query with the changes that an answer asks for: parameters of a
// name that is set or removed go, those that are set come behind the others.
func editQuery(query []byte, a *extauthz.Answer) []byte {
	var out []byte
	add := func(p []byte) {
		if len(out) > 0 {
			out = append(out, '&')
		}
		out = append(out, p...)
	}
	for p := range bytes.SplitSeq(query, []byte{'&'}) {
		raw, _, _ := bytes.Cut(p, []byte{'='})
		name, err := url.QueryUnescape(string(raw))
		if err != nil {
			name = string(raw) // as a service would see it that does not refuse it
		}
		same := func(o []byte) bool { return string(o) == name }
		if len(p) > 0 && !slices.ContainsFunc(a.QueryRemove, same) && !slices.ContainsFunc(a.QuerySet, func(o extauthz.Parameter) bool { return same(o.Name) }) {
			add(p)
		}
	}
	for _, p := range a.QuerySet {
		add([]byte(url.QueryEscape(string(p.Name)) + "=" + url.QueryEscape(string(p.Value))))
	}
	return out
}

func (g *gate) unfit(name []byte) {
	g.failed(fmt.Sprintf("wants field %.64q changed, which cannot be in a head, or to a value that cannot", name))
}

// fixed says whether a name is the host's, which an authoriser cannot change: what
// asks for it is passed over, as Gateway API has it.
func fixed(name []byte) bool {
	return h1.EqualFold(name, "host") || h1.EqualFold(name, ":authority")
}

// edit is what a list of edits comes to; where one cannot be done, the exchange
// has ended.
func (g *gate) edit(list []extauthz.Edit, request bool) (*plan.HeaderEdit, bool) {
	e := &plan.HeaderEdit{}
	for _, o := range list {
		if fixed(o.Name) {
			continue
		}
		if !h1.ValidName(o.Name) || !h1.ValidValue(o.Value) {
			g.unfit(o.Name)
			return e, false
		}
		if k := h1.Classify(o.Name); !mayGrant(k) {
			continue // framing, connection and what the gateway alone can know
		}
		_, there := h1.Lookup(g.req.Fields, lowerText(o.Name))
		switch o.Action {
		case extauthz.Set:
			set(e, o.Name, o.Value)
		case extauthz.Add:
			e.Add = append(e.Add, plan.Header{Name: string(o.Name), Value: string(o.Value)})
		case extauthz.SetIfAbsent:
			if !there || !request {
				set(e, o.Name, o.Value)
			}
		case extauthz.SetIfThere:
			if there && request {
				set(e, o.Name, o.Value)
			}
		}
	}
	return e, true
}

// allow notes what an authoriser that says yes brings, and goes on.
func (g *gate) allow(request, response *plan.HeaderEdit) {
	g.x.w.tel.AuthAllowed++
	guarded := g.check.auth.Guarded()
	if g.at == stageListener {
		g.bring(guarded, request)
	} else {
		n := 0
		if g.at == stageBackend {
			n = 1
		}
		g.steps[n] = append(g.steps[n], plan.Step{Kind: plan.StepRequestHeaders, Headers: guarded}, plan.Step{Kind: plan.StepRequestHeaders, Headers: request})
	}
	if response != nil && response.Added() > 0 {
		g.steps[0] = append(g.steps[0], plan.Step{Kind: plan.StepResponseHeaders, Headers: response})
	}
	g.next()
}

// bring changes the request itself, so that rules are matched against what a
// listener's authoriser says. The same is noted as a step, for the trailers: it
// sets all there is now of the names that were touched.
func (g *gate) bring(edits ...*plan.HeaderEdit) {
	step := &plan.HeaderEdit{}
	for _, e := range edits {
		g.rewrite(e)
		step.Remove = append(step.Remove, e.Remove...)
		for i := range e.Added() {
			h, _ := e.Field(i)
			step.Remove = append(step.Remove, lowerText(bytesOf(h.Name)))
		}
	}
	touched := step.Remove
	step.Remove = nil
	slices.Sort(touched)
	for _, name := range slices.Compact(touched) {
		was := len(step.Set)
		for i := range g.req.Fields {
			if f := &g.req.Fields[i]; h1.EqualFold(f.Name, name) {
				set(step, f.Name, f.Value)
			}
		}
		if len(step.Set) == was {
			step.Remove = append(step.Remove, name)
		}
	}
	g.steps[0] = append(g.steps[0], plan.Step{Kind: plan.StepRequestHeaders, Headers: step})
	g.present()
}

// rewrite does an edit to the fields of the request.
func (g *gate) rewrite(e *plan.HeaderEdit) {
	var kept []h1.Field
	var hop uint64
	for i := range g.req.Fields {
		f := &g.req.Fields[i]
		if e.Drops(f.Name) {
			continue
		}
		if i < 64 && g.req.HopByHop&(1<<i) != 0 {
			hop |= 1 << len(kept)
		}
		kept = append(kept, *f)
	}
	for i := range e.Added() {
		if h, ok := e.Field(i); ok {
			f := h1.Field{Name: []byte(h.Name), Value: []byte(h.Value)}
			f.Known = h1.Classify(f.Name)
			kept = append(kept, f)
		}
	}
	g.req.Fields, g.req.HopByHop = kept, hop
}

func (g *gate) denyGRPC(a *extauthz.Answer) {
	status := http.StatusForbidden
	if a.Status >= 300 && a.Status <= 599 && a.Status != http.StatusNotModified {
		status = a.Status
	}
	reason := fmt.Sprintf("%s says no, with status %d", g.check.name(), status)
	if len(a.Message) > 0 {
		reason += fmt.Sprintf(" (%.200q)", a.Message)
	}
	var fields []h1.Field
	for _, o := range a.Deny {
		k := h1.Classify(o.Name)
		if h1.ValidName(o.Name) && h1.ValidValue(o.Value) && mayGrant(k) {
			fields = append(fields, h1.Field{Name: o.Name, Value: o.Value, Known: k})
		}
	}
	var body []byte
	if len(a.Body) > 0 || len(a.Deny) > 0 {
		body = append([]byte{}, a.Body...)
	}
	g.deny(status, reason, fields, body)
}

// deny answers the client with what the authoriser says to it. A nil body stands
// for windrose's own words.
func (g *gate) deny(status int, reason string, fields []h1.Field, body []byte) {
	g.x.w.tel.AuthDenied++
	fields = slices.DeleteFunc(fields, func(f h1.Field) bool { return f.Known == h1.Date || f.Known == h1.Server })
	g.x.denied(status, reason, fields, body)
}
