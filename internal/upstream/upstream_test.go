package upstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"windrose.dev/windrose/internal/plan"
)

func addr(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 80)
}

func part(name string, balance plan.Balance, ends ...int) plan.Part {
	s := &plan.Service{Protocol: plan.HTTP, Balance: balance}
	for _, i := range ends {
		s.Endpoints = append(s.Endpoints, plan.Endpoint{Addr: addr(i), Name: fmt.Sprintf("%s-%d", name, i)})
	}
	return plan.Part{Key: plan.Key{Kind: plan.KindService, Name: name}, Service: s}
}

func named(name, host string) plan.Part {
	return plan.Part{Key: plan.Key{Kind: plan.KindService, Name: name}, Service: &plan.Service{Protocol: plan.HTTP, Hostname: host, Port: 8080}}
}

// fixture is a table with the builder of its plans.
type fixture struct {
	table   *Table
	builder *plan.Builder
	plan    *plan.Plan
}

func newFixture(ctx context.Context, cfg Config) *fixture {
	return &fixture{table: NewTable(ctx, cfg), builder: plan.NewBuilder()}
}

func (f *fixture) use(changes []plan.Part, removed ...string) *View {
	var keys []plan.Key
	for _, name := range removed {
		keys = append(keys, plan.Key{Kind: plan.KindService, Name: name})
	}
	f.plan, _ = f.builder.Apply(changes, keys)
	return f.table.Use(f.plan)
}

func (f *fixture) service(tb testing.TB, v *View, name string) *Service {
	tb.Helper()
	for slot := range f.plan.Services() {
		if s := v.Service(slot); s != nil && s.Name == name {
			return s
		}
	}
	tb.Fatalf("no service %s", name)
	return nil
}

func one(tb testing.TB, p plan.Part) *Service {
	tb.Helper()
	f := newFixture(tb.Context(), Config{})
	return f.service(tb, f.use([]plan.Part{p}), p.Key.Name)
}

func TestPickNothing(t *testing.T) {
	if e := one(t, part("s", plan.RoundRobin)).Pick(0, 1, nil); e != nil {
		t.Errorf("picked %v of no endpoints", e.Addr)
	}
	for _, balance := range []plan.Balance{plan.RoundRobin, plan.LeastRequest, ""} {
		s := one(t, part("s", balance, 1, 2, 3))
		if e := s.Pick(0, 1, s.Endpoints()); e != nil {
			t.Errorf("%q: picked %v although all were tried", balance, e.Addr)
		}
	}
}

func TestRoundRobinIsExact(t *testing.T) {
	s := one(t, part("s", plan.RoundRobin, 1, 2, 3, 4))
	got := map[*Endpoint]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 4 { // loops share the cursor
		wg.Go(func() {
			for range 250 {
				e := s.Pick(0, rand.Uint64(), nil)
				mu.Lock()
				got[e]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for _, e := range s.Endpoints() {
		if got[e] != 250 {
			t.Errorf("%v got %d of 1000 requests, want 250", e.Addr, got[e])
		}
	}
}

func TestLeastRequestSpreads(t *testing.T) {
	s := one(t, part("s", plan.LeastRequest, 1, 2, 3, 4))
	rng := rand.New(rand.NewPCG(1, 2))
	got := map[*Endpoint]int{}
	for range 4000 {
		got[s.Pick(0, rng.Uint64(), nil)]++
	}
	for _, e := range s.Endpoints() {
		if n := got[e]; n < 700 || n > 1300 {
			t.Errorf("equal endpoints: %v got %d of 4000 requests, want about 1000", e.Addr, n)
		}
	}
	busy, slow := s.Endpoints()[0], s.Endpoints()[1]
	for range 50 {
		busy.Begin()
	}
	for range 20 {
		slow.Answered(1, int64(time.Second))
	}
	clear(got)
	for range 4000 {
		got[s.Pick(1, rng.Uint64(), nil)]++
	}
	// Each loses every comparison but the one between the two.
	if n := got[busy] + got[slow]; n > 4000/6+150 {
		t.Errorf("a busy and a slow endpoint got %d of 4000 requests, want at most a sixth", n)
	}
	// A slow one that gets nothing is tried again.
	later := 20 * halfLife
	clear(got)
	for range 4000 {
		got[s.Pick(later, rng.Uint64(), nil)]++
	}
	if got[slow] < 500 {
		t.Errorf("an endpoint that was slow long ago got %d of 4000 requests, want its share", got[slow])
	}
}

func TestTriedIsNeverPicked(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, balance := range []plan.Balance{plan.RoundRobin, plan.LeastRequest} {
		s := one(t, part("s", balance, 1, 2, 3, 4, 5))
		for range 2000 {
			var tried []*Endpoint
			for len(tried) < 5 {
				if rng.IntN(3) == 0 {
					s.Endpoints()[rng.IntN(5)].Refused(0)
				}
				e := s.Pick(0, rng.Uint64(), tried)
				if e == nil || slices.Contains(tried, e) {
					t.Fatalf("%s: picked %v after %d tries", balance, e, len(tried))
				}
				tried = append(tried, e)
			}
		}
	}
}

func TestRefusedEndpointIsLeftOut(t *testing.T) {
	for _, balance := range []plan.Balance{plan.RoundRobin, plan.LeastRequest} {
		s := one(t, part("s", balance, 1, 2))
		bad, good := s.Endpoints()[0], s.Endpoints()[1]
		rng := rand.New(rand.NewPCG(5, 6))
		count := func(now int64) (n int) {
			for range 200 {
				if s.Pick(now, rng.Uint64(), nil) == bad {
					n++
				}
			}
			return n
		}
		now := int64(1)
		for _, out := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second} {
			bad.Refused(now)
			if n := count(now + int64(out) - 1); n != 0 || !bad.Down(now+int64(out)-1) {
				t.Errorf("%s: %d requests within %v, want none", balance, n, out)
			}
			now += int64(out)
			if n := count(now); n != 1 { // P2C with 200 picks of two meets it
				t.Errorf("%s: %d requests try it after %v, want one", balance, n, out)
			}
		}
		bad.Connected()
		if n := count(now); n < 50 {
			t.Errorf("%s: %d of 200 requests after it was connected to, want its share", balance, n)
		}
		// If all are out, the one that was out first is better than none.
		bad.Refused(now)
		good.Refused(now + 1)
		if e := s.Pick(now+2, rng.Uint64(), nil); e != bad {
			t.Errorf("%s: all out: picked %v, want %v", balance, e.Addr, bad.Addr)
		}
		if e := s.Pick(now+2, rng.Uint64(), []*Endpoint{bad}); e != good {
			t.Errorf("%s: all out, one tried: picked %v, want %v", balance, e.Addr, good.Addr)
		}
	}
}

// An endpoint that fails at once must not look like the fastest.
func TestFailingEndpointIsAvoidedUntilItAnswers(t *testing.T) {
	f := newFixture(t.Context(), Config{})
	s := f.service(t, f.use([]plan.Part{part("s", plan.LeastRequest, 1, 2)}), "s")
	rng := rand.New(rand.NewPCG(1, 2))
	good, bad := s.Endpoints()[0], s.Endpoints()[1]
	now := int64(1)
	picks := func(n int) (ofBad int) {
		for range n {
			now += int64(time.Millisecond)
			if e := s.Pick(now, rng.Uint64(), nil); e == bad {
				ofBad++
				bad.Failed(now)
			} else {
				good.Answered(now, int64(time.Millisecond))
			}
		}
		return ofBad
	}
	if n := picks(1000); n == 0 || n > 5 {
		t.Errorf("the failing endpoint was asked %d times in the first second", n)
	}
	now += int64(20 * time.Second)
	good.Answered(now, int64(time.Millisecond))
	if n := picks(60_000); n == 0 || n > 30 {
		t.Errorf("the failing endpoint was asked %d times in a minute, want now and then", n)
	}
	// It is one of two again once it answers.
	now += int64(2 * time.Minute)
	bad.Answered(now, int64(time.Millisecond))
	good.Answered(now, int64(time.Millisecond))
	ofBad := 0
	for range 1000 {
		now += int64(time.Millisecond)
		e := s.Pick(now, rng.Uint64(), nil)
		e.Answered(now, int64(time.Millisecond))
		if e == bad {
			ofBad++
		}
	}
	if ofBad < 300 {
		t.Errorf("the endpoint that is well again was asked %d times of 1000", ofBad)
	}
}

func TestOneEndpointIsPickedEvenIfOut(t *testing.T) {
	s := one(t, part("s", "", 1))
	s.Endpoints()[0].Refused(0)
	if e := s.Pick(1, 0, nil); e != s.Endpoints()[0] {
		t.Error("the only endpoint is not picked")
	}
}

func TestTableKeepsStateAcrossPlans(t *testing.T) {
	f := newFixture(t.Context(), Config{})
	first := f.service(t, f.use([]plan.Part{part("a", plan.RoundRobin, 1, 2), part("b", "", 2, 3)}), "a")
	one, two := first.Endpoints()[0], first.Endpoints()[1]
	one.Begin()
	first.Pick(0, 0, nil)

	v := f.use([]plan.Part{part("c", "", 9)}) // does not concern a
	if f.service(t, v, "a") != first {
		t.Error("an unchanged service is another")
	}
	if shared := f.service(t, v, "b").Endpoints()[0]; shared != two {
		t.Error("two services do not share an endpoint that both name")
	}
	v = f.use([]plan.Part{part("a", plan.RoundRobin, 1, 2, 4)})
	grown := f.service(t, v, "a")
	if grown == first || grown.Endpoints()[0] != one || grown.Endpoints()[1] != two || one.Active() != 1 {
		t.Error("endpoints that stayed lost what was known of them")
	}
	if grown.cursor != first.cursor {
		t.Error("round robin began anew")
	}
	f.use([]plan.Part{part("a", "", 4)})
	if !one.Gone() || two.Gone() {
		t.Errorf("gone: %v and %v, want true for the one that nobody names and false for the one that b names", one.Gone(), two.Gone())
	}
	v = f.use(nil, "b")
	if !two.Gone() {
		t.Error("an endpoint that nobody names any more is not gone")
	}
	for slot := range f.plan.Services() {
		if s := v.Service(slot); s != nil && s.Name == "b" {
			t.Error("a removed service is in the view")
		}
	}
	if n := len(f.table.endpoints); n != 2 { // 4 and 9
		t.Errorf("the table keeps %d endpoints, want 2", n)
	}
	if v.Service(-1) != nil || v.Service(1000) != nil || (*View)(nil).Service(0) != nil {
		t.Error("a slot that is not there has a service")
	}
}

// resolver answers by a list, one entry for each look-up.
type resolver struct {
	mu      sync.Mutex
	answers [][]netip.Addr // nil: an error
	asked   int
}

func (r *resolver) lookup(context.Context, string) ([]netip.Addr, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	answer := r.answers[min(r.asked, len(r.answers)-1)]
	r.asked++
	if answer == nil {
		return nil, errors.New("the name server is away")
	}
	return slices.Clone(answer), nil
}

func (r *resolver) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

func TestExternalName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
		r := &resolver{answers: [][]netip.Addr{nil, {b, a, a}, {a, b}, nil, {b}}}
		var changes atomic.Int64
		f := newFixture(ctx, Config{Lookup: r.lookup, Changed: func() { changes.Add(1) }, Refresh: time.Second})
		f.use([]plan.Part{named("e", "x.example"), named("same", "x.example")})
		ends := func() (list []string) {
			for _, e := range f.service(t, f.table.View(), "e").Endpoints() {
				list = append(list, e.Addr.String())
			}
			return list
		}
		for i, want := range []struct {
			ends    []string
			changes int64
		}{
			{nil, 0}, // the name server is away at first
			{[]string{"192.0.2.1:8080", "[2001:db8::1]:8080"}, 1},
			{[]string{"192.0.2.1:8080", "[2001:db8::1]:8080"}, 1}, // another order is no change
			{[]string{"192.0.2.1:8080", "[2001:db8::1]:8080"}, 1}, // an error keeps them
			{[]string{"[2001:db8::1]:8080"}, 2},
		} {
			synctest.Wait()
			if got := ends(); !slices.Equal(got, want.ends) || changes.Load() != want.changes {
				t.Errorf("look-up %d: got %v after %d changes, want %v after %d", i, got, changes.Load(), want.ends, want.changes)
			}
			time.Sleep(time.Second)
		}
		if n := r.count(); n != 6 && n != 5 { // one resolver for both services
			t.Errorf("asked %d times in 5 s, want once a second", n)
		}
		f.use(nil, "e", "same")
		synctest.Wait()
		asked := r.count()
		time.Sleep(10 * time.Second)
		if n := r.count(); n != asked {
			t.Errorf("a name that nobody uses is looked up, %d times in 10 s", n-asked)
		}
	})
}

func TestExternalNameThatIsAnAddress(t *testing.T) {
	f := newFixture(t.Context(), Config{})
	v := f.use([]plan.Part{named("e", "192.0.2.7")})
	s := f.service(t, v, "e")
	if len(s.Endpoints()) != 1 || s.Endpoints()[0].Addr.String() != "192.0.2.7:8080" {
		t.Errorf("got %v, want 192.0.2.7:8080", s.Endpoints())
	}
	if f.service(t, f.table.View(), "e") != s {
		t.Error("an unchanged service is another")
	}
}

// An endpoint that drains is found, and picked by nobody; what was learned of it
// stays.
func TestDrainingEndpointsAreFoundAndNotPicked(t *testing.T) {
	f := newFixture(t.Context(), Config{})
	before := f.service(t, f.use([]plan.Part{part("s", "", 1, 2)}), "s")
	leaves := before.Find(addr(2))
	drains := part("s", "", 1)
	drains.Service.Draining = []plan.Endpoint{{Addr: addr(2)}}
	s := f.service(t, f.use([]plan.Part{drains}), "s")
	if s.Find(addr(2)) != leaves || leaves == nil || leaves.Gone() {
		t.Errorf("the endpoint that drains is %p, and was %p (gone %v)", s.Find(addr(2)), leaves, leaves.Gone())
	}
	for range 100 {
		if e := s.Pick(0, rand.Uint64(), nil); e.Addr != addr(1) {
			t.Fatalf("picked %v, which drains", e.Addr)
		}
	}
	if s = f.service(t, f.use([]plan.Part{part("s", "", 1)}), "s"); s.Find(addr(2)) != nil || !leaves.Gone() {
		t.Error("the endpoint is there after it was removed")
	}
}

func TestLoadOfAService(t *testing.T) {
	f := newFixture(t.Context(), Config{})
	s := f.service(t, f.use([]plan.Part{part("a", plan.RoundRobin, 1, 2, 3)}), "a")
	if active, endpoints, out := s.Load(0); active != 0 || endpoints != 3 || out != 0 {
		t.Errorf("got %d in flight, %d endpoints, %d left out, want 0, 3 and 0", active, endpoints, out)
	}
	s.Endpoints()[0].Begin()
	s.Endpoints()[0].Begin()
	s.Endpoints()[2].Begin()
	s.Endpoints()[1].Refused(0)
	if active, endpoints, out := s.Load(1); active != 3 || endpoints != 3 || out != 1 {
		t.Errorf("got %d in flight, %d endpoints, %d left out, want 3, 3 and 1", active, endpoints, out)
	}
	if _, _, out := s.Load(int64(time.Hour)); out != 0 {
		t.Errorf("%d are left out for ever", out)
	}
}
