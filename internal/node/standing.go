package node

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"windrose.dev/windrose/internal/object"
	"windrose.dev/windrose/internal/source"
	"windrose.dev/windrose/internal/status"
	"windrose.dev/windrose/internal/workload"
)

// standing is what the data plane could not open and which workloads do not run, as
// findings. Their places are read from files, so that they are kept while nothing
// changes.
type standing struct {
	set         *object.Set
	raw, placed []object.Finding
}

// with gives the findings of the pipeline with those of a data plane's problems.
func (s *standing) with(p *pipeline, problems []status.Problem) []object.Finding {
	raw := slices.Concat(status.Findings(p.result.Statuses, problems), failing(p.merger.merged))
	if len(raw) == 0 {
		*s = standing{}
		return p.findings
	}
	if s.set != p.set || !slices.Equal(s.raw, raw) {
		*s = standing{set: p.set, raw: raw, placed: source.Locate(p.set, slices.Clone(raw))}
	}
	all := slices.Concat(p.findings, s.placed)
	object.SortFindings(all)
	return all
}

// failing tells the authors of workloads whose processes do not stay.
func failing(set *object.Set) []object.Finding {
	if set == nil {
		return nil
	}
	var found []object.Finding
	for _, w := range set.Workloads.All() {
		for _, c := range w.Status.Conditions {
			failed := c.Reason == workload.ReasonStartFailed || c.Reason == workload.ReasonBackOff
			if c.Type != workload.ConditionReady || c.Status != metav1.ConditionFalse || !failed {
				continue
			}
			found = append(found, object.Finding{
				Severity: object.Warning, Object: object.KeyOf(w), Reason: c.Reason, Field: "spec.command", Message: c.Message,
				Mend: "windrose's log has what the process said; windrose tries again by itself",
			})
		}
	}
	return found
}
