package cli

import (
	"fmt"
	"slices"
	"strings"

	"windrose.dev/windrose/internal/object"
)

// kind is a word that get and describe understand.
type kind struct {
	name   string // as in manifests; lower case for a view of several kinds
	plural string
	short  []string
	kinds  []string // what it stands for
}

// cluster says that its objects belong to no namespace.
func (k *kind) cluster() bool {
	known, ok := object.KindNamed(k.name)
	return ok && known.Cluster
}

const (
	viewRoutes    = "routes"
	viewListeners = "listeners"
	viewFindings  = "findings"
)

// kinds are the words that are known, in the order of the help.
var kinds = []kind{
	{name: "GatewayClass", plural: "gatewayclasses", short: []string{"gc"}},
	{name: "Gateway", plural: "gateways", short: []string{"gw", "gtw"}},
	{name: "ListenerSet", plural: "listenersets", short: []string{"lset"}},
	{name: "HTTPRoute", plural: "httproutes"},
	{name: "GRPCRoute", plural: "grpcroutes"},
	{name: "TLSRoute", plural: "tlsroutes"},
	{name: "TCPRoute", plural: "tcproutes"},
	{name: "UDPRoute", plural: "udproutes"},
	{name: "Ingress", plural: "ingresses", short: []string{"ing"}},
	{name: "IngressClass", plural: "ingressclasses"},
	{name: "Service", plural: "services", short: []string{"svc"}},
	{name: "EndpointSlice", plural: "endpointslices"},
	{name: "Workload", plural: "workloads", short: []string{"wl"}},
	{name: "Secret", plural: "secrets"},
	{name: "ConfigMap", plural: "configmaps", short: []string{"cm"}},
	{name: "ClusterTrustBundle", plural: "clustertrustbundles", short: []string{"ctb"}},
	{name: "Namespace", plural: "namespaces", short: []string{"ns"}},
	{name: "ReferenceGrant", plural: "referencegrants", short: []string{"refgrant"}},
	{name: "BackendTLSPolicy", plural: "backendtlspolicies", short: []string{"btlspolicy"}},
	{name: "XBackend", plural: "xbackends"},
	{name: "XTelemetryPolicy", plural: "xtelemetrypolicies", short: []string{"xtelemetrypolicy"}},
	{name: "XBackendTrafficPolicy", plural: "xbackendtrafficpolicies", short: []string{"xbtrafficpolicy"}},
	{name: "XMesh", plural: "xmeshes", short: []string{"mesh"}},
	{name: "GatewayParameters", plural: "gatewayparameters"},
	{name: viewRoutes, plural: viewRoutes, kinds: []string{"HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute", "Ingress"}},
	{name: viewListeners, plural: viewListeners, kinds: []string{"Gateway", "ListenerSet"}},
	{name: viewFindings, plural: viewFindings},
}

// objectKinds are the kinds that the word stands for.
func (k *kind) objectKinds() []string {
	if k.kinds != nil {
		return k.kinds
	}
	return []string{k.name}
}

// findKind understands a word: the name of a kind, its plural or short name,
// in any case, with or without its group.
func findKind(word string) (*kind, error) {
	w, _, _ := strings.Cut(strings.ToLower(word), ".")
	var known []string
	for i := range kinds {
		k := &kinds[i]
		if w == strings.ToLower(k.name) || w == k.plural || slices.Contains(k.short, w) {
			return k, nil
		}
		known = append(known, k.plural, strings.ToLower(k.name))
	}
	f := &failure{code: exitUsage, err: fmt.Errorf("unknown kind %q", word), mend: "known: " + kindList()}
	if near := object.Nearest(w, slices.Values(known)); near != "" {
		f.mend = "did you mean " + near + "?"
	}
	return nil, f
}

func kindList() string {
	var words []string
	for i := range kinds {
		word := kinds[i].plural
		if len(kinds[i].short) > 0 {
			word += " (" + kinds[i].short[0] + ")"
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

// completeKinds offers the words for the shell.
func completeKinds() []string {
	words := make([]string, 0, len(kinds))
	for i := range kinds {
		words = append(words, kinds[i].plural)
	}
	return words
}

// kindAndName understands KIND, KIND NAME and KIND/NAME.
func kindAndName(args []string) (*kind, string, error) {
	word, name, slash := strings.Cut(args[0], "/")
	if len(args) > 1 {
		if slash {
			return nil, "", usage("both %q and %q name an object", args[0], args[1])
		}
		name = args[1]
	}
	k, err := findKind(word)
	return k, name, err
}
