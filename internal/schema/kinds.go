package schema

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/api/v1alpha1"
	"windrose.dev/windrose/internal/object"
)

// typed is what the Go types of all kinds can do.
type typed interface {
	metav1.Object
	runtime.Object
}

// kind is one kind in one version, as a document may name it.
type kind struct {
	group, version, name string
	// apiVersion is that of the Go type, by which an object is known after
	// reading.
	apiVersion string
	cluster    bool // belongs to no namespace
	label      bool // the name is one DNS label, without dots
	crd        *crd // nil for kinds without one

	// make gives an empty object; nil for kinds that windrose does not read.
	make func() typed
	// check completes and checks a decoded object of a kind without a CRD.
	check func(o metav1.Object, r *report)
}

// makers are the Go types of the kinds that have a CRD.
var makers = map[string]func() typed{
	"gateway.networking.k8s.io/GatewayClass":     func() typed { return &gatewayv1.GatewayClass{} },
	"gateway.networking.k8s.io/Gateway":          func() typed { return &gatewayv1.Gateway{} },
	"gateway.networking.k8s.io/ListenerSet":      func() typed { return &gatewayv1.ListenerSet{} },
	"gateway.networking.k8s.io/HTTPRoute":        func() typed { return &gatewayv1.HTTPRoute{} },
	"gateway.networking.k8s.io/GRPCRoute":        func() typed { return &gatewayv1.GRPCRoute{} },
	"gateway.networking.k8s.io/TLSRoute":         func() typed { return &gatewayv1.TLSRoute{} },
	"gateway.networking.k8s.io/TCPRoute":         func() typed { return &gatewayv1.TCPRoute{} },
	"gateway.networking.k8s.io/UDPRoute":         func() typed { return &gatewayv1.UDPRoute{} },
	"gateway.networking.k8s.io/ReferenceGrant":   func() typed { return &gatewayv1.ReferenceGrant{} },
	"gateway.networking.k8s.io/BackendTLSPolicy": func() typed { return &gatewayv1.BackendTLSPolicy{} },
	"windrose.dev/Workload":                      func() typed { return &v1alpha1.Workload{} },
	"windrose.dev/GatewayParameters":             func() typed { return &v1alpha1.GatewayParameters{} },
}

// core are the kinds of Kubernetes itself that windrose reads.
var core = []kind{
	{version: "v1", name: "Service", label: true, make: func() typed { return &corev1.Service{} }, check: checked(checkService)},
	{version: "v1", name: "Secret", make: func() typed { return &corev1.Secret{} }, check: checked(checkSecret)},
	{version: "v1", name: "ConfigMap", make: func() typed { return &corev1.ConfigMap{} }, check: checked(checkConfigMap)},
	{version: "v1", name: "Namespace", cluster: true, label: true, make: func() typed { return &corev1.Namespace{} }, check: checked(checkNamespace)},
	{group: "discovery.k8s.io", version: "v1", name: "EndpointSlice", make: func() typed { return &discoveryv1.EndpointSlice{} }, check: checked(checkEndpointSlice)},
	{group: "networking.k8s.io", version: "v1", name: "Ingress", make: func() typed { return &networkingv1.Ingress{} }, check: checked(checkIngress)},
	{group: "networking.k8s.io", version: "v1", name: "IngressClass", cluster: true, make: func() typed { return &networkingv1.IngressClass{} }, check: checked(checkIngressClass)},
}

// moved are groups that kinds have left.
var moved = map[string]string{
	"extensions/Ingress":                           "networking.k8s.io/v1",
	"gateway.networking.x-k8s.io/XListenerSet":     "gateway.networking.k8s.io/v1, kind ListenerSet",
	"networking.x-k8s.io/Gateway":                  "gateway.networking.k8s.io/v1",
	"networking.x-k8s.io/GatewayClass":             "gateway.networking.k8s.io/v1",
	"networking.x-k8s.io/HTTPRoute":                "gateway.networking.k8s.io/v1",
	"gateway.networking.k8s.io/BackendPolicy":      "BackendTLSPolicy",
	"gateway.networking.k8s.io/ReferencePolicy":    "gateway.networking.k8s.io/v1, kind ReferenceGrant",
	"gateway.networking.k8s.io/BackendLBPolicy":    "gateway.networking.x-k8s.io/v1alpha1, kind XBackendTrafficPolicy",
	"gateway.networking.k8s.io/XBackendLBPolicy":   "gateway.networking.x-k8s.io/v1alpha1, kind XBackendTrafficPolicy",
	"gateway.networking.x-k8s.io/XBackendLBPolicy": "gateway.networking.x-k8s.io/v1alpha1, kind XBackendTrafficPolicy",
}

// others are kinds of Kubernetes that windrose knows and does not read; a dot
// before the name marks those that belong to no namespace.
var others = map[string]string{
	"": "Binding .ComponentStatus Endpoints Event LimitRange .Node .PersistentVolume PersistentVolumeClaim Pod " +
		"PodTemplate ReplicationController ResourceQuota ServiceAccount",
	"admissionregistration.k8s.io": ".MutatingAdmissionPolicy .MutatingAdmissionPolicyBinding .MutatingWebhookConfiguration " +
		".ValidatingAdmissionPolicy .ValidatingAdmissionPolicyBinding .ValidatingWebhookConfiguration",
	"apiextensions.k8s.io":         ".CustomResourceDefinition",
	"apiregistration.k8s.io":       ".APIService",
	"apps":                         "ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet",
	"autoscaling":                  "HorizontalPodAutoscaler",
	"batch":                        "CronJob Job",
	"certificates.k8s.io":          ".CertificateSigningRequest .ClusterTrustBundle PodCertificateRequest",
	"coordination.k8s.io":          "Lease LeaseCandidate",
	"events.k8s.io":                "Event",
	"flowcontrol.apiserver.k8s.io": ".FlowSchema .PriorityLevelConfiguration",
	"kustomize.config.k8s.io":      "Kustomization Component",
	"networking.k8s.io":            ".IPAddress NetworkPolicy .ServiceCIDR",
	"node.k8s.io":                  ".RuntimeClass",
	"policy":                       "Eviction PodDisruptionBudget",
	"rbac.authorization.k8s.io":    ".ClusterRole .ClusterRoleBinding Role RoleBinding",
	"resource.k8s.io":              ".DeviceClass ResourceClaim ResourceClaimTemplate .ResourceSlice",
	"scheduling.k8s.io":            ".PriorityClass",
	"storage.k8s.io":               ".CSIDriver .CSINode CSIStorageCapacity .StorageClass .VolumeAttachment .VolumeAttributesClass",
}

// catalogue is every known kind: by "group/Kind", then by version. The kinds
// of others have the one version "", which stands for any.
type catalogue map[string]map[string]*kind

func newCatalogue(index []crd) catalogue {
	all := catalogue{}
	for _, k := range core {
		k.apiVersion = join(k.group, k.version)
		all.add(k)
	}
	for group, names := range others {
		for name := range strings.FieldsSeq(names) {
			short, cluster := strings.CutPrefix(name, ".")
			all.add(kind{group: group, name: short, cluster: cluster})
		}
	}
	for i := range index {
		c := &index[i]
		for _, v := range c.Versions {
			all.add(kind{
				group: c.Group, version: v.Name, apiVersion: join(c.Group, c.typedVersion()), name: c.Kind,
				cluster: c.Cluster, crd: c, make: makers[c.Group+"/"+c.Kind],
			})
		}
	}
	return all
}

func (all catalogue) add(k kind) {
	key := k.group + "/" + k.name
	if all[key] == nil {
		all[key] = map[string]*kind{}
	}
	all[key][k.version] = &k
}

// resolve finds a kind, or says why there is none.
func (all catalogue) resolve(apiVersion, name string, r *report) *kind {
	group, version, hasGroup := strings.Cut(apiVersion, "/")
	if !hasGroup {
		group, version = "", apiVersion
	}
	if versions, ok := all[group+"/"+name]; ok {
		if k, ok := versions[version]; ok {
			if k.crd != nil {
				k.crd.warn(version, r)
			}
			return k
		}
		if k, ok := versions[""]; ok {
			return k
		}
		served := slices.Sorted(maps.Keys(versions))
		r.add(object.Error, ReasonVersion, "apiVersion", fmt.Sprintf("%s is not read in the version %q", name, bounded(apiVersion)))
		r.mend("use apiVersion: " + join(group, served[0]))
		return nil
	}
	if to, ok := moved[group+"/"+name]; ok {
		r.add(object.Error, ReasonVersion, "apiVersion", fmt.Sprintf("%s is no longer in the group %s", name, group))
		r.mend("use " + to)
		return nil
	}
	all.unknown(group, apiVersion, name, r)
	return nil
}

// unknown says which kind may have been meant.
func (all catalogue) unknown(group, apiVersion, name string, r *report) {
	var here, groups []string // kinds in this group; groups that have this kind
	nameOf, groupNames := map[string]string{}, map[string]bool{}
	for key, versions := range all {
		g, n, _ := strings.Cut(key, "/")
		groupNames[g] = true
		if g == group {
			here = append(here, n)
		}
		nameOf[n] = g
		if n == name {
			groups = append(groups, join(g, slices.Sorted(maps.Keys(versions))[0]))
		}
	}
	field := "kind"
	if len(here) == 0 || len(groups) > 0 {
		field = "apiVersion"
	}
	r.add(object.Error, ReasonUnknownKind, field, fmt.Sprintf("there is no kind %s in %s", bounded(name), bounded(apiVersion)))
	switch near := object.Nearest(name, slices.Values(here)); {
	case len(groups) > 0:
		slices.Sort(groups)
		r.mend("did you mean apiVersion: " + strings.TrimSuffix(groups[0], "/") + "?")
	case near != "":
		r.mend("did you mean kind: " + near + "?")
	case len(here) == 0:
		if near := object.Nearest(group, maps.Keys(groupNames)); near != "" {
			r.mend("did you mean the group " + near + "?")
		} else if near := object.Nearest(name, maps.Keys(nameOf)); near != "" {
			r.mend("did you mean kind: " + near + " of " + join(nameOf[near], "") + "?")
		}
	}
}

func join(group, version string) string {
	switch {
	case group == "":
		return or(version, "v1")
	case version == "":
		return group
	}
	return group + "/" + version
}
