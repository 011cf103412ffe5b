package plan_test

import (
	"testing"

	"windrose.dev/windrose/internal/plan"
)

func authPart(auths ...plan.Auth) []plan.Filter {
	var list []plan.Filter
	for _, a := range auths {
		list = append(list, plan.Filter{Auth: &a})
	}
	return list
}

func boundAuth(tb testing.TB, a plan.Auth) *plan.BoundRule {
	tb.Helper()
	part := plan.Part{Key: plan.Key{Kind: plan.KindRoute, Name: "r"}, Route: &plan.Route{Rules: []plan.Rule{{Filters: authPart(a)}}}}
	p, _ := plan.NewBuilder().Apply([]plan.Part{part}, nil)
	return &p.Route(0).Rules[0]
}

func TestAuthTellsAndGrants(t *testing.T) {
	for _, c := range []struct {
		name         string
		auth         plan.Auth
		field        string
		told, grants bool
	}{
		{"HTTP always tells who asks", plan.Auth{Service: "s"}, "Authorization", true, true},
		{"and no more than it is to", plan.Auth{Service: "s", Headers: []string{"cookie"}}, "X-A", false, true},
		{"in any case", plan.Auth{Service: "s", Headers: []string{"cookie"}}, "Cookie", true, true},
		{"what the answer is, is not granted by the way", plan.Auth{Service: "s"}, "Content-Type", false, false},
		{"nor who made it", plan.Auth{Service: "s"}, "Server", false, false},
		{"nor its authority", plan.Auth{Service: "s"}, "Authority", false, false},
		{"but where it is named", plan.Auth{Service: "s", Grants: []string{"content-type"}}, "Content-Type", false, true},
		{"and then nothing else", plan.Auth{Service: "s", Grants: []string{"content-type"}}, "X-User", false, false},
		{"gRPC tells all", plan.Auth{Service: "s", GRPC: true}, "X-A", true, true},
		{"or what is named", plan.Auth{Service: "s", GRPC: true, Headers: []string{"cookie"}}, "Authorization", false, true},
	} {
		r := boundAuth(t, c.auth)
		if r.Broken != nil || !r.Asks {
			t.Fatalf("%s: %+v", c.name, r)
		}
		a := r.Filters[0].Auth
		if told, grants := a.Tells([]byte(c.field)), a.Grants([]byte(c.field)); told != c.told || grants != c.grants {
			t.Errorf("%s: told %v, granted %v; want %v, %v", c.name, told, grants, c.told, c.grants)
		}
	}
	guarded := boundAuth(t, plan.Auth{Service: "s", Grants: []string{"x-user"}}).Filters[0].Auth.Guarded()
	for name, want := range map[string]bool{"X-User": true, "x_user": true, "x-users": false} {
		if got := guarded.Drops([]byte(name)); got != want {
			t.Errorf("%s is taken away: %v, want %v", name, got, want)
		}
	}
}

// An authoriser that cannot be asked as it is written breaks the rule: it is never
// left out.
func TestAuthThatCannotBeAsked(t *testing.T) {
	for name, a := range map[string]plan.Auth{
		"no service":                  {},
		"a path without a slash":      {Service: "s", Path: "check"},
		"a path that is not normal":   {Service: "s", Path: "/a/../b"},
		"a path with a line break":    {Service: "s", Path: "/a\r\nx: y"},
		"a path that begins a query":  {Service: "s", Path: "/a?"},
		"a path for gRPC":             {Service: "s", GRPC: true, Path: "/a"},
		"grants for gRPC":             {Service: "s", GRPC: true, Grants: []string{"x"}},
		"a header with a line break":  {Service: "s", Headers: []string{"x\n"}},
		"a header that has no name":   {Service: "s", Headers: []string{""}},
		"a grant in upper case":       {Service: "s", Grants: []string{"X-User"}},
		"a body of less than nothing": {Service: "s", MaxBody: -1},
	} {
		if r := boundAuth(t, a); r.Broken == nil || r.Asks {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// A listener's authorisers are there whatever its filters' services do, and the
// services keep their slots for it.
func TestListenerAsks(t *testing.T) {
	b := plan.NewBuilder()
	listener := func(filters ...plan.Filter) plan.Part {
		return plan.Part{Key: plan.Key{Kind: plan.KindListener, Name: "l"}, Listener: &plan.Listener{Protocol: plan.HTTP, Filters: filters}}
	}
	service := func(name string) plan.Part {
		return plan.Part{Key: plan.Key{Kind: plan.KindService, Name: name}, Service: &plan.Service{Port: 7}}
	}
	p, _ := b.Apply([]plan.Part{listener(authPart(plan.Auth{Service: "a"}, plan.Auth{Service: "a", GRPC: true})...)}, nil)
	l := p.Listener(0)
	if l.Broken != nil || len(l.Auths) != 2 || p.Service(l.Auths[0].Service) != nil {
		t.Fatalf("got %+v", l)
	}
	slot := l.Auths[0].Service
	p, _ = b.Apply([]plan.Part{service("a"), service("b")}, nil)
	if s := p.Service(slot); s == nil || p.ServiceName(slot) != "a" || p.Listener(0).Auths[1].Service != slot {
		t.Errorf("slot %d has %v %s", slot, s, p.ServiceName(slot))
	}
	_, _ = b.Apply(nil, []plan.Key{{Kind: plan.KindService, Name: "a"}})
	p, _ = b.Apply([]plan.Part{service("c")}, nil)
	if p.ServiceName(slot) != "a" || p.Service(slot) != nil {
		t.Errorf("slot %d was given to %s while the listener names it", slot, p.ServiceName(slot))
	}
	p, _ = b.Apply([]plan.Part{listener()}, nil)
	if l := p.Listener(0); l.Broken != nil || len(l.Auths) != 0 {
		t.Errorf("without filters: %+v", l)
	}
	_, _ = b.Apply(nil, nil)
	p, _ = b.Apply([]plan.Part{service("d")}, nil)
	if p.ServiceName(slot) != "d" {
		t.Errorf("slot %d is still held for %q", slot, p.ServiceName(slot))
	}
	for name, f := range map[string]plan.Filter{"an unknown one": {}, "a header edit": {RequestHeaders: &plan.HeaderEdit{}}, "a bad one": {Auth: &plan.Auth{}}} {
		p, _ = b.Apply([]plan.Part{listener(append(authPart(plan.Auth{Service: "a"}), f)...)}, nil)
		if l := p.Listener(0); l.Broken == nil || len(l.Auths) > 0 {
			t.Errorf("%s: the listener serves with %+v", name, l.Auths)
		}
	}
}
