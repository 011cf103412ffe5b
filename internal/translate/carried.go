package translate

import (
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Carried says what the data plane carries besides HTTP/1. What it does not
// carry is checked, and refused in plain words where it would have an effect.
type Carried struct {
	TLSPassthrough bool // listeners of protocol TLS that leave the handshake to the service
	TLSTerminate   bool // listeners of protocol TLS that end TLS
	TCP            bool // TCPRoutes
	UDP            bool // UDPRoutes
	H2C            bool // HTTP/2 in cleartext to services
	GRPC           bool // GRPCRoutes; without H2C there is nothing that they could send to
	CORS           bool // filter CORS
	Retry          bool // retry of rules
	Mirror         bool // filter RequestMirror
	Session        bool // session persistence
	XBackend       bool // XBackends
	Auth           bool // filter ExternalAuth, of rules and of listeners
	Tracing        bool // spans, as GatewayParameters and XTelemetryPolicies ask for them
	BackendTLS     bool // BackendTLSPolicies
	ClientCerts    bool // client certificates: asked of clients, and shown to backends
	TrustBundles   bool // ClusterTrustBundles as authorities
}

// DataPlane is what the data plane of this windrose carries. It is the one
// place to say so: translation, statuses and the features of a GatewayClass
// follow it.
func DataPlane() Carried {
	return Carried{
		TLSPassthrough: true,
		TLSTerminate:   true,
		TCP:            true,
		UDP:            true,
		H2C:            true,
		GRPC:           true,
		CORS:           true,
		Retry:          true,
		Mirror:         true,
		Session:        true,
		XBackend:       true,
		Auth:           true,
		Tracing:        true,
		BackendTLS:     true,
		ClientCerts:    true,
		TrustBundles:   true,
	}
}

// normal leaves out what cannot work by itself.
func (c Carried) normal() Carried {
	c.GRPC = c.GRPC && c.H2C
	c.ClientCerts = c.ClientCerts && c.BackendTLS
	return c
}

// tls says whether any listener of protocol TLS is carried.
func (c *Carried) tls() bool { return c.TLSPassthrough || c.TLSTerminate }

// kind says whether routes of a kind are carried.
func (c *Carried) kind(kind string) bool {
	switch kind {
	case "HTTPRoute":
		return true
	case "GRPCRoute":
		return c.GRPC
	case "TLSRoute":
		return c.tls()
	case "TCPRoute":
		return c.TCP
	case "UDPRoute":
		return c.UDP
	}
	return false
}

// kinds are the kinds of routes that windrose serves under a protocol.
func (c *Carried) kinds(p gatewayv1.ProtocolType) []gatewayv1.Kind {
	return slices.DeleteFunc(naturalKinds(p), func(k gatewayv1.Kind) bool { return !c.kind(string(k)) })
}

// naturalKinds are the kinds of routes that fit a protocol.
func naturalKinds(p gatewayv1.ProtocolType) []gatewayv1.Kind {
	switch p {
	case gatewayv1.HTTPProtocolType, gatewayv1.HTTPSProtocolType:
		return []gatewayv1.Kind{"HTTPRoute", "GRPCRoute"}
	case gatewayv1.TLSProtocolType:
		return []gatewayv1.Kind{"TLSRoute"}
	case gatewayv1.TCPProtocolType:
		return []gatewayv1.Kind{"TCPRoute"}
	case gatewayv1.UDPProtocolType:
		return []gatewayv1.Kind{"UDPRoute"}
	}
	return nil
}

// Features are the features of Gateway API that windrose carries, in
// alphabetical order.
func (c Carried) Features() []gatewayv1.FeatureName {
	list := []gatewayv1.FeatureName{
		"Gateway",
		"GatewayAddressEmpty",
		"GatewayAddressRoutability",
		"GatewayHTTPListenerIsolation",
		"GatewayHTTPSListenerDetectMisdirectedRequests",
		"GatewayPort8080",
		"GatewayRouteHostnameIntersectionPrecedence",
		"GatewayStaticAddresses",
		"HTTPRoute",
		"HTTPRoute303RedirectStatusCode",
		"HTTPRoute307RedirectStatusCode",
		"HTTPRoute308RedirectStatusCode",
		"HTTPRouteBackendProtocolWebSocket",
		"HTTPRouteBackendRequestHeaderModification",
		"HTTPRouteBackendTimeout",
		"HTTPRouteBackendURLRewrite",
		"HTTPRouteDestinationPortMatching",
		"HTTPRouteHostRewrite",
		"HTTPRouteMethodMatching",
		"HTTPRouteNamedRouteRule",
		"HTTPRouteParentRefPort",
		"HTTPRoutePathRedirect",
		"HTTPRoutePathRewrite",
		"HTTPRoutePortRedirect",
		"HTTPRouteQueryParamMatching",
		"HTTPRouteRequestTimeout",
		"HTTPRouteResponseHeaderModification",
		"HTTPRouteSchemeRedirect",
		"ListenerSet",
		"ReferenceGrant",
	}
	add := func(carried bool, names ...gatewayv1.FeatureName) {
		if carried {
			list = append(list, names...)
		}
	}
	add(c.BackendTLS, "BackendTLSPolicy", "BackendTLSPolicySANValidation")
	add(c.ClientCerts, "GatewayBackendClientCertificate", "GatewayFrontendClientCertificateValidation", "GatewayFrontendClientCertificateValidationInsecureFallback")
	add(c.TrustBundles, "ClusterTrustBundle")
	add(c.Auth, "GatewayListenerFilters")
	add(c.GRPC, "GRPCRoute", "GRPCRouteNamedRouteRule", "GRPCRouteRequestHeaderModifier")
	add(c.H2C, "HTTPRouteBackendProtocolH2C")
	add(c.CORS, "HTTPRouteCORS")
	add(c.Retry, "HTTPRouteRetryCodes", "HTTPRouteRetryConnectionError")
	add(c.Mirror, "HTTPRouteRequestMirror", "HTTPRouteRequestMultipleMirrors", "HTTPRouteRequestPercentageMirror")
	add(c.TCP, "TCPRoute")
	// The features of modes count on top of TLSRoute, whose core is passthrough.
	add(c.TLSPassthrough, "TLSRoute")
	add(c.TLSPassthrough && c.TLSTerminate, "TLSRouteModeMixed", "TLSRouteModeTerminate")
	add(c.UDP, "UDPRoute")
	slices.Sort(list)
	return list
}
