package translate

import (
	"fmt"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// This file compiles ExternalAuth, of rules and backends and of listeners, where it
// goes before routing. What cannot be carried out is never left out: nothing is
// served without it.

// askedByGRPC stands for a kind where a port is looked at that an authoriser is
// asked on by gRPC.
const askedByGRPC = "ExternalAuth with protocol GRPC"

// Reasons that the API names for filters of listeners (GEP-5224), and has no
// constants for.
const (
	reasonInvalidListenerFilter    = "InvalidListenerFilter"
	reasonInvalidListenerFilterRef = "InvalidListenerFilterRef"
)

// auth compiles an ExternalAuth. If its backend cannot be asked, c.halted says why:
// what the filter is for answers nothing but that. The string is the field below
// the filter that is bad.
func (c *compiler) auth(f *gatewayv1.HTTPExternalAuthFilter, field func() string) (plan.Filter, verdict, string) {
	a := &plan.Auth{}
	kind := c.key.Kind
	switch f.ExternalAuthProtocol {
	case gatewayv1.HTTPRouteExternalAuthGRPCProtocol:
		a.GRPC, kind = true, askedByGRPC
		if f.HTTPAuthConfig != nil {
			return plan.Filter{}, unsupported("http is for protocol HTTP"), ".http"
		}
		if g := f.GRPCAuthConfig; g != nil {
			v, sub := names(&a.Headers, g.AllowedRequestHeaders, nil)
			if !v.ok() {
				return plan.Filter{}, v, ".grpc.allowedHeaders" + sub
			}
		}
	case gatewayv1.HTTPRouteExternalAuthHTTPProtocol:
		if f.GRPCAuthConfig != nil {
			return plan.Filter{}, unsupported("grpc is for protocol GRPC"), ".grpc"
		}
		if v, sub := authByHTTP(a, f.HTTPAuthConfig); !v.ok() {
			return plan.Filter{}, v, ".http" + sub
		}
	default:
		return plan.Filter{}, unsupported(fmt.Sprintf("windrose knows no protocol %s to ask by; HTTP and GRPC are known", f.ExternalAuthProtocol)), ".protocol"
	}
	if b := f.ForwardBody; b != nil {
		if b.MaxSize < 0 {
			return plan.Filter{}, unsupported(fmt.Sprintf("%d is not a size", b.MaxSize)), ".forwardBody.maxSize"
		}
		a.MaxBody = int64(b.MaxSize)
	}
	target, v := c.resolveFor(&f.BackendRef, func() string { return field() + ".backendRef" }, kind)
	if !v.ok() {
		c.unresolved(v)
		c.halt("its authoriser cannot be asked: " + v.message)
		return plan.Filter{}, verdict{}, ""
	}
	if why := c.t.unbelieved(target); why != "" {
		c.halt("its authoriser cannot be asked: " + why)
		return plan.Filter{}, verdict{}, ""
	}
	c.send(target)
	a.Service = target.String()
	return plan.Filter{Auth: a}, verdict{}, ""
}

// halt notes why nothing can be served; the first reason stays.
func (c *compiler) halt(why string) {
	if c.halted == "" {
		c.halted = why
	}
}

func authByHTTP(a *plan.Auth, h *gatewayv1.HTTPAuthConfig) (verdict, string) {
	if h == nil {
		return verdict{}, ""
	}
	if h.Path != "" {
		path := "/" + strings.TrimPrefix(h.Path, "/")
		normal, err := plan.Normalize(nil, []byte(path))
		if err != nil {
			return unsupported(fmt.Sprintf("path %q cannot be asked for: %s", h.Path, err)), ".path"
		}
		a.Path = string(normal)
	}
	if v, sub := names(&a.Headers, h.AllowedRequestHeaders, nil); !v.ok() {
		return v, ".allowedHeaders" + sub
	}
	v, sub := names(&a.Grants, h.AllowedResponseHeaders, []string{
		"authority", "content-length", "expect", "forwarded", "host", "x-forwarded-client-cert", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id", "x-windrose-fault",
	})
	return v, ".allowedResponseHeaders" + sub
}

// names reads names of headers; fixed are those that nobody but the gateway sets.
// Those of the connection are never told and never set.
func names(out *[]string, list, fixed []string) (verdict, string) {
	for i, name := range list {
		lower := strings.ToLower(name)
		sub := fmt.Sprintf("[%d]", i)
		switch {
		case !plan.IsToken(lower):
			return unsupported(fmt.Sprintf("%q is not the name of a header", name)), sub
		case lower != "content-length" && slices.Contains(connectionHeaders, lower):
			return unsupported(fmt.Sprintf("header %s belongs to the connection, and goes no further than that", lower)), sub
		case slices.Contains(fixed, lower):
			return unsupported(fmt.Sprintf("header %s is the gateway's to say, so that an authoriser cannot set it", lower)), sub
		}
		if !slices.Contains(*out, lower) {
			*out = append(*out, lower)
		}
	}
	return verdict{}, ""
}

// filters compiles what is done to each request before routing. A filter that is
// not understood keeps the listener from serving; one whose authoriser cannot be
// asked has all of its requests answered with that.
func (m *listenerMaker) filters(l *listener) {
	if !m.t.carried.Auth {
		l.accepted = verdict{string(gatewayv1.ListenerReasonUnsupportedValue), "windrose does not carry filters of listeners yet, and does not serve without them"}
		m.notAccepted(l)
		return
	}
	if l.spec.Protocol != gatewayv1.HTTPProtocolType && l.spec.Protocol != gatewayv1.HTTPSProtocolType {
		l.accepted = verdict{reasonInvalidListenerFilter, "filters are for listeners of protocol HTTP or HTTPS"}
		m.notAccepted(l)
		return
	}
	c := m.refs
	for i := range l.spec.Filters.Requests {
		c.halted, c.resolved, c.findings = "", verdict{}, nil
		made, v, sub := c.listenerFilter(&l.spec.Filters.Requests[i], func() string { return m.field(l.index, fmt.Sprintf(".filters.requests[%d].externalAuth", i)) })
		*m.findings = append(*m.findings, c.findings...)
		at := fmt.Sprintf("filters.requests[%d]", i)
		if !v.ok() {
			m.find(object.Error, m.field(l.index, "."+at+sub), v.reason, v.message, "correct or remove the filter: the listener does not serve without it")
			l.accepted = verdict{v.reason, at + ": " + v.message}
			return
		}
		if c.halted != "" {
			reason := reasonInvalidListenerFilterRef
			if c.resolved.reason == string(gatewayv1.RouteReasonRefNotPermitted) {
				reason = c.resolved.reason
			}
			l.refuse(reason, at+": "+c.halted)
			if l.halted == "" {
				l.halted = fmt.Sprintf("%s of listener %s of %s: %s", at, l.spec.Name, l.owner, c.halted)
			}
		}
		l.filters = append(l.filters, made)
	}
}

func (c *compiler) listenerFilter(f *gatewayv1.ListenerFilter, field func() string) (plan.Filter, verdict, string) {
	refuse := func(reason, message, sub string) (plan.Filter, verdict, string) {
		return plan.Filter{}, verdict{reason, message}, sub
	}
	switch f.Type {
	case gatewayv1.ListenerFilterExternalAuth:
		if f.ExternalAuth == nil {
			return refuse(reasonInvalidListenerFilter, "filter ExternalAuth lacks externalAuth", "")
		}
		made, v, sub := c.auth(f.ExternalAuth, field)
		if v.ok() && made.Auth != nil && !made.Safe() {
			v = verdict{reasonInvalidListenerFilter, "the filter would write what cannot be in a head"}
		}
		if !v.ok() {
			return refuse(reasonInvalidListenerFilter, v.message, ".externalAuth"+sub)
		}
		return made, v, ""
	case gatewayv1.ListenerFilterExtensionRef:
		message := "windrose knows no filter that an ExtensionRef could name"
		if f.ExtensionRef != nil {
			message = fmt.Sprintf("ExtensionRef: windrose knows no filter of kind %s in group %s", f.ExtensionRef.Kind, f.ExtensionRef.Group)
		}
		return refuse(string(gatewayv1.ListenerReasonUnsupportedValue), message, ".extensionRef")
	}
	return refuse(string(gatewayv1.ListenerReasonUnsupportedValue), fmt.Sprintf("windrose knows no filter of type %s here", f.Type), ".type")
}
