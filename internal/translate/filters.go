package translate

import (
	"fmt"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// place is where filters are written.
type place struct {
	field    func() string // of what holds the filters
	backend  bool          // of a backend, not of a rule
	prefixes bool          // every match of the rule is a path prefix
}

// filters compiles the filters of a rule or of a backend. If one of them
// cannot be carried out, its verdict stands for all; if c.halted is set, its
// sentence does.
func (c *compiler) filters(list []gatewayv1.HTTPRouteFilter, at place) ([]plan.Filter, verdict) {
	var out []plan.Filter
	var bad verdict
	c.halted = ""
	redirects, rewrites := false, false
	for i := range list {
		f := &list[i]
		made, v, sub := c.filter(f, at, i)
		if v.ok() && !made.Safe() {
			v = unsupported("the filter would write a control character, or a space where none can be, into a head")
		}
		redirects = redirects || made.Redirect != nil
		rewrites = rewrites || made.Rewrite != nil
		if v.ok() {
			if made != (plan.Filter{}) { // what has no backend: a mirror is left out, and c.halted speaks of an authoriser
				out = append(out, made)
			}
			continue
		}
		c.find(object.Error, fmt.Sprintf("%s.filters[%d]%s", at.field(), i, sub), v.reason, v.message, "correct or remove the filter")
		if bad.ok() {
			bad = v
		}
	}
	if redirects && rewrites && bad.ok() {
		bad = verdict{string(gatewayv1.RouteReasonIncompatibleFilters), "a redirect and a rewrite exclude each other"}
		c.find(object.Error, at.field()+".filters", bad.reason, bad.message, "keep one of them")
	}
	return out, bad
}

func unsupported(message string) verdict {
	return verdict{string(gatewayv1.RouteReasonUnsupportedValue), message}
}

// filter compiles one filter; the string is the field below it that is bad.
func (c *compiler) filter(f *gatewayv1.HTTPRouteFilter, at place, i int) (plan.Filter, verdict, string) {
	missing := unsupported(fmt.Sprintf("filter %s lacks what its type needs", f.Type))
	switch f.Type {
	case gatewayv1.HTTPRouteFilterRequestHeaderModifier:
		if f.RequestHeaderModifier == nil {
			return plan.Filter{}, missing, ""
		}
		return plan.Filter{RequestHeaders: headerEdit(f.RequestHeaderModifier)}, checkHeaders(f.RequestHeaderModifier, true), ".requestHeaderModifier"
	case gatewayv1.HTTPRouteFilterResponseHeaderModifier:
		if f.ResponseHeaderModifier == nil {
			return plan.Filter{}, missing, ""
		}
		return plan.Filter{ResponseHeaders: headerEdit(f.ResponseHeaderModifier)}, checkHeaders(f.ResponseHeaderModifier, false), ".responseHeaderModifier"
	case gatewayv1.HTTPRouteFilterRequestRedirect:
		if f.RequestRedirect == nil {
			return plan.Filter{}, missing, ""
		}
		if at.backend {
			return plan.Filter{}, unsupported("a backend cannot redirect; put the filter into the rule"), ""
		}
		r, v, sub := redirect(f.RequestRedirect, at)
		return plan.Filter{Redirect: r}, v, ".requestRedirect" + sub
	case gatewayv1.HTTPRouteFilterURLRewrite:
		if f.URLRewrite == nil {
			return plan.Filter{}, missing, ""
		}
		r, v, sub := rewrite(f.URLRewrite, at)
		return plan.Filter{Rewrite: r}, v, ".urlRewrite" + sub
	case gatewayv1.HTTPRouteFilterRequestMirror:
		if c.t.carried.Mirror {
			if f.RequestMirror == nil {
				return plan.Filter{}, missing, ""
			}
			return c.mirror(f.RequestMirror, at, i)
		}
		c.reference(f.RequestMirror != nil, func() *gatewayv1.BackendObjectReference { return &f.RequestMirror.BackendRef }, at, i, ".requestMirror")
	case gatewayv1.HTTPRouteFilterExternalAuth:
		if c.t.carried.Auth {
			if f.ExternalAuth == nil {
				return plan.Filter{}, missing, ""
			}
			made, v, sub := c.auth(f.ExternalAuth, func() string { return fmt.Sprintf("%s.filters[%d].externalAuth", at.field(), i) })
			return made, v, ".externalAuth" + sub
		}
		c.reference(f.ExternalAuth != nil, func() *gatewayv1.BackendObjectReference { return &f.ExternalAuth.BackendRef }, at, i, ".externalAuth")
	case gatewayv1.HTTPRouteFilterCORS:
		if c.t.carried.CORS {
			if f.CORS == nil {
				return plan.Filter{}, missing, ""
			}
			made, v := cors(f.CORS, at)
			return made, v, ".cors"
		}
	case gatewayv1.HTTPRouteFilterExtensionRef:
		if f.ExtensionRef != nil {
			return plan.Filter{}, unsupported(fmt.Sprintf("windrose knows no filter of kind %s in group %s", f.ExtensionRef.Kind, f.ExtensionRef.Group)), ".extensionRef"
		}
	default:
		return plan.Filter{}, unsupported(fmt.Sprintf("windrose knows no filter of type %s", f.Type)), ".type"
	}
	return plan.Filter{}, unsupported(fmt.Sprintf("windrose does not carry filter %s yet", f.Type)), ""
}

// reference checks the backend that a filter names.
func (c *compiler) reference(there bool, ref func() *gatewayv1.BackendObjectReference, at place, i int, sub string) {
	if !there {
		return
	}
	if _, v := c.resolve(ref(), func() string { return fmt.Sprintf("%s.filters[%d]%s.backendRef", at.field(), i, sub) }); !v.ok() {
		c.unresolved(v)
	}
}

func headerEdit(f *gatewayv1.HTTPHeaderFilter) *plan.HeaderEdit {
	e := &plan.HeaderEdit{Set: headers(f.Set), Add: headers(f.Add)}
	for _, name := range f.Remove {
		e.Remove = append(e.Remove, strings.ToLower(name))
	}
	return e
}

// connectionHeaders say how a message is framed and what becomes of its
// connection. windrose alone writes them.
var connectionHeaders = []string{
	"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
}

// checkHeaders refuses changes of headers that are not the author's.
func checkHeaders(f *gatewayv1.HTTPHeaderFilter, request bool) verdict {
	check := func(name string) verdict {
		name = strings.ToLower(name)
		if slices.Contains(connectionHeaders, name) {
			return unsupported(fmt.Sprintf("header %s belongs to the connection, so that a filter cannot change it", name))
		}
		if request && name == "host" {
			return unsupported("a header filter cannot change Host; use a URLRewrite with a hostname")
		}
		return verdict{}
	}
	var bad verdict
	for _, list := range [][]gatewayv1.HTTPHeader{f.Set, f.Add} {
		for _, h := range list {
			bad = first(bad, check(string(h.Name)))
		}
	}
	for _, name := range f.Remove {
		bad = first(bad, check(name))
	}
	return bad
}

func headers(list []gatewayv1.HTTPHeader) []plan.Header {
	var out []plan.Header
	for _, h := range list {
		out = append(out, plan.Header{Name: string(h.Name), Value: h.Value})
	}
	return out
}

func redirect(f *gatewayv1.HTTPRequestRedirectFilter, at place) (*plan.Redirect, verdict, string) {
	r := &plan.Redirect{Status: 302}
	if f.Scheme != nil {
		r.Scheme = strings.ToLower(*f.Scheme)
		if r.Scheme != "http" && r.Scheme != "https" {
			return r, unsupported(fmt.Sprintf("a redirect to scheme %q is not known; http and https are", *f.Scheme)), ".scheme"
		}
	}
	if f.Hostname != nil {
		r.Host = string(*f.Hostname)
	}
	if f.Port != nil {
		if !isPort(*f.Port) {
			return r, unsupported(fmt.Sprintf("%d is not a port", *f.Port)), ".port"
		}
		r.Port = uint16(*f.Port)
	}
	if f.StatusCode != nil {
		r.Status = *f.StatusCode
	}
	switch r.Status {
	case 301, 302, 303, 307, 308:
	default:
		return r, unsupported(fmt.Sprintf("%d is not the status of a redirect; 301, 302, 303, 307 and 308 are", r.Status)), ".statusCode"
	}
	path, v := pathEdit(f.Path, at)
	r.Path = path
	return r, v, ".path"
}

func rewrite(f *gatewayv1.HTTPURLRewriteFilter, at place) (*plan.Rewrite, verdict, string) {
	r := &plan.Rewrite{}
	if f.Hostname != nil {
		r.Host = string(*f.Hostname)
	}
	path, v := pathEdit(f.Path, at)
	r.Path = path
	return r, v, ".path"
}

func pathEdit(m *gatewayv1.HTTPPathModifier, at place) (*plan.PathEdit, verdict) {
	switch {
	case m == nil:
		return nil, verdict{}
	case m.Type == gatewayv1.FullPathHTTPPathModifier && m.ReplaceFullPath != nil:
		return &plan.PathEdit{Full: m.ReplaceFullPath}, verdict{}
	case m.Type == gatewayv1.PrefixMatchHTTPPathModifier && m.ReplacePrefixMatch != nil:
		if !at.prefixes && !at.backend {
			return nil, unsupported("ReplacePrefixMatch needs a rule that matches by path prefix alone")
		}
		return &plan.PathEdit{Prefix: m.ReplacePrefixMatch}, verdict{}
	}
	return nil, unsupported(fmt.Sprintf("path type %s with its value is not known", m.Type))
}
