package status

import (
	"fmt"
	"strings"
	"syscall"

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
				Mend: bindMend(why),
			}
			if s.Ingress != nil {
				f.Field, f.Message = "spec", "the Ingress is not served there: "+why
			}
			found = append(found, f)
		}
	}
	return found
}

// bindMend says what to do about a socket that could not be bound.
func bindMend(why string) string {
	if strings.Contains(why, syscall.EADDRNOTAVAIL.Error()) {
		return "give the machine the address, or name another in spec.addresses; windrose tries again by itself"
	}
	if strings.Contains(why, syscall.EACCES.Error()) {
		return "give windrose the right, or name a higher port; windrose tries again by itself"
	}
	return "end what has the port (ss -lntup tells), or name another; windrose tries again by itself"
}
