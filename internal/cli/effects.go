package cli

import (
	"fmt"
	"net/http"
	"strings"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/record"
)

// This file tells what becomes of a request once explain has found its rule.

// rule does what the rule says short of forwarding.
func (x *explainer) rule() {
	rule := x.hit.Rule
	if rule.Broken != nil {
		x.out.Fault = broken(record.RuleBroken, rule.Broken)
		return
	}
	part := x.rulePart()
	x.out.Filters = x.filters(part.Filters)
	x.out.Timeouts, x.out.Retries = timeoutsText(rule.Timeouts), retriesText(rule.Retry)
	if rule.Session != nil {
		x.out.Session = rule.Session.String()
	}
	if rule.CORS != nil && x.crossOrigin(rule.CORS) {
		return
	}
	if x.out.Fault = x.unasked(part.Filters); x.out.Fault != nil {
		return
	}
	for i := range part.Filters {
		if to := part.Filters[i].Redirect; to != nil {
			x.out.Answer = &explainedAnswer{Status: to.Status, Location: x.location(to)}
			return
		}
	}
	x.backends()
}

func (x *explainer) rulePart() *plan.Rule { return &x.hit.Route.Route().Rules[x.hit.Rule.Index] }

func (x *explainer) location(to *plan.Redirect) string {
	from := plan.Target{Scheme: "http", Host: x.request.Host, Port: x.bound.Addr.Port(), Path: x.request.Path, Query: x.request.Query, Prefix: x.hit.Prefix}
	if x.q.tls {
		from.Scheme = "https"
	}
	return string(plan.AppendLocation(nil, to, &from))
}

// crossOrigin tells what the CORS filter adds to the answer; it says whether the
// request is a preflight, which windrose answers itself.
func (x *explainer) crossOrigin(cors *plan.BoundCORS) bool {
	origin, ok := x.request.Header("origin")
	if !ok {
		return false
	}
	allowed := cors.Allows(origin)
	if !allowed {
		origin = nil
	}
	method, ok := x.request.Header("access-control-request-method")
	if !ok || x.q.probe.Method != http.MethodOptions {
		return false
	}
	headers, _ := x.request.Header("access-control-request-headers")
	x.out.Answer = &explainedAnswer{Status: http.StatusNoContent}
	if !allowed && !cors.Open() {
		x.out.Answer.Status = http.StatusForbidden
	}
	cors.Preflight(&plan.Preflight{Origin: origin, Method: method, Headers: headers}, func(name string, value []byte) {
		x.out.Answer.Headers = append(x.out.Answer.Headers, plan.Header{Name: name, Value: string(value)})
	})
	return true
}

// backends tells where the shares of such requests go.
func (x *explainer) backends() {
	rule, part := x.hit.Rule, x.rulePart()
	var total, common uint64
	for i := range rule.Backends {
		w := uint64(max(rule.Backends[i].Weight, 0))
		total += w
		common = commonDivisor(common, w)
	}
	for i := range rule.Backends {
		b := x.backend(&rule.Backends[i], part, i)
		if common > 0 {
			b.Share, b.Of = uint64(max(rule.Backends[i].Weight, 0))/common, total/common
		}
		x.out.Backends = append(x.out.Backends, b)
	}
	if total == 0 {
		x.fail(record.NoBackend, "the rule has no backend with a weight above zero")
	}
}

func commonDivisor(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func (x *explainer) backend(b *plan.BoundBackend, rule *plan.Rule, i int) explainedBackend {
	out := explainedBackend{Service: b.ServiceName, Place: x.places[serviceKey(b.ServiceName)]}
	if b.Broken != nil {
		out.Fault = broken(record.BackendMissing, b.Broken)
		return out
	}
	if x.request != nil {
		out.Filters = x.filters(rule.Backends[i].Filters)
		if out.Fault = x.unasked(rule.Backends[i].Filters); out.Fault != nil {
			return out
		}
		out.Host, out.Target = x.forwarded(rule.Filters, rule.Backends[i].Filters)
	}
	s := x.plan.Service(b.Service)
	if s == nil {
		return out
	}
	out.Protocol, out.Hostname = string(s.Protocol), s.Hostname
	out.TLS = x.backendTLS(s)
	if s.Session != nil && rule.Session == nil {
		out.Session = s.Session.String()
	}
	if b := s.Budget; b != nil && rule.Retry != nil {
		out.Budget = fmt.Sprintf("%d%% of the attempts within %v, and %d within %v in any case", b.Percent, b.Interval, b.Free, b.FreeInterval)
	}
	if s.Hostname != "" {
		out.Hostname = fmt.Sprintf("%s:%d", s.Hostname, s.Port)
	}
	for _, e := range s.Endpoints {
		out.Endpoints = append(out.Endpoints, explainedEndpoint{Address: e.Addr.String(), Name: e.Name})
	}
	if len(s.Endpoints) == 0 && s.Hostname == "" {
		out.Fault = newFault(record.NoEndpoint, "service "+b.ServiceName+" has no ready endpoint")
	}
	return out
}

// serviceKey is the object of a service: NAMESPACE/NAME:PORT, with XBackend/ in
// front for one of those.
func serviceKey(name string) object.Key {
	key := object.Key{Kind: "Service"}
	name, _, _ = strings.Cut(name, ":")
	if rest, ok := strings.CutPrefix(name, "XBackend/"); ok {
		key.Kind, name = "XBackend", rest
	}
	key.Namespace, key.Name, _ = strings.Cut(name, "/")
	return key
}

// forwarded is the host and target that an endpoint gets. A backend's rewrite
// goes before its rule's, and starts from the request.
func (x *explainer) forwarded(lists ...[]plan.Filter) (host, target string) {
	host = string(x.request.Host)
	var edit *plan.PathEdit
	for _, list := range lists {
		for i := range list {
			w := list[i].Rewrite
			if w == nil {
				continue
			}
			if w.Host != "" {
				host = w.Host
			}
			if w.Path != nil {
				edit = w.Path
			}
		}
	}
	target = string(plan.AppendPath(nil, x.request.Path, edit, x.hit.Prefix))
	if len(x.request.Query) > 0 {
		target += "?" + string(x.request.Query)
	}
	return host, target
}

// filters tells what filters do, step by step.
func (x *explainer) filters(list []plan.Filter) []string {
	var all []string
	for i := range list {
		f := &list[i]
		switch {
		case f.RequestHeaders != nil:
			all = append(all, "request headers: "+headerEdits(f.RequestHeaders))
		case f.ResponseHeaders != nil:
			all = append(all, "response headers: "+headerEdits(f.ResponseHeaders))
		case f.Redirect != nil:
			all = append(all, fmt.Sprintf("redirect: %d to %s", f.Redirect.Status, x.location(f.Redirect)))
		case f.Rewrite != nil:
			all = append(all, "rewrite: "+x.rewriteText(f.Rewrite))
		case f.CORS != nil:
			all = append(all, "CORS: "+x.corsText(f.CORS))
		case f.Mirror != nil:
			all = append(all, "mirror: "+x.mirrorText(f.Mirror))
		case f.Auth != nil:
			all = append(all, "authorisation: "+x.authText(f.Auth))
		}
	}
	return all
}

func headerEdits(e *plan.HeaderEdit) string {
	var all []string
	for _, h := range e.Set {
		all = append(all, "set "+h.Name+": "+h.Value)
	}
	for _, h := range e.Add {
		all = append(all, "add "+h.Name+": "+h.Value)
	}
	for _, name := range e.Remove {
		all = append(all, "remove "+name)
	}
	return strings.Join(all, "; ")
}

func (x *explainer) rewriteText(w *plan.Rewrite) string {
	var all []string
	if w.Host != "" {
		all = append(all, "host becomes "+w.Host)
	}
	if w.Path != nil {
		all = append(all, "path becomes "+string(plan.AppendPath(nil, x.request.Path, w.Path, x.hit.Prefix)))
	}
	return strings.Join(all, "; ")
}

func (x *explainer) corsText(c *plan.CORS) string {
	s := "pages of " + listText(c.Origins, "no origin") + " may see answers"
	if c.Credentials {
		s += ", with credentials"
	}
	if origin, ok := x.request.Header("origin"); ok {
		word := "is not allowed"
		if x.hit.Rule.CORS.Allows(origin) {
			word = "is allowed"
		}
		s += "; origin " + string(origin) + " " + word
	}
	return s
}

func (x *explainer) mirrorText(m *plan.Mirror) string {
	s := fmt.Sprintf("%d of %d requests are copied to %s", m.Num, m.Den, m.Service)
	if m.Num == m.Den {
		s = "every request is copied to " + m.Service
	}
	switch service := x.service(m.Service); {
	case service == nil:
		s += ", which does not exist: nothing is copied"
	case len(service.Endpoints) == 0 && service.Hostname == "":
		s += ", which has no endpoint"
	}
	return s
}

// service is the part of a service; nil if there is none.
func (x *explainer) service(name string) *plan.Service {
	for _, p := range x.parts {
		if p.Key.Kind == plan.KindService && p.Key.Name == name {
			return p.Service
		}
	}
	return nil
}

// authText tells who is asked, what of, and what its yes brings. One that cannot
// be asked has every request refused.
func (x *explainer) authText(a *plan.Auth) string {
	s := "ask " + a.Service + " by gRPC (ext_authz)"
	told, all := "it is told "+listText(a.Headers, "all headers"), "its yes may change headers and query"
	if !a.GRPC {
		path := strings.TrimSuffix(a.Path, "/") + string(x.request.Path)
		if len(x.request.Query) > 0 {
			path += "?" + string(x.request.Query)
		}
		s = "ask " + a.Service + " by HTTP, " + x.q.probe.Method + " " + path
		told = "it is told " + strings.Join(append([]string{"authorization"}, a.Headers...), ", ")
		all = "its yes brings " + listText(a.Grants, "the headers of its answer")
	}
	s += "; " + told
	if a.MaxBody > 0 {
		s += fmt.Sprintf(" and a body of at most %d bytes", a.MaxBody)
	}
	return s + "; " + all
}

// unasked is the fault of filters whose authoriser cannot be asked; nil if all can.
func (x *explainer) unasked(list []plan.Filter) *explainedFault {
	for i := range list {
		a := list[i].Auth
		if a == nil {
			continue
		}
		if s := x.service(a.Service); s == nil || len(s.Endpoints) == 0 && s.Hostname == "" {
			return newFault(record.AuthFailed, "authoriser "+a.Service+" has no ready endpoint")
		}
	}
	return nil
}

func listText(list []string, none string) string {
	if len(list) == 0 {
		return none
	}
	return strings.Join(list, ", ")
}

func timeoutsText(t plan.Timeouts) string {
	var all []string
	if t.Request > 0 {
		all = append(all, fmt.Sprintf("%v for the request", t.Request))
	}
	if t.Backend > 0 {
		all = append(all, fmt.Sprintf("%v for each attempt", t.Backend))
	}
	return strings.Join(all, ", ")
}

func retriesText(r *plan.Retry) string {
	switch {
	case r == nil:
		return ""
	case r.Attempts == 0:
		return "none"
	}
	s := fmt.Sprintf("at most %d", r.Attempts)
	if len(r.Codes) > 0 {
		s += " after a status of " + strings.Trim(strings.ReplaceAll(fmt.Sprint(r.Codes), " ", ", "), "[]")
	}
	if r.Backoff > 0 {
		s += fmt.Sprintf(", the first after %v", r.Backoff)
	}
	return s
}
