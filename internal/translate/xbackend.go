package translate

import "windrose.dev/windrose/internal/object"

// showBackends tells the authors of XBackends.
func (t *Translator) showBackends(out *Result) {
	for _, b := range t.set.XBackends.All() {
		out.Findings = append(out.Findings, object.Finding{
			Severity: object.Error, Object: object.KeyOf(b), Reason: reasonNotCarried,
			Message: "windrose does not send to XBackends yet", Mend: "write a Service",
		})
	}
}
