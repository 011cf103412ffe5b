package schema

import (
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"windrose.dev/windrose/internal/object"
)

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }

// checkShape compares a document with a Go type: unknown fields and values of
// the wrong type. The decoders of Kubernetes do the same, but do not say where
// in a list a wrong value is.
func checkShape(doc map[string]any, into any, r *report) {
	checkValue("", doc, reflect.TypeOf(into).Elem(), r)
}

func checkValue(path string, v any, t reflect.Type, r *report) {
	if v == nil {
		return
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if checkSpecial(path, v, t, r) {
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		if m, ok := v.(map[string]any); ok {
			checkStruct(path, m, t, r)
			return
		}
		r.wrongType(path, "an object", v)
	case reflect.Map:
		m, ok := v.(map[string]any)
		if !ok {
			r.wrongType(path, "an object", v)
			return
		}
		for _, key := range slices.Sorted(maps.Keys(m)) {
			checkValue(path+"["+key+"]", m[key], t.Elem(), r)
		}
	case reflect.Slice:
		list, ok := v.([]any)
		if !ok {
			r.wrongType(path, "a list", v)
			return
		}
		for i, item := range list {
			checkValue(fmt.Sprintf("%s[%d]", path, i), item, t.Elem(), r)
		}
	default:
		checkScalar(path, v, t, r)
	}
}

// checkSpecial handles types that decode themselves.
func checkSpecial(path string, v any, t reflect.Type, r *report) bool {
	s, isString := v.(string)
	switch t {
	case typeOf[metav1.Time](), typeOf[metav1.MicroTime]():
		if _, err := time.Parse(time.RFC3339, s); !isString || err != nil {
			r.add(object.Error, ReasonWrongType, path, "must be a time as 2006-01-02T15:04:05Z")
		}
	case typeOf[metav1.Duration]():
		if _, err := time.ParseDuration(s); !isString || err != nil {
			r.add(object.Error, ReasonWrongType, path, "must be a duration as 1m30s")
		}
	case typeOf[intstr.IntOrString]():
		if n, ok := v.(int64); !isString && (!ok || n != int64(int32(n))) {
			r.wrongType(path, "a number or a string", v)
		}
	case typeOf[resource.Quantity]():
		if _, number := v.(int64); number {
			return true
		}
		if _, err := resource.ParseQuantity(s); err != nil {
			r.add(object.Error, ReasonWrongType, path, "must be a quantity as 100Mi")
		}
	case typeOf[metav1.FieldsV1]():
	case typeOf[[]byte]():
		if !isString {
			r.wrongType(path, "a string", v)
		} else if _, err := base64.StdEncoding.DecodeString(s); err != nil {
			r.add(object.Error, ReasonInvalid, path, "is not base64")
			if r.secret {
				r.mend("plain text goes into stringData")
			}
		}
	default:
		return false
	}
	return true
}

func checkStruct(path string, m map[string]any, t reflect.Type, r *report) {
	known := map[string]reflect.Type{}
	fields(t, known)
	for _, name := range slices.Sorted(maps.Keys(m)) {
		at := name
		if path != "" {
			at = path + "." + name
		}
		if path == "" && name == "metadata" {
			continue // checked on its own, for all kinds alike
		}
		if ft, ok := known[name]; ok {
			checkValue(at, m[name], ft, r)
			continue
		}
		r.unknownField(at, name, slices.Collect(maps.Keys(known)))
	}
}

// fields gives the JSON fields of a struct, those of embedded ones included.
func fields(t reflect.Type, into map[string]reflect.Type) {
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && (name == "" || strings.Contains(options, "inline")) {
			fields(f.Type, into)
			continue
		}
		if name != "" && name != "-" {
			into[name] = f.Type
		}
	}
}

func checkScalar(path string, v any, t reflect.Type, r *report) {
	switch t.Kind() {
	case reflect.String:
		if _, ok := v.(string); !ok {
			r.wrongType(path, "a string", v)
			r.mend("put it in quotes")
		}
	case reflect.Bool:
		if _, ok := v.(bool); !ok {
			r.wrongType(path, "true or false", v)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, ok := v.(int64)
		if f, isFloat := v.(float64); isFloat && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			n, ok = int64(f), true
		}
		if !ok || reflect.Zero(t).OverflowInt(n) {
			r.wrongType(path, "a whole number", v)
		}
	}
}

func (r *report) wrongType(path, want string, v any) {
	var name string
	switch v := v.(type) {
	case []any:
		name = "a list"
	case map[string]any:
		name = "an object"
	case string:
		name = "a string"
	case bool:
		name = fmt.Sprint(v)
	case int64, float64:
		name = "the number " + fmt.Sprint(v)
		if r.secret {
			name = "a number"
		}
	}
	r.add(object.Error, ReasonWrongType, path, "must be "+want+", not "+name)
}

// unknownField reports a field that its kind does not have.
func (r *report) unknownField(path, name string, known []string) {
	r.add(object.Error, ReasonUnknownField, path, fmt.Sprintf("unknown field %q", bounded(name)))
	r.mend(object.Meant(name, slices.Values(known)))
}
