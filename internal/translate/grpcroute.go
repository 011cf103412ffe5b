package translate

import (
	"fmt"
	"regexp/syntax"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// compileGRPC makes of a GRPCRoute what an HTTPRoute could nearly be: the method
// is the path /SERVICE/METHOD. Its rules take gRPC requests alone, so that an
// HTTPRoute of the same host name keeps what is meant for it, and both are
// accepted.
func compileGRPC(t *Translator, o *gatewayv1.GRPCRoute) *compiled {
	c := newCompiler(t, "GRPCRoute", o)
	list := c.attach(&o.Spec.CommonRouteSpec, o.Spec.Hostnames)
	specs := o.Spec.Rules
	if !t.carried.GRPC {
		for i := range specs {
			for j := range specs[i].BackendRefs {
				c.check(&specs[i].BackendRefs[j].BackendRef, i, j)
			}
		}
		c.notCarried(list)
		return c.finish(o, list, nil)
	}
	if len(specs) == 0 {
		specs = []gatewayv1.GRPCRouteRule{{}}
	}
	rules := make([]plan.Rule, 0, len(specs))
	for i := range specs {
		rule := plan.Rule{GRPC: true}
		bad := c.grpcMatches(&rule, specs[i].Matches, i)
		if rule, ok := c.complete(i, asHTTP(&specs[i]), rule, bad); ok {
			rules = append(rules, rule)
		}
	}
	return c.conclude(o, list, routePart("GRPCRoute", o, attachments(list, o.Spec.Hostnames), rules), len(specs))
}

// check resolves a reference of a route that is not carried, for its status
// alone.
func (c *compiler) check(ref *gatewayv1.BackendRef, rule, backend int) {
	if _, v := c.resolve(&ref.BackendObjectReference, func() string {
		return fmt.Sprintf("spec.rules[%d].backendRefs[%d]", rule, backend)
	}); !v.ok() {
		c.unresolved(v)
	}
}

// asHTTP is a rule in the words of an HTTPRoute, without its matches.
func asHTTP(spec *gatewayv1.GRPCRouteRule) *gatewayv1.HTTPRouteRule {
	out := &gatewayv1.HTTPRouteRule{Name: spec.Name, Filters: filtersAsHTTP(spec.Filters), SessionPersistence: spec.SessionPersistence} //nolint:staticcheck // deprecated, and accepted by the API, so it is not ignored
	for i := range spec.BackendRefs {
		from := &spec.BackendRefs[i]
		out.BackendRefs = append(out.BackendRefs, gatewayv1.HTTPBackendRef{BackendRef: from.BackendRef, Filters: filtersAsHTTP(from.Filters)})
	}
	return out
}

func filtersAsHTTP(list []gatewayv1.GRPCRouteFilter) []gatewayv1.HTTPRouteFilter {
	var out []gatewayv1.HTTPRouteFilter
	for i := range list {
		f := &list[i]
		out = append(out, gatewayv1.HTTPRouteFilter{
			Type: gatewayv1.HTTPRouteFilterType(f.Type), RequestHeaderModifier: f.RequestHeaderModifier, ResponseHeaderModifier: f.ResponseHeaderModifier,
			RequestMirror: f.RequestMirror, ExtensionRef: f.ExtensionRef,
		})
	}
	return out
}

// isGRPC takes the content types of gRPC, application/grpc+proto for one.
var isGRPC = plan.NameMatch{Name: "content-type", Value: "application/grpc.*", Regex: true}

// grpcMatches compiles the matches of a rule; one that cannot be compiled is
// left out and makes the rule bad.
func (c *compiler) grpcMatches(rule *plan.Rule, list []gatewayv1.GRPCRouteMatch, i int) verdict {
	if len(list) == 0 {
		list = []gatewayv1.GRPCRouteMatch{{}}
	}
	var bad verdict
	rule.Matches = make([]plan.Match, 0, len(list))
	for j := range list {
		m, v, sub := compileGRPCMatch(&list[j])
		if !v.ok() {
			c.find(object.Error, fmt.Sprintf("spec.rules[%d].matches[%d]%s", i, j, sub), v.reason, v.message, mendMatch)
			bad = first(bad, v)
			continue
		}
		rule.Matches = append(rule.Matches, m)
	}
	return bad
}

// compileGRPCMatch compiles one match; the string is the field of it that is
// bad.
func compileGRPCMatch(m *gatewayv1.GRPCRouteMatch) (plan.Match, verdict, string) {
	out := plan.Match{PathType: plan.PathPrefix, Path: "/"}
	if v, sub := compileMethod(&out, m.Method); !v.ok() {
		return out, v, ".method" + sub
	}
	for i, h := range m.Headers {
		regex := h.Type != nil && *h.Type == gatewayv1.GRPCHeaderMatchRegularExpression
		if h.Type != nil && !regex && *h.Type != gatewayv1.GRPCHeaderMatchExact {
			return out, unsupported(fmt.Sprintf("windrose knows no header match of type %s", *h.Type)), fmt.Sprintf(".headers[%d].type", i)
		}
		if v := addMatch(&out.Headers, plan.NameMatch{Name: strings.ToLower(string(h.Name)), Value: h.Value, Regex: regex}); !v.ok() {
			return out, v, fmt.Sprintf(".headers[%d].value", i)
		}
	}
	return out, addMatch(&out.Headers, isGRPC), ""
}

// compileMethod makes the path of a method. By the order in which paths are
// tried, a method with its service goes before regular expressions and methods
// of any service, and these before services with all of their methods.
func compileMethod(out *plan.Match, m *gatewayv1.GRPCMethodMatch) (verdict, string) {
	if m == nil {
		return verdict{}, ""
	}
	service, method := valueOf(m.Service), valueOf(m.Method)
	if m.Type != nil && *m.Type == gatewayv1.GRPCMethodMatchRegularExpression {
		return methodRegex(out, service, method)
	}
	if m.Type != nil && *m.Type != gatewayv1.GRPCMethodMatchExact {
		return unsupported(fmt.Sprintf("windrose knows no method match of type %s", *m.Type)), ".type"
	}
	if service != "" && !isService(service) {
		return unsupported(fmt.Sprintf("%q is not the name of a gRPC service", service)), ".service"
	}
	if method != "" && !isIdentifier(method) {
		return unsupported(fmt.Sprintf("%q is not the name of a gRPC method", method)), ".method"
	}
	switch {
	case service != "" && method != "":
		out.PathType, out.Path = plan.PathExact, "/"+service+"/"+method
	case service != "":
		out.Path = "/" + service + "/"
	case method != "":
		out.PathType, out.Path = plan.PathRegex, "/"+anyName+"/"+method
	}
	return verdict{}, ""
}

// anyName takes any service or method.
const anyName = "[^/]+"

func methodRegex(out *plan.Match, service, method string) (verdict, string) {
	first, v := segment(service)
	if !v.ok() {
		return v, ".service"
	}
	second, v := segment(method)
	if !v.ok() {
		return v, ".method"
	}
	out.PathType, out.Path = plan.PathRegex, "/"+first+"/"+second
	return checkRegex(out.Path), ""
}

// segment makes an expression fit for one segment of a path; "" takes any.
func segment(expr string) (string, verdict) {
	if expr == "" {
		return anyName, verdict{}
	}
	if v := checkRegex(expr); !v.ok() {
		return "", v
	}
	// As the parser writes it, no expression reaches into what follows.
	parsed, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return "", unsupported(err.Error())
	}
	return "(?:" + parsed.String() + ")", verdict{}
}

func valueOf(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// isService says whether a name is that of a service with its package.
func isService(name string) bool {
	for label := range strings.SplitSeq(strings.TrimPrefix(name, "."), ".") {
		if !isIdentifier(label) {
			return false
		}
	}
	return true
}

func isIdentifier(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case c == '_', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
		case i > 0 && '0' <= c && c <= '9':
		default:
			return false
		}
	}
	return name != ""
}
