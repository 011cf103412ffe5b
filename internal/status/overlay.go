package status

import (
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
)

// All kinds with listeners call this condition by the same name.
const programmed = string(gatewayv1.GatewayConditionProgrammed)

// problems are by socket or listener.
type problems map[string]Problem

// stands says whether a socket can be connected to.
func (x problems) stands(socket string) bool { return x[socket].Message == "" || x[socket].Partly }

func indexProblems(list []Problem) problems {
	index := problems{}
	for _, p := range list {
		if p.Socket != "" {
			index[p.Socket] = p
		}
		if p.Listener != "" {
			index[p.Listener] = p
		}
	}
	return index
}

// about gives all that concerns an object, so that a change can be noticed.
func (x problems) about(s *object.Status) string {
	if len(x) == 0 {
		return ""
	}
	var b strings.Builder
	for i := range s.Sockets {
		b.WriteString(x.listener(s, i))
		b.WriteByte(0)
	}
	return b.String()
}

// listener says why a listener of an object does not stand; "" if it does.
func (x problems) listener(s *object.Status, i int) string {
	if len(s.Sockets[i]) == 0 {
		return ""
	}
	var why []string
	if m := x[s.Object.Kind+"/"+s.Object.Namespace+"/"+s.Object.Name+"/"+listenerName(s, i)].Message; m != "" {
		why = append(why, m)
	}
	for _, socket := range s.Sockets[i] {
		m := x[socket].Message
		if addr := strings.TrimPrefix(socket, "tcp/"); m != "" && !strings.Contains(m, strings.TrimPrefix(addr, "udp/")) {
			m = addr + ": " + m
		}
		if m != "" {
			why = append(why, m)
		}
	}
	return strings.Join(why, "; ")
}

func listenerName(s *object.Status, i int) string {
	switch {
	case s.Gateway != nil:
		return string(s.Gateway.Listeners[i].Name)
	case s.ListenerSet != nil:
		return string(s.ListenerSet.Listeners[i].Name)
	}
	return ""
}

// overlay puts what the data plane says over Programmed. While it has not
// taken the newest plan, the condition stays as it was, with the generation
// that it was for; a new object is pending.
func overlay(made, was *object.Status, pending bool, index problems) {
	switch {
	case made.Gateway != nil:
		overlayGateway(made, was, pending, index)
	case made.ListenerSet != nil:
		overlayListenerSet(made, was, pending, index)
	case made.Ingress != nil:
		overlayIngress(made, pending, index)
	}
}

func overlayGateway(made, was *object.Status, pending bool, index problems) {
	g := made.Gateway
	var old *gatewayv1.GatewayStatus
	if was != nil {
		old = was.Gateway
	}
	var why []string
	for i := range g.Listeners {
		l := &g.Listeners[i]
		var before []metav1.Condition
		if old != nil {
			if j := slices.IndexFunc(old.Listeners, func(o gatewayv1.ListenerStatus) bool { return o.Name == l.Name }); j >= 0 {
				before = old.Listeners[j].Conditions
			}
		}
		problem := index.listener(made, i)
		program(l.Conditions, before, pending, string(gatewayv1.ListenerReasonPortUnavailable), problem)
		if problem != "" && !slices.Contains(why, problem) {
			why = append(why, problem)
		}
	}
	var before []metav1.Condition
	if old != nil {
		before = old.Conditions
	}
	program(g.Conditions, before, pending, string(gatewayv1.GatewayReasonAddressNotUsable), strings.Join(why, "; "))
	if made.Static {
		given := len(g.Addresses)
		g.Addresses = slices.DeleteFunc(g.Addresses, func(a gatewayv1.GatewayStatusAddress) bool { return unusable(made, a.Value, index) })
		if len(g.Addresses) < given {
			assign(g, strings.Join(why, "; "))
		}
	}
}

// assign tells of addresses that turned out to be unusable.
func assign(g *gatewayv1.GatewayStatus, problem string) {
	i := slices.IndexFunc(g.Conditions, func(c metav1.Condition) bool { return c.Type == string(gatewayv1.GatewayConditionAddressesAssigned) })
	if i < 0 {
		return
	}
	c := &g.Conditions[i]
	if c.Status != metav1.ConditionTrue {
		problem = c.Message + "; " + problem
	}
	c.Status, c.Reason, c.Message = metav1.ConditionFalse, string(gatewayv1.GatewayReasonAddressesPartiallyAssigned), problem
	if len(g.Addresses) == 0 {
		c.Reason = string(gatewayv1.GatewayReasonAddressesNotAssigned)
	}
}

func overlayListenerSet(made, was *object.Status, pending bool, index problems) {
	ls := made.ListenerSet
	var old *gatewayv1.ListenerSetStatus
	if was != nil {
		old = was.ListenerSet
	}
	var why []string
	for i := range ls.Listeners {
		l := &ls.Listeners[i]
		var before []metav1.Condition
		if old != nil {
			if j := slices.IndexFunc(old.Listeners, func(o gatewayv1.ListenerEntryStatus) bool { return o.Name == l.Name }); j >= 0 {
				before = old.Listeners[j].Conditions
			}
		}
		problem := index.listener(made, i)
		program(l.Conditions, before, pending, string(gatewayv1.ListenerEntryReasonPortUnavailable), problem)
		if problem != "" && !slices.Contains(why, problem) {
			why = append(why, problem)
		}
	}
	var before []metav1.Condition
	if old != nil {
		before = old.Conditions
	}
	program(ls.Conditions, before, pending, string(gatewayv1.ListenerEntryReasonPortUnavailable), strings.Join(why, "; "))
}

// overlayIngress leaves out the addresses of an Ingress that no socket serves.
func overlayIngress(made *object.Status, pending bool, index problems) {
	standing := slices.ContainsFunc(made.Sockets, func(sockets []string) bool {
		return slices.ContainsFunc(sockets, func(s string) bool { return index.stands(s) })
	})
	if pending || !standing {
		made.Ingress.LoadBalancer.Ingress = nil
	}
}

// unusable says whether nothing stands on an address.
func unusable(s *object.Status, value string, index problems) bool {
	addr, err := netip.ParseAddr(value)
	if err != nil {
		return false
	}
	failed := false
	for _, sockets := range s.Sockets {
		for _, socket := range sockets {
			_, text, _ := strings.Cut(socket, "/")
			at, err := netip.ParseAddrPort(text)
			if err != nil || at.Addr() != addr {
				continue
			}
			if index.stands(socket) {
				return false
			}
			failed = true
		}
	}
	return failed
}

// program changes the condition Programmed of a list, if translation left it
// true.
func program(list, before []metav1.Condition, pending bool, reason, problem string) {
	i := slices.IndexFunc(list, func(c metav1.Condition) bool { return c.Type == programmed })
	if i < 0 || list[i].Status != metav1.ConditionTrue {
		return
	}
	c := &list[i]
	switch {
	case pending:
		if j := slices.IndexFunc(before, func(c metav1.Condition) bool { return c.Type == programmed }); j >= 0 {
			*c = before[j]
			return
		}
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, string(gatewayv1.GatewayReasonPending), "the data plane has not taken it yet"
	case problem != "":
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, reason, problem
	}
}
