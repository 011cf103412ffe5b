package translate

import (
	"fmt"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// This file compiles what a rule does besides sending a request to one backend:
// retries, mirrors, CORS.

// retry compiles a rule's retry.
func (c *compiler) retry(rule *plan.Rule, spec *gatewayv1.HTTPRouteRetry, field func() string) verdict {
	if spec == nil || !c.t.carried.Retry {
		return verdict{}
	}
	r := &plan.Retry{Attempts: 1}
	var bad verdict
	refuse := func(sub, message, mend string) {
		v := unsupported(message)
		c.find(object.Error, field()+".retry"+sub, v.reason, v.message, mend)
		bad = first(bad, v)
	}
	for i, code := range spec.Codes {
		if code < 400 || code > 599 {
			refuse(fmt.Sprintf(".codes[%d]", i), fmt.Sprintf("%d is not the status of an error", code), "use codes from 400 to 599")
		}
		r.Codes = append(r.Codes, int(code))
	}
	if spec.Attempts != nil {
		r.Attempts = *spec.Attempts
	}
	if r.Attempts < 0 {
		refuse(".attempts", fmt.Sprintf("%d is not a number of attempts", r.Attempts), "use 0 to have nothing tried again")
	}
	if spec.Backoff != nil {
		parsed, err := time.ParseDuration(string(*spec.Backoff))
		if err != nil || parsed < 0 {
			refuse(".backoff", fmt.Sprintf("backoff %q is not a duration", *spec.Backoff), "write it as 500ms, 10s or 1m30s")
		}
		r.Backoff = parsed
	}
	rule.Retry = r
	return bad
}

// mirror compiles a mirror. One whose backend does not resolve is left out, as
// the API asks; the status says so. The string is the field below the filter
// that is bad.
func (c *compiler) mirror(f *gatewayv1.HTTPRequestMirrorFilter, at place, i int) (plan.Filter, verdict, string) {
	m := &plan.Mirror{Num: 1, Den: 1}
	switch {
	case f.Percent != nil && f.Fraction != nil:
		return plan.Filter{}, unsupported("percent and fraction exclude each other"), ".requestMirror"
	case f.Percent != nil:
		m.Num, m.Den = *f.Percent, 100
	case f.Fraction != nil:
		m.Num, m.Den = f.Fraction.Numerator, 100
		if f.Fraction.Denominator != nil {
			m.Den = *f.Fraction.Denominator
		}
	}
	if m.Den <= 0 || m.Num < 0 || m.Num > m.Den {
		return plan.Filter{}, unsupported(fmt.Sprintf("%d of %d is not a share of the requests", m.Num, m.Den)), ".requestMirror"
	}
	target, v := c.resolve(&f.BackendRef, func() string { return fmt.Sprintf("%s.filters[%d].requestMirror.backendRef", at.field(), i) })
	if !v.ok() {
		c.unresolved(v)
		return plan.Filter{}, verdict{}, ""
	}
	if c.t.unbelieved(target) != "" {
		return plan.Filter{}, verdict{}, "" // the policy's status says why
	}
	c.send(target)
	m.Service = target.String()
	return plan.Filter{Mirror: m}, verdict{}, ""
}

// cors compiles a CORS filter.
func cors(f *gatewayv1.HTTPCORSFilter, at place) (plan.Filter, verdict) {
	if at.backend {
		return plan.Filter{}, unsupported("a backend cannot answer preflights; put the filter into the rule")
	}
	made := plan.Filter{CORS: &plan.CORS{
		Origins: texts(f.AllowOrigins), Methods: texts(f.AllowMethods), Headers: texts(f.AllowHeaders), Expose: texts(f.ExposeHeaders),
		Credentials: f.AllowCredentials != nil && *f.AllowCredentials, MaxAge: f.MaxAge,
	}}
	if !made.Safe() {
		return plan.Filter{}, unsupported("an origin is not SCHEME://HOST[:PORT], or a method or header is not a name")
	}
	return made, verdict{}
}

func texts[T ~string](list []T) []string {
	var out []string
	for _, s := range list {
		out = append(out, string(s))
	}
	return out
}
