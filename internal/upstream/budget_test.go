package upstream

import (
	"sync"
	"testing"
	"time"

	"windrose.dev/windrose/internal/plan"
)

const second = int64(time.Second)

// spend takes what there is, at most so many.
func spend(b *Budget, now int64, most int) int {
	n := 0
	for n < most && b.Spend(now) {
		n++
	}
	return n
}

func TestBudgetsOfPolicies(t *testing.T) {
	now := 1000 * second
	for _, c := range []struct {
		name     string
		of       plan.RetryBudget
		requests int
		want     int
	}{
		{"only what is free", plan.RetryBudget{Percent: 20, Interval: 10 * time.Second, Free: 3, FreeInterval: time.Second}, 0, 3},
		{"200 of 1000", plan.RetryBudget{Percent: 20, Interval: 10 * time.Second, Free: 1, FreeInterval: time.Second}, 800, 200},
		{"as many as requests", plan.RetryBudget{Percent: 50, Interval: time.Hour, Free: 1, FreeInterval: time.Second}, 40, 40},
		{"no share", plan.RetryBudget{Percent: 0, Interval: time.Second, Free: 7, FreeInterval: time.Second}, 1000, 7},
		{"without bound", plan.RetryBudget{Percent: 100, Interval: time.Second, Free: 1, FreeInterval: time.Second}, 0, 5000},
		{"the free ones within the share", plan.RetryBudget{Percent: 50, Interval: time.Minute, Free: 10, FreeInterval: time.Second}, 100, 100},
	} {
		b := newBudget(&c.of)
		for range c.requests {
			b.Request(now)
		}
		if got := spend(b, now, 5000); got != c.want {
			t.Errorf("%s: %d retries, want %d", c.name, got, c.want)
		}
	}
}

func TestBudgetsForget(t *testing.T) {
	b := newBudget(&plan.RetryBudget{Percent: 50, Interval: 10 * time.Second, Free: 2, FreeInterval: time.Second})
	now := 1000 * second
	for range 10 {
		b.Request(now)
	}
	for _, c := range []struct {
		after int64 // seconds
		want  int
	}{{0, 10}, {0, 0}, {2, 2}, {2, 0}, {9, 2}, {100, 2}} {
		if got := spend(b, now+c.after*second, 1000); got != c.want {
			t.Errorf("after %d s: %d retries, want %d", c.after, got, c.want)
		}
	}
}

// All loops share a budget.
func TestBudgetsAreShared(t *testing.T) {
	b := newBudget(&plan.RetryBudget{Percent: 20, Interval: time.Minute, Free: 1, FreeInterval: time.Second})
	now := 1000 * second
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				b.Request(now)
			}
		})
	}
	wg.Wait()
	var mu sync.Mutex
	all := 0
	for range 4 {
		wg.Go(func() {
			n := spend(b, now, 1000)
			mu.Lock()
			defer mu.Unlock()
			all += n
		})
	}
	wg.Wait()
	if all != 200 {
		t.Errorf("%d retries of 800 requests, want 200", all)
	}
}

func TestBudgetsOutlivePlans(t *testing.T) {
	f := newFixture(t.Context(), Config{})
	of := &plan.RetryBudget{Percent: 0, Interval: time.Second, Free: 1, FreeInterval: time.Hour}
	with := func(of *plan.RetryBudget, ends ...int) plan.Part {
		p := part("s", "", ends...)
		p.Service.Budget = of
		return p
	}
	first := f.service(t, f.use([]plan.Part{with(of, 1)}), "s").Budget
	same := *of
	if next := f.service(t, f.use([]plan.Part{with(&same, 1, 2)}), "s").Budget; next != first || next == nil {
		t.Error("the budget began anew when an endpoint came")
	}
	other := *of
	other.Free = 2
	if next := f.service(t, f.use([]plan.Part{with(&other, 1, 2)}), "s").Budget; next == first {
		t.Error("the budget stayed when its policy changed")
	}
	if next := f.service(t, f.use([]plan.Part{with(nil, 1, 2)}), "s").Budget; next != nil {
		t.Error("there is a budget without a policy")
	}
}
