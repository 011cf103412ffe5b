// Package schema decides what a manifest means: it checks one decoded document
// as an API server would on create, fills in defaults, and gives the typed
// object together with what is to be told to its author.
//
// Kinds of Gateway API and of windrose are checked with their CRDs: unknown
// fields, OpenAPI schema, list keys, and CEL rules, by the code of the API
// server itself. Kinds of Kubernetes' core have no published schema with all
// of their rules, so that the fields that windrose reads are checked by hand,
// with the rules of the API server. Two differences are on purpose:
//
//   - Rules that compare with the former version of an object (oldSelf) are
//     left out, so that a restart gives the same result as a change did.
//   - An EndpointSlice may name loopback and link-local addresses: on one
//     machine that is where backends listen.
//
// Compiled schemas are large (up to 5 MB for a kind), so a Checker compiles
// what a document needs and forgets it when told that the burst is over.
package schema

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"windrose.dev/windrose/internal/object"
)

// Reasons of findings.
const (
	ReasonDuplicate    = "Duplicate"          // two entries where one may be
	ReasonForbidden    = "Forbidden"          // may not be set here
	ReasonInvalid      = "Invalid"            // breaks a rule
	ReasonNoName       = "NoName"             // no metadata.name
	ReasonNotRead      = "NotRead"            // known, but windrose does nothing with it
	ReasonNotSupported = "NotSupported"       // not one of the allowed values
	ReasonRequired     = "Required"           // missing
	ReasonTooLong      = "TooLong"            // string, list or map is too long
	ReasonUnknownField = "UnknownField"       // the kind has no such field
	ReasonUnknownKind  = "UnknownKind"        // no such kind
	ReasonVersion      = "UnsupportedVersion" // the kind, but not in this version
	ReasonWrongType    = "WrongType"          // string instead of number, and the like
)

// Digest tells versions of an object apart.
type Digest [16]byte

// MarshalText writes a digest in hexadecimal.
func (d Digest) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, d[:]), nil }

// UnmarshalText reads what MarshalText wrote.
func (d *Digest) UnmarshalText(text []byte) error {
	if hex.DecodedLen(len(text)) != len(d) {
		return errors.New("not a digest")
	}
	_, err := hex.Decode(d[:], text)
	return err
}

// Result is what a document says.
type Result struct {
	// Key is what can be known about the object, also if it is wrong. The zero
	// Key says that the document names none.
	Key object.Key
	// Read says that the key is complete and of a kind that windrose reads.
	Read bool
	// Object is nil if the document breaks a rule or its kind is not read.
	Object metav1.Object
	// Spec is the digest of all but the metadata; when it changes, the
	// generation grows. Whole is the digest of everything.
	Spec, Whole Digest
	// Findings have a field, but no place.
	Findings []object.Finding
}

// Wrong says whether the object must not be used.
func (r *Result) Wrong() bool {
	return slices.ContainsFunc(r.Findings, func(f object.Finding) bool { return f.Severity == object.Error })
}

// Checker checks documents. Use New to make one. It is not safe for concurrent
// use.
type Checker struct {
	crds    *crds
	strings map[string]string
}

// New makes a Checker. It compiles nothing yet.
func New() *Checker {
	return &Checker{crds: newCRDs(), strings: map[string]string{}}
}

// Release forgets what was compiled. The Checker can be used on.
func (c *Checker) Release() {
	c.crds.release()
	c.strings = map[string]string{}
}

// Idle says whether there is nothing to release.
func (c *Checker) Idle() bool { return len(c.crds.compiled) == 0 && len(c.strings) == 0 }

// maxFindings bounds what is said about one object.
const maxFindings = 30

// Check checks a document, which it may change. Numbers must be int64 or
// float64.
func (c *Checker) Check(doc map[string]any) Result {
	r := &report{}
	k := c.identify(doc, r)
	if k != nil && !r.wrong() {
		c.check(k, doc, r)
	}
	for i := range r.Findings {
		r.Findings[i].Object = r.Key
	}
	if more := len(r.Findings) - maxFindings; more > 0 {
		slices.SortStableFunc(r.Findings, func(a, b object.Finding) int { return strings.Compare(string(a.Severity), string(b.Severity)) })
		r.Findings = r.Findings[:maxFindings]
	}
	if r.Wrong() {
		r.Object = nil
	}
	return r.Result
}

// identify finds out which object of which kind a document is. It gives nil if
// there is nothing to check.
func (c *Checker) identify(doc map[string]any, r *report) *kind {
	r.Key = written(doc)
	if doc["apiVersion"] == nil && doc["kind"] == nil {
		r.add(object.Error, ReasonRequired, "", "apiVersion and kind are missing: this is not a Kubernetes object")
		return nil
	}
	apiVersion, ok := text(doc, "apiVersion", r)
	kindName, ok2 := text(doc, "kind", r)
	if !ok || !ok2 {
		return nil
	}
	k := c.crds.resolve(apiVersion, kindName, r)
	if k == nil {
		return nil
	}
	meta, ok := doc["metadata"].(map[string]any)
	if !ok {
		if doc["metadata"] != nil {
			r.add(object.Error, ReasonWrongType, "metadata", "must be an object")
			return nil
		}
		meta = map[string]any{}
		doc["metadata"] = meta
	}
	settle(k, meta, r)
	r.Read = k.make != nil && r.Key.Name != ""
	return k
}

// Identify says which object a document is about without checking it; ok is
// false if that is unclear or the kind is not read.
func (c *Checker) Identify(doc map[string]any) (k object.Key, ok bool) {
	r := &report{}
	c.identify(doc, r)
	return r.Key, r.Read
}

// written is the key as a document has it.
func written(doc map[string]any) object.Key {
	kindName, _ := doc["kind"].(string)
	meta, _ := doc["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	ns, _ := meta["namespace"].(string)
	return object.Key{Kind: kindName, Namespace: ns, Name: name}
}

// settle completes the name of an object.
func settle(k *kind, meta map[string]any, r *report) {
	r.Key.Kind = k.name
	if name, _ := meta["name"].(string); name == "" {
		if _, ok := meta["name"]; ok && meta["name"] != nil && meta["name"] != "" {
			r.add(object.Error, ReasonWrongType, "metadata.name", "must be a string")
			r.mend("put the name in quotes")
		} else if _, ok := meta["generateName"]; ok {
			r.add(object.Error, ReasonNoName, "metadata.generateName", "an object in a file needs a name of its own: the same file must mean the same object each time it is read")
			r.mend("write metadata.name")
		} else {
			r.add(object.Error, ReasonNoName, "metadata", "metadata.name is missing")
		}
		r.Key = object.Key{Kind: k.name, Namespace: r.Key.Namespace}
	}
	if k.cluster {
		if ns, _ := meta["namespace"].(string); ns != "" {
			r.add(object.Warning, ReasonForbidden, "metadata.namespace", "a "+k.name+" belongs to no namespace; it is ignored")
		}
		delete(meta, "namespace")
		r.Key.Namespace = ""
		return
	}
	switch ns := meta["namespace"].(type) {
	case nil:
		meta["namespace"] = metav1.NamespaceDefault
	case string:
		if ns == "" {
			meta["namespace"] = metav1.NamespaceDefault
		}
	}
	if r.Key.Namespace == "" {
		r.Key.Namespace = metav1.NamespaceDefault
	}
}

// check does all that follows once the kind is known.
func (c *Checker) check(k *kind, doc map[string]any, r *report) {
	// Status is what a controller says, not what an author wants; an API server
	// drops it as well.
	delete(doc, "status")
	r.secret = k.name == "Secret"
	checkMeta(k, doc, r)
	trim(doc)
	if k.make == nil {
		r.add(object.Warning, ReasonNotRead, "", "windrose does nothing with the kind "+k.name+" on one machine")
		if slices.Contains([]string{"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Pod"}, k.name) {
			r.mend("a process that windrose runs, or an address where one listens, is a Workload of windrose.dev/v1alpha1")
		}
		return
	}
	if k.crd != nil {
		c.crds.check(k, doc, r)
	} else {
		checkShape(doc, k.make(), r)
	}
	if r.wrong() {
		return
	}
	c.intern(doc)
	doc["apiVersion"] = k.apiVersion // of the Go type, and one string for all
	o := k.make()
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(doc, o); err != nil {
		r.add(object.Error, ReasonInvalid, "", "cannot be decoded: "+bounded(err.Error()))
		return
	}
	if k.check != nil {
		k.check(o, r)
	}
	o.SetGeneration(0)
	r.Spec, r.Whole = digests(o)
	r.Object = o
}

// digests identifies an object, without and with its metadata.
func digests(o runtime.Object) (spec, whole Digest) {
	text, err := json.Marshal(o)
	if err != nil {
		return spec, whole
	}
	sum := sha256.Sum256(text)
	copy(whole[:], sum[:])
	var fields map[string]json.RawMessage
	if json.Unmarshal(text, &fields) != nil {
		return spec, whole
	}
	for _, name := range []string{"apiVersion", "kind", "metadata", "status"} {
		delete(fields, name)
	}
	if text, err = json.Marshal(fields); err != nil {
		return spec, whole
	}
	sum = sha256.Sum256(text)
	copy(spec[:], sum[:])
	return spec, whole
}

func text(doc map[string]any, field string, r *report) (string, bool) {
	switch v := doc[field].(type) {
	case nil:
		r.add(object.Error, ReasonRequired, "", field+" is missing")
	case string:
		if v != "" {
			return v, true
		}
		r.add(object.Error, ReasonRequired, field, "must not be empty")
	default:
		r.add(object.Error, ReasonWrongType, field, "must be a string")
	}
	return "", false
}

// maxInterned bounds the length of strings that are worth sharing.
const maxInterned = 64

// intern makes equal short strings one.
func (c *Checker) intern(v any) any {
	switch v := v.(type) {
	case string:
		if len(v) > maxInterned {
			return v
		}
		if same, ok := c.strings[v]; ok {
			return same
		}
		c.strings[v] = v
	case map[string]any:
		for key, child := range v {
			v[key] = c.intern(child)
		}
	case []any:
		for i, child := range v {
			v[i] = c.intern(child)
		}
	}
	return v
}
