package schema

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"windrose.dev/windrose/internal/object"
)

// kind is one kind in one version, as a document may name it.
type kind struct {
	group, version, name string
	// apiVersion is that of the Go type, by which an object is known after
	// reading.
	apiVersion string
	cluster    bool // belongs to no namespace
	label      bool // the name is one DNS label, without dots
	// named checks the name where it is no DNS name.
	named validation.ValidateNameFunc
	crd   *crd // nil for kinds without one

	// make gives an empty object; nil for kinds that windrose does not read.
	make func() object.Object
	// check completes and checks a decoded object of a kind without a CRD.
	check func(o metav1.Object, r *report)
}

// core are the kinds of Kubernetes itself that windrose reads.
var core = []kind{
	{version: "v1", name: "Service", label: true, check: checked(checkService)},
	{version: "v1", name: "Secret", check: checked(checkSecret)},
	{version: "v1", name: "ConfigMap", check: checked(checkConfigMap)},
	{group: "certificates.k8s.io", version: "v1", name: "ClusterTrustBundle", cluster: true, named: trustBundleName, check: checked(checkTrustBundle)},
	{version: "v1", name: "Namespace", cluster: true, label: true, check: checked(checkNamespace)},
	{group: "discovery.k8s.io", version: "v1", name: "EndpointSlice", check: checked(checkEndpointSlice)},
	{group: "networking.k8s.io", version: "v1", name: "Ingress", check: checked(checkIngress)},
	{group: "networking.k8s.io", version: "v1", name: "IngressClass", cluster: true, check: checked(checkIngressClass)},
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
	"certificates.k8s.io":          ".CertificateSigningRequest PodCertificateRequest",
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
		k.make = maker(k.apiVersion, k.name)
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
			apiVersion := join(c.Group, c.typedVersion())
			all.add(kind{
				group: c.Group, version: v.Name, apiVersion: apiVersion, name: c.Kind,
				cluster: c.Cluster, crd: c, make: maker(apiVersion, c.Kind),
			})
		}
	}
	return all
}

// maker gives what makes objects of a kind; nil if windrose does not read it.
func maker(apiVersion, name string) func() object.Object {
	if k, ok := object.KindNamed(name); ok && k.APIVersion == apiVersion {
		return k.New
	}
	return nil
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
