package translate

import (
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// This file compiles session persistence, wherever it is written: in a rule, in
// an XBackend, or in an XBackendTrafficPolicy. A rule's goes before that of a
// backend, since it is nearer to the request.

// badField is what is wrong below a field, and how to mend it; without message
// nothing is.
type badField struct{ sub, message, mend string }

// session compiles a session. owner is what a cookie is named after whose author
// gave it no name.
func session(spec *gatewayv1.SessionPersistence, owner string) (*plan.Session, badField) {
	out := &plan.Session{}
	kind := gatewayv1.CookieBasedSessionPersistence
	if spec.Type != nil {
		kind = *spec.Type
	}
	var bad badField
	switch kind {
	case gatewayv1.CookieBasedSessionPersistence:
		bad = cookieOf(out, spec, owner)
	case gatewayv1.HeaderBasedSessionPersistence:
		if spec.Header == nil || spec.Cookie != nil {
			return nil, badField{".header", "a session of type Header needs header, and no cookie", "write header.name"}
		}
		out.Header = strings.ToLower(string(spec.Header.Name))
		if !out.Safe() {
			bad = badField{".header.name", fmt.Sprintf("%q is no name that a session's header can have", spec.Header.Name), "use a name of its own, as X-Session"}
		}
	default:
		return nil, badField{".type", fmt.Sprintf("windrose knows no session of type %s", kind), "write Cookie or Header"}
	}
	if bad.message != "" {
		return nil, bad
	}
	if spec.AbsoluteTimeout != nil {
		parsed, err := time.ParseDuration(string(*spec.AbsoluteTimeout))
		if err != nil || parsed < 0 {
			return nil, badField{".absoluteTimeout", fmt.Sprintf("timeout %q is not a duration", *spec.AbsoluteTimeout), "write it as 30m or 12h"}
		}
		out.Timeout = parsed
	}
	if out.Permanent && out.Timeout == 0 {
		return nil, badField{".absoluteTimeout", "a permanent cookie needs to know for how long", "write absoluteTimeout, or lifetimeType: Session"}
	}
	if !out.Safe() {
		return nil, badField{".absoluteTimeout", fmt.Sprintf("a session cannot last for %v", out.Timeout), "write a shorter one"}
	}
	return out, badField{}
}

func cookieOf(out *plan.Session, spec *gatewayv1.SessionPersistence, owner string) badField {
	if spec.Header != nil {
		return badField{".header", "a session of type Cookie has no header", "remove it, or write type: Header"}
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(owner))
	out.Cookie = fmt.Sprintf("windrose-%016x", h.Sum64())
	c := spec.Cookie
	if c == nil {
		return badField{}
	}
	if c.Name != nil {
		out.Cookie = string(*c.Name)
		if !out.Safe() {
			return badField{".cookie.name", fmt.Sprintf("%q cannot be the name of a cookie", *c.Name), "use letters, digits, - and _"}
		}
	}
	if c.Path != nil && *c.Path != "/" {
		out.Path = *c.Path
		if !out.Safe() {
			return badField{".cookie.path", fmt.Sprintf("%q cannot be the path of a cookie", *c.Path), "begin with /, and write no space or semicolon"}
		}
	}
	if c.LifetimeType == nil {
		return badField{}
	}
	switch *c.LifetimeType {
	case gatewayv1.SessionCookieLifetimeType:
	case gatewayv1.PermanentCookieLifetimeType:
		out.Permanent = true
	default:
		return badField{".cookie.lifetimeType", fmt.Sprintf("windrose knows no cookie of lifetime %s", *c.LifetimeType), "write Session or Permanent"}
	}
	return badField{}
}

// session compiles that of a rule.
func (c *compiler) session(rule *plan.Rule, i int, spec *gatewayv1.HTTPRouteRule, field func() string) verdict {
	if spec.SessionPersistence == nil { //nolint:staticcheck // deprecated, and accepted by the API, so it is not ignored
		return verdict{}
	}
	refuse := func(sub, message, mend string) verdict {
		v := unsupported(message)
		c.find(object.Error, field()+".sessionPersistence"+sub, v.reason, v.message, mend)
		return v
	}
	if !c.t.carried.Session {
		return refuse("", "windrose does not carry session persistence yet", "remove it")
	}
	owner := fmt.Sprintf("%s rule %d", c.key, i)
	if rule.Name != "" {
		owner = c.key.String() + " rule " + rule.Name
	}
	made, bad := session(spec.SessionPersistence, owner) //nolint:staticcheck // as above
	if bad.message != "" {
		return refuse(bad.sub, bad.message, bad.mend)
	}
	for j := range spec.BackendRefs {
		if name, both := c.affine(&spec.BackendRefs[j].BackendObjectReference); both {
			return refuse("", "Service "+name+" has sessionAffinity ClientIP, which excludes session persistence", "write sessionAffinity: None there, or remove sessionPersistence")
		}
	}
	rule.Session = made
	return verdict{}
}

// affine says whether a reference is to a Service that has a session affinity of
// its own. Both together are refused, as GEP-1619 wants it.
func (c *compiler) affine(ref *gatewayv1.BackendObjectReference) (string, bool) {
	if ref.Group != nil && *ref.Group != "" || ref.Kind != nil && *ref.Kind != "Service" {
		return "", false
	}
	name := object.Name{Namespace: c.key.Namespace, Name: string(ref.Name)}
	if ref.Namespace != nil {
		name.Namespace = string(*ref.Namespace)
	}
	c.in.services = append(c.in.services, name)
	svc, ok := c.t.set.Services.Get(name.Namespace, name.Name)
	return name.String(), ok && svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP
}
