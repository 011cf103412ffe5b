package plan_test

import (
	"fmt"
	"testing"

	"windrose.dev/windrose/internal/plan"
)

func mirrorOf(tb testing.TB, m plan.Mirror) *plan.BoundRule {
	tb.Helper()
	part := plan.Part{Key: plan.Key{Kind: plan.KindRoute, Name: "r"}, Route: &plan.Route{Rules: []plan.Rule{{Filters: []plan.Filter{{Mirror: &m}}}}}}
	p, _ := plan.NewBuilder().Apply([]plan.Part{part}, nil)
	return &p.Route(0).Rules[0]
}

// Each window of den positions, wherever it begins, holds num copies.
func TestMirrorIsExact(t *testing.T) {
	for _, c := range [][2]int32{{0, 100}, {1, 100}, {33, 100}, {50, 100}, {99, 100}, {100, 100}, {3, 7}, {1, 1}, {2147483646, 2147483647}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			m := mirrorOf(t, plan.Mirror{Service: "s", Num: c[0], Den: c[1]}).Filters[0].Mirror
			if c[1] > 100 {
				if !m.Takes(1 << 40) {
					t.Error("a request is left out that is not")
				}
				return
			}
			for start := range uint64(c[1]) {
				n := int32(0)
				for p := range uint64(c[1]) {
					if m.Takes(start + p) {
						n++
					}
				}
				if n != c[0] {
					t.Fatalf("from %d on: %d of %d, want %d", start, n, c[1], c[0])
				}
			}
		})
	}
}

func TestMirrorThatIsNone(t *testing.T) {
	for _, m := range []plan.Mirror{{Service: "s"}, {Num: 1, Den: 1}, {Service: "s", Num: 2, Den: 1}, {Service: "s", Num: -1, Den: 1}} {
		if mirrorOf(t, m).Broken == nil {
			t.Errorf("%+v was taken", m)
		}
	}
}

// A mirror's service keeps its slot, and may come later or go.
func TestMirrorFollowsItsService(t *testing.T) {
	b := plan.NewBuilder()
	service := plan.Part{Key: plan.Key{Kind: plan.KindService, Name: "copy"}, Service: &plan.Service{Port: 1}}
	r := plan.Part{Key: plan.Key{Kind: plan.KindRoute, Name: "r"}, Route: &plan.Route{Rules: []plan.Rule{{Filters: []plan.Filter{{Mirror: &plan.Mirror{Service: "copy", Num: 1, Den: 1}}}}}}}
	p, _ := b.Apply([]plan.Part{r}, nil)
	at := func(p *plan.Plan) *plan.Service { return p.Service(p.Route(0).Rules[0].Filters[0].Mirror.Service) }
	if at(p) != nil || p.Route(0).Rules[0].Broken != nil {
		t.Errorf("without its service: %v, broken %v; want nothing, and a rule that serves", at(p), p.Route(0).Rules[0].Broken)
	}
	p, _ = b.Apply([]plan.Part{service}, nil)
	if at(p) == nil {
		t.Error("the service came, and the mirror does not see it")
	}
	p, _ = b.Apply([]plan.Part{{Key: plan.Key{Kind: plan.KindService, Name: "other"}, Service: &plan.Service{Port: 2}}}, []plan.Key{service.Key})
	if got := at(p); got != nil {
		t.Errorf("the service went, and the mirror sees %v", got)
	}
	if _, problems := b.Apply(nil, []plan.Key{r.Key}); len(problems) > 0 {
		t.Errorf("after its removal: %v", problems)
	}
}
