package cli

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestWhyNotSaysEachThingOnce(t *testing.T) {
	no := func(kind, reason, message string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: message}
	}
	for _, tt := range []struct {
		name string
		list []metav1.Condition
		want string
	}{
		{"nothing is wrong", []metav1.Condition{{Type: "Accepted", Status: metav1.ConditionTrue}, {Type: "Conflicted", Status: metav1.ConditionFalse, Message: "no conflicts"}}, "-"},
		{"the same in two conditions", []metav1.Condition{no("Accepted", "UnsupportedProtocol", "no such protocol"), no("Programmed", "Invalid", "no such protocol")}, "UnsupportedProtocol: no such protocol"},
		{"one says more", []metav1.Condition{no("Programmed", "Invalid", "no certificate, because a is gone"), no("ResolvedRefs", "InvalidCertificateRef", "a is gone")}, "Invalid: no certificate, because a is gone"},
		{"the later says more", []metav1.Condition{no("Programmed", "Invalid", "a is gone"), no("ResolvedRefs", "InvalidCertificateRef", "no certificate, because a is gone")}, "InvalidCertificateRef: no certificate, because a is gone"},
		{"two things", []metav1.Condition{no("Programmed", "PortUnavailable", "taken"), no("ResolvedRefs", "InvalidRouteKinds", "b")}, "PortUnavailable: taken; InvalidRouteKinds: b"},
		{
			"a conflict",
			[]metav1.Condition{no("Accepted", "HostnameConflict", "taken"), no("Programmed", "HostnameConflict", "taken"), {Type: "Conflicted", Status: metav1.ConditionTrue, Reason: "HostnameConflict", Message: "taken"}},
			"HostnameConflict: taken",
		},
	} {
		if got := (&listener{conditions: tt.list}).whyNot(); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}
