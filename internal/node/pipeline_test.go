package node

import (
	"bytes"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/api/v1alpha1"
	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/status"
)

func route(name string) *gatewayv1.HTTPRoute {
	return &gatewayv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
}

func workloadNamed(name string) *v1alpha1.Workload {
	return &v1alpha1.Workload{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
}

func TestCompareNamesWhatDiffers(t *testing.T) {
	a, b, c := route("a"), route("b"), route("c")
	w := workloadNamed("w")
	list := func(set *object.Set) []metav1.Object { return slices.Collect(set.All) }
	base := &object.Set{HTTPRoutes: object.NewTable(a, b), Workloads: object.NewTable(w)}
	tests := []struct {
		name string
		next *object.Set
		want []string
	}{
		{"nothing", base, nil},
		{"changed", base.With([]metav1.Object{route("a")}, nil), []string{"HTTPRoute default/a changed"}},
		{"new", base.With([]metav1.Object{c}, nil), []string{"HTTPRoute default/c new"}},
		{"gone", base.With(nil, []object.Key{object.KeyOf(b)}), []string{"HTTPRoute default/b gone"}},
		{
			"all at once", base.With([]metav1.Object{route("a"), c}, []object.Key{object.KeyOf(b)}),
			[]string{"HTTPRoute default/a changed", "HTTPRoute default/b gone", "HTTPRoute default/c new"},
		},
		{"workloads speak for themselves", base.With([]metav1.Object{workloadNamed("w")}, nil), nil},
		{"a workload that comes is told", base.With([]metav1.Object{workloadNamed("x")}, nil), []string{"Workload default/x new"}},
	}
	for _, tt := range tests {
		if got := words(compare(list(base), list(tt.next))); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestMergeKeepsWhatDidNotChange(t *testing.T) {
	a, b := workloadNamed("a"), workloadNamed("b")
	raw := &object.Set{Workloads: object.NewTable(a, b), HTTPRoutes: object.NewTable(route("r"))}
	status := func(ready metav1.ConditionStatus) v1alpha1.WorkloadStatus {
		return v1alpha1.WorkloadStatus{Conditions: []metav1.Condition{{Type: "Ready", Status: ready}}}
	}
	statuses := map[object.Name]v1alpha1.WorkloadStatus{object.NameOf(a): status("True"), object.NameOf(b): status("False")}
	var m merger
	first := m.merge(raw, statuses)
	if got, _ := first.Workloads.Get("default", "a"); len(got.Status.Conditions) != 1 || len(a.Status.Conditions) != 0 {
		t.Errorf("merged status %+v, source's own %+v", got.Status, a.Status)
	}
	if up, down := m.ready(); up != 1 || down != 1 {
		t.Errorf("ready %d, not ready %d", up, down)
	}
	if again := m.merge(raw, statuses); again != first {
		t.Error("another Set although nothing changed")
	}

	statuses[object.NameOf(b)] = status("True")
	second := m.merge(raw, statuses)
	a1, _ := first.Workloads.Get("default", "a")
	a2, _ := second.Workloads.Get("default", "a")
	b1, _ := first.Workloads.Get("default", "b")
	b2, _ := second.Workloads.Get("default", "b")
	if second == first || a1 != a2 || b1 == b2 || b2.Status.Conditions[0].Status != "True" {
		t.Error("the workload that changed, and only that, must have another pointer")
	}

	if !m.sameWorkloads(raw.With([]metav1.Object{route("r")}, nil)) || m.sameWorkloads(raw.With([]metav1.Object{workloadNamed("b")}, nil)) {
		t.Error("only a changed workload makes other workloads")
	}
	carried := m.carry(raw.With([]metav1.Object{route("s")}, nil))
	if carried.HTTPRoutes.Len() != 2 || &carried.Workloads.All()[0] != &second.Workloads.All()[0] {
		t.Error("a Set with the same workloads must keep their statuses and have the new route")
	}

	// Another object changed: the table of workloads is the same one.
	third := m.merge(raw.With([]metav1.Object{route("r")}, nil), statuses)
	if third == second || &third.Workloads.All()[0] != &second.Workloads.All()[0] {
		t.Error("the table of workloads was made anew")
	}
	fourth := m.merge(raw.With(nil, []object.Key{object.KeyOf(a)}), statuses)
	if fourth.Workloads.Len() != 1 || len(m.made) != 1 {
		t.Errorf("a workload that is gone: %d in the set, %d remembered", fourth.Workloads.Len(), len(m.made))
	}
}

func TestURLs(t *testing.T) {
	tests := []struct {
		protocol plan.Protocol
		host     string
		addr     string
		want     string
	}{
		{plan.HTTP, "", "[::]:80", "http://localhost/"},
		{plan.HTTP, "", "[::1]:8080", "http://[::1]:8080/"},
		{plan.HTTPS, "shop.example", "127.0.0.1:443", "https://shop.example/"},
		{plan.HTTPS, "*.shop.example", "127.0.0.1:8443", "https://*.shop.example:8443/"},
		{plan.HTTP, "", "192.0.2.1:443", "http://192.0.2.1:443/"},
	}
	for _, tt := range tests {
		if got := url(&plan.Listener{Protocol: tt.protocol, Hostname: tt.host}, netip.MustParseAddrPort(tt.addr)); got != tt.want {
			t.Errorf("%s %s: got %s, want %s", tt.host, tt.addr, got, tt.want)
		}
	}
}

func TestAnnouncementsAreBounded(t *testing.T) {
	var p pipeline
	for i := range 10_000 {
		p.announce(announcement{version: uint64(i), changes: slices.Repeat([]string{"x"}, 500)})
	}
	total := 0
	for _, a := range p.waiting {
		total += len(a.changes)
	}
	if len(p.waiting) > 32 || total > 32*500+1000 {
		t.Errorf("%d announcements with %d changes wait", len(p.waiting), total)
	}
	if last := p.waiting[len(p.waiting)-1]; last.version != 9_999 {
		t.Errorf("the last is of version %d", last.version)
	}
}

func TestTroubleOfListenersIsToldOnceAndItsEnd(t *testing.T) {
	var log bytes.Buffer
	p := &pipeline{log: slog.New(slog.NewTextHandler(&log, nil))}
	taken := []status.Problem{{Socket: "tcp/[::]:80", Message: "address already in use"}}
	for _, tt := range []struct {
		name     string
		problems []status.Problem
		want     string
	}{
		{"fine", nil, ""},
		{"taken", taken, "level=WARN"},
		{"still taken", taken, ""},
		{"free", nil, "level=INFO"},
		{"still free", nil, ""},
	} {
		log.Reset()
		p.tellTrouble(troubleOf(tt.problems))
		got := log.String()
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) || tt.want != "" && !strings.Contains(got, "tcp/[::]:80") {
			t.Errorf("%s: got %q, want %q and the socket", tt.name, got, tt.want)
		}
	}
}
