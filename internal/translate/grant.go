package translate

import (
	"fmt"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"windrose.dev/windrose/internal/object"
)

// grant is a pair of a ReferenceGrant: who may refer to what.
type grant struct {
	from gatewayv1.ReferenceGrantFrom
	to   gatewayv1.ReferenceGrantTo
}

func indexGrants(set *object.Set) map[string][]*grant {
	index := map[string][]*grant{}
	for _, g := range set.ReferenceGrants.All() {
		for _, from := range g.Spec.From {
			for _, to := range g.Spec.To {
				index[g.Namespace] = append(index[g.Namespace], &grant{from, to})
			}
		}
	}
	return index
}

// granted says whether an object may refer to one of the core group in another
// namespace.
func (t *Translator) granted(from object.Key, kind, namespace, name string) bool {
	if from.Namespace == namespace {
		return true
	}
	for _, g := range t.grants[namespace] {
		if g.from.Group == groupOf(g.from.Kind) && string(g.from.Kind) == from.Kind && string(g.from.Namespace) == from.Namespace &&
			g.to.Group == "" && string(g.to.Kind) == kind && (g.to.Name == nil || *g.to.Name == "" || string(*g.to.Name) == name) {
			return true
		}
	}
	return false
}

// grantMend is the ReferenceGrant to paste that lets an object refer to one of
// the core group in another namespace.
func grantMend(from object.Key, kind, namespace, name string) string {
	grant := strings.ToLower(plural(from.Kind)) + "-of-" + from.Namespace + "-to-" + name
	return fmt.Sprintf(`add this ReferenceGrant to namespace %s:
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: %s, namespace: %s}
spec:
  from: [{group: %s, kind: %s, namespace: %s}]
  to: [{group: "", kind: %s, name: %s}]`, namespace, strings.TrimRight(grant[:min(len(grant), 253)], "-."), namespace, groupOf(gatewayv1.Kind(from.Kind)), from.Kind, from.Namespace, kind, name)
}

// plural is what several objects of a kind are called.
func plural(kind string) string {
	if stem, ok := strings.CutSuffix(kind, "y"); ok && strings.HasSuffix(kind, "cy") {
		return stem + "ies"
	}
	if strings.HasSuffix(kind, "s") {
		return kind
	}
	return kind + "s"
}

// groupOf is the group of a kind that refers to others.
func groupOf(kind gatewayv1.Kind) gatewayv1.Group {
	switch kind {
	case "XBackend", "XTelemetryPolicy":
		return gatewayxv1alpha1.GroupName
	case "GatewayParameters":
		return parametersGroup
	}
	return gatewayv1.GroupName
}
