package schema

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"windrose.dev/windrose/internal/object"
)

// report gathers a Result.
type report struct {
	Result
	// secret says that no value may be repeated in a message.
	secret bool
}

func (r *report) wrong() bool { return r.Wrong() }

func (r *report) add(s object.Severity, reason, path, message string) {
	r.Findings = append(r.Findings, object.Finding{Severity: s, Field: path, Reason: reason, Message: message})
}

// mend says what to do about the last finding.
func (r *report) mend(what string) {
	if what != "" {
		r.Findings[len(r.Findings)-1].Mend = what
	}
}

// errors adds what validation found.
func (r *report) errors(errs field.ErrorList) {
	for _, e := range errs {
		r.err(e)
	}
	// Where only some words may be, these are what helps, not a change of type.
	for i := range r.Findings {
		if f := &r.Findings[i]; f.Reason == ReasonWrongType && slices.ContainsFunc(r.Findings, func(g object.Finding) bool {
			return g.Reason == ReasonNotSupported && g.Field == f.Field
		}) {
			f.Mend = ""
		}
	}
}

func (r *report) err(e *field.Error) {
	path := strings.TrimPrefix(strings.ReplaceAll(e.Field, "<nil>", ""), ".")
	switch e.Type {
	case field.ErrorTypeRequired:
		r.add(object.Error, ReasonRequired, path, or(e.Detail, "is missing"))
		if strings.HasSuffix(path, ".group") {
			r.mend(`write group: "" for a Service, Secret or ConfigMap, else the group before the / of its apiVersion`)
		}
	case field.ErrorTypeNotSupported:
		r.notSupported(path, e)
	case field.ErrorTypeDuplicate:
		r.add(object.Error, ReasonDuplicate, path, r.value(e.BadValue, "is written twice"))
	case field.ErrorTypeForbidden:
		r.add(object.Error, ReasonForbidden, path, or(e.Detail, "must not be set"))
	case field.ErrorTypeTooLong, field.ErrorTypeTooMany:
		r.add(object.Error, ReasonTooLong, path, or(bounded(e.Detail), "is too long"))
	case field.ErrorTypeTypeInvalid:
		r.add(object.Error, ReasonWrongType, path, plain(e.Detail))
		r.mend(ofType(path, e.Detail))
	default:
		r.add(object.Error, ReasonInvalid, path, r.value(e.BadValue, plain(e.Detail)))
	}
}

// ofType says how to write a value of the type that a field has.
func ofType(path, detail string) string {
	_, types, _ := strings.Cut(detail, "of type ")
	want, got, _ := strings.Cut(types, ": ")
	switch got = strings.Trim(got, `"`); {
	case want == "string" && got == "boolean":
		return "put it in quotes: without them YAML takes on, off, yes and no for true and false"
	case want == "string" && (got == "integer" || got == "number"):
		last := strings.ToLower(path[strings.LastIndexByte(path, '.')+1:])
		if strings.Contains(path, "timeouts.") || strings.HasSuffix(last, "timeout") || last == "backoff" || last == "interval" {
			return "write a time with its unit, as 10s or 500ms"
		}
		return "put it in quotes"
	case (want == "integer" || want == "number") && got == "string":
		return "write a number, without quotes"
	case want == "boolean" && got == "string":
		return "write true or false, without quotes"
	case want == "array":
		return "write a list, as [a, b]"
	}
	return ""
}

// notSupported tells which values may be, and which is nearest.
func (r *report) notSupported(path string, e *field.Error) {
	known := supported(e.Detail)
	r.add(object.Error, ReasonNotSupported, path, r.value(e.BadValue, "is not one of "+strings.Join(known, ", ")))
	if s, ok := scalar(e.BadValue); ok {
		if s == "true" && slices.Contains(known, "Enabled") {
			r.mend("write Enabled")
		} else if s == "false" && slices.Contains(known, "Disabled") {
			r.mend("write Disabled")
		} else if near := object.Nearest(s, slices.Values(known)); near != "" && near != s {
			r.mend(`did you mean "` + near + `"?`)
		}
	}
}

// supported reads the values back out of a detail as
// `supported values: "A", "B"`.
func supported(detail string) []string {
	_, list, _ := strings.Cut(detail, ": ")
	var known []string
	for v := range strings.SplitSeq(list, ", ") {
		known = append(known, strings.Trim(v, `"`))
	}
	return known
}

// value puts a scalar value before a text.
func (r *report) value(v any, text string) string {
	if s, ok := scalar(v); ok && !r.secret && s != "" {
		return fmt.Sprintf("%q: %s", bounded(s), text)
	}
	return text
}

func scalar(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool, int, int32, int64, float64, json.Number:
		return fmt.Sprint(v), true
	case fmt.Stringer:
		return v.String(), true
	}
	return "", false
}

// plain takes away what the OpenAPI library says about where a value was
// found: `spec.rules[0].name in body must be of type string: "integer"`.
func plain(detail string) string {
	if _, after, ok := strings.Cut(detail, " in body "); ok {
		detail = after
	}
	return bounded(or(detail, "is not valid"))
}

func or(s, instead string) string {
	if s == "" {
		return instead
	}
	return s
}

// maxText bounds the texts of others in a message.
const maxText = 300

func bounded(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + "..."
}
