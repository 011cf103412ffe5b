// Package translate turns the objects that users wrote into the parts of a
// plan, the status of each object, and findings for its author.
//
// It is a function from an object.Set to a Result: no clock, no network, no
// file, and a bad object spoils nothing but itself. A rule that cannot serve
// stays in the plan as broken, so that its requests do not fall through to
// another rule.
//
// A Translator remembers the last Set and what it made of it. What a changed
// object does not reach is not compiled again and keeps its pointers, which is
// what later steps compare. The result is the same as that of a fresh
// Translator.
package translate

import (
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/plan"
)

// The names by which classes choose windrose.
const (
	GatewayController = "windrose.dev/gateway-controller"
	IngressController = "windrose.dev/ingress-controller"
	MeshController    = "windrose.dev/mesh-controller"
)

// Env is what translation knows of the world besides the objects.
type Env struct {
	// Addresses are those of the machine, for the status of gateways that listen
	// on all of them.
	Addresses []string
	// Now is asked once per Plan, for the expiry of certificates. Nil leaves
	// expiry unchecked.
	Now func() time.Time
	// Placeholder makes the chain and the key (PEM) of a self-signed certificate
	// for the names. SelfSigned is one. Nil leaves a listener whose Secret is
	// missing without a certificate.
	Placeholder func(names []string) (chain, key []byte, err error)
	// SessionKey seals the tokens of sessions: 32 random bytes that stay the same.
	// Nil leaves the plan without sessions.
	SessionKey []byte
	// Carried is what the data plane carries. Nil is what DataPlane says.
	Carried *Carried
}

// Result is what translation makes of a Set. It must not be changed.
type Result struct {
	// Parts of the plan, ordered by key. A part that did not change since the
	// last Plan of the same Translator has the same pointer.
	Parts []*plan.Part
	// Statuses, ordered by object; pointers as with Parts.
	Statuses []*object.Status
	// Findings of translation; those of reading the objects are in the Set.
	Findings []object.Finding
	// Again is when the same Set will give other findings, because a certificate
	// comes to its end or its beginning; zero if that never happens.
	Again time.Time
}

// Translator holds what is remembered between two Sets. It is used by one
// goroutine.
type Translator struct {
	env     Env
	carried Carried

	set   *object.Set // of the run under way, then the last one
	last  *object.Set // before that; nil between runs
	delta deltas      // from last to set

	grants   map[string][]*grant         // by namespace of the referent
	useless  []object.Finding            // on grants
	probes   []object.Finding            // on Workloads
	policies map[object.Name]*backendTLS // by target Service

	traffic   trafficPolicies
	xbackends xbackends
	gateways  gateways
	routes    routes
	ingress   ingresses
	services  services
	secrets   certificates
	meshes    map[object.Key]*object.Status // as last shown
}

// New makes a Translator that remembers nothing.
func New(env Env) *Translator {
	carried := DataPlane()
	if env.Carried != nil {
		carried = *env.Carried
	}
	return &Translator{
		env:     env,
		carried: carried.normal(),
		set:     &object.Set{},
		gateways: gateways{
			parents:      map[object.Key]*parent{},
			placeholders: map[string]*plan.Part{},
			socketParts:  map[string]*plan.Part{},
		},
		routes:    routes{fine: map[int64][]metav1.Condition{}},
		services:  newServices(),
		xbackends: newXBackends(),
		secrets:   certificates{bySecret: map[object.Name]*certificate{}},
	}
}

// Plan translates a Set.
func (t *Translator) Plan(set *object.Set) *Result {
	t.delta = compare(t.set, set)
	t.last, t.set = t.set, set
	defer func() { t.last = nil }()

	if t.delta.grants.any() {
		t.grants, t.useless = indexGrants(set), uselessGrants(set)
	}
	if t.delta.workloads.any() {
		t.probes = slices.Concat(lostProbes(set), sharedPorts(set))
	}
	if t.delta.policies.any() {
		t.policies = indexPolicies(set)
	}
	t.traffic.update(t)
	t.xbackends.update(t)
	t.gateways.update(t)
	t.routes.update(t)
	t.ingress.update(t)
	t.services.update(t)
	return t.assemble()
}

func (t *Translator) assemble() *Result {
	r := &Result{
		Parts:    make([]*plan.Part, 0, len(t.routes.http)+len(t.services.order)+len(t.secrets.bySecret)+64),
		Statuses: make([]*object.Status, 0, len(t.routes.http)+64),
	}
	t.gateways.collect(t, r)
	t.routes.collect(t, r)
	t.ingress.collect(r)
	t.xbackends.collect(t, r) // before those of Services, whose names mostly follow
	t.services.collect(t, r)
	r.Statuses = append(r.Statuses, t.showMeshes(r)...)
	r.Statuses = append(r.Statuses, t.showXBackends()...)
	r.Findings = append(r.Findings, t.useless...)
	r.Findings = append(r.Findings, t.probes...)
	expired, again := t.expiry()
	r.Findings, r.Again = append(r.Findings, expired...), again
	t.secrets.collect(r)
	r.Parts = order(r.Parts, func(p *plan.Part) string { return string(p.Key.Kind) },
		func(a, b *plan.Part) int { return strings.Compare(a.Key.Name, b.Key.Name) })
	r.Statuses = order(r.Statuses, func(s *object.Status) string { return s.Object.Kind },
		func(a, b *object.Status) int { return a.Object.Compare(b.Object) })
	return r
}

// order sorts by kind and then by cmp. Within a kind nearly all is in order
// already, which is found out faster than sorting.
func order[T any](list []T, kind func(T) string, cmp func(a, b T) int) []T {
	counts := map[string]int{}
	for run := range runs(list, kind) {
		counts[kind(run[0])] += len(run)
	}
	sorted, kinds, at := make([]T, len(list)), slices.Sorted(maps.Keys(counts)), 0
	next := make(map[string]int, len(kinds))
	for _, k := range kinds {
		next[k] = at
		at += counts[k]
	}
	for run := range runs(list, kind) {
		k := kind(run[0])
		next[k] += copy(sorted[next[k]:], run)
	}
	for _, k := range kinds {
		if of := sorted[next[k]-counts[k] : next[k]]; !slices.IsSortedFunc(of, cmp) {
			slices.SortFunc(of, cmp)
		}
	}
	return sorted
}

// runs gives the stretches of a list that are of one kind.
func runs[T any](list []T, kind func(T) string) iter.Seq[[]T] {
	return func(yield func([]T) bool) {
		for len(list) > 0 {
			n := 1
			for n < len(list) && kind(list[n]) == kind(list[0]) {
				n++
			}
			if !yield(list[:n]) {
				return
			}
			list = list[n:]
		}
	}
}
