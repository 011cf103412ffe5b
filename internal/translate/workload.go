package translate

import (
	"strconv"

	"k8s.io/apimachinery/pkg/util/intstr"

	"windrose.dev/windrose/api/v1alpha1"
	"windrose.dev/windrose/internal/object"
)

// lostProbes tells the authors of Workloads whose probe asks at a port that the
// Workload does not have: it would never be ready.
func lostProbes(set *object.Set) []object.Finding {
	var found []object.Finding
	for _, w := range set.Workloads.All() {
		r := w.Spec.Readiness
		if r == nil {
			continue
		}
		field, port := "spec.readiness.tcp.port", intstr.FromInt32(1)
		switch {
		case r.HTTP != nil:
			field, port = "spec.readiness.http.port", r.HTTP.Port
		case r.TCP != nil:
			port = r.TCP.Port
		}
		if port.Type != intstr.String || hasPort(w, port.StrVal) {
			continue
		}
		f := object.Finding{
			Severity: object.Error, Object: object.Key{Kind: "Workload", Namespace: w.Namespace, Name: w.Name}, Field: field, Reason: reasonInvalidValue,
			Message: "the workload has no port " + port.StrVal + ", so that it never becomes ready",
			Mend: object.Meant(port.StrVal, func(yield func(string) bool) {
				for _, p := range w.Spec.Ports {
					if !yield(p.Name) {
						return
					}
				}
			}),
		}
		if len(w.Spec.Ports) == 0 {
			f.Mend = "add the port to spec.ports, or write its number"
		}
		found = append(found, f)
	}
	return found
}

// hasPort says whether a probe's port is a number, or one that a workload names.
func hasPort(w *v1alpha1.Workload, name string) bool {
	for _, p := range w.Spec.Ports {
		if p.Name == name {
			return true
		}
	}
	n, err := strconv.ParseUint(name, 10, 16)
	return err == nil && n > 0
}
