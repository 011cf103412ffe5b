package schema

import (
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// lastApplied holds the whole object once more.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// checkMeta checks the metadata, by the same rules for every kind.
func checkMeta(k *kind, doc map[string]any, r *report) {
	meta, _ := doc["metadata"].(map[string]any)
	before := len(r.Findings)
	checkValue("metadata", meta, typeOf[metav1.ObjectMeta](), r)
	if len(r.Findings) > before {
		return
	}
	var typed metav1.ObjectMeta
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(meta, &typed); err != nil {
		r.err(field.Invalid(field.NewPath("metadata"), nil, err.Error()))
		return
	}
	name := validation.ValidateNameFunc(validation.NameIsDNSSubdomain)
	if k.label {
		name = validation.NameIsDNSLabel
	}
	if k.named != nil {
		name = k.named
	}
	typed.Generation = 0 // the API server sets it, whatever a file says
	r.errors(validation.ValidateObjectMeta(&typed, !k.cluster, name, field.NewPath("metadata")))
}

// trim drops the metadata that only an API server has a use for.
func trim(doc map[string]any) {
	meta, _ := doc["metadata"].(map[string]any)
	for _, name := range []string{"managedFields", "resourceVersion", "selfLink", "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "ownerReferences", "finalizers"} {
		delete(meta, name)
	}
	if annotations, ok := meta["annotations"].(map[string]any); ok {
		delete(annotations, lastApplied)
		if len(annotations) == 0 {
			delete(meta, "annotations")
		}
	}
}
