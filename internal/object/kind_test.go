package object

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestEveryKindHasItsPlace: a kind stands in the table, in KindOf, and in all
// that a Set does.
func TestEveryKindHasItsPlace(t *testing.T) {
	var all []metav1.Object
	var want []string
	for _, k := range kinds {
		o := k.New()
		o.SetName("a")
		if got := KindOf(o); got != k.Name {
			t.Errorf("KindOf says %q of a new %s", got, k.Name)
		}
		all, want = append(all, o), append(want, k.Name)
	}
	set := (&Set{}).With(all, nil)
	var got []string
	for o := range set.All {
		got = append(got, KindOf(o))
	}
	if !slices.Equal(got, want) {
		t.Errorf("a Set of one of each kind holds %v, want %v", got, want)
	}
	var keys []Key
	for _, o := range all {
		keys = append(keys, KeyOf(o))
	}
	for o := range set.With(nil, keys).All {
		t.Errorf("%s is not removed", KeyOf(o))
	}
}
