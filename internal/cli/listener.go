package cli

import (
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// listener is one listener of a Gateway or ListenerSet.
type listener struct {
	name, protocol string
	port           int32
	host           string
	attached       int32
	conditions     []metav1.Condition
}

func listenersOf(o metav1.Object) []listener {
	var all []listener
	switch t := o.(type) {
	case *gatewayv1.Gateway:
		for _, l := range t.Spec.Listeners {
			x := listener{name: string(l.Name), protocol: string(l.Protocol), port: l.Port, host: hostOf(l.Hostname)}
			for _, st := range t.Status.Listeners {
				if st.Name == l.Name {
					x.attached, x.conditions = st.AttachedRoutes, st.Conditions
				}
			}
			all = append(all, x)
		}
	case *gatewayv1.ListenerSet:
		for _, l := range t.Spec.Listeners {
			x := listener{name: string(l.Name), protocol: string(l.Protocol), port: l.Port, host: hostOf(l.Hostname)}
			for _, st := range t.Status.Listeners {
				if st.Name == l.Name {
					x.attached, x.conditions = st.AttachedRoutes, st.Conditions
				}
			}
			all = append(all, x)
		}
	}
	return all
}

func hostOf(h *gatewayv1.Hostname) string {
	if h == nil || *h == "" {
		return "*"
	}
	return string(*h)
}

// whyNot is what is wrong with a listener. Conditions repeat each other; each
// thing is said once, by the condition that says most.
func (l *listener) whyNot() string {
	var bad []metav1.Condition
	for _, c := range l.conditions {
		wrong := metav1.ConditionFalse
		if c.Type == string(gatewayv1.ListenerConditionConflicted) {
			wrong = metav1.ConditionTrue
		}
		if c.Status != wrong || slices.ContainsFunc(bad, func(b metav1.Condition) bool { return strings.Contains(b.Message, c.Message) }) {
			continue
		}
		bad = slices.DeleteFunc(bad, func(b metav1.Condition) bool { return strings.Contains(c.Message, b.Message) })
		bad = append(bad, c)
	}
	if len(bad) == 0 {
		return "-"
	}
	var why []string
	for _, c := range bad {
		why = append(why, c.Reason+": "+c.Message)
	}
	return strings.Join(why, "; ")
}

func (a *app) listenerRows(o metav1.Object) []row {
	owner := "Gateway "
	if _, ok := o.(*gatewayv1.ListenerSet); ok {
		owner = "ListenerSet "
	}
	var rows []row
	for _, l := range listenersOf(o) {
		rows = append(rows, row{why: l.whyNot(), cells: []cell{
			plain(owner + o.GetName()), plain(l.name), plain(strconv.Itoa(int(l.port))), plain(l.protocol), plain(l.host),
			a.condition(l.conditions, "Programmed"), plain(strconv.Itoa(int(l.attached))),
		}})
	}
	return rows
}
