package schema

import (
	"context"
	"hash/maphash"
	"maps"
	"slices"

	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

// rules are the CEL rules of one schema.
//
// An API server compiles all of them at once, which takes 50 ms and 4.5 MB for
// an HTTPRoute: too long for the first change after a pause, and mostly for
// filters that the route does not have. Here the schema is cut into nodes; the
// rules of a node are compiled, by the API server's code, when a document
// first has a value there.
type rules struct {
	// self is the schema of this node with its own rules, but without those of
	// the nodes below, which have their own turn.
	self       structural.Structural
	hasOwn     bool
	root       bool
	validator  *cel.Validator
	good       map[uint64]struct{} // digests of values that break no rule of this node
	properties map[string]*rules
	names      []string // of properties, sorted, so that findings have an order
	items      *rules
	values     *rules
}

func newRules(s *structural.Structural) *rules {
	r := build(s, strip(s))
	if r == nil {
		return &rules{}
	}
	r.root = true
	return r
}

// build gives the node of s, nil if it has no rules in it. Bare is s without
// any rules.
func build(s, bare *structural.Structural) *rules {
	r := &rules{self: *bare, hasOwn: ownRules(s)}
	r.self.ValidationExtensions = s.ValidationExtensions
	r.self.ValueValidation = s.ValueValidation
	for name, p := range s.Properties {
		b := bare.Properties[name]
		if child := build(&p, &b); child != nil {
			if r.properties == nil {
				r.properties = map[string]*rules{}
			}
			r.properties[name] = child
		}
	}
	r.names = slices.Sorted(maps.Keys(r.properties))
	if s.Items != nil {
		r.items = build(s.Items, bare.Items)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Structural != nil {
		r.values = build(s.AdditionalProperties.Structural, bare.AdditionalProperties.Structural)
	}
	if !r.hasOwn && r.properties == nil && r.items == nil && r.values == nil {
		return nil
	}
	return r
}

func ownRules(s *structural.Structural) bool {
	if len(s.XValidations) > 0 {
		return true
	}
	return s.ValueValidation != nil && slices.ContainsFunc(s.ValueValidation.AllOf, func(n structural.NestedValueValidation) bool {
		return nestedRules(&n)
	})
}

func nestedRules(n *structural.NestedValueValidation) bool {
	if len(n.XValidations) > 0 || n.Items != nil && nestedRules(n.Items) {
		return true
	}
	for _, p := range n.Properties {
		if nestedRules(&p) {
			return true
		}
	}
	return n.AdditionalProperties != nil && nestedRules(n.AdditionalProperties)
}

// strip gives a copy of s without rules.
func strip(s *structural.Structural) *structural.Structural {
	bare := *s
	bare.XValidations = nil
	if s.ValueValidation != nil && len(s.ValueValidation.AllOf) > 0 {
		v := *s.ValueValidation
		v.AllOf = nil
		bare.ValueValidation = &v
	}
	if s.Properties != nil {
		bare.Properties = make(map[string]structural.Structural, len(s.Properties))
		for name, p := range s.Properties {
			bare.Properties[name] = *strip(&p)
		}
	}
	if s.Items != nil {
		bare.Items = strip(s.Items)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Structural != nil {
		more := *s.AdditionalProperties
		more.Structural = strip(s.AdditionalProperties.Structural)
		bare.AdditionalProperties = &more
	}
	return &bare
}

// check evaluates the rules on a document that fits the schema.
func (r *rules) check(doc map[string]any) field.ErrorList {
	v := &visit{budget: celconfig.RuntimeCELCostBudget}
	v.node(r, nil, doc)
	return v.errs
}

// visit walks a document and its rules together.
type visit struct {
	errs   field.ErrorList
	budget int64 // what evaluation may still cost
}

// maxGood bounds how many good values a node remembers.
const maxGood = 1024

// seed of the digests. They live no longer than the process.
var seed = maphash.MakeSeed()

// own evaluates the rules of one node. Rules see nothing but the value, so one
// that was good before is good again: of a route that changed, only what did
// change is evaluated, and parentRefs that all routes share only once.
func (v *visit) own(r *rules, path *field.Path, value any) {
	d := sum(value)
	if _, ok := r.good[d]; ok {
		return
	}
	if r.validator == nil {
		r.validator = cel.NewValidator(&r.self, r.root, celconfig.PerCallLimit)
	}
	errs, left := r.validator.Validate(context.Background(), path, &r.self, value, nil, v.budget)
	v.errs, v.budget = append(v.errs, errs...), left
	if len(errs) > 0 {
		return
	}
	if r.good == nil || len(r.good) >= maxGood {
		r.good = map[uint64]struct{}{}
	}
	r.good[d] = struct{}{}
}

// sum is a digest of a value in which the order of a map does not count.
func sum(value any) uint64 {
	switch value := value.(type) {
	case map[string]any:
		all := uint64(len(value)) + 1
		for key, child := range value {
			all += maphash.Comparable(seed, [2]uint64{maphash.String(seed, key), sum(child)})
		}
		return all
	case []any:
		all := uint64(len(value)) + 2
		for _, child := range value {
			all = maphash.Comparable(seed, [2]uint64{all, sum(child)})
		}
		return all
	case string:
		return maphash.String(seed, value)
	case nil:
		return 3
	}
	return maphash.Comparable(seed, value)
}

func (v *visit) node(r *rules, path *field.Path, value any) {
	if value == nil || v.budget < 0 {
		return
	}
	if r.hasOwn {
		v.own(r, path, value)
	}
	switch value := value.(type) {
	case map[string]any:
		v.object(r, path, value)
	case []any:
		if r.items == nil {
			return
		}
		for i, item := range value {
			v.node(r.items, path.Index(i), item)
		}
	}
}

func (v *visit) object(r *rules, path *field.Path, value map[string]any) {
	for _, name := range r.names {
		if child, ok := value[name]; ok {
			v.node(r.properties[name], path.Child(name), child)
		}
	}
	if r.values == nil {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(value)) {
		v.node(r.values, path.Key(key), value[key])
	}
}
