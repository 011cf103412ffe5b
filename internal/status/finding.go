package status

import (
	"fmt"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
)

// Findings tells the authors of listeners and of Ingresses what of theirs does
// not stand, in the order of the statuses.
func Findings(statuses []*object.Status, list []Problem) []object.Finding {
	if len(list) == 0 {
		return nil
	}
	index := indexProblems(list)
	var found []object.Finding
	for _, s := range statuses {
		for i := range s.Sockets {
			why := index.listener(s, i)
			if why == "" {
				continue
			}
			f := object.Finding{
				Severity: object.Error, Object: s.Object, Reason: string(gatewayv1.ListenerReasonPortUnavailable),
				Field: fmt.Sprintf("spec.listeners[%d].port", i), Message: "listener " + listenerName(s, i) + " does not serve: " + why,
				Mend: "end what has the port (ss -lntup tells), or name another; windrose tries again by itself",
			}
			if s.Ingress != nil {
				f.Field, f.Message = "spec", "the Ingress is not served there: "+why
			}
			found = append(found, f)
		}
	}
	return found
}
