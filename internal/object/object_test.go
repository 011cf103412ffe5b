package object_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"windrose.dev/windrose/internal/object"
)

func service(ns, name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
}

func list(t object.Table[*corev1.Service]) []string {
	var all []string
	for _, o := range t.All() {
		all = append(all, object.NameOf(o).String())
	}
	return all
}

func TestTableWith(t *testing.T) {
	base := object.NewTable(service("b", "x"), service("a", "y"), service("a", "x"))
	for _, tt := range []struct {
		name    string
		changed []*corev1.Service
		removed []object.Name
		want    []string
	}{
		{"nothing", nil, nil, []string{"a/x", "a/y", "b/x"}},
		{"one more at each end and between", []*corev1.Service{service("c", "z"), service("", "a"), service("a", "xx")}, nil, []string{"a", "a/x", "a/xx", "a/y", "b/x", "c/z"}},
		{"one less", nil, []object.Name{{Namespace: "a", Name: "y"}}, []string{"a/x", "b/x"}},
		{"one that is not there", nil, []object.Name{{Namespace: "a", Name: "z"}}, []string{"a/x", "a/y", "b/x"}},
		{"removed and changed", []*corev1.Service{service("a", "y")}, []object.Name{{Namespace: "a", Name: "y"}}, []string{"a/x", "a/y", "b/x"}},
		{"all", nil, []object.Name{{Namespace: "a", Name: "y"}, {Namespace: "a", Name: "x"}, {Namespace: "b", Name: "x"}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := list(base.With(tt.changed, tt.removed)); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if got := list(base); !slices.Equal(got, []string{"a/x", "a/y", "b/x"}) {
				t.Errorf("the table itself became %q", got)
			}
		})
	}
}

func TestTableOfTwoTheLaterWins(t *testing.T) {
	first, second := service("a", "x"), service("a", "x")
	if got, ok := object.NewTable(first, second).Get("a", "x"); !ok || got != second {
		t.Error("the first won")
	}
}

// A table and a map must agree after any changes.
func TestTableAgreesWithAMap(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	table, model := object.Table[*corev1.Service]{}, map[object.Name]*corev1.Service{}
	for range 500 {
		var changed []*corev1.Service
		var removed []object.Name
		for range rnd.IntN(4) {
			n := object.Name{Namespace: fmt.Sprint(rnd.IntN(3)), Name: fmt.Sprint(rnd.IntN(20))}
			removed = append(removed, n)
			delete(model, n)
		}
		for range rnd.IntN(4) {
			o := service(fmt.Sprint(rnd.IntN(3)), fmt.Sprint(rnd.IntN(20)))
			changed = append(changed, o)
			model[object.NameOf(o)] = o
		}
		table = table.With(changed, removed)
		if table.Len() != len(model) || !slices.IsSortedFunc(table.All(), func(a, b *corev1.Service) int { return object.NameOf(a).Compare(object.NameOf(b)) }) {
			t.Fatalf("got %q, want %d", list(table), len(model))
		}
		for n, want := range model {
			if got, ok := table.Get(n.Namespace, n.Name); !ok || got != want {
				t.Fatalf("%s: got %v, want %v", n, got, want)
			}
		}
	}
}

func TestSetWith(t *testing.T) {
	gw := &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web"}}
	s1 := (&object.Set{}).With([]metav1.Object{gw, service("a", "x")}, nil)
	s2 := s1.With([]metav1.Object{service("a", "y")}, []object.Key{{Kind: "Service", Namespace: "a", Name: "x"}})
	if got := list(s2.Services); !slices.Equal(got, []string{"a/y"}) {
		t.Errorf("services %q", got)
	}
	if got, ok := s2.Gateways.Get("a", "web"); !ok || got != gw {
		t.Error("an object that did not change is not shared")
	}
	if got := list(s1.Services); !slices.Equal(got, []string{"a/x"}) {
		t.Errorf("the older Set became %q", got)
	}
	n := 0
	for o := range s2.All {
		if object.KindOf(o) == "" {
			t.Errorf("%T has no kind", o)
		}
		n++
	}
	if n != 2 {
		t.Errorf("All gave %d objects, want 2", n)
	}
}

func TestRender(t *testing.T) {
	key := object.Key{Kind: "Service", Namespace: "default", Name: "a"}
	for _, tt := range []struct {
		name string
		f    object.Finding
		want string
	}{
		{
			"all of it",
			object.Finding{Severity: object.Error, Object: key, Field: "spec.type", Reason: "Invalid", Message: "wrong", Mend: "mend it", Excerpt: "  type: x", Place: object.Place{File: "a.yaml", Line: 2, Column: 9}},
			"a.yaml:2:9: error: Service default/a: spec.type: wrong [Invalid]\n    type: x\n          ^\n  mend it\n",
		},
		{"next to nothing", object.Finding{Severity: object.Info, Message: "so"}, "info: so\n"},
		{"a place without line", object.Finding{Severity: object.Warning, Message: "so", Place: object.Place{File: "a.yaml"}}, "a.yaml: warning: so\n"},
		{"a wide letter before the caret", object.Finding{Severity: object.Error, Message: "so", Excerpt: "é: x", Place: object.Place{File: "a", Line: 1, Column: 5}}, "a:1:5: error: so\n    é: x\n       ^\n"},
		{"a terminal's command", object.Finding{Severity: object.Error, Message: "so", Excerpt: "a\x1b[2J", Place: object.Place{File: "a", Line: 1, Column: 1}}, "a:1:1: error: so\n    a?[2J\n    ^\n"},
		{
			"a line of a Secret",
			object.Finding{Severity: object.Error, Object: object.Key{Kind: "Secret", Namespace: "a", Name: "b"}, Message: "so", Excerpt: "  key: hush", Place: object.Place{File: "a", Line: 1, Column: 3}}.Public(),
			"a:1:3: error: Secret a/b: so\n",
		},
		{"a column inside the indentation", object.Finding{Severity: object.Error, Message: "so", Excerpt: "    a", Place: object.Place{File: "a", Line: 1, Column: 3}}, "a:1:3: error: so\n      a\n    ^\n"},
		{"a column behind the line", object.Finding{Severity: object.Error, Message: "so", Excerpt: "a", Place: object.Place{File: "a", Line: 1, Column: 300}}, "a:1:300: error: so\n    a\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := object.Render(tt.f); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestMeant(t *testing.T) {
	for _, tt := range []struct {
		name  string
		known []string
		want  string
	}{
		{"targetport", []string{"port", "targetPort"}, `did you mean "targetPort"?`},
		{"x", []string{"port", "name"}, "known: name, port"},
		{"x", nil, ""},
	} {
		if got := object.Meant(tt.name, slices.Values(tt.known)); got != tt.want {
			t.Errorf("Meant(%q) = %q, want %q", tt.name, got, tt.want)
		}
	}
}

func BenchmarkTable(b *testing.B) {
	var all []*corev1.Service
	for i := range 5000 {
		all = append(all, service(fmt.Sprintf("team-%d", i%50), fmt.Sprintf("svc-%d", i)))
	}
	t := object.NewTable(all...)
	b.Run("With/objects=5000", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			t.With(all[:1], nil)
		}
	})
	b.Run("Get/objects=5000", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			t.Get("team-7", "svc-4207")
		}
	})
}

// Whoever writes a manifest writes no command to the terminal of whoever reads
// what is wrong with it, and no finding but his own.
func TestRenderedFindingsCommandNothing(t *testing.T) {
	const evil = "a\x1b[2J\nb.yaml:1:1: error: x\r\u202ey\u2028"
	got := object.Render(object.Finding{
		Severity: object.Error, Object: object.Key{Kind: evil, Namespace: evil, Name: evil}, Field: evil,
		Place: object.Place{File: evil, Line: 1, Column: 1}, Reason: "R", Message: evil, Mend: evil, Excerpt: "  " + evil,
	})
	if strings.ContainsAny(got, "\x1b\r\u202e\u2028") {
		t.Errorf("got %q", got)
	}
	for i, line := range strings.Split(strings.TrimSuffix(got, "\n"), "\n") {
		if i > 0 && !strings.HasPrefix(line, "  ") {
			t.Errorf("line %d looks like a finding: %q", i+1, line)
		}
	}
}
