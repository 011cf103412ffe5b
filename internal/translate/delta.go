package translate

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"windrose.dev/windrose/internal/object"
)

// deltas say for each kind what changed from one Set to the next. A kind that
// is read by one step only is compared there.
type deltas struct {
	classes, gateways, listenerSets    delta
	grants, policies                   delta
	traffic, xbackends, telemetry      delta
	ingressClasses                     delta
	services, slices, workloads        delta
	secrets, configMaps, namespaces    delta
	bundles                            delta
	parameters                         delta
	http, grpc, tls, tcp, udp, ingress bool
}

func compare(old, next *object.Set) deltas {
	return deltas{
		classes:        diff(old.GatewayClasses, next.GatewayClasses),
		gateways:       diff(old.Gateways, next.Gateways),
		listenerSets:   diff(old.ListenerSets, next.ListenerSets),
		grants:         diff(old.ReferenceGrants, next.ReferenceGrants),
		policies:       diff(old.BackendTLSPolicies, next.BackendTLSPolicies),
		traffic:        diff(old.XBackendTrafficPolicies, next.XBackendTrafficPolicies),
		xbackends:      diff(old.XBackends, next.XBackends),
		telemetry:      diff(old.XTelemetryPolicies, next.XTelemetryPolicies),
		ingressClasses: diff(old.IngressClasses, next.IngressClasses),
		services:       diff(old.Services, next.Services),
		slices:         diff(old.EndpointSlices, next.EndpointSlices),
		workloads:      diff(old.Workloads, next.Workloads),
		secrets:        diff(old.Secrets, next.Secrets),
		configMaps:     diff(old.ConfigMaps, next.ConfigMaps),
		bundles:        diff(old.ClusterTrustBundles, next.ClusterTrustBundles),
		namespaces:     diff(old.Namespaces, next.Namespaces),
		parameters:     diff(old.GatewayParameters, next.GatewayParameters),
		http:           !same(old.HTTPRoutes, next.HTTPRoutes),
		grpc:           !same(old.GRPCRoutes, next.GRPCRoutes),
		tls:            !same(old.TLSRoutes, next.TLSRoutes),
		tcp:            !same(old.TCPRoutes, next.TCPRoutes),
		udp:            !same(old.UDPRoutes, next.UDPRoutes),
		ingress:        !same(old.Ingresses, next.Ingresses),
	}
}

// delta is what changed in a table.
type delta struct {
	all     bool // everything is new
	names   bool // an object appeared or went away
	changed map[object.Name]struct{}
}

func (d *delta) any() bool { return d.all || len(d.changed) > 0 }

func (d *delta) has(n object.Name) bool {
	if len(d.changed) == 0 {
		return d.all
	}
	_, ok := d.changed[n]
	return ok
}

// row is an object whose pointers can be compared.
type row interface {
	metav1.Object
	comparable
}

// same says whether two tables are certainly equal.
func same[T row](old, next object.Table[T]) bool {
	a, b := old.All(), next.All()
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

func diff[T row](old, next object.Table[T]) delta {
	if same(old, next) {
		return delta{}
	}
	a, b := old.All(), next.All()
	if len(a) == 0 {
		return delta{all: true, names: true}
	}
	d := delta{changed: map[object.Name]struct{}{}}
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(a) > 0 && len(b) > 0 && a[0] == b[0]:
			a, b = a[1:], b[1:]
		case len(b) == 0:
			d.changed[object.NameOf(a[0])], d.names = struct{}{}, true
			a = a[1:]
		case len(a) == 0:
			d.changed[object.NameOf(b[0])], d.names = struct{}{}, true
			b = b[1:]
		default:
			x, y := object.NameOf(a[0]), object.NameOf(b[0])
			order := x.Compare(y)
			if order != 0 {
				d.names = true
			}
			if order <= 0 {
				d.changed[x] = struct{}{}
				a = a[1:]
			}
			if order >= 0 {
				d.changed[y] = struct{}{}
				b = b[1:]
			}
		}
	}
	return d
}
