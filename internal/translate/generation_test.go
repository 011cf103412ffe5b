package translate_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/translate"
)

// TestConditionsAreOfTheGenerationRead: after a change each condition, also one
// that stays as it was, says the generation that it is about. All text cases are
// changed once, so that no condition that windrose can set is left out.
//
// covers: GatewayClassObservedGenerationBump GatewayObservedGenerationBump HTTPRouteObservedGenerationBump
// covers: BackendTLSPolicyObservedGenerationBump
func TestConditionsAreOfTheGenerationRead(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	base, err := os.ReadFile("testdata/base.yaml")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]bool{}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		objects := decode(t, base)
		for _, f := range archive.Files {
			if strings.HasSuffix(f.Name, ".yaml") {
				objects = append(objects, decode(t, f.Data)...)
			}
		}
		env := testEnv()
		env.Carried = everything(t)
		translator := translate.New(env)
		set := (&object.Set{}).With(objects, nil)
		translator.Plan(set)
		for _, s := range translator.Plan(set.With(bumped(t, objects), nil)).Statuses {
			for _, c := range conditionsOf(s) {
				kinds[s.Object.Kind] = true
				if c.ObservedGeneration != bumpedTo {
					t.Errorf("%s: %s: condition %s=%s (%s) is of generation %d, want %d", file, s.Object, c.Type, c.Status, c.Reason, c.ObservedGeneration, bumpedTo)
				}
			}
		}
	}
	for _, kind := range []string{"GatewayClass", "Gateway", "ListenerSet", "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute", "BackendTLSPolicy"} {
		if !kinds[kind] {
			t.Errorf("no case has a condition of a %s", kind)
		}
	}
}

const bumpedTo = 7

func bumped(tb testing.TB, objects []metav1.Object) []metav1.Object {
	tb.Helper()
	var all []metav1.Object
	for _, o := range objects {
		changed, ok := o.(runtime.Object).DeepCopyObject().(metav1.Object)
		if !ok {
			tb.Fatalf("%T has no metadata", o)
		}
		changed.SetGeneration(bumpedTo)
		all = append(all, changed)
	}
	return all
}

// conditionsOf gives all conditions of a status, those of its parts too.
func conditionsOf(s *object.Status) (all []metav1.Condition) {
	switch {
	case s.GatewayClass != nil:
		all = s.GatewayClass.Conditions
	case s.Gateway != nil:
		all = append(all, s.Gateway.Conditions...)
		for _, l := range s.Gateway.Listeners {
			all = append(all, l.Conditions...)
		}
	case s.ListenerSet != nil:
		all = append(all, s.ListenerSet.Conditions...)
		for _, l := range s.ListenerSet.Listeners {
			all = append(all, l.Conditions...)
		}
	case s.Route != nil:
		for _, p := range s.Route.Parents {
			all = append(all, p.Conditions...)
		}
	case s.Policy != nil:
		for _, a := range s.Policy.Ancestors {
			all = append(all, a.Conditions...)
		}
	}
	return all
}

// TestListenersAreAddedAndRemoved: one that is added takes traffic, and one that
// is removed takes none and leaves the status.
//
// covers: GatewayModifyListeners
func TestListenersAreAddedAndRemoved(t *testing.T) {
	const gateway = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web}
spec:
  gatewayClassName: windrose
  listeners: [LISTENERS]
`
	const route = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: web}]
  rules: [{backendRefs: [{name: v1, port: 8080}]}]
`
	base, err := os.ReadFile("testdata/base.yaml")
	if err != nil {
		t.Fatal(err)
	}
	translator := translate.New(testEnv())
	set := (&object.Set{}).With(append(decode(t, base), decode(t, []byte(route))...), nil)
	const a, b = "{name: a, port: 80, protocol: HTTP}", "{name: b, port: 81, protocol: HTTP}"
	for _, step := range []struct{ listeners, want string }{
		{a, "a: 1 route, 80 serves, 81 does not"},
		{a + ", " + b, "a: 1 route, b: 1 route, 80 serves, 81 serves"},
		{b, "b: 1 route, 80 does not, 81 serves"},
	} {
		set = set.With(decode(t, []byte(strings.Replace(gateway, "LISTENERS", step.listeners, 1))), nil)
		result := translator.Plan(set)
		var got []string
		for _, s := range result.Statuses {
			if s.Gateway == nil {
				continue
			}
			for _, l := range s.Gateway.Listeners {
				if l.AttachedRoutes == 1 {
					got = append(got, string(l.Name)+": 1 route")
				}
			}
		}
		p, _ := plan.NewBuilder().Apply(parts(result), nil)
		for _, port := range []string{"80", "81"} {
			does := " does not"
			if p.Bound("tcp/[::]:"+port) != nil {
				does = " serves"
			}
			got = append(got, port+does)
		}
		if got := strings.Join(got, ", "); got != step.want {
			t.Errorf("with %s: got %q, want %q", step.listeners, got, step.want)
		}
	}
}
