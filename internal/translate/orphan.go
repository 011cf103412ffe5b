package translate

import (
	"fmt"
	"maps"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
)

// updateOrphans keeps the owners of EndpointSlices that are no Services.
func (s *services) updateOrphans(t *Translator) {
	check := func(owner object.Name) {
		_, there := t.set.Services.Get(owner.Namespace, owner.Name)
		if there || len(s.slices[owner]) == 0 {
			delete(s.orphans, owner)
			return
		}
		s.orphans[owner] = struct{}{}
	}
	if d := &t.delta; d.services.all || d.slices.all || d.services.names {
		clear(s.orphans)
		for owner := range s.slices {
			check(owner)
		}
		return
	}
	for owner := range s.moved {
		check(owner)
	}
}

// orphaned tells the authors of EndpointSlices that belong to no Service.
func (s *services) orphaned(t *Translator) []object.Finding {
	var found []object.Finding
	for _, owner := range slices.SortedFunc(maps.Keys(s.orphans), object.Name.Compare) {
		for _, slice := range s.slices[owner] {
			f := object.Finding{
				Severity: object.Warning, Object: object.Key{Kind: "EndpointSlice", Namespace: slice.Namespace, Name: slice.Name},
				Field: "metadata.labels[" + discoveryv1.LabelServiceName + "]", Reason: string(gatewayv1.RouteReasonBackendNotFound),
				Message: "Service " + owner.String() + " does not exist, so that nobody uses these endpoints",
				Mend:    object.Meant(owner.Name, namesIn(t.set.Services, owner.Namespace)),
			}
			if owner.Name == "" {
				f.Field, f.Message = "metadata.labels", "the label "+discoveryv1.LabelServiceName+" is missing, so that nobody uses these endpoints"
				f.Mend = "write the name of a Service into the label"
			}
			found = append(found, f)
		}
	}
	return found
}

// uselessGrants tells the authors of ReferenceGrants which pairs allow nothing
// that windrose looks up.
func uselessGrants(set *object.Set) []object.Finding {
	referrers := []gatewayv1.Kind{"Gateway", "GatewayParameters", "GRPCRoute", "HTTPRoute", "ListenerSet", "TCPRoute", "TLSRoute", "UDPRoute", "XBackend", "XTelemetryPolicy"}
	referents := []gatewayv1.Kind{"ConfigMap", "Secret", "Service"}
	var found []object.Finding
	for _, g := range set.ReferenceGrants.All() {
		find := func(field, message, mend string) {
			found = append(found, object.Finding{
				Severity: object.Warning, Object: object.Key{Kind: "ReferenceGrant", Namespace: g.Namespace, Name: g.Name},
				Field: field, Reason: reasonNotRead, Message: message, Mend: mend,
			})
		}
		for i, from := range g.Spec.From {
			if from.Group != groupOf(from.Kind) || !slices.Contains(referrers, from.Kind) {
				find(fmt.Sprintf("spec.from[%d]", i), fmt.Sprintf("windrose follows no references of kind %s in group %q", from.Kind, from.Group), object.Meant(string(from.Kind), kindNames(referrers)))
			}
		}
		for i, to := range g.Spec.To {
			if to.Group != "" || !slices.Contains(referents, to.Kind) {
				find(fmt.Sprintf("spec.to[%d]", i), fmt.Sprintf("windrose follows no references to kind %s in group %q", to.Kind, to.Group), object.Meant(string(to.Kind), kindNames(referents)))
			}
		}
	}
	return found
}

func kindNames(list []gatewayv1.Kind) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, k := range list {
			if !yield(string(k)) {
				return
			}
		}
	}
}
