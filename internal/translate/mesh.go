package translate

import (
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"windrose.dev/windrose/internal/object"
)

// showMeshes makes the status of the meshes that are meant for windrose: there is
// no mesh on one machine, and a status that said otherwise would have people
// believe that their services speak to each other through it. Meshes of other
// controllers are theirs.
func (t *Translator) showMeshes(out *Result) []*object.Status {
	var list []*object.Status
	shown := map[object.Key]*object.Status{}
	for _, m := range t.set.XMeshes.All() {
		key := object.Key{Kind: "XMesh", Name: m.Name}
		if m.Spec.ControllerName != MeshController {
			out.Findings = suspect(out.Findings, key, "spec.controllerName", string(m.Spec.ControllerName), MeshController)
			continue
		}
		v := verdict{reasonNotCarried, "windrose carries no mesh on this machine: traffic between services is as it was, and routes with a Service as their parent have no effect; Gateways are served"}
		field, mend := "", "remove it, and have the traffic come through a Gateway"
		if m.Spec.ParametersRef != nil {
			v = verdict{string(gatewayxv1alpha1.MeshReasonInvalidParameters), "windrose has no parameters for a mesh, and carries none on this machine"}
			field, mend = "spec.parametersRef", "remove it"
		}
		out.Findings = append(out.Findings, object.Finding{Severity: object.Error, Object: key, Field: field, Reason: v.reason, Message: v.message, Mend: mend})
		s := &object.Status{Object: key, Generation: m.Generation, Mesh: &gatewayxv1alpha1.MeshStatus{
			Conditions: []metav1.Condition{conclude(string(gatewayxv1alpha1.MeshConditionAccepted), v, "", m.Generation)},
		}}
		if was := t.meshes[key]; was != nil && reflect.DeepEqual(was, s) {
			s = was
		}
		shown[key] = s
		list = append(list, s)
	}
	t.meshes = shown
	return list
}
