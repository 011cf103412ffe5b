package status

import (
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
)

// Summary says in a sentence each what is not as it should be with an object;
// for a route, why it is not attached. It is empty if all is well.
func Summary(s *object.Status) []string {
	var all []string
	if s.Route != nil && len(s.Route.Parents) == 0 {
		return []string{"not attached: it names no Gateway that windrose serves"}
	}
	lists, names := lists(s)
	for i, list := range lists {
		for j := range list {
			if sentence := say(s, names[i], &list[j]); sentence != "" {
				all = append(all, sentence)
			}
		}
	}
	return all
}

// good says whether a condition is as it should be.
func good(c *metav1.Condition) bool {
	switch c.Type {
	case string(gatewayv1.ListenerConditionConflicted), string(gatewayv1.RouteConditionPartiallyInvalid), string(gatewayv1.ListenerConditionOverlappingTLSConfig):
		return c.Status != metav1.ConditionTrue
	}
	return c.Status == metav1.ConditionTrue
}

func say(s *object.Status, name string, c *metav1.Condition) string {
	if good(c) || c.Type == string(gatewayv1.ListenerConditionConflicted) {
		return "" // a conflict is the reason of Accepted too
	}
	subject := ""
	switch {
	case s.Route != nil && c.Type == string(gatewayv1.RouteConditionAccepted):
		return "not attached to " + name + ": " + c.Message + " (" + c.Reason + ")"
	case s.Route != nil, s.Policy != nil:
		subject = name + ": "
	case name != "":
		subject = "listener " + name + ": "
	}
	return subject + c.Message + " (" + c.Type + "=" + string(c.Status) + ", " + c.Reason + ")"
}

func parentName(ref *gatewayv1.ParentReference) string {
	kind, namespace, section := "Gateway", "", ""
	if ref.Kind != nil {
		kind = string(*ref.Kind)
	}
	if ref.Namespace != nil {
		namespace = string(*ref.Namespace) + "/"
	}
	if ref.SectionName != nil && *ref.SectionName != "" {
		section = ", listener " + string(*ref.SectionName)
	}
	if ref.Port != nil {
		section += ", port " + strconv.Itoa(int(*ref.Port))
	}
	return kind + " " + namespace + string(ref.Name) + section
}
