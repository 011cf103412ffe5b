package translate

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// everything is the match of a rule without matches.
var everything = gatewayv1.HTTPRouteMatch{}

func compileHTTP(t *Translator, o *gatewayv1.HTTPRoute) *compiled {
	c := newCompiler(t, "HTTPRoute", o)
	list := c.attach(&o.Spec.CommonRouteSpec, o.Spec.Hostnames)

	specs := o.Spec.Rules
	if len(specs) == 0 {
		specs = []gatewayv1.HTTPRouteRule{{}}
	}
	rules := make([]plan.Rule, 0, len(specs))
	for i := range specs {
		if rule, ok := c.rule(i, &specs[i]); ok {
			rules = append(rules, rule)
		}
	}
	return c.conclude(o, list, routePart("HTTPRoute", o, attachments(list, o.Spec.Hostnames), rules), len(specs))
}

// conclude finishes a route of so many rules. One of which no rule can be
// carried out is not accepted as a whole; it stays in the plan, where its
// requests are answered with the reason.
func (c *compiler) conclude(o metav1.Object, list []attached, part *plan.Part, rules int) *compiled {
	if c.dead == rules {
		for i := range list {
			if list[i].parent != nil && list[i].accepted.ok() {
				list[i].accepted = c.invalid
			}
		}
	}
	return c.finish(o, list, part)
}

// routePart is nil for a route that is attached to nothing that serves.
func routePart(kind string, o metav1.Object, attach []plan.Attachment, rules []plan.Rule) *plan.Part {
	if len(attach) == 0 || len(rules) == 0 {
		return nil
	}
	created := o.GetCreationTimestamp()
	return &plan.Part{
		Key:   plan.Key{Kind: plan.KindRoute, Name: kind + "/" + o.GetNamespace() + "/" + o.GetName()},
		Route: &plan.Route{Created: created.Unix(), Attach: attach, Rules: rules},
	}
}

// reject notes a rule that cannot be carried out.
func (c *compiler) reject(v verdict, i int, name *gatewayv1.SectionName) {
	if c.invalid.ok() {
		c.invalid = v
	}
	label := fmt.Sprintf("%d", i)
	if name != nil {
		label += " (" + string(*name) + ")"
	}
	c.broken = append(c.broken, label)
}

// rule compiles a rule. It is dropped only if there is no telling which
// requests it takes.
func (c *compiler) rule(i int, spec *gatewayv1.HTTPRouteRule) (plan.Rule, bool) {
	rule := plan.Rule{}
	bad := c.matches(&rule, spec, func() string { return fmt.Sprintf("spec.rules[%d]", i) })
	return c.complete(i, spec, rule, bad)
}

// complete compiles what a rule does besides its matches; bad is the verdict on
// these.
func (c *compiler) complete(i int, spec *gatewayv1.HTTPRouteRule, rule plan.Rule, bad verdict) (plan.Rule, bool) {
	field := func() string { return fmt.Sprintf("spec.rules[%d]", i) }
	if spec.Name != nil {
		rule.Name = string(*spec.Name)
	}
	prefixes := true
	for _, m := range rule.Matches {
		prefixes = prefixes && m.PathType == plan.PathPrefix
	}
	services := len(c.services)
	filters, v := c.filters(spec.Filters, place{field: field, prefixes: prefixes})
	rule.Filters = filters
	halted := c.halted
	bad = first(bad, v)
	bad = first(bad, c.features(spec, field))
	bad = first(bad, c.timeouts(&rule, spec, field))
	bad = first(bad, c.retry(&rule, spec.Retry, field))
	bad = first(bad, c.session(&rule, i, spec, field))

	var worst verdict // of filters of backends
	refused := 0
	for j := range spec.BackendRefs {
		b, v := c.backend(i, j, &spec.BackendRefs[j])
		rule.Backends = append(rule.Backends, b)
		if !v.ok() {
			worst = first(worst, v)
			refused++
		}
	}
	if refused > 0 && refused == len(spec.BackendRefs) {
		bad = first(bad, worst)
	} else if refused > 0 {
		c.reject(worst, i, spec.Name)
	}
	if !bad.ok() {
		c.reject(bad, i, spec.Name)
		c.dead++
		rule.Broken = &plan.Broken{Status: statusBroken, Reason: fmt.Sprintf("rule %d of %s: %s", i, c.key, bad.message)}
		rule.Filters, rule.Backends, rule.Session = nil, nil, nil
		c.services = c.services[:services]
		return rule, len(rule.Matches) > 0
	}
	if halted != "" {
		rule.Broken = &plan.Broken{Status: statusBroken, Reason: fmt.Sprintf("rule %d of %s: %s", i, c.key, halted)}
		rule.Filters, rule.Backends = nil, nil
		c.services = c.services[:services]
		return rule, true
	}
	if len(rule.Backends) == 0 && !redirects(rule.Filters) {
		c.noBackend(&rule, i, field)
	}
	return rule, true
}

// noBackend tells the author of a rule that answers nothing itself.
func (c *compiler) noBackend(rule *plan.Rule, i int, field func() string) {
	if rule.GRPC {
		c.find(object.Warning, field()+".backendRefs", reasonNoBackend, "the rule has no backend, so that its requests are answered with UNAVAILABLE", "add a backendRef")
		rule.Broken = &plan.Broken{Status: statusUnavailable, Reason: fmt.Sprintf("rule %d of %s has no backend", i, c.key)}
		return
	}
	c.find(object.Warning, field()+".backendRefs", reasonNoBackend, "the rule has no backend, so that its requests are answered with 500", "add a backendRef, or a RequestRedirect")
}

// unresolvedStatus answers for a backend that does not resolve.
func (c *compiler) unresolvedStatus() int {
	if c.key.Kind == "GRPCRoute" {
		return statusUnavailable
	}
	return statusBroken
}

func first(a, b verdict) verdict {
	if a.ok() {
		return b
	}
	return a
}

func redirects(list []plan.Filter) bool {
	for i := range list {
		if list[i].Redirect != nil {
			return true
		}
	}
	return false
}

// features refuses what a rule can ask for and the data plane does not carry.
func (c *compiler) features(spec *gatewayv1.HTTPRouteRule, field func() string) verdict {
	if r := spec.Retry; r != nil && !c.t.carried.Retry && (r.Attempts == nil || *r.Attempts > 0) {
		v := unsupported("windrose does not carry retries yet")
		c.find(object.Error, field()+".retry", v.reason, v.message, "remove it, or set attempts to 0")
		return v
	}
	return verdict{}
}

func (c *compiler) timeouts(rule *plan.Rule, spec *gatewayv1.HTTPRouteRule, field func() string) verdict {
	if spec.Timeouts == nil {
		return verdict{}
	}
	var bad verdict
	read := func(d *gatewayv1.Duration, name string) time.Duration {
		if d == nil {
			return 0
		}
		parsed, err := time.ParseDuration(string(*d))
		if err != nil || parsed < 0 {
			bad = first(bad, unsupported(fmt.Sprintf("timeout %q is not a duration", *d)))
			c.find(object.Error, field()+".timeouts."+name, bad.reason, bad.message, "write it as 500ms, 10s or 1m30s")
		}
		return parsed
	}
	rule.Timeouts = plan.Timeouts{Request: read(spec.Timeouts.Request, "request"), Backend: read(spec.Timeouts.BackendRequest, "backendRequest")}
	return bad
}

const mendMatch = "correct or remove the match"

// matches compiles the matches of a rule; one that cannot be compiled is left
// out and makes the rule bad.
func (c *compiler) matches(rule *plan.Rule, spec *gatewayv1.HTTPRouteRule, field func() string) verdict {
	list := spec.Matches
	if len(list) == 0 {
		list = []gatewayv1.HTTPRouteMatch{everything}
	}
	var bad verdict
	rule.Matches = make([]plan.Match, 0, len(list))
	for j := range list {
		m, v, sub := compileMatch(&list[j])
		if !v.ok() {
			c.find(object.Error, fmt.Sprintf("%s.matches[%d]%s", field(), j, sub), v.reason, v.message, mendMatch)
			bad = first(bad, v)
			continue
		}
		rule.Matches = append(rule.Matches, m)
	}
	return bad
}

func compileMatch(m *gatewayv1.HTTPRouteMatch) (plan.Match, verdict, string) {
	out := plan.Match{PathType: plan.PathPrefix, Path: "/"}
	if v := compilePath(&out, m.Path); !v.ok() {
		return out, v, ".path"
	}
	if m.Method != nil {
		out.Method = string(*m.Method)
	}
	for i, h := range m.Headers {
		regex := h.Type != nil && *h.Type == gatewayv1.HeaderMatchRegularExpression
		if h.Type != nil && !regex && *h.Type != gatewayv1.HeaderMatchExact {
			return out, unsupported(fmt.Sprintf("windrose knows no header match of type %s", *h.Type)), fmt.Sprintf(".headers[%d].type", i)
		}
		v := addMatch(&out.Headers, plan.NameMatch{Name: strings.ToLower(string(h.Name)), Value: h.Value, Regex: regex})
		if !v.ok() {
			return out, v, fmt.Sprintf(".headers[%d].value", i)
		}
	}
	for i, q := range m.QueryParams {
		regex := q.Type != nil && *q.Type == gatewayv1.QueryParamMatchRegularExpression
		if q.Type != nil && !regex && *q.Type != gatewayv1.QueryParamMatchExact {
			return out, unsupported(fmt.Sprintf("windrose knows no query match of type %s", *q.Type)), fmt.Sprintf(".queryParams[%d].type", i)
		}
		if v := addMatch(&out.Query, plan.NameMatch{Name: string(q.Name), Value: q.Value, Regex: regex}); !v.ok() {
			return out, v, fmt.Sprintf(".queryParams[%d].value", i)
		}
	}
	return out, verdict{}, ""
}

// addMatch adds a match unless the name has one: only the first counts.
func addMatch(list *[]plan.NameMatch, m plan.NameMatch) verdict {
	for _, have := range *list {
		if have.Name == m.Name {
			return verdict{}
		}
	}
	if m.Regex {
		if v := checkRegex(m.Value); !v.ok() {
			return v
		}
	}
	*list = append(*list, m)
	return verdict{}
}

func compilePath(out *plan.Match, p *gatewayv1.HTTPPathMatch) verdict {
	if p == nil {
		return verdict{}
	}
	kind, value := gatewayv1.PathMatchPathPrefix, "/"
	if p.Type != nil {
		kind = *p.Type
	}
	if p.Value != nil && *p.Value != "" {
		value = *p.Value
	}
	switch kind {
	case gatewayv1.PathMatchExact:
		out.PathType, out.Path = plan.PathExact, value
	case gatewayv1.PathMatchPathPrefix:
		out.Path = value
	case gatewayv1.PathMatchRegularExpression:
		out.PathType, out.Path = plan.PathRegex, value
		return checkRegex(value)
	default:
		return unsupported(fmt.Sprintf("windrose knows no path match of type %s", kind))
	}
	return checkPath(value)
}

// checkPath refuses a path that no request can have.
func checkPath(path string) verdict {
	if _, err := plan.Normalize(nil, []byte(path)); err != nil {
		return unsupported(fmt.Sprintf("path %q cannot be matched: %s", path, err))
	}
	return verdict{}
}

// maxRegex and maxSteps bound what one match can cost in memory and time. A match
// takes each byte of its input through as many steps of the expression as are
// possible at that place, so that counts in braces, which make many of few
// letters, would let the author of one route hold up an event loop for minutes.
const (
	maxRegex = 4096
	maxSteps = 1000
)

// steps is about how many steps an expression has once its counts are written
// out, or something above maxSteps.
func steps(re *syntax.Regexp) int {
	n := 1
	switch re.Op {
	case syntax.OpLiteral:
		n = len(re.Rune)
	case syntax.OpRepeat:
		n = 0
	}
	for _, sub := range re.Sub {
		n = min(n+steps(sub), maxSteps+1)
	}
	if re.Op == syntax.OpRepeat {
		n = (n + 1) * max(re.Min, re.Max, 1)
	}
	return n
}

func checkRegex(expr string) verdict {
	if len(expr) > maxRegex {
		return unsupported(fmt.Sprintf("the regular expression is longer than %d bytes", maxRegex))
	}
	if re, err := syntax.Parse(expr, syntax.Perl); err == nil && steps(re) > maxSteps {
		return unsupported(fmt.Sprintf("the regular expression comes to more than %d steps once its counts are written out: use + or * in place of large counts, or several matches", maxSteps))
	}
	// The expression is compiled as it is written, so that the error speaks of
	// it, and so that it cannot break out of the anchors that it gets.
	if _, err := regexp.Compile(expr); err != nil {
		return unsupported(fmt.Sprintf("%q is not a regular expression that windrose can use (RE2): %s", expr, strings.TrimPrefix(err.Error(), "error parsing regexp: ")))
	}
	return verdict{}
}
