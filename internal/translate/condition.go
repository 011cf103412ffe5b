package translate

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"windrose.dev/windrose/internal/object"
)

// The reasons of findings. Those that Gateway API names are used where they
// fit; these are the others.
const (
	reasonNotCarried        = "NotCarriedYet"     // accepted by the API, but windrose cannot do it yet
	reasonNotRead           = "NotRead"           // a field or an annotation without effect
	reasonInvalidValue      = "InvalidValue"      // the value cannot be used
	reasonNotServing        = "NotServing"        // something that it hangs on does not serve
	reasonParentNotFound    = "ParentNotFound"    // a parentRef without object
	reasonParentNotManaged  = "ParentNotManaged"  // a parent of another controller
	reasonClassNotFound     = "ClassNotFound"     // a class without object
	reasonNoBackend         = "NoBackend"         // a rule without backends
	reasonNoEndpoints       = "NoEndpoints"       // nothing stands behind a service
	reasonCertificateExpiry = "CertificateExpiry" // expired, or soon
	reasonCertificateNames  = "CertificateNames"  // does not fit the host names
	reasonShadowed          = "Shadowed"          // another object takes its requests
)

// statusBroken answers what the author of an object must mend, as the API wants
// it.
const statusBroken = 500

// statusUnavailable answers gRPC requests to a backend that does not resolve:
// the API wants the status UNAVAILABLE there, which is 503 in HTTP.
const statusUnavailable = 503

// condition makes a condition without a transition time.
func condition(kind string, ok bool, reason, message string, generation int64) metav1.Condition {
	status := metav1.ConditionFalse
	if ok {
		status = metav1.ConditionTrue
	}
	return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: generation}
}

// namesIn gives the names of a table's objects in a namespace.
func namesIn[T metav1.Object](t object.Table[T], namespace string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, o := range t.All() {
			if o.GetNamespace() == namespace && !yield(o.GetName()) {
				return
			}
		}
	}
}

// meant says what may be meant by a name that nothing in a namespace has: an
// object of that name in another namespace, which is what somebody who left the
// namespace out means, else what object.Meant says.
func meant[T metav1.Object](t object.Table[T], namespace, name, also string) string {
	var others []string
	for _, o := range t.All() {
		if o.GetName() == name && o.GetNamespace() != namespace {
			others = append(others, o.GetNamespace())
		}
	}
	switch slices.Sort(others); len(others) {
	case 0:
		return object.Meant(name, namesIn(t, namespace))
	case 1:
		return fmt.Sprintf("there is one in namespace %s: write namespace: %s%s", others[0], others[0], also)
	}
	return fmt.Sprintf("there are some in namespaces %s: write the namespace of the one that is meant%s", strings.Join(others[:min(len(others), 5)], ", "), also)
}

// withGrant is what a reference to another namespace needs beside its name.
const withGrant = ", and let a ReferenceGrant there allow it"

// older says whether a goes before b: the earlier created, then the
// alphabetically first.
func older(a, b metav1.Object) int {
	ta, tb := a.GetCreationTimestamp(), b.GetCreationTimestamp()
	if !ta.Equal(&tb) {
		if ta.Before(&tb) {
			return -1
		}
		return 1
	}
	return object.NameOf(a).Compare(object.NameOf(b))
}
