package node

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"windrose.dev/windrose/api/v1alpha1"
	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/workload"
)

func TestWorkloadsThatDoNotRunAreFindings(t *testing.T) {
	made := func(name, reason string, ready metav1.ConditionStatus) *v1alpha1.Workload {
		return &v1alpha1.Workload{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
			Status:     v1alpha1.WorkloadStatus{Conditions: []metav1.Condition{{Type: workload.ConditionReady, Status: ready, Reason: reason, Message: "why " + name}}},
		}
	}
	set := &object.Set{Workloads: object.NewTable(
		made("ends", workload.ReasonBackOff, metav1.ConditionFalse),
		made("absent", workload.ReasonStartFailed, metav1.ConditionFalse),
		made("young", workload.ReasonStarting, metav1.ConditionFalse),
		made("fine", workload.ReasonRunning, metav1.ConditionTrue),
	)}
	got := map[string]string{}
	for _, f := range failing(set) {
		if f.Severity != object.Warning || f.Mend == "" || f.Object.Kind != "Workload" || f.Object.Namespace != "shop" {
			t.Errorf("got %+v", f)
		}
		got[f.Object.Name] = f.Reason + " " + f.Message
	}
	if len(got) != 2 || got["ends"] != "BackOff why ends" || got["absent"] != "StartFailed why absent" {
		t.Errorf("got %v", got)
	}
	if failing(nil) != nil {
		t.Error("findings of nothing")
	}
}
