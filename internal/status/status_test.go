package status_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/status"
)

// clock is a time that tests move.
type clock struct{ t time.Time }

func (c *clock) now() time.Time          { return c.t }
func (c *clock) advance(d time.Duration) { c.t = c.t.Add(d) }
func newClock() *clock                   { return &clock{time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)} }

func fine(kind string, generation int64) metav1.Condition {
	return metav1.Condition{Type: kind, Status: metav1.ConditionTrue, Reason: kind, ObservedGeneration: generation}
}

// gateway is a Gateway with the listeners http on port 80 and https on 443.
func gateway(generation int64) *object.Status {
	all := func() []metav1.Condition {
		return []metav1.Condition{fine("Accepted", generation), fine("Programmed", generation)}
	}
	return &object.Status{
		Object: object.Key{Kind: "Gateway", Namespace: "default", Name: "web"}, Generation: generation,
		Gateway: &gatewayv1.GatewayStatus{
			Conditions: all(),
			Listeners:  []gatewayv1.ListenerStatus{{Name: "http", Conditions: all()}, {Name: "https", Conditions: all()}},
		},
		Sockets: [][]string{{"tcp/[::]:80"}, {"tcp/[::]:443"}},
	}
}

func find(t *testing.T, list []metav1.Condition, kind string) metav1.Condition {
	t.Helper()
	for _, c := range list {
		if c.Type == kind {
			return c
		}
	}
	t.Fatalf("no condition %s in %v", kind, list)
	return metav1.Condition{}
}

func TestProgrammedWaitsForTheDataPlane(t *testing.T) {
	c := newClock()
	tracker := status.New(c.now)
	in := []*object.Status{gateway(1)}

	got := tracker.Update(in, 1, status.Ack{})[0]
	p := find(t, got.Gateway.Conditions, "Programmed")
	if p.Status != metav1.ConditionFalse || p.Reason != "Pending" {
		t.Errorf("before any ack: Programmed = %s/%s, want False/Pending", p.Status, p.Reason)
	}
	c.advance(time.Second)
	got = tracker.Update(in, 1, status.Ack{Version: 1})[0]
	p = find(t, got.Gateway.Conditions, "Programmed")
	if p.Status != metav1.ConditionTrue || !p.LastTransitionTime.Time.Equal(c.t) {
		t.Errorf("after the ack: Programmed = %s since %v, want True since %v", p.Status, p.LastTransitionTime, c.t)
	}
	if a := find(t, got.Gateway.Conditions, "Accepted"); !a.LastTransitionTime.Time.Equal(c.t.Add(-time.Second)) {
		t.Errorf("Accepted did not change, but its time is %v", a.LastTransitionTime)
	}
	if in[0].Gateway.Conditions[0].LastTransitionTime != (metav1.Time{}) {
		t.Error("the status that came in was changed")
	}
}

func TestAChangedGatewayStaysProgrammedForItsOldGeneration(t *testing.T) {
	tracker := status.New(newClock().now)
	tracker.Update([]*object.Status{gateway(1)}, 1, status.Ack{Version: 1})
	got := tracker.Update([]*object.Status{gateway(2)}, 2, status.Ack{Version: 1})[0]
	p := find(t, got.Gateway.Conditions, "Programmed")
	if p.Status != metav1.ConditionTrue || p.ObservedGeneration != 1 {
		t.Errorf("before the ack: Programmed = %s of generation %d, want True of 1", p.Status, p.ObservedGeneration)
	}
	if a := find(t, got.Gateway.Conditions, "Accepted"); a.ObservedGeneration != 2 {
		t.Errorf("Accepted is of generation %d, want 2", a.ObservedGeneration)
	}
	got = tracker.Update([]*object.Status{gateway(2)}, 2, status.Ack{Version: 2})[0]
	if p = find(t, got.Gateway.Conditions, "Programmed"); p.ObservedGeneration != 2 {
		t.Errorf("after the ack: Programmed is of generation %d, want 2", p.ObservedGeneration)
	}
}

func TestNothingIsProgrammedWithoutADataPlane(t *testing.T) {
	tracker := status.New(newClock().now)
	in := []*object.Status{gateway(1)}
	tracker.Update(in, 1, status.Ack{Version: 1})
	got := tracker.Update(in, 1, status.Ack{})[0]
	if p := find(t, got.Gateway.Conditions, "Programmed"); p.Status != metav1.ConditionFalse || p.Reason != "Pending" {
		t.Errorf("Programmed = %s/%s, want False/Pending", p.Status, p.Reason)
	}
}

func TestASocketThatCannotBeBound(t *testing.T) {
	tracker := status.New(newClock().now)
	in := []*object.Status{gateway(1)}
	busy := status.Ack{Version: 1, Problems: []status.Problem{{Socket: "tcp/[::]:443", Message: "address already in use"}}}

	got := tracker.Update(in, 1, busy)[0]
	p := find(t, got.Gateway.Conditions, "Programmed")
	if p.Status != metav1.ConditionFalse || p.Reason != "AddressNotUsable" || p.Message != "[::]:443: address already in use" {
		t.Errorf("Gateway: Programmed = %s/%s %q", p.Status, p.Reason, p.Message)
	}
	if p = find(t, got.Gateway.Listeners[0].Conditions, "Programmed"); p.Status != metav1.ConditionTrue {
		t.Errorf("listener http: Programmed = %s, want True", p.Status)
	}
	if p = find(t, got.Gateway.Listeners[1].Conditions, "Programmed"); p.Status != metav1.ConditionFalse || p.Reason != "PortUnavailable" {
		t.Errorf("listener https: Programmed = %s/%s, want False/PortUnavailable", p.Status, p.Reason)
	}

	got = tracker.Update(in, 1, status.Ack{Version: 1})[0]
	if p = find(t, got.Gateway.Conditions, "Programmed"); p.Status != metav1.ConditionTrue {
		t.Errorf("when the socket stands: Programmed = %s, want True", p.Status)
	}
}

// One number is two ports: that of UDP can fail while that of TCP stands.
func TestWhatDoesNotStandIsAFinding(t *testing.T) {
	in := []*object.Status{gateway(1), {
		Object: object.Key{Kind: "Ingress", Namespace: "default", Name: "shop"}, Ingress: &networkingv1.IngressStatus{}, Sockets: [][]string{{"tcp/[::]:80"}},
	}}
	if got := status.Findings(in, nil); got != nil {
		t.Errorf("findings without a problem: %+v", got)
	}
	var got []string
	for _, f := range status.Findings(in, []status.Problem{{Socket: "tcp/[::]:80", Message: "address already in use"}}) {
		got = append(got, f.Object.String()+" "+f.Field+" "+f.Reason+": "+f.Message)
	}
	want := []string{
		"Gateway default/web spec.listeners[0].port PortUnavailable: listener http does not serve: [::]:80: address already in use",
		"Ingress default/shop spec PortUnavailable: the Ingress is not served there: [::]:80: address already in use",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestWhatHelpsAPortDependsOnWhy(t *testing.T) {
	for why, want := range map[string]string{
		"bind: address already in use":                     "end what has the port",
		"bind: cannot assign requested address: no such":   "give the machine the address",
		"bind: permission denied: a port this low":         "give windrose the right",
		"udp: something that nobody has thought of so far": "end what has the port",
	} {
		found := status.Findings([]*object.Status{gateway(1)}, []status.Problem{{Socket: "tcp/[::]:80", Message: why}})
		if len(found) != 1 || !strings.HasPrefix(found[0].Mend, want) {
			t.Errorf("%s: %+v, want the mend to begin with %q", why, found, want)
		}
	}
}

func TestADatagramSocketThatCannotBeBound(t *testing.T) {
	in := gateway(1)
	in.Static = true
	in.Sockets = [][]string{{"tcp/192.0.2.9:53"}, {"udp/192.0.2.9:53", "udp/127.0.0.1:53"}}
	in.Gateway.Addresses = []gatewayv1.GatewayStatusAddress{{Value: "192.0.2.9"}, {Value: "127.0.0.1"}}
	ack := status.Ack{Version: 1, Problems: []status.Problem{
		{Socket: "udp/192.0.2.9:53", Message: "address already in use"},
		{Socket: "udp/127.0.0.1:53", Message: "bind 127.0.0.1:53: address already in use"},
	}}
	got := status.New(newClock().now).Update([]*object.Status{in}, 1, ack)[0].Gateway
	if p := find(t, got.Listeners[0].Conditions, "Programmed"); p.Status != metav1.ConditionTrue {
		t.Errorf("TCP: Programmed = %s, want True", p.Status)
	}
	want := "udp/192.0.2.9:53: address already in use; bind 127.0.0.1:53: address already in use"
	if p := find(t, got.Listeners[1].Conditions, "Programmed"); p.Status != metav1.ConditionFalse || p.Message != want {
		t.Errorf("UDP: Programmed = %s %q, want False %q", p.Status, p.Message, want)
	}
	if len(got.Addresses) != 1 || got.Addresses[0].Value != "192.0.2.9" {
		t.Errorf("addresses = %v, want 192.0.2.9 alone", got.Addresses)
	}
}

func TestAListenerProblemIsOfThatListener(t *testing.T) {
	ack := status.Ack{Version: 1, Problems: []status.Problem{{Listener: "Gateway/default/web/http", Message: "it cannot be used"}}}
	got := status.New(newClock().now).Update([]*object.Status{gateway(1)}, 1, ack)[0]
	for i, want := range []metav1.ConditionStatus{metav1.ConditionFalse, metav1.ConditionTrue} {
		if p := find(t, got.Gateway.Listeners[i].Conditions, "Programmed"); p.Status != want {
			t.Errorf("listener %d: Programmed = %s, want %s", i, p.Status, want)
		}
	}
}

// covers: GatewayStaticAddresses GatewayAddressRoutability
func TestAnUnusableAddressLeavesTheStatus(t *testing.T) {
	in := gateway(1)
	in.Static = true
	in.Sockets = [][]string{{"tcp/127.0.0.1:80", "tcp/192.0.2.9:80"}, {"tcp/127.0.0.1:443", "tcp/192.0.2.9:443"}}
	in.Gateway.Addresses = []gatewayv1.GatewayStatusAddress{{Value: "127.0.0.1"}, {Value: "192.0.2.9"}}
	in.Gateway.Conditions = append(in.Gateway.Conditions, fine("AddressesAssigned", 1))
	ack := status.Ack{Version: 1, Problems: []status.Problem{
		{Socket: "tcp/192.0.2.9:80", Message: "cannot assign requested address"},
		{Socket: "tcp/192.0.2.9:443", Message: "cannot assign requested address"},
		{Socket: "tcp/127.0.0.1:443", Message: "address already in use"},
	}}
	got := status.New(newClock().now).Update([]*object.Status{in}, 1, ack)[0].Gateway
	if len(got.Addresses) != 1 || got.Addresses[0].Value != "127.0.0.1" {
		t.Errorf("addresses = %v, want 127.0.0.1 alone", got.Addresses)
	}
	if c := find(t, got.Conditions, "AddressesAssigned"); c.Status != metav1.ConditionFalse || c.Reason != "PartiallyAssigned" || !strings.Contains(c.Message, "192.0.2.9:80: cannot assign") {
		t.Errorf("AddressesAssigned = %+v", c)
	}
	if len(in.Gateway.Addresses) != 2 || find(t, in.Gateway.Conditions, "AddressesAssigned").Status != metav1.ConditionTrue {
		t.Error("the status that came in was changed")
	}
	ack.Problems = append(ack.Problems, status.Problem{Socket: "tcp/127.0.0.1:80", Message: "address already in use"})
	got = status.New(newClock().now).Update([]*object.Status{in}, 1, ack)[0].Gateway
	if c := find(t, got.Conditions, "AddressesAssigned"); len(got.Addresses) != 0 || c.Reason != "NotAssigned" {
		t.Errorf("addresses = %v, AddressesAssigned = %+v", got.Addresses, c)
	}
}

func TestWhatTranslationRefusedStaysRefused(t *testing.T) {
	in := gateway(1)
	in.Gateway.Conditions[1] = metav1.Condition{Type: "Programmed", Status: metav1.ConditionFalse, Reason: "Invalid"}
	got := status.New(newClock().now).Update([]*object.Status{in}, 1, status.Ack{})[0]
	if p := find(t, got.Gateway.Conditions, "Programmed"); p.Reason != "Invalid" {
		t.Errorf("reason = %s, want Invalid", p.Reason)
	}
}

func TestTheSameStatusKeepsItsPointer(t *testing.T) {
	c := newClock()
	tracker := status.New(c.now)
	in := []*object.Status{gateway(1), route("a", "attached"), route("b", "attached")}
	ack := status.Ack{Version: 1}
	first := tracker.Update(in, 1, ack)
	c.advance(time.Minute)
	in = []*object.Status{gateway(1), route("a", "attached"), route("b", "no listener")}
	second := tracker.Update(in, 2, ack)
	for i, same := range []bool{true, true, false} {
		if (first[i] == second[i]) != same {
			t.Errorf("%s: same pointer = %v, want %v", in[i].Object, !same, same)
		}
	}
}

func TestObjectsComeAndGo(t *testing.T) {
	tracker := status.New(newClock().now)
	ack := status.Ack{Version: 9}
	for _, names := range [][]string{{"b"}, {"a", "b", "c"}, {"c"}, {}, {"a"}} {
		var in []*object.Status
		for _, n := range names {
			in = append(in, route(n, "attached"))
		}
		out := tracker.Update(in, 1, ack)
		for i, n := range names {
			if out[i].Object.Name != n {
				t.Errorf("%v: object %d is %s", names, i, out[i].Object)
			}
		}
		if len(out) != len(names) {
			t.Errorf("%v: got %d statuses", names, len(out))
		}
	}
}

func route(name, message string) *object.Status {
	c := metav1.Condition{Type: "Accepted", Status: metav1.ConditionTrue, Reason: "Accepted", Message: message}
	if message != "attached" {
		c.Status, c.Reason = metav1.ConditionFalse, "NoMatchingParent"
	}
	return &object.Status{
		Object: object.Key{Kind: "HTTPRoute", Namespace: "default", Name: name}, Generation: 1,
		Route: &gatewayv1.RouteStatus{Parents: []gatewayv1.RouteParentStatus{{
			ParentRef: gatewayv1.ParentReference{Name: "web", SectionName: new(gatewayv1.SectionName("https"))}, Conditions: []metav1.Condition{c},
		}}},
	}
}

func TestAnIngressHasAnAddressWhileASocketStands(t *testing.T) {
	in := &object.Status{
		Object: object.Key{Kind: "Ingress", Namespace: "default", Name: "shop"}, Generation: 1,
		Ingress: &networkingv1.IngressStatus{LoadBalancer: networkingv1.IngressLoadBalancerStatus{Ingress: []networkingv1.IngressLoadBalancerIngress{{IP: "192.0.2.1"}}}},
		Sockets: [][]string{{"tcp/[::]:80"}, {"tcp/[::]:443"}},
	}
	tracker := status.New(newClock().now)
	for _, tt := range []struct {
		name string
		ack  status.Ack
		want int
	}{
		{"no data plane", status.Ack{}, 0},
		{"both stand", status.Ack{Version: 1}, 1},
		{"one stands", status.Ack{Version: 1, Problems: []status.Problem{{Socket: "tcp/[::]:80", Message: "in use"}}}, 1},
		{"none stands", status.Ack{Version: 1, Problems: []status.Problem{{Socket: "tcp/[::]:80", Message: "in use"}, {Socket: "tcp/[::]:443", Message: "in use"}}}, 0},
	} {
		got := tracker.Update([]*object.Status{in}, 1, tt.ack)[0].Ingress.LoadBalancer.Ingress
		if len(got) != tt.want {
			t.Errorf("%s: %d addresses, want %d", tt.name, len(got), tt.want)
		}
	}
}

func BenchmarkUpdate(b *testing.B) {
	tracker := status.New(newClock().now)
	in := []*object.Status{gateway(1)}
	for i := range 5000 {
		in = append(in, route(string(rune('a'+i/1000))+time.Duration(i).String(), "attached"))
	}
	ack := status.Ack{Version: 1}
	tracker.Update(in, 1, ack)
	b.ReportAllocs()
	for b.Loop() {
		in[2500] = route(in[2500].Object.Name, "changed")
		tracker.Update(in, 1, ack)
	}
}

func TestAListenerSetFollowsItsSockets(t *testing.T) {
	conditions := func() []metav1.Condition {
		return []metav1.Condition{fine("Accepted", 1), fine("Programmed", 1)}
	}
	in := &object.Status{
		Object: object.Key{Kind: "ListenerSet", Namespace: "default", Name: "more"}, Generation: 1,
		ListenerSet: &gatewayv1.ListenerSetStatus{
			Conditions: conditions(),
			Listeners:  []gatewayv1.ListenerEntryStatus{{Name: "a", Conditions: conditions()}, {Name: "b", Conditions: conditions()}},
		},
		Sockets: [][]string{{"tcp/[::]:8080"}, {"tcp/[::]:8081"}},
	}
	tracker := status.New(newClock().now)
	for _, tt := range []struct {
		name         string
		ack          status.Ack
		set, a, b    string // reason of Programmed
		wantMessages string
	}{
		{"no data plane", status.Ack{}, "Pending", "Pending", "Pending", ""},
		{"all stand", status.Ack{Version: 1}, "Programmed", "Programmed", "Programmed", ""},
		{
			"one does not",
			status.Ack{Version: 1, Problems: []status.Problem{{Socket: "tcp/[::]:8081", Message: "listen on [::]:8081: in use"}}},
			"PortUnavailable", "Programmed", "PortUnavailable", "listen on [::]:8081: in use",
		},
		{"it does again", status.Ack{Version: 1}, "Programmed", "Programmed", "Programmed", ""},
	} {
		got := tracker.Update([]*object.Status{in}, 1, tt.ack)[0]
		ls := got.ListenerSet
		reasons := []string{find(t, ls.Conditions, "Programmed").Reason, find(t, ls.Listeners[0].Conditions, "Programmed").Reason, find(t, ls.Listeners[1].Conditions, "Programmed").Reason}
		if want := []string{tt.set, tt.a, tt.b}; !slices.Equal(reasons, want) {
			t.Errorf("%s: reasons of Programmed = %v, want %v", tt.name, reasons, want)
		}
		if tt.wantMessages != "" && find(t, ls.Conditions, "Programmed").Message != tt.wantMessages {
			t.Errorf("%s: message = %q, want %q", tt.name, find(t, ls.Conditions, "Programmed").Message, tt.wantMessages)
		}
	}
}

// conditionsOf are the conditions of the object itself: for a route and a policy
// those of its first parent.
func conditionsOf(s *object.Status) []metav1.Condition {
	switch {
	case s.GatewayClass != nil:
		return s.GatewayClass.Conditions
	case s.Gateway != nil:
		return s.Gateway.Conditions
	case s.Route != nil:
		return s.Route.Parents[0].Conditions
	case s.Policy != nil:
		return s.Policy.Ancestors[0].Conditions
	case s.Backend != nil:
		return s.Backend.Ancestors[0].Conditions
	case s.Mesh != nil:
		return s.Mesh.Conditions
	}
	return nil
}

func TestEveryKindOfStatusIsDated(t *testing.T) {
	c := newClock()
	list := func() []metav1.Condition { return []metav1.Condition{fine("Accepted", 1)} }
	for _, in := range []*object.Status{
		{Object: object.Key{Kind: "GatewayClass", Name: "a"}, GatewayClass: &gatewayv1.GatewayClassStatus{Conditions: list()}},
		{Object: object.Key{Kind: "BackendTLSPolicy", Name: "a"}, Policy: &gatewayv1.PolicyStatus{Ancestors: []gatewayv1.PolicyAncestorStatus{{Conditions: list()}}}},
		{Object: object.Key{Kind: "XBackend", Name: "a"}, Backend: &gatewayxv1alpha1.BackendStatus{Ancestors: []gatewayxv1alpha1.BackendAncestorStatus{{Conditions: list()}}}},
		{Object: object.Key{Kind: "XMesh", Name: "a"}, Mesh: &gatewayxv1alpha1.MeshStatus{Conditions: list()}},
		route("a", "attached"),
		gateway(1),
	} {
		got := status.New(c.now).Update([]*object.Status{in}, 1, status.Ack{Version: 1})[0]
		for _, condition := range conditionsOf(got) {
			if !condition.LastTransitionTime.Time.Equal(c.t) {
				t.Errorf("%s: %s is dated %v, want %v", in.Object, condition.Type, condition.LastTransitionTime, c.t)
			}
		}
		if len(conditionsOf(got)) == 0 {
			t.Errorf("%s has no conditions", in.Object)
		}
	}
}
