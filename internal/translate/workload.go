package translate

import (
	"fmt"
	"net/netip"
	"slices"
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

// sharedPorts tells the authors of Workloads whose process wants a port that
// the process of an older one has.
func sharedPorts(set *object.Set) []object.Finding {
	var all []*v1alpha1.Workload
	for _, w := range set.Workloads.All() {
		if len(w.Spec.Command) > 0 && len(w.Spec.Ports) > 0 {
			all = append(all, w)
		}
	}
	slices.SortFunc(all, func(a, b *v1alpha1.Workload) int { return older(a, b) })
	var found []object.Finding
	taken := map[netip.AddrPort]*v1alpha1.Workload{}
	for _, w := range all {
		addr := netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if w.Spec.Address != "" {
			var err error
			if addr, err = netip.ParseAddr(w.Spec.Address); err != nil {
				continue
			}
		}
		for i, p := range w.Spec.Ports {
			at := netip.AddrPortFrom(addr, uint16(p.Port))
			first := taken[at]
			if first == nil {
				taken[at] = w
			}
			if first == nil || first == w {
				continue
			}
			found = append(found, object.Finding{
				Severity: object.Warning, Object: object.Key{Kind: "Workload", Namespace: w.Namespace, Name: w.Name}, Field: fmt.Sprintf("spec.ports[%d].port", i), Reason: reasonInvalidValue,
				Message: fmt.Sprintf("%s is where Workload %s/%s listens: one of the two processes finds its port taken", at, first.Namespace, first.Name),
				Mend:    "give one of them another port or another address",
			})
		}
	}
	return found
}
