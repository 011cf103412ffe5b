package source

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/schema"
)

// settleTime is how long an object must be missing before it is gone. Editors
// move a file away before they write it anew, shells empty it first, and a
// file may be renamed: none of this is a deletion.
const settleTime = 50 * time.Millisecond

// index knows what all files say and which object is in effect for each key.
// It is changed by use and drop, and commit makes the next Set of it.
type index struct {
	files  map[string]*file
	claims map[object.Key][]claim
	live   map[object.Key]*live
	held   map[object.Key]map[*file]struct{}
	// past is what the ledger said about objects that were not seen yet.
	past map[object.Key]record
	// stamp marks objects with a time, an id and a generation.
	stamp bool
	// running says that versions follow one another.
	running bool
	checker *schema.Checker

	touched    map[object.Key]struct{} // keys to be resolved
	leaving    map[object.Key]time.Time
	troubled   map[*file]struct{}              // files with findings
	notes      map[object.Key][]object.Finding // about keys: duplicates, versions held
	namespaces map[string]int                  // objects in each namespace
	implicit   map[string]struct{}             // namespaces that nobody wrote
	unsettled  bool                            // findings changed since the last Set
	extra      []object.Finding                // about paths, the ledger, watches
	set        *object.Set
}

// claim is an entry of a file, which says what an object should be.
type claim struct {
	file *file
	at   int // order within the file
	*entry
}

// live is an object in effect.
type live struct {
	object      metav1.Object // nil if there was never a good version
	spec, whole schema.Digest
	file        string
	wrong       bool // the version in effect is an earlier one
}

func newIndex(checker *schema.Checker) *index {
	return &index{
		files: map[string]*file{}, claims: map[object.Key][]claim{}, live: map[object.Key]*live{},
		held: map[object.Key]map[*file]struct{}{}, past: map[object.Key]record{}, checker: checker,
		touched: map[object.Key]struct{}{}, leaving: map[object.Key]time.Time{}, troubled: map[*file]struct{}{},
		notes: map[object.Key][]object.Finding{}, namespaces: map[string]int{}, implicit: map[string]struct{}{},
		set: &object.Set{Places: map[object.Key]object.Place{}},
	}
}

// use takes in what a file says now.
func (x *index) use(next *file) {
	old := x.files[next.path]
	if old == next {
		return
	}
	mine := map[object.Key]struct{}{}
	at := 0
	for i := range next.parts {
		for j := range next.parts[i].entries {
			e := &next.parts[i].entries[j]
			mine[e.key] = struct{}{}
			x.claims[e.key] = append(x.claims[e.key], claim{file: next, at: at, entry: e})
			x.touched[e.key] = struct{}{}
			at++
		}
	}
	if next.broken {
		next.held = x.heldBy(next, old, mine)
		for k := range next.held {
			if x.held[k] == nil {
				x.held[k] = map[*file]struct{}{}
			}
			x.held[k][next] = struct{}{}
			x.touched[k] = struct{}{}
		}
	}
	if old != nil {
		x.forget(old)
	}
	x.files[next.path] = next
	if next.troubled() {
		x.troubled[next] = struct{}{}
		x.unsettled = true
	}
}

// heldBy gives the keys that a broken file may still have in what cannot be
// read of it.
func (x *index) heldBy(next, old *file, mine map[object.Key]struct{}) map[object.Key]struct{} {
	held := map[object.Key]struct{}{}
	if old == nil {
		for k, r := range x.past {
			if r.File == next.path {
				held[k] = struct{}{}
			}
		}
	} else {
		maps.Copy(held, old.held)
		for k := range old.keys() {
			held[k] = struct{}{}
		}
	}
	maps.DeleteFunc(held, func(k object.Key, _ struct{}) bool { _, ok := mine[k]; return ok })
	return held
}

// drop takes note that a file is gone.
func (x *index) drop(path string) {
	if old, ok := x.files[path]; ok {
		x.forget(old)
		delete(x.files, path)
	}
}

// forget takes back what a file said.
func (x *index) forget(old *file) {
	for k := range old.keys() {
		rest := slices.DeleteFunc(x.claims[k], func(c claim) bool { return c.file == old })
		if len(rest) == 0 {
			delete(x.claims, k)
		} else {
			x.claims[k] = rest
		}
		x.touched[k] = struct{}{}
	}
	for k := range old.held {
		if delete(x.held[k], old); len(x.held[k]) == 0 {
			delete(x.held, k)
		}
		x.touched[k] = struct{}{}
	}
	if _, ok := x.troubled[old]; ok {
		delete(x.troubled, old)
		x.unsettled = true
	}
}

// keys are the objects that a file names.
func (f *file) keys() map[object.Key]struct{} {
	all := map[object.Key]struct{}{}
	for i := range f.parts {
		for _, e := range f.parts[i].entries {
			all[e.key] = struct{}{}
		}
	}
	return all
}

func (f *file) troubled() bool {
	if len(f.findings) > 0 {
		return true
	}
	return slices.ContainsFunc(f.parts, func(p part) bool {
		return len(p.findings) > 0 || slices.ContainsFunc(p.entries, func(e entry) bool { return len(e.findings) > 0 })
	})
}

// say replaces the findings that are about no file.
func (x *index) say(extra []object.Finding) {
	if !slices.Equal(x.extra, extra) {
		x.extra, x.unsettled = extra, true
	}
}

// change is what a commit does to the Set.
type change struct {
	changed []metav1.Object
	removed []object.Key
	places  map[object.Key]object.Place // the zero Place takes one away
	now     time.Time
}

// commit resolves all that was touched and gives the next Set, or nil if it
// would equal the last one. Objects that are missing leave it only once they
// were missing for the settle time; with patience they leave at once.
func (x *index) commit(now time.Time, settle time.Duration) *object.Set {
	c := &change{places: map[object.Key]object.Place{}, now: now}
	for k, due := range x.leaving {
		if !now.Before(due) {
			x.touched[k] = struct{}{}
		}
	}
	for k := range x.touched {
		x.resolve(k, c, settle)
	}
	x.touched = map[object.Key]struct{}{} // not cleared: it was large at the start
	x.declareNamespaces(c)
	places, moved := placed(x.set.Places, c.places)
	findings, news := x.set.Findings, false
	if x.unsettled {
		all := x.findings()
		if news = !slices.Equal(all, findings); news {
			findings = all
		}
		x.unsettled = false
	}
	if len(c.changed) == 0 && len(c.removed) == 0 && !moved && !news {
		return nil
	}
	x.set = x.set.With(c.changed, c.removed)
	x.set.Places, x.set.Findings = places, findings
	return x.set
}

// placed gives the places after a change; the map is shared if none changed.
func placed(old, changes map[object.Key]object.Place) (places map[object.Key]object.Place, moved bool) {
	same := true
	for k, p := range changes {
		if was, ok := old[k]; was != p || ok == (p == object.Place{}) {
			same = false
		}
	}
	if same {
		return old, false
	}
	next := maps.Clone(old)
	for k, p := range changes {
		if p == (object.Place{}) {
			delete(next, k)
		} else {
			next[k] = p
		}
	}
	return next, true
}

// resolve decides what is in effect for a key.
func (x *index) resolve(k object.Key, c *change, settle time.Duration) {
	claims := x.claims[k]
	if len(claims) == 0 {
		x.missing(k, c, settle)
		return
	}
	delete(x.leaving, k)
	slices.SortFunc(claims, func(a, b claim) int {
		return cmp.Or(a.file.root-b.file.root, strings.Compare(a.file.path, b.file.path), a.at-b.at)
	})
	first := &claims[0]
	was := x.live[k]
	l := &live{file: first.file.path, wrong: first.wrong}
	switch {
	case !first.wrong:
		l.object, l.spec, l.whole = x.adopt(k, first, was, c.now), first.spec, first.whole
	case was != nil:
		l.object, l.spec, l.whole = was.object, was.spec, was.whole
	default:
		l.object, l.spec, l.whole = x.revive(k)
	}
	c.places[k] = first.place
	x.enact(k, was, l, c)
	x.note(k, x.notesOf(k, claims, l))
}

// missing decides about a key that no file claims.
func (x *index) missing(k object.Key, c *change, settle time.Duration) {
	was := x.live[k]
	if holders := x.held[k]; len(holders) > 0 {
		delete(x.leaving, k)
		f := firstOf(holders)
		l := &live{file: f.path, wrong: true}
		if was != nil {
			l.object, l.spec, l.whole = was.object, was.spec, was.whole
		} else {
			l.object, l.spec, l.whole = x.revive(k)
		}
		if l.object == nil {
			// Nothing is in effect, and the file no longer says what it was.
			delete(x.live, k)
			x.note(k, nil)
			c.places[k] = object.Place{}
			return
		}
		c.places[k] = object.Place{File: f.path}
		x.enact(k, was, l, c)
		x.note(k, []object.Finding{lastGood(k, c.places[k])})
		return
	}
	if was == nil {
		x.note(k, nil)
		return
	}
	due, ok := x.leaving[k]
	if !ok {
		due = c.now.Add(settle)
		x.leaving[k] = due
	}
	if c.now.Before(due) {
		return
	}
	delete(x.leaving, k)
	delete(x.live, k)
	x.note(k, nil)
	c.places[k] = object.Place{}
	if was.object != nil {
		c.removed = append(c.removed, k)
		x.count(k, -1)
	}
}

func firstOf(files map[*file]struct{}) *file {
	return slices.MinFunc(slices.Collect(maps.Keys(files)), func(a, b *file) int {
		return cmp.Or(a.root-b.root, strings.Compare(a.path, b.path))
	})
}

// enact puts a version in effect.
func (x *index) enact(k object.Key, was, l *live, c *change) {
	x.live[k] = l
	delete(x.past, k)
	if l.object == nil {
		return
	}
	if was == nil || was.object == nil {
		x.count(k, 1)
	}
	if was == nil || was.object != l.object {
		c.changed = append(c.changed, l.object)
	}
}

// adopt gives the object of a good claim with its identity: of an object that
// did not change the one that is in effect already.
func (x *index) adopt(k object.Key, c *claim, was *live, now time.Time) metav1.Object {
	if was != nil && was.object != nil && was.whole == c.whole {
		return was.object
	}
	o := c.object
	if o.GetGeneration() != 0 {
		// It was in effect before, until another file took its place: an older
		// Set still points at it.
		if again, ok := o.(runtime.Object).DeepCopyObject().(metav1.Object); ok {
			o = again
		}
	}
	if !x.stamp {
		o.SetGeneration(1)
		return o
	}
	id := record{Created: now.Unix(), UID: newUID(), Generation: 1, Spec: c.spec}
	if was != nil && was.object != nil {
		id = recordOf(was)
	} else if past, ok := x.past[k]; ok {
		id = past
	}
	if id.Spec != c.spec {
		id.Generation++
	}
	id.stamp(o)
	return o
}

// revive gives the last good version that the ledger has.
func (x *index) revive(k object.Key) (o metav1.Object, spec, whole schema.Digest) {
	past, ok := x.past[k]
	if !ok || past.Good == nil {
		return nil, spec, whole
	}
	var doc map[string]any
	if err := unmarshal(past.Good, &doc); err != nil {
		return nil, spec, whole
	}
	res := x.checker.Check(doc)
	if res.Object == nil || res.Key != k {
		return nil, spec, whole
	}
	past.stamp(res.Object)
	return res.Object, res.Spec, res.Whole
}

// count keeps the number of objects in each namespace.
func (x *index) count(k object.Key, by int) {
	ns := k.Namespace
	if k.Kind == "Namespace" {
		ns = k.Name
	}
	if ns == "" {
		return
	}
	if x.namespaces[ns] += by; x.namespaces[ns] == 0 {
		delete(x.namespaces, ns)
	}
}

// declareNamespaces adds a Namespace for each that is used and that nobody
// wrote. The namespace default is always there.
func (x *index) declareNamespaces(c *change) {
	written := func(ns string) bool {
		l, ok := x.live[object.Key{Kind: "Namespace", Name: ns}]
		return ok && l.object != nil
	}
	for ns := range x.implicit {
		if _, used := x.namespaces[ns]; written(ns) || !used && ns != metav1.NamespaceDefault {
			delete(x.implicit, ns)
			if !written(ns) {
				c.removed = append(c.removed, object.Key{Kind: "Namespace", Name: ns})
			}
		}
	}
	declare := func(ns string) {
		if _, ok := x.implicit[ns]; ok || written(ns) {
			return
		}
		x.implicit[ns] = struct{}{}
		c.changed = append(c.changed, &corev1.Namespace{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
			ObjectMeta: metav1.ObjectMeta{Name: ns, Generation: 1, Labels: map[string]string{corev1.LabelMetadataName: ns}},
		})
	}
	declare(metav1.NamespaceDefault)
	for ns := range x.namespaces {
		declare(ns)
	}
}

// note replaces what is said about a key.
func (x *index) note(k object.Key, notes []object.Finding) {
	if slices.Equal(x.notes[k], notes) {
		return
	}
	x.unsettled = true
	if len(notes) == 0 {
		delete(x.notes, k)
	} else {
		x.notes[k] = notes
	}
}

// notesOf says which of several claims wins, and what becomes of a wrong one.
func (x *index) notesOf(k object.Key, claims []claim, l *live) []object.Finding {
	var notes []object.Finding
	for _, c := range claims[1:] {
		notes = append(notes, object.Finding{
			Severity: object.Error, Object: k, Place: c.place, Reason: ReasonDuplicateObject,
			Message: fmt.Sprintf("is written twice; the one at %s counts, this one has no effect", claims[0].place),
			Mend:    "remove one of them, or give it another name",
		})
	}
	switch {
	case l.wrong && l.object != nil:
		notes = append(notes, lastGood(k, claims[0].place))
	case l.wrong && x.running:
		notes = append(notes, object.Finding{
			Severity: object.Info, Object: k, Place: claims[0].place, Reason: ReasonNotUsed,
			Message: "is left out until it is mended; there is no earlier good version",
		})
	}
	return notes
}

func lastGood(k object.Key, at object.Place) object.Finding {
	return object.Finding{
		Severity: object.Info, Object: k, Place: at, Reason: ReasonLastGood,
		Message: "the last good version stays in effect until this is mended",
	}
}

// findings gathers everything there is to say, in order of place.
func (x *index) findings() []object.Finding {
	all := slices.Clone(x.extra)
	for f := range x.troubled {
		all = append(all, f.findings...)
		for i := range f.parts {
			all = append(all, f.parts[i].findings...)
			for _, e := range f.parts[i].entries {
				all = append(all, e.findings...)
			}
		}
	}
	for _, notes := range x.notes {
		all = append(all, notes...)
	}
	object.SortFindings(all)
	return all
}

// due is when the next missing object leaves.
func (x *index) due() (at time.Time, ok bool) {
	for _, t := range x.leaving {
		if !ok || t.Before(at) {
			at, ok = t, true
		}
	}
	return at, ok
}

func newUID() types.UID {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return types.UID(fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]))
}
