package translate_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
	"windrose.dev/windrose/internal/translate"
)

// FuzzPlan translates whatever can be decoded, without any schema in front:
// nothing may panic, and the Builder must find nothing wrong that translation
// let through.
func FuzzPlan(f *testing.F) {
	base, err := os.ReadFile("testdata/base.yaml")
	if err != nil {
		f.Fatal(err)
	}
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(archive.Files[0].Data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		objects := decode(t, base)
		for doc := range bytes.SplitSeq(data, []byte("\n---\n")) {
			var head metav1.TypeMeta
			if yaml.Unmarshal(doc, &head) != nil {
				continue
			}
			kind, ok := object.KindNamed(head.Kind)
			if !ok {
				continue
			}
			o := kind.New()
			if yaml.Unmarshal(doc, o) != nil {
				continue
			}
			if o.GetNamespace() == "" && !kind.Cluster {
				o.SetNamespace("default")
			}
			objects = append(objects, o)
		}
		env := testEnv()
		env.Carried = everything(t)
		r := translate.New(env).Plan((&object.Set{}).With(objects, nil))
		_, problems := plan.NewBuilder().Apply(parts(r), nil)
		for _, p := range problems {
			if p.Key.Kind == plan.KindCertificate && strings.Contains(p.Message, "PEM") {
				continue // the placeholders of tests hold none
			}
			t.Errorf("%s: %s: %s", p.Key, p.Reason, p.Message)
		}
	})
}

// TestAllocations bounds what a changed route among many costs beside its own
// compilation: 80 allocations on 24 November 2026, whatever the number of routes.
func TestAllocations(t *testing.T) {
	set := fleet(1000)
	tr := translate.New(translate.Env{})
	tr.Plan(set)
	sets := []*object.Set{
		set.With([]metav1.Object{httpRoute("ns-0", "app-0", "app-0.example.com", "app-50")}, nil),
		set.With([]metav1.Object{httpRoute("ns-0", "app-0", "app-0.example.com", "app-100")}, nil),
	}
	i := 0
	got := testing.AllocsPerRun(100, func() {
		tr.Plan(sets[i%2])
		i++
	})
	if got > 200 {
		t.Errorf("a changed route takes %v allocations, want at most 200", got)
	}
}
